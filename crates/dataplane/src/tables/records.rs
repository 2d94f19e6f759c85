//! The records of `abi.h` as words of the heap.
//!
//! Every field is written by name and in layout order. Leaving one out does not compile; a test
//! holds order and offsets against the layout that the C compiler chose.

use crate::abi;

/// A fixed part of a generation: what `abi.h` declares as a struct.
pub(super) trait Record {
    /// Size in words of the heap.
    const WORDS: u32;

    /// Writes it over that many words, as it lies in memory.
    fn write(&self, words: &mut [u32]);

    /// Appends it, as it lies in memory.
    fn push_to(&self, words: &mut Vec<u32>) {
        let at = words.len();
        words.resize(at + Self::WORDS as usize, 0);
        self.write(&mut words[at..]);
    }

    /// The record as it lies in memory.
    fn words(&self) -> Vec<u32> {
        let mut words = Vec::new();
        self.push_to(&mut words);
        words
    }
}

trait Field {
    /// Writes it over the first bytes, and returns those behind.
    fn put<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8];
}

impl Field for [u8; 16] {
    fn put<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        let (own, rest) = bytes.split_at_mut(self.len());
        own.copy_from_slice(self);
        rest
    }
}

impl Field for [u32; 2] {
    fn put<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        self[1].put(self[0].put(bytes))
    }
}

macro_rules! number_fields {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
                let (own, rest) = bytes.split_at_mut(size_of::<$number>());
                own.copy_from_slice(&self.to_ne_bytes());
                rest
            }
        }
    )*};
}

number_fields!(u8, u16, u32, u64);

/// Bytes as words of the heap, the last one filled up with zeros.
pub(super) fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        })
        .collect()
}

macro_rules! records {
    ($($name:ident { $($field:ident),* })*) => {
        $(impl Record for abi::$name {
            const WORDS: u32 = (size_of::<abi::$name>() / 4) as u32;

            fn write(&self, words: &mut [u32]) {
                let mut bytes = [0; size_of::<abi::$name>()];
                let mut rest = &mut bytes[..];
                let abi::$name { $($field),* } = self;
                $(rest = $field.put(rest);)*
                debug_assert!(rest.is_empty());
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *word = u32::from_ne_bytes(*bytes);
                }
            }
        })*

        #[cfg(test)]
        mod tests {
            use super::*;

            $(#[test]
            fn $name() {
                const SIZE: usize = size_of::<abi::$name>();
                let record = abi::$name::default();
                let mut bytes = [0; SIZE];
                let mut rest = &mut bytes[..];
                $(
                    assert_eq!(SIZE - rest.len(), std::mem::offset_of!(abi::$name, $field));
                    rest = record.$field.put(rest);
                )*
                assert_eq!(rest.len(), 0, "no padding at the end");
                assert_eq!(SIZE % 4, 0, "whole words");
                assert_eq!(record.words().len() as u32, <abi::$name as Record>::WORDS);
            })*
        }
    };
}

records! {
    frontend { ip, port, transport, protocol, cluster, table, guarded, guard }
    cluster { id, endpoints, count, total }
    endpoint { ip, port, family, up_to }
    member { ip, port, cluster }
    workload { ip, number, guard, leave, remote, first }
    guard { network, connections, carriers, requests, visits, limits }
    rate_limits { count, pad }
    rate_limit { id, interval, capacity, fill, enabled, enforced, per_caller, port, unless, table, answer, pad }
    table { flags, classes, any, hosts, no_route }
    paths { exact, folded }
    run { accept, otherwise, next, length, bytes }
    machine { classes, start }
    group { count, predicates }
    candidate { need, forbid, methods, rule, action, order }
    predicate { subject, comparison, name_hash, name, name_length, value, value_length }
    range { from_high, from_low, to_high, to_low }
    action { kind, shares, count, total, answer }
    share { cluster, up_to }
    answer { status, length }
}
