//! The rules of a service port, taken apart into what the kernel can evaluate: candidates,
//! predicates, actions, and conditions on host and path.

use std::collections::BTreeMap;

use beeway_model::{
    Action, HeaderMatch, Match, PathMatch, QueryMatch, Rule, SourceMatch, StringMatch,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::answers::{self, Unfit};
use super::automaton::{Alternative, Path};
use super::groups::Candidate;
use super::identity::{Identities, trim};
use super::pattern::{Pattern, Regex, Unfit as Misfit};
use crate::abi;

pub(super) const PREDICATE_BYTES: usize = abi::limits::PREDICATE_BYTES.0 as usize;
pub(super) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
pub(super) const ALL_METHODS: u32 = (1 << METHODS.len()) - 1;
const _: () = assert!(METHODS.len() == abi::method::METHODS.0 as usize);

/// A condition beside host, path and method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Predicate {
    /// On the header field of this name, in lower case.
    Header(String, Comparison),
    /// On the first query parameter of this name, neither of them decoded.
    Query(String, Comparison),
    /// The caller's number is in a set, a bit each.
    Source(Vec<u32>),
    /// So is that of who is called.
    Called(Vec<u32>),
    /// A number of 128 bits is in one of these ranges, which are ascending and apart.
    Ranges(Subject, Vec<(u128, u128)>),
    /// On the path.
    Path(Comparison),
}

/// What has a number of 128 bits: addresses, and the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The caller's address.
    Source,
    /// The same, unless `x-forwarded-for` names another.
    Remote,
    /// The endpoint's address.
    Called,
    /// The endpoint's port, see [`port_number`](super::access_rules).
    Port,
}

/// How a value is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Comparison {
    /// It is there.
    Present,
    /// The whole of it.
    Exact(String),
    /// Its first bytes.
    Prefix(String),
    /// Its last bytes.
    Suffix(String),
    /// It is there, and not empty.
    NotEmpty,
    /// A regular expression that fits.
    Regex(Regex),
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Deed {
    /// Shares: heap indices of clusters are not known yet, so these are numbers of the mesh.
    Forward {
        /// Cluster and running total of the weights.
        shares: Vec<(Option<usize>, u32)>,
        /// Sum of the weights.
        total: u32,
    },
    /// `struct answer` and its bytes.
    Answer(Vec<u32>),
    /// Userspace does it.
    Detour,
    /// Nothing: policies let it pass.
    Pass,
    /// Policies deny it.
    Deny,
}

/// Rules in the terms of the kernel.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Conditions on host and path, and the candidates behind them.
    pub alternatives: Vec<Alternative>,
    /// In order of rules.
    pub candidates: Vec<Candidate>,
    /// Predicates; a candidate names them by index.
    pub predicates: Vec<Predicate>,
    /// By index of the rule.
    pub deeds: Vec<Deed>,
    /// What the kernel cannot do: reason, how many rules, the first of them.
    pub left_out: BTreeMap<String, (usize, String)>,
    known: FxHashMap<Predicate, usize>,
}

/// Everything that rules are planned with.
pub(super) struct Surroundings<'a> {
    identities: &'a Identities<'a>,
    sources: FxHashMap<&'a [SourceMatch], Vec<u32>>,
    /// Path patterns that are left to userspace.
    pub refused: FxHashSet<Regex>,
}

impl<'a> Surroundings<'a> {
    /// No pattern is refused.
    pub fn new(identities: &'a Identities<'a>) -> Surroundings<'a> {
        Surroundings { identities, sources: FxHashMap::default(), refused: FxHashSet::default() }
    }

    /// The callers that satisfy one of `matches`, a bit for each number; empty for none.
    fn callers(&mut self, matches: &'a [SourceMatch]) -> Vec<u32> {
        let find = || {
            trim(self.identities.having(|identity| {
                identity.workload().is_some_and(|workload| {
                    matches.iter().any(|m| m.holds(&workload.namespace, &workload.labels))
                })
            }))
        };
        self.sources.entry(matches).or_insert_with(find).clone()
    }
}

/// One match of a rule while it is taken apart.
pub(super) struct Draft {
    pub candidate: Candidate,
    pub hosts: Vec<String>,
    pub path: Path,
    pub fold: bool,
}

impl Plan {
    /// Takes rules apart.
    pub fn new<'a>(rules: &'a [Rule], around: &mut Surroundings<'a>) -> Plan {
        let mut plan = Plan::default();
        for (index, rule) in rules.iter().enumerate() {
            let deed = plan.deed(rule);
            let sure = Candidate {
                methods: ALL_METHODS,
                rule: index as u32,
                detour: deed == Deed::Detour,
                ..Candidate::default()
            };
            let mut drafts = Vec::new();
            if rule.matches.is_empty() {
                drafts.push(Draft {
                    candidate: sure.clone(),
                    hosts: Vec::new(),
                    path: Path::Any,
                    fold: false,
                });
            }
            for m in &rule.matches {
                drafts.extend(plan.draft(rule, sure.clone(), m, around));
            }
            plan.deeds.push(deed);
            plan.number(drafts);
        }
        plan
    }

    /// Gives the candidates of one rule their numbers. All of them do the same: those that are
    /// sure come first.
    pub(super) fn number(&mut self, mut drafts: Vec<Draft>) {
        drafts.sort_by_key(|draft| draft.candidate.detour);
        let mut known: FxHashMap<Candidate, u32> = FxHashMap::default();
        for Draft { candidate, hosts, path, fold } in drafts {
            let candidate = *known.entry(candidate).or_insert_with_key(|candidate| {
                self.candidates.push(candidate.clone());
                self.candidates.len() as u32 - 1
            });
            self.alternatives.push(Alternative { hosts, path, fold, candidate });
        }
    }

    fn leave_out(&mut self, rule: &Rule, reason: impl Into<String>) {
        let entry = self.left_out.entry(reason.into()).or_insert((0, rule.name.clone()));
        entry.0 += 1;
    }

    fn deed(&mut self, rule: &Rule) -> Deed {
        if rule.detour.is_some() || rule.policy.is_some() {
            return Deed::Detour;
        }
        match &rule.action {
            Action::Redirect(_) => Deed::Detour,
            Action::Forward(backends) if backends.iter().any(|b| b.policy.is_some()) => {
                Deed::Detour
            }
            Action::Forward(backends) => {
                let mut total = 0u64;
                let shares: Vec<_> = backends
                    .iter()
                    .filter(|backend| backend.weight != 0)
                    .map(|backend| {
                        total += u64::from(backend.weight);
                        (backend.cluster.map(|id| id.0), total as u32)
                    })
                    .collect();
                let Ok(total) = u32::try_from(total) else {
                    self.leave_out(rule, "weights sum up to more than 4294967295");
                    return Deed::Detour;
                };
                if shares.len() > usize::from(u16::MAX) {
                    self.leave_out(rule, "more than 65535 backends");
                    return Deed::Detour;
                }
                Deed::Forward { shares, total }
            }
            Action::Respond { status, body } => match answers::answer(*status, body) {
                Ok(words) => Deed::Answer(words),
                Err(unfit) => {
                    self.leave_out(rule, unfit_text(unfit));
                    Deed::Detour
                }
            },
        }
    }

    /// `None`: the kernel never sees a request for which this holds.
    fn draft<'a>(
        &mut self,
        rule: &Rule,
        mut candidate: Candidate,
        m: &'a Match,
        around: &mut Surroundings<'a>,
    ) -> Option<Draft> {
        if !m.scheme.as_ref().is_none_or(|scheme| word_holds(scheme, "http")) {
            return None;
        }
        candidate.methods = m.method.as_ref().map_or(ALL_METHODS, method_mask);
        if candidate.methods == 0 {
            return None;
        }
        let path = self.path(rule, m, &mut candidate, around)?;
        if !m.sources.is_empty() {
            let callers = around.callers(&m.sources);
            if callers.is_empty() {
                return None;
            }
            self.require(Predicate::Source(callers), false, &mut candidate);
        }
        for header in &m.headers {
            match header_predicate(header) {
                Ok(Some(predicate)) => self.require(predicate, header.invert, &mut candidate),
                // never holds
                Ok(None) if header.invert => {}
                Ok(None) => return None,
                Err(reason) => self.leave_to_userspace(rule, reason, &mut candidate),
            }
        }
        for query in &m.query {
            match query_predicate(query) {
                Ok(Some(predicate)) => self.require(predicate, false, &mut candidate),
                Ok(None) => return None,
                Err(reason) => self.leave_to_userspace(rule, reason, &mut candidate),
            }
        }
        let hosts = m.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        candidate.sort().then_some(Draft { candidate, hosts, path, fold: m.ignore_path_case })
    }

    fn leave_to_userspace(&mut self, rule: &Rule, reason: String, candidate: &mut Candidate) {
        candidate.detour = true;
        self.leave_out(rule, reason);
    }

    fn path<'a>(
        &mut self,
        rule: &Rule,
        m: &Match,
        candidate: &mut Candidate,
        around: &Surroundings<'a>,
    ) -> Option<Path> {
        Some(match &m.path {
            None => Path::Any,
            Some(PathMatch::Exact(path)) => Path::Exact(path.clone()),
            Some(PathMatch::Prefix(path)) => Path::Prefix(path.clone()),
            Some(PathMatch::Segments(path)) => {
                Path::Segments(path.trim_end_matches('/').to_owned())
            }
            Some(PathMatch::Regex(regex)) => {
                let regex = Regex::new(regex, m.ignore_path_case);
                let refused = around.refused.contains(&regex);
                match Pattern::of(&regex) {
                    Err(Misfit::Invalid) => return None,
                    Ok(_) if !refused => Path::Regex(regex),
                    _ => {
                        let reason = "a path regex whose automaton is too large".to_owned();
                        self.leave_to_userspace(rule, reason, candidate);
                        Path::Any
                    }
                }
            }
        })
    }

    pub(super) fn require(
        &mut self,
        predicate: Predicate,
        invert: bool,
        candidate: &mut Candidate,
    ) {
        let next = self.predicates.len();
        let index = *self.known.entry(predicate).or_insert_with_key(|predicate| {
            self.predicates.push(predicate.clone());
            next
        });
        let list = if invert { &mut candidate.forbid } else { &mut candidate.need };
        list.push(index as u32);
    }
}

fn unfit_text(unfit: Unfit) -> String {
    match unfit {
        Unfit::Size(bytes) => {
            format!("an answer of {bytes} bytes, {} at most", abi::limits::ANSWER_BYTES.0)
        }
        Unfit::Status(status) => format!("the unusual status {status}"),
        Unfit::Body(status) => format!("a body with status {status}"),
    }
}

/// `None` for one that never holds; an error for one that the kernel cannot evaluate.
fn header_predicate(header: &HeaderMatch) -> Result<Option<Predicate>, String> {
    let name = match header.name.as_str() {
        ":authority" => "host".to_owned(),
        name => name.to_ascii_lowercase(),
    };
    let comparison = comparison(&name, &header.value, "header")?;
    Ok(comparison.map(|comparison| Predicate::Header(name, comparison)))
}

fn query_predicate(query: &QueryMatch) -> Result<Option<Predicate>, String> {
    // a parameter ends at the one, its name at the other
    if query.name.contains(['&', '=']) {
        return Ok(None);
    }
    let comparison = comparison(&query.name, &query.value, "query parameter")?;
    Ok(comparison.map(|comparison| Predicate::Query(query.name.clone(), comparison)))
}

fn comparison(name: &str, value: &StringMatch, of: &str) -> Result<Option<Comparison>, String> {
    let literal = match value {
        StringMatch::Exact(literal) | StringMatch::Prefix(literal) => literal.len(),
        StringMatch::Present | StringMatch::Regex(_) => 0,
    };
    if name.len() > PREDICATE_BYTES || literal > PREDICATE_BYTES {
        return Err(format!("a {of}'s name or value of more than {PREDICATE_BYTES} bytes"));
    }
    Ok(Some(match value {
        StringMatch::Exact(value) => Comparison::Exact(value.clone()),
        StringMatch::Prefix(value) if !value.is_empty() => Comparison::Prefix(value.clone()),
        StringMatch::Present | StringMatch::Prefix(_) => Comparison::Present,
        StringMatch::Regex(regex) => {
            let regex = Regex::new(regex, false);
            match Pattern::of(&regex) {
                Ok(_) => Comparison::Regex(regex),
                Err(Misfit::Invalid) => return Ok(None),
                Err(Misfit::TooLarge) => {
                    return Err(format!("a {of} regex whose automaton is too large"));
                }
            }
        }
    }))
}

fn method_mask(wanted: &StringMatch) -> u32 {
    let held = METHODS.iter().enumerate().filter(|(_, method)| word_holds(wanted, method));
    held.fold(0, |mask, (bit, _)| mask | 1 << bit)
}

fn word_holds(wanted: &StringMatch, word: &str) -> bool {
    match wanted {
        StringMatch::Exact(exact) => exact == word,
        StringMatch::Prefix(prefix) => word.starts_with(prefix.as_str()),
        StringMatch::Regex(regex) => Regex::new(regex, false).holds(word),
        StringMatch::Present => true,
    }
}
