//! What the node's traffic was: counts and records of kernel and proxy, by name, for `/metrics`, the
//! access log, traces, `beeway top`, `beeway flows` and the dashboard.
//!
//! One thread puts it together: once a second it collects what was counted, and at once what is told
//! of single requests. Whoever wants to see takes a [`Snapshot`], or listens to flows.

mod kept;
mod kernel;
mod ledger;
mod recorder;
mod reports;
mod tallies;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_dataplane::Dataplane;
use beeway_dataplane::Forbidden;
use beeway_dataplane::traffic::Told;
use beeway_model::Mesh;
use beeway_proxy::Record;
use beeway_telemetry::graph::{Recent, Snapshot, Tick};
use beeway_telemetry::latency::Histogram;
use beeway_telemetry::totals::Totals;
use beeway_telemetry::{Flow, Names};
use tokio::sync::{broadcast, watch};

use super::outlets::Outlets;
use crate::status::{ledger_file, tallies_file};
use kept::Kept;
use kernel::Latencies;
use ledger::Ledger;
use recorder::{QUEUE, Stopwatch, flow_of};
use reports::Reports;
use tallies::Tallies;

pub(crate) use recorder::Witness;

/// How often what was counted is collected.
const TICK: Duration = Duration::from_secs(1);

/// How often the kernel's records are looked for.
const LISTEN: Duration = Duration::from_millis(100);

/// How long the proxy's records wait for those that follow. A wake-up for each of a thousand a second was
/// a delay for one request in twenty where all runs on one CPU.
const GATHER: Duration = Duration::from_millis(20);

/// How often what was counted is written down. It is lost in no case (see [`ledger`]).
const SAVE: Duration = Duration::from_secs(10);

/// Requests that go to their endpoints and are told of one by one, a second and CPU, unless all are asked
/// for; as many of those that do not.
pub(super) const TOLD: u32 = 250;

/// Flows that one who listens may be behind; what is more is lost to him, and he is told.
const BEHIND: usize = 8192;

/// What is known of traffic.
pub(crate) struct Telemetry {
    dataplane: Arc<Dataplane>,
    tallies: Arc<Tallies>,
    durations: Arc<Stopwatch>,
    seen: Mutex<Seen>,
    kept: Mutex<Kept>,
    /// How often the kernel's records were looked for.
    looks: watch::Sender<u64>,
    /// Records that the proxy has told, and how many of them are flows.
    told: Arc<AtomicU64>,
    put_together: watch::Sender<u64>,
    flows: broadcast::Sender<Arc<Flow>>,
    verdicts: Mutex<Histogram>,
    outlets: Outlets,
    lost: Arc<AtomicU64>,
    thinned: Arc<AtomicU64>,
    stopping: AtomicBool,
    /// Another agent collects.
    resting: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What was collected.
struct Seen {
    mesh: watch::Receiver<Arc<Mesh>>,
    names: Arc<Names>,
    ledger: Ledger,
    totals: Totals,
    latencies: Latencies,
    recent: Recent,
    last: Instant,
    saved: Instant,
}

impl Telemetry {
    /// Begins to collect. The [`Witness`] is for the proxy.
    pub(crate) fn start(
        dataplane: Arc<Dataplane>,
        state: &Path,
        mut mesh: watch::Receiver<Arc<Mesh>>,
        outlets: Outlets,
    ) -> Result<(Arc<Telemetry>, Arc<Witness>)> {
        let tallies = Arc::new(Tallies::open(&tallies_file(state))?);
        let (witness, records) = Witness::new(tallies.clone(), outlets.appetite());
        let (ledger, totals) = Ledger::open(&ledger_file(state), &dataplane, &tallies)?;
        let names = Arc::new(Names::of(&mesh.borrow_and_update()));
        let now = Instant::now();
        let (recent, latencies) = (Recent::default(), Latencies::default());
        let seen = Seen { mesh, names, ledger, totals, latencies, recent, last: now, saved: now };
        let telemetry = Arc::new(Telemetry {
            dataplane,
            tallies,
            durations: witness.durations(),
            seen: Mutex::new(seen),
            kept: Mutex::default(),
            looks: watch::Sender::new(0),
            told: witness.told_counter(),
            put_together: watch::Sender::new(0),
            flows: broadcast::channel(BEHIND).0,
            verdicts: Mutex::default(),
            outlets,
            lost: witness.lost_counter(),
            thinned: witness.thinned_counter(),
            stopping: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        let (collector, hearer) = (telemetry.clone(), telemetry.clone());
        telemetry.spawn("telemetry", move || collector.run(&records))?;
        telemetry.spawn("records", move || hearer.hear())?;
        Ok((telemetry, witness))
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.context("start a thread of telemetry")?;
        self.threads.lock().expect("no panic while locked").push(thread);
        Ok(())
    }

    /// Collects what there is a last time, and ends.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.lock().expect("no panic while locked").drain(..) {
            let _ = thread.join();
        }
    }

    /// Leaves it to another agent, or goes on where that one left off.
    pub(crate) fn rest(&self, state: &Path, resting: bool) -> Result<()> {
        if resting {
            self.collect();
            let seen = &mut *self.seen.lock().expect("no panic while locked");
            self.resting.store(true, Ordering::Relaxed);
            return seen.ledger.save(&seen.totals);
        }
        let seen = &mut *self.seen.lock().expect("no panic while locked");
        (seen.ledger, seen.totals) =
            Ledger::open(&ledger_file(state), &self.dataplane, &self.tallies)?;
        self.resting.store(false, Ordering::Relaxed);
        Ok(())
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
        self.kept.lock().expect("no panic while locked").in_order()
    }

    /// The newest flows, oldest first, and all that come after them.
    pub(crate) fn watch(&self) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        // whoever publishes holds this while it does both
        let kept = self.kept.lock().expect("no panic while locked");
        (kept.in_order(), self.flows.subscribe())
    }

    /// Waits until everything that kernel and proxy have told up to now is among the flows.
    pub(crate) async fn catch_up(&self) {
        let (mut looks, mut put_together) = (self.looks.subscribe(), self.put_together.subscribe());
        // the look under way may have been over the queue already
        let (enough, all) = (*looks.borrow() + 2, self.told.load(Ordering::Relaxed));
        let caught_up = async {
            let _ = looks.wait_for(|looks| *looks >= enough).await;
            let _ = put_together.wait_for(|records| *records >= all).await;
        };
        // no look comes while this agent rests
        let _ = tokio::time::timeout(5 * LISTEN, caught_up).await;
    }

    /// Records of the proxy that were not put together: there were too many.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Requests and connections that were counted and not told of one by one, because there were too
    /// many, since the maps were made; `None`: the kernel does not say.
    pub(crate) fn untold(&self) -> Option<u64> {
        let kernel = self.dataplane.untold().ok()?;
        Some(kernel + self.lost() + self.thinned.load(Ordering::Relaxed))
    }

    /// Requests that are counted under no series of their own.
    pub(crate) fn cut(&self) -> u64 {
        self.seen.lock().expect("no panic while locked").totals.cut()
    }

    /// Kinds of requests that the proxy counts, and how many it can.
    pub(crate) fn tallies(&self) -> (usize, usize) {
        self.tallies.used()
    }

    fn run(&self, records: &Receiver<Record>) {
        let mut next = Instant::now() + TICK;
        while !self.stopping.load(Ordering::Relaxed) {
            let wait = next.saturating_duration_since(Instant::now()).min(TICK / 5);
            match records.recv_timeout(wait) {
                Ok(record) => {
                    std::thread::sleep(GATHER);
                    self.publish_records(std::iter::once(record).chain(records.try_iter()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
            if Instant::now() >= next {
                self.collect();
                next = Instant::now() + TICK;
            }
        }
        self.publish_records(records.try_iter());
        self.collect();
    }

    fn publish_records(&self, records: impl Iterator<Item = Record>) {
        let (names, _) = self.names();
        let flows = records.take(QUEUE).map(|record| flow_of(record, &names));
        let count = flows.map(|flow| self.publish(flow)).count();
        self.put_together.send_modify(|all| *all += count as u64);
    }

    /// Puts together what the kernel tells of.
    fn hear(&self) {
        let records = match self.dataplane.records() {
            Ok(records) => records,
            Err(error) => return tracing::error!(%error, "requests are not told of one by one"),
        };
        let mut reports = Reports::default();
        while !self.stopping.load(Ordering::Relaxed) {
            if self.resting.load(Ordering::Relaxed) {
                std::thread::sleep(LISTEN);
                continue;
            }
            let told = records.wait(LISTEN).unwrap_or_else(|error| {
                tracing::error!(%error, "requests are not told of one by one");
                std::thread::sleep(TICK);
                Vec::new()
            });
            if !told.is_empty() {
                self.publish_told(told, &mut reports);
            }
            self.looks.send_modify(|looks| *looks += 1);
        }
    }

    fn publish_told(&self, told: Vec<Told>, reports: &mut Reports) {
        let since = kernel::clock();
        let (names, mesh) = self.names();
        reports.follow(&mesh);
        self.note_verdicts(&told);
        for told in told {
            self.publish(kernel::flow_of(told, since, &names, &mesh, reports));
        }
    }

    /// Tells of a live connection that policies forbid.
    pub(crate) fn tell_forbidden(&self, forbidden: &Forbidden) {
        let (names, mesh) = self.names();
        self.publish(kernel::flow_of_forbidden(forbidden, &names, &mesh));
    }

    fn note_verdicts(&self, told: &[Told]) {
        let mut verdicts = self.verdicts.lock().expect("no panic while locked");
        let judged = told.iter().filter(|told| !told.judged.is_zero());
        judged.for_each(|told| verdicts.record(told.judged));
    }

    /// How long the kernel's verdicts took, of requests that were told of one by one.
    pub(crate) fn verdicts(&self) -> Histogram {
        self.verdicts.lock().expect("no panic while locked").clone()
    }

    fn names(&self) -> (Arc<Names>, Arc<Mesh>) {
        let seen = self.seen.lock().expect("no panic while locked");
        (seen.names.clone(), seen.mesh.borrow().clone())
    }

    fn publish(&self, flow: Flow) {
        let flow = Arc::new(flow);
        self.outlets.write(&flow);
        let mut kept = self.kept.lock().expect("no panic while locked");
        kept.push(flow.clone());
        // nobody need listen
        let _ = self.flows.send(flow);
    }

    /// Gives what was counted since the last time the names of that time.
    fn collect(&self) {
        if self.resting.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.dataplane.sweep() {
            tracing::warn!(%error, "requests that nothing follows are counted late");
        }
        let seen = &mut *self.seen.lock().expect("no panic while locked");
        if let Err(error) = self.collect_into(seen) {
            tracing::warn!(%error, "traffic is counted late");
        }
        let changed = seen.mesh.has_changed().unwrap_or(false);
        if changed {
            // not while it is borrowed: the next one could not come
            let mesh = seen.mesh.borrow_and_update().clone();
            seen.names = Arc::new(Names::of(&mesh));
        }
        let due = seen.saved.elapsed() > SAVE || self.stopping.load(Ordering::Relaxed);
        if changed || due {
            seen.saved = Instant::now();
            seen.ledger.make_room(&self.dataplane);
            if let Err(error) = seen.ledger.save(&seen.totals) {
                tracing::warn!("what was counted is not written down: {error:#}");
            }
        }
    }

    fn collect_into(&self, seen: &mut Seen) -> Result<()> {
        let now = Instant::now();
        let mut tick = Tick { seconds: (now - seen.last).as_secs_f64(), ..Tick::default() };
        seen.ledger.collect(&self.dataplane, &self.tallies, &seen.names, &mut tick)?;
        seen.latencies.collect(&self.dataplane, &seen.names, &mut tick)?;
        self.durations.collect(&seen.names, &mut tick);
        seen.last = now;
        for (series, grown) in &tick.series {
            seen.totals.add(series, grown);
        }
        seen.recent.push(tick);
        Ok(())
    }
}
