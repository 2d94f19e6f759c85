//! What the node's traffic was: counts and records of kernel and proxy, by name, for `/metrics`, the
//! access log, traces, `beeway top`, `beeway flows` and the dashboard.
//!
//! One thread puts it together: once a second it collects what was counted, and at once what is told
//! of single requests. Whoever wants to see takes a [`Snapshot`], or listens to flows.

mod recorder;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_model::Mesh;
use beeway_proxy::Record;
use beeway_telemetry::graph::{Recent, Snapshot, Tick};
use beeway_telemetry::totals::Totals;
use beeway_telemetry::{Flow, Names};
use tokio::sync::{broadcast, watch};

use super::outlets::Outlets;
use recorder::{Counted, flow_of};

pub(crate) use recorder::Witness;

/// How often what was counted is collected.
const TICK: Duration = Duration::from_secs(1);

/// Flows that are kept for who asks what has just been.
const KEPT: usize = 4096;

/// Flows that one who listens may be behind; what is more is lost to him, and he is told.
const BEHIND: usize = 8192;

/// What is known of traffic.
pub(crate) struct Telemetry {
    counted: Arc<Counted>,
    seen: Mutex<Seen>,
    kept: Mutex<VecDeque<Arc<Flow>>>,
    flows: broadcast::Sender<Arc<Flow>>,
    outlets: Outlets,
    lost: Arc<AtomicU64>,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What was collected.
struct Seen {
    mesh: watch::Receiver<Arc<Mesh>>,
    names: Arc<Names>,
    totals: Totals,
    recent: Recent,
    last: Instant,
}

impl Telemetry {
    /// Begins to collect. The [`Witness`] is for the proxy.
    pub(crate) fn start(
        mut mesh: watch::Receiver<Arc<Mesh>>,
        outlets: Outlets,
    ) -> Result<(Arc<Telemetry>, Arc<Witness>)> {
        let (witness, records) = Witness::new(outlets.appetite());
        let names = Arc::new(Names::of(&mesh.borrow_and_update()));
        let (totals, recent) = (Totals::default(), Recent::default());
        let telemetry = Arc::new(Telemetry {
            counted: witness.counted(),
            seen: Mutex::new(Seen { mesh, names, totals, recent, last: Instant::now() }),
            kept: Mutex::default(),
            flows: broadcast::channel(BEHIND).0,
            outlets,
            lost: witness.lost_counter(),
            stopping: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let collector = telemetry.clone();
        let thread = std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || collector.run(&records))
            .context("start the thread of telemetry")?;
        *telemetry.thread.lock().expect("no panic while locked") = Some(thread);
        Ok((telemetry, witness))
    }

    /// Collects what there is a last time, and ends.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().expect("no panic while locked").take() {
            let _ = thread.join();
        }
    }

    /// The picture of the last seconds.
    pub(crate) fn snapshot(&self, seconds: f64) -> Snapshot {
        let seen = self.seen.lock().expect("no panic while locked");
        seen.recent.snapshot(seconds, &seen.totals)
    }

    /// Everything counted up to now.
    pub(crate) fn totals(&self) -> Totals {
        self.collect();
        self.seen.lock().expect("no panic while locked").totals.clone()
    }

    /// The newest flows, oldest first.
    pub(crate) fn kept(&self) -> Vec<Arc<Flow>> {
        self.kept.lock().expect("no panic while locked").iter().cloned().collect()
    }

    /// Flows from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Flow>> {
        self.flows.subscribe()
    }

    /// Records that were told of and not put together: there were too many.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn run(&self, records: &Receiver<Record>) {
        let mut next = Instant::now() + TICK;
        while !self.stopping.load(Ordering::Relaxed) {
            let wait = next.saturating_duration_since(Instant::now()).min(TICK / 5);
            match records.recv_timeout(wait) {
                Ok(record) => self.publish(flow_of(record, &self.names())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
            if Instant::now() >= next {
                self.collect();
                next = Instant::now() + TICK;
            }
        }
        self.collect();
    }

    fn names(&self) -> Arc<Names> {
        self.seen.lock().expect("no panic while locked").names.clone()
    }

    fn publish(&self, flow: Flow) {
        let flow = Arc::new(flow);
        self.outlets.write(&flow);
        let mut kept = self.kept.lock().expect("no panic while locked");
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(flow.clone());
        // nobody need listen
        let _ = self.flows.send(flow);
    }

    /// Gives what was counted since the last time the names of that time.
    fn collect(&self) {
        let seen = &mut *self.seen.lock().expect("no panic while locked");
        let now = Instant::now();
        let mut tick = Tick { seconds: (now - seen.last).as_secs_f64(), ..Tick::default() };
        seen.last = now;
        self.counted.drain(&seen.names, &mut tick);
        for (series, grown) in &tick.series {
            seen.totals.add(series, grown);
        }
        seen.recent.push(tick);
        if seen.mesh.has_changed().unwrap_or(false) {
            seen.names = Arc::new(Names::of(&seen.mesh.borrow_and_update()));
        }
    }
}
