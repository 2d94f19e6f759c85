//! The deterministic bytes that `/bytes/N` answers and `upload` sends: byte i is `i % 251`.
//!
//! 251 is prime, so a piece that was lost, repeated or swapped at any power of two shows up in
//! the digest and in the bytes themselves.

use sha2::{Digest, Sha256};

/// The period of the pattern.
pub const PERIOD: usize = 251;

/// One block of the pattern: a whole number of periods, so that blocks can follow each other.
pub fn block() -> Vec<u8> {
    (0..PERIOD * 256).map(|i| (i % PERIOD) as u8).collect()
}

/// The first `n` bytes of the pattern.
pub fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % PERIOD) as u8).collect()
}

/// The SHA-256, in hexadecimal, of the first `n` bytes of the pattern.
pub fn sha256(n: u64) -> String {
    let block = block();
    let mut hasher = Sha256::new();
    let mut left = n;
    while left > 0 {
        let take = left.min(block.len() as u64) as usize;
        hasher.update(&block[..take]);
        left -= take as u64;
    }
    hex(&hasher.finalize())
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
