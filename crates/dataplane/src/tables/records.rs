//! The records of `abi.h` as words of the heap.
//!
//! Every field is written by name and in layout order. Leaving one out does not compile; a test
//! holds order and offsets against the layout that the C compiler chose.

use crate::abi;

/// A fixed part of a generation: what `abi.h` declares as a struct.
pub(super) trait Record {
    /// Size in words of the heap.
    const WORDS: u32;

    /// The record as it lies in memory.
    fn words(&self) -> Vec<u32>;
}

trait Field {
    fn put(&self, bytes: &mut Vec<u8>);
}

impl Field for [u8; 16] {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self);
    }
}

impl Field for [u32; 2] {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.iter().for_each(|word| word.put(bytes));
    }
}

macro_rules! number_fields {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_ne_bytes());
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

            fn words(&self) -> Vec<u32> {
                let mut bytes = Vec::with_capacity(size_of::<abi::$name>());
                let abi::$name { $($field),* } = self;
                $($field.put(&mut bytes);)*
                words_of(&bytes)
            }
        })*

        #[cfg(test)]
        mod tests {
            use super::*;

            $(#[test]
            fn $name() {
                let record = abi::$name::default();
                let mut bytes = Vec::new();
                $(
                    assert_eq!(bytes.len(), std::mem::offset_of!(abi::$name, $field));
                    record.$field.put(&mut bytes);
                )*
                assert_eq!(bytes.len(), size_of::<abi::$name>(), "no padding at the end");
                assert_eq!(bytes.len() % 4, 0, "whole words");
                assert_eq!(record.words().len() as u32, <abi::$name as Record>::WORDS);
            })*
        }
    };
}

records! {
    frontend { ip, port, transport, protocol, cluster, table, guarded }
    cluster { id, endpoints, count, total }
    endpoint { ip, port, family, up_to }
    member { ip, port, cluster }
    workload { ip, number, guard, leave, remote, first }
    guard { network, connections, carriers, requests, limits }
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
