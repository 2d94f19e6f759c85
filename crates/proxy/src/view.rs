//! A mesh with an index: what a request needs is found without walking lists.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::{Mesh, ServicePort, Transport, Workload};

/// Equals what [`Mesh::frontend`] and [`Mesh::workload_at`] say; the first entry wins.
#[derive(Debug)]
pub(crate) struct View {
    pub mesh: Arc<Mesh>,
    frontends: HashMap<(IpAddr, u16), (usize, usize)>,
    workloads: HashMap<IpAddr, usize>,
}

impl View {
    pub fn new(mesh: Arc<Mesh>) -> View {
        let mut frontends = HashMap::new();
        for (s, service) in mesh.services.iter().enumerate() {
            for address in &service.addresses {
                for (p, port) in service.ports.iter().enumerate() {
                    if port.transport == Transport::Tcp {
                        frontends.entry((*address, port.number)).or_insert((s, p));
                    }
                }
            }
        }
        let mut workloads = HashMap::new();
        for (w, workload) in mesh.workloads.iter().enumerate() {
            for address in &workload.addresses {
                workloads.entry(*address).or_insert(w);
            }
        }
        View { mesh, frontends, workloads }
    }

    /// The TCP service port at an address.
    pub fn frontend(&self, address: IpAddr, port: u16) -> Option<&ServicePort> {
        let (s, p) = *self.frontends.get(&(address, port))?;
        Some(&self.mesh.services[s].ports[p])
    }

    /// Who owns an address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Workload> {
        self.workloads.get(&address).map(|w| &self.mesh.workloads[*w])
    }
}
