//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B). It is canonical, so the lengths of
//! the codes are all there is to know.

use std::sync::LazyLock;

/// Bits of each byte's code. EOS, which follows them, has 30.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const EOS: usize = 256;

/// What half a byte leads to from some place in a code.
#[derive(Clone, Copy, Default)]
struct Step {
    /// The place in the next code.
    next: u8,
    /// It ends a code, that of `symbol`.
    ends: bool,
    /// It leads to EOS, which must not be there.
    broken: bool,
    symbol: u8,
}

struct Machine {
    steps: Vec<[Step; 16]>,
    /// Places at which the whole may end: after fewer than eight bits of EOS, all of them ones.
    last: Vec<bool>,
}

static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::new);

/// A place in the tree of codes, or the symbol at the end of one.
#[derive(Clone, Copy)]
enum Node {
    Inner(usize),
    Symbol(usize),
}

/// The tree as pairs of what zero and one lead to; the first is the root.
fn tree() -> Vec<[Option<Node>; 2]> {
    let length = |symbol: usize| LENGTHS.get(symbol).map_or(30, |bits| usize::from(*bits));
    let mut symbols: Vec<usize> = (0..=EOS).collect();
    symbols.sort_by_key(|symbol| (length(*symbol), *symbol));
    let mut tree = vec![[None; 2]];
    let (mut code, mut bits) = (0u32, 0);
    for symbol in symbols {
        code <<= length(symbol) - bits;
        bits = length(symbol);
        let mut at = 0;
        for bit in (0..bits).rev() {
            let side = (code >> bit & 1) as usize;
            let next = match tree[at][side] {
                _ if bit == 0 => Node::Symbol(symbol),
                Some(node) => node,
                None => {
                    tree.push([None; 2]);
                    Node::Inner(tree.len() - 1)
                }
            };
            tree[at][side] = Some(next);
            if let Node::Inner(inner) = next {
                at = inner;
            }
        }
        code += 1;
    }
    tree
}

impl Machine {
    fn new() -> Machine {
        let tree = tree();
        let step = |from: usize, nibble: usize| {
            let (mut at, mut step) = (from, Step::default());
            for bit in (0..4).rev() {
                match tree[at][nibble >> bit & 1] {
                    Some(Node::Inner(inner)) => at = inner,
                    Some(Node::Symbol(EOS)) | None => step.broken = true,
                    Some(Node::Symbol(symbol)) => {
                        (step.ends, step.symbol, at) = (true, symbol as u8, 0);
                    }
                }
            }
            Step { next: at as u8, ..step }
        };
        let mut last = vec![false; tree.len()];
        let mut at = 0;
        for _ in 0..8 {
            last[at] = true;
            let Some(Node::Inner(inner)) = tree[at][1] else { break };
            at = inner;
        }
        let steps = (0..tree.len()).map(|from| std::array::from_fn(|nibble| step(from, nibble)));
        Machine { steps: steps.collect(), last }
    }
}

/// Appends what `coded` stands for; `None`: it stands for nothing.
pub(super) fn decode(coded: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let machine = &*MACHINE;
    let mut at = 0;
    for byte in coded {
        for nibble in [byte >> 4, byte & 15] {
            let step = machine.steps[at][usize::from(nibble)];
            if step.broken {
                return None;
            }
            if step.ends {
                into.push(step.symbol);
            }
            at = usize::from(step.next);
        }
    }
    machine.last[at].then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (coded, text) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"", ""),
        ] {
            assert_eq!(decoded(coded).as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn padding_is_ones_and_shorter_than_a_byte() {
        for coded in [&b"\xff"[..], b"\x1f\xff", b"\x18", b"\xff\xff\xff\xff", b"\x64"] {
            assert_eq!(decoded(coded), None, "{coded:x?}");
        }
    }

    #[test]
    fn every_byte_has_a_code_that_fills_the_tree() {
        let tree = tree();
        assert_eq!(tree.len(), 256);
        assert!(tree.iter().flatten().all(Option::is_some));
    }
}
