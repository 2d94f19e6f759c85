//! How many requests a workload takes, as `struct rate_limits`.

use beeway_model::limits::{RATE_LIMITED, RATE_LIMITED_HEADER};
use beeway_model::{Action, Bucket, Mesh, RateLimit, RateLimiter, Rule, Workload};

use super::answers::{self, Unfit};
use super::heap::Heap;
use super::records::Record;
use crate::abi;

const MOST: usize = abi::limits::RATE_LIMITS.0 as usize;
const _: () = assert!(abi::limits::RATE_WHOLE.0 == beeway_model::limits::WHOLE);

/// What was written.
pub(super) struct Written {
    /// The `struct rate_limits`; 0: none.
    pub place: u32,
    /// There are more than the kernel looks at.
    pub past_limit: bool,
}

/// The limits of a workload, by their indices.
pub(super) fn applying(mesh: &Mesh, workload: &Workload) -> Vec<usize> {
    let all = mesh.limits.iter().enumerate();
    all.filter(|(_, limiter)| limiter.selects(workload)).map(|(index, _)| index).collect()
}

/// Writes all limits of a workload; `table` makes one of rules, and says where it will be.
pub(super) fn push(
    heap: &mut Heap,
    limiters: &[&RateLimiter],
    mut table: impl FnMut(&mut Heap, &[Rule]) -> u32,
) -> Written {
    let mut records = Vec::new();
    for limiter in limiters {
        let first = records.len();
        for (port, limit) in &limiter.ports {
            add(&mut records, limit, *port, 0);
        }
        if let Some(limit) = &limiter.others {
            // where a port has its own, one of those is about every request
            let unless = bits(first, records.len());
            add(&mut records, limit, 0, unless);
        }
    }
    let past_limit = records.len() > MOST;
    let count = records.len() as u32;
    let mut words = abi::rate_limits { count, pad: 0 }.words();
    let kept = if past_limit { Vec::new() } else { records };
    for (mut record, bucket, limit) in kept {
        record.table = match bucket.matches.is_empty() {
            true => 0,
            false => table(heap, &[rule(bucket)]),
        };
        record.answer = answer(heap, limit);
        words.extend(record.words());
    }
    Written { place: if count == 0 { 0 } else { heap.intern(words) }, past_limit }
}

/// Bits of the limits from one up to another.
fn bits(from: usize, to: usize) -> u32 {
    (from..to.min(MOST)).fold(0, |bits, at| bits | 1 << at)
}

fn add<'m>(
    records: &mut Vec<(abi::rate_limit, &'m Bucket, &'m RateLimit)>,
    limit: &'m RateLimit,
    port: u16,
    unless: u32,
) {
    let first = records.len();
    let mut push = |bucket: &'m Bucket, unless: u32| {
        let record = abi::rate_limit {
            id: bucket.id,
            interval: bucket.interval.as_nanos() as u64,
            capacity: bucket.capacity,
            fill: bucket.fill,
            enabled: limit.enabled,
            enforced: limit.enforced,
            per_caller: bucket.per_caller.into(),
            port: port.into(),
            unless,
            ..Default::default()
        };
        records.push((record, bucket, limit));
        records.len()
    };
    let behind = limit.special.iter().map(|bucket| push(bucket, unless)).last().unwrap_or(first);
    if let Some(bucket) = &limit.usual {
        let special = if limit.always { 0 } else { bits(first, behind) };
        push(bucket, unless | special);
    }
}

/// A rule that holds for the requests that a bucket is about.
fn rule(bucket: &Bucket) -> Rule {
    Rule {
        name: format!("limit {:016x}", bucket.id),
        matches: bucket.matches.clone(),
        action: Action::Respond { status: 429, body: String::new() },
        policy: None,
        detour: None,
    }
}

/// 0: it is longer than the kernel's may be.
fn answer(heap: &mut Heap, limit: &RateLimit) -> u32 {
    encode(limit).map_or(0, |words| heap.intern(words))
}

fn encode(limit: &RateLimit) -> Result<Vec<u32>, Unfit> {
    let fields = limit.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let fields = std::iter::once(RATE_LIMITED_HEADER).chain(fields);
    answers::answer_with(limit.status, RATE_LIMITED, fields)
}

/// The bytes of the response to a request for which there is no token, for who gives it in the kernel's
/// place; `None`: it is longer than such an answer may be.
pub fn limited_answer(limit: &RateLimit) -> Option<Vec<u8>> {
    encode(limit).ok().map(|words| answers::text_of(&words))
}
