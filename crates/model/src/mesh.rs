//! Services, workloads and the endpoints behind them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::access::{AccessPolicy, Direct, Node, Provider};
use crate::kafka::KafkaPolicy;
use crate::limits::RateLimiter;
use crate::route::Rule;
use crate::stream::StreamRule;
use crate::telemetry::Telemetry;

/// One complete configuration: an immutable value, replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Mesh {
    /// Services in order of namespace and name.
    pub services: Vec<Service>,
    /// Every set of endpoints that a service port or a route can choose; [`ClusterId`] indexes it.
    pub clusters: Vec<Cluster>,
    /// Addresses of workloads that are services too, each with a cluster of its own.
    pub direct: Vec<Direct>,
    /// Everything that can call or be called, in order of namespace and name.
    #[serde(serialize_with = "one_by_one")]
    pub workloads: Vec<Arc<Workload>>,
    /// Nodes of the cluster, as far as their addresses are known.
    pub nodes: Vec<Node>,
    /// Who may call whom, in order of namespace and name.
    #[serde(serialize_with = "one_by_one")]
    pub access: Vec<Arc<AccessPolicy>>,
    /// Whom CUSTOM policies ask, in order of name.
    pub providers: Vec<Provider>,
    /// What may be asked of Kafka brokers, in order of namespace and name.
    pub kafka: Vec<KafkaPolicy>,
    /// How many requests workloads take, in order of namespace and name.
    pub limits: Vec<RateLimiter>,
    /// What is told of traffic.
    pub telemetry: Telemetry,
}

/// Index into [`Mesh::clusters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClusterId(pub usize);

/// A name and addresses that clients use, from a Kubernetes Service or an Istio ServiceEntry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
    /// DNS names by which clients know it, fully qualified name first.
    pub hosts: Vec<String>,
    /// Virtual addresses (cluster IPs, or the addresses of a ServiceEntry). Empty: headless.
    pub addresses: Vec<IpAddr>,
    /// Ports in the order of the source object.
    pub ports: Vec<ServicePort>,
}

/// One port of a service and the rules for what is sent to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServicePort {
    /// Port name, may be empty.
    pub name: String,
    /// Port number on the service's addresses (host byte order).
    pub number: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// All endpoints of this port: where traffic goes when no rule says otherwise.
    pub cluster: ClusterId,
    /// Routing rules; the first that matches wins. `None`: no route is attached, everything goes
    /// to [`ServicePort::cluster`]. `Some(vec![])` or no match: 404, as Envoy's "no route".
    pub rules: Option<Vec<Rule>>,
    /// Rules for whole connections, where `protocol` is [`Protocol::Opaque`],
    /// [`Protocol::Tls`] or [`Protocol::Kafka`]; where none holds, connections go to [`ServicePort::cluster`].
    pub stream_rules: Vec<StreamRule>,
}

/// Transport protocol of a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Application protocol of a service port (from `appProtocol` or the port name's prefix).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.x: judged request by request.
    Http,
    /// HTTP/2 with prior knowledge, gRPC included: one connection carries many requests.
    Http2,
    /// TLS that is not ended here: the client speaks first, and says which name it wants.
    Tls,
    /// Kafka: judged request by request where a [`KafkaPolicy`] selects the broker.
    Kafka,
    /// Anything else: bytes are not looked at.
    Opaque,
}

/// A named set of endpoints: all of a service port, or one subset of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// `host:port` or `host:port|subset`, unique in the mesh.
    pub name: String,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// Ready endpoints in address order. Empty: a request routed here is answered 503.
    #[serde(serialize_with = "each")]
    pub endpoints: Arc<[Endpoint]>,
    /// Those of a service port that nobody is led to: they are not ready, or on another node where
    /// only local ones count. A call straight to one is a call to the service all the same.
    #[serde(serialize_with = "each")]
    pub idle: Arc<[Endpoint]>,
}

/// One address that serves a cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Relative share of connections, at least 1.
    pub weight: u32,
    /// The workload's name, for people.
    pub workload: String,
    /// Kubernetes node it runs on, when known.
    pub node: Option<String>,
}

/// A pod, a WorkloadEntry, or another thing that has addresses and labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
    /// Labels, which selectors match.
    pub labels: BTreeMap<String, String>,
    /// Its own addresses; the last may be one that is made up (see [`is_made_up`]).
    pub addresses: Vec<IpAddr>,
    /// Service account, `default` when the source names none.
    pub service_account: String,
    /// Kubernetes node, when known.
    pub node: Option<String>,
    /// The UID in the names of its cgroups.
    pub uid: Option<String>,
    /// Its cgroup, below that of the mesh, where the configuration says so.
    pub cgroup: Option<String>,
}

fn one_by_one<T: Serialize, S: Serializer>(
    list: &[Arc<T>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|item| &**item))
}

fn each<S: Serializer>(list: &[Endpoint], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list)
}

/// Whether an address is one that the configuration made up, so that a workload without addresses
/// of its own (in its node's network namespace) can be named: one of `100::/64` (RFC 6666), which
/// no packet bears.
pub fn is_made_up(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.segments()[..4] == [0x100, 0, 0, 0])
}

impl Mesh {
    /// The service port that owns a virtual address and port.
    pub fn frontend(
        &self,
        address: IpAddr,
        port: u16,
        transport: Transport,
    ) -> Option<(&Service, &ServicePort)> {
        let direct = self.direct_ports().filter(|(_, called, own)| {
            called.address == SocketAddr::new(address, port) && own.transport == transport
        });
        let services = self.services.iter().filter(|s| s.addresses.contains(&address));
        services.chain(direct.map(|(index, ..)| self.service(index))).find_map(|service| {
            let port = service.port(port, transport)?;
            Some((service, port))
        })
    }

    /// The service known by this DNS name, and for short names by `namespace` too.
    ///
    /// Compared without regard to case or a trailing dot (RFC 4343).
    pub fn service_by_host(&self, host: &str, namespace: &str) -> Option<&Service> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.services
            .iter()
            .find(|s| s.hosts.contains(&host))
            .or_else(|| self.services.iter().find(|s| s.name == host && s.namespace == namespace))
    }

    /// The workload that owns an address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Workload> {
        let owner = self.workloads.iter().find(|w| w.addresses.contains(&address));
        owner.map(|workload| &**workload)
    }
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16, transport: Transport) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.number == number && p.transport == transport)
    }
}

impl Cluster {
    /// Its endpoints, the idle ones behind the others.
    pub fn everybody(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().chain(&*self.idle)
    }

    /// One of [`Cluster::everybody`], by its index.
    pub(crate) fn member(&self, index: usize) -> &Endpoint {
        match index.checked_sub(self.endpoints.len()) {
            None => &self.endpoints[index],
            Some(at) => &self.idle[at],
        }
    }

    /// The endpoints for who calls `called`: those of its address family, or all if none is of it.
    /// A server may listen on one family alone; kube-proxy keeps to the family, too.
    pub fn endpoints_for(&self, called: IpAddr) -> impl Iterator<Item = &Endpoint> + Clone {
        let family = |address: IpAddr| address.to_canonical().is_ipv4();
        let alike = move |endpoint: &&Endpoint| family(endpoint.address.ip()) == family(called);
        let some = self.endpoints.iter().any(|endpoint| alike(&endpoint));
        self.endpoints.iter().filter(move |endpoint| !some || alike(endpoint))
    }

    /// The endpoint that a uniformly distributed draw chooses for who calls `called`, in proportion
    /// to the weights.
    pub fn pick(&self, called: IpAddr, draw: u32) -> Option<&Endpoint> {
        weighted(self.endpoints_for(called), draw)
    }

    /// [`Cluster::pick`] among those that have not failed, as long as there are any: first those of
    /// other workloads, then other addresses of the same. (Istio has Envoy draw again up to five
    /// times, which finds most of them.)
    pub fn pick_other(
        &self,
        called: IpAddr,
        failed: &[SocketAddr],
        draw: u32,
    ) -> Option<&Endpoint> {
        let has_failed = |endpoint: &&Endpoint| failed.contains(&endpoint.address);
        let workloads: Vec<&str> =
            self.endpoints.iter().filter(has_failed).map(|e| e.workload.as_str()).collect();
        let others = self.endpoints_for(called).filter(|endpoint| !has_failed(endpoint));
        let known = |endpoint: &&Endpoint| workloads.contains(&endpoint.workload.as_str());
        weighted(others.clone().filter(|endpoint| !known(endpoint)), draw)
            .or_else(|| weighted(others, draw))
            .or_else(|| self.pick(called, draw))
    }
}

fn weighted<'a>(
    mut endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
    draw: u32,
) -> Option<&'a Endpoint> {
    let total: u64 = endpoints.clone().map(|e| u64::from(e.weight)).sum();
    let mut point = scale(draw, total);
    endpoints.find(|e| {
        let weight = u64::from(e.weight);
        let hit = point < weight;
        point = point.saturating_sub(weight);
        hit
    })
}

/// Maps a draw from the whole range of `u32` onto `0..total`: `draw × total / 2³²`.
///
/// Every implementation (this one, the tables, the kernel) uses this formula, so one draw means
/// one backend everywhere. The tables and the kernel take totals below 2³² alone.
pub fn scale(draw: u32, total: u64) -> u64 {
    ((u128::from(draw) * u128::from(total)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(endpoints: &[(&str, &str, u32)]) -> Cluster {
        let endpoint = |&(address, workload, weight): &(&str, &str, u32)| Endpoint {
            address: address.parse().expect("an address"),
            weight,
            workload: workload.to_owned(),
            node: None,
        };
        Cluster {
            idle: Arc::default(),
            name: "c".to_owned(),
            protocol: Protocol::Http,
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn endpoints_are_of_the_called_family_if_there_are_any() {
        let both = [("10.0.0.1:80", "a", 1), ("[fd00::1]:80", "a", 1), ("10.0.0.2:80", "b", 1)];
        let found = |endpoints: &[(&str, &str, u32)], called: &str| {
            let cluster = cluster(endpoints);
            let all = cluster.endpoints_for(ip(called));
            all.map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>()
        };
        for called in ["10.96.0.1", "::ffff:10.96.0.1"] {
            assert_eq!(found(&both, called), ["10.0.0.1:80", "10.0.0.2:80"]);
            assert_eq!(found(&both[1..2], called), ["[fd00::1]:80"]);
        }
        assert_eq!(found(&both, "fd00::60"), ["[fd00::1]:80"]);
        assert_eq!(found(&both[2..], "fd00::60"), ["10.0.0.2:80"]);
        let other = |called: &str, failed: &str| {
            let failed = [failed.parse().expect("an address")];
            let cluster = cluster(&both);
            let picked = cluster.pick_other(ip(called), &failed, 0).expect("an endpoint");
            picked.address.to_string()
        };
        assert_eq!(other("10.96.0.1", "10.0.0.1:80"), "10.0.0.2:80");
        assert_eq!(other("fd00::60", "[fd00::1]:80"), "[fd00::1]:80", "nobody is at the others");
    }

    #[test]
    fn an_endpoint_that_has_failed_is_picked_last() {
        let cluster = cluster(&[
            ("10.0.0.1:80", "a", 1),
            ("10.0.0.9:80", "a", 1),
            ("10.0.0.2:80", "b", 1),
            ("10.0.0.3:80", "c", 2),
        ]);
        let picked = |failed: &[&str]| {
            let failed: Vec<SocketAddr> =
                failed.iter().map(|address| address.parse().expect("an address")).collect();
            // in the middle of each hundredth, so that none lies on a boundary
            let draws = (0..100_u64).map(|n| (((2 * n + 1) << 31) / 100) as u32);
            let called = ip("10.96.0.1");
            let pick = |draw| cluster.pick_other(called, &failed, draw).expect("an endpoint");
            let picks = draws.map(pick);
            let mut counts = BTreeMap::new();
            for endpoint in picks {
                *counts.entry(endpoint.address.to_string()).or_insert(0) += 1;
            }
            counts.into_iter().collect::<Vec<_>>()
        };
        let wanted = |counts: &[(&str, i32)]| {
            counts.iter().map(|(address, n)| ((*address).to_owned(), *n)).collect::<Vec<_>>()
        };
        let all = [("10.0.0.1:80", 20), ("10.0.0.2:80", 20), ("10.0.0.3:80", 40)];
        let all = [&all[..], &[("10.0.0.9:80", 20)]].concat();
        assert_eq!(picked(&[]), wanted(&all));
        // not by another address of the same workload either
        let rest = [("10.0.0.2:80", 33), ("10.0.0.3:80", 67)];
        assert_eq!(picked(&["10.0.0.1:80"]), wanted(&rest));
        assert_eq!(picked(&["10.0.0.1:80", "10.0.0.2:80"]), wanted(&[("10.0.0.3:80", 100)]));
        // unless there is no other
        let three = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
        assert_eq!(picked(&three), wanted(&[("10.0.0.9:80", 100)]));
        assert_eq!(picked(&[&three[..], &["10.0.0.9:80"]].concat()), wanted(&all));
    }
}
