//! The services of the mesh while it is being built: ports, clusters and who stands behind them.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use beeway_model::{
    Action, Cluster, ClusterId, Endpoint, Mesh, Protocol, Rule, Service, ServicePort, StreamRule,
    Transport, Workload,
};
use rustc_hash::FxHashMap;

use crate::instance::Instance;
use crate::layer::no_route;
use crate::objects::Place;
use crate::problem::Problem;

/// Services in order of namespace and name, and the clusters that they and the routes use.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub services: Vec<Listed>,
    clusters: Vec<Cluster>,
    by_name: FxHashMap<String, ClusterId>,
    by_host: FxHashMap<String, usize>,
    by_frontend: FxHashMap<(IpAddr, u16, Transport), Place>,
    /// Clusters of ports that do not say what they speak.
    unsaid: HashSet<ClusterId>,
}

/// A service on its way into the mesh.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub place: Place,
    pub namespace: String,
    pub name: String,
    /// From a Kubernetes Service, which Gateway API routes may name.
    pub kubernetes: bool,
    /// Fully qualified name first; the rest are aliases that clients may dial.
    pub hosts: Vec<String>,
    /// How many of the hosts routes may name: an alias like `reviews.default` is none.
    pub full_hosts: usize,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
}

/// A port of a [`Listed`] service.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub name: String,
    pub number: u16,
    pub transport: Transport,
    /// What `appProtocol` or the port's name says.
    pub hint: Option<Protocol>,
    /// Who stands behind it.
    pub backings: Backings,
    pub cluster: ClusterId,
    pub rules: Option<Vec<Rule>>,
    pub stream_rules: Vec<StreamRule>,
    /// The kind and name of what routes here, and what is spoken if nothing else says it.
    pub routed_by: Option<(String, Protocol)>,
}

/// An endpoint, and who that is.
#[derive(Debug)]
pub(crate) struct Backing {
    pub endpoint: Endpoint,
    pub workload: Option<Arc<Workload>>,
    /// Whether anybody may be led there.
    pub serves: bool,
}

/// The endpoints of a port in order of their addresses, each once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backings {
    endpoints: Arc<[Endpoint]>,
    /// Those to which nobody is led.
    idle: Arc<[Endpoint]>,
    /// Whose labels subsets select by, in the order of those that serve.
    behind: Arc<[Option<Arc<Workload>>]>,
}

impl Backings {
    /// Of several at one address the first holds. The weights of a cluster must add up to less than
    /// 2³² (see `beeway_model::mesh::scale`).
    pub(crate) fn of(
        mut list: Vec<Backing>,
        place: &Place,
        port: u16,
        problems: &mut Vec<Problem>,
    ) -> Self {
        list.sort_by_key(|b| (b.endpoint.address, !b.serves));
        list.dedup_by_key(|b| b.endpoint.address);
        let idle = list.extract_if(.., |b| !b.serves).map(|b| b.endpoint).collect();
        let total: u64 = list.iter().map(|b| u64::from(b.endpoint.weight)).sum();
        if total > u64::from(u32::MAX) {
            let reason = format!(
                "the weights behind port {port} add up to more than {}; all count as 1",
                u32::MAX
            );
            problems.push(place.error("spec", reason));
            list.iter_mut().for_each(|b| b.endpoint.weight = 1);
        }
        let (endpoints, behind): (Vec<_>, Vec<_>) =
            list.into_iter().map(|b| (b.endpoint, b.workload)).unzip();
        Self { endpoints: endpoints.into(), idle, behind: behind.into() }
    }
}

impl Backing {
    /// What an instance offers at one of its addresses.
    pub(crate) fn of(instance: &Instance, address: IpAddr, port: u16) -> Self {
        let endpoint = Endpoint {
            address: SocketAddr::new(address, port),
            weight: instance.weight,
            workload: instance.name.clone(),
            node: instance.node.clone(),
        };
        Self { endpoint, workload: Some(instance.workload.clone()), serves: instance.ready }
    }
}

impl Port {
    /// A port that nothing routes yet; its cluster comes with [`Catalog::add`].
    pub(crate) fn new(name: String, number: u16, transport: Transport) -> Self {
        Self {
            name,
            number,
            transport,
            hint: None,
            backings: Backings::default(),
            cluster: ClusterId(0),
            rules: None,
            stream_rules: Vec::new(),
            routed_by: None,
        }
    }

    /// Whether HTTP routes can apply: what speaks something else is not looked into.
    pub(crate) fn takes_http(&self) -> bool {
        self.transport == Transport::Tcp
            && matches!(self.hint, None | Some(Protocol::Http | Protocol::Http2))
    }

    /// Whether rules for connections can apply.
    pub(crate) fn takes_streams(&self) -> bool {
        self.transport == Transport::Tcp
            && self.rules.is_none()
            && matches!(self.hint, None | Some(Protocol::Tls | Protocol::Kafka | Protocol::Opaque))
    }

    /// What its endpoints speak; where nothing says it, HTTP, if it is asked for at all.
    fn spoken(&self) -> Protocol {
        self.hint.unwrap_or(Protocol::Http)
    }
}

impl Listed {
    /// The fully qualified name.
    pub(crate) fn host(&self) -> &str {
        &self.hosts[0]
    }

    /// The cluster of a TCP port.
    pub(crate) fn tcp_cluster(&self, number: u16) -> Option<ClusterId> {
        let port = self.ports.iter().find(|p| p.number == number && p.transport == Transport::Tcp);
        port.map(|port| port.cluster)
    }

    /// The name of a port's cluster, or of one subset of it.
    fn cluster_name(&self, number: u16, transport: Transport, subset: Option<&str>) -> String {
        let base = cluster_name(self.host(), number, subset);
        match transport {
            Transport::Tcp => base,
            // A port number may serve both, as in DNS.
            Transport::Udp => format!("{base}/udp"),
        }
    }
}

/// `host:port` or `host:port|subset`.
fn cluster_name(host: &str, port: u16, subset: Option<&str>) -> String {
    match subset {
        Some(subset) => format!("{host}:{port}|{subset}"),
        None => format!("{host}:{port}"),
    }
}

impl Catalog {
    /// With room for that many services.
    pub(crate) fn with_capacity(services: usize) -> Self {
        let mut catalog = Self::default();
        catalog.services.reserve(services);
        catalog.clusters.reserve(services);
        catalog.by_name.reserve(services);
        catalog.by_host.reserve(3 * services);
        catalog.by_frontend.reserve(services);
        catalog
    }

    /// Adds a service. Hosts and addresses that an earlier one has stay with that one.
    pub(crate) fn add(&mut self, mut listed: Listed, problems: &mut Vec<Problem>) {
        let index = self.services.len();
        let (mut at, mut full_hosts) = (0, 0);
        listed.hosts.retain(|host| {
            at += 1;
            let first = self.by_host.get(host);
            if let Some(first) = first {
                let first = self.services[*first].place.label();
                let reason = format!("host {host} belongs to {first} already; that one stands");
                problems.push(listed.place.error("spec.hosts", reason));
            } else {
                full_hosts += usize::from(at <= listed.full_hosts);
            }
            first.is_none()
        });
        if full_hosts == 0 {
            return;
        }
        self.by_host.extend(listed.hosts.iter().map(|host| (host.clone(), index)));
        listed.full_hosts = full_hosts;
        self.report_shared_frontends(&listed, problems);
        for at in 0..listed.ports.len() {
            let (number, transport) = (listed.ports[at].number, listed.ports[at].transport);
            let Backings { endpoints, idle, .. } = listed.ports[at].backings.clone();
            let name = listed.cluster_name(number, transport, None);
            let cluster = self.of_port(&listed.ports[at], name, endpoints);
            self.clusters[cluster.0].idle = idle;
            listed.ports[at].cluster = cluster;
        }
        self.services.push(listed);
    }

    fn report_shared_frontends(&mut self, listed: &Listed, problems: &mut Vec<Problem>) {
        for address in &listed.addresses {
            for port in &listed.ports {
                let key = (*address, port.number, port.transport);
                if let Some(first) = self.by_frontend.get(&key) {
                    let reason = format!(
                        "{address}:{} belongs to {} already, which stands",
                        port.number,
                        first.label()
                    );
                    problems.push(listed.place.error("spec", reason));
                } else {
                    self.by_frontend.insert(key, listed.place.clone());
                }
            }
        }
    }

    /// The service that a fully qualified host names.
    pub(crate) fn by_host(&self, host: &str) -> Option<&Listed> {
        let listed = &self.services[*self.by_host.get(host)?];
        listed.hosts[..listed.full_hosts].iter().any(|h| h == host).then_some(listed)
    }

    /// The host and cluster behind a provider's `service`, which is `[namespace/]host`, and port.
    pub(crate) fn provided_by(
        &self,
        service: &str,
        port: u16,
    ) -> Result<(String, ClusterId), String> {
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, service),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let listed = self.by_host(&host);
        let listed = listed.filter(|s| namespace.is_none_or(|namespace| namespace == s.namespace));
        let listed = listed.ok_or_else(|| format!("{service} is no service"))?;
        let full = listed.host().to_owned();
        let cluster =
            listed.tcp_cluster(port).ok_or_else(|| format!("{full} has no port {port}"))?;
        Ok((full, cluster))
    }

    /// The fully qualified host that was probably meant by a name that names nothing.
    pub(crate) fn meant_by(&self, host: &str) -> Option<&str> {
        self.by_host.get(host).map(|index| self.services[*index].host())
    }

    /// The Kubernetes Service of this name.
    pub(crate) fn kubernetes(&self, namespace: &str, name: &str) -> Option<usize> {
        // In order of these two.
        let by_name = |s: &Listed| (&*s.namespace, &*s.name).cmp(&(namespace, name));
        let first = self.services.partition_point(|s| by_name(s).is_lt());
        let mut same = self.services[first..].iter().take_while(|s| by_name(s).is_eq());
        same.position(|s| s.kubernetes).map(|at| first + at)
    }

    /// Adds a subset to every port of a service.
    pub(crate) fn add_subset(
        &mut self,
        service: usize,
        subset: &str,
        labels: &BTreeMap<String, String>,
    ) {
        let listed = std::mem::take(&mut self.services[service].ports);
        for port in &listed {
            let Backings { endpoints, behind, .. } = &port.backings;
            let whole = endpoints.iter().zip(&**behind);
            let chosen = whole.filter(|(_, workload)| {
                let own = workload.as_ref().map(|workload| &workload.labels);
                labels.iter().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
            });
            let endpoints = chosen.map(|(endpoint, _)| endpoint.clone()).collect();
            let of = &self.services[service];
            let name = of.cluster_name(port.number, port.transport, Some(subset));
            self.of_port(port, name, endpoints);
        }
        self.services[service].ports = listed;
    }

    /// A cluster of endpoints of a port.
    fn of_port(&mut self, port: &Port, name: String, endpoints: Arc<[Endpoint]>) -> ClusterId {
        let id = self.cluster(name, port.spoken(), endpoints);
        if port.hint.is_none() {
            self.unsaid.insert(id);
        }
        id
    }

    /// Has HTTP/2 spoken to the endpoints of a TCP port, or of a subset of it, if it is HTTP at
    /// all.
    pub(crate) fn upgrade(&mut self, service: usize, number: u16, subset: Option<&str>) {
        let name = self.services[service].cluster_name(number, Transport::Tcp, subset);
        let cluster = self.by_name.get(&name).map(|id| &mut self.clusters[id.0]);
        if let Some(cluster) = cluster.filter(|cluster| cluster.protocol == Protocol::Http) {
            cluster.protocol = Protocol::Http2;
        }
    }

    /// What the endpoints of a cluster speak.
    pub(crate) fn spoken(&self, id: ClusterId) -> Protocol {
        self.clusters[id.0].protocol
    }

    /// The same when gRPC is sent there, which says it where nothing else does.
    pub(crate) fn asked_by_grpc(&mut self, id: ClusterId) -> Protocol {
        if self.unsaid.contains(&id) {
            self.clusters[id.0].protocol = Protocol::Http2;
        }
        self.spoken(id)
    }

    /// Notes that a rule sends gRPC, for clusters of which nothing else is said.
    pub(crate) fn speaks_http2(&mut self, rule: &Rule) {
        let backends = match &rule.action {
            Action::Forward(backends) => &backends[..],
            _ => &[],
        };
        let mirrors = rule.policy.iter().flat_map(|policy| &policy.mirrors);
        let clusters = backends.iter().map(|b| b.cluster).chain(mirrors.map(|m| m.cluster));
        for id in clusters.flatten().filter(|id| self.unsaid.contains(id)) {
            self.clusters[id.0].protocol = Protocol::Http2;
        }
    }

    /// The cluster of a TCP port of a host, or of a subset of it.
    pub(crate) fn find(&self, host: &str, port: u16, subset: Option<&str>) -> Option<ClusterId> {
        let listed = self.by_host(host)?;
        if subset.is_none()
            && let Some(cluster) = listed.tcp_cluster(port)
        {
            return Some(cluster);
        }
        self.by_name.get(&cluster_name(listed.host(), port, subset)).copied()
    }

    /// A cluster without endpoints for something that is not there: its requests get 503.
    pub(crate) fn nowhere(&mut self, host: &str, port: u16, subset: Option<&str>) -> ClusterId {
        let name = cluster_name(host, port, subset);
        match self.by_name.get(&name) {
            Some(id) => *id,
            None => self.cluster(name, Protocol::Http, Arc::default()),
        }
    }

    fn cluster(
        &mut self,
        name: String,
        protocol: Protocol,
        endpoints: Arc<[Endpoint]>,
    ) -> ClusterId {
        let id = ClusterId(self.clusters.len());
        if let Some(known) = self.by_name.get(&name) {
            return *known;
        }
        self.by_name.insert(name.clone(), id);
        self.clusters.push(Cluster { name, protocol, endpoints, idle: Arc::default() });
        id
    }

    /// The finished mesh, but for its workloads.
    pub(crate) fn finish(self, problems: &mut Vec<Problem>) -> Mesh {
        let mut services = Vec::new();
        for listed in self.services {
            let ports = listed.ports.into_iter().map(|port| {
                let protocol = match (port.hint, &port.routed_by) {
                    // Rules by name look into what would not be looked into otherwise.
                    (Some(Protocol::Opaque), Some((_, Protocol::Tls))) => Protocol::Tls,
                    (Some(hint), _) => hint,
                    (None, Some((route, protocol))) => {
                        let reason = format!(
                            "port {} does not say its protocol; taken as {} for {route}'s sake",
                            port.number,
                            name_of(*protocol)
                        );
                        problems.push(listed.place.notice("spec.ports", reason));
                        *protocol
                    }
                    (None, None) => Protocol::Opaque,
                };
                let rules = match protocol {
                    Protocol::Http => translated(port.rules, port.cluster, &self.clusters),
                    _ => port.rules,
                };
                ServicePort {
                    stream_rules: port.stream_rules,
                    name: port.name,
                    number: port.number,
                    transport: port.transport,
                    protocol,
                    cluster: port.cluster,
                    rules,
                }
            });
            services.push(Service {
                namespace: listed.namespace,
                name: listed.name,
                hosts: listed.hosts,
                addresses: listed.addresses,
                ports: ports.collect(),
            });
        }
        Mesh { services, clusters: self.clusters, ..Mesh::default() }
    }
}

/// A protocol, for people.
fn name_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "gRPC",
        Protocol::Tls => "TLS",
        Protocol::Kafka => "Kafka",
        Protocol::Opaque => "TCP",
    }
}

/// The rules of an HTTP port, where a client's connection cannot be the endpoint's because that
/// speaks HTTP/2.
fn translated(
    rules: Option<Vec<Rule>>,
    default: ClusterId,
    clusters: &[Cluster],
) -> Option<Vec<Rule>> {
    let other = |id: &ClusterId| clusters[id.0].protocol == Protocol::Http2;
    let mut rules = match rules {
        Some(rules) => rules,
        None if other(&default) => vec![no_route(default)],
        None => return None,
    };
    for rule in &mut rules {
        let Action::Forward(backends) = &rule.action else {
            continue;
        };
        if backends.iter().filter_map(|backend| backend.cluster.as_ref()).any(other) {
            let more = "endpoints speak HTTP/2";
            rule.detour = Some(match rule.detour.take() {
                Some(reason) => format!("{reason}, {more}"),
                None => more.to_owned(),
            });
        }
    }
    Some(rules)
}
