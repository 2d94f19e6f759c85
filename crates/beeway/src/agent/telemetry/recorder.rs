//! What the userspace proxy tells.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beeway_proxy::{Flags, Record, Recorder};
use beeway_telemetry::flow::TraceContext;
use beeway_telemetry::graph::{Durations, Tick};
use beeway_telemetry::latency;
use beeway_telemetry::{Flow, Names, Party, Verdict};
use rustc_hash::FxHashMap;

use super::tallies::{Kind, Tallies};
use crate::agent::outlets::Appetite;

/// Records that wait to be put together. One more is lost, and counted.
pub(super) const QUEUE: usize = 16 * 1024;

/// Records with texts a second, unless all are wanted.
const DETAILED: u64 = 1000;

/// Listens to the proxy's workers.
pub(crate) struct Witness {
    tallies: Arc<Tallies>,
    durations: Arc<Stopwatch>,
    /// Whether all requests are to be told of, and not only some.
    appetite: Appetite,
    begun: Instant,
    /// The second that is under way << 32, and how many were told of in it.
    budget: AtomicU64,
    queue: SyncSender<Record>,
    told: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    /// Records without texts, which are only counted.
    thinned: Arc<AtomicU64>,
}

impl Witness {
    pub(super) fn new(
        tallies: Arc<Tallies>,
        appetite: Appetite,
    ) -> (Arc<Witness>, Receiver<Record>) {
        let (queue, records) = sync_channel(QUEUE);
        let witness = Witness {
            tallies,
            durations: Arc::default(),
            appetite,
            begun: Instant::now(),
            budget: AtomicU64::new(0),
            queue,
            told: Arc::default(),
            lost: Arc::default(),
            thinned: Arc::default(),
        };
        (Arc::new(witness), records)
    }

    pub(super) fn durations(&self) -> Arc<Stopwatch> {
        self.durations.clone()
    }

    pub(super) fn told_counter(&self) -> Arc<AtomicU64> {
        self.told.clone()
    }

    pub(super) fn lost_counter(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    pub(super) fn thinned_counter(&self) -> Arc<AtomicU64> {
        self.thinned.clone()
    }
}

impl Recorder for Witness {
    fn wants_detail(&self) -> bool {
        if self.appetite.all() {
            return true;
        }
        let second = self.begun.elapsed().as_secs() << 32;
        let before = self.budget.load(Ordering::Relaxed);
        let taken = if before >> 32 == second >> 32 { before & 0xffff_ffff } else { 0 };
        // two workers at once may tell of one more
        self.budget.store(second | (taken + 1), Ordering::Relaxed);
        taken < DETAILED
    }

    fn record(&self, record: Record) {
        // one of Kafka's is a part of its connection, which the kernel counts
        if record.protocol != "Kafka" {
            let taken = nanoseconds(record.duration);
            self.tallies.count(kind_of(&record), taken, record.received, record.sent);
            self.durations.count(record.known_by, record.service, taken);
        }
        if !record.detailed {
            self.thinned.fetch_add(1, Ordering::Relaxed);
        } else if self.queue.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How long requests took, by addresses, until somebody collects it.
#[derive(Default)]
pub(super) struct Stopwatch(Mutex<FxHashMap<(IpAddr, SocketAddr), FxHashMap<u16, u64>>>);

impl Stopwatch {
    fn count(&self, source: IpAddr, service: SocketAddr, nanoseconds: u64) {
        let mut all = self.0.lock().expect("no panic while locked");
        let bucket = latency::bucket(nanoseconds) as u16;
        *all.entry((source, service)).or_default().entry(bucket).or_default() += 1;
    }

    /// Takes all of them.
    pub(super) fn collect(&self, names: &Names, tick: &mut Tick) {
        let all = std::mem::take(&mut *self.0.lock().expect("no panic while locked"));
        for ((source, service), buckets) in all {
            let (source, service) = (names.party(source), names.service(service));
            let buckets = buckets.into_iter().collect();
            tick.latencies.push(Durations { source, service, buckets });
        }
    }
}

fn kind_of(record: &Record) -> Kind {
    Kind {
        source: record.known_by,
        service: record.service,
        endpoint: record.endpoint.map(|endpoint| endpoint.ip()),
        status: record.status,
        grpc: record.grpc.then_some(record.grpc_status),
        flags: record.flags,
        verdict: verdict_of(record),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn verdict_of(record: &Record) -> Verdict {
    let failed = [
        Flags::NO_HEALTHY_UPSTREAM,
        Flags::UPSTREAM_CONNECTION_FAILURE,
        Flags::UPSTREAM_OVERFLOW,
        Flags::NO_ROUTE,
        Flags::NO_CLUSTER,
        Flags::DOWNSTREAM_CONNECTION_TERMINATION,
        Flags::UPSTREAM_CONNECTION_TERMINATION,
        Flags::UPSTREAM_REMOTE_RESET,
        Flags::UPSTREAM_REQUEST_TIMEOUT,
        Flags::UPSTREAM_PROTOCOL_ERROR,
        Flags::DOWNSTREAM_PROTOCOL_ERROR,
    ];
    if record.denied {
        Verdict::Denied
    } else if record.flags.contains(Flags::RATE_LIMITED) {
        Verdict::Limited
    } else if failed.into_iter().any(|flag| record.flags.contains(flag)) {
        Verdict::Failed
    } else if record.endpoint.is_none() {
        Verdict::Answered
    } else {
        Verdict::Forwarded
    }
}

/// A record with names.
pub(super) fn flow_of(record: Record, names: &Names) -> Flow {
    Flow {
        start: record.start,
        duration: record.duration,
        connection: false,
        inbound: false,
        source: names.party(record.known_by),
        source_address: record.source,
        service: names.service(record.service),
        service_address: record.service,
        destination: record.endpoint.map_or_else(Party::unknown, |at| names.party(at.ip())),
        endpoint: record.endpoint,
        lane: "detour",
        reason: "",
        verdict: verdict_of(&record),
        protocol: if record.grpc { "grpc" } else { "http" },
        version: record.protocol,
        trace: trace_context(&record.traceparent),
        method: record.method,
        authority: record.authority,
        path: record.path,
        user_agent: record.user_agent,
        forwarded_for: record.forwarded_for,
        request_id: record.request_id,
        status: record.status,
        grpc_status: record.grpc_status,
        flags: record.flags.to_string(),
        detail: record.detail,
        rule: record.rule,
        cluster: record.cluster,
        policy: record.policy,
        audit: record.audit,
        dry_run: record.dry_run,
        attempts: record.attempts,
        received: record.received,
        sent: record.sent,
    }
}

/// Reads `traceparent` (W3C Trace Context, section 3.2): `00-TRACE-PARENT-FLAGS`.
pub(super) fn trace_context(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    let later = version != "00" && version.len() == 2;
    if version == "ff" || !(later || version == "00" && parts.next().is_none()) {
        return None;
    }
    let context = TraceContext {
        trace: hex(trace)?,
        parent: hex(parent)?,
        sampled: hex::<1>(flags)?[0] & 1 == 1,
    };
    (context.trace != [0; 16] && context.parent != [0; 8]).then_some(context)
}

/// Lower-case hexadecimal digits, as many as are wanted.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (mut bytes, text) = ([0; N], text.as_bytes());
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::trace_context;

    #[test]
    fn trace_context_is_read_as_the_standard_says() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = trace_context(good).expect("it is the standard's example");
        assert!(context.sampled && context.trace[0] == 0x0a && context.parent[7] == 0x31);
        assert!(!trace_context(&good.replace("-01", "-00")).expect("not sampled").sampled);
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(trace_context(bad).is_none(), "{bad}");
        }
    }
}
