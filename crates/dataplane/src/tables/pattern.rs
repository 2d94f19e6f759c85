//! Regular expressions as automata, with the meaning that the reference router gives them.

use std::borrow::Cow;
use std::collections::HashMap;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind, meta};

use super::product::{Edges, Machine, TooLarge};
use super::sets::Sets;

/// Memory for an automaton while it is made, which bounds the time too: so much, and so much more
/// for each of its patterns, but not without end.
const BYTES: usize = 1 << 20;
const BYTES_EACH: usize = 2 << 10;
const MOST_BYTES: usize = 16 << 20;
/// Memory that one pattern may take when all of them together took too much.
const BYTES_ALONE: usize = 256 << 10;

/// The whole of a string, as `model::router` reads a pattern.
pub(super) fn whole(pattern: &str, ignore_case: bool) -> String {
    let flags = if ignore_case { "(?i)" } else { "" };
    format!("^{flags}(?:{pattern})$")
}

/// Any host name that ends so, and has something in front.
pub(super) fn ends_with(suffix: &str) -> String {
    let literal: String = suffix.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("(?s-u)^.+{literal}$")
}

/// Whether it is a regular expression at all. One that is not matches nothing, says the reference
/// router.
pub(super) fn is_valid(pattern: &str) -> bool {
    syntax::parse(pattern).is_ok()
}

/// Whether a pattern fits into an automaton when it is alone there.
pub(super) fn fits(pattern: &str) -> bool {
    build(&[pattern], BYTES_ALONE).is_ok()
}

/// Whether a pattern holds for a string; for single words at compile time.
pub(super) fn holds(pattern: &str, value: &str) -> bool {
    meta::Regex::new(pattern).is_ok_and(|regex| regex.is_match(value))
}

/// One automaton of several patterns, each with the values that it accepts. Its input consists of
/// `alphabet` alone: where other bytes lead does not matter.
pub(super) fn machine(
    patterns: &[(String, Vec<u32>)],
    alphabet: impl Fn(u8) -> bool,
    sets: &mut dyn Sets,
) -> Result<Machine, TooLarge> {
    let mut machine = Machine::new();
    if patterns.is_empty() {
        return Ok(machine);
    }
    let texts: Vec<&str> = patterns.iter().map(|(text, _)| text.as_str()).collect();
    let bytes = (BYTES + BYTES_EACH * texts.len()).min(MOST_BYTES);
    let dfa = build(&texts, bytes)?;
    let start =
        dfa.start_state(&start::Config::new().anchored(Anchored::Yes)).map_err(|_| TooLarge)?;
    let alphabet: Vec<u8> = (0..=255).filter(|byte| alphabet(*byte)).collect();
    let mut known: HashMap<StateID, u32> = HashMap::new();
    let mut order = Vec::new();
    machine.start = number(&dfa, start, &mut known, &mut order);
    let mut at = 0;
    while at < order.len() {
        let state = order[at];
        let targets: Vec<(u8, u32)> = alphabet
            .iter()
            .map(|byte| {
                let next = dfa.next_state(state, *byte);
                (*byte, number(&dfa, next, &mut known, &mut order))
            })
            .collect();
        let default = most_frequent(&targets);
        let edges: Edges = targets.into_iter().filter(|(_, next)| *next != default).collect();
        let end = dfa.next_eoi_state(state);
        let accepted: Vec<u32> = if dfa.is_match_state(end) {
            let held = (0..dfa.match_len(end)).map(|i| dfa.match_pattern(end, i));
            held.flat_map(|id| patterns[id.as_usize()].1.iter().copied()).collect()
        } else {
            Vec::new()
        };
        machine.push(sets.union(&[], &accepted), default, edges);
        at += 1;
    }
    Ok(machine)
}

/// States of ours are in order of discovery, from 1.
fn number(
    dfa: &dense::DFA<Vec<u32>>,
    state: StateID,
    known: &mut HashMap<StateID, u32>,
    order: &mut Vec<StateID>,
) -> u32 {
    // Quit states are for bytes outside of ASCII, which the kernel does not judge.
    if dfa.is_dead_state(state) || dfa.is_quit_state(state) {
        return 0;
    }
    *known.entry(state).or_insert_with(|| {
        order.push(state);
        order.len() as u32
    })
}

fn most_frequent(targets: &[(u8, u32)]) -> u32 {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for (_, target) in targets {
        *counts.entry(*target).or_default() += 1;
    }
    // the smaller number among equals, so that tables do not depend on chance
    counts
        .into_iter()
        .max_by_key(|(target, count)| (*count, u32::MAX - target))
        .map_or(0, |(target, _)| target)
}

/// The same pattern for input that is ASCII, where Unicode makes automata large and no difference:
/// `.`, `\w`, `[^/]` and the like hold for the same ASCII either way. What can only be said with
/// Unicode stays as it is.
fn narrow(pattern: &str) -> Cow<'_, str> {
    let narrow = format!("(?-u){pattern}");
    let syntax = syntax::Config::new().utf8(false);
    if pattern.is_ascii() && syntax::parse_with(&narrow, &syntax).is_ok() {
        Cow::Owned(narrow)
    } else {
        Cow::Borrowed(pattern)
    }
}

fn build(patterns: &[&str], bytes: usize) -> Result<dense::DFA<Vec<u32>>, TooLarge> {
    let patterns: Vec<_> = patterns.iter().map(|pattern| narrow(pattern)).collect();
    dense::Builder::new()
        .configure(
            dense::Config::new()
                .accelerate(false)
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .unicode_word_boundary(true)
                .dfa_size_limit(Some(bytes))
                .determinize_size_limit(Some(bytes)),
        )
        .syntax(syntax::Config::new().utf8(false))
        .thompson(
            regex_automata::nfa::thompson::Config::new().utf8(false).nfa_size_limit(Some(bytes)),
        )
        .build_many(&patterns)
        .map_err(|_| TooLarge)
}
