//! The kernel half as the rest of Beeway sees it: the tables that it reads, how it is loaded and
//! kept, the sockets between it and the userspace proxy, its counters. The only crate that knows
//! libbpf.

#[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]
#[allow(unsafe_op_in_unsafe_fn, unused_imports, dead_code)]
pub(crate) mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/beeway.skel.rs"));
}

pub(crate) use skeleton::types as abi;

mod bus;
pub mod cgroup;
pub mod counts;
mod divert;
mod error;
mod forbidden;
pub mod generation;
pub mod homes;
mod load;
mod netlink;
mod pins;
pub mod probe;
mod run;
pub mod tables;
mod tokens;
pub mod traffic;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libbpf_rs::{MapCore, RingBufferBuilder};
use serde::Serialize;

pub use bus::WorkerSockets;
pub use counts::Counts;
pub use divert::{Diverted, Turn};
pub use error::{Error, Result};
pub use forbidden::{Forbidden, Namespaces};
pub use generation::Filled;
pub use load::{Options, StateLock, can_adopt};
pub use run::{Decision, DecisionQuery, Orphan};
pub use tokens::{Token, TokenQuery};
pub use traffic::Telling;

use error::Context;
use tables::Tables;

/// Bytes of the frame header in front of everything that passes a bus or injector.
pub const FRAME_BYTES: usize = size_of::<abi::frame>();

/// Sockets of one agent in the kernel's maps of buses and injectors; the other half is the next
/// one's, which begins while this one still ends what it has begun.
const HALF: u32 = abi::limits::BUSES.0 / 2;

/// The most proxy workers. The other injectors are for the agent itself.
pub const MAX_WORKERS: usize = HALF as usize - 2;

/// What the agent has injectors of its own for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Answers to requests of an agent that is gone.
    Orphans,
    /// Answers to requests that are denied where they came in.
    Denials,
}

/// The kernel programs of this node, loaded and attached. Dropping it leaves them running.
pub struct Dataplane {
    loaded: load::Loaded,
    /// Index of our first bus and injector.
    first: u32,
    /// How many of ours are open.
    workers: AtomicU32,
    dead_end: Mutex<Option<(TcpStream, TcpStream)>>,
}

/// How full a map is.
#[derive(Debug, Clone, Serialize)]
pub struct MapUse {
    /// Its name in bpf/include/maps.h.
    pub name: String,
    /// Entries, or words of the tables' heap.
    pub used: u64,
    /// The most there can be.
    pub limit: u64,
}

impl Dataplane {
    /// Loads and attaches the programs, or takes over those of an earlier agent.
    pub fn start(options: &Options) -> Result<Dataplane> {
        let loaded = load::load(options)?;
        let before = load::read_settings(loaded.map("settings"))?.first_bus;
        let first = if options.beside && before == 0 { HALF } else { 0 };
        Ok(Dataplane { loaded, first, workers: AtomicU32::new(0), dead_end: Mutex::default() })
    }

    /// Whether an earlier agent's programs and counters were taken over.
    pub fn adopted(&self) -> bool {
        self.loaded.adopted
    }

    /// Puts a new generation of tables in force. On an error the old one stays.
    pub fn publish(&self, tables: &Tables) -> Result<()> {
        self.switch(generation::fill(generation::blank()?, tables)?)
    }

    /// Puts a generation in force that was filled by [`generation::fill`]; that is one write.
    pub fn switch(&self, filled: Filled) -> Result<()> {
        let number = filled.number;
        generation::switch(self.loaded.map("generations"), filled)?;
        self.change_settings(|settings| settings.generation = number)
    }

    /// Number of the generation in force; 0 when there was none yet.
    pub fn generation(&self) -> Result<u64> {
        Ok(load::read_settings(self.loaded.map("settings"))?.generation)
    }

    fn change_settings(&self, change: impl FnOnce(&mut abi::settings)) -> Result<()> {
        let map = self.loaded.map("settings");
        let mut settings = load::read_settings(map)?;
        change(&mut settings);
        load::write_settings(map, &settings)
    }

    /// Makes the sockets of `workers` proxy workers and tells the kernel of them: from now on new
    /// requests go there.
    pub fn open_workers(&self, workers: usize) -> Result<Vec<WorkerSockets>> {
        let dead_end = bus::open_dead_end(self.loaded.map("dead_end"))?;
        *self.dead_end.lock().expect("no panic while locked") = Some(dead_end);
        let (buses, injectors) = (self.loaded.map("buses"), self.loaded.map("injectors"));
        let sockets = (0..workers)
            .map(|index| bus::open_worker(buses, injectors, self.first as usize + index))
            .collect::<Result<_>>()?;
        self.workers.store(workers as u32, Ordering::Relaxed);
        self.use_workers()?;
        Ok(sockets)
    }

    /// Tells the kernel of the workers again, after another agent has.
    pub fn use_workers(&self) -> Result<()> {
        let workers = self.workers.load(Ordering::Relaxed);
        self.change_settings(|settings| {
            (settings.buses, settings.first_bus) = (workers, self.first);
            settings.former = settings.proxy;
            settings.proxy = std::process::id();
        })
    }

    /// Indexes of buses that are ours.
    fn ours(&self) -> Range<u32> {
        let none = self.workers.load(Ordering::Relaxed) == 0;
        if none { 0..0 } else { self.first..self.first + HALF }
    }

    /// An injector for the agent itself. Both ends must be kept for as long as it is in use.
    pub fn open_injector(&self, purpose: Purpose) -> Result<WorkerSockets> {
        let index = self.first as usize + MAX_WORKERS + purpose as usize;
        bus::open_injector(self.loaded.map("injectors"), index)
    }

    /// Leads connections that the proxy takes as a whole to this socket, from now on until it
    /// is closed or another one of its address family comes.
    pub fn open_listener(&self, listener: &TcpListener) -> Result<()> {
        bus::open_listener(self.loaded.map("listeners"), listener)
    }

    /// What a client asked for that was led to the proxy, by the two ends of its connection; once
    /// for each connection. `None`: it came by itself.
    pub fn take_anchor(
        &self,
        client: SocketAddr,
        listener: SocketAddr,
    ) -> Option<(SocketAddr, IpAddr)> {
        run::take_anchor(self.loaded.map("anchors"), client, listener)
    }

    /// Keeps the bytes of a socket of ours, which is not connected yet, on TCP.
    pub fn leave_alone(&self, socket: BorrowedFd<'_>) -> Result<()> {
        run::leave_alone(self.loaded.map("conns"), socket)
    }

    /// Tells the kernel that no proxy is there: from now on it answers 503 itself, and refuses
    /// connections that would be led there.
    pub fn close_workers(&self) -> Result<()> {
        bus::close_listeners(self.loaded.map("listeners"));
        self.change_settings(|settings| settings.buses = 0)
    }

    /// Names of the programs that are attached.
    pub fn programs(&self) -> Vec<String> {
        load::program_names().map(str::to_owned).collect()
    }

    /// Bytes that a client's socket has not read yet; `None` when the socket is gone.
    pub fn queued(&self, cookie: u64) -> Option<u64> {
        run::queued(self.loaded.query_queue.as_fd(), cookie)
    }

    /// What the kernel program would do with a request head, for tests and `beeway doctor`.
    pub fn decide(&self, query: &DecisionQuery<'_>) -> Result<Decision> {
        run::decide(self.loaded.decide.as_fd(), query)
    }

    /// Takes a token of a bucket, as the kernel does for native requests.
    pub fn take_token(&self, query: &TokenQuery<'_>) -> Result<Token> {
        tokens::take(self.loaded.ask_token.as_fd(), query)
    }

    /// Where the kernel counts a duration and a number of bytes, for tests.
    pub fn find_buckets(&self, duration: Duration, bytes: u64) -> Result<traffic::Buckets> {
        traffic::find_buckets(self.loaded.find_buckets.as_fd(), duration, bytes)
    }

    /// Removes the token buckets that have been full for that long. Says how many.
    pub fn sweep_buckets(&self, spare: Duration) -> Result<usize> {
        tokens::sweep(self.loaded.map("buckets"), spare)
    }

    /// Sums of traffic by who asked whom, since the maps were made.
    pub fn traffic(&self) -> Result<Vec<(traffic::TrafficKey, traffic::TrafficSum)>> {
        traffic::traffic(self.loaded.map("traffic"))
    }

    /// How many kinds of traffic there is room for, and how many histograms of durations.
    pub fn traffic_limits(&self) -> (usize, usize) {
        let limit = |name| self.loaded.map(name).max_entries() as usize;
        (limit("traffic"), limit("latencies"))
    }

    /// Makes room: what is counted under this key begins at zero when it comes again.
    pub fn forget_traffic(&self, key: &traffic::TrafficKey) {
        traffic::forget(self.loaded.map("traffic"), key);
    }

    /// Makes room, likewise.
    pub fn forget_latency(&self, key: &traffic::LatencyKey) {
        traffic::forget_latency(self.loaded.map("latencies"), key);
    }

    /// A number that the maps of traffic have until they are made anew.
    pub fn traffic_maps(&self) -> Result<u32> {
        let info = self.loaded.map("traffic").info().context(|| "ask for a map's number".into())?;
        Ok(info.info.id)
    }

    /// How long requests took, since the maps were made.
    pub fn latencies(&self) -> Result<Vec<(traffic::LatencyKey, Vec<u64>)>> {
        traffic::latencies(self.loaded.map("latencies"))
    }

    /// Has the kernel count requests that are over and that nothing has followed on their connections.
    pub fn sweep(&self) -> Result<()> {
        traffic::walk(&self.loaded.sweep)?;
        traffic::walk(&self.loaded.sweep_visits)
    }

    /// Bytes that wait to be read by each worker of the proxy.
    pub fn bus_depths(&self) -> Result<Vec<u64>> {
        traffic::walk(&self.loaded.measure_buses)?;
        let all = traffic::depths(self.loaded.map("depths"))?;
        let ours = self.first as usize..;
        let workers = self.workers.load(Ordering::Relaxed) as usize;
        Ok(all.get(ours).unwrap_or_default().iter().take(workers).copied().collect())
    }

    /// Tells of requests one by one.
    pub fn records(&self) -> Result<traffic::Records<'_>> {
        traffic::Records::open(self.loaded.map("records"))
    }

    /// Sets how many requests are told of one by one.
    pub fn tell(&self, telling: Telling) -> Result<()> {
        self.change_settings(|settings| {
            (settings.telemetry, settings.records) = telling.settings();
        })
    }

    /// Everything counted since the maps were made.
    pub fn counts(&self) -> Result<Counts> {
        counts::read(self.loaded.map("requests"), self.loaded.map("counters"))
    }

    /// Requests and connections that were counted and not told of one by one, since the maps were made.
    pub fn untold(&self) -> Result<u64> {
        counts::untold(self.loaded.map("counters"))
    }

    /// How full the maps are that can fill up.
    pub fn map_use(&self) -> Vec<MapUse> {
        [
            "sockets",
            "links",
            "flows",
            "answers",
            "pairs",
            "anchors",
            "buckets",
            "visits",
            "traffic",
            "latencies",
            "datagrams",
            "homes",
            "housed",
        ]
        .into_iter()
        .map(|name| {
            let map = self.loaded.map(name);
            let limit = u64::from(map.max_entries());
            MapUse { name: name.into(), used: map.keys().count() as u64, limit }
        })
        .collect()
    }

    /// Connections that wait for an answer of another agent's proxy. To be asked when that is gone.
    pub fn orphans(&self) -> Vec<Orphan> {
        run::orphans(self.loaded.map("flows"), &self.ours())
    }

    /// Whether what a connection sends by bus is for us, and not for another agent.
    pub fn owns(&self, cookie: u64) -> bool {
        let bus = run::bus_of(self.loaded.map("flows"), cookie);
        bus.is_none_or(|bus| self.ours().contains(&bus))
    }

    /// Lets a client's connection lead to the proxy; `None`: it does already. Blocks for some 0.3 ms,
    /// and the thread is in another network namespace for that time.
    pub fn divert(&self, cookie: u64) -> Result<Option<Diverted>> {
        self.loaded.diverter.divert(cookie, self.first)
    }

    /// Where the bytes of a diverted connection begin; `None`: there is no such connection.
    pub fn turn(&self, cookie: u64) -> Option<Turn> {
        self.loaded.diverter.turn(cookie)
    }

    /// Resets a client's connection: it reads what it has not read, then ECONNRESET. As for
    /// [`Dataplane::divert`], the thread is in another network namespace for a moment.
    pub fn reset(&self, cookie: u64) -> Result<()> {
        self.loaded.diverter.reset(cookie)
    }

    /// Forgets a diverted connection that is over. Others are forgotten when they close.
    pub fn forget(&self, cookie: u64) {
        // it may have been forgotten already
        let _ = self.loaded.map("flows").delete(&cookie.to_ne_bytes());
    }

    /// Tells what happens to connections.
    pub fn events(&self) -> Result<Events<'_>> {
        let mut builder = RingBufferBuilder::new();
        let (send, receive) = std::sync::mpsc::channel();
        builder
            .add(self.loaded.map("events"), move |bytes| {
                if let Some(event) = parse_event(bytes) {
                    let _ = send.send(event);
                }
                0
            })
            .context(|| "open the ring buffer of events".into())?;
        let ring = builder.build().context(|| "open the ring buffer of events".into())?;
        Ok(Events { ring, receive })
    }
}

/// What happened to a connection; one with detours is named by the cookie of the client's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has closed.
    Closed(u64),
    /// It is held: nothing that it sends gets anywhere until [`Dataplane::divert`] or
    /// [`Dataplane::reset`].
    Held(u64),
    /// Policies forbid a live connection. It need not have detours.
    Forbidden(Forbidden),
    /// A request on an accepted connection is not let in: its socket is to send an answer.
    Denied {
        /// The connection.
        on: Forbidden,
        /// The bucket that had no token for it ([`tables::limited_answer`]); `None`: policies forbid it
        /// ([`tables::denied_answer`]).
        bucket: Option<u64>,
    },
}

/// A reader of [`Event`]s.
pub struct Events<'a> {
    ring: libbpf_rs::RingBuffer<'a>,
    receive: std::sync::mpsc::Receiver<Event>,
}

impl Events<'_> {
    /// Waits up to `timeout` and returns what has happened by then.
    pub fn wait(&self, timeout: Duration) -> Result<Vec<Event>> {
        match self.ring.poll(timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == libbpf_rs::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "read the ring buffer of events".into()),
        }
        Ok(self.receive.try_iter().collect())
    }
}

fn parse_event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<abi::event>() {
        return None;
    }
    // SAFETY: there are enough bytes, and any are valid integers.
    let event = unsafe { bytes.as_ptr().cast::<abi::event>().read_unaligned() };
    match abi::event_kind(event.kind) {
        abi::event_kind::EVENT_CLOSED => Some(Event::Closed(event.cookie)),
        abi::event_kind::EVENT_HELD => Some(Event::Held(event.cookie)),
        abi::event_kind::EVENT_LEFT | abi::event_kind::EVENT_CAME => {
            Some(Event::Forbidden(Forbidden::of(&event)))
        }
        abi::event_kind::EVENT_DENIED => Some(Event::Denied {
            on: Forbidden::of(&event),
            bucket: (event.bucket > 0).then_some(event.bucket),
        }),
        _ => None,
    }
}

impl abi::address {
    fn socket(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }
}

/// Detaches and removes whatever an agent with this state directory left. Says how many programs
/// and maps there were.
pub fn off(state: &Path) -> Result<usize> {
    pins::Pins::of(state).remove()
}
