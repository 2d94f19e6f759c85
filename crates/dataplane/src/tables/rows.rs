//! An automaton as words of the heap: a row for each state that branches, runs for the others.

use super::automaton::Automaton;
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

/// Writes the states and returns the first; `accept` finds the heap index of an accepted set.
pub(super) fn push(
    heap: &mut Heap,
    automaton: &Automaton,
    accept: impl Fn(SetId) -> u32,
    classes: &[u8; 256],
    columns: u32,
) -> u32 {
    let states = &automaton.states;
    let mut names = vec![0; states.len()];
    let mut next = heap.used() as u32;
    for (state, name) in states.iter().zip(&mut names).skip(1) {
        *name = match state.step {
            Step::Edges(_) => next,
            Step::Run(..) => next | STATE_RUN,
        };
        next += words_of_state(state, columns) as u32;
    }
    let name = |state: StateId| names[state as usize];
    let mut out = Vec::with_capacity(words(states, columns));
    for (index, state) in states.iter().enumerate().skip(1) {
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
                let mut here = names[index];
                for chunk in bytes.chunks(RUN_BYTES) {
                    here += abi::run::WORDS;
                    let last = here - names[index] == words_of_state(state, columns) as u32;
                    out.extend(
                        abi::run {
                            accept: accept(state.accept),
                            otherwise: name(state.default),
                            next: if last { name(*target) } else { here },
                            length: chunk.len() as u32,
                            bytes: run_words(chunk),
                        }
                        .words(),
                    );
                }
            }
        }
    }
    heap.push(&out);
    name(automaton.start)
}

/// Up to eight bytes as they lie in memory.
fn run_words(chunk: &[u8]) -> [u32; 2] {
    let mut bytes = [0; RUN_BYTES];
    bytes[..chunk.len()].copy_from_slice(chunk);
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4)]
}
