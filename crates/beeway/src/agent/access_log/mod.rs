//! The access log: a line for each request and connection, in JSON or as Envoy writes text.
//!
//! Which are logged, where and how is what Istio's Telemetry says; of workloads that it does not
//! speak of everything is, where the agent or the mesh was told to. One thread decides and writes.

mod escape;
mod line;
mod rules;
mod sink;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_model::Mesh;
use beeway_model::telemetry::{Format, LogFile};
use beeway_telemetry::Flow;
use tokio::sync::watch;

pub(super) use line::header;
use rules::Rules;
use sink::Sink;

/// Records that wait to be written. One more is lost, and counted.
const QUEUE: usize = 16 * 1024;

/// How often the writer looks whether the configuration has changed.
const GLANCE: Duration = Duration::from_millis(100);

/// How often it looks whether its files are still there.
const CHECK: Duration = Duration::from_secs(1);

/// What the agent was told of its access log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Where it is; `-` is the standard output.
    pub file: Option<PathBuf>,
    /// How its lines look, whatever the mesh says; `None`: as the mesh says, or JSON.
    pub format: Option<LogFormat>,
    /// How many of a hundred lines are written.
    pub sample: f64,
    /// Queries of paths are written too.
    pub queries: bool,
}

/// One of the formats that need no configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Istio's JSON, and what Beeway knows besides.
    Json,
    /// Istio's text.
    Text,
}

impl LogFormat {
    fn pieces(self) -> Format {
        match self {
            LogFormat::Json => Format::default_json(),
            LogFormat::Text => Format::default_text(),
        }
    }
}

/// Hands records to a thread that writes them.
pub(crate) struct AccessLog {
    queue: SyncSender<Arc<Flow>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    lost: AtomicU64,
    written: AtomicU64,
    /// Something is to be logged.
    wanted: Arc<AtomicBool>,
    /// Files are to be opened anew.
    reopen: AtomicBool,
    stopping: AtomicBool,
}

impl AccessLog {
    /// Begins. A file that the agent was told of must be there or come to be. `tell` hears whether
    /// all requests are to be logged, whenever that changes.
    pub(crate) fn start(
        settings: LogSettings,
        mut mesh: watch::Receiver<Arc<Mesh>>,
        tell: impl Fn(bool) + Send + 'static,
    ) -> Result<Arc<AccessLog>> {
        let shared = Arc::<Shared>::default();
        let mut sinks = BTreeMap::new();
        if settings.file.is_some() {
            let path = settings.file.as_deref();
            let sink = Sink::open(&LogFile::Standard, path);
            let what = || format!("open {}", path.unwrap_or("-".as_ref()).display());
            sinks.insert(LogFile::Standard, sink.with_context(what)?);
        }
        let rules = Rules::of(&mesh.borrow_and_update(), &settings);
        let writer = Writer {
            rules,
            settings,
            mesh,
            tell: Box::new(tell),
            sinks,
            shared: shared.clone(),
            checked: Instant::now(),
        };
        writer.want();
        let (queue, records) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(&records))
            .context("start the thread of the access log")?;
        Ok(Arc::new(AccessLog { queue, shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Has a line written; never blocks.
    pub(crate) fn write(&self, flow: &Arc<Flow>) {
        if !self.shared.wanted.load(Ordering::Relaxed) {
            return;
        }
        match self.queue.try_send(flow.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Opens its files anew, because somebody has moved them away.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }

    /// Writes what there is, and ends.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().expect("no panic while locked").take() {
            let _ = thread.join();
        }
    }

    /// Whether something is to be logged, so that all requests are to be told of.
    pub(crate) fn wanted(&self) -> Arc<AtomicBool> {
        self.shared.wanted.clone()
    }

    /// Records that were not written because there were too many, or no room for them.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Lines that were written.
    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }
}

struct Writer {
    settings: LogSettings,
    mesh: watch::Receiver<Arc<Mesh>>,
    tell: Box<dyn Fn(bool) + Send>,
    rules: Rules,
    /// Open, or to be.
    sinks: BTreeMap<LogFile, Sink>,
    shared: Arc<Shared>,
    checked: Instant,
}

impl Writer {
    /// Writes until nobody records any more. What there is goes out together, and none is held back.
    fn run(mut self, records: &Receiver<Arc<Flow>>) {
        loop {
            match records.recv_timeout(GLANCE) {
                Ok(record) => {
                    self.keep_up();
                    self.log(&record);
                    records.try_iter().take(QUEUE).for_each(|record| self.log(&record));
                    self.flush();
                }
                Err(_) if self.shared.stopping.load(Ordering::Relaxed) => return,
                Err(RecvTimeoutError::Timeout) => self.keep_up(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Follows the configuration, and files that are moved.
    fn keep_up(&mut self) {
        if self.mesh.has_changed().unwrap_or(false) {
            let mesh = self.mesh.borrow_and_update().clone();
            self.rules = Rules::of(&mesh, &self.settings);
            self.sinks.retain(|file, _| self.rules.writes(file));
            self.want();
        }
        let told = self.shared.reopen.swap(false, Ordering::Relaxed);
        if told || self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            self.sinks.values_mut().for_each(|sink| sink.check(told));
        }
    }

    /// Says whether something is to be logged, if that is new.
    fn want(&self) {
        let wants = self.rules.wants();
        if self.shared.wanted.swap(wants, Ordering::Relaxed) != wants {
            (self.tell)(wants);
        }
    }

    fn log(&mut self, flow: &Flow) {
        let queries = self.settings.queries;
        let percent = self.settings.sample;
        for to in self.rules.wanted(flow) {
            if percent < 100.0 && fastrand::f64() * 100.0 >= percent {
                continue;
            }
            let sink = self.sinks.entry(to.file.clone()).or_insert_with(|| {
                let path = self.settings.file.as_deref();
                Sink::open(&to.file, path).unwrap_or_else(|error| {
                    tracing::error!(file = ?to.file, %error, "an access log cannot be opened");
                    Sink::closed(&to.file, path)
                })
            });
            sink.line(|out| line::write(out, &to.format, flow, queries));
        }
    }

    fn flush(&mut self) {
        for sink in self.sinks.values_mut() {
            let (written, lost) = sink.flush();
            self.shared.written.fetch_add(written, Ordering::Relaxed);
            self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}
