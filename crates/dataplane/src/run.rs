//! Programs that userspace runs itself, and maps that it walks.

use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, libbpf_sys};

use crate::abi;
use crate::error::{Context, Result};

/// A question to the kernel's decision function.
#[derive(Debug, Clone, Copy)]
pub struct DecisionQuery<'a> {
    /// What the client connected to.
    pub service: SocketAddr,
    /// Where its connection leads.
    pub endpoint: SocketAddr,
    /// The client's own address.
    pub source: IpAddr,
    /// Random number that chooses among backends.
    pub draw: u32,
    /// It came in at the endpoint, and is judged nowhere else.
    pub visit: bool,
    /// Request bytes, at most `HEAD_BYTES`.
    pub head: &'a [u8],
}

/// What the kernel would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// One of [`crate::counts::LANES`].
    pub lane: &'static str,
    /// One of [`crate::counts::REASONS`].
    pub reason: &'static str,
    /// Index of the rule that decided.
    pub rule: Option<usize>,
    /// Heap index of the answer.
    pub answer: Option<u32>,
    /// Limits of the rate that are about it, a bit each. No tokens were taken.
    pub limited: u32,
    /// Bytes of the head, 0 when it was not understood.
    pub head_length: usize,
    /// Bytes of the body, when it is not chunked.
    pub body: u64,
    /// The body is chunked.
    pub chunked: bool,
}

pub(crate) fn decide(program: BorrowedFd<'_>, query: &DecisionQuery<'_>) -> Result<Decision> {
    // SAFETY: plain data of the kernel's layout, for which zeros are valid.
    let mut context: Box<abi::decision_query> = Box::new(unsafe { std::mem::zeroed() });
    context.verdict.service = address(query.service);
    context.verdict.endpoint = address(query.endpoint);
    context.verdict.source = address(SocketAddr::new(query.source, 0));
    context.verdict.caller = context.verdict.source;
    context.verdict.draw = query.draw;
    let length = query.head.len().min(context.head.len());
    context.head[..length].copy_from_slice(&query.head[..length]);
    context.length = length as u32;
    context.visit = query.visit.into();
    run(program, &mut *context).context(|| "run the decision program".into())?;
    let verdict = context.verdict;
    Ok(Decision {
        lane: crate::counts::LANES[verdict.lane as usize],
        reason: crate::counts::REASONS[verdict.reason as usize],
        rule: (verdict.rule as usize).checked_sub(1),
        answer: (verdict.answer != 0).then_some(verdict.answer),
        limited: verdict.limited,
        head_length: context.parsed.length as usize,
        body: context.parsed.body,
        chunked: context.parsed.chunked != 0,
    })
}

pub(crate) fn queued(program: BorrowedFd<'_>, cookie: u64) -> Option<u64> {
    let mut query = abi::queue_query { cookie, ..Default::default() };
    run(program, &mut query).ok()?;
    (query.found != 0).then_some(query.queued)
}

/// Runs a `SEC("syscall")` program with `context` as its in and out argument: for these programs
/// the kernel writes back to `ctx_in`, and refuses a `ctx_out` (net/bpf/test_run.c).
pub(crate) fn run<T>(program: BorrowedFd<'_>, context: &mut T) -> io::Result<()> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        ctx_in: (&raw mut *context).cast(),
        ctx_size_in: size_of::<T>() as u32,
        ..Default::default()
    };
    // SAFETY: `options` points to a context of the size given, which outlives the call.
    let done = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    match (done, options.retval) {
        (0, 0) => Ok(()),
        (0, value) => Err(io::Error::other(format!("the program returned {}", value as i32))),
        (error, _) => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// A connection whose last request was handed to a proxy that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// Cookie of the client's socket.
    pub cookie: u64,
    /// Number of the request on its connection.
    pub request: u32,
    /// The client has a part of an answer already.
    pub begun: bool,
    /// Nothing that the client sends gets anywhere, and nobody diverts its connection any more.
    pub held: bool,
}

/// Those that have a bus that is not one of `ours`.
pub(crate) fn orphans(flows: &MapHandle, ours: &Range<u32>) -> Vec<Orphan> {
    let pending = |key: &[u8]| {
        let value = flows.lookup(key, MapFlags::ANY).ok()??;
        let word = |at: usize| Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?));
        let bus = word(offset_of!(abi::flow, bus))?;
        if ours.contains(&bus) || bus >= abi::limits::BUSES.0 {
            return None;
        }
        let (request, answered) =
            (word(offset_of!(abi::flow, asked))?, word(offset_of!(abi::flow, answered))?);
        let begun = word(offset_of!(abi::flow, partial))? != 0;
        let way = abi::way(word(offset_of!(abi::flow, way))?);
        let cookie = u64::from_ne_bytes(key.try_into().ok()?);
        if way == abi::way::WAY_DIRECT {
            // its other end went down with the proxy
            let _ = flows.delete(key);
            return None;
        }
        let held = way == abi::way::WAY_HELD;
        (held || request != answered).then_some(Orphan { cookie, request, begun, held })
    };
    // not while walking: entries go
    let keys: Vec<Vec<u8>> = flows.keys().collect();
    keys.iter().filter_map(|key| pending(key)).collect()
}

/// Index of the bus that a connection's requests go to; `None`: it has none.
pub(crate) fn bus_of(flows: &MapHandle, cookie: u64) -> Option<u32> {
    let value = flows.lookup(&cookie.to_ne_bytes(), MapFlags::ANY).ok()??;
    let at = offset_of!(abi::flow, bus);
    Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?))
}

/// Takes a connection's entry out of the map.
pub(crate) fn take_anchor(
    anchors: &MapHandle,
    client: SocketAddr,
    listener: SocketAddr,
) -> Option<(SocketAddr, IpAddr)> {
    let (client, listener) = (address(client), address(listener));
    let mut key = [client.ip, listener.ip].concat();
    key.extend(client.port.to_ne_bytes());
    key.extend(listener.port.to_ne_bytes());
    let value = anchors.lookup_and_delete(&key).ok()??;
    let ip = |at: usize| {
        let ip: [u8; 16] = value.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(ip).to_canonical())
    };
    let port = value.get(offset_of!(abi::address, port)..)?.get(..2)?.try_into().ok()?;
    let service = SocketAddr::new(ip(0)?, u16::from_ne_bytes(port));
    Some((service, ip(offset_of!(abi::anchor, caller))?))
}

/// Marks a socket of ours before it connects.
pub(crate) fn leave_alone(conns: &MapHandle, socket: BorrowedFd<'_>) -> Result<()> {
    let mut conn = vec![0; size_of::<abi::conn>()];
    conn[offset_of!(abi::conn, side)] = abi::side::SIDE_ALONE.0 as u8;
    conns
        .update(&socket.as_raw_fd().to_ne_bytes(), &conn, MapFlags::ANY)
        .context(|| "keep a socket on TCP".into())
}

/// An address as the tables have it: IPv4 as IPv4-mapped IPv6.
pub(crate) fn address(address: SocketAddr) -> abi::address {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    abi::address {
        ip: ip.octets(),
        port: address.port(),
        family: if address.is_ipv4() { 4 } else { 6 },
    }
}

const _: () = {
    assert!(offset_of!(abi::anchor_key, listener) == 16);
    assert!(offset_of!(abi::anchor_key, client_port) == 32);
    assert!(offset_of!(abi::anchor_key, listener_port) == 34);
    assert!(size_of::<abi::anchor_key>() == 36);
};
