//! What the kernel counts and tells of traffic: sums by who asked whom, durations, and records of
//! single requests. Layouts are in bpf/include/abi.h.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use libbpf_rs::{Iter, Link, MapCore, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};
use serde::{Deserialize, Serialize};

use crate::abi;
use crate::counts::{LANES, REASONS, all_requests};
use crate::error::{Context, Result};
use crate::load::{read_settings, write_settings};
use crate::pins::Pins;
use crate::run::run;

/// Buckets of Envoy's histograms.
pub const BOUNDS: usize = abi::limits::BOUNDS.0 as usize;

/// Buckets of a histogram of durations, each of which is `LATENCY_SHIFT` and `LATENCY_STEPS` wide.
pub const LATENCY_BUCKETS: usize = abi::limits::LATENCY_BUCKETS.0 as usize;

/// Memory that the sums of all CPUs may take.
const SERIES_BYTES: usize = 64 << 20;

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TrafficKey {
    /// The address by which the caller is known; `::` is nobody's.
    pub source: IpAddr,
    /// What was asked for.
    pub service: SocketAddr,
    /// Who was called.
    pub endpoint: Option<IpAddr>,
    /// Status of the answer; 0: none came.
    pub status: u16,
    /// Index of one of [`LANES`].
    pub lane: u8,
    /// Index of one of [`REASONS`].
    pub reason: u8,
    /// What is counted.
    pub kind: TrafficKind,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficKind {
    /// Requests.
    Request,
    /// Connections that are not HTTP.
    Connection,
    /// Requests that were judged where they came in.
    Visit,
}

/// Sums since the maps were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficSum {
    /// Requests that are over, or connections made.
    pub count: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes from the caller.
    pub request_bytes: u64,
    /// Bytes to the caller.
    pub response_bytes: u64,
    /// Nanoseconds.
    pub duration: u64,
    /// By Envoy's bounds in milliseconds.
    pub durations: [u64; BOUNDS],
    /// By Envoy's bounds in bytes.
    pub request_sizes: [u64; BOUNDS],
    /// By Envoy's bounds in bytes.
    pub response_sizes: [u64; BOUNDS],
}

/// How long requests from a caller to a service took, on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LatencyKey {
    /// The address by which the caller is known.
    pub source: IpAddr,
    /// What was asked for.
    pub service: SocketAddr,
    /// The CPU that counted it.
    pub cpu: u16,
    /// What is counted.
    pub kind: TrafficKind,
}

/// A request or connection that is over.
#[derive(Debug, Clone)]
pub struct Told {
    /// When it began (CLOCK_MONOTONIC).
    pub at: Duration,
    /// Until its last byte came.
    pub duration: Duration,
    /// Bytes from the caller.
    pub request_bytes: u64,
    /// Bytes to the caller.
    pub response_bytes: u64,
    /// The caller's socket; `None`: there is none yet.
    pub source: Option<SocketAddr>,
    /// The address by which it is known.
    pub caller: IpAddr,
    /// What was asked for.
    pub service: SocketAddr,
    /// Who was called.
    pub endpoint: Option<SocketAddr>,
    /// Index of the rule that decided.
    pub rule: Option<usize>,
    /// Status of the answer; 0: none came.
    pub status: u16,
    /// One of [`LANES`].
    pub lane: &'static str,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// What it is.
    pub kind: TrafficKind,
    /// How long the kernel read and judged it; zero for a connection.
    pub judged: Duration,
    /// The beginning of the request's head, as sent; empty for a connection.
    pub head: Vec<u8>,
}

/// How many requests are told of one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Nothing is counted nor told (for measurements).
    Off,
    /// So many a second and CPU, about.
    Some(u32),
    /// As many as there is room for.
    All,
}

impl Telling {
    /// `telemetry` and `records` of `struct settings`.
    pub(crate) fn settings(self) -> (u32, u32) {
        let window = 1u64 << abi::limits::RECORD_WINDOW.0;
        match self {
            Telling::Off => (0, 0),
            Telling::Some(n) => (1, (u64::from(n) * window / 1_000_000_000) as u32),
            Telling::All => (1, u32::MAX),
        }
    }
}

/// Switches what an agent that runs counts and tells of traffic, from outside of it: for measurements.
pub struct Switch {
    settings: MapHandle,
    requests: MapHandle,
    on: (u32, u32),
}

impl Switch {
    /// Of the agent with this state directory, which must have telemetry.
    pub fn open(state: &Path) -> Result<Switch> {
        let pins = Pins::of(state);
        let open = |name: &str| {
            let path = pins.map(name);
            MapHandle::from_pinned_path(&path).context(|| format!("open {}", path.display()))
        };
        let (settings, requests) = (open("settings")?, open("requests")?);
        let on = read_settings(&settings)?;
        Ok(Switch { settings, requests, on: (on.telemetry, on.records) })
    }

    /// Counts and tells as the agent would, or not at all.
    pub fn turn(&self, on: bool) -> Result<()> {
        let mut settings = read_settings(&self.settings)?;
        let (telemetry, records) = if on { self.on } else { Telling::Off.settings() };
        (settings.telemetry, settings.records) = (telemetry, records);
        write_settings(&self.settings, &settings)
    }

    /// Requests of all lanes, which are counted either way.
    pub fn requests(&self) -> Result<u64> {
        all_requests(&self.requests)
    }
}

/// How many series there is room for: less on many CPUs.
pub(crate) fn series_limit(cpus: u32) -> u32 {
    let fit = SERIES_BYTES / (size_of::<abi::traffic>() * cpus.max(1) as usize);
    abi::limits::SERIES.0.min(fit as u32)
}

/// Makes the series of all that there will be no room for.
pub(crate) fn make_rest(traffic: &MapHandle) -> Result<()> {
    let nothing = vec![vec![0; size_of::<abi::traffic>()]; cpus()];
    for lane in 0..LANES.len() {
        for kind in 0..3 {
            for hundreds in 0..10u16 {
                let mut key = [0; size_of::<abi::traffic_key>()];
                key[50..52].copy_from_slice(&(hundreds * 100).to_ne_bytes());
                (key[52], key[54]) = (lane as u8, kind);
                traffic
                    .update_percpu(&key, &nothing, MapFlags::ANY)
                    .context(|| "make room for traffic of all kinds".into())?;
            }
        }
    }
    Ok(())
}

fn cpus() -> usize {
    libbpf_rs::num_possible_cpus().unwrap_or(1)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().expect("8 bytes")))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes(b.try_into().expect("2 bytes")))
}

fn ip(bytes: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("16 bytes");
    Ipv6Addr::from(octets).to_canonical()
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn name(names: &[&'static str], index: u8) -> &'static str {
    names.get(usize::from(index)).copied().unwrap_or("none")
}

fn kind(number: u8) -> TrafficKind {
    match abi::traffic_kind(number.into()) {
        abi::traffic_kind::TRAFFIC_CONNECTION => TrafficKind::Connection,
        abi::traffic_kind::TRAFFIC_VISIT => TrafficKind::Visit,
        _ => TrafficKind::Request,
    }
}

impl TrafficKey {
    fn read(bytes: &[u8]) -> Option<TrafficKey> {
        if bytes.len() != size_of::<abi::traffic_key>() {
            return None;
        }
        let endpoint = Some(ip(bytes, 32)).filter(|ip| !ip.is_unspecified());
        Some(TrafficKey {
            source: ip(bytes, 0),
            service: SocketAddr::new(ip(bytes, 16), short(bytes, 48)),
            endpoint,
            status: short(bytes, 50),
            lane: bytes[52],
            reason: bytes[53],
            kind: kind(bytes[54]),
        })
    }

    /// As the kernel has it.
    fn bytes(&self) -> [u8; size_of::<abi::traffic_key>()] {
        let mut key = [0; size_of::<abi::traffic_key>()];
        key[..16].copy_from_slice(&mapped(self.source));
        key[16..32].copy_from_slice(&mapped(self.service.ip()));
        if let Some(endpoint) = self.endpoint {
            key[32..48].copy_from_slice(&mapped(endpoint));
        }
        key[48..50].copy_from_slice(&self.service.port().to_ne_bytes());
        key[50..52].copy_from_slice(&self.status.to_ne_bytes());
        (key[52], key[53], key[54]) = (self.lane, self.reason, self.kind as u8);
        key
    }

    /// One of [`LANES`].
    pub fn lane(&self) -> &'static str {
        name(&LANES, self.lane)
    }

    /// One of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        name(&REASONS, self.reason)
    }
}

impl TrafficSum {
    fn add(&mut self, bytes: &[u8]) {
        let mut at = 0;
        let mut next = || {
            at += 8;
            word(bytes, at - 8)
        };
        self.count += next();
        self.closed += next();
        self.request_bytes += next();
        self.response_bytes += next();
        self.duration += next();
        let sizes = [&mut self.durations, &mut self.request_sizes, &mut self.response_sizes];
        for bucket in sizes.into_iter().flatten() {
            *bucket += next();
        }
    }
}

/// All sums.
pub(crate) fn traffic(map: &MapHandle) -> Result<Vec<(TrafficKey, TrafficSum)>> {
    let mut all = Vec::new();
    for bytes in map.keys() {
        let Some(key) = TrafficKey::read(&bytes) else { continue };
        let values = map.lookup_percpu(&bytes, MapFlags::ANY).context(|| "read traffic".into())?;
        let mut sum = TrafficSum::default();
        values.iter().flatten().for_each(|value| sum.add(value));
        if sum.count > 0 || sum.closed > 0 {
            all.push((key, sum));
        }
    }
    Ok(all)
}

/// Makes room: a kind of traffic begins at zero when it comes again.
pub(crate) fn forget(map: &MapHandle, key: &TrafficKey) {
    // it may be gone already
    let _ = map.delete(&key.bytes());
}

/// Makes room, likewise.
pub(crate) fn forget_latency(map: &MapHandle, key: &LatencyKey) {
    let mut bytes = [0; size_of::<abi::latency_key>()];
    bytes[..16].copy_from_slice(&mapped(key.source));
    bytes[16..32].copy_from_slice(&mapped(key.service.ip()));
    bytes[32..34].copy_from_slice(&key.service.port().to_ne_bytes());
    bytes[34..36].copy_from_slice(&key.cpu.to_ne_bytes());
    bytes[36] = key.kind as u8;
    let _ = map.delete(&bytes);
}

/// All histograms of durations.
pub(crate) fn latencies(map: &MapHandle) -> Result<Vec<(LatencyKey, Vec<u64>)>> {
    let mut all = Vec::new();
    for bytes in map.keys() {
        if bytes.len() != size_of::<abi::latency_key>() {
            continue;
        }
        let value = map.lookup(&bytes, MapFlags::ANY).context(|| "read durations".into())?;
        let Some(value) = value else { continue };
        let key = LatencyKey {
            source: ip(&bytes, 0),
            service: SocketAddr::new(ip(&bytes, 16), short(&bytes, 32)),
            cpu: short(&bytes, 34),
            kind: kind(bytes[36]),
        };
        let buckets = (0..LATENCY_BUCKETS).map(|bucket| word(&value, bucket * 8)).collect();
        all.push((key, buckets));
    }
    Ok(all)
}

/// Lets a program look at all that it is attached to.
pub(crate) fn walk(link: &Link) -> Result<()> {
    let mut walk = Iter::new(link).context(|| "look at sockets".into())?;
    // it says nothing, but goes on only while it is read
    let mut nothing = Vec::new();
    walk.read_to_end(&mut nothing).map(drop).context(|| "look at sockets".into())
}

/// Buckets of histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    /// Of a duration, exact to 0.8 %.
    pub latency: usize,
    /// Of a duration by Envoy's bounds.
    pub milliseconds: usize,
    /// Of bytes by Envoy's bounds.
    pub size: usize,
}

/// Where the kernel counts a duration and a number of bytes.
pub(crate) fn find_buckets(
    program: BorrowedFd<'_>,
    duration: Duration,
    bytes: u64,
) -> Result<Buckets> {
    let duration = duration.as_nanos() as u64;
    let mut query = abi::buckets_query { duration, bytes, ..Default::default() };
    run(program, &mut query).context(|| "ask for buckets".into())?;
    Ok(Buckets {
        latency: query.latency as usize,
        milliseconds: query.milliseconds as usize,
        size: query.size as usize,
    })
}

/// Bytes that wait on each bus.
pub(crate) fn depths(map: &MapHandle) -> Result<Vec<u64>> {
    let depth = |at: u32| {
        let value = map.lookup(&at.to_ne_bytes(), MapFlags::ANY);
        Ok(word(&value.context(|| "read what waits on a bus".into())?.unwrap_or_default(), 0))
    };
    (0..map.max_entries()).map(depth).collect()
}

/// A reader of records.
pub struct Records<'a> {
    ring: RingBuffer<'a>,
    receive: std::sync::mpsc::Receiver<Told>,
}

impl Records<'_> {
    pub(crate) fn open(map: &MapHandle) -> Result<Records<'_>> {
        let mut builder = RingBufferBuilder::new();
        let (send, receive) = std::sync::mpsc::channel();
        let told = move |bytes: &[u8]| {
            if let Some(told) = Told::read(bytes) {
                let _ = send.send(told);
            }
            0
        };
        builder.add(map, told).context(|| "open the ring buffer of records".into())?;
        let ring = builder.build().context(|| "open the ring buffer of records".into())?;
        Ok(Records { ring, receive })
    }

    /// Waits up to `timeout` for the kernel to say that there are some, and returns those there are.
    pub fn wait(&self, timeout: Duration) -> Result<Vec<Told>> {
        let told = match self.ring.poll(timeout) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => Err(error),
            // where not all requests are told of, nobody is woken
            _ => self.ring.consume(),
        };
        told.context(|| "read the ring buffer of records".into())?;
        Ok(self.receive.try_iter().collect())
    }
}

impl Told {
    fn read(bytes: &[u8]) -> Option<Told> {
        if bytes.len() < size_of::<abi::record>() {
            return None;
        }
        // SAFETY: there are enough bytes, and any are valid integers.
        let record = unsafe { bytes.as_ptr().cast::<abi::record>().read_unaligned() };
        let known = |address: &abi::address| (address.family > 0).then(|| address.socket());
        let length = (record.length as usize).min(record.head.len());
        Some(Told {
            at: Duration::from_nanos(record.at),
            duration: Duration::from_nanos(record.duration),
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            source: known(&record.source),
            caller: record.caller.socket().ip(),
            service: record.service.socket(),
            endpoint: known(&record.endpoint),
            rule: (record.rule as usize).checked_sub(1),
            status: record.status,
            lane: name(&LANES, record.lane),
            reason: name(&REASONS, record.reason),
            kind: kind(record.kind),
            judged: Duration::from_nanos(record.judged.into()),
            head: record.head[..length].to_vec(),
        })
    }
}

const _: () = assert!(std::mem::offset_of!(abi::traffic_key, status) == 50);
const _: () = assert!(std::mem::offset_of!(abi::traffic_key, lane) == 52);
const _: () = assert!(std::mem::offset_of!(abi::traffic_key, kind) == 54);
const _: () = assert!(std::mem::offset_of!(abi::latency_key, cpu) == 34);
const _: () = assert!(std::mem::offset_of!(abi::latency_key, kind) == 36);
