//! How many requests a workload takes: Envoy's local rate limit, as Istio's EnvoyFilters set it.
//!
//! A request that policies allow takes a token of every bucket that is about it, one after another;
//! the first that has none left refuses it, and what was taken before stays taken. There is a bucket
//! for each endpoint, a workload and its port; where a bucket is for callers, for each of these. Buckets
//! are full at first, and get their tokens all at once when an interval since then is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::access::LabelSelector;
use crate::mesh::{Mesh, Workload};
use crate::request::Request;
use crate::route::Match;
use crate::router;

/// The body of a refused request's answer, as Envoy's.
pub const RATE_LIMITED: &str = "local_rate_limited";

/// The header field that tells a refused request's answer from one of the workload (Envoy's).
pub const RATE_LIMITED_HEADER: (&str, &str) = ("x-envoy-ratelimited", "true");

/// All of some fraction, see [`RateLimit::enabled`].
pub const WHOLE: u32 = 1_000_000;

/// The limits of some workloads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateLimiter {
    /// For people: `EnvoyFilter shop/limits`.
    pub name: String,
    /// The namespace of the workloads; `None`: all.
    pub namespace: Option<String>,
    /// Their labels.
    pub selector: LabelSelector,
    /// By port of the endpoint: what holds there instead of [`RateLimiter::others`].
    pub ports: BTreeMap<u16, RateLimit>,
    /// For all other ports.
    pub others: Option<RateLimit>,
}

/// One limit, with all its buckets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateLimit {
    /// Buckets that are about some requests, in the order in which they are asked.
    pub special: Vec<Bucket>,
    /// The bucket of the others, asked last.
    pub usual: Option<Bucket>,
    /// It is of those too that a special one is about.
    pub always: bool,
    /// Of [`WHOLE`] requests, how many take tokens.
    pub enabled: u32,
    /// Of [`WHOLE`] for which there is no token, how many are refused; the others are only counted.
    pub enforced: u32,
    /// Status of the answer.
    pub status: u16,
    /// Header fields of the answer, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A token bucket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bucket {
    /// What kernel and proxy know it by. A bucket of other numbers is another one.
    pub id: u64,
    /// The most tokens in it, at least 1.
    pub capacity: u32,
    /// Tokens that come with each interval, at least 1.
    pub fill: u32,
    /// At least 50 ms, as Envoy wants it.
    pub interval: Duration,
    /// Every caller has one of his own.
    pub per_caller: bool,
    /// One of these must hold for a request; empty: it is about all.
    pub matches: Vec<Match>,
}

/// How full a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// When it was first asked for a token (ns since whenever).
    pub since: u64,
    /// Intervals since then whose tokens have come.
    pub fills: u32,
    /// Tokens left.
    pub tokens: u32,
}

impl Mesh {
    /// The limits of requests to a port of a workload.
    pub fn rate_limits<'a>(
        &'a self,
        workload: &'a Workload,
        port: u16,
    ) -> impl Iterator<Item = (&'a RateLimiter, &'a RateLimit)> {
        let limiters = self.limits.iter().filter(|limiter| limiter.selects(workload));
        limiters.filter_map(move |limiter| Some((limiter, limiter.limit(port)?)))
    }
}

impl Mesh {
    /// The limit that a bucket belongs to.
    pub fn rate_limit_with(&self, bucket: u64) -> Option<&RateLimit> {
        let mut limits = self.limits.iter().flat_map(|of| of.ports.values().chain(&of.others));
        limits.find(|limit| limit.special.iter().chain(&limit.usual).any(|own| own.id == bucket))
    }
}

impl Workload {
    /// The address by which its buckets are known, as an endpoint and as a caller: its first one.
    pub fn bucket_address(&self) -> Option<IpAddr> {
        self.addresses.first().map(IpAddr::to_canonical)
    }
}

impl RateLimiter {
    /// Whether a workload is one of those that it is about.
    pub fn selects(&self, workload: &Workload) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == workload.namespace)
            && self.selector.holds(&workload.labels)
    }

    /// What holds for a port of an endpoint.
    pub fn limit(&self, port: u16) -> Option<&RateLimit> {
        self.ports.get(&port).or(self.others.as_ref())
    }
}

impl RateLimit {
    /// The buckets that a request needs a token of, in this order.
    pub fn buckets<'a>(&'a self, request: &Request<'_>) -> impl Iterator<Item = &'a Bucket> {
        let special: Vec<&Bucket> =
            self.special.iter().filter(|bucket| bucket.concerns(request)).collect();
        let usual = self.usual.iter().filter(|_| self.always || special.is_empty());
        let usual: Vec<&Bucket> = usual.filter(|bucket| bucket.concerns(request)).collect();
        special.into_iter().chain(usual)
    }
}

impl Bucket {
    fn concerns(&self, request: &Request<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| router::matches(m, request))
    }

    /// The number for a bucket of this description.
    pub fn id_of(description: &str) -> u64 {
        // FNV-1a: the same with every build, so that agents that take over find their buckets
        let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        description.bytes().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// The level of a bucket that nothing has been taken of.
    pub fn full(&self, now: u64) -> Level {
        Level { since: now, fills: 0, tokens: self.capacity }
    }

    /// The tokens in it.
    pub fn tokens(&self, level: &Level, now: u64) -> u32 {
        self.fill_up(level, now).tokens
    }

    fn fill_up(&self, level: &Level, now: u64) -> Level {
        let interval = self.interval.as_nanos() as u64;
        let fills = (now.saturating_sub(level.since) / interval.max(1)) as u32;
        // another one may have looked at its clock a moment later, and been faster
        let fills = fills.max(level.fills);
        let come = u64::from(fills - level.fills) * u64::from(self.fill);
        let tokens = (u64::from(level.tokens) + come).min(u64::from(self.capacity)) as u32;
        Level { fills, tokens, ..*level }
    }

    /// Takes a token, if there is one. The kernel does the same in `bpf/include/limits.h`.
    pub fn take(&self, level: &mut Level, now: u64) -> bool {
        let filled = self.fill_up(level, now);
        if filled.tokens == 0 {
            return false;
        }
        *level = Level { tokens: filled.tokens - 1, ..filled };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{PathMatch, StringMatch};

    const SECOND: u64 = 1_000_000_000;

    fn bucket(capacity: u32, fill: u32) -> Bucket {
        let interval = Duration::from_secs(1);
        Bucket { id: 1, capacity, fill, interval, per_caller: false, matches: Vec::new() }
    }

    fn taken(bucket: &Bucket, level: &mut Level, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| bucket.take(level, now)).count()
    }

    #[test]
    fn tokens_come_when_an_interval_is_over_and_no_more_than_there_is_room_for() {
        let bucket = bucket(10, 3);
        let mut level = bucket.full(5);
        assert_eq!(taken(&bucket, &mut level, 5, 30), 10);
        assert_eq!(taken(&bucket, &mut level, 4 + SECOND, 30), 0);
        assert_eq!(taken(&bucket, &mut level, 5 + SECOND, 30), 3);
        assert_eq!(taken(&bucket, &mut level, 4 + 2 * SECOND, 30), 0);
        assert_eq!(taken(&bucket, &mut level, 5 + 2 * SECOND, 2), 2);
        assert_eq!(taken(&bucket, &mut level, 5 + 3 * SECOND, 30), 4);
        assert_eq!(taken(&bucket, &mut level, 5 + 100 * SECOND, 30), 10);
        assert_eq!(taken(&bucket, &mut level, 5, 30), 0, "time does not run backwards");
    }

    #[test]
    fn a_special_bucket_comes_first_and_the_usual_one_unless_it_is_for_the_rest() {
        let on = |path: &str, method: &str| Match {
            path: Some(PathMatch::Prefix(path.to_owned())),
            method: Some(StringMatch::Exact(method.to_owned())),
            ..Match::default()
        };
        let mut special = bucket(1, 1);
        special.matches = vec![on("/a", "GET"), on("/b", "POST")];
        let usual = Bucket { id: 2, ..bucket(5, 5) };
        let mut limit = RateLimit {
            special: vec![special],
            usual: Some(usual),
            always: true,
            enabled: WHOLE,
            enforced: WHOLE,
            status: 429,
            headers: Vec::new(),
        };
        let ids = |limit: &RateLimit, method: &str, target: &str| {
            let request = Request {
                method,
                scheme: "http",
                authority: "web",
                target,
                headers: &[],
                source: None,
            };
            limit.buckets(&request).map(|bucket| bucket.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&limit, "GET", "/a/1?x=y"), [1, 2]);
        assert_eq!(ids(&limit, "POST", "/a"), [2]);
        limit.always = false;
        assert_eq!(ids(&limit, "POST", "/b"), [1]);
        assert_eq!(ids(&limit, "POST", "/a"), [2]);
    }

    #[test]
    fn what_is_limited_differently_has_another_bucket() {
        assert_eq!(Bucket::id_of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(Bucket::id_of("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
