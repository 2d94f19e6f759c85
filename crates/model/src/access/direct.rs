//! Calls straight to a workload's own address.
//!
//! Policies are about workloads, by whatever address they are called. Where they are about requests,
//! the calls have to be judged one by one, as those to a service are. So such an address is a service
//! of the mesh, with one endpoint. There may be as many as there are pods, and most are never asked
//! for: the mesh keeps where each stands, and makes a [`Service`] and a [`Cluster`] of it on demand.

use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::sync::{Arc, OnceLock};

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use serde::Serialize;

use super::identity::LabelSelector;
use super::policy::{AccessPolicy, Direction, Scope};
use crate::limits::RateLimiter;
use crate::mesh::{
    Cluster, ClusterId, Endpoint, Mesh, Protocol, Service, ServicePort, Transport, Workload,
};
use crate::route::Action;

/// What the names of such services begin with; Kubernetes has no blank in a name.
const PREFIX: &str = "workload ";

/// An endpoint that may be called by its address. As a service it comes behind [`Mesh::services`],
/// and its cluster behind [`Mesh::clusters`], in the order of [`Mesh::direct`].
#[derive(Debug, Clone, Serialize)]
pub struct Direct {
    /// Behind which service it stands, by its index.
    pub service: usize,
    /// The index of that one's port.
    pub port: usize,
    /// Its own index among the endpoints of the port's cluster, the idle ones behind the others.
    pub endpoint: usize,
    /// Who has the address.
    #[serde(skip)]
    pub workload: Option<Arc<Workload>>,
    #[serde(skip)]
    made: OnceLock<Box<(Service, Cluster)>>,
}

/// What was made of it follows from the rest.
impl PartialEq for Direct {
    fn eq(&self, other: &Direct) -> bool {
        let Direct { service, port, endpoint, workload, made: _ } = self;
        (*service, *port, *endpoint) == (other.service, other.port, other.endpoint)
            && *workload == other.workload
    }
}

impl Mesh {
    /// The cluster behind an id that this mesh gave out.
    pub fn cluster(&self, id: ClusterId) -> &Cluster {
        match id.0.checked_sub(self.clusters.len()) {
            None => &self.clusters[id.0],
            Some(at) => &self.made(at).1,
        }
    }

    /// The endpoints of [`Mesh::cluster`].
    pub fn endpoints(&self, id: ClusterId) -> &[Endpoint] {
        match id.0.checked_sub(self.clusters.len()) {
            None => &self.clusters[id.0].endpoints,
            Some(at) => slice::from_ref(self.called(&self.direct[at])),
        }
    }

    /// The service of an index: those for addresses of workloads come behind the others.
    pub fn service(&self, index: usize) -> &Service {
        match index.checked_sub(self.services.len()) {
            None => &self.services[index],
            Some(at) => &self.made(at).0,
        }
    }

    /// All services, those for addresses of workloads behind the others.
    pub fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().chain((0..self.direct.len()).map(|at| &self.made(at).0))
    }

    /// What may be called straight: the index of the service for it, its endpoint, and the one port.
    pub fn direct_ports(&self) -> impl Iterator<Item = (usize, &Endpoint, ServicePort)> {
        let of = |(at, direct)| {
            (self.services.len() + at, self.called(direct), self.direct_port(at, direct))
        };
        self.direct.iter().enumerate().map(of)
    }

    /// Namespace and name of the service for something that may be called straight. Whatever may
    /// stand behind different services has different names: ports, and addresses of a workload but
    /// for its first.
    pub fn direct_name<'a>(&'a self, direct: &'a Direct) -> (&'a str, String) {
        let owner = &self.services[direct.service];
        let address = self.called(direct).address;
        let own = address.ip().to_canonical();
        let (namespace, mut name) = match &direct.workload {
            None => (&owner.namespace, format!("{PREFIX}{address}")),
            Some(workload) => {
                let name = &workload.name;
                let name = match workload.addresses.first() == Some(&own) {
                    // most are so, of which there may be many
                    true => [PREFIX, name, ":", &address.port().to_string()].concat(),
                    false => format!("{PREFIX}{name} {address}"),
                };
                (&workload.namespace, name)
            }
        };
        if owner.ports[direct.port].transport == Transport::Udp {
            name.push_str("/udp");
        }
        (namespace, name)
    }

    /// Policies that name services, by the endpoints of these. An endpoint may stand behind several; who
    /// comes straight to it has asked for all of them.
    pub fn named_policies(&self) -> FxHashMap<CalledAt, Naming> {
        let mut naming: FxHashMap<(&str, &str), Vec<usize>> = FxHashMap::default();
        for (index, policy) in self.access.iter().enumerate() {
            let Scope::Services(services) = &policy.scope else { continue };
            for (namespace, name) in services {
                let policies = naming.entry((namespace, name)).or_default();
                if policies.last() != Some(&index) {
                    policies.push(index);
                }
            }
        }
        let mut found: FxHashMap<_, Naming> = FxHashMap::default();
        if naming.is_empty() {
            return found;
        }
        let of = |service| naming.get(&self.service_name(service)).map_or(&[][..], Vec::as_slice);
        for (service, value) in self.services.iter().enumerate() {
            let policies = of(service);
            for called in self.called_by(value).filter(|_| !policies.is_empty()) {
                let new = || Naming { policies: Vec::new(), every: true };
                let naming = found.entry(called).or_insert_with(new);
                naming.policies.extend(policies);
            }
        }
        for naming in found.values_mut() {
            naming.policies.sort_unstable();
            naming.policies.dedup();
        }
        for (service, value) in self.services.iter().enumerate() {
            for called in self.called_by(value).chain(self.routed_to(value)) {
                found
                    .entry(called)
                    .and_modify(|naming| naming.every &= naming.policies == of(service));
            }
        }
        found
    }

    /// Where rules lead who calls a service.
    fn routed_to(&self, service: &Service) -> impl Iterator<Item = CalledAt> {
        service.ports.iter().flat_map(|port| {
            let requests = port.rules.iter().flatten().flat_map(|rule| match &rule.action {
                Action::Forward(backends) => &backends[..],
                _ => &[],
            });
            let streams = port.stream_rules.iter().flat_map(|rule| &rule.backends);
            let clusters = requests.chain(streams).filter_map(|backend| backend.cluster);
            let endpoints = clusters.flat_map(|id| self.endpoints(id));
            endpoints.map(|endpoint| called_at(endpoint.address, port.transport))
        })
    }

    /// Where the endpoints of a service are.
    fn called_by(&self, service: &Service) -> impl Iterator<Item = CalledAt> {
        service.ports.iter().flat_map(|port| {
            let endpoints = self.clusters[port.cluster.0].everybody();
            endpoints.map(|endpoint| called_at(endpoint.address, port.transport))
        })
    }

    /// All services that an address is an endpoint of, by their indices.
    pub fn services_of(&self, called: CalledAt) -> Vec<usize> {
        let is_of = |(_, service): &(usize, &Service)| {
            self.called_by(service).any(|endpoint| endpoint == called)
        };
        self.services.iter().enumerate().filter(is_of).map(|(index, _)| index).collect()
    }

    /// The services that are called by the address of one: this one, or all that an endpoint stands
    /// behind.
    pub fn asked_by(&self, index: usize) -> Vec<usize> {
        match index.checked_sub(self.services.len()) {
            None => vec![index],
            Some(at) => {
                let direct = &self.direct[at];
                let transport = self.services[direct.service].ports[direct.port].transport;
                self.services_of(called_at(self.called(direct).address, transport))
            }
        }
    }

    /// Namespaces and names of all services that an address is an endpoint of.
    pub fn names_at(&self, called: CalledAt) -> Vec<(&str, &str)> {
        self.services_of(called).into_iter().map(|index| self.service_name(index)).collect()
    }

    /// Namespace and name of one of [`Mesh::services`].
    pub fn service_name(&self, index: usize) -> (&str, &str) {
        let service = &self.services[index];
        (&service.namespace, &service.name)
    }

    fn called(&self, direct: &Direct) -> &Endpoint {
        let port = &self.services[direct.service].ports[direct.port];
        self.clusters[port.cluster.0].member(direct.endpoint)
    }

    fn direct_port(&self, at: usize, direct: &Direct) -> ServicePort {
        let owner = &self.services[direct.service].ports[direct.port];
        ServicePort {
            name: String::new(),
            number: self.called(direct).address.port(),
            transport: owner.transport,
            protocol: owner.protocol,
            cluster: ClusterId(self.clusters.len() + at),
            rules: None,
            stream_rules: Vec::new(),
        }
    }

    fn made(&self, at: usize) -> &(Service, Cluster) {
        let direct = &self.direct[at];
        direct.made.get_or_init(|| {
            let (endpoint, port) = (self.called(direct), self.direct_port(at, direct));
            let (namespace, name) = self.direct_name(direct);
            let cluster = Cluster {
                name: endpoint.address.to_string(),
                protocol: port.protocol,
                endpoints: Arc::new([endpoint.clone()]),
                idle: Arc::default(),
            };
            let service = Service {
                namespace: namespace.to_owned(),
                name,
                hosts: Vec::new(),
                addresses: vec![endpoint.address.ip()],
                ports: vec![port],
            };
            Box::new((service, cluster))
        })
    }
}

/// Finds the addresses of workloads that policies or limits are about. Services and clusters must be
/// complete.
/// `owner` says which workload has an address, and `has_stayed` whether it is the one that had it
/// when `kept` was here the last time.
pub fn add_direct<'o>(
    mesh: &mut Mesh,
    kept: &mut Guarded,
    owner: impl Fn(IpAddr) -> Option<&'o Arc<Workload>>,
    has_stayed: impl Fn(IpAddr) -> bool,
) {
    if mesh.access.is_empty() && mesh.limits.is_empty() {
        (mesh.direct, *kept) = Default::default();
    } else {
        mesh.direct = find(mesh, kept, owner, has_stayed);
    }
}

/// Which endpoints of the mesh before policies and limits are about, and what that follows from.
#[derive(Debug, Default)]
pub struct Guarded {
    access: Vec<Arc<AccessPolicy>>,
    limits: Vec<RateLimiter>,
    /// In the order in which they are asked for.
    ports: Vec<GuardedPort>,
}

/// The endpoints of a service port.
#[derive(Debug)]
struct GuardedPort {
    /// Policies name the service.
    named: bool,
    /// Those that are ready, and those that are not.
    endpoints: [Arc<[Endpoint]>; 2],
    /// Indices of those that policies or limits are about, and who has the address.
    guarded: Vec<(usize, Option<Arc<Workload>>)>,
}

impl GuardedPort {
    fn of<'o>(
        named: bool,
        cluster: &Cluster,
        before: Option<GuardedPort>,
        selectors: &Selectors<'_>,
        owner: impl Fn(IpAddr) -> Option<&'o Arc<Workload>>,
        has_stayed: impl Fn(IpAddr) -> bool,
    ) -> GuardedPort {
        let before = before.filter(|before| {
            let [ready, idle] = &before.endpoints;
            before.named == named
                && Arc::ptr_eq(ready, &cluster.endpoints)
                && Arc::ptr_eq(idle, &cluster.idle)
                && cluster.everybody().all(|endpoint| has_stayed(endpoint.address.ip()))
        });
        if let Some(before) = before {
            return before;
        }
        let guarded = cluster.everybody().enumerate().filter_map(|(at, endpoint)| {
            let owner = owner(endpoint.address.ip());
            let selected = || owner.is_some_and(|owner| selectors.select(owner));
            let guarded = endpoint.address.port() > 0 && (named || selected());
            guarded.then(|| (at, owner.cloned()))
        });
        let guarded = guarded.collect();
        let endpoints = [cluster.endpoints.clone(), cluster.idle.clone()];
        GuardedPort { named, endpoints, guarded }
    }
}

/// Policies on the services that an address is an endpoint of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// Their indices, in order.
    pub policies: Vec<usize>,
    /// Each of those services, and each whose rules lead there, is named by all of them.
    pub every: bool,
}

/// What is called, whatever stands for it: a canonical address, a port (host byte order).
pub type CalledAt = (IpAddr, u16, Transport);

/// An address as a key.
pub fn called_at(address: SocketAddr, transport: Transport) -> CalledAt {
    (address.ip().to_canonical(), address.port(), transport)
}

fn find<'o>(
    mesh: &Mesh,
    kept: &mut Guarded,
    owner: impl Fn(IpAddr) -> Option<&'o Arc<Workload>>,
    has_stayed: impl Fn(IpAddr) -> bool,
) -> Vec<Direct> {
    if (&kept.access, &kept.limits) != (&mesh.access, &mesh.limits) {
        let (access, limits) = (mesh.access.clone(), mesh.limits.clone());
        *kept = Guarded { access, limits, ports: Vec::new() };
    }
    let mut before = std::mem::take(&mut kept.ports).into_iter();
    let selectors = Selectors::of(mesh);
    let mut taken = FxHashSet::with_capacity_and_hasher(mesh.workloads.len() * 2, FxBuildHasher);
    for service in &mesh.services {
        for address in &service.addresses {
            let address = address.to_canonical();
            taken.extend(service.ports.iter().map(|port| (address, port.number, port.transport)));
        }
    }
    let mut found = Vec::with_capacity(mesh.workloads.len());
    for (service, value) in mesh.services.iter().enumerate() {
        let named = selectors.name(value);
        for (port, listed) in value.ports.iter().enumerate() {
            let http = matches!(listed.protocol, Protocol::Http | Protocol::Http2);
            if !named && (!http || listed.transport != Transport::Tcp) {
                continue;
            }
            let cluster = &mesh.clusters[listed.cluster.0];
            let before = before.next();
            let of = GuardedPort::of(named, cluster, before, &selectors, &owner, &has_stayed);
            for (endpoint, workload) in &of.guarded {
                let address = cluster.member(*endpoint).address;
                if taken.insert(called_at(address, listed.transport)) {
                    let (endpoint, workload) = (*endpoint, workload.clone());
                    let made = OnceLock::new();
                    found.push(Direct { service, port, endpoint, workload, made });
                }
            }
            kept.ports.push(of);
        }
    }
    found
}

/// Whom policies and limits are about.
struct Selectors<'m> {
    of_namespace: FxHashMap<&'m str, Vec<&'m LabelSelector>>,
    of_all: Vec<&'m LabelSelector>,
    services: FxHashSet<(&'m str, &'m str)>,
}

impl<'m> Selectors<'m> {
    fn of(mesh: &'m Mesh) -> Selectors<'m> {
        let mut selectors = Selectors {
            of_namespace: FxHashMap::default(),
            of_all: Vec::new(),
            services: FxHashSet::default(),
        };
        for policy in mesh.access.iter().filter(|p| p.direction == Direction::Ingress) {
            match &policy.scope {
                Scope::Workloads(Some(namespace), labels) => {
                    selectors.of_namespace.entry(namespace).or_default().push(labels);
                }
                Scope::Workloads(None, labels) => selectors.of_all.push(labels),
                Scope::Services(services) => selectors
                    .services
                    .extend(services.iter().map(|(n, name)| (n.as_str(), name.as_str()))),
            }
        }
        for limiter in &mesh.limits {
            match &limiter.namespace {
                Some(namespace) => {
                    selectors.of_namespace.entry(namespace).or_default().push(&limiter.selector);
                }
                None => selectors.of_all.push(&limiter.selector),
            }
        }
        selectors
    }

    fn select(&self, workload: &Workload) -> bool {
        let near = self.of_namespace.get(workload.namespace.as_str()).into_iter().flatten();
        self.of_all.iter().chain(near).any(|labels| labels.holds(&workload.labels))
    }

    fn name(&self, service: &Service) -> bool {
        self.services.contains(&(service.namespace.as_str(), service.name.as_str()))
    }
}
