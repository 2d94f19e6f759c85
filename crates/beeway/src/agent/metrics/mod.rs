//! `/metrics` as OpenMetrics or Prometheus text, read at each scrape.

mod istio;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use beeway_telemetry::latency;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::oneshot;

use beeway_dataplane::MapUse;
use beeway_proxy::{Flags, Stats};

use super::Agent;
use super::limited::{CONNECTIONS, Limited, Room};
use super::outlets::Outlets;

/// Bounds of the histogram of verdicts, seconds.
const VERDICT_BOUNDS: [f64; 9] = [250e-9, 500e-9, 1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 64e-6, f64::MAX];

/// Longer than a scraper waits before it asks again: Prometheus does after a minute by default.
const SILENCE: Duration = Duration::from_secs(90);

/// The places for connections of scrapers.
pub(super) fn room() -> Arc<Room> {
    Room::new("metrics", SILENCE)
}

/// Serves metrics until it is dropped.
pub(crate) struct Server {
    /// Where.
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves metrics on a thread of its own.
pub(crate) fn serve(agent: Arc<Agent>) -> Result<Server> {
    let address = agent.args.metrics;
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("serve metrics on {address} (choose another with --metrics)"))?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let room = agent.rooms.metrics.clone();
    let mut own = Registry::with_prefix("beeway");
    own.register_collector(Box::new(Reader(agent.clone())));
    let mut standard = Registry::with_prefix("istio");
    standard.register_collector(Box::new(istio::Standard(agent)));
    let registries = Arc::new([own, standard]);
    let routes = Router::new().route("/metrics", get(scrape)).with_state(registries);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("metrics".into()).spawn(move || {
        runtime.block_on(async move {
            let served = async { axum::serve(Limited::new(listener, room)?, routes).await };
            tokio::select! {
                Err(error) = served => tracing::error!(%error, "metrics are not served any more"),
                _ = stopped => {}
            }
        });
    })?;
    Ok(Server { address: bound, stop: Some(stop), thread: Some(thread) })
}

async fn scrape(State(registries): State<Arc<[Registry; 2]>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let mut text = String::new();
    let encoded = registries.iter().try_for_each(|registry| encode_registry(&mut text, registry));
    if let Err(error) = encoded.and_then(|()| encode_eof(&mut text)) {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let (kind, text) = match open {
        true => ("application/openmetrics-text; version=1.0.0; charset=utf-8", text),
        false => ("text/plain; version=0.0.4; charset=utf-8", as_prometheus(&text)),
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The same in Prometheus' older text format, where a counter's `_total` is a part of its name and
/// there are no units.
fn as_prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1024);
    let mut help = "";
    for line in open.lines() {
        if line.starts_with("# HELP ") {
            help = line;
            continue;
        }
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let kind = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        if let Some((name, kind)) = kind {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let words = help.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
            if let Some((_, words)) = words {
                text += &format!("# HELP {name}{suffix} {words}\n");
            }
            text += &format!("# TYPE {name}{suffix} {kind}\n");
            continue;
        }
        text += line;
        text.push('\n');
    }
    text
}

struct Reader(Arc<Agent>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let agent = &self.0;
        let counts = agent.dataplane.counts().unwrap_or_default();
        let mut requests = encoder.encode_descriptor(
            "requests",
            "Requests by the lane that they took and why",
            None,
            MetricType::Counter,
        )?;
        for count in &counts.requests {
            let labels = [("lane", count.lane), ("reason", count.reason)];
            ConstCounter::new(count.count).encode(requests.encode_family(&labels)?)?;
        }
        for (name, value) in &counts.counters {
            counter(&mut encoder, name, "Counted by the kernel programs", *value)?;
        }
        self.maps(&mut encoder)?;
        self.configuration(&mut encoder)?;
        self.homes(&mut encoder)?;
        let stats = agent.detour.stats();
        gauge(
            &mut encoder,
            "detour_streams",
            "Connections that the proxy holds",
            stats.open_streams,
        )?;
        counter(
            &mut encoder,
            "detour_requests",
            "Requests that reached the proxy",
            stats.requests,
        )?;
        let (name, help) = ("detour_plain", "Those of them that were forwarded the short way");
        counter(&mut encoder, name, help, stats.plain)?;
        counter(
            &mut encoder,
            "detour_upstream_errors",
            "Requests that failed between proxy and endpoint",
            stats.upstream_errors,
        )?;
        counter(&mut encoder, "detour_retries", "Tries after the first", stats.retries)?;
        counter(&mut encoder, "detour_mirrored", "Copies sent to mirrors", stats.mirrored)?;
        let (name, help) = ("detour_mirrors_dropped", "Copies not sent: too many under way");
        counter(&mut encoder, name, help, stats.mirrors_dropped)?;
        connections(&mut encoder, &stats)?;
        policies(&mut encoder, &stats)?;
        kafka(&mut encoder, &stats)?;
        let mut flags = encoder.encode_descriptor(
            "detour_response_flags",
            "Requests by what went wrong, in the letters that Envoy has for it",
            None,
            MetricType::Counter,
        )?;
        for (count, (_, letters)) in stats.flags.iter().zip(Flags::ALL) {
            let labels = [("flag", letters)];
            ConstCounter::new(*count).encode(flags.encode_family(&labels)?)?;
        }
        let (name, help) = ("proxy_records_lost", "Records of the proxy that were not looked at");
        counter(&mut encoder, name, help, agent.telemetry.lost())?;
        let (name, help) = ("series_cut", "Requests counted under no series of their own");
        counter(&mut encoder, name, help, agent.telemetry.cut())?;
        outlets(&mut encoder, &agent.outlets)?;
        ports(&mut encoder, [&agent.rooms.metrics, &agent.rooms.dashboard])?;
        self.kernel(&mut encoder)
    }
}

impl Reader {
    fn maps(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let in_use = |map: &MapUse| map.used;
        let limit = |map: &MapUse| map.limit;
        let mut maps = self.0.dataplane.map_use();
        let (used, limit_of) = self.0.telemetry.tallies();
        maps.push(MapUse { name: "tallies".into(), used: used as u64, limit: limit_of as u64 });
        for (name, help, of) in [
            ("map_entries", "Entries of a kernel map", in_use as fn(&MapUse) -> u64),
            ("map_limit", "Most entries of a kernel map", limit),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for map in &maps {
                let labels = [("map", map.name.as_str())];
                ConstGauge::new(of(map)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// How long verdicts take, and what waits for the proxy.
    fn kernel(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let verdicts = self.0.telemetry.verdicts();
        let mut metric = encoder.encode_descriptor(
            "verdict_duration",
            "How long the kernel read and judged requests, of those told of one by one",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let mut counts = [0; VERDICT_BOUNDS.len()];
        let mut sum = 0.0;
        for (bucket, count) in verdicts.filled() {
            let seconds = latency::middle(bucket) / 1e9;
            sum += seconds * count as f64;
            counts[VERDICT_BOUNDS.partition_point(|bound| *bound < seconds)] += count;
        }
        let buckets: Vec<(f64, u64)> = VERDICT_BOUNDS.into_iter().zip(counts).collect();
        metric.encode_histogram::<NoLabelSet>(sum, verdicts.total(), &buckets, None)?;
        let depths = self.0.dataplane.bus_depths().unwrap_or_default();
        let mut metric = encoder.encode_descriptor(
            "bus_queue",
            "Bytes of requests that wait for a worker of the proxy",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?;
        for (worker, depth) in depths.into_iter().enumerate() {
            let labels = [("worker", worker.to_string())];
            ConstGauge::new(depth).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Who is at home on this node.
    fn homes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let homes = self.0.homes.status();
        for (name, help, value) in [
            ("homes_workloads", "Workloads whose home is known", homes.workloads.len() as u64),
            ("homes_told", "Whether the kernel tells what happens to cgroups", homes.told.into()),
            ("homes_refused", "Homes that maps had no room for", homes.refused as u64),
        ] {
            gauge(encoder, name, help, value)?;
        }
        let (name, help) = ("homes_events", "Things heard of cgroups and their processes");
        counter(encoder, name, help, homes.stirs)?;
        let (name, help) = ("homes_events_lost", "Things that went unheard");
        counter(encoder, name, help, homes.lost.into())
    }

    fn configuration(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let state = self.0.follower.state();
        counter(encoder, "generations", "Configurations put in force", state.applied)?;
        counter(encoder, "generations_refused", "Configurations refused", state.refused)?;
        let (name, help) =
            ("configuration_in_force", "Whether the files as last read are in force");
        gauge(encoder, name, help, u64::from(state.rejected.is_none()))?;
        let errors =
            |severity| state.problems.iter().filter(|p| p.severity == severity).count() as u64;
        let problems = errors(beeway_config::Severity::Error);
        gauge(encoder, "configuration_errors", "Errors in the files as last read", problems)?;
        if let Some(generation) = state.in_force {
            gauge(encoder, "generation", "Number of the generation in force", generation.number)?;
            gauge(encoder, "table_words", "Words of the tables in use", generation.words_used)?;
            gauge(encoder, "table_words_limit", "Most words of tables", generation.words_limit)?;
            let took = encoder.encode_descriptor(
                "generation_took",
                "From reading the files to the switch of generation",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            ConstGauge::new(generation.took.as_secs_f64()).encode(took)?;
        }
        Ok(())
    }
}

/// Connections to the agent's own ports.
fn ports(encoder: &mut DescriptorEncoder<'_>, rooms: [&Room; 2]) -> Result<(), std::fmt::Error> {
    let of = |room: &Room| [("port", room.port())];
    let (name, help) = ("port_connections", "Connections to a port of the agent, now");
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for room in rooms {
        ConstGauge::new(room.used() as u64).encode(metric.encode_family(&of(room))?)?;
    }
    let (name, help) = ("port_full", "Times that a port had no place left, and others waited");
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for room in rooms {
        ConstCounter::new(room.full()).encode(metric.encode_family(&of(room))?)?;
    }
    let (name, help) = ("port_connections_limit", "Most connections to one of these ports");
    gauge(encoder, name, help, CONNECTIONS as u64)
}

/// What became of lines of the access log, and of spans.
fn outlets(encoder: &mut DescriptorEncoder<'_>, outlets: &Outlets) -> Result<(), std::fmt::Error> {
    let (log, spans) = (&outlets.access_log, outlets.traces.counts());
    for (name, help, value) in [
        ("access_log_lines", "Lines of access logs that were written", log.written()),
        ("access_log_lost", "Records that were not logged", log.lost()),
        ("spans_exported", "Spans that a collector has taken", spans.exported),
        ("spans_dropped", "Spans that were not sent, or not taken", spans.dropped),
        ("span_export_failures", "Times that a collector took no spans", spans.failures),
    ] {
        counter(encoder, name, help, value)?;
    }
    Ok(())
}

/// Connections that the proxy takes as a whole.
fn connections(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> Result<(), std::fmt::Error> {
    let (name, help) = ("detour_connections_open", "Connections carried as a whole, now");
    gauge(encoder, name, help, stats.open_connections)?;
    let (name, help) = ("detour_connections", "Connections taken to be carried as a whole");
    counter(encoder, name, help, stats.connections)?;
    let (name, help) = ("detour_connections_broken", "Connections not carried, and why");
    let mut broken = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (why, count) in [
        ("unknown", stats.connections_unknown),
        ("limit", stats.connections_refused),
        ("no_endpoint", stats.connections_failed),
        ("policy", stats.connections_denied),
    ] {
        ConstCounter::new(count).encode(broken.encode_family(&[("reason", why)])?)?;
    }
    let (name, help) = ("detour_http2_refused", "Requests of HTTP/2 that were too many at once");
    counter(encoder, name, help, stats.http2_refused)?;
    let (name, help) = ("detour_http2_failed", "Connections of HTTP/2 ended by what clients said");
    counter(encoder, name, help, stats.http2_failed)
}

/// What policies have made of calls by detour.
fn policies(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> Result<(), std::fmt::Error> {
    for (name, help, value) in [
        ("detour_denied", "Requests and copies that a policy forbids", stats.denied),
        ("detour_audited", "Matches of AUDIT policies", stats.audited),
        ("detour_dry_run", "Matches of policies in dry run", stats.dry_run),
        ("authorizer_checks", "Questions to external authorizers", stats.authorizer_asked),
        ("authorizer_failures", "Questions without an answer", stats.authorizer_failed),
    ] {
        counter(encoder, name, help, value)?;
    }
    Ok(())
}

/// What the proxy judges of Kafka.
fn kafka(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> Result<(), std::fmt::Error> {
    let (name, help) = ("kafka_requests", "Requests to Kafka brokers with policies");
    counter(encoder, name, help, stats.kafka_requests)?;
    let (name, help) = ("kafka_refused", "Those refused, as a whole or for some of their topics");
    counter(encoder, name, help, stats.kafka_refused)?;
    let (name, help) = ("kafka_closed", "Connections closed: a request could not be judged");
    counter(encoder, name, help, stats.kafka_closed)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}
