//! What a snapshot of many services would look like.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A snapshot of services in eight namespaces, each of which may call the next dozens of them.
pub fn snapshot(services: usize, edges: usize) -> Value {
    let mut random = fastrand::Rng::with_seed(1);
    let mut pairs = BTreeSet::new();
    while pairs.len() < edges {
        let from = random.usize(..services - 1);
        pairs.insert((from, (from + random.usize(1..35)).min(services - 1)));
    }
    let edges = pairs.into_iter().map(|(from, to)| {
        json!({
            "source": place(from), "destination": place(to), "host": "host", "port": 80,
            "protocol": "http", "traffic": traffic(random.u32(1..90)), "workloads": []
        })
    });
    let edges: Vec<Value> = edges.collect();
    let services: Vec<Value> =
        (0..services).map(|n| json!({ "service": place(n), "traffic": traffic(50) })).collect();
    json!({ "window_seconds": 10.0, "all": traffic(5000), "services": services, "edges": edges })
}

fn place(n: usize) -> Value {
    json!({ "namespace": format!("ns{}", n % 8), "name": format!("service-{n:03}") })
}

fn traffic(rate: u32) -> Value {
    json!({
        "requests": rate * 10, "requests_per_second": rate,
        "errors_per_second": f64::from(rate) / 50.0, "denied_per_second": 0,
        "limited_per_second": 0, "lanes": { "native": rate }, "codes": { "200": rate * 10 },
        "request_bytes_per_second": rate * 100, "response_bytes_per_second": rate * 900,
        "p50_us": 100, "p90_us": 200, "p99_us": 900, "p999_us": 1500, "total": rate * 1000
    })
}
