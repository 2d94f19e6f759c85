//! Predicates as records of the heap, and the automata of those that are regular expressions.

use rustc_hash::FxHashMap;

use super::automaton::classes;
use super::heap::{Heap, hash_name};
use super::pattern::{Pattern, Regex};
use super::records::{Record, words_of};
use super::rules::{Comparison, Predicate, Subject};
use crate::abi;

const FORWARDED: &str = "x-forwarded-for";

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
            Predicate::Source(bits) => member(heap, abi::subject::SUBJECT_SOURCE, bits),
            Predicate::Called(bits) => member(heap, abi::subject::SUBJECT_CALLED, bits),
            Predicate::Ranges(subject, ranges) => in_ranges(heap, *subject, ranges),
            Predicate::Path(comparison) => {
                self.named(heap, abi::subject::SUBJECT_PATH, "", comparison)
            }
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
            Comparison::Suffix(text) => (Kind::COMPARE_SUFFIX, literal(text)),
            Comparison::NotEmpty => (Kind::COMPARE_NOT_EMPTY, (0, 0)),
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

fn member(heap: &mut Heap, subject: abi::subject, bits: &[u32]) -> abi::predicate {
    abi::predicate {
        subject: subject.0,
        comparison: abi::comparison::COMPARE_MEMBER.0,
        value: if bits.is_empty() { 0 } else { heap.intern(bits) },
        value_length: bits.len() as u32,
        ..Default::default()
    }
}

fn in_ranges(heap: &mut Heap, subject: Subject, ranges: &[(u128, u128)]) -> abi::predicate {
    let halves = |number: u128| ((number >> 64) as u64, number as u64);
    let words: Vec<u32> = ranges
        .iter()
        .flat_map(|(from, to)| {
            let ((from_high, from_low), (to_high, to_low)) = (halves(*from), halves(*to));
            abi::range { from_high, from_low, to_high, to_low }.words()
        })
        .collect();
    // the field that would name another address
    let (name, name_hash, name_length) = match subject {
        Subject::Remote => {
            let name = heap.intern(words_of(FORWARDED.as_bytes()));
            (name, hash_name(FORWARDED.as_bytes()), FORWARDED.len() as u32)
        }
        _ => (0, 0, 0),
    };
    let subject = match subject {
        Subject::Source => abi::subject::SUBJECT_SOURCE_ADDRESS,
        Subject::Remote => abi::subject::SUBJECT_REMOTE_ADDRESS,
        Subject::Called => abi::subject::SUBJECT_CALLED_ADDRESS,
        Subject::Port => abi::subject::SUBJECT_PORT,
    };
    abi::predicate {
        subject: subject.0,
        comparison: abi::comparison::COMPARE_RANGES.0,
        name_hash,
        name,
        name_length,
        value: if words.is_empty() { 0 } else { heap.intern(words) },
        value_length: ranges.len() as u32,
    }
}

/// A row of a machine. They are numbered from 1, 0 is dead.
struct Row {
    accepts: abi::accepts,
    default: u32,
    edges: Vec<(u8, u32)>,
}

/// The rows of a pattern: one for each literal byte in front, the states of the rest, and one for
/// bytes outside of ASCII, because userspace knows Unicode. The first row is where it begins.
fn rows(pattern: &Pattern) -> Vec<Row> {
    use abi::accepts as Accepts;
    let (prefix, rest) = (&pattern.prefix, &pattern.rest);
    let literals = prefix.len() as u32;
    let unsure = literals + rest.states.len() as u32;
    let of_rest = |state: u32| if state == 0 { 0 } else { literals + state };
    let others = || (0x80..=0xff).map(move |byte| (byte, unsure));
    let mut rows = Vec::new();
    for (byte, number) in prefix.iter().zip(1..) {
        let next = if number == literals { of_rest(rest.start) } else { number + 1 };
        let edges = std::iter::once((*byte, next)).chain(others()).collect();
        rows.push(Row { accepts: Accepts::MACHINE_NO, default: 0, edges });
    }
    for state in rest.states.iter().skip(1) {
        let accepts = if state.accept { Accepts::MACHINE_YES } else { Accepts::MACHINE_NO };
        let edges = state.edges.iter().map(|(byte, next)| (*byte, of_rest(*next)));
        let edges = edges.chain(others()).collect();
        rows.push(Row { accepts, default: of_rest(state.default), edges });
    }
    rows.push(Row { accepts: Accepts::MACHINE_UNSURE, default: unsure, edges: Vec::new() });
    rows
}

fn push_machine(heap: &mut Heap, pattern: &Pattern) -> u32 {
    let rows = rows(pattern);
    let (classes, columns) = classes(rows.iter().map(|row| row.edges.as_slice()));
    let width = columns + 1;
    let base = heap.used() as u32;
    let index = |row: u32| if row == 0 { 0 } else { base + (row - 1) * width };
    let mut words = Vec::with_capacity(rows.len() * width as usize);
    for row in &rows {
        let at = words.len();
        words.push(row.accepts.0);
        words.resize(at + width as usize, index(row.default));
        for (byte, next) in &row.edges {
            words[at + usize::from(classes[usize::from(*byte)])] = index(*next);
        }
    }
    heap.push(&words);
    let start = if pattern.prefix.is_empty() { pattern.rest.start } else { 1 };
    let classes = heap.intern(words_of(&classes));
    heap.intern(abi::machine { classes, start: index(start) }.words())
}
