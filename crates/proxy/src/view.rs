//! A mesh with an index: what a request needs is found without walking lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use beeway_model::{Mesh, ServicePort, Transport, Workload};
use rustc_hash::FxHashMap;

/// Equals what [`Mesh::frontend`] and [`Mesh::workload_at`] say; the first entry wins.
#[derive(Debug)]
pub(crate) struct View {
    pub mesh: Arc<Mesh>,
    frontends: FxHashMap<(IpAddr, u16), Place>,
    workloads: FxHashMap<IpAddr, usize>,
    brokers: BTreeSet<SocketAddr>,
}

/// Indices of a service and of one of its ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    service: usize,
    port: usize,
}

impl View {
    pub fn new(mesh: Arc<Mesh>) -> View {
        let mut frontends = FxHashMap::default();
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
        let mut workloads = FxHashMap::default();
        for (w, workload) in mesh.workloads.iter().enumerate() {
            for address in &workload.addresses {
                workloads.entry(*address).or_insert(w);
            }
        }
        let brokers = mesh.kafka_brokers();
        View { mesh, frontends, workloads, brokers }
    }

    /// Where the TCP service port at an address is.
    pub fn place(&self, address: IpAddr, port: u16) -> Option<Place> {
        self.frontends.get(&(address, port)).copied()
    }

    /// The service port at a place that this view has named.
    pub fn port(&self, place: Place) -> &ServicePort {
        &self.mesh.services[place.service].ports[place.port]
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
        self.workloads.get(&address).map(|w| &self.mesh.workloads[*w])
    }
}
