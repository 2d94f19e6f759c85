//! The table of one service port: from rules to `struct table`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use beeway_model::Mesh;

use super::Notice;
use super::answers;
use super::automaton::{Automaton, Hosts, Path, Paths, classes_of};
use super::balance::{Clusters, PortId, is_judged};
use super::groups::{Candidate, Groups};
use super::heap::Heap;
use super::identity::Identities;
use super::pattern::{Pattern, Regex};
use super::predicates::Predicates;
use super::records::{Record, words_of};
use super::rows;
use super::rules::{Deed, Plan, Surroundings};
use super::sets::Sets;
use super::state::TooLarge;
use crate::abi;

/// A path pattern with fewer literal bytes in front is alive beside too many paths.
const TELLING_PREFIX: usize = 2;

/// A table that is not in the heap yet.
pub(super) struct Draft {
    /// Whose rules these are, for people.
    pub owner: String,
    /// Where it is to be, see [`reserve`].
    pub place: u32,
    /// `None`: past a limit, everything is a detour.
    pub body: Option<Body>,
}

/// What a table is made of.
pub(super) struct Body {
    plan: Plan,
    groups: Groups,
    automaton: Automaton,
    classes: [u8; 256],
    columns: u32,
}

impl Body {
    /// Words of the automaton's states, which are most of a table.
    fn state_words(&self) -> usize {
        rows::words(&self.automaton.states, self.columns)
    }
}

/// Works out the tables of all service ports with rules, and makes room for them.
pub(super) fn drafts(
    heap: &mut Heap,
    mesh: &Mesh,
    identities: &Identities<'_>,
    notices: &mut Vec<Notice>,
) -> BTreeMap<PortId, Draft> {
    let mut around = Surroundings::new(identities);
    let mut drafts = BTreeMap::new();
    for (service, port) in mesh.services.iter().enumerate().flat_map(|(service, value)| {
        value.ports.iter().enumerate().map(move |(port, _)| (service, port))
    }) {
        let id = PortId { service, port };
        let owner = &mesh.services[service];
        let port = &owner.ports[port];
        let Some(rules) = port.rules.as_ref().filter(|_| is_judged(port)) else { continue };
        let mut reasons = Vec::new();
        let body = body(&mut around, &mut reasons, |around| Plan::new(rules, around));
        let consequence = "is decided by the userspace proxy";
        notices.extend(
            reasons
                .into_iter()
                .map(|reason| Notice::new(mesh, id, format!("{reason}: {consequence}"))),
        );
        let owner = format!("{}/{}:{}", owner.namespace, owner.name, port.number);
        drafts.insert(id, Draft { owner, place: reserve(heap), body });
    }
    drafts
}

/// Finds the automaton for what is planned, leaving patterns to userspace if they are too large.
pub(super) fn body<'a>(
    around: &mut Surroundings<'a>,
    reasons: &mut Vec<String>,
    mut plan: impl FnMut(&mut Surroundings<'a>) -> Plan,
) -> Option<Body> {
    around.refused.clear();
    loop {
        let mut plan = plan(around);
        let mut groups = Groups::new(std::mem::take(&mut plan.candidates));
        match Automaton::build(&plan.alternatives, &mut groups) {
            Ok(automaton) => {
                reasons.extend(plan.left_out.iter().map(|(what, (count, first))| {
                    format!("{what} ({count} rules, the first is `{first}`): what these may match")
                }));
                let (classes, columns) = classes_of(&automaton.states);
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

/// Leaves patterns to userspace: first those that may begin anywhere, then all. False: there are
/// none left.
fn refuse_patterns(plan: &Plan, around: &mut Surroundings<'_>) -> bool {
    let patterns = || {
        plan.alternatives.iter().filter_map(|alternative| match &alternative.path {
            Path::Regex(regex) => Some(regex),
            _ => None,
        })
    };
    let anywhere = |regex: &&Regex| {
        Pattern::of(regex).is_ok_and(|pattern| pattern.prefix.len() < TELLING_PREFIX)
    };
    let before = around.refused.len();
    around.refused.extend(patterns().filter(anywhere).cloned());
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
    let (rules, predicates) = (abi::limits::GROUP_CANDIDATES.0, abi::limits::GROUP_PREDICATES.0);
    (cut > 0).then(|| {
        format!(
            "{cut} combinations of host and path lead to more than {rules} rules or {predicates} \
             conditions on headers, query and callers each: what the first {} rules or so do not \
             match",
            rules - 1
        )
    })
}

/// Makes room for a table, which is a detour until it is filled in.
pub(super) fn reserve(heap: &mut Heap) -> u32 {
    let flags = abi::table_flags::TABLE_DETOUR.0;
    heap.push(&abi::table { flags, ..Default::default() }.words())
}

/// Fills in the tables up to `limit` words of the heap, smallest first, so that a large one costs no
/// other its place.
pub(super) fn place_all(
    heap: &mut Heap,
    clusters: &mut Clusters<'_>,
    drafts: Vec<Draft>,
    limit: usize,
    notices: &mut Vec<Notice>,
) {
    let mut bodies: Vec<(String, u32, Body)> = drafts
        .into_iter()
        .filter_map(|draft| Some((draft.owner, draft.place, draft.body?)))
        .collect();
    bodies.sort_by_key(|(_, _, body)| Reverse(body.state_words()));
    while let Some((service, place, body)) = bodies.pop() {
        let mark = heap.mark();
        let needed = heap.used() + body.state_words();
        let table = (needed <= limit).then(|| push(heap, clusters, &body));
        if heap.used() <= limit
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
            limit.saturating_sub(heap.used())
        );
        notices.push(Notice { service, reason });
    }
}

fn push(heap: &mut Heap, clusters: &mut Clusters<'_>, body: &Body) -> abi::table {
    let Body { plan, groups, automaton, classes, columns } = body;
    let deeds: Vec<u32> = plan.deeds.iter().map(|deed| push_deed(heap, clusters, deed)).collect();
    let detour = push_deed(heap, clusters, &Deed::Detour);
    let action = |candidate: &Candidate| {
        if candidate.detour { detour } else { deeds[candidate.rule as usize] }
    };
    let mut predicates = Predicates::new(&plan.predicates);
    let mut places = vec![None; groups.len()];
    for state in &automaton.states {
        places[state.accept as usize].get_or_insert_with(|| match state.accept {
            0 => 0,
            set => push_group(heap, &groups.get(set), &mut predicates, action),
        });
    }
    let accept = |set: u32| places[set as usize].unwrap_or_default();
    let names = rows::push(heap, &automaton.states, accept, classes, *columns);
    let no_route = answers::answer(404, "").expect("a short answer fits");
    abi::table {
        flags: 0,
        classes: heap.intern(words_of(classes)),
        any: push_paths(heap, automaton.any, &names),
        hosts: automaton.hosts.as_ref().map_or(0, |hosts| push_hosts(heap, hosts, &names)),
        no_route: heap.intern(no_route),
    }
}

/// Writes the candidates of a plan that has no conditions on host and path, as one group.
pub(super) fn push_whole(
    heap: &mut Heap,
    clusters: &mut Clusters<'_>,
    mut plan: Plan,
    reasons: &mut Vec<String>,
) -> u32 {
    let mut groups = Groups::new(std::mem::take(&mut plan.candidates));
    let members: Vec<u32> = plan.alternatives.iter().map(|a| a.candidate).collect();
    let set = groups.union(&[], &members);
    if groups.is_cut(set) {
        reasons.push("more conditions than the kernel looks at: connections".to_owned());
    }
    let deeds: Vec<u32> = plan.deeds.iter().map(|deed| push_deed(heap, clusters, deed)).collect();
    let detour = push_deed(heap, clusters, &Deed::Detour);
    let action = |candidate: &Candidate| {
        if candidate.detour { detour } else { deeds[candidate.rule as usize] }
    };
    push_group(heap, &groups.get(set), &mut Predicates::new(&plan.predicates), action)
}

fn push_paths(heap: &mut Heap, paths: Paths, names: &[u32]) -> u32 {
    let name = |state: u32| names[state as usize];
    heap.intern(abi::paths { exact: name(paths.exact), folded: name(paths.folded) }.words())
}

fn push_hosts(heap: &mut Heap, hosts: &Hosts, names: &[u32]) -> u32 {
    let paths: Vec<u32> = hosts.paths.iter().map(|p| push_paths(heap, *p, names)).collect();
    let accept = |set: u32| if set == 0 { 0 } else { paths[set as usize] };
    let (classes, columns) = classes_of(&hosts.states);
    let names = rows::push(heap, &hosts.states, accept, &classes, columns);
    let classes = heap.intern(words_of(&classes));
    heap.intern(abi::machine { classes, start: names[hosts.start as usize] }.words())
}

fn push_group(
    heap: &mut Heap,
    candidates: &[Candidate],
    predicates: &mut Predicates<'_>,
    action: impl Fn(&Candidate) -> u32,
) -> u32 {
    let mut numbers: Vec<u32> = candidates.iter().flat_map(Candidate::predicates).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let bits = |wanted: &[u32]| {
        let bit = |number: &u32| numbers.binary_search(number).expect("one of the group's");
        wanted.iter().fold(0, |bits, number| bits | 1u64 << bit(number))
    };
    let list: Vec<u32> = numbers.iter().map(|number| predicates.push(heap, *number)).collect();
    let predicates = if list.is_empty() { 0 } else { heap.intern(list) };
    let mut words = abi::group { count: candidates.len() as u32, predicates }.words();
    for candidate in candidates {
        let record = abi::candidate {
            need: bits(&candidate.need),
            forbid: bits(&candidate.forbid),
            methods: candidate.methods,
            rule: candidate.rule,
            action: action(candidate),
            order: candidate.rule * 2 + u32::from(candidate.detour),
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
        Deed::Deny => {
            let answer = heap.word(abi::prepared::ANSWER_DENIED.0);
            abi::action { kind: abi::action_kind::ACTION_ANSWER.0, answer, ..Default::default() }
        }
        Deed::Pass => abi::action { kind: abi::action_kind::ACTION_PASS.0, ..Default::default() },
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use beeway_model::{
        Action, Cluster, ClusterId, Match, Mesh, Protocol, QueryMatch, Rule, Service, ServicePort,
        StringMatch, Transport,
    };

    fn tables(matches: Vec<Match>) -> crate::tables::Tables {
        let rule = Rule {
            name: "first".to_owned(),
            matches,
            action: Action::Respond { status: 403, body: String::new() },
            policy: None,
            detour: None,
        };
        let port = ServicePort {
            stream_rules: Vec::new(),
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
        let clusters = vec![Cluster {
            idle: Default::default(),
            protocol: Protocol::Http,
            name: String::new(),
            endpoints: Arc::default(),
        }];
        let mesh = Mesh { services: vec![service], clusters, ..Mesh::default() };
        crate::tables::compile(&mesh, 1).unwrap()
    }

    #[test]
    fn alternatives_that_are_sure_come_before_those_that_are_not() {
        let value = StringMatch::Exact("v".repeat(257));
        let asked =
            Match { query: vec![QueryMatch { name: "q".to_owned(), value }], ..Match::default() };
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
        assert!(notice.reason.contains("256 bytes (1 rules, the first is `first`)"), "{notice:?}");
    }
}
