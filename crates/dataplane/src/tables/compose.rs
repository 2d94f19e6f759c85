//! Literals and patterns, run side by side as one deterministic automaton.
//!
//! A state of the result stands for a place in the tree of literals, for the states of all patterns
//! that are still alive, and for a set that is accepted whatever follows. Where no pattern is alive
//! the rest of the tree is taken over as it is, and a pattern off the tree likewise, which makes
//! thousands of them cheap.

use std::hash::BuildHasher;

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::pattern::{Dfa, Pattern, Regex};
use super::sets::{SetId, Sets};
use super::state::{State, StateId, Step, TooLarge};
use super::trie::{NodeId, Trie};

/// States that a heap full of the smallest could hold.
const STATES: usize = 1 << 17;

/// What an automaton is made of.
pub(super) struct Parts {
    literals: Trie,
    patterns: Vec<(Pattern, Vec<u32>)>,
    known: FxHashMap<Regex, usize>,
}

impl Parts {
    /// Nothing.
    pub fn new() -> Parts {
        Parts { literals: Trie::new(), patterns: Vec::new(), known: FxHashMap::default() }
    }

    /// The tree of literals.
    pub fn literals(&mut self) -> &mut Trie {
        &mut self.literals
    }

    /// What a pattern holds for is accepted as `value`; `regex` is what it was made of.
    pub fn pattern(&mut self, regex: &Regex, pattern: &Pattern, value: u32) {
        if let Some(index) = self.known.get(regex) {
            return self.patterns[*index].1.push(value);
        }
        let index = self.patterns.len();
        self.known.insert(regex.clone(), index);
        self.patterns.push((pattern.clone(), vec![value]));
        self.literals.pattern(&pattern.prefix, index as u32);
    }

    /// Appends the states to `out` and returns the first. With `runs`, states without a branch
    /// become runs.
    pub fn append(
        &self,
        sets: &mut dyn Sets,
        out: &mut Vec<State>,
        runs: bool,
    ) -> Result<StateId, TooLarge> {
        let accepts = Accepts::of(&self.literals, sets);
        let mut composer = Composer {
            parts: self,
            accepts,
            sets,
            out,
            runs,
            known: FxHashMap::default(),
            queue: Vec::new(),
            unique: FxHashMap::default(),
            loops: FxHashMap::default(),
            nodes: FxHashMap::default(),
            unions: FxHashMap::default(),
            copies: FxHashMap::default(),
        };
        composer.run()
    }
}

/// What the nodes of a tree accept.
struct Accepts {
    /// A string that ends there.
    ends: Vec<SetId>,
    /// A string that comes through.
    passes: Vec<SetId>,
    /// A string that ends inside the label.
    before: Vec<SetId>,
}

impl Accepts {
    fn of(trie: &Trie, sets: &mut dyn Sets) -> Accepts {
        let zeros = || vec![0; trie.len()];
        let mut accepts = Accepts { ends: zeros(), passes: zeros(), before: zeros() };
        for id in trie.preorder(Trie::ROOT, |_| true) {
            let (index, node) = (id as usize, trie.node(id));
            let mut grown = |set: SetId, more: &[u32]| {
                if more.is_empty() { set } else { sets.union(&[set], more) }
            };
            let passes = grown(accepts.before[index], &node.passes);
            accepts.passes[index] = passes;
            accepts.ends[index] = grown(passes, &node.ends);
            for child in &node.children {
                accepts.before[*child as usize] = passes;
            }
        }
        accepts
    }
}

/// A place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// Behind so many bytes of a node's label; at the node when it is all of them.
    On(NodeId, u32),
    /// Off the tree, for good.
    Off,
}

/// What a state of the result stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tuple {
    /// In the tree.
    place: Place,
    /// Accepted whatever follows, beside what the place and the patterns say.
    sure: SetId,
    /// Patterns and their states.
    live: Vec<(u32, u32)>,
}

struct Composer<'a> {
    parts: &'a Parts,
    accepts: Accepts,
    sets: &'a mut dyn Sets,
    out: &'a mut Vec<State>,
    runs: bool,
    known: FxHashMap<Tuple, StateId>,
    queue: Vec<(StateId, Tuple)>,
    /// States by their hash, so that those that behave alike are one.
    unique: FxHashMap<u64, StateId>,
    /// The state that is never left, by what it accepts.
    loops: FxHashMap<SetId, StateId>,
    /// Nodes of the tree that were taken over, with what is sure there.
    nodes: FxHashMap<(NodeId, SetId), StateId>,
    /// The states of patterns that were taken over, with what is sure there.
    copies: FxHashMap<(u32, SetId), Vec<StateId>>,
    unions: FxHashMap<(SetId, SetId), SetId>,
}

impl<'a> Composer<'a> {
    fn run(&mut self) -> Result<StateId, TooLarge> {
        let place = Place::On(Trie::ROOT, 0);
        let start = self.enter(Tuple { place, sure: 0, live: Vec::new() });
        while let Some((id, tuple)) = self.queue.pop() {
            let state = self.state(&tuple);
            self.out[id as usize] = state;
            if self.out.len() > STATES {
                return Err(TooLarge);
            }
        }
        Ok(start)
    }

    fn dfa(&self, pattern: u32) -> &Dfa {
        &self.parts.patterns[pattern as usize].0.rest
    }

    fn union(&mut self, a: SetId, b: SetId) -> SetId {
        match (a, b) {
            (0, one) | (one, 0) => one,
            _ if a == b => a,
            _ => {
                let sets = &mut *self.sets;
                *self.unions.entry((a, b)).or_insert_with(|| sets.union(&[a, b], &[]))
            }
        }
    }

    /// The state for a place just reached: its patterns begin here.
    fn enter(&mut self, mut tuple: Tuple) -> StateId {
        let begun = self.patterns_at(tuple.place);
        tuple.live.extend(begun.iter().map(|pattern| (*pattern, self.dfa(*pattern).start)));
        self.retire(&mut tuple);
        match (tuple.place, tuple.live.as_slice()) {
            (Place::Off, []) => return self.forever(tuple.sure),
            (Place::Off, [(pattern, state)]) => return self.copy(*pattern, *state, tuple.sure),
            (Place::On(node, offset), []) if begun.is_empty() => {
                return self.take_over(node, offset, tuple.sure);
            }
            _ => {}
        }
        if let Some(id) = self.known.get(&tuple) {
            return *id;
        }
        let id = self.push(State::default());
        self.known.insert(tuple.clone(), id);
        self.queue.push((id, tuple));
        id
    }

    fn patterns_at(&self, place: Place) -> &'a [u32] {
        let parts: &'a Parts = self.parts;
        match place {
            Place::On(node, offset) => {
                let node = parts.literals.node(node);
                if offset as usize == node.label.len() { &node.patterns } else { &[] }
            }
            Place::Off => &[],
        }
    }

    /// Leaves out patterns that are dead; those that accept whatever follows become sure.
    fn retire(&mut self, tuple: &mut Tuple) {
        tuple.live.retain(|(_, state)| *state != 0);
        tuple.live.sort_unstable();
        let sure = |(pattern, state): &(u32, u32)| self.dfa(*pattern).is_sure(*state);
        if tuple.live.iter().any(sure) {
            let retired = tuple.live.iter().filter(|live| sure(live));
            let values = self.values(retired.map(|(pattern, _)| *pattern));
            tuple.live.retain(|live| !sure(live));
            tuple.sure = self.sets.union(&[tuple.sure], &values);
        }
    }

    /// Takes over a pattern that nothing is left beside; returns one of its states.
    fn copy(&mut self, pattern: u32, state: u32, sure: SetId) -> StateId {
        if let Some(names) = self.copies.get(&(pattern, sure)) {
            return names[state as usize];
        }
        let parts = self.parts;
        let (Pattern { rest: dfa, .. }, values) = &parts.patterns[pattern as usize];
        let held = self.sets.union(&[sure], values);
        let mut names = vec![self.forever(sure)];
        for at in 1..dfa.states.len() as u32 {
            let ends = dfa.is_sure(at);
            names.push(if ends { self.forever(held) } else { self.push(State::default()) });
        }
        let name = |at: u32| names[at as usize];
        for (at, from) in (0..).zip(&dfa.states).skip(1).filter(|(at, _)| !dfa.is_sure(*at)) {
            let edges = from.edges.iter().map(|(byte, next)| (*byte, name(*next))).collect();
            let default = name(from.default);
            let accept = if from.accept { held } else { sure };
            self.out[name(at) as usize] =
                State { accept, default, step: self.step(edges, default) };
        }
        let name = name(state);
        self.copies.insert((pattern, sure), names);
        name
    }

    fn values(&self, patterns: impl Iterator<Item = u32>) -> Vec<u32> {
        patterns.flat_map(|p| self.parts.patterns[p as usize].1.iter().copied()).collect()
    }

    fn push(&mut self, state: State) -> StateId {
        self.out.push(state);
        self.out.len() as StateId - 1
    }

    /// Finds a state that behaves alike, or appends it.
    fn share(&mut self, state: State) -> StateId {
        let hash = FxBuildHasher.hash_one(&state);
        match self.unique.get(&hash) {
            Some(id) if self.out[*id as usize] == state => *id,
            _ => {
                let id = self.push(state);
                self.unique.insert(hash, id);
                id
            }
        }
    }

    /// The state that accepts a set whatever follows.
    fn forever(&mut self, set: SetId) -> StateId {
        if set == 0 {
            return 0;
        }
        if let Some(id) = self.loops.get(&set) {
            return *id;
        }
        let id = self.out.len() as StateId;
        let step = self.step(Vec::new(), id);
        self.loops.insert(set, id);
        self.push(State { accept: set, default: id, step })
    }

    /// One byte; where nothing branches, as a run.
    fn step(&self, edges: Vec<(u8, StateId)>, default: StateId) -> Step {
        match edges[..] {
            // a byte that occurs nowhere, so that all take the default
            [] if self.runs => Step::Run(vec![0], default),
            [(byte, next)] if self.runs => Step::Run(vec![byte], next),
            _ => Step::Edges(edges),
        }
    }

    /// The state for a place where no pattern is alive.
    fn take_over(&mut self, node: NodeId, offset: u32, sure: SetId) -> StateId {
        self.take_over_below(node, sure);
        self.inside(node, offset, sure)
    }

    /// Takes over a node and all below, but for those where patterns begin.
    fn take_over_below(&mut self, top: NodeId, sure: SetId) {
        let trie = &self.parts.literals;
        let (nodes, parts) = (&self.nodes, self.parts);
        let fresh = |node: NodeId| {
            parts.literals.node(node).patterns.is_empty() && !nodes.contains_key(&(node, sure))
        };
        for id in trie.preorder(top, fresh).into_iter().rev() {
            let node = trie.node(id);
            let edges: Vec<(u8, StateId)> = node
                .children
                .iter()
                .map(|child| (trie.node(*child).label[0], self.inside(*child, 1, sure)))
                .collect();
            let accept = self.union(self.accepts.ends[id as usize], sure);
            let passes = self.union(self.accepts.passes[id as usize], sure);
            let default = self.forever(passes);
            let state = if edges.is_empty() && accept == passes {
                default
            } else {
                let step = self.step(edges, default);
                self.share(State { accept, default, step })
            };
            self.nodes.insert((id, sure), state);
        }
    }

    /// The state behind some bytes of the label of a node that is taken over.
    fn inside(&mut self, node: NodeId, offset: u32, sure: SetId) -> StateId {
        let parts = self.parts;
        let label = &parts.literals.node(node).label;
        let end = match self.nodes.get(&(node, sure)) {
            Some(end) => *end,
            // patterns begin there
            None => self.enter(Tuple {
                place: Place::On(node, label.len() as u32),
                sure,
                live: Vec::new(),
            }),
        };
        let rest = &label[offset as usize..];
        if rest.is_empty() {
            return end;
        }
        let accept = self.union(self.accepts.before[node as usize], sure);
        let default = self.forever(accept);
        if self.runs {
            return self.share(State { accept, default, step: Step::Run(rest.to_vec(), end) });
        }
        rest.iter().rev().fold(end, |next, byte| {
            self.share(State { accept, default, step: Step::Edges(vec![(*byte, next)]) })
        })
    }

    /// The state for a place and patterns side by side.
    fn state(&mut self, tuple: &Tuple) -> State {
        let mut bytes = self.bytes_of(tuple.place);
        for (pattern, state) in &tuple.live {
            bytes.extend(self.dfa(*pattern).state(*state).edges.iter().map(|(byte, _)| *byte));
        }
        bytes.sort_unstable();
        bytes.dedup();
        let default = self.after(tuple, None);
        let edges: Vec<(u8, StateId)> = bytes
            .into_iter()
            .map(|byte| (byte, self.after(tuple, Some(byte))))
            .filter(|(_, target)| *target != default)
            .collect();
        let accepted = tuple.live.iter().filter(|(p, at)| self.dfa(*p).state(*at).accept);
        let values = self.values(accepted.map(|(pattern, _)| *pattern));
        let mut accept = self.union(self.accepted(tuple.place), tuple.sure);
        if !values.is_empty() {
            accept = self.sets.union(&[accept], &values);
        }
        State { accept, default, step: self.step(edges, default) }
    }

    fn accepted(&self, place: Place) -> SetId {
        let Place::On(node, offset) = place else { return 0 };
        let at_node = offset as usize == self.parts.literals.node(node).label.len();
        let sets = if at_node { &self.accepts.ends } else { &self.accepts.before };
        sets[node as usize]
    }

    /// The bytes by which a place stays on the tree.
    fn bytes_of(&self, place: Place) -> Vec<u8> {
        let Place::On(node, offset) = place else { return Vec::new() };
        let trie = &self.parts.literals;
        match trie.node(node).label.get(offset as usize) {
            Some(byte) => vec![*byte],
            None => {
                let children = &trie.node(node).children;
                children.iter().map(|child| trie.node(*child).label[0]).collect()
            }
        }
    }

    /// Where a byte leads; `None` stands for every byte that has no edge.
    fn after(&mut self, tuple: &Tuple, byte: Option<u8>) -> StateId {
        let (place, passed) = self.next(tuple.place, byte);
        let next = |(pattern, at): &(u32, u32)| {
            let state = self.dfa(*pattern).state(*at);
            (*pattern, byte.map_or(state.default, |byte| state.next(byte)))
        };
        let live = tuple.live.iter().map(next).collect();
        let sure = self.union(tuple.sure, passed);
        self.enter(Tuple { place, sure, live })
    }

    /// The next place, and what prefixes on the way accept if it is off the tree.
    fn next(&self, place: Place, byte: Option<u8>) -> (Place, SetId) {
        let Place::On(node, offset) = place else { return (place, 0) };
        let (trie, accepts) = (&self.parts.literals, &self.accepts);
        match trie.node(node).label.get(offset as usize) {
            Some(wanted) if byte == Some(*wanted) => (Place::On(node, offset + 1), 0),
            Some(_) => (Place::Off, accepts.before[node as usize]),
            None => match byte.and_then(|byte| trie.child(node, byte)) {
                Some(child) => (Place::On(child, 1), 0),
                None => (Place::Off, accepts.passes[node as usize]),
            },
        }
    }
}
