//! Literals and patterns, run side by side as one deterministic automaton.
//!
//! A state of the result stands for a place in a tree of literals, one in a tree of literals whose
//! case does not matter, and the states of all patterns that are still alive. A place off a tree
//! has only a set left: what the prefixes on the way there accept. Where neither a pattern nor the
//! second tree has anything to say, the rest of the first tree is taken over as it is, which makes
//! thousands of literals cheap.

use rustc_hash::FxHashMap;

use super::pattern::{Dfa, Pattern, Regex};
use super::sets::{SetId, Sets};
use super::state::{State, StateId, Step, TooLarge};
use super::trie::{NodeId, Trie};

/// States that a heap full of the smallest could hold.
const STATES: usize = 1 << 17;

/// What an automaton is made of.
pub(super) struct Parts {
    literal: Trie,
    folded: Trie,
    patterns: Vec<(Pattern, Vec<u32>)>,
    known: FxHashMap<Regex, usize>,
}

impl Default for Parts {
    fn default() -> Parts {
        let (literal, folded) = (Trie::new(false), Trie::new(true));
        Parts { literal, folded, patterns: Vec::new(), known: FxHashMap::default() }
    }
}

impl Parts {
    /// The tree of literals, with or without regard to case.
    pub fn literals(&mut self, fold: bool) -> &mut Trie {
        if fold { &mut self.folded } else { &mut self.literal }
    }

    /// What a pattern holds for is accepted as `value`; `regex` is what it was made of.
    pub fn pattern(&mut self, regex: &Regex, pattern: &Pattern, value: u32) {
        if let Some(index) = self.known.get(regex) {
            return self.patterns[*index].1.push(value);
        }
        let index = self.patterns.len();
        self.known.insert(regex.clone(), index);
        self.patterns.push((pattern.clone(), vec![value]));
        self.literal.pattern(&pattern.prefix, index as u32);
    }

    /// Appends the states to `out` and returns the first. With `runs`, states without a branch
    /// become runs.
    pub fn append(
        &self,
        sets: &mut dyn Sets,
        out: &mut Vec<State>,
        runs: bool,
    ) -> Result<StateId, TooLarge> {
        let literal = Accepts::of(&self.literal, sets);
        let folded = Accepts::of(&self.folded, sets);
        let mut composer = Composer {
            parts: self,
            accepts: [literal, folded],
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

/// A place in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// Behind so many bytes of a node's label; at the node when it is all of them.
    On(NodeId, u32),
    /// Off the tree, for good.
    Off(SetId),
}

/// What a state of the result stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tuple {
    /// In the tree of literals, and in that where case does not matter.
    places: [Place; 2],
    /// Patterns and their states.
    live: Vec<(u32, u32)>,
}

struct Composer<'a> {
    parts: &'a Parts,
    accepts: [Accepts; 2],
    sets: &'a mut dyn Sets,
    out: &'a mut Vec<State>,
    runs: bool,
    known: FxHashMap<Tuple, StateId>,
    queue: Vec<(StateId, Tuple)>,
    /// States that behave alike are one.
    unique: FxHashMap<State, StateId>,
    /// The state that is never left, by what it accepts.
    loops: FxHashMap<SetId, StateId>,
    /// Nodes of the tree of literals that were taken over, with what was accepted besides.
    nodes: FxHashMap<(NodeId, SetId), StateId>,
    unions: FxHashMap<(SetId, SetId), SetId>,
    /// The states of patterns that were alone, with what was accepted besides.
    copies: FxHashMap<(u32, SetId), Vec<StateId>>,
}

impl<'a> Composer<'a> {
    fn run(&mut self) -> Result<StateId, TooLarge> {
        let places = [0, 1].map(|which| self.beginning(which));
        let start = self.enter(Tuple { places, live: Vec::new() });
        while let Some((id, tuple)) = self.queue.pop() {
            let state = self.state(&tuple);
            self.out[id as usize] = state;
            if self.out.len() > STATES {
                return Err(TooLarge);
            }
        }
        Ok(start)
    }

    /// The root; off the tree at once when there is nothing on it.
    fn beginning(&self, which: usize) -> Place {
        let root = self.trie(which).node(Trie::ROOT);
        if root.children.is_empty() && root.ends.is_empty() && root.patterns.is_empty() {
            Place::Off(self.accepts[which].passes[Trie::ROOT as usize])
        } else {
            Place::On(Trie::ROOT, 0)
        }
    }

    fn trie(&self, which: usize) -> &Trie {
        if which == 0 { &self.parts.literal } else { &self.parts.folded }
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
        let begun = self.patterns_at(tuple.places[0]);
        tuple.live.extend(begun.iter().map(|pattern| (*pattern, self.dfa(*pattern).start)));
        self.retire(&mut tuple);
        match (tuple.places, tuple.live.as_slice()) {
            ([Place::Off(a), Place::Off(b)], []) => {
                let set = self.union(a, b);
                return self.forever(set);
            }
            ([Place::Off(a), Place::Off(b)], [(pattern, state)]) => {
                let set = self.union(a, b);
                return self.copy(*pattern, *state, set);
            }
            ([Place::On(node, offset), Place::Off(besides)], []) if begun.is_empty() => {
                return self.take_over(node, offset, besides);
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
        match place {
            Place::On(node, offset) => {
                let parts: &'a Parts = self.parts;
                let node = parts.literal.node(node);
                if offset as usize == node.label.len() { &node.patterns } else { &[] }
            }
            Place::Off(_) => &[],
        }
    }

    /// Patterns that accept whatever follows become part of a set.
    fn retire(&mut self, tuple: &mut Tuple) {
        tuple.live.retain(|(_, state)| *state != 0);
        tuple.live.sort_unstable();
        let Place::Off(mut besides) = tuple.places[1] else { return };
        let sure = |(pattern, state): &(u32, u32)| self.dfa(*pattern).is_sure(*state);
        if tuple.live.iter().any(sure) {
            let retired = tuple.live.iter().filter(|live| sure(live));
            let values = self.values(retired.map(|(pattern, _)| *pattern));
            tuple.live.retain(|live| !sure(live));
            besides = self.sets.union(&[besides], &values);
            tuple.places[1] = Place::Off(besides);
        }
    }

    /// Takes over a pattern that nothing is left beside; returns one of its states.
    fn copy(&mut self, pattern: u32, state: u32, besides: SetId) -> StateId {
        if let Some(names) = self.copies.get(&(pattern, besides)) {
            return names[state as usize];
        }
        let parts = self.parts;
        let (Pattern { rest: dfa, .. }, values) = &parts.patterns[pattern as usize];
        let held = self.sets.union(&[besides], values);
        let mut names = vec![self.forever(besides)];
        for at in 1..dfa.states.len() as u32 {
            let sure = dfa.is_sure(at);
            names.push(if sure { self.forever(held) } else { self.push(State::default()) });
        }
        let name = |at: u32| names[at as usize];
        for (at, from) in (0..).zip(&dfa.states).skip(1).filter(|(at, _)| !dfa.is_sure(*at)) {
            let edges = from.edges.iter().map(|(byte, next)| (*byte, name(*next))).collect();
            let default = name(from.default);
            let accept = if from.accept { held } else { besides };
            self.out[name(at) as usize] =
                State { accept, default, step: self.step(edges, default) };
        }
        let name = name(state);
        self.copies.insert((pattern, besides), names);
        name
    }

    fn values(&self, patterns: impl Iterator<Item = u32>) -> Vec<u32> {
        patterns.flat_map(|p| self.parts.patterns[p as usize].1.iter().copied()).collect()
    }

    fn push(&mut self, state: State) -> StateId {
        self.out.push(state);
        self.out.len() as StateId - 1
    }

    fn share(&mut self, state: State) -> StateId {
        if let Some(id) = self.unique.get(&state) {
            return *id;
        }
        let id = self.push(state.clone());
        self.unique.insert(state, id);
        id
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

    /// The state for a place in the tree of literals where nothing else is alive.
    fn take_over(&mut self, node: NodeId, offset: u32, besides: SetId) -> StateId {
        self.take_over_below(node, besides);
        self.inside(node, offset, besides)
    }

    /// Takes over a node and all below, but for those where patterns begin.
    fn take_over_below(&mut self, top: NodeId, besides: SetId) {
        let trie = &self.parts.literal;
        let (nodes, parts) = (&self.nodes, self.parts);
        let fresh = |node: NodeId| {
            parts.literal.node(node).patterns.is_empty() && !nodes.contains_key(&(node, besides))
        };
        for id in trie.preorder(top, fresh).into_iter().rev() {
            let node = trie.node(id);
            let edges: Vec<(u8, StateId)> = node
                .children
                .iter()
                .map(|child| (trie.node(*child).label[0], self.inside(*child, 1, besides)))
                .collect();
            let accept = self.union(self.accepts[0].ends[id as usize], besides);
            let passes = self.union(self.accepts[0].passes[id as usize], besides);
            let default = self.forever(passes);
            let state = if edges.is_empty() && accept == passes {
                default
            } else {
                let step = self.step(edges, default);
                self.share(State { accept, default, step })
            };
            self.nodes.insert((id, besides), state);
        }
    }

    /// The state behind some bytes of the label of a node that is taken over.
    fn inside(&mut self, node: NodeId, offset: u32, besides: SetId) -> StateId {
        let parts = self.parts;
        let label = &parts.literal.node(node).label;
        let end = match self.nodes.get(&(node, besides)) {
            Some(end) => *end,
            // patterns begin there
            None => self.enter(Tuple {
                places: [Place::On(node, label.len() as u32), Place::Off(besides)],
                live: Vec::new(),
            }),
        };
        let rest = &label[offset as usize..];
        if rest.is_empty() {
            return end;
        }
        let accept = self.union(self.accepts[0].before[node as usize], besides);
        let default = self.forever(accept);
        if self.runs {
            return self.share(State { accept, default, step: Step::Run(rest.to_vec(), end) });
        }
        rest.iter().rev().fold(end, |next, byte| {
            self.share(State { accept, default, step: Step::Edges(vec![(*byte, next)]) })
        })
    }

    /// The state for places and patterns side by side.
    fn state(&mut self, tuple: &Tuple) -> State {
        let mut bytes: Vec<u8> = Vec::new();
        for (which, place) in tuple.places.iter().enumerate() {
            self.bytes_of(which, *place, &mut bytes);
        }
        for (pattern, state) in &tuple.live {
            bytes.extend(self.dfa(*pattern).state(*state).edges.iter().map(|(byte, _)| *byte));
        }
        bytes.sort_unstable();
        bytes.dedup();
        let default = self.enter(self.after(tuple, None));
        let edges: Vec<(u8, StateId)> = bytes
            .into_iter()
            .map(|byte| (byte, self.enter(self.after(tuple, Some(byte)))))
            .filter(|(_, target)| *target != default)
            .collect();
        let accepted = tuple.live.iter().filter(|(p, at)| self.dfa(*p).state(*at).accept);
        let values = self.values(accepted.map(|(pattern, _)| *pattern));
        let [literal, folded] = [0, 1].map(|which| self.accepted(which, tuple.places[which]));
        let mut accept = self.union(literal, folded);
        if !values.is_empty() {
            accept = self.sets.union(&[accept], &values);
        }
        State { accept, default, step: self.step(edges, default) }
    }

    fn accepted(&self, which: usize, place: Place) -> SetId {
        let accepts = &self.accepts[which];
        match place {
            Place::Off(set) => set,
            Place::On(node, offset)
                if offset as usize == self.trie(which).node(node).label.len() =>
            {
                accepts.ends[node as usize]
            }
            Place::On(node, _) => accepts.before[node as usize],
        }
    }

    /// The bytes by which a place stays on its tree.
    fn bytes_of(&self, which: usize, place: Place, bytes: &mut Vec<u8>) {
        let Place::On(node, offset) = place else { return };
        let trie = self.trie(which);
        let begin = bytes.len();
        match trie.node(node).label.get(offset as usize) {
            Some(byte) => bytes.push(*byte),
            None => {
                let children = &trie.node(node).children;
                bytes.extend(children.iter().map(|child| trie.node(*child).label[0]));
            }
        }
        if which == 1 {
            let upper: Vec<u8> = bytes[begin..].iter().map(u8::to_ascii_uppercase).collect();
            bytes.extend(upper);
        }
    }

    /// Where a byte leads; `None` stands for every byte that has no edge.
    fn after(&self, tuple: &Tuple, byte: Option<u8>) -> Tuple {
        let places = [0, 1].map(|which| self.next(which, tuple.places[which], byte));
        let next = |(pattern, at): &(u32, u32)| {
            let state = self.dfa(*pattern).state(*at);
            (*pattern, byte.map_or(state.default, |byte| state.next(byte)))
        };
        Tuple { places, live: tuple.live.iter().map(next).collect() }
    }

    fn next(&self, which: usize, place: Place, byte: Option<u8>) -> Place {
        let Place::On(node, offset) = place else { return place };
        let (trie, accepts) = (self.trie(which), &self.accepts[which]);
        let byte = byte.map(|byte| if which == 1 { byte.to_ascii_lowercase() } else { byte });
        match trie.node(node).label.get(offset as usize) {
            Some(wanted) if byte == Some(*wanted) => Place::On(node, offset + 1),
            Some(_) => Place::Off(accepts.before[node as usize]),
            None => match byte.and_then(|byte| trie.child(node, byte)) {
                Some(child) => Place::On(child, 1),
                None => Place::Off(accepts.passes[node as usize]),
            },
        }
    }
}
