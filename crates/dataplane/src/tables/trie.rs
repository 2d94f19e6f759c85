//! Many literal strings as one tree, in which bytes that never branch stand together.

/// Literals and prefixes, each with the values that it accepts, and the patterns that go on where
/// a literal ends.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

/// A node, by its index; parents may stand behind their children.
pub(super) type NodeId = u32;

/// Where strings branch or end.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Bytes from the parent to here; of the root none.
    pub label: Vec<u8>,
    /// In order of their first bytes, which differ.
    pub children: Vec<NodeId>,
    /// Accepted by a string that ends here.
    pub ends: Vec<u32>,
    /// Accepted by every string that comes through here.
    pub passes: Vec<u32>,
    /// Patterns for what follows.
    pub patterns: Vec<u32>,
}

impl Trie {
    /// The root.
    pub const ROOT: NodeId = 0;

    /// No literal at all.
    pub fn new() -> Trie {
        Trie { nodes: vec![Node::default()] }
    }

    /// A string that begins with `literal` is accepted as `value`.
    pub fn prefix(&mut self, literal: &[u8], value: u32) {
        self.node_mut(literal).passes.push(value);
    }

    /// `literal` itself is accepted as `value`.
    pub fn exact(&mut self, literal: &[u8], value: u32) {
        self.node_mut(literal).ends.push(value);
    }

    /// What follows `literal` is read by a pattern.
    pub fn pattern(&mut self, literal: &[u8], pattern: u32) {
        self.node_mut(literal).patterns.push(pattern);
    }

    /// A node.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize]
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The child whose label begins with a byte.
    pub fn child(&self, node: NodeId, byte: u8) -> Option<NodeId> {
        let children = &self.node(node).children;
        let found = children.binary_search_by_key(&byte, |child| self.node(*child).label[0]);
        found.ok().map(|at| children[at])
    }

    /// All nodes below and with `top`, parents first. `enter` says whether to look at a node.
    pub fn preorder(&self, top: NodeId, enter: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let mut order = Vec::new();
        let mut stack = vec![top];
        while let Some(node) = stack.pop() {
            if enter(node) {
                order.push(node);
                stack.extend(self.node(node).children.iter().rev());
            }
        }
        order
    }

    fn node_mut(&mut self, literal: &[u8]) -> &mut Node {
        let mut rest = literal;
        let mut at = Self::ROOT;
        while let Some(first) = rest.first() {
            let Some(child) = self.child(at, *first) else {
                at = self.add_child(at, rest.to_vec());
                break;
            };
            let label = &self.node(child).label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            at = if common < label.len() { self.split(at, child, common) } else { child };
            rest = &rest[common..];
        }
        &mut self.nodes[at as usize]
    }

    fn push(&mut self, label: Vec<u8>) -> NodeId {
        self.nodes.push(Node { label, ..Node::default() });
        self.nodes.len() as NodeId - 1
    }

    fn add_child(&mut self, parent: NodeId, label: Vec<u8>) -> NodeId {
        let first = label[0];
        let place =
            self.node(parent).children.partition_point(|child| self.node(*child).label[0] < first);
        let child = self.push(label);
        self.nodes[parent as usize].children.insert(place, child);
        child
    }

    /// Puts a node between `parent` and `child`, `at` bytes behind the parent.
    fn split(&mut self, parent: NodeId, child: NodeId, at: usize) -> NodeId {
        let below = self.nodes[child as usize].label.split_off(at);
        let above = std::mem::replace(&mut self.nodes[child as usize].label, below);
        let middle = self.push(above);
        self.nodes[middle as usize].children.push(child);
        let siblings = &mut self.nodes[parent as usize].children;
        let place = siblings.iter().position(|node| *node == child).expect("a child of its parent");
        siblings[place] = middle;
        middle
    }
}
