//! What the kernel has counted.

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde::Serialize;

use crate::abi;
use crate::error::{Context, Result};

/// Names of `enum lane`, in its order.
pub const LANES: [&str; 5] = ["native", "shortcut", "detour", "answered", "refused"];

/// Names of `enum reason`, in its order.
pub const REASONS: [&str; 27] = [
    "none",
    "route",
    "other_cluster",
    "rule_action",
    "partial_head",
    "head_limit",
    "syntax",
    "unusual",
    "path",
    "pipelined",
    "outstanding",
    "sticky",
    "table",
    "no_route",
    "no_endpoint",
    "no_proxy",
    "order",
    "partial_send",
    "opaque",
    "no_service",
    "backend_missing",
    "bad_chunk",
    "denied",
    "policy",
    "visit",
    "unjudged",
    "rate_limited",
];

/// Names of `enum counter`, in its order.
pub const COUNTERS: [&str; 25] = [
    "connections",
    "connections_refused",
    "datagrams",
    "sockets_enrolled",
    "sockets_not_enrolled",
    "connections_paired",
    "shortcut_queue_full",
    "shortcut_bytes",
    "injected_bytes",
    "detoured_bytes",
    "events_lost",
    "map_full",
    "connections_to_proxy",
    "connections_without_proxy",
    "connections_held",
    "connections_denied",
    "repeated_bytes",
    "connections_multipath",
    "rate_limits_not_enforced",
    "token_buckets_full",
    "series_full",
    "latencies_lost",
    "records_thinned",
    "records_lost",
    "sockets_released",
];

const _: () = assert!(LANES.len() == abi::lane::LANES.0 as usize);
const _: () = assert!(REASONS.len() == abi::reason::REASONS.0 as usize);
const _: () = assert!(COUNTERS.len() == abi::counter::COUNTERS.0 as usize);

/// Requests that took one lane for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestCount {
    /// One of [`LANES`].
    pub lane: &'static str,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// How many, since the maps were made.
    pub count: u64,
}

/// Everything that the kernel counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Only those that are not zero.
    pub requests: Vec<RequestCount>,
    /// All of [`COUNTERS`].
    pub counters: Vec<(&'static str, u64)>,
}

impl Counts {
    /// Requests of one lane.
    pub fn lane(&self, lane: &str) -> u64 {
        self.requests.iter().filter(|r| r.lane == lane).map(|r| r.count).sum()
    }

    /// One counter.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|(n, _)| *n == name).map_or(0, |(_, count)| *count)
    }
}

/// Reads both counter maps.
pub(crate) fn read(requests: &MapHandle, counters: &MapHandle) -> Result<Counts> {
    let mut counts = Counts::default();
    for (lane_index, lane) in LANES.into_iter().enumerate() {
        for (reason_index, reason) in REASONS.into_iter().enumerate() {
            let count = sum(requests, (lane_index * REASONS.len() + reason_index) as u32)?;
            if count > 0 {
                counts.requests.push(RequestCount { lane, reason, count });
            }
        }
    }
    for (index, name) in COUNTERS.into_iter().enumerate() {
        counts.counters.push((name, sum(counters, index as u32)?));
    }
    Ok(counts)
}

/// Requests of all lanes and reasons.
pub(crate) fn all_requests(requests: &MapHandle) -> Result<u64> {
    (0..requests.max_entries()).map(|index| sum(requests, index)).sum()
}

/// Requests and connections that were not told of one by one, since the maps were made.
pub(crate) fn untold(counters: &MapHandle) -> Result<u64> {
    let (thinned, lost) = (abi::counter::COUNT_RECORDS_THINNED, abi::counter::COUNT_RECORDS_LOST);
    Ok(sum(counters, thinned.0)? + sum(counters, lost.0)?)
}

fn sum(map: &MapHandle, index: u32) -> Result<u64> {
    let per_cpu = map
        .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
        .context(|| format!("read the map {}", map.name().to_string_lossy()))?
        .unwrap_or_default();
    Ok(per_cpu
        .iter()
        .filter_map(|bytes| bytes.get(..8)?.try_into().ok())
        .map(u64::from_ne_bytes)
        .sum())
}
