//! Calls straight to a workload's own address.
//!
//! Policies are about workloads, by whatever address they are called. Where they are about requests,
//! the calls have to be judged one by one, as those to a service are. So the mesh gets services for
//! such addresses, each with one endpoint: tables and proxy need not know of them.

use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};

use super::identity::LabelSelector;
use super::policy::{Direction, Scope};
use crate::mesh::{
    Cluster, ClusterId, Endpoint, Mesh, Protocol, Service, ServicePort, Transport, Workload,
};

/// What the names of such services begin with; Kubernetes has no blank in a name.
const PREFIX: &str = "workload ";

impl Service {
    /// Whether it stands for a workload's own address.
    pub fn is_direct(&self) -> bool {
        self.name.starts_with(PREFIX)
    }
}

/// An endpoint that may be called by its address.
struct Direct {
    /// Behind which it stands.
    service: usize,
    /// It alone.
    cluster: Cluster,
    /// What stands for its address.
    own: Service,
}

/// Adds services for addresses of workloads that policies or limits are about. What a policy says of a service
/// it says of calls straight to its endpoints too.
pub fn add_direct(mesh: &mut Mesh) {
    if mesh.access.is_empty() && mesh.limits.is_empty() {
        return;
    }
    let found = find(mesh);
    name_too(mesh, &found);
    mesh.clusters.reserve(found.len());
    mesh.services.reserve(found.len());
    for Direct { cluster, mut own, .. } in found {
        own.ports[0].cluster = ClusterId(mesh.clusters.len());
        mesh.clusters.push(cluster);
        mesh.services.push(own);
    }
}

/// Lets policies on a service name those of its endpoints.
fn name_too(mesh: &mut Mesh, found: &[Direct]) {
    let services = &mesh.services;
    for policy in &mut mesh.access {
        let Scope::Services(named) = &mut policy.scope else { continue };
        let more = found.iter().filter(|direct| {
            let service = &services[direct.service];
            named.iter().any(|(n, name)| *n == service.namespace && *name == service.name)
        });
        let names = |direct: &Direct| (direct.own.namespace.clone(), direct.own.name.clone());
        let mut more: Vec<_> = more.map(names).collect();
        more.sort_unstable();
        more.dedup();
        named.extend(more);
    }
}

fn find(mesh: &Mesh) -> Vec<Direct> {
    let selectors = Selectors::of(mesh);
    let mut owners: FxHashMap<IpAddr, &Workload> = FxHashMap::default();
    owners.reserve(mesh.workloads.len());
    for workload in &mesh.workloads {
        workload.addresses.iter().for_each(|address| {
            owners.entry(*address).or_insert(workload);
        });
    }
    let ports = |service: &'_ Service| -> Vec<(IpAddr, u16, Transport)> {
        let of = |address: &IpAddr| {
            let address = *address;
            service.ports.iter().map(move |port| (address, port.number, port.transport))
        };
        service.addresses.iter().flat_map(of).collect()
    };
    let mut taken: FxHashSet<_> = mesh.services.iter().flat_map(ports).collect();
    let mut found = Vec::new();
    for (service, owner) in mesh.services.iter().enumerate() {
        let named = selectors.name(owner);
        for port in &owner.ports {
            let http = matches!(port.protocol, Protocol::Http | Protocol::Http2);
            if !named && (!http || port.transport != Transport::Tcp) {
                continue;
            }
            for endpoint in &mesh.cluster(port.cluster).endpoints {
                let address = endpoint.address;
                let workload = owners.get(&address.ip()).copied();
                let guarded = || workload.is_some_and(|workload| selectors.select(workload));
                let free = (address.ip(), address.port(), port.transport);
                if (named || guarded()) && taken.insert(free) {
                    found.push(direct(service, owner, port, endpoint, workload));
                }
            }
        }
    }
    found
}

fn direct(
    service: usize,
    owner: &Service,
    port: &ServicePort,
    endpoint: &Endpoint,
    workload: Option<&Workload>,
) -> Direct {
    let (transport, protocol) = (port.transport, port.protocol);
    let (namespace, name) = match workload {
        Some(workload) => (&workload.namespace, [PREFIX, &workload.name].concat()),
        None => (&owner.namespace, format!("{PREFIX}{}", endpoint.address.ip())),
    };
    let port = ServicePort {
        name: String::new(),
        number: endpoint.address.port(),
        transport,
        protocol,
        // it has its place when it is added
        cluster: ClusterId(usize::MAX),
        rules: None,
        stream_rules: Vec::new(),
    };
    let own = Service {
        namespace: namespace.clone(),
        name,
        hosts: Vec::new(),
        addresses: vec![endpoint.address.ip()],
        ports: vec![port],
    };
    let (name, endpoints) = (endpoint.address.to_string(), vec![endpoint.clone()]);
    Direct { service, cluster: Cluster { name, protocol, endpoints }, own }
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
