//! ServiceEntries → the catalog.

use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::Transport;

use crate::catalog::{Backing, Backings, Listed, Port};
use crate::instance::{Instance, Instances, of_entry};
use crate::istio;
use crate::objects::Object;
use crate::problem::Problem;
use crate::services::hint;

/// What a ServiceEntry adds to the catalog.
pub(crate) fn listed(
    entry: &Object<istio::ServiceEntry>,
    instances: &Instances,
    problems: &mut Vec<Problem>,
) -> Option<Listed> {
    let (place, spec) = (&entry.place, &entry.body);
    report_unsupported(entry, problems);
    let hosts = hosts(entry, problems);
    if hosts.is_empty() {
        problems.push(place.error("spec.hosts", "no host that can be used; it is not applied"));
        return None;
    }
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    let chosen = match resolution {
        "NONE" => {
            if !spec.endpoints.is_empty() {
                let reason = "resolution NONE takes no endpoints (Istio refuses them); ignored";
                problems.push(place.error("spec.endpoints", reason));
            }
            Vec::new()
        }
        "STATIC" | "DNS" | "DNS_ROUND_ROBIN" => backing(entry, instances, problems),
        other => {
            let reason = format!("resolution {other} is not supported yet");
            problems.push(place.warning("spec.resolution", reason));
            Vec::new()
        }
    };
    // Without endpoints of its own, traffic goes where the client sends it, so no address is
    // taken over. An empty STATIC entry, in contrast, answers 503.
    let taken = resolution == "STATIC" || chosen.iter().any(|instance| instance.ready);
    if !taken {
        let reason =
            format!("resolution {resolution}: traffic goes to the address that the client chose");
        problems.push(place.notice("spec.resolution", reason));
    }
    let ports = spec.ports.iter().map(|port| {
        let udp = port.protocol.eq_ignore_ascii_case("udp");
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let mut listed = Port::new(port.name.clone(), port.number, transport);
        listed.hint = hint(port.number, transport, &port.name, Some(&port.protocol));
        let behind = chosen.iter().flat_map(|i| backings(i, port)).collect();
        listed.backings = Backings::of(behind, place, port.number, problems);
        listed
    });
    let ports = ports.collect();
    Some(Listed {
        place: place.clone(),
        namespace: entry.namespace.clone(),
        name: entry.name.clone(),
        kubernetes: false,
        full_hosts: hosts.len(),
        hosts,
        addresses: if taken { addresses(entry, problems) } else { Vec::new() },
        ports,
    })
}

fn backings(instance: &Instance, port: &istio::EntryPort) -> Vec<Backing> {
    let named = instance.port(&port.name, None);
    let target = named.or(port.target_port).unwrap_or(port.number);
    instance.addresses.iter().map(|address| Backing::of(instance, *address, target)).collect()
}

/// The instances behind it: its own endpoints, or those that its selector chooses.
fn backing(
    entry: &Object<istio::ServiceEntry>,
    instances: &Instances,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Instance>> {
    let (place, spec) = (&entry.place, &entry.body);
    if let Some(selector) = &spec.workload_selector {
        if !spec.endpoints.is_empty() {
            let reason = "endpoints and workloadSelector exclude each other; the selector stands";
            problems.push(place.error("spec.endpoints", reason));
        }
        let chosen = instances.selected(&entry.namespace, &selector.labels);
        return chosen.cloned().collect();
    }
    let inline = spec.endpoints.iter().enumerate().filter_map(|(index, endpoint)| {
        let path = format!("spec.endpoints.{index}");
        let name = format!("{}-{index}", entry.name);
        of_entry(endpoint, place, &path, &entry.namespace, &name, problems).map(Arc::new)
    });
    let inline: Vec<Arc<Instance>> = inline.collect();
    let dns = spec.resolution.as_deref().is_some_and(|r| r.starts_with("DNS"));
    if dns && inline.is_empty() {
        let reason = "names are not looked up yet: resolution DNS needs endpoints with addresses";
        problems.push(place.warning("spec.resolution", reason));
    }
    inline
}

fn hosts(entry: &Object<istio::ServiceEntry>, problems: &mut Vec<Problem>) -> Vec<String> {
    let mut hosts = Vec::new();
    for (index, host) in entry.body.hosts.iter().enumerate() {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host.contains('*') || host.is_empty() {
            let path = format!("spec.hosts.{index}");
            let reason = format!("host `{host}`: wildcards are not supported yet; left out");
            problems.push(entry.place.warning(&path, reason));
        } else if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn addresses(entry: &Object<istio::ServiceEntry>, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in entry.body.addresses.iter().enumerate() {
        let alone = text.strip_suffix("/32").filter(|a| !a.contains(':'));
        let alone = alone.or_else(|| text.strip_suffix("/128")).unwrap_or(text);
        match alone.parse::<IpAddr>() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) => {
                let path = format!("spec.addresses.{index}");
                let reason = format!("`{text}`: only single addresses are supported yet; left out");
                problems.push(entry.place.warning(&path, reason));
            }
        }
    }
    addresses
}

fn report_unsupported(entry: &Object<istio::ServiceEntry>, problems: &mut Vec<Problem>) {
    let spec = &entry.body;
    if spec.export_to.iter().any(|to| to != "*") {
        let reason = "exportTo of a ServiceEntry is not supported yet; every namespace sees it";
        problems.push(entry.place.warning("spec.exportTo", reason));
    }
    if spec.subject_alt_names.is_some() {
        let reason = "subjectAltNames is not supported yet: the server's name is not checked";
        problems.push(entry.place.warning("spec.subjectAltNames", reason));
    }
}
