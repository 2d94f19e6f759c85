//! Deterministic automata over bytes, and several of them run side by side as one.

use std::collections::HashMap;

use super::sets::{SetId, Sets};

/// Transitions that differ from a state's default, in order of bytes.
pub(super) type Edges = Vec<(u8, u32)>;

/// A deterministic automaton. State 0 is dead: it accepts nothing and stays.
#[derive(Debug)]
pub(super) struct Machine {
    /// Indexed by state.
    pub states: Vec<State>,
    /// Where it begins.
    pub start: u32,
}

/// One state.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// What a string that ends here is accepted as.
    pub accept: SetId,
    /// Where every byte without an edge leads.
    pub default: u32,
    /// All other transitions.
    pub edges: Edges,
}

/// More states than the tables can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Machine {
    /// The automaton that accepts nothing.
    pub fn new() -> Machine {
        Machine { states: vec![State::default()], start: 0 }
    }

    /// Appends a state.
    pub fn push(&mut self, accept: SetId, default: u32, edges: Edges) -> u32 {
        self.states.push(State { accept, default, edges });
        self.states.len() as u32 - 1
    }

    /// Appends a state that is never left.
    pub fn push_loop(&mut self, accept: SetId) -> u32 {
        let state = self.states.len() as u32;
        self.push(accept, state, Edges::new())
    }

    fn state(&self, state: u32) -> &State {
        &self.states[state as usize]
    }
}

impl State {
    /// Where a byte leads.
    pub fn next(&self, byte: u8) -> u32 {
        match self.edges.binary_search_by_key(&byte, |(byte, _)| *byte) {
            Ok(at) => self.edges[at].1,
            Err(_) => self.default,
        }
    }
}

/// Sorts edges and leaves out repetitions.
pub(super) fn merge_edges(mut edges: Edges) -> Edges {
    edges.sort_unstable();
    edges.dedup();
    edges
}

type Tuple = [u32; 3];

/// Appends to `out` the states of three automata run side by side, which accept what any of the
/// three does; returns the first state. At most `limit` states in `out`.
pub(super) fn append_product(
    parts: [&Machine; 3],
    sets: &mut dyn Sets,
    out: &mut Vec<State>,
    limit: usize,
) -> Result<u32, TooLarge> {
    let mut known: HashMap<Tuple, u32> = HashMap::from([([0; 3], 0)]);
    let mut order: Vec<Tuple> = Vec::new();
    let base = out.len() as u32;
    let start = parts.map(|part| part.start);
    let mut number = |tuple: Tuple, order: &mut Vec<Tuple>| {
        *known.entry(tuple).or_insert_with(|| {
            order.push(tuple);
            base + order.len() as u32 - 1
        })
    };
    let first = number(start, &mut order);
    let mut at = 0;
    while at < order.len() {
        if out.len() >= limit {
            return Err(TooLarge);
        }
        let now = [0, 1, 2].map(|i| parts[i].state(order[at][i]));
        let mut bytes: Vec<u8> = now.iter().flat_map(|s| s.edges.iter().map(|e| e.0)).collect();
        bytes.sort_unstable();
        bytes.dedup();
        let default = number(now.map(|state| state.default), &mut order);
        let edges = bytes
            .into_iter()
            .map(|byte| (byte, number(now.map(|state| state.next(byte)), &mut order)))
            .filter(|(_, target)| *target != default)
            .collect();
        let accepts: Vec<SetId> = now.iter().map(|s| s.accept).filter(|set| *set != 0).collect();
        let accept = if let [one] = accepts[..] { one } else { sets.union(&accepts, &[]) };
        out.push(State { accept, default, edges });
        at += 1;
    }
    Ok(first)
}
