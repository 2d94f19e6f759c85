//! A worker thread: sockets, streams, and what they share.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use beeway_model::Mesh;
use rustc_hash::FxHashMap;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;

use crate::direct::Direct;
use crate::frame::{Decoder, FLAG_REQUEST, Piece};
use crate::injector::Injector;
use crate::limits::{
    BUS_BUFFER, CLOSE_GRACE, DIRECT_WAIT, DRAIN_SWEEP, MAX_STREAMS, SWEEP, SWEEP_STREAMS,
};
use crate::listen::Taken;
use crate::pacer::Pacer;
use crate::plain::{self, Plain};
use crate::pool::Pool;
use crate::record::Recorder;
use crate::stats::Counters;
use crate::stream::{State, Stream};
use crate::view::View;
use crate::{Kernel, Options, kafka, service, whole};

/// What a worker is told from outside.
pub(crate) enum Command {
    /// This client's socket has closed.
    Closed(u64),
    /// This client's connection leads here now; with the sequence number of the first byte.
    Diverted(u64, std::net::TcpStream, u32),
    /// A connection is to be carried as a whole.
    Serve(Taken),
    /// End what has been begun, then end.
    Drain,
    /// End.
    Stop,
}

/// What the tasks of one worker share.
pub(crate) struct Core {
    pub kernel: Arc<dyn Kernel>,
    pub counters: Arc<Counters>,
    pub injector: Injector,
    pub pacer: Pacer,
    pub pool: RefCell<Pool>,
    pub plain: Plain,
    pub recorder: Option<Arc<dyn Recorder>>,
    /// Requests under way, those of them that wait for another try, and mirrored ones.
    pub active: Cell<u32>,
    pub retrying: Cell<u32>,
    pub mirroring: Cell<u32>,
    /// Rounds of house-keeping so far: the clock for what has not been used for long.
    pub sweeps: Cell<u64>,
    streams: RefCell<FxHashMap<u64, Rc<Stream>>>,
    /// Connections that lead here, whose first bytes are still in the bus.
    waiting: RefCell<FxHashMap<u64, (Direct, Instant)>>,
    /// Topics of Kafka by their ids, for all workers.
    pub kafka: Arc<kafka::Names>,
    mesh: RefCell<watch::Receiver<Arc<Mesh>>>,
    view: RefCell<Rc<View>>,
    full: Cell<bool>,
    draining: Cell<bool>,
    /// Those who want to know of that.
    drained: Notify,
}

/// A worker that has what it needs and has not started.
pub(crate) struct Prepared {
    runtime: Runtime,
    sockets: crate::Worker,
    kafka: Arc<kafka::Names>,
}

impl Prepared {
    pub fn new(sockets: crate::Worker, kafka: Arc<kafka::Names>) -> io::Result<Prepared> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for socket in [&sockets.bus, &sockets.injector] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        Ok(Prepared { runtime, sockets, kafka })
    }

    pub fn run(
        self,
        inbox: mpsc::UnboundedReceiver<Command>,
        kernel: Arc<dyn Kernel>,
        mesh: watch::Receiver<Arc<Mesh>>,
        counters: Arc<Counters>,
        recorder: Option<Arc<dyn Recorder>>,
        options: Options,
    ) {
        let Prepared { runtime, sockets, kafka } = self;
        let local = LocalSet::new();
        let ended = runtime.block_on(local.run_until(async {
            let view = RefCell::new(Rc::new(View::new(mesh.borrow().clone())));
            let core = Rc::new(Core {
                kernel,
                counters,
                injector: Injector::new(TcpStream::from_std(sockets.injector)?),
                pacer: Pacer::new()?,
                pool: RefCell::default(),
                plain: Plain::new(options.plain),
                recorder,
                active: Cell::new(0),
                retrying: Cell::new(0),
                mirroring: Cell::new(0),
                sweeps: Cell::new(0),
                streams: RefCell::default(),
                kafka,
                waiting: RefCell::default(),
                mesh: RefCell::new(mesh),
                view,
                full: Cell::new(false),
                draining: Cell::new(false),
                drained: Notify::new(),
            });
            let ended = attend(&core, TcpStream::from_std(sockets.bus)?, inbox).await;
            core.close_all();
            ended
        }));
        if let Err(error) = ended {
            tracing::error!(%error, "a detour worker has stopped");
        }
    }
}

/// Runs the worker's own tasks until one of them ends. They are tasks and not branches here, so that
/// a wake-up of one does not poll all.
async fn attend(
    core: &Rc<Core>,
    bus: TcpStream,
    inbox: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    core.injector.ready().await?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_local(read_bus(core.clone(), bus));
    tasks.spawn_local(obey(core.clone(), inbox));
    let shared = core.clone();
    tasks.spawn_local(async move { Err(shared.injector.run(&shared.counters).await) });
    let shared = core.clone();
    tasks.spawn_local(async move { shared.pacer.run().await });
    tasks.join_next().await.map_or(Ok(()), |ended| ended.map_err(io::Error::other)?)
}

async fn read_bus(core: Rc<Core>, mut bus: TcpStream) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; BUS_BUFFER];
    let mut held = 0;
    loop {
        let n = bus.read(&mut buffer[held..]).await?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bus has closed"));
        }
        held += n;
        let mut input = &buffer[..held];
        while let Some(piece) = decoder.next(&mut input) {
            if let Some(stream) = core.stream_of(&piece)
                && !plain::take(&core, &stream, &piece)
            {
                core.deliver(&stream, piece);
            }
        }
        let left = input.len();
        buffer.copy_within(held - left..held, 0);
        held = left;
    }
}

async fn obey(core: Rc<Core>, mut inbox: mpsc::UnboundedReceiver<Command>) -> io::Result<()> {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    let mut swept = Instant::now();
    let mut to_sweep = Vec::new();
    let mut commands = Vec::new();
    loop {
        tokio::select! {
            n = inbox.recv_many(&mut commands, 1024) => {
                if n == 0 {
                    return Ok(());
                }
                // A client's last bytes may still be in the bus; they came before it closed.
                tokio::task::yield_now().await;
                for command in commands.drain(..) {
                    match command {
                        Command::Closed(cookie) => core.close(cookie),
                        Command::Serve(taken) => {
                            tokio::task::spawn_local(whole::serve(core.clone(), taken));
                        }
                        Command::Diverted(cookie, socket, first) => {
                            match Direct::new(socket, first) {
                                Ok(direct) => core.turn_to(cookie, direct),
                                Err(error) => {
                                    tracing::warn!(%error, "cannot use a diverted connection");
                                    core.close(cookie);
                                }
                            }
                        }
                        Command::Drain => {
                            core.drain();
                            tick = tokio::time::interval(DRAIN_SWEEP);
                        }
                        Command::Stop => return Ok(()),
                    }
                }
            }
            _ = tick.tick() => {
                core.full.set(false);
                // The clock goes on as before while the worker drains.
                if swept.elapsed() > SWEEP - DRAIN_SWEEP {
                    swept = Instant::now();
                    core.sweeps.set(core.sweeps.get() + 1);
                }
                core.pool.borrow_mut().sweep(Instant::now());
                core.plain.sweep(core.sweeps.get());
                core.sweep(&mut to_sweep);
                if core.is_drained() {
                    return Ok(());
                }
            }
        }
    }
}

impl Core {
    /// The newest mesh.
    pub fn view(&self) -> Rc<View> {
        let mut mesh = self.mesh.borrow_mut();
        if mesh.has_changed().unwrap_or(false) {
            let newest = mesh.borrow_and_update().clone();
            *self.view.borrow_mut() = Rc::new(View::new(newest));
        }
        self.view.borrow().clone()
    }

    /// Tells of each newer mesh than one that [`Core::view`] gives after this.
    pub fn changes(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.borrow().clone()
    }

    /// Waits until a mesh has come for which this holds, newer than what [`Core::view`] has given
    /// before this is called: what comes until the first look is not missed.
    pub fn changed_until(&self, holds: impl Fn(&View) -> bool) -> impl Future<Output = ()> {
        let mut mesh = self.changes();
        async move {
            while mesh.changed().await.is_ok() {
                if holds(&self.view()) {
                    return;
                }
            }
            std::future::pending().await
        }
    }

    /// The stream that a piece belongs to, a new one if the connection is new.
    fn stream_of(self: &Rc<Self>, piece: &Piece<'_>) -> Option<Rc<Stream>> {
        let frame = &piece.frame;
        let known = self.streams.borrow().get(&frame.cookie).cloned();
        if known.is_some() {
            return known;
        }
        let stream = self.open(piece)?;
        if frame.offset != 0 && frame.flags & FLAG_REQUEST == 0 {
            // What came before went to somebody else (an earlier agent): no telling what this is
            // the middle of.
            self.abort(&stream);
            return None;
        }
        Some(stream)
    }

    fn open(self: &Rc<Self>, piece: &Piece<'_>) -> Option<Rc<Stream>> {
        let frame = &piece.frame;
        let mut streams = self.streams.borrow_mut();
        if !piece.first {
            // The rest of a frame whose stream was closed in between.
            return None;
        }
        if streams.len() >= MAX_STREAMS {
            self.counters.streams_refused.add(1);
            if !self.full.replace(true) {
                tracing::warn!(limit = MAX_STREAMS, "too many connections in the detour");
            }
            drop(streams);
            self.kernel.abort(frame.cookie);
            return None;
        }
        let stream = Rc::new(Stream::new(self.clone(), frame));
        streams.insert(frame.cookie, stream.clone());
        if let Some((direct, _)) = self.waiting.borrow_mut().remove(&frame.cookie) {
            stream.turn_to(direct);
        }
        Some(stream)
    }

    /// Gives a stream an HTTP server.
    pub fn serve(self: &Rc<Self>, stream: &Rc<Stream>) {
        stream.state.set(State::Serving);
        let task = tokio::task::spawn_local(service::serve(stream.clone()));
        *stream.task.borrow_mut() = Some(task.abort_handle());
    }

    /// Hands bytes to a stream.
    pub fn deliver(self: &Rc<Self>, stream: &Rc<Stream>, piece: Piece<'_>) {
        if stream.state.get() == State::Gone {
            return;
        }
        if stream.has_no_server() {
            self.serve(stream);
        }
        self.counters.bytes_in.add(piece.data.len() as u64);
        if stream.deliver(&piece.frame, piece.first, piece.offset, piece.data).is_err() {
            tracing::debug!(cookie = stream.cookie, offset = piece.offset, "bytes out of order");
            self.abort(stream);
        }
    }

    /// A client's connection leads here now.
    fn turn_to(self: &Rc<Self>, cookie: u64, direct: Direct) {
        let stream = self.streams.borrow().get(&cookie).cloned();
        let Some(stream) = stream else {
            self.waiting.borrow_mut().insert(cookie, (direct, Instant::now()));
            return;
        };
        stream.turn_to(direct);
        if stream.has_no_server() {
            self.serve(&stream);
        }
        match stream.state.get() {
            State::Ended => self.finish(&stream),
            // It was aborted in the meantime.
            State::Gone => {
                if let Some(direct) = stream.take_direct() {
                    direct.reset();
                }
                self.close(cookie);
            }
            _ => {}
        }
    }

    /// Brings a client's connection to its end: what was sent is read, then that there is no more.
    pub fn finish(self: &Rc<Self>, stream: &Rc<Stream>) {
        stream.end();
        if let Some(direct) = stream.take_direct() {
            tokio::task::spawn_local(direct.finish());
            return self.close(stream.cookie);
        }
        // Most clients close first. Of the others the connection must lead here to be ended.
        let (core, stream) = (self.clone(), stream.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(CLOSE_GRACE).await;
            if stream.state.get() == State::Ended {
                core.kernel.divert(stream.cookie);
            }
        });
    }

    /// Resets a client's connection: it cannot be told anything in another way. The stream stays
    /// until the client has closed: a request that is still in the bus must not begin another one,
    /// for its answer would go on where this one's was cut off.
    pub fn abort(&self, stream: &Stream) {
        self.counters.aborted.add(1);
        if let Some(direct) = stream.take_direct() {
            direct.reset();
            return self.close(stream.cookie);
        }
        self.kernel.abort(stream.cookie);
        stream.end();
        stream.fail();
        stream.stop();
    }

    /// Ends a stream whose client is gone.
    pub fn close(&self, cookie: u64) {
        let stream = self.streams.borrow_mut().remove(&cookie);
        let Some(stream) = stream else { return };
        stream.fail();
        stream.stop();
        stream.take_direct();
        if stream.is_diverted() {
            self.kernel.over(cookie);
        }
    }

    fn drain(&self) {
        self.draining.set(true);
        self.drained.notify_waiters();
    }

    /// Whether connections are to be ended once they are idle.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits until that is so.
    pub async fn draining(&self) {
        if !self.draining.get() {
            self.drained.notified().await;
        }
    }

    fn is_drained(&self) -> bool {
        let under_way = self.active.get() + self.mirroring.get();
        let connections = self.counters.open_connections.get() + self.counters.direct_streams.get();
        self.draining.get() && under_way == 0 && connections == 0
    }

    /// Streams, connections to endpoints and this refer to each other.
    fn close_all(&self) {
        let cookies: Vec<u64> = self.streams.borrow().keys().copied().collect();
        cookies.into_iter().for_each(|cookie| self.close(cookie));
        self.plain.close();
    }

    /// Finds clients that went away before their stream was there, connections that lead here for no
    /// reason any more, and servers that have nothing to do, a few at a time.
    fn sweep(&self, cookies: &mut Vec<u64>) {
        if cookies.is_empty() {
            cookies.extend(self.streams.borrow().keys());
        }
        let from = cookies.len().saturating_sub(SWEEP_STREAMS);
        for cookie in cookies.drain(from..) {
            let stream = self.streams.borrow().get(&cookie).cloned();
            match stream {
                Some(_) if self.kernel.queued(cookie).is_none() => {
                    self.counters.clients_gone.add(1);
                    self.close(cookie);
                }
                Some(stream) if stream.is_diverted() => stream.retire(),
                Some(stream) => stream.rest(),
                None => {}
            }
        }
        self.waiting.borrow_mut().retain(|cookie, (_, since)| {
            let wanted = since.elapsed() < DIRECT_WAIT;
            if !wanted {
                self.kernel.over(*cookie);
            }
            wanted
        });
    }
}
