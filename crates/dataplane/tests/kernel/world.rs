//! What is around the rules of a test: one service, its clusters and callers. And short words for
//! rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use beeway_model::{
    Action, Backend, Cluster, ClusterId, Endpoint, HeaderMatch, Match, Mesh, PathMatch, Protocol,
    Rule, Service, ServicePort, StringMatch, Transport, Workload,
};

pub const SERVICE: &str = "10.96.0.1:80";
/// In the clusters `all` and `v1`.
pub const ENDPOINT: &str = "10.1.0.1:8080";
/// Where connections lead; the last one is in no cluster.
pub const ENDPOINTS: [&str; 6] = [
    ENDPOINT,
    "10.1.0.2:8080",
    "10.1.0.3:8080",
    "10.1.0.3:8081",
    "[fd00::2]:8080",
    "10.1.0.1:8081",
];
/// Callers, the last of them unknown.
pub const SOURCES: [&str; 5] = ["10.2.0.1", "10.2.0.2", "10.2.0.3", "fd00::9", "10.2.0.77"];
/// Clusters of a mesh; the last one is empty.
pub const CLUSTERS: usize = 5;

/// The label `app`.
pub fn labels(app: &str) -> BTreeMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

fn cluster(name: &str, addresses: &[&str]) -> Cluster {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().unwrap(),
        weight: 1,
        workload: String::new(),
        node: None,
    };
    Cluster {
        idle: Default::default(),
        protocol: Protocol::Http,
        name: name.to_owned(),
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

/// One service with these rules, its clusters, and four callers.
pub fn mesh(rules: Option<Vec<Rule>>) -> Mesh {
    let port = ServicePort {
        stream_rules: Vec::new(),
        name: "http".to_owned(),
        number: 80,
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules,
    };
    Mesh {
        services: vec![Service {
            namespace: "default".to_owned(),
            name: "shop".to_owned(),
            hosts: vec!["shop".to_owned()],
            addresses: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![port],
        }],
        clusters: vec![
            cluster("all", &["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]),
            cluster("v1", &["10.1.0.1:8080"]),
            cluster("v2", &["10.1.0.2:8080", "[fd00::2]:8080"]),
            cluster("v3", &["10.1.0.3:8080", "10.1.0.3:8081"]),
            cluster("none", &[]),
        ],
        workloads: workloads().into_iter().map(Arc::new).collect(),
        ..Mesh::default()
    }
}

/// The callers at [`SOURCES`], whose numbers are 3, 32, 33 and 72, many others that differ in their
/// accounts, and those behind the endpoints.
fn workloads() -> Vec<Workload> {
    let workload = |namespace: &str, app: &str, address: String| Workload {
        namespace: namespace.to_owned(),
        name: format!("{app}-{address}"),
        labels: labels(app),
        addresses: vec![address.parse().unwrap()],
        service_account: "default".to_owned(),
        node: None,
        uid: None,
        cgroup: None,
    };
    let idle = |n| Workload {
        service_account: format!("sa-{n}"),
        ..workload("idle", "idle", format!("10.3.0.{n}"))
    };
    let mut workloads: Vec<Workload> = (0..66).map(idle).collect();
    for (at, namespace, app, address) in [
        (0, "default", "web", SOURCES[0]),
        (29, "default", "api", SOURCES[1]),
        (30, "other", "web", SOURCES[2]),
        (69, "other", "api", SOURCES[3]),
    ] {
        workloads.insert(at, workload(namespace, app, address.to_owned()));
    }
    for (app, address) in [("shop-1", "10.1.0.1"), ("shop-2", "10.1.0.2"), ("shop-2", "fd00::2")] {
        workloads.push(workload("default", app, address.to_owned()));
    }
    workloads
}

/// Another service, at 10.96.0.2.
pub fn add_service(mesh: &mut Mesh, rules: Vec<Rule>) {
    let mut service = mesh.services[0].clone();
    service.name = "other".to_owned();
    service.hosts = vec!["other".to_owned()];
    service.addresses = vec!["10.96.0.2".parse().unwrap()];
    service.ports[0].rules = Some(rules);
    mesh.services.push(service);
}

/// The rules of the first service.
pub fn rules_of(mesh: &Mesh) -> &[Rule] {
    mesh.services[0].ports[0].rules.as_deref().unwrap_or_default()
}

pub fn rule(m: Match, action: Action) -> Rule {
    Rule { name: "a rule".to_owned(), matches: vec![m], action, policy: None, detour: None }
}

pub fn forward(cluster: usize) -> Action {
    Action::Forward(vec![Backend { cluster: Some(ClusterId(cluster)), weight: 1, policy: None }])
}

pub fn forbid() -> Action {
    Action::Respond { status: 403, body: "no".to_owned() }
}

/// A match for a path.
pub fn at(path: PathMatch) -> Match {
    Match { path: Some(path), ..Match::default() }
}

pub fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned())
}

pub fn header(name: &str, value: StringMatch) -> HeaderMatch {
    HeaderMatch { name: name.to_owned(), value, invert: false }
}

/// A match for a header that has a value.
pub fn has(name: &str, value: &str) -> Match {
    Match { headers: vec![header(name, exact(value))], ..Match::default() }
}
