//! Who talks to whom, how much and how fast: a picture of the last moments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::Verdict;
use crate::latency::Histogram;
use crate::names::{Party, ServiceName};
use crate::totals::{Series, Tally, Totals};

/// Seconds that are looked back at most.
pub const LOOK_BACK: f64 = 60.0;

/// What has come in one step of time, about a second.
#[derive(Debug, Default)]
pub struct Tick {
    /// Its length.
    pub seconds: f64,
    /// What each series has grown by.
    pub series: Vec<(Arc<Series>, Tally)>,
    /// How long requests took.
    pub latencies: Vec<Durations>,
}

/// How long requests of a caller to a service took.
#[derive(Debug)]
pub struct Durations {
    /// The caller.
    pub source: Arc<Party>,
    /// The service.
    pub service: Arc<ServiceName>,
    /// Buckets of [`crate::latency`], and how many requests each has.
    pub buckets: Vec<(u16, u64)>,
}

/// The last ticks.
#[derive(Debug, Default)]
pub struct Recent {
    ticks: VecDeque<Tick>,
}

/// A node of the picture: a canonical service of Istio, or who is none (`unknown`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of the service; of a caller, its canonical service.
    pub name: String,
}

/// Rates over the window, and percentiles of durations in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Requests that were over in the window, or connections made.
    pub requests: u64,
    /// A second.
    pub requests_per_second: f64,
    /// Of those, with a status of 500 and more, or without an answer.
    pub errors_per_second: f64,
    /// Of those, forbidden by a policy.
    pub denied_per_second: f64,
    /// Of those, without a token of a rate limit.
    pub limited_per_second: f64,
    /// By lane.
    pub lanes: BTreeMap<String, f64>,
    /// By status, as requests in the window.
    pub codes: BTreeMap<u16, u64>,
    /// Bytes a second from callers.
    pub request_bytes_per_second: f64,
    /// Bytes a second to callers.
    pub response_bytes_per_second: f64,
    /// Microseconds; `null`: no request in the window.
    pub p50_us: Option<f64>,
    /// Microseconds.
    pub p90_us: Option<f64>,
    /// Microseconds.
    pub p99_us: Option<f64>,
    /// Microseconds.
    pub p999_us: Option<f64>,
    /// Requests since counting began, as in `istio_requests_total`.
    pub total: u64,
}

/// A share of an edge: what one workload of the service was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// The workload; `unknown`: nobody was called.
    pub workload: String,
    /// Its canonical revision.
    pub version: String,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Of those, with a status of 500 and more, or without an answer.
    pub errors_per_second: f64,
    /// Requests since counting began.
    pub total: u64,
}

/// A caller and what it asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Edge {
    /// The caller.
    pub source: Place,
    /// The service.
    pub destination: Place,
    /// Its DNS name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// How much.
    pub traffic: Traffic,
    /// By workload that was called, the most asked first.
    pub workloads: Vec<Share>,
}

/// What one service is asked, by all its callers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// The service.
    pub service: Place,
    /// How much.
    pub traffic: Traffic,
}

/// The picture. What an agent of another version does not tell is read as nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Seconds that rates and percentiles are about.
    pub window_seconds: f64,
    /// Everything together.
    pub all: Traffic,
    /// Services, the most asked first.
    pub services: Vec<Asked>,
    /// Edges, in order of their ends.
    pub edges: Vec<Edge>,
}

#[derive(Default)]
struct Sum {
    traffic: Traffic,
    durations: Histogram,
    workloads: BTreeMap<(String, String), (u64, u64, u64)>,
}

impl Sum {
    fn count(&mut self, series: &Series, grown: &Tally) {
        let traffic = &mut self.traffic;
        let n = grown.requests as f64;
        traffic.requests += grown.requests;
        traffic.requests_per_second += n;
        let failed = is_error(series);
        if failed {
            traffic.errors_per_second += n;
        }
        match series.verdict {
            Verdict::Denied => traffic.denied_per_second += n,
            Verdict::Limited => traffic.limited_per_second += n,
            _ => {}
        }
        *traffic.lanes.entry(series.lane.clone()).or_default() += n;
        if series.protocol != "tcp" {
            *traffic.codes.entry(series.code).or_default() += grown.requests;
        }
        traffic.request_bytes_per_second += grown.request_bytes as f64;
        traffic.response_bytes_per_second += grown.response_bytes as f64;
        let share = self.share(series);
        share.0 += grown.requests;
        share.1 += if failed { grown.requests } else { 0 };
    }

    fn count_total(&mut self, series: &Series, tally: &Tally) {
        self.traffic.total += tally.requests;
        self.share(series).2 += tally.requests;
    }

    fn share(&mut self, series: &Series) -> &mut (u64, u64, u64) {
        let who = &series.destination;
        self.workloads.entry((who.workload.clone(), who.version.clone())).or_default()
    }

    fn finish(&mut self, seconds: f64) -> Traffic {
        let mut traffic = std::mem::take(&mut self.traffic);
        for sum in [
            &mut traffic.requests_per_second,
            &mut traffic.errors_per_second,
            &mut traffic.denied_per_second,
            &mut traffic.limited_per_second,
            &mut traffic.request_bytes_per_second,
            &mut traffic.response_bytes_per_second,
        ]
        .into_iter()
        .chain(traffic.lanes.values_mut())
        {
            *sum /= seconds;
        }
        let of = |share| self.durations.quantile(share);
        (traffic.p50_us, traffic.p90_us) = (of(0.5), of(0.9));
        (traffic.p99_us, traffic.p999_us) = (of(0.99), of(0.999));
        traffic
    }

    fn shares(&self, seconds: f64) -> Vec<Share> {
        let mut shares: Vec<Share> = self
            .workloads
            .iter()
            .map(|((workload, version), (requests, errors, total))| Share {
                workload: workload.clone(),
                version: version.clone(),
                requests_per_second: *requests as f64 / seconds,
                errors_per_second: *errors as f64 / seconds,
                total: *total,
            })
            .collect();
        shares.sort_by(|a, b| b.requests_per_second.total_cmp(&a.requests_per_second));
        shares
    }
}

fn is_error(series: &Series) -> bool {
    series.protocol != "tcp" && (series.code == 0 || series.code >= 500)
}

type EdgeKey = (Place, Place, String, u16, String);

fn edge_of(series: &Series) -> EdgeKey {
    let service = &series.service;
    (
        place(&series.source),
        service_place(service),
        service.host.clone(),
        service.port,
        series.protocol.clone(),
    )
}

fn place(party: &Party) -> Place {
    Place { namespace: party.namespace.clone(), name: party.app.clone() }
}

fn service_place(service: &ServiceName) -> Place {
    Place { namespace: service.namespace.clone(), name: service.name.clone() }
}

impl Recent {
    /// Adds a tick and forgets those that are too long ago.
    pub fn push(&mut self, tick: Tick) {
        self.ticks.push_back(tick);
        let mut seconds: f64 = self.ticks.iter().map(|tick| tick.seconds).sum();
        while seconds > LOOK_BACK {
            seconds -= self.ticks.pop_front().map_or(seconds, |tick| tick.seconds);
        }
    }

    /// The picture of the last `seconds`, with all edges that there ever were.
    pub fn snapshot(&self, seconds: f64, totals: &Totals) -> Snapshot {
        let mut window = 0.0;
        let ticks: Vec<&Tick> = self
            .ticks
            .iter()
            .rev()
            .take_while(|tick| {
                let wanted = window < seconds;
                window += if wanted { tick.seconds } else { 0.0 };
                wanted
            })
            .collect();
        let window = if window > 0.0 { window } else { 1.0 };
        let mut all = Sum::default();
        let mut services: BTreeMap<Place, Sum> = BTreeMap::new();
        let mut edges: BTreeMap<EdgeKey, Sum> = BTreeMap::new();
        for (series, grown) in ticks.iter().flat_map(|tick| &tick.series) {
            let key = edge_of(series);
            all.count(series, grown);
            services.entry(key.1.clone()).or_default().count(series, grown);
            edges.entry(key).or_default().count(series, grown);
        }
        for (series, tally) in totals.iter() {
            let key = edge_of(series);
            all.count_total(series, tally);
            services.entry(key.1.clone()).or_default().count_total(series, tally);
            edges.entry(key).or_default().count_total(series, tally);
        }
        for durations in ticks.iter().flat_map(|tick| &tick.latencies) {
            let to = service_place(&durations.service);
            let service = services.entry(to.clone()).or_default();
            // the first with these ends: of all protocols between them one has durations
            let first = (place(&durations.source), to, String::new(), 0, String::new());
            let between =
                edges.range_mut(first.clone()..).find(|((from, to, _, port, kind), _)| {
                    (from, to) != (&first.0, &first.1)
                        || *port == durations.service.port && kind != "tcp"
                });
            let between = between.filter(|((from, to, ..), _)| (from, to) == (&first.0, &first.1));
            let mut sums: Vec<&mut Sum> = vec![&mut all, service];
            sums.extend(between.map(|(_, sum)| sum));
            for sum in sums {
                let filled = durations.buckets.iter();
                filled.for_each(|(bucket, n)| sum.durations.add(usize::from(*bucket), *n));
            }
        }
        let mut services: Vec<Asked> = services
            .into_iter()
            .map(|(service, mut sum)| Asked { service, traffic: sum.finish(window) })
            .collect();
        services.sort_by(|a, b| {
            b.traffic.requests_per_second.total_cmp(&a.traffic.requests_per_second)
        });
        let edges =
            edges.into_iter().map(|((source, destination, host, port, protocol), mut sum)| {
                let traffic = sum.finish(window);
                Edge {
                    source,
                    destination,
                    host,
                    port,
                    protocol,
                    traffic,
                    workloads: sum.shares(window),
                }
            });
        Snapshot {
            window_seconds: window,
            all: all.finish(window),
            services,
            edges: edges.collect(),
        }
    }
}
