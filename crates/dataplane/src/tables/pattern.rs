//! Regular expressions as automata, with the meaning that the reference router gives them.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock, Mutex};

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind, meta};
use regex_syntax::hir::{Hir, HirKind, Look};
use rustc_hash::FxHashMap;

use super::state::TooLarge;

/// Memory that the automaton of one pattern may take while it is made, which bounds the time too.
const BYTES: usize = 256 << 10;
/// Bytes of a pattern, of which each may stand for a class of 40 KiB, within the router's 10 MiB.
const SHORT: usize = 200;
/// Patterns that are remembered from one configuration to the next.
const REMEMBERED: usize = 1 << 15;

/// A regular expression as it was configured, which is to hold for the whole of a string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Regex {
    text: String,
    /// Case does not matter.
    fold: bool,
}

/// A pattern that reads whole strings: literal bytes, then an automaton for what follows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Every string that it accepts begins with these.
    pub prefix: Vec<u8>,
    /// Reads the rest.
    pub rest: Arc<Dfa>,
}

/// A deterministic automaton over printable ASCII and the tab. State 0 is dead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dfa {
    /// Indexed by state.
    pub states: Vec<DfaState>,
    /// Where it begins.
    pub start: u32,
}

/// A state of a [`Dfa`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DfaState {
    /// A string that ends here is accepted.
    pub accept: bool,
    /// Where every byte without an edge leads.
    pub default: u32,
    /// All other transitions, in order of bytes.
    pub edges: Vec<(u8, u32)>,
}

/// Why a pattern has no automaton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Not a regular expression. It matches nothing, says the reference router.
    Invalid,
    /// Its automaton takes more than [`BYTES`].
    TooLarge,
}

impl Regex {
    /// RE2 syntax.
    pub fn new(text: &str, fold: bool) -> Regex {
        Regex { text: text.to_owned(), fold }
    }

    /// Any host name that ends so, and has something in front.
    pub fn ends_with(suffix: &str) -> Regex {
        let literal: String = suffix.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        Regex { text: format!("(?s).+{literal}"), fold: false }
    }

    /// As `model::router` reads it: from the beginning of a string to its end.
    fn whole(&self) -> String {
        let flags = if self.fold { "(?i)" } else { "" };
        format!("^{flags}(?:{})$", self.text)
    }

    /// Whether it is one at all, by itself: the parentheses around it must not close its own. The
    /// router takes none whose program is too large, which a short one without counts never is.
    fn is_valid(&self) -> bool {
        let may_be_large = self.text.contains('{') || self.text.len() > SHORT;
        syntax::parse(&self.text).is_ok()
            && (!may_be_large || meta::Regex::new(&self.whole()).is_ok())
    }

    /// Whether it holds for a string; for single words at compile time.
    pub fn holds(&self, value: &str) -> bool {
        self.is_valid() && meta::Regex::new(&self.whole()).is_ok_and(|regex| regex.is_match(value))
    }
}

/// A byte that an automaton may have to read: of a path, a query, a host or another field value.
fn in_alphabet(byte: u8) -> bool {
    byte == b'\t' || (b' '..0x7f).contains(&byte)
}

#[derive(Default)]
struct Memory {
    patterns: FxHashMap<Regex, Result<Pattern, Unfit>>,
    /// By what follows the literal bytes: patterns of one kind differ in these alone.
    rests: FxHashMap<String, Result<Arc<Dfa>, Unfit>>,
}

static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

impl Pattern {
    /// The automaton of a regular expression. Remembered, because most stay when a configuration
    /// changes.
    pub fn of(regex: &Regex) -> Result<Pattern, Unfit> {
        let mut memory = MEMORY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = memory.patterns.get(regex) {
            return known.clone();
        }
        if memory.patterns.len() >= REMEMBERED {
            *memory = Memory::default();
        }
        let made = memory.make(regex);
        memory.patterns.insert(regex.clone(), made.clone());
        made
    }
}

impl Memory {
    fn make(&mut self, regex: &Regex) -> Result<Pattern, Unfit> {
        if !regex.is_valid() {
            return Err(Unfit::Invalid);
        }
        let hir = parse(&regex.whole())?;
        let (prefix, rest) = split(hir);
        let key = rest.to_string();
        let rest = self.rests.entry(key).or_insert_with(|| Dfa::of(&rest).map(Arc::new)).clone()?;
        Ok(Pattern { prefix, rest })
    }
}

/// The same pattern for input that is ASCII, where Unicode makes automata large and no difference:
/// `.`, `\w`, `[^/]` and the like hold for the same ASCII either way. What can only be said with
/// Unicode stays as it is.
fn parse(text: &str) -> Result<Hir, Unfit> {
    let unicode = syntax::parse(text).map_err(|_| Unfit::Invalid)?;
    let narrow: Cow<'_, str> = Cow::Owned(format!("(?-u){text}"));
    let bytes = syntax::Config::new().utf8(false);
    match syntax::parse_with(&narrow, &bytes) {
        Ok(hir) if text.is_ascii() => Ok(hir),
        _ => Ok(unicode),
    }
}

/// Takes the literal bytes off the front of a pattern that begins with `^`. Not if something
/// behind them looks back, or at where the string begins.
fn split(hir: Hir) -> (Vec<u8>, Hir) {
    let HirKind::Concat(parts) = hir.kind() else { return (Vec::new(), hir) };
    let [first, middle @ .., last] = parts.as_slice() else { return (Vec::new(), hir) };
    let is = |hir: &Hir, look: Look| *hir.kind() == HirKind::Look(look);
    let looks = middle.iter().any(|part| !part.properties().look_set().is_empty());
    if !is(first, Look::Start) || !is(last, Look::End) || looks {
        return (Vec::new(), hir);
    }
    let mut prefix = Vec::new();
    let mut rest = Vec::new();
    for part in middle {
        match part.kind() {
            HirKind::Literal(literal) if rest.is_empty() => prefix.extend_from_slice(&literal.0),
            _ => rest.push(part.clone()),
        }
    }
    rest.push(last.clone());
    (prefix, Hir::concat(rest))
}

impl Dfa {
    fn of(hir: &Hir) -> Result<Dfa, Unfit> {
        let dense = determinize(hir).map_err(|TooLarge| Unfit::TooLarge)?;
        let start = dense
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .map_err(|_| Unfit::TooLarge)?;
        Ok(Numbering { dense: &dense, known: FxHashMap::default(), order: Vec::new() }.read(start))
    }

    /// A state.
    pub fn state(&self, state: u32) -> &DfaState {
        &self.states[state as usize]
    }

    /// Whether whatever follows is accepted.
    pub fn is_sure(&self, state: u32) -> bool {
        let DfaState { accept, default, edges } = self.state(state);
        *accept && *default == state && edges.is_empty()
    }
}

impl DfaState {
    /// Where a byte leads.
    pub fn next(&self, byte: u8) -> u32 {
        match self.edges.binary_search_by_key(&byte, |(byte, _)| *byte) {
            Ok(at) => self.edges[at].1,
            Err(_) => self.default,
        }
    }
}

/// States of ours are in order of discovery, from 1.
struct Numbering<'a> {
    dense: &'a dense::DFA<Vec<u32>>,
    known: FxHashMap<StateID, u32>,
    order: Vec<StateID>,
}

impl Numbering<'_> {
    fn number(&mut self, state: StateID) -> u32 {
        // quit states are for bytes outside of ASCII, which the kernel does not judge
        if self.dense.is_dead_state(state) || self.dense.is_quit_state(state) {
            return 0;
        }
        *self.known.entry(state).or_insert_with(|| {
            self.order.push(state);
            self.order.len() as u32
        })
    }

    fn read(mut self, start: StateID) -> Dfa {
        let mut states = vec![DfaState::default()];
        let start = self.number(start);
        let mut at = 0;
        while at < self.order.len() {
            let state = self.order[at];
            let targets: Vec<(u8, u32)> = (0..=255)
                .filter(|byte| in_alphabet(*byte))
                .map(|byte| (byte, self.number(self.dense.next_state(state, byte))))
                .collect();
            let default = most_frequent(&targets);
            let edges = targets.into_iter().filter(|(_, next)| *next != default).collect();
            let accept = self.dense.is_match_state(self.dense.next_eoi_state(state));
            states.push(DfaState { accept, default, edges });
            at += 1;
        }
        Dfa { states, start }
    }
}

fn most_frequent(targets: &[(u8, u32)]) -> u32 {
    let mut counts: FxHashMap<u32, usize> = FxHashMap::default();
    for (_, target) in targets {
        *counts.entry(*target).or_default() += 1;
    }
    // the smaller number among equals, so that tables do not depend on chance
    counts
        .into_iter()
        .max_by_key(|(target, count)| (*count, u32::MAX - target))
        .map_or(0, |(target, _)| target)
}

fn determinize(hir: &Hir) -> Result<dense::DFA<Vec<u32>>, TooLarge> {
    let nfa = thompson::Compiler::new()
        .configure(thompson::Config::new().utf8(false).nfa_size_limit(Some(BYTES)))
        .build_from_hir(hir)
        .map_err(|_| TooLarge)?;
    dense::Builder::new()
        .configure(
            dense::Config::new()
                .accelerate(false)
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .unicode_word_boundary(true)
                .minimize(false)
                .dfa_size_limit(Some(BYTES))
                .determinize_size_limit(Some(BYTES)),
        )
        .build_from_nfa(&nfa)
        .map_err(|_| TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(pattern: &Pattern, value: &str) -> bool {
        let Some(rest) = value.as_bytes().strip_prefix(pattern.prefix.as_slice()) else {
            return false;
        };
        let dfa = &pattern.rest;
        let end = rest.iter().fold(dfa.start, |state, byte| dfa.state(state).next(*byte));
        dfa.state(end).accept
    }

    #[test]
    fn literal_bytes_are_taken_off_the_front_where_nothing_looks_back() {
        for (pattern, prefix) in [
            ("/api/v[0-9]+/x", "/api/v"),
            ("/api", "/api"),
            ("/a|/b", ""),
            ("(/a)?b", ""),
            (".*", ""),
            ("(?i)/api", "/"),
            ("/a\\b.*", ""),
            ("/a^b", ""),
            ("/x(?:y)z+", "/xy"),
        ] {
            let made = Pattern::of(&Regex::new(pattern, false)).unwrap();
            assert_eq!(made.prefix, prefix.as_bytes(), "{pattern}");
        }
        for (pattern, unfit) in
            [("(", Unfit::Invalid), ("/a)|(/b", Unfit::Invalid), ("(.*a.{20}){3}", Unfit::TooLarge)]
        {
            assert_eq!(Pattern::of(&Regex::new(pattern, false)), Err(unfit), "{pattern}");
        }
    }

    #[test]
    fn automata_accept_what_the_pattern_holds_for() {
        let values =
            ["/a", "/ab", "/a b", "/api/v1/x", "/api/v12/x", "/API/V1/X", "", "/a\\b", "/b"];
        for pattern in
            ["/a", "/a.*", "/api/v[0-9]+/x", "/a\\b.*", "/a|/b", "", "/a$", "^/a", "/[^a]"]
        {
            for fold in [false, true] {
                let regex = Regex::new(pattern, fold);
                let made = Pattern::of(&regex).unwrap();
                for value in values {
                    assert_eq!(accepts(&made, value), regex.holds(value), "{regex:?} {value}");
                }
            }
        }
    }
}
