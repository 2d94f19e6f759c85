//! The rules of policies, taken apart into what the kernel can evaluate. What follows from a rule
//! depends on its policy's effect alone, so rules of one effect have no order among each other, and
//! those that differ only in who may call become one.

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Effect, Field, PathTest, PortRange, Text,
};
use beeway_model::{Subnet, Transport};
use rustc_hash::FxHashMap;

use super::automaton::Path;
use super::balance::transport_number;
use super::groups::Candidate;
use super::heap::address_bytes;
use super::identity::{Identities, trim};
use super::pattern::{Pattern, Regex};
use super::rules::{
    ALL_METHODS, Comparison, Deed, Draft, METHODS, PREDICATE_BYTES, Plan, Predicate, Subject,
    Surroundings,
};

/// Combinations of sources and operations of one rule; one with more is left to userspace.
const COMBINATIONS: usize = 4096;

/// No condition on the path, which is never empty.
const ANY: &[PathTest] = &[PathTest::Text(Text::Present)];

/// Stages, in the order in which they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Stage {
    /// Userspace has to ask or to report.
    Report,
    Deny,
    Allow,
    /// What is left.
    Rest,
}

/// What policies are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Requests,
    /// Those that are not HTTP: conditions on requests close.
    Connections,
    /// Those whose requests are judged elsewhere: denied is what no request could change.
    Carriers,
}

/// An alternative of a rule: all of it must hold.
#[derive(PartialEq, Eq, Hash)]
struct Terms {
    stage: Stage,
    path: TermsPath,
    methods: u32,
    /// Numbers of predicates.
    need: Vec<u32>,
    forbid: Vec<u32>,
    detour: bool,
}

/// What leads to the terms; a [`Path`] that can be a key.
#[derive(Clone, PartialEq, Eq, Hash)]
enum TermsPath {
    Any,
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

/// Policies on their way into a [`Plan`].
struct Planner<'p, 'a> {
    plan: Plan,
    around: &'p Surroundings<'a>,
    identities: &'p Identities<'a>,
    /// All of them, a bit for each number.
    everybody: Vec<u32>,
    asked: Asked,
    /// Who may call by which terms, in order of appearance.
    terms: Vec<(Terms, Vec<u32>)>,
}

/// Takes apart the policies of one layer and direction that apply to somebody, in this order.
pub(super) fn plan<'a>(
    policies: &[&'a AccessPolicy],
    asked: Asked,
    around: &Surroundings<'a>,
    identities: &Identities<'a>,
) -> Plan {
    let (plan, terms, everybody) = (Plan::default(), Vec::new(), identities.everybody());
    let mut planner = Planner { plan, around, identities, everybody, asked, terms };
    let mut closed = false;
    for policy in policies {
        let Some(stage) = stage(policy, asked) else { continue };
        closed |= stage == Stage::Allow;
        for rule in &policy.rules {
            planner.add(policy, rule, stage);
        }
    }
    let rest = if closed { Deed::Deny } else { Deed::Pass };
    planner.finish([Deed::Detour, Deed::Deny, Deed::Pass, rest])
}

/// `None`: nothing follows from its rules here. What only reports does so for requests.
fn stage(policy: &AccessPolicy, asked: Asked) -> Option<Stage> {
    match &policy.effect {
        _ if policy.only_reports() => (asked == Asked::Requests).then_some(Stage::Report),
        Effect::Custom(_) => (asked != Asked::Carriers).then_some(Stage::Report),
        Effect::Deny => Some(Stage::Deny),
        Effect::Allow => Some(Stage::Allow),
        Effect::Audit => None,
    }
}

impl<'a> Planner<'_, 'a> {
    fn add(&mut self, policy: &AccessPolicy, rule: &'a AccessRule, stage: Stage) {
        let allows = policy.effect == Effect::Allow;
        let not_http = self.asked == Asked::Connections;
        if allows && not_http && rule.clauses().any(|clause| clause.field.is_http()) {
            return;
        }
        let nothing = [Vec::new()];
        let or_nothing = |lists: &'a Vec<Vec<Clause>>| match lists.is_empty() {
            true => None,
            false => Some(lists.as_slice()),
        };
        let sources = or_nothing(&rule.sources).unwrap_or(&nothing);
        let operations = or_nothing(&rule.operations).unwrap_or(&nothing);
        if sources.len().saturating_mul(operations.len()) > COMBINATIONS {
            let reason = format!("a policy's rule with more than {COMBINATIONS} combinations");
            self.leave_out(policy, reason);
            self.push(self.draw(stage, true), ANY);
            return;
        }
        for source in sources {
            for operation in operations {
                let clauses = source.iter().chain(operation).chain(&rule.conditions);
                self.add_alternative(policy, clauses, stage, allows);
            }
        }
    }

    fn leave_out(&mut self, policy: &AccessPolicy, reason: String) {
        let entry = self.plan.left_out.entry(reason).or_insert((0, policy.name.clone()));
        entry.0 += 1;
    }

    fn add_alternative<'c>(
        &mut self,
        policy: &AccessPolicy,
        clauses: impl Iterator<Item = &'c Clause>,
        stage: Stage,
        allows: bool,
    ) {
        let mut draw = self.draw(stage, false);
        let mut paths: Option<&'c [PathTest]> = None;
        for clause in clauses {
            let held = match &clause.field {
                field if self.asked == Asked::Carriers && depends_on_request(field) => allows,
                // rule 6 of the model
                Field::Token(_) => !allows,
                // rule 5
                field if field.is_http() && self.asked == Asked::Connections => true,
                Field::Path(tests) if !clause.negated && paths.is_none() => {
                    paths = Some(tests);
                    true
                }
                _ => self.require(&mut draw, clause),
            };
            if !held {
                return;
            }
        }
        if draw.detour {
            self.leave_out(policy, "a condition of a policy that the kernel cannot see".to_owned());
        }
        self.push(draw, paths.unwrap_or(ANY));
    }

    /// Adds a clause; false when it never holds.
    fn require(&mut self, draw: &mut Draw, clause: &Clause) -> bool {
        let negated = clause.negated;
        if let Field::Path(_) | Field::Host(_) | Field::Header(..) = clause.field
            && values(&clause.field) == 0
        {
            return negated;
        }
        match &clause.field {
            Field::Caller(wanted) => {
                let bits = self.identities.like(wanted);
                for (word, bits) in draw.callers.iter_mut().zip(bits) {
                    *word &= if negated { !bits } else { bits };
                }
                return draw.callers.iter().any(|word| *word != 0);
            }
            Field::Called(wanted) => {
                let bits = self.identities.like(wanted);
                self.add_predicate(draw, Predicate::Called(trim(bits)), negated);
            }
            Field::CallerAddress(subnets) => {
                self.add_predicate(draw, ranges(Subject::Source, subnets), negated);
            }
            Field::RemoteAddress(subnets) => {
                let subject = match self.asked {
                    Asked::Requests => Subject::Remote,
                    Asked::Connections | Asked::Carriers => Subject::Source,
                };
                self.add_predicate(draw, ranges(subject, subnets), negated);
            }
            Field::CalledAddress(subnets) => {
                self.add_predicate(draw, ranges(Subject::Called, subnets), negated);
            }
            Field::Port(ports) => self.add_predicate(draw, port_ranges(ports), negated),
            // a request that the kernel judges is not inside of TLS
            Field::Sni(_) if self.asked == Asked::Requests => return negated,
            Field::Sni(_) => draw.detour = true,
            Field::Method(texts) => {
                let mask = METHODS.iter().enumerate().filter(|(_, method)| {
                    texts.iter().any(|text| text.holds(method.as_bytes())) != negated
                });
                draw.methods &= mask.fold(0, |mask, (bit, _)| mask | 1 << bit);
                return draw.methods != 0;
            }
            Field::Path(tests) => {
                let comparisons = tests.iter().map(path_comparison).collect();
                self.add_texts(draw, &Predicate::Path, comparisons, negated, || {
                    tests.iter().map(PathTest::regex).collect()
                });
            }
            Field::Host(texts) => {
                // any case: by a regular expression
                let regex = |text: &Text| Comparison::Regex(Regex::new(&text.regex(), true));
                let of = |comparison| Predicate::Header("host".to_owned(), comparison);
                let comparisons = texts.iter().map(regex).collect();
                self.add_texts(draw, &of, comparisons, negated, || {
                    texts.iter().map(|text| format!("(?i:{})", text.regex())).collect()
                });
            }
            Field::Header(name, texts) => {
                let name = if name == ":authority" { "host" } else { name };
                let of = |comparison| Predicate::Header(name.to_owned(), comparison);
                let comparisons = texts.iter().map(text_comparison).collect();
                draw.detour |= name.len() > PREDICATE_BYTES;
                self.add_texts(draw, &of, comparisons, negated, || {
                    texts.iter().map(Text::regex).collect()
                });
            }
            Field::Token(_) => return false,
        }
        true
    }

    /// One of several comparisons must hold, or none of them.
    fn add_texts(
        &mut self,
        draw: &mut Draw,
        of: &dyn Fn(Comparison) -> Predicate,
        mut comparisons: Vec<Comparison>,
        negated: bool,
        regexes: impl Fn() -> Vec<String>,
    ) {
        if comparisons.len() > 1 && !negated {
            let one = Regex::new(&regexes().join("|"), false);
            comparisons = vec![Comparison::Regex(one)];
        }
        for comparison in comparisons {
            let fits = match &comparison {
                Comparison::Exact(text) | Comparison::Prefix(text) | Comparison::Suffix(text) => {
                    text.len() <= PREDICATE_BYTES
                }
                Comparison::Regex(regex) => Pattern::of(regex).is_ok(),
                Comparison::Present | Comparison::NotEmpty => true,
            };
            match fits {
                true => self.add_predicate(draw, of(comparison), negated),
                false => draw.detour = true,
            }
        }
    }

    fn add_predicate(&mut self, draw: &mut Draw, predicate: Predicate, negated: bool) {
        self.plan.require(predicate, negated, &mut draw.candidate);
    }

    /// Keeps an alternative, with those that differ in the callers alone.
    fn push(&mut self, draw: Draw, paths: &[PathTest]) {
        let Draw { stage, methods, detour, callers, mut candidate } = draw;
        if !candidate.sort() {
            return;
        }
        for test in paths {
            let Candidate { mut need, forbid, .. } = candidate.clone();
            let (path, unfit) = self.path(test);
            if let (PathTest::Text(Text::Suffix(suffix)), false) = (test, unfit) {
                let mut more = Candidate::default();
                let predicate = Predicate::Path(Comparison::Suffix(suffix.clone()));
                self.plan.require(predicate, false, &mut more);
                need.extend(more.need);
                need.sort_unstable();
                need.dedup();
            }
            let detour = detour || unfit;
            let terms = Terms { stage, path, methods, need, forbid, detour };
            self.terms.push((terms, callers.clone()));
        }
    }

    /// An alternative without clauses yet.
    fn draw(&self, stage: Stage, detour: bool) -> Draw {
        let (callers, candidate) = (self.everybody.clone(), Candidate::default());
        Draw { stage, methods: ALL_METHODS, detour, callers, candidate }
    }

    /// Where the automaton looks for a path, and whether userspace has to look again.
    fn path(&self, test: &PathTest) -> (TermsPath, bool) {
        match test {
            PathTest::Text(Text::Exact(path)) => (TermsPath::Exact(path.clone()), false),
            PathTest::Text(Text::Prefix(path)) => (TermsPath::Prefix(path.clone()), false),
            PathTest::Text(Text::Present) => (TermsPath::Any, false),
            PathTest::Text(Text::Suffix(suffix)) => {
                (TermsPath::Any, suffix.len() > PREDICATE_BYTES)
            }
            PathTest::Template(_) => {
                let regex = Regex::new(&test.regex(), false);
                let fits = Pattern::of(&regex).is_ok() && !self.around.refused.contains(&regex);
                if fits { (TermsPath::Regex(regex), false) } else { (TermsPath::Any, true) }
            }
        }
    }

    /// The plan, with what is left behind all rules.
    fn finish(mut self, deeds: [Deed; 4]) -> Plan {
        let mut merged: FxHashMap<Terms, usize> = FxHashMap::default();
        let mut order: Vec<Vec<u32>> = Vec::new();
        for (terms, callers) in std::mem::take(&mut self.terms) {
            let index = *merged.entry(terms).or_insert_with(|| {
                order.push(vec![0; callers.len()]);
                order.len() - 1
            });
            order[index].iter_mut().zip(callers).for_each(|(all, more)| *all |= more);
        }
        let mut all: Vec<(Terms, usize)> = merged.into_iter().collect();
        all.sort_by_key(|(terms, index)| (terms.stage, *index));
        let mut stages: [Vec<Draft>; 4] = Default::default();
        for (terms, index) in all {
            let Terms { stage, path, methods, need, forbid, detour } = terms;
            let rule = stage as u32;
            let detour = detour || stage == Stage::Report;
            let mut candidate = Candidate { need, forbid, methods, rule, detour };
            if order[index] != self.everybody {
                let callers = Predicate::Source(trim(order[index].clone()));
                self.plan.require(callers, false, &mut candidate);
                candidate.sort();
            }
            let path = match path {
                TermsPath::Any => Path::Any,
                TermsPath::Exact(path) => Path::Exact(path),
                TermsPath::Prefix(path) => Path::Prefix(path),
                TermsPath::Regex(regex) => Path::Regex(regex),
            };
            stages[stage as usize].push(Draft { candidate, hosts: Vec::new(), path, fold: false });
        }
        let rule = Stage::Rest as u32;
        let rest = Candidate { methods: ALL_METHODS, rule, ..Candidate::default() };
        let rest = Draft { candidate: rest, hosts: Vec::new(), path: Path::Any, fold: false };
        stages[Stage::Rest as usize].push(rest);
        stages.into_iter().for_each(|drafts| self.plan.number(drafts));
        self.plan.deeds = deeds.into();
        self.plan
    }
}

/// An alternative while its clauses are read.
struct Draw {
    stage: Stage,
    methods: u32,
    detour: bool,
    /// A bit for each number.
    callers: Vec<u32>,
    /// Has the predicates.
    candidate: Candidate,
}

/// Whether a field's value may be another one with each request, or is not known when a connection is
/// made.
fn depends_on_request(field: &Field) -> bool {
    field.is_http() || matches!(field, Field::Sni(_) | Field::RemoteAddress(_))
}

/// How many values a field on text has.
fn values(field: &Field) -> usize {
    match field {
        Field::Path(tests) => tests.len(),
        Field::Host(texts) | Field::Header(_, texts) => texts.len(),
        _ => 0,
    }
}

fn text_comparison(text: &Text) -> Comparison {
    match text {
        Text::Exact(text) => Comparison::Exact(text.clone()),
        Text::Prefix(text) if text.is_empty() => Comparison::Present,
        Text::Prefix(text) => Comparison::Prefix(text.clone()),
        Text::Suffix(text) => Comparison::Suffix(text.clone()),
        Text::Present => Comparison::NotEmpty,
    }
}

fn path_comparison(test: &PathTest) -> Comparison {
    match test {
        PathTest::Text(text) => text_comparison(text),
        PathTest::Template(_) => Comparison::Regex(Regex::new(&test.regex(), false)),
    }
}

/// A port as the kernel looks for it.
fn port_number(transport: Transport, port: u16) -> u128 {
    u128::from(transport_number(transport)) << 16 | u128::from(port)
}

fn port_ranges(ports: &[PortRange]) -> Predicate {
    let both = [Transport::Tcp, Transport::Udp];
    let of = |range: &PortRange| {
        let PortRange { transport, first, last } = *range;
        both.into_iter()
            .filter(move |t| transport.is_none_or(|wanted| wanted == *t))
            .filter(move |_| first <= last)
            .map(move |t| (port_number(t, first), port_number(t, last)))
    };
    Predicate::Ranges(Subject::Port, apart(ports.iter().flat_map(of).collect()))
}

/// IPv4-mapped addresses are in no network of IPv6.
fn ranges(subject: Subject, subnets: &[Subnet]) -> Predicate {
    const MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);
    let mut list = Vec::new();
    for subnet in subnets {
        let address = subnet.address.to_canonical();
        let number = u128::from_be_bytes(address_bytes(address));
        let bits = match address.is_ipv4() {
            true => 96 + u32::from(subnet.bits.min(32)),
            false => u32::from(subnet.bits.min(128)),
        };
        let hosts = u128::MAX.checked_shr(bits).unwrap_or(0);
        let (from, to) = (number & !hosts, number | hosts);
        if address.is_ipv4() {
            list.push((from, to));
        } else {
            list.push((from, to.min(MAPPED.0 - 1)));
            list.push((from.max(MAPPED.1 + 1), to));
        }
    }
    list.retain(|(from, to)| from <= to);
    Predicate::Ranges(subject, apart(list))
}

/// The same ranges, ascending, without those that touch.
fn apart(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut apart: Vec<(u128, u128)> = Vec::new();
    for (from, to) in ranges {
        match apart.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => apart.push((from, to)),
        }
    }
    apart
}
