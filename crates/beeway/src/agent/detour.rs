//! The userspace proxy inside the agent, and what it asks of the kernel.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use beeway_dataplane::{Dataplane, Orphan};
use beeway_model::Mesh;
use beeway_proxy::frame::{FLAG_END, Frame, KIND_DATA};
use beeway_proxy::{Kernel, Proxy, Recorder, Stats, Worker};
use tokio::sync::watch;
use zerocopy::IntoBytes;

const _: () = assert!(beeway_proxy::FRAME_BYTES == beeway_dataplane::FRAME_BYTES);

/// How long the thread that hears of closed connections sleeps at the most.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// The running detour.
pub(crate) struct Detour {
    proxy: Arc<Mutex<Option<Proxy>>>,
    dataplane: Arc<Dataplane>,
    stopping: Arc<AtomicBool>,
    events: Mutex<Option<JoinHandle<()>>>,
    listeners: Mutex<Vec<SocketAddr>>,
}

struct KernelSide(Arc<Dataplane>);

impl Kernel for KernelSide {
    fn queued(&self, cookie: u64) -> Option<u64> {
        self.0.queued(cookie)
    }

    fn relay_done(&self, _index: usize) -> Option<TcpStream> {
        None
    }

    /// The connection is not ours to reset: its client waits until its own timeout.
    fn abort(&self, cookie: u64) {
        tracing::warn!(cookie, "an answer by detour broke off; its client is left waiting");
    }

    fn asked_for(&self, client: SocketAddr, listener: SocketAddr) -> Option<SocketAddr> {
        self.0.take_anchor(client, listener)
    }
}

impl Detour {
    /// Starts a worker for each CPU, at most as many as there are buses.
    pub(crate) fn start(
        dataplane: Arc<Dataplane>,
        mesh: watch::Receiver<Arc<Mesh>>,
        recorder: Option<Arc<dyn Recorder>>,
    ) -> Result<Detour> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let orphans = dataplane.orphans();
        let sockets = dataplane.open_workers(cpus.min(beeway_dataplane::MAX_WORKERS))?;
        if let Some(worker) = sockets.first() {
            answer_orphans(&orphans, &worker.injector);
        }
        let workers = sockets
            .into_iter()
            .map(|s| Worker { bus: s.bus, injector: s.injector, relays: Vec::new() })
            .collect();
        let kernel = Arc::new(KernelSide(dataplane.clone()));
        let proxy =
            Proxy::start(workers, kernel, mesh, recorder).context("start the userspace proxy")?;
        let proxy = Arc::new(Mutex::new(Some(proxy)));
        let stopping = Arc::new(AtomicBool::new(false));
        let events = std::thread::Builder::new().name("closed".into()).spawn({
            let (dataplane, proxy) = (dataplane.clone(), proxy.clone());
            let stopping = stopping.clone();
            move || hear_of_closed(&dataplane, &proxy, &stopping)
        })?;
        Ok(Detour {
            proxy,
            dataplane,
            stopping,
            events: Mutex::new(Some(events)),
            listeners: Mutex::default(),
        })
    }

    /// Takes connections as a whole at this address, port 0 for any, and has clients led there.
    /// The address that it is.
    pub(crate) fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        let what = || format!("listen on {address} for connections from pods");
        let listener = TcpListener::bind(address).with_context(what)?;
        let bound = listener.local_addr().with_context(what)?;
        if let Some(proxy) = self.proxy.lock().expect("no panic while locked").as_mut() {
            proxy.listen(listener.try_clone().with_context(what)?).with_context(what)?;
            self.dataplane.open_listener(&listener)?;
            let mut listeners = self.listeners.lock().expect("no panic while locked");
            // one of each family is in use
            listeners.retain(|other| other.is_ipv4() != bound.is_ipv4());
            listeners.push(bound);
        }
        Ok(bound)
    }

    /// Where clients are led whose connections the proxy takes as a whole.
    pub(crate) fn listeners(&self) -> Vec<SocketAddr> {
        self.listeners.lock().expect("no panic while locked").clone()
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
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.events.lock().expect("no panic while locked").take() {
            let _ = thread.join();
        }
        drop(self.proxy.lock().expect("no panic while locked").take());
    }
}

/// What a client gets whose request went down with an earlier agent.
const LOST: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
    content-length: 53\r\nserver: beeway\r\n\r\nbeeway: the userspace proxy ended during this request";

/// Answers requests that an earlier agent took and did not answer. Of an answer that has begun
/// nothing can be made.
fn answer_orphans(orphans: &[Orphan], mut injector: &TcpStream) {
    for orphan in orphans.iter().filter(|orphan| !orphan.begun) {
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
        if injector.write_all(&bytes).is_ok() {
            tracing::info!(cookie = orphan.cookie, "answered a request of an earlier agent");
        }
    }
}

fn hear_of_closed(dataplane: &Dataplane, proxy: &Mutex<Option<Proxy>>, stopping: &AtomicBool) {
    let closed = match dataplane.closed_connections() {
        Ok(closed) => closed,
        Err(error) => return tracing::error!(%error, "closed connections go unheard"),
    };
    while !stopping.load(Ordering::Relaxed) {
        match closed.wait(HEARTBEAT) {
            Ok(cookies) => {
                let proxy = proxy.lock().expect("no panic while locked");
                for cookie in cookies {
                    if let Some(proxy) = proxy.as_ref() {
                        proxy.client_closed(cookie);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "closed connections go unheard");
                std::thread::sleep(HEARTBEAT);
            }
        }
    }
}
