//! The userspace proxy inside the agent, and what it asks of the kernel.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use beeway_dataplane::{Dataplane, Event, Orphan};
use beeway_model::Mesh;
use beeway_proxy::frame::{FLAG_END, Frame, KIND_DATA};
use beeway_proxy::{Proxy, Recorder, Stats, Worker};
use tokio::sync::watch;
use zerocopy::IntoBytes;

use super::divert::{self, Order};

const _: () = assert!(beeway_proxy::FRAME_BYTES == beeway_dataplane::FRAME_BYTES);

/// How long the thread that hears of events sleeps at the most.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// The running detour.
pub(crate) struct Detour {
    proxy: Arc<Mutex<Option<Proxy>>>,
    dataplane: Arc<Dataplane>,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Mutex<Vec<SocketAddr>>,
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
        let (kernel, orders) = divert::kernel_side(&dataplane);
        let order = kernel.orders();
        if let Some(worker) = sockets.first() {
            end_orphans(&orphans, &worker.injector, &order);
        }
        let workers =
            sockets.into_iter().map(|s| Worker { bus: s.bus, injector: s.injector }).collect();
        let proxy = Proxy::start(workers, Arc::new(kernel), mesh, recorder)
            .context("start the userspace proxy")?;
        let proxy = Arc::new(Mutex::new(Some(proxy)));
        let stopping = Arc::new(AtomicBool::new(false));
        let events = std::thread::Builder::new().name("events".into()).spawn({
            let (dataplane, proxy) = (dataplane.clone(), proxy.clone());
            let stopping = stopping.clone();
            move || hear(&dataplane, &proxy, &order, &stopping)
        })?;
        let diverting = divert::spawn(dataplane.clone(), proxy.clone(), orders)?;
        let threads = Mutex::new(vec![events, diverting]);
        Ok(Detour { proxy, dataplane, stopping, threads, listeners: Mutex::default() })
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
        // its end is that of the orders, and so of the other thread
        drop(self.proxy.lock().expect("no panic while locked").take());
        for thread in self.threads.lock().expect("no panic while locked").drain(..) {
            let _ = thread.join();
        }
    }
}

/// What a client gets whose request went down with an earlier agent.
const LOST: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
    content-length: 53\r\nserver: beeway\r\n\r\nbeeway: the userspace proxy ended during this request";

/// Answers requests that an earlier agent took and did not answer. Where the answer has begun, or
/// the request is still on its way, the connection is reset.
fn end_orphans(orphans: &[Orphan], mut injector: &TcpStream, order: &Sender<Order>) {
    for orphan in orphans {
        if orphan.begun || orphan.held {
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
        if injector.write_all(&bytes).is_ok() {
            tracing::info!(cookie = orphan.cookie, "answered a request of an earlier agent");
        }
    }
}

fn hear(
    dataplane: &Dataplane,
    proxy: &Mutex<Option<Proxy>>,
    order: &Sender<Order>,
    stopping: &AtomicBool,
) {
    let events = match dataplane.events() {
        Ok(events) => events,
        Err(error) => return tracing::error!(%error, "closed connections go unheard"),
    };
    while !stopping.load(Ordering::Relaxed) {
        let heard = events.wait(HEARTBEAT).unwrap_or_else(|error| {
            tracing::error!(%error, "closed connections go unheard");
            std::thread::sleep(HEARTBEAT);
            Vec::new()
        });
        for event in heard {
            match event {
                Event::Closed(cookie) => {
                    if let Some(proxy) = &*proxy.lock().expect("no panic while locked") {
                        proxy.client_closed(cookie);
                    }
                }
                Event::Held(cookie) => {
                    let _ = order.send(Order::Divert(cookie));
                }
            }
        }
    }
}
