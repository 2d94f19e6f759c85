//! All hosts and paths of a service port as one automaton over `host, zero byte, path`.
//!
//! The host comes first: its automaton says which lists of hosts a name satisfies, and for each
//! such outcome there is an automaton over the paths of the rules that are left.

use rustc_hash::FxHashMap;

use super::compose::Parts;
use super::pattern::{Pattern, Regex};
use super::sets::{Pool, Sets};
use super::state::{Edges, State, StateId, Step, TooLarge};

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

/// Automata over the path, and one over the host that chooses among them.
#[derive(Debug)]
pub(super) struct Automaton {
    /// Of all paths; they accept sets of candidates. State 0 is dead.
    pub states: Vec<State>,
    /// For rules that name no host.
    pub any: Paths,
    /// For rules that do.
    pub hosts: Option<Hosts>,
}

/// First states over the path as it is, and over the path in lower case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Paths {
    /// Of literals and patterns.
    pub exact: StateId,
    /// Of literals whose case does not matter.
    pub folded: StateId,
}

/// An automaton over the host, whose case does not matter.
#[derive(Debug)]
pub(super) struct Hosts {
    /// State 0 is dead.
    pub states: Vec<State>,
    /// Where it begins.
    pub start: StateId,
    /// By the set that a state accepts.
    pub paths: Vec<Paths>,
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
        let (any, named): (Vec<&Alternative>, Vec<_>) =
            alternatives.iter().partition(|alternative| alternative.hosts.is_empty());
        let any = append_paths(&any, groups, &mut states)?;
        let hosts = match named.as_slice() {
            [] => None,
            named => Some(Hosts::build(named, groups, &mut states)?),
        };
        Ok(Automaton { states, any, hosts })
    }
}

impl Hosts {
    fn build(
        alternatives: &[&Alternative],
        groups: &mut dyn Sets,
        out: &mut Vec<State>,
    ) -> Result<Hosts, TooLarge> {
        let lists = Lists::of(alternatives);
        let mut satisfied = Pool::new();
        let mut states = vec![State::default()];
        let start = lists.append_hosts(&mut satisfied, &mut states)?;
        let mut paths = vec![None; satisfied.len()];
        for state in &states {
            let place = &mut paths[state.accept as usize];
            if place.is_none() {
                let left = lists.alternatives_of(satisfied.get(state.accept));
                *place = Some(append_paths(&left, groups, out)?);
            }
        }
        let paths = paths.into_iter().map(Option::unwrap_or_default).collect();
        states.iter_mut().for_each(ignore_case);
        Ok(Hosts { states, start, paths })
    }
}

/// Lets capital letters lead where the small ones do.
fn ignore_case(state: &mut State) {
    let Step::Edges(edges) = &mut state.step else { return };
    edges.retain(|(byte, _)| !byte.is_ascii_uppercase());
    let small: Edges =
        edges.iter().filter(|(byte, _)| byte.is_ascii_lowercase()).copied().collect();
    edges.extend(small.into_iter().map(|(byte, target)| (byte.to_ascii_uppercase(), target)));
    edges.sort_unstable();
}

/// [`classes`] of states.
pub(super) fn classes_of(states: &[State]) -> ([u8; 256], u32) {
    classes(states.iter().filter_map(|state| match &state.step {
        Step::Edges(edges) => Some(edges.as_slice()),
        Step::Run(..) => None,
    }))
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
    fn of(alternatives: &[&'a Alternative]) -> Lists<'a> {
        let mut known: FxHashMap<&'a [String], usize> = FxHashMap::default();
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
        let mut parts = Parts::new();
        for (list, hosts) in self.hosts.iter().enumerate() {
            let list = list as u32;
            for host in hosts.iter().filter(|host| host.bytes().all(in_host)) {
                match host.strip_prefix('*') {
                    Some(suffix) => {
                        let regex = Regex::ends_with(suffix);
                        let pattern = Pattern::of(&regex).map_err(|_| TooLarge)?;
                        parts.pattern(&regex, &pattern, list);
                    }
                    None => parts.literals().exact(host.as_bytes(), list),
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
) -> Result<Paths, TooLarge> {
    let mut exact = Parts::new();
    let mut folded = Parts::new();
    for alternative in alternatives {
        add_path(if alternative.folds() { &mut folded } else { &mut exact }, alternative)?;
    }
    let exact = exact.append(groups, out, true)?;
    let folded = folded.append(groups, out, true)?;
    Ok(Paths { exact, folded })
}

fn add_path(parts: &mut Parts, alternative: &Alternative) -> Result<(), TooLarge> {
    let value = alternative.candidate;
    let literals = parts.literals();
    let text = |text: &String| {
        let fold = alternative.fold;
        if fold { text.to_ascii_lowercase().into_bytes() } else { text.clone().into_bytes() }
    };
    match &alternative.path {
        Path::Any => literals.prefix(b"", value),
        Path::Regex(regex) => {
            let pattern = Pattern::of(regex).map_err(|_| TooLarge)?;
            parts.pattern(regex, &pattern, value);
        }
        // what no path has is in no path
        Path::Exact(text) | Path::Prefix(text) | Path::Segments(text)
            if !text.bytes().all(in_path) => {}
        Path::Exact(path) => literals.exact(&text(path), value),
        Path::Prefix(path) => literals.prefix(&text(path), value),
        Path::Segments(path) => {
            let mut path = text(path);
            literals.exact(&path, value);
            path.push(b'/');
            literals.prefix(&path, value);
        }
    }
    Ok(())
}

impl Alternative {
    /// Whether it is looked for in the path in lower case. A pattern says itself what it ignores.
    fn folds(&self) -> bool {
        self.fold && !matches!(self.path, Path::Any | Path::Regex(_))
    }
}
