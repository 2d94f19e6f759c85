//! A mesh with an index: what a request needs is found without walking lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use beeway_model::access::Party;
use beeway_model::{Identity, Mesh, RateLimit, RateLimiter, ServicePort, Transport, Workload};
use rustc_hash::FxHashMap;

use crate::access::{Policies, Prospect};

/// Equals what [`Mesh::frontend`], [`Mesh::workload_at`] and [`Mesh::identity_at`] say; the first
/// entry wins.
#[derive(Debug)]
pub(crate) struct View {
    pub mesh: Arc<Mesh>,
    frontends: FxHashMap<(IpAddr, u16), Place>,
    workloads: FxHashMap<IpAddr, usize>,
    /// Addresses of nodes, and whether it is this one.
    nodes: FxHashMap<IpAddr, bool>,
    /// `None`: there is no policy at all.
    policies: Option<Policies>,
    brokers: BTreeSet<SocketAddr>,
}

/// Who calls: by which address, and by which one it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub address: IpAddr,
    pub known_by: IpAddr,
}

/// Indices of a service and of one of its ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub service: usize,
    port: usize,
}

impl View {
    pub fn new(mesh: Arc<Mesh>) -> View {
        let mut frontends = FxHashMap::default();
        frontends.reserve(mesh.services.len() + mesh.direct.len());
        for (index, service) in mesh.services.iter().enumerate() {
            for address in &service.addresses {
                for (at, port) in service.ports.iter().enumerate() {
                    if port.transport == Transport::Tcp {
                        frontends
                            .entry((*address, port.number))
                            .or_insert(Place { service: index, port: at });
                    }
                }
            }
        }
        for (service, called, port) in mesh.direct_ports() {
            if port.transport == Transport::Tcp {
                let at = (called.address.ip(), port.number);
                frontends.entry(at).or_insert(Place { service, port: 0 });
            }
        }
        let mut workloads = FxHashMap::default();
        for (w, workload) in mesh.workloads.iter().enumerate() {
            for address in &workload.addresses {
                workloads.entry(*address).or_insert(w);
            }
        }
        let mut nodes = FxHashMap::default();
        for node in &mesh.nodes {
            for address in &node.addresses {
                nodes.entry(*address).or_insert(node.local);
            }
        }
        let policies = (!mesh.access.is_empty()).then(|| Policies::new(&mesh));
        let brokers = mesh.kafka_brokers();
        View { mesh, frontends, workloads, nodes, policies, brokers }
    }

    /// Where the TCP service port at an address is.
    pub fn place(&self, address: IpAddr, port: u16) -> Option<Place> {
        self.frontends.get(&(address, port)).copied()
    }

    /// The service port at a place that this view has named.
    pub fn port(&self, place: Place) -> &ServicePort {
        &self.mesh.service(place.service).ports[place.port]
    }

    /// The TCP service port at an address.
    pub fn frontend(&self, address: IpAddr, port: u16) -> Option<&ServicePort> {
        self.place(address, port).map(|place| self.port(place))
    }

    /// Whether a Kafka broker listens there that policies select.
    pub fn is_broker(&self, endpoint: SocketAddr) -> bool {
        let (ip, port) = (endpoint.ip().to_canonical(), endpoint.port());
        self.brokers.contains(&SocketAddr::new(ip, port))
    }

    /// Who owns an address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Workload> {
        self.workloads.get(&address).map(|w| &*self.mesh.workloads[*w])
    }

    /// Who calls, or is called, by the address that the other side sees; and the workload's index.
    pub fn party(&self, address: IpAddr) -> (Party<'_>, Option<usize>) {
        let known = address.to_canonical();
        let workload = self.workloads.get(&known).copied();
        let identity = match (workload, self.nodes.get(&known)) {
            (Some(w), _) => Identity::Workload(&self.mesh.workloads[w]),
            (None, Some(true)) => Identity::Host,
            (None, Some(false)) => Identity::RemoteNode,
            (None, None) if known.is_loopback() => Identity::Host,
            (None, None) => Identity::World,
        };
        (Party { address, identity }, workload)
    }

    /// The address by which the token buckets of who has this one are known.
    pub fn bucket_address(&self, address: IpAddr) -> IpAddr {
        let known = address.to_canonical();
        self.workload_at(known).and_then(Workload::bucket_address).unwrap_or(known)
    }

    /// How many requests an endpoint takes.
    pub fn rate_limits(
        &self,
        endpoint: SocketAddr,
    ) -> impl Iterator<Item = (&RateLimiter, &RateLimit)> {
        let limited = if self.mesh.limits.is_empty() { None } else { Some(endpoint) };
        let called = limited.and_then(|at| self.workload_at(at.ip().to_canonical()));
        called.into_iter().flat_map(move |w| self.mesh.rate_limits(w, endpoint.port()))
    }

    /// The call of an endpoint by who asked for a service; `None`: no policy is about it.
    pub fn prospect(
        &self,
        caller: Caller,
        endpoint: SocketAddr,
        service: SocketAddr,
    ) -> Option<Prospect<'_>> {
        let policies = self.policies.as_ref()?;
        Prospect::of(self, policies, caller, endpoint, service)
    }
}
