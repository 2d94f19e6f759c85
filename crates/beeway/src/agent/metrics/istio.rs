//! Istio's standard metrics (istio.io/latest/docs/reference/config/metrics), with a label more: the
//! lane.

use std::collections::BTreeMap;
use std::fmt::{Error, Write};
use std::sync::Arc;

use beeway_telemetry::totals::{BOUNDED, BOUNDS, Series, Tally, Totals};
use beeway_telemetry::{Party, ServiceName};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelSetEncoder,
    LabelValueEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::super::Agent;

/// Reads totals at each scrape.
pub(super) struct Standard(pub Arc<Agent>);

impl std::fmt::Debug for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Standard")
    }
}

impl Collector for Standard {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let totals = self.0.telemetry.totals();
        let (requests, connections) = by_labels(&totals, &self.0.node());
        type Sum = fn(&Tally) -> u64;
        let counters: [(&str, &str, &_, Sum); 5] = [
            ("requests", "Requests that are over", &requests, |t| t.requests),
            ("tcp_sent_bytes", "Bytes to callers of connections", &connections, |t| {
                t.response_bytes
            }),
            ("tcp_received_bytes", "Bytes from callers of connections", &connections, |t| {
                t.request_bytes
            }),
            ("tcp_connections_opened", "Connections made", &connections, |t| t.requests),
            ("tcp_connections_closed", "Connections that have ended", &connections, |t| t.closed),
        ];
        for (name, help, series, sum) in counters {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, tally) in series {
                ConstCounter::new(sum(tally)).encode(metric.encode_family(labels)?)?;
            }
        }
        type Buckets = fn(&Tally) -> (f64, &[u64; BOUNDED]);
        let histograms: [(&str, &str, Buckets); 3] = [
            ("request_duration_milliseconds", "How long requests took", |t| {
                (t.duration as f64 / 1e6, &t.durations)
            }),
            ("request_bytes", "Bytes of requests", |t| (t.request_bytes as f64, &t.request_sizes)),
            ("response_bytes", "Bytes of answers", |t| {
                (t.response_bytes as f64, &t.response_sizes)
            }),
        ];
        for (name, help, of) in histograms {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (labels, tally) in &requests {
                let (sum, counts) = of(tally);
                let bounds = BOUNDS.into_iter().chain([f64::MAX]);
                let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
                // each bucket's own count makes the sum: it cannot differ from the last bucket
                let count = counts.iter().sum();
                metric
                    .encode_family(labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

/// Adds up what has the same labels: requests, and connections.
fn by_labels(
    totals: &Totals,
    node: &Arc<str>,
) -> (BTreeMap<Labels, Tally>, BTreeMap<Labels, Tally>) {
    let (mut requests, mut connections) = (BTreeMap::new(), BTreeMap::new());
    for (series, tally) in totals.iter() {
        let map = if series.protocol == "tcp" { &mut connections } else { &mut requests };
        let labels = Labels { node: node.clone(), series: series.clone() };
        map.entry(labels).or_insert_with(Tally::default).add(tally);
    }
    (requests, connections)
}

/// The labels of a series. Two that differ in nothing that is a label are equal.
#[derive(Debug, Clone)]
struct Labels {
    node: Arc<str>,
    series: Arc<Series>,
}

impl Labels {
    fn key(&self) -> impl Ord + '_ {
        let s = &*self.series;
        let service: &ServiceName = &s.service;
        let service = (&service.namespace, &service.name, &service.host);
        let what = (&s.protocol, s.code, s.grpc_status, &s.flags, &s.lane);
        (s.inbound, &s.source, service, &s.destination, what)
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Labels) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Labels {}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Labels) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Labels) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        let series = &self.series;
        let mut label = |name: &str, value: &str| {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            key.write_str(name)?;
            let mut text: LabelValueEncoder<'_> = key.encode_label_value()?;
            EncodeLabelValue::encode(&value, &mut text)?;
            text.finish()
        };
        label("reporter", if series.inbound { "destination" } else { "source" })?;
        party(&mut label, "source", &series.source)?;
        party(&mut label, "destination", &series.destination)?;
        label("destination_service", &series.service.host)?;
        label("destination_service_name", &series.service.name)?;
        label("destination_service_namespace", &series.service.namespace)?;
        label("request_protocol", &series.protocol)?;
        label("response_flags", &series.flags)?;
        label("connection_security_policy", "none")?;
        if series.protocol != "tcp" {
            label("response_code", &series.code.to_string())?;
        }
        if series.protocol == "grpc" {
            let status = series.grpc_status.map(|status| status.to_string());
            label("grpc_response_status", status.as_deref().unwrap_or_default())?;
        }
        label("lane", &series.lane)?;
        label("node", &self.node)
    }
}

fn party(
    label: &mut impl FnMut(&str, &str) -> Result<(), Error>,
    side: &str,
    party: &Party,
) -> Result<(), Error> {
    let principal = if party.is_unknown() {
        "unknown".to_owned()
    } else {
        format!("spiffe://cluster.local/ns/{}/sa/{}", party.namespace, party.service_account)
    };
    for (name, value) in [
        ("workload", party.workload.as_str()),
        ("workload_namespace", &party.namespace),
        ("principal", &principal),
        ("app", &party.app_label),
        ("version", &party.version_label),
        ("canonical_service", &party.app),
        ("canonical_revision", &party.version),
        ("cluster", "Kubernetes"),
    ] {
        label(&format!("{side}_{name}"), value)?;
    }
    Ok(())
}
