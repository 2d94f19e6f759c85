//! The userspace proxy inside the agent, and what it asks of the kernel.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_dataplane::{Dataplane, Event, Orphan, Purpose};
use beeway_model::Mesh;
use beeway_proxy::frame::{FLAG_END, Frame, KIND_DATA};
use beeway_proxy::{Proxy, Record, Recorder, Stats, Worker};
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;
use zerocopy::IntoBytes;

use super::divert::{self, Order};
use super::forbidden::Enforcer;
use super::handover;
use super::telemetry::Telemetry;

const _: () = assert!(beeway_proxy::FRAME_BYTES == beeway_dataplane::FRAME_BYTES);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// How long the thread that hears of events sleeps at the most.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// The running detour.
pub(crate) struct Detour {
    proxy: Arc<Mutex<Option<Proxy>>>,
    dataplane: Arc<Dataplane>,
    mesh: watch::Receiver<Arc<Mesh>>,
    order: Sender<Order>,
    recorder: Option<Arc<dyn Recorder>>,
    /// The thread that hears of events, and what stops it.
    events: Mutex<Option<(Arc<AtomicBool>, JoinHandle<()>)>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Mutex<Vec<TcpListener>>,
}

impl Detour {
    /// Starts a worker for each CPU, at most as many as there are buses. `beside` an agent that
    /// hands over, what that one has begun is left to it.
    pub(crate) fn start(
        dataplane: Arc<Dataplane>,
        mesh: watch::Receiver<Arc<Mesh>>,
        recorder: Option<Arc<dyn Recorder>>,
        beside: bool,
    ) -> Result<Detour> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let orphans = if beside { Vec::new() } else { dataplane.orphans() };
        let sockets = dataplane.open_workers(cpus.min(beeway_dataplane::MAX_WORKERS))?;
        let (kernel, orders) = divert::kernel_side(&dataplane);
        let order = kernel.orders();
        end_orphans(&dataplane, &orphans, &order, recorder.as_deref())?;
        let workers =
            sockets.into_iter().map(|s| Worker { bus: s.bus, injector: s.injector }).collect();
        let proxy = Proxy::start(workers, Arc::new(kernel), mesh.clone(), recorder.clone())
            .context("start the userspace proxy")?;
        let proxy = Arc::new(Mutex::new(Some(proxy)));
        let diverting = divert::spawn(dataplane.clone(), proxy.clone(), orders)?;
        let (threads, listeners) = (Mutex::new(vec![diverting]), Mutex::default());
        let events = Mutex::default();
        let detour = Detour { proxy, dataplane, mesh, order, recorder, events, threads, listeners };
        Ok(detour)
    }

    /// Hears of what happens to connections, until [`Detour::stop_hearing`]. What happens to those of
    /// a `predecessor`, which hands over, it is told; until it is gone.
    pub(crate) fn hear(
        &self,
        predecessor: Option<UnixStream>,
        telemetry: Arc<Telemetry>,
    ) -> Result<()> {
        let stopping = Arc::new(AtomicBool::new(false));
        let listener = Listener {
            dataplane: self.dataplane.clone(),
            proxy: self.proxy.clone(),
            order: self.order.clone(),
            predecessor,
            enforcer: Enforcer::start(self.dataplane.clone(), self.mesh.clone(), telemetry)?,
            stopping: stopping.clone(),
        };
        let thread =
            std::thread::Builder::new().name("events".into()).spawn(move || listener.run())?;
        *self.events.lock().expect("no panic while locked") = Some((stopping, thread));
        Ok(())
    }

    /// When it returns, another process may hear of what happens.
    pub(crate) fn stop_hearing(&self) {
        let events = self.events.lock().expect("no panic while locked").take();
        if let Some((stopping, thread)) = events {
            stopping.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }

    /// Something has happened to a connection.
    pub(crate) fn happened(&self, event: Event) {
        tell(&self.proxy, &self.order, event);
    }

    /// Answers what another agent, which is gone, has not answered.
    pub(crate) fn end_orphans(&self) -> Result<()> {
        let orphans = self.dataplane.orphans();
        end_orphans(&self.dataplane, &orphans, &self.order, self.recorder.as_deref())
    }

    /// Ends what has been begun, and connections once they are idle, for at most `limit`. The kernel
    /// knows of another proxy already. Whether all of it has ended.
    pub(crate) fn drain(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let drained = |proxy: Option<&Proxy>| proxy.is_none_or(Proxy::is_drained);
        if let Some(proxy) = self.proxy.lock().expect("no panic while locked").as_mut() {
            proxy.drain();
        }
        while !drained(self.proxy.lock().expect("no panic while locked").as_ref()) {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Takes connections as a whole at this address, port 0 for any, and has clients led there.
    /// The address that it is.
    pub(crate) fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        let what = || format!("listen on {address} for connections from pods");
        let listener = bind(address).with_context(what)?;
        let bound = listener.local_addr().with_context(what)?;
        if let Some(proxy) = self.proxy.lock().expect("no panic while locked").as_mut() {
            proxy.listen(listener.try_clone().with_context(what)?).with_context(what)?;
            self.dataplane.open_listener(&listener)?;
            let mut listeners = self.listeners.lock().expect("no panic while locked");
            // one of each family is in use
            listeners.retain(|other| {
                other.local_addr().is_ok_and(|other| other.is_ipv4() != bound.is_ipv4())
            });
            listeners.push(listener);
        }
        Ok(bound)
    }

    /// Where clients are led whose connections the proxy takes as a whole.
    pub(crate) fn listeners(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.lock().expect("no panic while locked");
        listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Takes the place back that another agent had for a moment.
    pub(crate) fn reopen(&self) -> Result<()> {
        for listener in &*self.listeners.lock().expect("no panic while locked") {
            self.dataplane.open_listener(listener)?;
        }
        self.dataplane.use_workers()?;
        self.end_orphans()
    }

    /// Counters of the proxy.
    pub(crate) fn stats(&self) -> Stats {
        let proxy = self.proxy.lock().expect("no panic while locked");
        proxy.as_ref().map(Proxy::stats).unwrap_or_default()
    }

    /// From now on the kernel answers 503 itself.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.dataplane.close_workers() {
            tracing::warn!(%error, "the kernel could not be told that the proxy ends");
        }
        self.end();
    }

    /// Ends the proxy.
    pub(crate) fn end(&self) {
        self.stop_hearing();
        drop(self.proxy.lock().expect("no panic while locked").take());
        let _ = self.order.send(Order::End);
        for thread in self.threads.lock().expect("no panic while locked").drain(..) {
            let _ = thread.join();
        }
    }
}

/// An agent that takes over may listen at the same place.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What a client gets whose request went down with an earlier agent.
const LOST: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
    content-length: 53\r\nserver: beeway\r\n\r\nbeeway: the userspace proxy ended during this request";

/// Answers requests that an earlier agent took and did not answer. Where the answer has begun, or
/// the request is still on its way, the connection is reset.
fn end_orphans(
    dataplane: &Dataplane,
    orphans: &[Orphan],
    order: &Sender<Order>,
    recorder: Option<&dyn Recorder>,
) -> Result<()> {
    if orphans.is_empty() {
        return Ok(());
    }
    let sockets = dataplane.open_injector(Purpose::Orphans)?;
    for orphan in orphans {
        let reset = orphan.begun || orphan.held;
        if let Some(recorder) = recorder {
            recorder.record(Record::lost(if reset { 0 } else { 503 }));
        }
        if reset {
            let _ = order.send(Order::Reset(orphan.cookie));
            continue;
        }
        let frame = Frame {
            length: LOST.len() as u32,
            kind: KIND_DATA,
            flags: FLAG_END,
            cookie: orphan.cookie,
            request: orphan.request,
            ..Frame::default()
        };
        let bytes = [frame.as_bytes(), LOST].concat();
        // a client that is gone is an error here too
        if (&sockets.injector).write_all(&bytes).is_ok() {
            tracing::info!(cookie = orphan.cookie, "answered a request of an earlier agent");
        }
    }
    Ok(())
}

/// Hears of events.
struct Listener {
    dataplane: Arc<Dataplane>,
    proxy: Arc<Mutex<Option<Proxy>>>,
    order: Sender<Order>,
    predecessor: Option<UnixStream>,
    enforcer: Enforcer,
    stopping: Arc<AtomicBool>,
}

impl Listener {
    fn run(mut self) {
        let dataplane = self.dataplane.clone();
        let events = match dataplane.events() {
            Ok(events) => events,
            Err(error) => return tracing::error!(%error, "closed connections go unheard"),
        };
        while !self.stopping.load(Ordering::Relaxed) {
            let heard = events.wait(HEARTBEAT).unwrap_or_else(|error| {
                tracing::error!(%error, "closed connections go unheard");
                std::thread::sleep(HEARTBEAT);
                Vec::new()
            });
            for event in heard {
                self.pass_on(event);
            }
        }
    }

    fn pass_on(&mut self, event: Event) {
        match event {
            // the record of whose it was has gone with it: who does not know it does nothing
            Event::Closed(_) => {
                self.tell_predecessor(event);
            }
            Event::Held(cookie) if !self.dataplane.owns(cookie) => {
                if !self.tell_predecessor(event) {
                    // nobody is left who knows what came before
                    let _ = self.order.send(Order::Reset(cookie));
                }
                return;
            }
            Event::Held(_) => {}
            Event::Forbidden(forbidden) => return self.enforcer.reset(forbidden),
            Event::Denied { on, bucket } => return self.enforcer.answer(on, bucket),
        }
        tell(&self.proxy, &self.order, event);
    }

    /// False when there is none.
    fn tell_predecessor(&mut self, event: Event) -> bool {
        let Some(predecessor) = &mut self.predecessor else { return false };
        let Some(line) = handover::line(event) else { return false };
        let told = predecessor.write_all(line.as_bytes()).is_ok();
        if !told {
            self.predecessor = None;
        }
        told
    }
}

fn tell(proxy: &Mutex<Option<Proxy>>, order: &Sender<Order>, event: Event) {
    match event {
        Event::Closed(cookie) => {
            if let Some(proxy) = &*proxy.lock().expect("no panic while locked") {
                proxy.client_closed(cookie);
            }
        }
        Event::Held(cookie) => {
            let _ = order.send(Order::Divert(cookie));
        }
        // its listener sees to it
        Event::Forbidden(_) | Event::Denied { .. } => {}
    }
}
