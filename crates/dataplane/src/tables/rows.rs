//! An automaton as words of the heap: a row for each state that branches, runs for the others.

use super::heap::Heap;
use super::records::Record;
use super::sets::SetId;
use super::state::{State, StateId, Step};
use crate::abi;

const STATE_RUN: u32 = abi::state::STATE_RUN.0;
/// Bytes of one `struct run`.
const RUN_BYTES: usize = 8;

fn words_of_state(state: &State, columns: u32) -> usize {
    match &state.step {
        Step::Edges(_) => columns as usize + 1,
        Step::Run(bytes, _) => bytes.len().div_ceil(RUN_BYTES) * abi::run::WORDS as usize,
    }
}

/// Words that [`push`] will need. State 0 is dead and has none.
pub(super) fn words(states: &[State], columns: u32) -> usize {
    states.iter().skip(1).map(|state| words_of_state(state, columns)).sum()
}

/// Writes the states and returns their names; `accept` finds the heap index of an accepted set.
pub(super) fn push(
    heap: &mut Heap,
    states: &[State],
    accept: impl Fn(SetId) -> u32,
    classes: &[u8; 256],
    columns: u32,
) -> Vec<u32> {
    let names = names(heap.used() as u32, states, columns);
    let name = |state: StateId| names[state as usize];
    let mut out = Vec::with_capacity(words(states, columns));
    for (state, here) in states.iter().zip(&names).skip(1) {
        match &state.step {
            Step::Edges(edges) => {
                let row = out.len();
                out.push(accept(state.accept));
                out.resize(row + 1 + columns as usize, name(state.default));
                for (byte, target) in edges {
                    out[row + usize::from(classes[usize::from(*byte)])] = name(*target);
                }
            }
            Step::Run(bytes, target) => {
                let mut behind = *here;
                for (index, chunk) in bytes.chunks(RUN_BYTES).enumerate() {
                    behind += abi::run::WORDS;
                    let last = (index + 1) * RUN_BYTES >= bytes.len();
                    let run = abi::run {
                        accept: accept(state.accept),
                        otherwise: name(state.default),
                        next: if last { name(*target) } else { behind },
                        length: chunk.len() as u32,
                        bytes: run_words(chunk),
                    };
                    out.extend(run.words());
                }
            }
        }
    }
    heap.push(&out);
    names
}

/// The heap index of each state, marked if it is a run.
fn names(base: u32, states: &[State], columns: u32) -> Vec<u32> {
    let mut next = base;
    let of = |state: &State| {
        let mark = if matches!(state.step, Step::Run(..)) { STATE_RUN } else { 0 };
        let name = next | mark;
        next += words_of_state(state, columns) as u32;
        name
    };
    std::iter::once(0).chain(states.iter().skip(1).map(of)).collect()
}

/// Up to eight bytes as they lie in memory.
fn run_words(chunk: &[u8]) -> [u32; 2] {
    let mut bytes = [0; RUN_BYTES];
    bytes[..chunk.len()].copy_from_slice(chunk);
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4)]
}
