//! Kubernetes Services, their EndpointSlices or Pods, and ServiceEntries → the [`Catalog`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::{Protocol, Transport};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustc_hash::FxHashMap;

use crate::Options;
use crate::catalog::{Backing, Backings, Catalog, Listed, Port};
use crate::instance::{Instance, InstanceKind, Instances};
use crate::objects::{Object, Objects};
use crate::problem::Problem;
use crate::service_entry;

type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Object<EndpointSlice>>>;

/// What the services of namespaces became, as long as they and all that can stand behind them are
/// the same. It depends on nothing else, unless there are EndpointSlices. For one set of options.
#[derive(Debug, Default)]
pub(crate) struct Kept(FxHashMap<String, Made>);

/// What the services of a namespace became, and of what.
#[derive(Debug)]
struct Made {
    services: Vec<Object<core::Service>>,
    instances: Vec<Arc<Instance>>,
    listed: Vec<Listed>,
    problems: Vec<Problem>,
}

impl Made {
    fn of(
        services: &[(&Object<core::Service>, Vec<&Object<EndpointSlice>>)],
        before: Option<Made>,
        within: &[Arc<Instance>],
        instances: &Instances,
        options: &Options,
    ) -> Made {
        let same = |before: &Made| {
            let same = services.iter().zip(&before.services);
            services.len() == before.services.len()
                && within.len() == before.instances.len()
                && same.into_iter().all(|((now, slices), then)| now.is(then) && slices.is_empty())
                && within.iter().zip(&before.instances).all(|(now, then)| Arc::ptr_eq(now, then))
        };
        if let Some(before) = before.filter(same) {
            return before;
        }
        let (mut listed, mut problems) = (Vec::new(), Vec::new());
        for (service, slices) in services {
            listed.extend(of_service(service, slices, instances, options, &mut problems));
        }
        let services = services.iter().map(|(service, _)| (*service).clone()).collect();
        Made { services, instances: within.to_vec(), listed, problems }
    }
}

/// Every service of the configuration.
pub(crate) fn catalog(
    objects: &Objects,
    instances: &Instances,
    kept: &mut Kept,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Catalog {
    let mut slices: Slices<'_> = BTreeMap::new();
    for slice in &objects.slices {
        match slice.labels.get("kubernetes.io/service-name") {
            Some(name) => {
                slices.entry((slice.namespace.as_str(), name)).or_default().push(slice);
            }
            None => problems.push(slice.place.warning(
                "metadata",
                "no label kubernetes.io/service-name; it belongs to no service",
            )),
        }
    }
    let mut listed: Vec<Listed> = Vec::new();
    let mut now = FxHashMap::default();
    let mut behind = 0;
    for services in objects.services.chunk_by(|a, b| a.namespace == b.namespace) {
        let namespace = &services[0].namespace;
        let of = services.iter().map(|service| {
            let key = (namespace.as_str(), service.name.as_str());
            (service, slices.remove(&key).unwrap_or_default())
        });
        let of: Vec<_> = of.collect();
        let before = kept.0.remove(namespace);
        let same = before.as_ref().map_or(&[][..], |made| &made.instances);
        let within = instances.again(behind, same).unwrap_or_else(|| instances.within(namespace));
        behind = within.end;
        let made = Made::of(&of, before, &instances.list[within], instances, options);
        problems.extend_from_slice(&made.problems);
        listed.extend_from_slice(&made.listed);
        // of slices, because endpoints in them may be anybody's
        if of.iter().all(|(_, slices)| slices.is_empty()) {
            now.insert(namespace.clone(), made);
        }
    }
    kept.0 = now;
    for entry in &objects.service_entries {
        listed.extend(service_entry::listed(entry, instances, problems));
    }
    // Stable: a Service comes before a ServiceEntry of the same name.
    listed.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut catalog = Catalog::with_capacity(listed.len());
    for service in listed {
        catalog.add(service, problems);
    }
    catalog
}

fn of_service(
    service: &Object<core::Service>,
    slices: &[&Object<EndpointSlice>],
    instances: &Instances,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Option<Listed> {
    let place = &service.place;
    let none = core::ServiceSpec::default();
    let spec = service.body.spec.as_ref().unwrap_or(&none);
    if spec.type_.as_deref() == Some("ExternalName") {
        let reason = "type ExternalName is not supported yet; the service is left out";
        problems.push(place.warning("spec.type", reason));
        return None;
    }
    report_unsupported(service, spec, problems);
    let local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let path = format!("spec.ports.{index}");
        let transport = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            other => {
                let reason = format!("protocol {other} is not supported; the port is left out");
                problems.push(place.warning(&path, reason));
                continue;
            }
        };
        let Some(number) = u16::try_from(port.port).ok().filter(|number| *number > 0) else {
            problems.push(place.error(&path, format!("{} is not a port number", port.port)));
            continue;
        };
        let mut listed = Port::new(port.name.clone().unwrap_or_default(), number, transport);
        listed.hint = hint(number, transport, &listed.name, port.app_protocol.as_deref());
        let mut behind = of_port(service, spec, port, number, slices, instances, problems);
        if let (true, Some(node)) = (local, &options.node) {
            behind.iter_mut().for_each(|b| b.serves &= b.endpoint.node.as_deref() == Some(node));
        }
        listed.backings = Backings::of(behind, place, number, problems);
        ports.push(listed);
    }
    let (namespace, name) = (&service.namespace, &service.name);
    Some(Listed {
        place: place.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        kubernetes: true,
        hosts: vec![
            format!("{name}.{namespace}.svc.cluster.local"),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}"),
        ],
        full_hosts: 1,
        addresses: cluster_ips(service, spec, problems),
        ports,
    })
}

fn report_unsupported(
    service: &Object<core::Service>,
    spec: &core::ServiceSpec,
    problems: &mut Vec<Problem>,
) {
    let mut warn = |path: &str, what: &str| {
        let reason = format!("{what} is not supported yet; endpoints are drawn by weight alone");
        problems.push(service.place.warning(path, reason));
    };
    if spec.session_affinity.as_deref().is_some_and(|affinity| affinity != "None") {
        warn("spec.sessionAffinity", "sessionAffinity");
    }
    if spec.traffic_distribution.is_some() {
        warn("spec.trafficDistribution", "trafficDistribution");
    }
    let visibility = service.annotations.get("networking.istio.io/exportTo");
    if visibility.is_some_and(|to| to != "*") {
        let reason = "networking.istio.io/exportTo is not supported yet; every namespace sees it";
        problems.push(service.place.warning("metadata.annotations", reason));
    }
}

fn cluster_ips(
    service: &Object<core::Service>,
    spec: &core::ServiceSpec,
    problems: &mut Vec<Problem>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let listed = spec.cluster_ips.iter().flatten();
    for text in spec.cluster_ip.iter().chain(listed).filter(|t| !t.is_empty() && *t != "None") {
        match text.parse::<IpAddr>() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) => {
                let reason = format!("`{text}` is not an IP address; it is ignored");
                problems.push(service.place.error("spec.clusterIP", reason));
            }
        }
    }
    addresses
}

fn of_port(
    service: &Object<core::Service>,
    spec: &core::ServiceSpec,
    port: &core::ServicePort,
    number: u16,
    slices: &[&Object<EndpointSlice>],
    instances: &Instances,
    problems: &mut Vec<Problem>,
) -> Vec<Backing> {
    let unready = spec.publish_not_ready_addresses == Some(true);
    let mut backings = Vec::new();
    for slice in slices {
        of_slice(slice, port, number, unready, instances, &mut backings, problems);
    }
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return backings;
    };
    let chosen = instances.selected(&service.namespace, selector).filter(|instance| {
        // Slices are the truth about pods; WorkloadEntries are never in them.
        slices.is_empty() || instance.kind == InstanceKind::WorkloadEntry
    });
    for instance in chosen {
        if let Some(target) = target_port(port, number, instance) {
            let offered = instance.addresses.iter().map(|a| {
                let backing = Backing::of(instance, *a, target);
                Backing { serves: instance.ready || unready, ..backing }
            });
            backings.extend(offered);
        }
    }
    backings
}

/// Where an instance listens for a service port; `None`: it has no port of that name.
fn target_port(port: &core::ServicePort, number: u16, instance: &Instance) -> Option<u16> {
    let named = |name: &str| instance.port(name, None);
    // A WorkloadEntry names its ports after those of the service.
    let own = (instance.kind == InstanceKind::WorkloadEntry)
        .then(|| port.name.as_deref().and_then(named))
        .flatten();
    own.or_else(|| match &port.target_port {
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
        Some(IntOrString::String(name)) => named(name).or_else(|| name.parse().ok()),
        None => Some(number),
    })
}

fn of_slice(
    slice: &Object<EndpointSlice>,
    port: &core::ServicePort,
    number: u16,
    unready: bool,
    instances: &Instances,
    backings: &mut Vec<Backing>,
    problems: &mut Vec<Problem>,
) {
    let body = &slice.body;
    let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".to_owned());
    let Some(target) = body.ports.iter().flatten().find(|p| {
        p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
            && protocol(&p.protocol) == protocol(&port.protocol)
    }) else {
        return;
    };
    // No number means every port: the service's own is the one that is asked for.
    let target = target.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(number);
    for (index, endpoint) in body.endpoints.iter().enumerate() {
        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false);
        let pod = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| Some((target, target.name.as_deref()?)));
        for text in &endpoint.addresses {
            let Ok(address) = text.parse::<IpAddr>() else {
                let path = format!("endpoints.{index}.addresses");
                let reason = format!("`{text}` is not an IP address; it is ignored");
                problems.push(slice.place.error(&path, reason));
                continue;
            };
            let known = pod
                .and_then(|(target, name)| {
                    let namespace = target.namespace.as_deref().unwrap_or(&slice.namespace);
                    instances.pod(namespace, name)
                })
                .or_else(|| instances.at(address));
            let workload = pod.map(|(_, name)| name).or(known.map(|i| i.name.as_str()));
            backings.push(Backing {
                endpoint: beeway_model::Endpoint {
                    address: (address, target).into(),
                    weight: 1,
                    workload: workload.map_or_else(|| address.to_string(), str::to_owned),
                    node: endpoint.node_name.clone().or_else(|| known?.node.clone()),
                },
                workload: known.map(|instance| instance.workload.clone()),
                serves: ready || unready,
            });
        }
    }
}

/// What a port speaks, by `appProtocol` or else by the prefix of its name, as Istio reads them.
/// `None`: neither says anything. (Istio would then look at the traffic; Beeway does not.)
pub(crate) fn hint(
    number: u16,
    transport: Transport,
    name: &str,
    app_protocol: Option<&str>,
) -> Option<Protocol> {
    if transport == Transport::Udp {
        return Some(Protocol::Opaque);
    }
    let said = app_protocol.unwrap_or(name).to_ascii_lowercase();
    match said.as_str() {
        "kubernetes.io/h2c" => return Some(Protocol::Http2),
        // A WebSocket begins as an HTTP/1.1 request.
        "kubernetes.io/ws" => return Some(Protocol::Http),
        "kubernetes.io/wss" => return Some(Protocol::Tls),
        _ => {}
    }
    // gRPC-Web, unlike gRPC, may travel in HTTP/1.1.
    if said == "grpc-web" || said.starts_with("grpc-web-") {
        return Some(Protocol::Http);
    }
    match said.split('-').next().unwrap_or_default() {
        "http" | "http_proxy" => Some(Protocol::Http),
        "http2" | "grpc" => Some(Protocol::Http2),
        "https" | "tls" => Some(Protocol::Tls),
        "kafka" => Some(Protocol::Kafka),
        "tcp" | "udp" | "mongo" | "mysql" | "redis" | "hbone" => Some(Protocol::Opaque),
        // Servers that speak first: Istio never takes these for HTTP.
        _ if matches!(number, 25 | 587 | 3306 | 27017) => Some(Protocol::Opaque),
        _ => None,
    }
}
