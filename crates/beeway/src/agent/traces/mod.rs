//! Traces: a span for each sampled request, sent by OTLP.
//!
//! The application's own W3C context decides: one that is sampled gets a span below its own, one that
//! is not gets none. Requests without a context begin a trace, a share of them. A thread of its own
//! makes spans of flows, gathers them, and sends them; whatever the collector does, traffic does not
//! wait for it.

mod export;
mod proto;
mod rules;
mod span;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_model::Mesh;
use beeway_telemetry::Flow;
use tokio::sync::watch;

use export::Exporter;
use rules::Rules;

/// Flows that wait to become spans. One more is dropped, and counted.
const QUEUE: usize = 8 * 1024;

/// Spans that are sent together.
const BATCH: usize = 512;

/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How often it is looked whether the configuration has changed.
const GLANCE: Duration = Duration::from_millis(100);

/// What the agent was told of traces.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// Where spans go that the mesh says nothing of.
    pub endpoint: Option<Endpoint>,
    /// How many of a hundred requests without a context begin a trace.
    pub sample: f64,
}

/// A collector that takes OTLP by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Host and port, as in a URL.
    pub authority: String,
    /// Path of the requests.
    pub path: String,
}

impl Endpoint {
    /// `http://HOST[:PORT][/PATH]`. As OpenTelemetry has it for `OTEL_EXPORTER_OTLP_ENDPOINT`,
    /// `/v1/traces` is added to the path.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(url: &str) -> Result<Endpoint, String> {
        let url: http::Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
        match url.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("https is not supported: send to a local collector".into()),
            _ => return Err("written http://HOST[:PORT][/PATH]".into()),
        }
        let authority =
            url.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@'));
        let authority = authority.ok_or("no host, or one with a user")?;
        let port = authority.port_u16().unwrap_or(4318);
        if url.query().is_some() {
            return Err("a collector has no query".into());
        }
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        Ok(Endpoint { authority: format!("{}:{port}", authority.host()), path })
    }
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// Where the agent was told.
    Told(Endpoint),
    /// One of these endpoints of a service; the path of HTTP, or gRPC.
    Service(Vec<SocketAddr>, Option<String>, String),
}

/// Hands flows to a thread that makes spans of them.
pub(crate) struct Traces {
    queue: SyncSender<Arc<Flow>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    wanted: Arc<AtomicBool>,
    dropped: AtomicU64,
    exported: AtomicU64,
    failures: AtomicU64,
    stopping: AtomicBool,
}

/// What has become of spans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpanCounts {
    /// Sent, and taken by a collector.
    pub(crate) exported: u64,
    /// Not sent: there were too many, or no collector took them.
    pub(crate) dropped: u64,
    /// Times that a collector did not take any.
    pub(crate) failures: u64,
}

impl Traces {
    /// Begins.
    pub(crate) fn start(
        settings: TraceSettings,
        mut mesh: watch::Receiver<Arc<Mesh>>,
    ) -> Result<Arc<Traces>> {
        let shared = Arc::<Shared>::default();
        let rules = Rules::of(&mesh.borrow_and_update(), &settings);
        shared.wanted.store(rules.wants(), Ordering::Relaxed);
        let (queue, flows) = sync_channel(QUEUE);
        let exporter = Exporter::new()?;
        let shared_too = shared.clone();
        let mut worker = Worker {
            settings,
            mesh,
            rules,
            exporter,
            shared: shared_too,
            waiting: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("traces".into())
            .spawn(move || worker.run(&flows))
            .context("start the thread of traces")?;
        Ok(Arc::new(Traces { queue, shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Has a span made, if the flow is sampled; never blocks.
    pub(crate) fn write(&self, flow: &Arc<Flow>) {
        let unsampled = flow.trace.is_some_and(|context| !context.sampled);
        if unsampled || flow.connection || !self.shared.wanted.load(Ordering::Relaxed) {
            return;
        }
        match self.queue.try_send(flow.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether there may be spans, so that all requests are to be told of.
    pub(crate) fn wanted(&self) -> Arc<AtomicBool> {
        self.shared.wanted.clone()
    }

    /// What has become of spans.
    pub(crate) fn counts(&self) -> SpanCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SpanCounts {
            exported: of(&self.shared.exported),
            dropped: of(&self.shared.dropped),
            failures: of(&self.shared.failures),
        }
    }

    /// Sends what there is, once, and ends.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().expect("no panic while locked").take() {
            let _ = thread.join();
        }
    }
}

/// Spans for one place, and since when they wait.
struct Batch {
    spans: Vec<span::Made>,
    since: Instant,
}

struct Worker {
    settings: TraceSettings,
    mesh: watch::Receiver<Arc<Mesh>>,
    rules: Rules,
    exporter: Exporter,
    shared: Arc<Shared>,
    waiting: BTreeMap<Arc<Target>, Batch>,
}

impl Worker {
    fn run(&mut self, flows: &Receiver<Arc<Flow>>) {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            match flows.recv_timeout(GLANCE) {
                Ok(flow) => self.take(&flow),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.mesh.has_changed().unwrap_or(false) {
                let mesh = self.mesh.borrow_and_update().clone();
                self.rules = Rules::of(&mesh, &self.settings);
                self.shared.wanted.store(self.rules.wants(), Ordering::Relaxed);
            }
            self.send(GATHER);
        }
        flows.try_iter().for_each(|flow| self.take(&flow));
        self.send(Duration::ZERO);
    }

    fn take(&mut self, flow: &Flow) {
        if let Some((target, made)) = self.rules.span(flow) {
            let begun = || Batch { spans: Vec::new(), since: Instant::now() };
            self.waiting.entry(target).or_insert_with(begun).spans.push(made);
        }
    }

    /// Sends what has waited so long, or is enough.
    fn send(&mut self, after: Duration) {
        let due = |batch: &Batch| batch.spans.len() >= BATCH || batch.since.elapsed() >= after;
        let due: Vec<Arc<Target>> =
            self.waiting.iter().filter(|(_, b)| due(b)).map(|(target, _)| target.clone()).collect();
        for target in due {
            let Some(batch) = self.waiting.remove(&target) else { continue };
            let count = batch.spans.len() as u64;
            let refused = self.exporter.send(&target, batch.spans);
            let (count_of, n) = match refused {
                Ok(refused) => {
                    self.shared.dropped.fetch_add(refused.min(count), Ordering::Relaxed);
                    (&self.shared.exported, count.saturating_sub(refused))
                }
                Err(asked) => {
                    self.shared.failures.fetch_add(u64::from(asked), Ordering::Relaxed);
                    (&self.shared.dropped, count)
                }
            };
            count_of.fetch_add(n, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn an_endpoint_is_a_url() {
        let of = |url| Endpoint::parse(url).map(|to| format!("{} {}", to.authority, to.path));
        assert_eq!(of("http://otel"), Ok("otel:4318 /v1/traces".into()));
        assert_eq!(of("http://[::1]:9/a/"), Ok("[::1]:9 /a/v1/traces".into()));
        for bad in
            ["", "otel:4318", "https://otel", "ftp://x", "http://a@b", "http://a/?b", "http://"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
