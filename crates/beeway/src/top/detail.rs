//! One service: who asks for it, and which workloads are asked.

use std::collections::BTreeMap;

use beeway_telemetry::graph::{Edge, Place, Share, Snapshot};

/// Its callers, the busiest first.
pub(super) fn callers<'a>(picture: &'a Snapshot, service: &Place) -> Vec<&'a Edge> {
    let mut edges: Vec<&Edge> =
        picture.edges.iter().filter(|edge| edge.destination == *service).collect();
    edges.sort_by(|a, b| {
        let rate = |edge: &Edge| edge.traffic.requests_per_second;
        rate(b).total_cmp(&rate(a)).then_with(|| a.source.cmp(&b.source))
    });
    edges
}

/// What its workloads are asked by all of them, the busiest first.
pub(super) fn workloads(picture: &Snapshot, service: &Place) -> Vec<Share> {
    let mut sums: BTreeMap<(&str, &str), Share> = BTreeMap::new();
    for share in callers(picture, service).into_iter().flat_map(|edge| &edge.workloads) {
        let sum = sums.entry((&share.workload, &share.version)).or_insert_with(|| Share {
            workload: share.workload.clone(),
            version: share.version.clone(),
            ..Share::default()
        });
        sum.requests_per_second += share.requests_per_second;
        sum.errors_per_second += share.errors_per_second;
        sum.total += share.total;
    }
    let mut shares: Vec<Share> = sums.into_values().collect();
    shares.sort_by(|a, b| b.requests_per_second.total_cmp(&a.requests_per_second));
    shares
}
