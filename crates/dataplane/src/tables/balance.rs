//! Clusters and endpoints: what connect() chooses from.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use beeway_model::{
    Action, Backend, ClusterId, Endpoint, Match, Mesh, PathMatch, Protocol, Rule, ServicePort,
    StreamMatch, StreamRule, Transport,
};

use super::Error;
use super::heap::{Heap, Slots, address_bytes, hash_address};
use super::records::Record;
use crate::abi;

/// Which endpoints of a cluster a client can reach through a service address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    All,
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Family {
        if address.to_canonical().is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// An IPv6 socket reaches IPv4 endpoints too, but only when there are no others.
    fn endpoints(self, all: &[Endpoint]) -> impl Iterator<Item = &Endpoint> + Clone {
        let is = |endpoint: &Endpoint, wanted| Family::of(endpoint.address.ip()) == wanted;
        let wanted = match self {
            Family::V6 if !all.iter().any(|e| is(e, Family::V6)) => Family::V4,
            family => family,
        };
        let fits = move |e: &&Endpoint| wanted == Family::All || is(e, wanted);
        all.iter().filter(fits)
    }
}

/// IP protocol number of a service port.
pub(super) fn transport_number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// What a frontend's hash adds to that of its address.
pub(super) fn frontend_extra(port: u16, transport: u8) -> u32 {
    u32::from(port) << 8 | u32::from(transport)
}

/// The number of a cluster in the tables; 0 is none.
fn cluster_number(cluster: ClusterId) -> u32 {
    cluster.0 as u32 + 1
}

/// What a member's hash adds to that of its address.
pub(super) fn member_extra(port: u16, cluster: u32) -> u32 {
    u32::from(port) << 16 ^ cluster
}

/// A port's place in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PortId {
    /// Index of the service.
    pub service: usize,
    /// Index of its port.
    pub port: usize,
}

/// Writes clusters, and remembers where.
#[derive(Debug)]
pub(super) struct Clusters<'a> {
    pub mesh: &'a Mesh,
    /// By cluster and family; 0: not written yet.
    known: Vec<[u32; 3]>,
    /// Kafka brokers that policies select.
    pub brokers: BTreeSet<SocketAddr>,
    scratch: Vec<u32>,
}

impl<'a> Clusters<'a> {
    /// Of this mesh; none is written yet.
    pub fn new(mesh: &'a Mesh) -> Clusters<'a> {
        let known = vec![[0; 3]; mesh.clusters.len() + mesh.direct.len()];
        let scratch = Vec::new();
        Clusters { mesh, known, brokers: mesh.kafka_brokers(), scratch }
    }

    /// The `struct cluster` with all endpoints, whatever their family.
    pub fn whole(&mut self, heap: &mut Heap, cluster: usize) -> u32 {
        self.place(heap, cluster, Family::All)
    }

    /// Forgets what was written at `end` and behind it.
    pub fn forget(&mut self, end: usize) {
        let known = self.known.iter_mut().flatten();
        known.filter(|index| **index as usize >= end).for_each(|index| *index = 0);
    }

    fn place(&mut self, heap: &mut Heap, cluster: usize, family: Family) -> u32 {
        let known = self.known[cluster][family as usize];
        if known > 0 {
            return known;
        }
        let endpoints = family.endpoints(self.mesh.endpoints(ClusterId(cluster)));
        let weight = |endpoint: &Endpoint| u64::from(endpoint.weight.max(1));
        // Draws are mapped onto 32 bits; larger sums lose bits that no draw can show.
        let sum: u64 = endpoints.clone().map(weight).sum();
        let shift = if sum > u64::from(u32::MAX) { 33 - sum.leading_zeros() } else { 0 };
        let (mut count, mut total) = (0, 0);
        let mut words = std::mem::take(&mut self.scratch);
        words.clear();
        for endpoint in endpoints {
            count += 1;
            total += (weight(endpoint) >> shift).max(1) as u32;
            endpoint_record(endpoint.address, total).push_to(&mut words);
        }
        let endpoints = match words.len() {
            0 => 0,
            // nobody else has the same
            _ if cluster >= self.mesh.clusters.len() => heap.push_aligned(&words),
            _ => heap.intern(&words),
        };
        self.scratch = words;
        let record =
            abi::cluster { id: cluster_number(ClusterId(cluster)), endpoints, count, total };
        // its number is in it, so no other is equal
        let index = heap.push_record(&record);
        self.known[cluster][family as usize] = index;
        index
    }

    /// What connect() chooses from where a rule for whole connections decides: the endpoints of all
    /// its backends, each with its part of the backend's share. What no backend serves comes last
    /// and has no port.
    fn shares(&mut self, heap: &mut Heap, backends: &[Backend], address: IpAddr) -> u32 {
        let total: u128 = backends.iter().map(|backend| u128::from(backend.weight)).sum();
        let mut words = Vec::new();
        let (mut count, mut before) = (0, 0);
        let mut up_to = 0;
        for backend in backends {
            let Some(cluster) = backend.cluster.filter(|_| backend.weight > 0) else { continue };
            let endpoints = Family::of(address).endpoints(self.mesh.endpoints(cluster));
            let sum: u128 = endpoints.clone().map(|e| u128::from(e.weight.max(1))).sum();
            let mut weight = 0;
            for endpoint in endpoints {
                weight += u128::from(endpoint.weight.max(1));
                let part = before * sum + u128::from(backend.weight) * weight;
                up_to = (part * u128::from(u32::MAX) / (total * sum)) as u32;
                endpoint_record(endpoint.address, up_to).push_to(&mut words);
                count += 1;
            }
            if sum > 0 {
                before += u128::from(backend.weight);
            }
        }
        if up_to < u32::MAX {
            words.extend(abi::endpoint { up_to: u32::MAX, ..Default::default() }.words());
            count += 1;
        }
        let endpoints = heap.intern(words);
        heap.intern(abi::cluster { id: 0, endpoints, count, total: u32::MAX }.words())
    }

    /// What the kernel takes the bytes for, and what connect() chooses from: endpoints that this
    /// address leads to.
    pub fn for_address(
        &mut self,
        heap: &mut Heap,
        port: &ServicePort,
        address: IpAddr,
    ) -> (abi::protocol, u32) {
        let cluster = match way(port, self.mesh.endpoints(port.cluster), address) {
            _ if self.leads_to_brokers(port) || self.is_limited(port) => {
                return (abi::protocol::PROTOCOL_PROXY, 0);
            }
            Way::Likely => self.likely(heap, port, address),
            Way::Rule(rule) => self.shares(heap, &rule.backends, address),
            Way::Proxy => return (abi::protocol::PROTOCOL_PROXY, 0),
        };
        let protocol = match is_judged(port) {
            true => abi::protocol::PROTOCOL_HTTP,
            false => abi::protocol::PROTOCOL_OPAQUE,
        };
        (protocol, cluster)
    }

    /// Whether a port may lead to a broker that policies select. (What is HTTP is no Kafka: requests
    /// are understood as such, or go nowhere.)
    pub fn leads_to_brokers(&self, port: &ServicePort) -> bool {
        port.protocol != Protocol::Http
            && !self.brokers.is_empty()
            && self.mesh.tcp_endpoints(port).any(|endpoint| self.brokers.contains(&endpoint))
    }

    /// Whether requests to a port are counted that the kernel does not look into.
    fn is_limited(&self, port: &ServicePort) -> bool {
        let mesh = self.mesh;
        port.protocol == Protocol::Http2
            && !mesh.limits.is_empty()
            && mesh.tcp_endpoints(port).any(|endpoint| {
                let workload = mesh.workload_at(endpoint.ip());
                workload.is_some_and(|w| mesh.rate_limits(w, endpoint.port()).next().is_some())
            })
    }

    /// The first of the likely clusters with an endpoint that this address leads to. Without any,
    /// the port's own, for which connect() refuses.
    fn likely(&mut self, heap: &mut Heap, port: &ServicePort, address: IpAddr) -> u32 {
        let family = Family::of(address);
        let mesh = self.mesh;
        let serves = |id: &ClusterId| family.endpoints(mesh.endpoints(*id)).next().is_some();
        let likely = match &port.rules {
            None => Some(port.cluster).filter(serves),
            Some(rules) => likely_clusters(port.cluster, rules).into_iter().find(serves),
        };
        match likely {
            Some(id) => self.place(heap, id.0, family),
            None => self.place(heap, port.cluster.0, Family::All),
        }
    }
}

/// How connections to a port are led.
enum Way<'a> {
    /// To where most requests want, or to the port's own endpoints.
    Likely,
    /// As this rule says.
    Rule(&'a StreamRule),
    /// To the userspace proxy.
    Proxy,
}

/// What is to be done with connections to an address of a port. The caller and the name in its
/// ClientHello are not known when it connects.
fn way<'a>(port: &'a ServicePort, endpoints: &[Endpoint], address: IpAddr) -> Way<'a> {
    match port.protocol {
        _ if port.transport != Transport::Tcp => return Way::Likely,
        Protocol::Http => return Way::Likely,
        // one connection carries many requests, each for an endpoint of its own
        Protocol::Http2
            if port.rules.is_some()
                || Family::of(address).endpoints(endpoints).nth(1).is_some() =>
        {
            return Way::Proxy;
        }
        Protocol::Http2 => return Way::Likely,
        Protocol::Tls | Protocol::Kafka | Protocol::Opaque => {}
    }
    for rule in &port.stream_rules {
        let here = |m: &&StreamMatch| {
            let subnet = m.subnets.is_empty() || m.subnets.iter().any(|s| s.contains(address));
            subnet && (m.sni.is_empty() || port.protocol == Protocol::Tls)
        };
        let certain = |m: &StreamMatch| m.sni.is_empty() && m.sources.is_empty();
        let mut possible = rule.matches.iter().filter(here).peekable();
        if rule.matches.is_empty() || possible.clone().any(certain) {
            return Way::Rule(rule);
        }
        if possible.peek().is_some() {
            return Way::Proxy;
        }
    }
    Way::Likely
}

fn endpoint_record(address: SocketAddr, up_to: u32) -> abi::endpoint {
    let ip = address.ip().to_canonical();
    let family = if ip.is_ipv4() { 4 } else { 6 };
    abi::endpoint { ip: address_bytes(ip), port: address.port(), family, up_to }
}

/// The clusters that requests to a port most likely want, best first: where the rule for "all
/// other requests" leads, then the port's own endpoints, then whatever the rules name.
fn likely_clusters(own: ClusterId, rules: &[Rule]) -> Vec<ClusterId> {
    let usual = rules.iter().find(|rule| is_for_the_rest(rule));
    let mut likely = usual.map(backends).unwrap_or_default();
    likely.push(own);
    likely.extend(rules.iter().flat_map(backends));
    likely
}

/// Backends with a weight, heaviest first.
fn backends(rule: &Rule) -> Vec<ClusterId> {
    let Action::Forward(backends) = &rule.action else { return Vec::new() };
    let mut drawn: Vec<_> = backends.iter().filter(|backend| backend.weight > 0).collect();
    drawn.sort_by_key(|backend| std::cmp::Reverse(backend.weight));
    drawn.iter().filter_map(|backend| backend.cluster).collect()
}

fn is_for_the_rest(rule: &Rule) -> bool {
    let any = |m: &Match| {
        let path = match &m.path {
            None => true,
            Some(PathMatch::Prefix(path) | PathMatch::Segments(path)) => path == "/",
            Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => false,
        };
        let plain = m.headers.is_empty() && m.query.is_empty() && m.sources.is_empty();
        path && plain && m.method.is_none()
    };
    matches!(rule.action, Action::Forward(_))
        && (rule.matches.is_empty() || rule.matches.iter().any(any))
}

/// Which endpoint is in which cluster.
pub(super) fn push_members(heap: &mut Heap, mesh: &Mesh) -> Result<Slots, Error> {
    let all: usize = mesh.clusters.iter().map(|cluster| cluster.endpoints.len()).sum();
    let mut entries = Vec::with_capacity(all + mesh.direct.len());
    let mut push = |ip: [u8; 16], port: u16, cluster: u32| {
        let hash = hash_address(&ip, member_extra(port, cluster));
        entries.push((hash, abi::member { ip, port: port.into(), cluster }));
    };
    let at = |endpoint: &Endpoint| {
        (address_bytes(endpoint.address.ip().to_canonical()), endpoint.address.port())
    };
    for (cluster, number) in mesh.clusters.iter().zip(1..) {
        cluster.endpoints.iter().map(at).for_each(|(ip, port)| push(ip, port, number));
    }
    for (_, endpoint, port) in mesh.direct_ports() {
        push(
            address_bytes(endpoint.address.ip().to_canonical()),
            port.number,
            cluster_number(port.cluster),
        );
    }
    heap.push_table(&entries, |a, b| (a.ip, a.port, a.cluster) == (b.ip, b.port, b.cluster))
}

/// Whether requests of a port are judged in the kernel.
pub(super) fn is_judged(port: &ServicePort) -> bool {
    port.protocol == Protocol::Http && port.transport == Transport::Tcp
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use beeway_model::{
        Backend, Cluster, HeaderMatch, KafkaPolicy, Service, StringMatch, Workload,
    };

    use super::*;
    use crate::tables::interpret::{is_for_proxy, pick_endpoint};
    use crate::tables::{Tables, compile};

    fn mesh(clusters: &[&[&str]], rules: Option<Vec<Rule>>) -> Mesh {
        let endpoint = |(address, weight): (&&str, u32)| Endpoint {
            address: address.parse().unwrap(),
            weight,
            workload: String::new(),
            node: None,
        };
        let clusters = clusters.iter().map(|addresses| Cluster {
            idle: Default::default(),
            protocol: Protocol::Http,
            name: String::new(),
            endpoints: addresses.iter().zip([1, 5, 3].into_iter().cycle()).map(endpoint).collect(),
        });
        let port = ServicePort {
            stream_rules: Vec::new(),
            name: String::new(),
            number: 80,
            transport: Transport::Tcp,
            protocol: Protocol::Http,
            cluster: ClusterId(0),
            rules,
        };
        let service = Service {
            namespace: "default".to_owned(),
            name: "shop".to_owned(),
            hosts: Vec::new(),
            addresses: vec!["10.96.0.1".parse().unwrap(), "fd00::60".parse().unwrap()],
            ports: vec![port],
        };
        Mesh { services: vec![service], clusters: clusters.collect(), ..Mesh::default() }
    }

    fn rule(m: Match, backends: &[(Option<usize>, u32)]) -> Rule {
        let backends = backends.iter().map(|(cluster, weight)| Backend {
            cluster: cluster.map(ClusterId),
            weight: *weight,
            policy: None,
        });
        let action = Action::Forward(backends.collect());
        Rule { name: String::new(), matches: vec![m], action, policy: None, detour: None }
    }

    /// Every endpoint that an address leads to.
    fn endpoints(tables: &Tables, service: &str) -> Vec<String> {
        let draws = (0..64u32).map(|n| n << 26);
        let mut found: Vec<String> = draws
            .filter_map(|draw| {
                let service = service.parse().unwrap();
                Some(pick_endpoint(tables, service, Transport::Tcp, draw)?.to_string())
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn a_draw_picks_the_endpoint_that_the_model_picks() {
        let addresses: Vec<String> = (1..=37).map(|n| format!("10.1.0.{n}:8080")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let mesh = mesh(&[&addresses], None);
        let tables = compile(&mesh, 1).unwrap();
        let service: SocketAddr = "10.96.0.1:80".parse().unwrap();
        for draw in (0..5000u32).map(|n| n.wrapping_mul(858_993)).chain([u32::MAX]) {
            let picked = pick_endpoint(&tables, service, Transport::Tcp, draw);
            let wanted = mesh.clusters[0].pick(service.ip(), draw).map(|e| e.address);
            assert_eq!(picked, wanted, "{draw}");
        }
        assert_eq!(pick_endpoint(&tables, service, Transport::Udp, 0), None);
    }

    #[test]
    fn an_address_leads_to_endpoints_of_its_family() {
        let both = compile(&mesh(&[&["10.1.0.1:1", "[fd00::1]:1"]], None), 1).unwrap();
        assert_eq!(endpoints(&both, "10.96.0.1:80"), ["10.1.0.1:1"]);
        assert_eq!(endpoints(&both, "[fd00::60]:80"), ["[fd00::1]:1"]);
        let old = compile(&mesh(&[&["10.1.0.1:1"]], None), 1).unwrap();
        assert_eq!(endpoints(&old, "[fd00::60]:80"), ["10.1.0.1:1"]);
        // connect() refuses for an IPv4 client; the detour can still reach it
        let new = compile(&mesh(&[&["[fd00::1]:1"]], None), 1).unwrap();
        assert_eq!(endpoints(&new, "10.96.0.1:80"), ["[fd00::1]:1"]);
    }

    #[test]
    fn connect_goes_where_most_requests_go() {
        let header =
            HeaderMatch { name: "x".to_owned(), value: StringMatch::Present, invert: false };
        let canary = Match { headers: vec![header], ..Match::default() };
        let clusters: [&[&str]; 4] = [&["10.0.0.9:1"], &["10.0.0.1:1"], &["10.0.0.2:1"], &[]];
        let pick = |rules: Vec<Rule>| {
            endpoints(&compile(&mesh(&clusters, Some(rules)), 1).unwrap(), "10.96.0.1:80")
        };
        let canary = |cluster| rule(canary.clone(), &[(Some(cluster), 1)]);
        let rest = |backends: &[_]| rule(Match::default(), backends);
        assert_eq!(pick(vec![canary(2), rest(&[(Some(1), 1)])]), ["10.0.0.1:1"]);
        assert_eq!(pick(vec![rest(&[(Some(1), 1), (Some(2), 9)])]), ["10.0.0.2:1"]);
        assert_eq!(pick(vec![rest(&[(Some(3), 9), (None, 9), (Some(2), 1)])]), ["10.0.0.2:1"]);
        assert_eq!(pick(vec![canary(2)]), ["10.0.0.9:1"]);
        let empty: [&[&str]; 2] = [&[], &["10.0.0.1:1"]];
        let tables = compile(&mesh(&empty, Some(vec![canary(1)])), 1).unwrap();
        assert_eq!(endpoints(&tables, "10.96.0.1:80"), ["10.0.0.1:1"]);
    }

    #[test]
    fn weights_past_32_bits_keep_their_proportion() {
        let mut mesh = mesh(&[&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]], None);
        for endpoint in Arc::make_mut(&mut mesh.clusters[0].endpoints) {
            endpoint.weight = u32::MAX;
        }
        let tables = compile(&mesh, 1).unwrap();
        let service = "10.96.0.1:80".parse().unwrap();
        for (draw, last) in [(0, 1), (0x5000_0000, 1), (0x6000_0000, 2), (u32::MAX, 3)] {
            let picked = pick_endpoint(&tables, service, Transport::Tcp, draw).unwrap();
            assert_eq!(picked.to_string(), format!("10.0.0.{last}:1"));
        }
    }

    #[test]
    fn connections_to_brokers_with_policies_are_for_the_proxy() {
        let mut mesh = mesh(&[&["10.0.0.1:9092", "10.0.0.2:9092"]], None);
        let ports = &mut mesh.services[0].ports;
        ports.push(ServicePort { number: 81, protocol: Protocol::Opaque, ..ports[0].clone() });
        ports.push(ServicePort { number: 82, protocol: Protocol::Tls, ..ports[0].clone() });
        ports[0].protocol = Protocol::Kafka;
        mesh.workloads = vec![Arc::new(Workload {
            namespace: "default".to_owned(),
            name: "kafka-1".to_owned(),
            labels: [("app".to_owned(), "kafka".to_owned())].into(),
            addresses: vec!["10.0.0.2".parse().unwrap()],
            service_account: "default".to_owned(),
            node: None,
            uid: None,
            cgroup: None,
        })];
        let for_proxy = |mesh: &Mesh| {
            let tables = compile(mesh, 1).unwrap();
            let of = ["10.96.0.1:80", "[fd00::60]:80", "10.96.0.1:81", "10.96.0.1:82"];
            let own = ["10.0.0.1:9092", "10.0.0.2:9092", "10.0.0.2:80"];
            let all = of.iter().chain(&own).map(|address| address.parse().unwrap());
            all.filter(|address| is_for_proxy(&tables, *address)).collect::<Vec<SocketAddr>>()
        };
        assert_eq!(for_proxy(&mesh), []);
        mesh.kafka = vec![KafkaPolicy {
            name: "p".to_owned(),
            namespace: "default".to_owned(),
            selector: [("app".to_owned(), "kafka".to_owned())].into(),
            rules: Vec::new(),
        }];
        let judged = [
            "10.96.0.1:80",
            "[fd00::60]:80",
            "10.96.0.1:81",
            "10.96.0.1:82",
            // the other broker is not selected, and this one has no other port
            "10.0.0.2:9092",
        ];
        let judged: Vec<SocketAddr> = judged.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(for_proxy(&mesh), judged);
        mesh.kafka[0].selector = [("app".to_owned(), "other".to_owned())].into();
        assert_eq!(for_proxy(&mesh), []);
    }

    #[test]
    fn an_address_has_one_owner() {
        let mut mesh = mesh(&[&["10.0.0.1:1"], &["10.0.0.2:1"]], None);
        let mut other = mesh.services[0].clone();
        other.name = "other".to_owned();
        other.ports[0].cluster = ClusterId(1);
        mesh.services.push(other);
        let tables = compile(&mesh, 1).unwrap();
        assert_eq!(endpoints(&tables, "10.96.0.1:80"), ["10.0.0.1:1"]);
        assert_eq!(tables.notices().len(), 2);
        assert_eq!(tables.notices()[0].service, "default/other:80");
        assert!(tables.notices()[0].reason.contains("default/shop"));
    }

    #[test]
    fn too_many_endpoints_are_an_error() {
        let mut mesh = mesh(&[&[]], None);
        let endpoint = |n: u32| Endpoint {
            address: SocketAddr::from((n.to_be_bytes(), 80)),
            weight: 1,
            workload: String::new(),
            node: None,
        };
        mesh.clusters[0].endpoints = (0..100_000).map(endpoint).collect();
        let Err(Error::HeapFull { needed, limit }) = compile(&mesh, 1) else { panic!("it fits") };
        assert!(needed > limit);
    }
}
