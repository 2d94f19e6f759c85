//! The heap of a generation while it grows, and the hash tables in it.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::Range;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::Error;
use super::answers;
use super::records::Record;
use crate::abi;

/// Words that a generation's heap can hold.
pub(super) const HEAP_WORDS: usize = abi::limits::HEAP_WORDS.0 as usize;
const PROBES: u32 = abi::limits::PROBES.0;

const FNV_BASIS: u32 = 2_166_136_261;
const NAME_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
const NAME_PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
const MIX: u32 = 0x9E37_79B1;

/// An address as the tables hold it: IPv4 as IPv4-mapped IPv6.
pub(super) fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The hash of all tables over addresses; its twin is in `bpf/include/balance.h`.
pub(super) fn hash_address(ip: &[u8; 16], extra: u32) -> u32 {
    let mut hash = FNV_BASIS ^ extra;
    for word in ip.as_chunks::<4>().0 {
        hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(MIX);
        hash ^= hash >> 15;
    }
    hash = hash.wrapping_mul(MIX);
    hash ^ hash >> 16
}

/// The hash of a header name in lower case; its twin is in `bpf/include/http.h`.
pub(super) fn hash_name(lower: &[u8]) -> u32 {
    let sum = lower.chunks(8).fold(NAME_BASIS, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_ne_bytes(word)).wrapping_mul(NAME_PRIME)
    });
    (sum >> 32) as u32
}

/// Where a hash table lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// Heap index of the first slot.
    pub first: u32,
    /// One less than the number of slots, which is a power of two.
    pub mask: u32,
}

/// Words, and what is already among them: equal values are written once.
#[derive(Debug)]
pub(super) struct Heap {
    words: Vec<u32>,
    /// Where words are that will be found, by their hash.
    known: HashTable<Range<u32>>,
}

fn hash_words(words: &[u32]) -> u64 {
    FxBuildHasher.hash_one(words)
}

/// A state of the heap to return to.
pub(super) struct Mark(usize);

impl Heap {
    /// With the prepared answers alone; index 0 names nothing.
    pub fn new() -> Heap {
        let mut heap = Heap::behind(vec![0; abi::prepared::ANSWER_END.0 as usize]);
        for (index, words) in [
            (abi::prepared::ANSWER_NO_ENDPOINT, answers::answer(503, "no healthy upstream")),
            (abi::prepared::ANSWER_BACKEND_MISSING, answers::answer(500, "")),
            (abi::prepared::ANSWER_NO_PROXY, Ok(answers::no_proxy())),
            (abi::prepared::ANSWER_DENIED, answers::answer(403, answers::DENIED)),
        ] {
            let answer = heap.intern(words.expect("prepared answers fit"));
            heap.set(index.0, &[answer]);
        }
        heap
    }

    /// With these words, none of which will be found.
    pub fn behind(words: Vec<u32>) -> Heap {
        Heap { words, known: HashTable::new() }
    }

    /// Makes room in memory for that many words more, in so many pieces.
    pub fn expect(&mut self, words: usize, pieces: usize) {
        self.words.reserve(words);
        let own = |at: &Range<u32>| &self.words[at.start as usize..at.end as usize];
        self.known.reserve(pieces, |at| hash_words(own(at)));
    }

    /// The word at an index.
    pub fn word(&self, index: u32) -> u32 {
        self.words[index as usize]
    }

    /// Words in use.
    pub fn used(&self) -> usize {
        self.words.len()
    }

    /// All of it.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Appends words and returns the index of the first.
    pub fn push(&mut self, words: &[u32]) -> u32 {
        let index = self.words.len();
        self.words.extend_from_slice(words);
        index as u32
    }

    /// Finds equal words that were interned before, or appends them at an even index, so that
    /// records with 64-bit numbers are aligned (the heap begins at a multiple of eight).
    pub fn intern(&mut self, words: impl AsRef<[u32]>) -> u32 {
        let words = words.as_ref();
        let hash = hash_words(words);
        let own = |at: &Range<u32>| &self.words[at.start as usize..at.end as usize];
        if let Some(known) = self.known.find(hash, |at| own(at) == words) {
            return known.start;
        }
        let index = self.push_aligned(words);
        let own = |at: &Range<u32>| &self.words[at.start as usize..at.end as usize];
        let place = index..index + words.len() as u32;
        self.known.insert_unique(hash, place, |at| hash_words(own(at)));
        index
    }

    /// Appends words at an even index.
    pub fn push_aligned(&mut self, words: &[u32]) -> u32 {
        self.align();
        self.push(words)
    }

    /// Appends a record at an even index.
    pub fn push_record(&mut self, record: &impl Record) -> u32 {
        self.align();
        let index = self.words.len() as u32;
        record.push_to(&mut self.words);
        index
    }

    fn align(&mut self) {
        if self.words.len() % 2 == 1 {
            self.words.push(0);
        }
    }

    /// Overwrites words.
    pub fn set(&mut self, index: u32, words: &[u32]) {
        let at = index as usize;
        self.words[at..at + words.len()].copy_from_slice(words);
    }

    /// Remembers the present state.
    pub fn mark(&self) -> Mark {
        Mark(self.words.len())
    }

    /// Forgets everything appended since the mark.
    pub fn roll_back(&mut self, mark: &Mark) {
        self.words.truncate(mark.0);
        self.known.retain(|known| (known.start as usize) < mark.0);
    }

    /// Fails when more is in use than a generation holds.
    pub fn check(&self) -> Result<(), Error> {
        if self.words.len() > HEAP_WORDS {
            return Err(Error::HeapFull { needed: self.words.len(), limit: HEAP_WORDS });
        }
        Ok(())
    }

    /// Writes a hash table of records, each with its hash, that is at most three quarters full;
    /// doubled until the kernel finds every record within [`PROBES`] slots. Of several with one key
    /// the first is written.
    pub fn push_table<R: Record>(
        &mut self,
        entries: &[(u32, R)],
        have_one_key: impl Fn(&R, &R) -> bool,
    ) -> Result<Slots, Error> {
        let same = |a: usize, b: usize| {
            let (a, b) = (&entries[a], &entries[b]);
            a.0 == b.0 && have_one_key(&a.1, &b.1)
        };
        let mut size = (entries.len() * 4 / 3 + 1).next_power_of_two().max(2);
        let places = loop {
            let words = size * R::WORDS as usize;
            if words > HEAP_WORDS {
                let needed = self.words.len() + words;
                return Err(Error::HeapFull { needed, limit: HEAP_WORDS });
            }
            if let Some(places) = place(entries.iter().map(|(hash, _)| *hash), size, same) {
                break places;
            }
            size *= 2;
        };
        let first = self.words.len();
        self.words.resize(first + size * R::WORDS as usize, 0);
        for ((_, record), place) in entries.iter().zip(places) {
            let Some(place) = place else { continue };
            let at = first + (place * R::WORDS) as usize;
            record.write(&mut self.words[at..at + R::WORDS as usize]);
        }
        let first = first as u32;
        Ok(Slots { first, mask: size as u32 - 1 })
    }
}

/// A slot for each hash by linear probing, but for what is the `same` as one before it; `None` when
/// one would be too far from home.
///
/// In order of their homes, so that none goes far because others were there first: that keeps all
/// near when most slots are taken.
fn place(
    hashes: impl Iterator<Item = u32>,
    size: usize,
    same: impl Fn(usize, usize) -> bool,
) -> Option<Vec<Option<u32>>> {
    let mask = size as u32 - 1;
    let homes: Vec<u32> = hashes.map(|hash| hash & mask).collect();
    // sorted by counting: how many have an earlier home, and then the indices in that order
    let mut before = vec![0u32; size + 1];
    homes.iter().for_each(|home| before[*home as usize + 1] += 1);
    (0..size).for_each(|home| before[home + 1] += before[home]);
    let mut order = vec![0u32; homes.len()];
    for (home, index) in homes.iter().zip(0u32..) {
        let at = &mut before[*home as usize];
        order[*at as usize] = index;
        *at += 1;
    }
    let mut taken = vec![false; size];
    let mut found = vec![None; homes.len()];
    for (at, index) in order.iter().map(|index| *index as usize).enumerate() {
        let home = homes[index];
        let mut alike = order[..at].iter().rev().map(|other| *other as usize);
        if alike.by_ref().take_while(|other| homes[*other] == home).any(|other| same(other, index))
        {
            continue;
        }
        let slot = (0..PROBES).map(|i| (home + i) & mask).find(|slot| !taken[*slot as usize])?;
        taken[slot as usize] = true;
        found[index] = Some(slot);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hash_as_in_balance_h() {
        // worked out by hash_address() of balance.h, compiled for x86-64
        let of = |ip: &str, extra| hash_address(&address_bytes(ip.parse().unwrap()), extra);
        assert_eq!(of("10.96.0.1", 80 << 8 | 6), 0xe943_4d75);
        assert_eq!(of("0.0.0.0", 0), 0xaae2_b2b6);
        assert_eq!(of("fd00::1", 443 << 8 | 6), 0x57a6_073a);
        assert_eq!(of("255.255.255.255", u32::MAX), 0xaabc_b173);
    }

    #[test]
    fn a_crowded_table_grows_until_probes_suffice() {
        let entries: Vec<_> = (0..100u32)
            .map(|n| {
                (
                    n % 4 * 64,
                    abi::workload { ip: [n as u8; 16], number: n + 1, ..Default::default() },
                )
            })
            .collect();
        let slots = Heap::new().push_table(&entries, |_, _| false);
        assert!(matches!(slots, Err(Error::HeapFull { .. })), "25 records share each hash");

        let entries: Vec<_> = (0..60u32)
            .map(|n| {
                (
                    n % 4 * 64,
                    abi::workload { ip: [n as u8; 16], number: n + 1, ..Default::default() },
                )
            })
            .collect();
        let mut heap = Heap::behind(Vec::new());
        let slots = heap.push_table(&entries, |_, _| false).unwrap();
        assert_eq!(slots.mask, 255, "15 records share each of four hashes, 64 slots apart");
        assert_eq!(heap.used(), 256 * abi::workload::WORDS as usize);
    }

    #[test]
    fn equal_words_are_written_once_and_forgotten_by_a_roll_back() {
        let mut heap = Heap::new();
        let first = heap.intern(vec![7, 8]);
        let mark = heap.mark();
        assert_eq!(heap.intern(vec![7, 8]), first);
        let second = heap.intern(vec![9]);
        heap.roll_back(&mark);
        assert_eq!(heap.used(), first as usize + 2);
        assert_eq!(heap.intern(vec![10]), second);
        assert_ne!(heap.intern(vec![9]), second);
        assert_eq!(heap.intern(vec![7, 8]), first);
    }
}
