//! Calls straight to a workload's own address.
//!
//! Policies are about workloads, by whatever address they are called. Where they are about requests,
//! the calls have to be judged one by one, as those to a service are. So the mesh gets services for
//! such addresses, each with one endpoint: tables and proxy need not know of them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

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
    namespace: String,
    name: String,
    transport: Transport,
    protocol: Protocol,
    endpoint: Endpoint,
}

/// Adds services for addresses of workloads that policies or limits are about. What a policy says of a service
/// it says of calls straight to its endpoints too.
pub fn add_direct(mesh: &mut Mesh) {
    if mesh.access.is_empty() && mesh.limits.is_empty() {
        return;
    }
    let found = find(mesh);
    let mut names: HashMap<usize, Vec<(String, String)>> = HashMap::new();
    for direct in found {
        let Direct { service, namespace, name, transport, protocol, endpoint } = direct;
        let address = endpoint.address;
        names.entry(service).or_default().push((namespace.clone(), name.clone()));
        let cluster = ClusterId(mesh.clusters.len());
        let endpoints = vec![endpoint];
        mesh.clusters.push(Cluster { name: format!("{address}"), protocol, endpoints });
        let port = ServicePort {
            name: String::new(),
            number: address.port(),
            transport,
            protocol,
            cluster,
            rules: None,
            stream_rules: Vec::new(),
        };
        mesh.services.push(Service {
            namespace,
            name,
            hosts: Vec::new(),
            addresses: vec![address.ip()],
            ports: vec![port],
        });
    }
    name_too(mesh, &names);
}

/// Lets policies on a service name those of its endpoints.
fn name_too(mesh: &mut Mesh, names: &HashMap<usize, Vec<(String, String)>>) {
    let services = &mesh.services;
    for policy in &mut mesh.access {
        let Scope::Services(named) = &mut policy.scope else { continue };
        let more = names.iter().filter(|(service, _)| {
            let service = &services[**service];
            named.iter().any(|(n, name)| *n == service.namespace && *name == service.name)
        });
        let mut more: Vec<_> = more.flat_map(|(_, names)| names.clone()).collect();
        more.sort_unstable();
        more.dedup();
        named.extend(more);
    }
}

fn find(mesh: &Mesh) -> Vec<Direct> {
    let selectors = Selectors::of(mesh);
    let mut owners: HashMap<IpAddr, &Workload> = HashMap::new();
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
    let mut taken: HashSet<_> = mesh.services.iter().flat_map(ports).collect();
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
                let workload = owners.get(&address.ip());
                let guarded = || workload.is_some_and(|workload| selectors.select(workload));
                let free = (address.ip(), address.port(), port.transport);
                if (named || guarded()) && taken.insert(free) {
                    let (transport, protocol) = (port.transport, port.protocol);
                    let endpoint = endpoint.clone();
                    let namespace = workload.map_or(&owner.namespace, |w| &w.namespace).clone();
                    let name = match workload {
                        Some(workload) => format!("{PREFIX}{}", workload.name),
                        None => format!("{PREFIX}{}", address.ip()),
                    };
                    found.push(Direct { service, namespace, name, transport, protocol, endpoint });
                }
            }
        }
    }
    found
}

/// Whom policies and limits are about.
struct Selectors<'m> {
    of_namespace: HashMap<&'m str, Vec<&'m LabelSelector>>,
    of_all: Vec<&'m LabelSelector>,
    services: HashSet<(&'m str, &'m str)>,
}

impl<'m> Selectors<'m> {
    fn of(mesh: &'m Mesh) -> Selectors<'m> {
        let mut selectors = Selectors {
            of_namespace: HashMap::new(),
            of_all: Vec::new(),
            services: HashSet::new(),
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
