//! Predicates as records of the heap, and the automata of those that are regular expressions.

use rustc_hash::FxHashMap;

use super::automaton::classes;
use super::heap::{Heap, hash_name};
use super::pattern::{Dfa, Pattern, Regex};
use super::records::{Record, words_of};
use super::rules::{Comparison, Predicate};
use crate::abi;

/// The predicates of one table, of which each is written once and only if a group needs it.
pub(super) struct Predicates<'a> {
    predicates: &'a [Predicate],
    places: Vec<Option<u32>>,
    machines: FxHashMap<&'a Regex, u32>,
}

impl<'a> Predicates<'a> {
    /// None of them is written yet.
    pub fn new(predicates: &'a [Predicate]) -> Predicates<'a> {
        Predicates {
            predicates,
            places: vec![None; predicates.len()],
            machines: FxHashMap::default(),
        }
    }

    /// The heap index of a predicate.
    pub fn push(&mut self, heap: &mut Heap, number: u32) -> u32 {
        if let Some(place) = self.places[number as usize] {
            return place;
        }
        let record = match &self.predicates[number as usize] {
            Predicate::Header(name, comparison) => {
                self.named(heap, abi::subject::SUBJECT_HEADER, name, comparison)
            }
            Predicate::Query(name, comparison) => {
                self.named(heap, abi::subject::SUBJECT_QUERY, name, comparison)
            }
            Predicate::Source(bits) => abi::predicate {
                subject: abi::subject::SUBJECT_SOURCE.0,
                comparison: abi::comparison::COMPARE_MEMBER.0,
                value: heap.intern(bits.clone()),
                value_length: bits.len() as u32,
                ..Default::default()
            },
        };
        let place = heap.intern(record.words());
        self.places[number as usize] = Some(place);
        place
    }

    fn named(
        &mut self,
        heap: &mut Heap,
        subject: abi::subject,
        name: &str,
        comparison: &'a Comparison,
    ) -> abi::predicate {
        use abi::comparison as Kind;
        let mut literal = |text: &str| (heap.intern(words_of(text.as_bytes())), text.len() as u32);
        let (name_at, name_length) = literal(name);
        let (kind, (value, value_length)) = match comparison {
            Comparison::Present => (Kind::COMPARE_PRESENT, (0, 0)),
            Comparison::Exact(text) => (Kind::COMPARE_EXACT, literal(text)),
            Comparison::Prefix(text) => (Kind::COMPARE_PREFIX, literal(text)),
            Comparison::Regex(regex) => (Kind::COMPARE_REGEX, (self.machine(heap, regex), 0)),
        };
        abi::predicate {
            subject: subject.0,
            comparison: kind.0,
            name_hash: hash_name(name.as_bytes()),
            name: name_at,
            name_length,
            value,
            value_length,
        }
    }

    fn machine(&mut self, heap: &mut Heap, regex: &'a Regex) -> u32 {
        *self.machines.entry(regex).or_insert_with(|| {
            let pattern = Pattern::of(regex).expect("planned as one that fits");
            push_machine(heap, &pattern)
        })
    }
}

/// A state of the automaton that is written: behind so many bytes of the literal beginning, or one
/// of the rest's.
struct Rows<'a> {
    prefix: &'a [u8],
    rest: &'a Dfa,
    /// Where bytes outside of ASCII lead, in place of the dead state: userspace knows Unicode.
    unsure: usize,
}

impl Rows<'_> {
    fn of(pattern: &Pattern) -> Rows<'_> {
        let (prefix, rest) = (pattern.prefix.as_slice(), &*pattern.rest);
        Rows { prefix, rest, unsure: prefix.len() + rest.states.len() - 1 }
    }

    /// The row of a state of the rest; `None` for the dead one.
    fn row(&self, state: u32) -> Option<usize> {
        (state != 0).then(|| self.prefix.len() + state as usize - 1)
    }

    /// Whether it accepts, where it leads by default, and its edges.
    fn get(&self, row: usize) -> (abi::accepts, Option<usize>, Vec<(u8, Option<usize>)>) {
        use abi::accepts as Accepts;
        if row == self.unsure {
            return (Accepts::MACHINE_UNSURE, Some(row), Vec::new());
        }
        if let Some(byte) = self.prefix.get(row) {
            let behind = row + 1;
            let next =
                if behind == self.prefix.len() { self.row(self.rest.start) } else { Some(behind) };
            return (Accepts::MACHINE_NO, None, self.with_others(vec![(*byte, next)]));
        }
        let state = self.rest.state((row - self.prefix.len()) as u32 + 1);
        let accept = if state.accept { Accepts::MACHINE_YES } else { Accepts::MACHINE_NO };
        let edges = state.edges.iter().map(|(byte, next)| (*byte, self.row(*next))).collect();
        (accept, self.row(state.default), self.with_others(edges))
    }

    fn with_others(&self, mut edges: Vec<(u8, Option<usize>)>) -> Vec<(u8, Option<usize>)> {
        edges.retain(|(byte, _)| byte.is_ascii());
        edges.extend((0x80..=0xff).map(|byte| (byte, Some(self.unsure))));
        edges
    }
}

fn push_machine(heap: &mut Heap, pattern: &Pattern) -> u32 {
    let rows = Rows::of(pattern);
    let states: Vec<_> = (0..=rows.unsure).map(|row| rows.get(row)).collect();
    let number = |row: Option<usize>| row.map_or(0, |row| row as u32 + 1);
    let edges: Vec<Vec<(u8, u32)>> = states
        .iter()
        .map(|(_, _, edges)| edges.iter().map(|(byte, next)| (*byte, number(*next))).collect())
        .collect();
    let (classes, columns) = classes(edges.iter().map(Vec::as_slice));
    let width = columns + 1;
    let base = heap.used() as u32;
    let index = |state: u32| if state == 0 { 0 } else { base + (state - 1) * width };
    let mut words = Vec::with_capacity(states.len() * width as usize);
    for ((accept, default, _), edges) in states.iter().zip(&edges) {
        let row = words.len();
        words.push(accept.0);
        words.resize(row + width as usize, index(number(*default)));
        for (byte, next) in edges {
            words[row + usize::from(classes[usize::from(*byte)])] = index(*next);
        }
    }
    heap.push(&words);
    let first = if rows.prefix.is_empty() { rows.row(rows.rest.start) } else { Some(0) };
    let start = index(number(first));
    let classes = heap.intern(words_of(&classes));
    heap.intern(abi::machine { classes, start }.words())
}
