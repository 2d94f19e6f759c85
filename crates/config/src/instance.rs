//! What can stand behind a service: Pods, WorkloadEntries and the inline endpoints of a
//! ServiceEntry, seen alike.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use beeway_model::access::{LabelSelector, LabelTest};
use beeway_model::{Transport, Workload};
use k8s_openapi::api::core::v1 as core;

use crate::istio;
use crate::objects::{Object, Objects, Place};
use crate::problem::Problem;

/// Something with addresses that can serve.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub namespace: String,
    pub name: String,
    pub kind: InstanceKind,
    pub labels: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    /// The addresses are its own, not its node's.
    pub own_addresses: bool,
    pub ready: bool,
    pub service_account: String,
    pub node: Option<String>,
    pub ports: Vec<InstancePort>,
    pub weight: u32,
}

/// A port that an instance says it has.
#[derive(Debug, Clone)]
pub(crate) struct InstancePort {
    /// Empty: none.
    pub name: String,
    pub number: u16,
    /// `None`: of any.
    pub transport: Option<Transport>,
}

/// Where an [`Instance`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceKind {
    Pod,
    WorkloadEntry,
}

/// Every instance, in order of namespace and name, and how to find one.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    pub list: Vec<Instance>,
    by_address: HashMap<IpAddr, usize>,
    pods: HashMap<(String, String), usize>,
    /// By namespace and one label, or none (two empty texts), in order.
    by_label: HashMap<(String, String, String), Vec<usize>>,
}

impl Instance {
    /// The number of the port of a name (`transport` `None`: of any).
    pub(crate) fn port(&self, name: &str, transport: Option<Transport>) -> Option<u16> {
        let alike = |port: &&InstancePort| {
            let any = transport.is_none() || port.transport.is_none();
            port.name == name && !name.is_empty() && (any || port.transport == transport)
        };
        self.ports.iter().find(alike).map(|port| port.number)
    }
}

impl Instances {
    /// The instances of a configuration. Finished pods are none: their addresses are free again.
    pub(crate) fn of(objects: &Objects, problems: &mut Vec<Problem>) -> Self {
        let pods = objects.pods.iter().filter_map(|pod| of_pod(pod, problems));
        let mut list: Vec<(Instance, &Place)> = pods.collect();
        for entry in &objects.workload_entries {
            let (place, namespace, name) = (&entry.place, &entry.namespace, &entry.name);
            let read = of_entry(&entry.body, place, "spec", namespace, name, problems);
            list.extend(read.map(|mut instance| {
                // As Istio: labels of the metadata count, and win.
                instance.labels.extend(entry.labels.clone());
                (instance, place)
            }));
        }
        list.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut instances = Self::default();
        for (instance, place) in list {
            let index = instances.list.len();
            for address in instance.addresses.iter().filter(|_| instance.own_addresses) {
                if let Some(first) = instances.by_address.get(address) {
                    let first = &instances.list[*first];
                    let reason = format!(
                        "address {address} is also that of {}/{}, which stands",
                        first.namespace, first.name
                    );
                    problems.push(place.warning("", reason));
                } else {
                    instances.by_address.insert(*address, index);
                }
            }
            if instance.kind == InstanceKind::Pod {
                let key = (instance.namespace.clone(), instance.name.clone());
                instances.pods.insert(key, index);
            }
            let none = (&String::new(), &String::new());
            for (key, value) in instance.labels.iter().chain([none]) {
                let label = (instance.namespace.clone(), key.clone(), value.clone());
                instances.by_label.entry(label).or_default().push(index);
            }
            instances.list.push(instance);
        }
        instances
    }

    /// The instances of a namespace that a selector selects, in order. An empty one selects all.
    pub(crate) fn selected(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &Instance> {
        let having = |(key, value): (&String, &String)| {
            let label = (namespace.to_owned(), key.clone(), value.clone());
            self.by_label.get(&label).map_or(&[][..], Vec::as_slice)
        };
        let fewest = selector.iter().map(having).min_by_key(|having| having.len());
        let fewest = fewest.unwrap_or_else(|| having((&String::new(), &String::new())));
        let candidates = fewest.iter().map(|index| &self.list[*index]);
        candidates.filter(|instance| selects(selector, &instance.labels))
    }

    /// The instances of these namespaces (`None`: of all) with labels, in order within each.
    pub(crate) fn matching<'a>(
        &'a self,
        namespaces: Option<&'a [String]>,
        labels: &'a LabelSelector,
    ) -> impl Iterator<Item = &'a Instance> {
        let label = labels.0.iter().find_map(|(key, test)| match test {
            LabelTest::In(values) if values.len() == 1 => Some((key, &values[0])),
            _ => None,
        });
        let none = String::new();
        let (key, value) = label.unwrap_or((&none, &none));
        let of = |namespace: &String| {
            let label = (namespace.clone(), key.clone(), value.clone());
            self.by_label.get(&label).map_or(&[][..], Vec::as_slice)
        };
        let some = namespaces.map(|list| list.iter().flat_map(of).copied().collect::<Vec<_>>());
        let all = if namespaces.is_none() { 0..self.list.len() } else { 0..0 };
        let candidates = some.into_iter().flatten().chain(all).map(|index| &self.list[index]);
        candidates.filter(|instance| labels.holds(&instance.labels))
    }

    /// The instance that owns an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Instance> {
        self.by_address.get(&address).map(|index| &self.list[*index])
    }

    /// The pod of this name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Instance> {
        let index = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(&self.list[*index])
    }

    /// The model's view of them.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let addresses = |(index, instance): (usize, &Instance)| {
            let owned = |a: &&IpAddr| self.by_address.get(*a) == Some(&index);
            instance.addresses.iter().filter(owned).copied().collect()
        };
        self.list
            .iter()
            .enumerate()
            .map(|(index, instance)| Workload {
                namespace: instance.namespace.clone(),
                name: instance.name.clone(),
                labels: instance.labels.clone(),
                addresses: addresses((index, instance)),
                service_account: instance.service_account.clone(),
                node: instance.node.clone(),
            })
            .collect()
    }
}

/// Whether every label that a selector names is there with that value.
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn of_pod<'a>(
    pod: &'a Object<core::Pod>,
    problems: &mut Vec<Problem>,
) -> Option<(Instance, &'a Place)> {
    let status = pod.body.status.clone().unwrap_or_default();
    let spec = pod.body.spec.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let texts: Vec<&str> = status.pod_ip.as_deref().into_iter().chain(listed).collect();
    let mut addresses = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) => {
                let reason = format!("`{text}` is not an IP address; it is ignored");
                problems.push(pod.place.error("status", reason));
            }
        }
    }
    // A hand-written pod without conditions is ready; one that says so decides for itself.
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    let ready = condition.is_none_or(|c| c.status == "True") && !pod.deleted;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let transport = match port.protocol.as_deref().unwrap_or("TCP") {
                "TCP" => Transport::Tcp,
                "UDP" => Transport::Udp,
                _ => return None,
            };
            let number = u16::try_from(port.container_port).ok()?;
            let name = port.name.clone().unwrap_or_default();
            Some(InstancePort { name, number, transport: Some(transport) })
        })
        .collect();
    let instance = Instance {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        kind: InstanceKind::Pod,
        labels: pod.labels.clone(),
        addresses,
        own_addresses: spec.host_network != Some(true),
        ready,
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        node: spec.node_name.filter(|name| !name.is_empty()),
        ports,
        weight: 1,
    };
    Some((instance, &pod.place))
}

/// A WorkloadEntry, or an inline endpoint of a ServiceEntry, at `path` of its object.
pub(crate) fn of_entry(
    entry: &istio::WorkloadEntry,
    place: &Place,
    path: &str,
    namespace: &str,
    name: &str,
    problems: &mut Vec<Problem>,
) -> Option<Instance> {
    let Ok(address) = entry.address.parse::<IpAddr>() else {
        let reason = format!(
            "`{}` is not an IP address: names are not looked up yet; the endpoint is left out",
            entry.address
        );
        problems.push(place.warning(&format!("{path}.address"), reason));
        return None;
    };
    Some(Instance {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        kind: InstanceKind::WorkloadEntry,
        labels: entry.labels.clone(),
        addresses: vec![address],
        own_addresses: true,
        ready: true,
        service_account: entry.service_account.clone().unwrap_or_else(|| "default".to_owned()),
        node: None,
        ports: entry
            .ports
            .iter()
            .map(|(name, number)| InstancePort {
                name: name.clone(),
                number: *number,
                transport: None,
            })
            .collect(),
        // 0 and absent alike mean 1, as in Istio.
        weight: entry.weight.unwrap_or(1).max(1),
    })
}
