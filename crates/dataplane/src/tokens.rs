//! Token buckets, which the kernel's programs and the userspace proxy share.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use beeway_model::Bucket;
use beeway_model::limits::Level;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::abi;
use crate::error::{Context, Result};
use crate::run::{address, run};

/// One bucket: of an endpoint, and of a caller where it is one for each.
#[derive(Debug, Clone, Copy)]
pub struct TokenQuery<'a> {
    /// What it is like.
    pub bucket: &'a Bucket,
    /// Address and port of the endpoint.
    pub endpoint: SocketAddr,
    /// The address by which the caller is known.
    pub caller: IpAddr,
    /// The time (CLOCK_MONOTONIC); `None`: now.
    pub now: Option<Duration>,
}

/// What comes of asking a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// It has given one.
    Taken,
    /// It is empty.
    None,
    /// There is no room for it.
    NoRoom,
}

/// Takes a token as the kernel does for native requests.
pub(crate) fn take(program: BorrowedFd<'_>, query: &TokenQuery<'_>) -> Result<Token> {
    let bucket = query.bucket;
    let caller = SocketAddr::new(query.caller.to_canonical(), 0);
    let caller = if bucket.per_caller { address(caller).ip } else { [0; 16] };
    let mut context = abi::token_query {
        limit: abi::rate_limit {
            interval: bucket.interval.as_nanos() as u64,
            capacity: bucket.capacity,
            fill: bucket.fill,
            ..Default::default()
        },
        key: abi::bucket_key {
            limit: bucket.id,
            endpoint: address(query.endpoint).ip,
            caller,
            port: query.endpoint.port().into(),
            pad: 0,
        },
        now: query.now.map_or(0, |now| now.as_nanos() as u64),
        ..Default::default()
    };
    run(program, &mut context).context(|| "ask for a token".into())?;
    Ok(match abi::token(context.token) {
        abi::token::TOKEN_TAKEN => Token::Taken,
        abi::token::TOKEN_NO_ROOM => Token::NoRoom,
        _ => Token::None,
    })
}

/// Removes the buckets that have been full for that long: a new one is full too. A request that takes
/// a token of one in just this moment may have it for nothing.
pub(crate) fn sweep(map: &MapHandle, spare: Duration) -> Result<usize> {
    let past = monotonic().saturating_sub(spare.as_nanos() as u64);
    let mut removed = 0;
    for key in map.keys() {
        let value = map.lookup(&key, MapFlags::ANY).context(|| "read a token bucket".into())?;
        if value.is_some_and(|value| was_full(&value, past)) && map.delete(&key).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a `struct bucket` was full at some time, and had been there before.
fn was_full(value: &[u8], at: u64) -> bool {
    if value.len() != size_of::<abi::bucket>() {
        return false;
    }
    // SAFETY: plain data of the kernel's layout, and as many bytes.
    let bucket: abi::bucket = unsafe { value.as_ptr().cast::<abi::bucket>().read_unaligned() };
    let level = Level {
        since: bucket.since,
        fills: (bucket.level >> 32) as u32,
        tokens: bucket.level as u32,
    };
    let like = Bucket {
        id: 0,
        capacity: bucket.capacity,
        fill: bucket.fill,
        interval: Duration::from_nanos(bucket.interval),
        per_caller: false,
        matches: Vec::new(),
    };
    bucket.since <= at && like.tokens(&level, at) == like.capacity
}

/// CLOCK_MONOTONIC in nanoseconds, which the kernel's programs go by.
fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_removed_when_it_was_full_long_ago() {
        let full = |tokens: u64, at: u64| {
            let bucket = abi::bucket {
                since: 100,
                level: 2 << 32 | tokens,
                interval: 10,
                capacity: 5,
                fill: 2,
            };
            // SAFETY: plain data without padding, for as long as the copy takes.
            let bytes = unsafe {
                std::slice::from_raw_parts((&raw const bucket).cast::<u8>(), size_of_val(&bucket))
            };
            was_full(bytes, at)
        };
        // two intervals have brought theirs, and one token is left: two more are needed
        assert!(!full(1, 139));
        assert!(full(1, 140));
        assert!(full(5, 120));
        assert!(!full(5, 99), "it was not there");
        assert!(!was_full(&[0; 3], 1));
    }
}
