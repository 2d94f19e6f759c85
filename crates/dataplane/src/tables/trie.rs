//! Many literal strings as one deterministic automaton: built in one pass over their bytes, which
//! determinising a regular expression of them is not.

use std::collections::{BTreeMap, HashMap};

use super::product::{Edges, Machine, merge_edges};
use super::sets::{SetId, Sets};

/// Literals and prefixes, each with the values that it accepts.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// Bytes are compared without regard to ASCII case.
    fold: bool,
}

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<u8, u32>,
    /// Accepted by a string that ends here.
    ends: Vec<u32>,
    /// Accepted by every string that comes through here.
    passes: Vec<u32>,
}

impl Trie {
    /// No literal at all.
    pub fn new(fold: bool) -> Trie {
        Trie { nodes: vec![Node::default()], fold }
    }

    /// A string that begins with `literal` is accepted as `value`.
    pub fn prefix(&mut self, literal: &[u8], value: u32) {
        let node = self.node(literal);
        self.nodes[node].passes.push(value);
    }

    /// `literal` itself is accepted as `value`.
    pub fn exact(&mut self, literal: &[u8], value: u32) {
        let node = self.node(literal);
        self.nodes[node].ends.push(value);
    }

    fn node(&mut self, literal: &[u8]) -> usize {
        let mut at = 0;
        for byte in literal {
            let byte = if self.fold { byte.to_ascii_lowercase() } else { *byte };
            let fresh = self.nodes.len() as u32;
            let next = *self.nodes[at].children.entry(byte).or_insert(fresh);
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next as usize;
        }
        at
    }

    /// The automaton. Nodes that behave alike share a state, so that all exact paths of one rule
    /// end in one.
    pub fn build(self, sets: &mut dyn Sets) -> Machine {
        // what was accepted on the way; children stand behind their parents
        let mut passed: Vec<SetId> = vec![0; self.nodes.len()];
        passed[0] = sets.union(&[], &self.nodes[0].passes);
        for (index, node) in self.nodes.iter().enumerate() {
            for child in node.children.values() {
                let passes = &self.nodes[*child as usize].passes;
                passed[*child as usize] = if passes.is_empty() {
                    passed[index]
                } else {
                    sets.union(&[passed[index]], passes)
                };
            }
        }
        let mut machine = Machine::new();
        let mut known: HashMap<(SetId, u32, Edges), u32> = HashMap::new();
        let mut beyond: HashMap<SetId, u32> = HashMap::from([(0, 0)]);
        let mut states = vec![0; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let set = passed[index];
            // off the trie nothing new is accepted, nor is anything lost
            let default = *beyond.entry(set).or_insert_with(|| machine.push_loop(set));
            let accept = if node.ends.is_empty() { set } else { sets.union(&[set], &node.ends) };
            let edges = self.edges(node, &states, default);
            states[index] = if edges.is_empty() && accept == set {
                default
            } else {
                *known.entry((accept, default, edges)).or_insert_with_key(
                    |(accept, default, edges)| machine.push(*accept, *default, edges.clone()),
                )
            };
        }
        machine.start = states[0];
        machine
    }

    fn edges(&self, node: &Node, states: &[u32], default: u32) -> Edges {
        let edges = node.children.iter().flat_map(|(byte, child)| {
            let target = states[*child as usize];
            let other = if self.fold { byte.to_ascii_uppercase() } else { *byte };
            [(other, target), (*byte, target)]
        });
        merge_edges(edges.filter(|(_, target)| *target != default).collect())
    }
}
