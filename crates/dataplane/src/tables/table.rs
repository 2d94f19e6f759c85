//! The table of one service port: from rules to `struct table`.

use std::cmp::Reverse;
use std::collections::HashMap;

use beeway_model::{Mesh, Rule};

use super::Notice;
use super::answers;
use super::automaton::{Automaton, Path};
use super::balance::{Clusters, PortId, is_judged};
use super::groups::Groups;
use super::heap::{HEAP_WORDS, Heap, hash_name};
use super::pattern;
use super::product::TooLarge;
use super::records::{Record, words_of};
use super::rules::{Deed, Plan, Predicate, Surroundings};
use crate::abi;

const PREDICATES: usize = abi::limits::TABLE_PREDICATES.0 as usize;

/// A table that has no place in the heap yet.
pub(super) struct Draft {
    /// Whose rules these are.
    pub id: PortId,
    service: String,
    /// `None`: past a limit, everything is a detour.
    body: Option<Body>,
}

struct Body {
    plan: Plan,
    groups: Groups,
    automaton: Automaton,
    classes: [u8; 256],
    columns: u32,
}

impl Body {
    /// Words of the automaton's rows, which are nearly all of a table.
    fn row_words(&self) -> usize {
        (self.automaton.states.len() - 1) * (self.columns as usize + 1)
    }
}

/// Works out the tables of all service ports with rules.
pub(super) fn drafts(mesh: &Mesh, notices: &mut Vec<Notice>) -> Vec<Draft> {
    let mut around = Surroundings::new(mesh);
    let mut drafts = Vec::new();
    for (service, port) in mesh.services.iter().enumerate().flat_map(|(service, value)| {
        value.ports.iter().enumerate().map(move |(port, _)| (service, port))
    }) {
        let id = PortId { service, port };
        let owner = &mesh.services[service];
        let port = &owner.ports[port];
        let Some(rules) = port.rules.as_ref().filter(|_| is_judged(port)) else { continue };
        let mut reasons = Vec::new();
        let body = body(rules, &mut around, &mut reasons);
        let consequence = "is decided by the userspace proxy";
        notices.extend(
            reasons
                .into_iter()
                .map(|reason| Notice::new(mesh, id, format!("{reason}: {consequence}"))),
        );
        let service = format!("{}/{}:{}", owner.namespace, owner.name, port.number);
        drafts.push(Draft { id, service, body });
    }
    drafts
}

/// Finds the automaton for a list of rules, leaving patterns to userspace if they are too large.
fn body<'a>(
    rules: &'a [Rule],
    around: &mut Surroundings<'a>,
    reasons: &mut Vec<String>,
) -> Option<Body> {
    around.refused.clear();
    loop {
        let mut plan = Plan::new(rules, around);
        if plan.predicates.len() > PREDICATES {
            reasons.push(format!(
                "{} different conditions on headers and callers, {PREDICATES} at most: \
                 every request",
                plan.predicates.len()
            ));
            return None;
        }
        let mut groups = Groups::new(std::mem::take(&mut plan.candidates));
        match Automaton::build(&plan.alternatives, &mut groups) {
            Ok(automaton) => {
                reasons.extend(plan.left_out.iter().map(|(what, (count, first))| {
                    format!("{what} ({count} rules, the first is `{first}`): what these may match")
                }));
                let (classes, columns) = automaton.classes();
                let body = Body { plan, groups, automaton, classes, columns };
                reasons.extend(cut_groups(&body));
                return Some(body);
            }
            Err(TooLarge) => {
                if !refuse_patterns(&plan, around) {
                    reasons.push(
                        "hosts and paths need more states than the tables have: every request"
                            .to_owned(),
                    );
                    return None;
                }
            }
        }
    }
}

/// Leaves those patterns out which are too large alone, otherwise all; false: there are none.
fn refuse_patterns(plan: &Plan, around: &mut Surroundings<'_>) -> bool {
    let patterns = || {
        plan.alternatives.iter().filter_map(|alternative| match &alternative.path {
            Path::Regex(pattern) => Some(pattern),
            _ => None,
        })
    };
    let before = around.refused.len();
    around.refused.extend(patterns().filter(|pattern| !pattern::fits(pattern)).cloned());
    if around.refused.len() == before {
        around.refused.extend(patterns().cloned());
    }
    around.refused.len() > before
}

fn cut_groups(body: &Body) -> Option<String> {
    let mut sets: Vec<u32> = body.automaton.states.iter().map(|state| state.accept).collect();
    sets.sort_unstable();
    sets.dedup();
    let cut = sets.iter().filter(|set| body.groups.is_cut(**set)).count();
    let limit = abi::limits::GROUP_CANDIDATES.0;
    (cut > 0).then(|| {
        format!(
            "{cut} combinations of host and path lead to more than {limit} conditions each: \
             what the first {} do not match",
            limit - 1
        )
    })
}

/// Makes room for a table, which is a detour until it is filled in.
pub(super) fn reserve(heap: &mut Heap) -> u32 {
    let flags = abi::table_flags::TABLE_DETOUR.0;
    heap.push(&abi::table { flags, ..Default::default() }.words())
}

/// Fills in the tables, smallest first, so that a large one costs no other its place.
pub(super) fn place_all(
    heap: &mut Heap,
    clusters: &mut Clusters<'_>,
    drafts: Vec<Draft>,
    places: &HashMap<PortId, u32>,
    notices: &mut Vec<Notice>,
) {
    let mut bodies: Vec<(String, u32, Body)> = drafts
        .into_iter()
        .filter_map(|draft| Some((draft.service, places[&draft.id], draft.body?)))
        .collect();
    bodies.sort_by_key(|(_, _, body)| Reverse(body.row_words()));
    while let Some((service, place, body)) = bodies.pop() {
        let mark = heap.mark();
        let needed = heap.used() + body.row_words();
        let table = (needed <= HEAP_WORDS).then(|| push(heap, clusters, &body));
        if heap.used() <= HEAP_WORDS
            && let Some(table) = table
        {
            heap.set(place, &table.words());
            continue;
        }
        let needed = heap.used().max(needed);
        heap.roll_back(&mark);
        clusters.forget(heap.used());
        let reason = format!(
            "the rules need {} words of the tables, {} are left: every request is decided by the \
             userspace proxy",
            needed - heap.used(),
            HEAP_WORDS - heap.used()
        );
        notices.push(Notice { service, reason });
    }
}

fn push(heap: &mut Heap, clusters: &mut Clusters<'_>, body: &Body) -> abi::table {
    let Body { plan, groups, automaton, classes, columns } = body;
    let deeds: Vec<u32> = plan.deeds.iter().map(|deed| push_deed(heap, clusters, deed)).collect();
    let detour = push_deed(heap, clusters, &Deed::Detour);
    let mut places = vec![None; groups.len()];
    let mut groups_of_states = Vec::with_capacity(automaton.states.len());
    for state in &automaton.states {
        let place = places[state.accept as usize].get_or_insert_with(|| match state.accept {
            0 => 0,
            set => push_group(heap, groups, set, &deeds, detour),
        });
        groups_of_states.push(*place);
    }
    let predicates: Vec<u32> = plan
        .predicates
        .iter()
        .flat_map(|predicate| predicate_record(heap, predicate).words())
        .collect();
    let no_route = answers::answer(404, "").expect("a short answer fits");
    abi::table {
        // a dead start must not be stepped from
        flags: if automaton.hosts && automaton.start != 0 {
            abi::table_flags::TABLE_HOSTS.0
        } else {
            0
        },
        classes: heap.intern(words_of(classes)),
        predicates: if predicates.is_empty() { 0 } else { heap.intern(predicates) },
        predicate_count: plan.predicates.len() as u32,
        no_route: heap.intern(no_route),
        start: push_rows(heap, automaton, &groups_of_states, classes, *columns),
    }
}

/// Writes a row for each state; returns the index of the first state's.
fn push_rows(
    heap: &mut Heap,
    automaton: &Automaton,
    groups: &[u32],
    classes: &[u8; 256],
    columns: u32,
) -> u32 {
    let width = columns + 1;
    let base = heap.used() as u32;
    // the dead state has no row
    let index = |state: u32| if state == 0 { 0 } else { base + (state - 1) * width };
    let mut rows = vec![0; (automaton.states.len() - 1) * width as usize];
    let states = automaton.states.iter().zip(groups).skip(1);
    for ((state, group), row) in states.zip(rows.chunks_exact_mut(width as usize)) {
        row.fill(index(state.default));
        row[0] = *group;
        for (byte, target) in &state.edges {
            row[usize::from(classes[usize::from(*byte)])] = index(*target);
        }
    }
    heap.push(&rows);
    index(automaton.start)
}

fn push_group(heap: &mut Heap, groups: &Groups, set: u32, deeds: &[u32], detour: u32) -> u32 {
    let candidates = groups.get(set);
    let mut words = abi::group { count: candidates.len() as u32, pad: 0 }.words();
    for candidate in candidates {
        let record = abi::candidate {
            need: candidate.need,
            forbid: candidate.forbid,
            methods: candidate.methods,
            rule: candidate.rule,
            action: if candidate.detour { detour } else { deeds[candidate.rule as usize] },
            pad: 0,
        };
        words.extend(record.words());
    }
    heap.intern(words)
}

fn push_deed(heap: &mut Heap, clusters: &mut Clusters<'_>, deed: &Deed) -> u32 {
    let record = match deed {
        Deed::Detour => {
            abi::action { kind: abi::action_kind::ACTION_DETOUR.0, ..Default::default() }
        }
        Deed::Answer(words) => {
            let answer = heap.intern(words.clone());
            abi::action { kind: abi::action_kind::ACTION_ANSWER.0, answer, ..Default::default() }
        }
        Deed::Forward { shares, total } => {
            let mut words = Vec::new();
            for (cluster, up_to) in shares {
                let cluster = cluster.map_or(0, |cluster| clusters.whole(heap, cluster));
                words.extend(abi::share { cluster, up_to: *up_to }.words());
            }
            abi::action {
                kind: abi::action_kind::ACTION_FORWARD.0,
                shares: if words.is_empty() { 0 } else { heap.intern(words) },
                count: shares.len() as u32,
                total: *total,
                answer: 0,
            }
        }
    };
    heap.intern(record.words())
}

fn predicate_record(heap: &mut Heap, predicate: &Predicate) -> abi::predicate {
    use abi::predicate_kind as Kind;
    let mut header = |kind: Kind, name: &str, value: &str| abi::predicate {
        kind: kind.0,
        name_hash: hash_name(name.as_bytes()),
        name: heap.intern(words_of(name.as_bytes())),
        name_length: name.len() as u32,
        value: heap.intern(words_of(value.as_bytes())),
        value_length: value.len() as u32,
    };
    match predicate {
        Predicate::Present(name) => header(Kind::PREDICATE_PRESENT, name, ""),
        Predicate::Exact(name, value) => header(Kind::PREDICATE_EXACT, name, value),
        Predicate::Prefix(name, value) => header(Kind::PREDICATE_PREFIX, name, value),
        Predicate::Source(bits) => abi::predicate {
            kind: Kind::PREDICATE_SOURCE.0,
            value: heap.intern(bits.clone()),
            value_length: bits.len() as u32,
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use beeway_model::{
        Action, Cluster, ClusterId, Match, Mesh, Protocol, QueryMatch, Rule, Service, ServicePort,
        StringMatch, Transport,
    };

    use super::*;

    fn tables(matches: Vec<Match>) -> crate::tables::Tables {
        let rule = Rule {
            name: "first".to_owned(),
            matches,
            action: Action::Respond { status: 403, body: String::new() },
            detour: None,
        };
        let port = ServicePort {
            name: String::new(),
            number: 80,
            transport: Transport::Tcp,
            protocol: Protocol::Http,
            cluster: ClusterId(0),
            rules: Some(vec![rule]),
        };
        let service = Service {
            namespace: String::new(),
            name: String::new(),
            hosts: Vec::new(),
            addresses: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![port],
        };
        let clusters = vec![Cluster { name: String::new(), endpoints: Vec::new() }];
        let mesh = Mesh { services: vec![service], clusters, workloads: Vec::new() };
        crate::tables::compile(&mesh, 1).unwrap()
    }

    /// The only table stands in front of what it names.
    fn only(tables: &crate::tables::Tables) -> (u32, u32) {
        let frontend = (0..=tables.frontends.mask)
            .map(|slot| tables.frontends.first + slot * abi::frontend::WORDS)
            .find(|slot| tables.word(slot + 4) != 0)
            .unwrap();
        let table = tables.word(frontend + 6);
        (tables.word(table), tables.word(table + 2))
    }

    #[test]
    fn a_dead_start_is_not_stepped_from() {
        let never = Match { hosts: vec!["a\nb".to_owned()], ..Match::default() };
        assert_eq!(only(&tables(vec![never])), (0, 0));
        let host = Match { hosts: vec!["a".to_owned()], ..Match::default() };
        let (flags, start) = only(&tables(vec![host]));
        assert_eq!(flags, abi::table_flags::TABLE_HOSTS.0);
        assert_ne!(start, 0);
    }

    #[test]
    fn alternatives_that_are_sure_come_before_those_that_are_not() {
        let asked = Match {
            query: vec![QueryMatch { name: "q".to_owned(), value: StringMatch::Present }],
            ..Match::default()
        };
        let tables = tables(vec![asked, Match::default()]);
        let service = "10.96.0.1:80".parse().unwrap();
        let endpoint = "10.0.0.1:80".parse().unwrap();
        let verdict = crate::tables::interpret::decide(
            &tables,
            service,
            endpoint,
            "10.0.0.2".parse().unwrap(),
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        );
        assert_eq!(verdict.status, Some(403));
        let [notice] = tables.notices() else { panic!("{:?}", tables.notices()) };
        assert!(notice.reason.contains("query parameters (1 rules, the first is `first`)"));
    }
}
