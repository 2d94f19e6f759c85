//! The detour: the userspace proxy for requests that the kernel hands over.
//!
//! ```text
//! kernel ── bus ────► demultiplexer ─► stream ─► HTTP server ─► router ─► HTTP client ─► endpoint
//!        ◄─ injector ◄── frames ─────────┘ answers
//!        ◄─ sockets ────────────────────►
//! ```
//!
//! A *bus* carries frames of many client connections, an *injector* takes answers. Each client
//! connection is a virtual stream here, served by one task: HTTP server, router and HTTP client run
//! in it without a hop to another one. A worker is one thread with its own sockets, streams and pool
//! of connections to endpoints; nothing is shared between workers.
//!
//! By bus, nothing holds a client back and nothing can end its connection, which is native TCP to an
//! endpoint and belongs to the kernel. So a connection of which either is wanted is *diverted*: the
//! kernel side makes it lead to a socket of the proxy ([`Proxy::diverted`]), and the stream goes on
//! over that. A reset alone is had by [`Kernel::abort`].
//!
//! What rules ask for besides a backend is carried out here; what it means is the model's
//! ([`beeway_model::action`]).

mod access;
mod answer;
mod attempt;
mod body;
mod call;
mod chosen;
mod client;
mod cors;
mod deadline;
mod direct;
mod exchange;
pub mod frame;
mod gather;
mod grpc;
mod headers;
mod hello;
mod http2;
mod inbox;
mod incoming;
mod injector;
mod kafka;
pub mod limits;
mod listen;
mod local;
mod mirror;
mod outbox;
mod pacer;
mod plain;
mod pool;
mod preface;
mod record;
mod service;
mod splice;
mod stats;
mod stream;
mod tunnel;
mod upstream;
mod view;
mod whole;
mod wire;
mod worker;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use beeway_model::{Bucket, Mesh};
use tokio::sync::{mpsc, watch};

pub use direct::Turn;
pub use frame::FRAME_BYTES;
pub use record::{Flags, Record, Recorder};
pub use stats::Stats;

use listen::{Desk, Listener};
use stats::Counters;
use worker::Command;

/// What the proxy asks of the kernel side. Called from worker threads; must not block.
pub trait Kernel: Send + Sync + 'static {
    /// Bytes waiting unread in a client's socket; `None` when the socket is gone.
    fn queued(&self, cookie: u64) -> Option<u64>;

    /// Resets a client's connection (its answer was cut off, its bytes cannot be understood any
    /// more): the client sees that after what it has not read yet.
    fn abort(&self, cookie: u64);

    /// Asks for a client's connection to lead to the proxy. [`Proxy::diverted`] follows; or, when
    /// that cannot be, the connection is reset and [`Proxy::client_closed`] follows.
    fn divert(&self, cookie: u64);

    /// Where the bytes of a diverted connection begin; `None`: there is no such connection.
    fn turn(&self, cookie: u64) -> Option<Turn>;

    /// A diverted connection is over.
    fn over(&self, cookie: u64);

    /// What a client asked for that was led to a listener of the proxy, by the two ends of its
    /// connection; asked once for each. `None`: the kernel did not lead it there.
    fn asked_for(&self, client: SocketAddr, listener: SocketAddr) -> Option<Anchor>;

    /// The bytes of this socket, which is about to connect to an endpoint, may be anything, and the
    /// endpoint may do with its end what it likes (hand it over to TLS in the kernel): they must go
    /// by TCP.
    fn leave_alone(&self, socket: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes a token of a bucket of an endpoint, for a caller; both by the addresses by which buckets
    /// are known. False: there is none.
    fn take_token(&self, bucket: &Bucket, endpoint: SocketAddr, caller: IpAddr) -> bool;
}

/// What the kernel knows of a client that it has led to the proxy.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    /// What the client asked for.
    pub service: SocketAddr,
    /// An address by which it is known.
    pub caller: IpAddr,
}

/// The sockets of one worker thread.
#[derive(Debug)]
pub struct Worker {
    /// Frames of many client connections come out of it.
    pub bus: TcpStream,
    /// Answers go into it.
    pub injector: TcpStream,
}

/// How the proxy does its work; what comes of it is the same.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Requests that need nothing special are forwarded the short way.
    pub plain: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { plain: true }
    }
}

/// The running proxy. Dropping it ends all streams and joins the threads.
pub struct Proxy {
    listeners: Vec<Listener>,
    workers: Vec<Running>,
    kernel: Arc<dyn Kernel>,
}

#[derive(Debug)]
struct Running {
    commands: mpsc::UnboundedSender<Command>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a thread for each worker. Requests are routed by the newest `mesh`; each is told to
    /// the `recorder` when it is over, if there is one.
    pub fn start(
        workers: Vec<Worker>,
        kernel: Arc<dyn Kernel>,
        mesh: watch::Receiver<Arc<Mesh>>,
        recorder: Option<Arc<dyn Recorder>>,
    ) -> io::Result<Proxy> {
        Proxy::start_with(Options::default(), workers, kernel, mesh, recorder)
    }

    /// The same, with options.
    pub fn start_with(
        options: Options,
        workers: Vec<Worker>,
        kernel: Arc<dyn Kernel>,
        mesh: watch::Receiver<Arc<Mesh>>,
        recorder: Option<Arc<dyn Recorder>>,
    ) -> io::Result<Proxy> {
        let mut proxy =
            Proxy { listeners: Vec::new(), workers: Vec::new(), kernel: kernel.clone() };
        let kafka = Arc::<kafka::Names>::default();
        for (index, sockets) in workers.into_iter().enumerate() {
            let (commands, inbox) = mpsc::unbounded_channel();
            let counters = Arc::new(Counters::default());
            let (kernel, mesh, counted) = (kernel.clone(), mesh.clone(), counters.clone());
            let prepared = worker::Prepared::new(sockets, kafka.clone())?;
            let recorder = recorder.clone();
            let thread = std::thread::Builder::new()
                .name(format!("detour-{index}"))
                .spawn(move || prepared.run(inbox, kernel, mesh, counted, recorder, options))?;
            proxy.workers.push(Running { commands, counters, thread: Some(thread) });
        }
        Ok(proxy)
    }

    /// Takes connections as a whole that clients are led to this socket with.
    pub fn listen(&mut self, socket: TcpListener) -> io::Result<()> {
        let desk = |worker: &Running| Desk {
            commands: worker.commands.clone(),
            counters: worker.counters.clone(),
        };
        let desks = self.workers.iter().map(desk).collect();
        self.listeners.push(Listener::start(socket, self.kernel.clone(), desks)?);
        Ok(())
    }

    /// A client's socket has closed: its stream ends. Unknown cookies are ignored.
    pub fn client_closed(&self, cookie: u64) {
        for worker in &self.workers {
            // A worker that has stopped has no streams to end.
            let _ = worker.commands.send(Command::Closed(cookie));
        }
    }

    /// A client's connection leads to the proxy now, by `socket`. `first` is the TCP sequence number
    /// of the first byte that can be read from it; it may be one for the endpoint
    /// ([`Kernel::turn`]). `worker` is the index of the one whose bus the connection uses.
    pub fn diverted(&self, worker: usize, cookie: u64, socket: TcpStream, first: u32) {
        let Some(worker) = self.workers.get(worker) else { return };
        // A worker that has stopped has no streams.
        let _ = worker.commands.send(Command::Diverted(cookie, socket, first));
    }

    /// Ends what has been begun: requests, connections that lead here or are carried as a whole, once
    /// they are idle. New ones must be led to another proxy before. [`Proxy::is_drained`] follows.
    pub fn drain(&mut self) {
        self.listeners.clear();
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Drain);
        }
    }

    /// Whether nothing is left of what had been begun when the proxy was told to drain.
    pub fn is_drained(&self) -> bool {
        self.workers.iter().all(|w| w.thread.as_ref().is_none_or(JoinHandle::is_finished))
    }

    /// Sums over all workers.
    pub fn stats(&self) -> Stats {
        self.workers.iter().map(|worker| worker.counters.read()).sum()
    }

    /// Whether every worker still runs. One ends when its bus or injector fails.
    pub fn is_healthy(&self) -> bool {
        self.workers.iter().all(|w| w.thread.as_ref().is_some_and(|t| !t.is_finished()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listeners.clear();
        for worker in &self.workers {
            let _ = worker.commands.send(Command::Stop);
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a detour worker panicked");
            }
        }
    }
}
