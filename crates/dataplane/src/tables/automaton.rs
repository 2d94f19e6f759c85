//! All hosts and paths of a service port as one automaton over `host, zero byte, path`.
//!
//! The host comes first: its automaton says which lists of hosts a name satisfies, and for each
//! such outcome there is an automaton over the paths of the rules that are left.

use rustc_hash::FxHashMap;

use super::compose::Parts;
use super::pattern::{Pattern, Regex};
use super::sets::{Pool, SetId, Sets};
use super::state::{State, StateId, Step, TooLarge};

/// A condition on host and path, and what it leads to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alternative {
    /// In lower case; one must match, empty matches any.
    pub hosts: Vec<String>,
    /// The condition on the path.
    pub path: Path,
    /// ASCII case of the path does not matter.
    pub fold: bool,
    /// Number of the candidate.
    pub candidate: u32,
}

/// A condition on a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Path {
    /// None.
    Any,
    /// The whole path.
    Exact(String),
    /// Its first bytes.
    Prefix(String),
    /// Whole segments, no slash at the end.
    Segments(String),
    /// A regular expression that fits.
    Regex(Regex),
}

/// An automaton whose states accept sets of candidates.
#[derive(Debug)]
pub(super) struct Automaton {
    /// State 0 is dead.
    pub states: Vec<State>,
    /// Where it begins: before the host when `hosts`, otherwise before the path.
    pub start: StateId,
    /// Some alternative looks at the host.
    pub hosts: bool,
}

/// A byte that a path can have when it is judged in the kernel (`parse_target()` in http.h).
fn in_path(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// A byte that a field value can have (`find_line_end()` in http.h).
fn in_host(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

impl Automaton {
    /// Builds it; `groups` keeps the sets of candidates.
    pub fn build(
        alternatives: &[Alternative],
        groups: &mut dyn Sets,
    ) -> Result<Automaton, TooLarge> {
        let mut states = vec![State::default()];
        if alternatives.iter().all(|alternative| alternative.hosts.is_empty()) {
            let all: Vec<&Alternative> = alternatives.iter().collect();
            let start = append_paths(&all, groups, &mut states)?;
            return Ok(Automaton { states, start, hosts: false });
        }
        let lists = Lists::of(alternatives);
        let mut satisfied = Pool::new();
        let start = lists.append_hosts(&mut satisfied, &mut states)?;
        let mut begins: FxHashMap<SetId, StateId> = FxHashMap::default();
        for index in 1..states.len() {
            let set = std::mem::take(&mut states[index].accept);
            if set == 0 {
                continue;
            }
            let begin = match begins.get(&set) {
                Some(begin) => *begin,
                None => {
                    let left = lists.alternatives_of(satisfied.get(set));
                    let begin = append_paths(&left, groups, &mut states)?;
                    *begins.entry(set).or_insert(begin)
                }
            };
            // no host has a zero byte, so this edge is the first and the only one for it
            let Step::Edges(edges) = &mut states[index].step else {
                unreachable!("hosts are read without runs");
            };
            edges.insert(0, (0, begin));
        }
        Ok(Automaton { states, start, hosts: true })
    }

    /// The column of each byte, from 1, and the number of columns. Bytes that every state treats
    /// alike share a column.
    pub fn classes(&self) -> ([u8; 256], u32) {
        let edges = self.states.iter().filter_map(|state| match &state.step {
            Step::Edges(edges) => Some(edges.as_slice()),
            Step::Run(..) => None,
        });
        classes(edges)
    }
}

/// The column of each byte, from 1, and the number of columns, for states with these edges.
pub(super) fn classes<'a>(states: impl Iterator<Item = &'a [(u8, u32)]>) -> ([u8; 256], u32) {
    let mut class = [0u32; 256];
    let mut fresh = 0;
    let mut split: FxHashMap<(u32, u32), u32> = FxHashMap::default();
    for edges in states {
        split.clear();
        for (byte, target) in edges {
            let key = (class[usize::from(*byte)], *target);
            class[usize::from(*byte)] = *split.entry(key).or_insert_with(|| {
                fresh += 1;
                fresh
            });
        }
    }
    let mut columns: FxHashMap<u32, u8> = FxHashMap::default();
    let mut out = [0; 256];
    for (byte, column) in out.iter_mut().enumerate() {
        let next = columns.len() as u8 + 1;
        *column = *columns.entry(class[byte]).or_insert(next);
    }
    (out, columns.len() as u32)
}

/// The distinct lists of hosts, and who has them.
struct Lists<'a> {
    hosts: Vec<&'a [String]>,
    users: Vec<Vec<&'a Alternative>>,
}

impl<'a> Lists<'a> {
    fn of(alternatives: &'a [Alternative]) -> Lists<'a> {
        let mut known: FxHashMap<&[String], usize> = FxHashMap::default();
        let mut lists = Lists { hosts: Vec::new(), users: Vec::new() };
        for alternative in alternatives {
            let hosts = alternative.hosts.as_slice();
            let list = *known.entry(hosts).or_insert_with(|| {
                lists.hosts.push(hosts);
                lists.users.push(Vec::new());
                lists.hosts.len() - 1
            });
            lists.users[list].push(alternative);
        }
        lists
    }

    fn alternatives_of(&self, lists: &[u32]) -> Vec<&'a Alternative> {
        lists.iter().flat_map(|list| self.users[*list as usize].iter().copied()).collect()
    }

    /// States that accept the lists which a host satisfies.
    fn append_hosts(&self, sets: &mut Pool, out: &mut Vec<State>) -> Result<StateId, TooLarge> {
        let mut parts = Parts::default();
        for (list, hosts) in self.hosts.iter().enumerate() {
            let list = list as u32;
            if hosts.is_empty() {
                parts.literals(false).prefix(b"", list);
            }
            for host in hosts.iter().filter(|host| host.bytes().all(in_host)) {
                match host.strip_prefix('*') {
                    Some(suffix) => {
                        let regex = Regex::ends_with(suffix);
                        let pattern = Pattern::of(&regex).map_err(|_| TooLarge)?;
                        parts.pattern(&regex, &pattern, list);
                    }
                    None => parts.literals(false).exact(host.as_bytes(), list),
                }
            }
        }
        parts.append(sets, out, false)
    }
}

/// States that accept the candidates which a path leads to.
fn append_paths(
    alternatives: &[&Alternative],
    groups: &mut dyn Sets,
    out: &mut Vec<State>,
) -> Result<StateId, TooLarge> {
    let mut parts = Parts::default();
    for alternative in alternatives {
        let literals = parts.literals(alternative.fold);
        let value = alternative.candidate;
        match &alternative.path {
            Path::Any => literals.prefix(b"", value),
            Path::Regex(regex) => {
                let pattern = Pattern::of(regex).map_err(|_| TooLarge)?;
                parts.pattern(regex, &pattern, value);
            }
            // what no path has is in no path
            Path::Exact(text) | Path::Prefix(text) | Path::Segments(text)
                if !text.bytes().all(in_path) => {}
            Path::Exact(text) => literals.exact(text.as_bytes(), value),
            Path::Prefix(text) => literals.prefix(text.as_bytes(), value),
            Path::Segments(text) => {
                literals.exact(text.as_bytes(), value);
                literals.prefix(format!("{text}/").as_bytes(), value);
            }
        }
    }
    parts.append(groups, out, true)
}
