//! Service addresses: what connect() looks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use beeway_model::access::called_at;
use beeway_model::{Mesh, ServicePort, Transport};
use rustc_hash::{FxHashMap, FxHashSet};

use super::access::{Guards, named_services};
use super::balance::{Clusters, PortId, frontend_extra, transport_number};
use super::heap::{Heap, Slots, address_bytes, hash_address};
use super::table::Draft;
use super::{Error, Notice};
use crate::abi;

/// Service addresses; of several claims to one the first holds, as [`Mesh::frontend`] says.
pub(super) fn push_frontends<'a>(
    heap: &mut Heap,
    clusters: &mut Clusters<'a>,
    tables: &BTreeMap<PortId, Draft>,
    guards: &'a Guards,
    notices: &mut Vec<Notice>,
) -> Result<Slots, Error> {
    let mesh = clusters.mesh;
    let named = named_services(mesh);
    let mut frontends = Frontends::new(mesh, guards);
    for (service, value) in mesh.services.iter().enumerate() {
        let naming = match named.contains(&(value.namespace.as_str(), value.name.as_str())) {
            true => abi::guarded::GUARDED_BY_NAME,
            false => abi::guarded::GUARDED_NOT,
        };
        for (port, listed) in value.ports.iter().enumerate() {
            let id = PortId { service, port };
            if listed.number == 0 {
                let reason = "port 0 cannot be connected to and is left out".to_owned();
                notices.push(Notice::new(mesh, id, reason));
                continue;
            }
            for address in &value.addresses {
                let table = tables.get(&id).map_or(0, |draft| draft.place);
                let claim = Claim { id, address: *address, naming, table };
                notices.extend(frontends.claim(heap, clusters, listed, &claim).err());
            }
        }
    }
    for (_, called, port) in mesh.direct_ports() {
        // no service has the address
        let naming = guards.naming(&called_at(called.address, port.transport));
        frontends.push(heap, clusters, &port, called.address.ip(), (naming, 0));
    }
    let Frontends { mut entries, .. } = frontends;
    let known: FxHashSet<_> = match clusters.brokers.is_empty() {
        true => FxHashSet::default(),
        false => entries.iter().map(|(_, f)| (f.ip, f.port, f.transport)).collect(),
    };
    entries.extend(brokers(&clusters.brokers, |key| known.contains(key)));
    // each is there once
    heap.push_table(&entries, |_, _| false)
}

/// Service addresses on their way into their table.
struct Frontends<'a> {
    mesh: &'a Mesh,
    guards: &'a Guards,
    /// Whose each is, by the index of the service.
    owners: FxHashMap<([u8; 16], u16, u8), usize>,
    entries: Vec<(u32, abi::frontend)>,
}

/// A port of a service at one of its addresses.
struct Claim {
    id: PortId,
    address: IpAddr,
    /// Whether policies name the service.
    naming: abi::guarded,
    /// Its rules in the heap; 0: none.
    table: u32,
}

impl<'a> Frontends<'a> {
    fn new(mesh: &'a Mesh, guards: &'a Guards) -> Frontends<'a> {
        let count = mesh.services.len() + mesh.direct.len();
        let (owners, entries) = (FxHashMap::default(), Vec::with_capacity(count));
        Frontends { mesh, guards, owners, entries }
    }

    /// Fails when the address is another service's.
    fn claim(
        &mut self,
        heap: &mut Heap,
        clusters: &mut Clusters<'a>,
        port: &ServicePort,
        claim: &Claim,
    ) -> Result<(), Notice> {
        let (ip, address) = (address_bytes(claim.address.to_canonical()), claim.address);
        let transport = transport_number(port.transport);
        let key = (ip, port.number, transport);
        let owner = *self.owners.entry(key).or_insert(claim.id.service);
        if owner != claim.id.service {
            let owner = self.mesh.service(owner);
            let owner = format!("{}/{}", owner.namespace, owner.name);
            let reason = format!("{address} belongs to {owner}, which keeps it");
            return Err(Notice::new(self.mesh, claim.id, reason));
        }
        self.push(heap, clusters, port, address, (claim.naming, claim.table));
        Ok(())
    }

    /// An address that nobody else has; whether policies name the service, and where its rules are.
    fn push(
        &mut self,
        heap: &mut Heap,
        clusters: &mut Clusters<'a>,
        port: &ServicePort,
        address: IpAddr,
        (naming, table): (abi::guarded, u32),
    ) {
        let (protocol, cluster) = clusters.for_address(heap, port, address);
        let (ip, transport) =
            (address_bytes(address.to_canonical()), transport_number(port.transport));
        let guarded = match clusters.leads_to_brokers(port) {
            true => abi::guarded::GUARDED_BROKERS,
            false => naming,
        };
        let frontend = abi::frontend {
            ip,
            port: port.number,
            transport,
            protocol: protocol.0 as u8,
            cluster,
            table,
            guarded: guarded.0,
            guard: self.guards.at(&(address.to_canonical(), port.number, port.transport)),
        };
        let hash = hash_address(&ip, frontend_extra(port.number, transport));
        self.entries.push((hash, frontend));
    }
}

/// Brokers that policies select are judged by their own addresses too, which clients learn from one
/// of them.
fn brokers(
    brokers: &BTreeSet<SocketAddr>,
    owned: impl Fn(&([u8; 16], u16, u8)) -> bool,
) -> impl Iterator<Item = (u32, abi::frontend)> {
    let transport = transport_number(Transport::Tcp);
    let keys = brokers.iter().map(move |at| (address_bytes(at.ip()), at.port(), transport));
    keys.filter(move |key| !owned(key)).map(|(ip, port, transport)| {
        let protocol = abi::protocol::PROTOCOL_PROXY.0 as u8;
        let guarded = abi::guarded::GUARDED_BROKERS.0;
        let frontend =
            abi::frontend { ip, port, transport, protocol, guarded, ..Default::default() };
        (hash_address(&ip, frontend_extra(port, transport)), frontend)
    })
}
