//! What can stand behind a service: Pods, WorkloadEntries and the inline endpoints of a
//! ServiceEntry, seen alike.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::access::{LabelSelector, LabelTest};
use beeway_model::{Transport, Workload};
use k8s_openapi::api::core::v1 as core;

use crate::home::{self, Home};
use crate::istio;
use crate::item::Written;
use crate::objects::{Objects, Place};
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
    pub home: Home,
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
    pub list: Vec<Arc<Instance>>,
    by_address: HashMap<IpAddr, usize>,
    /// By a hash of namespace and one label, or none (two empty texts), in order. Others may have
    /// the same hash.
    by_label: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
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
        let pods = objects.pods.iter();
        let pods = pods.filter_map(|pod| Some((pod.body.clone()?, &pod.place)));
        let mut list: Vec<(Arc<Instance>, &Place)> = pods.collect();
        for entry in &objects.workload_entries {
            let (place, namespace, name) = (&entry.place, &entry.namespace, &entry.name);
            let read = of_entry(&entry.body, place, "spec", namespace, name, problems);
            list.extend(read.map(|mut instance| {
                // As Istio: labels of the metadata count, and win.
                instance.labels.extend(entry.labels.clone());
                instance.home = Home::of(entry, problems);
                (Arc::new(instance), place)
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
            let labels = instance.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            for (key, value) in labels.chain([("", "")]) {
                let hash = instances.hasher.hash_one((&*instance.namespace, key, value));
                instances.by_label.entry(hash).or_default().push(index);
            }
            instances.list.push(instance);
        }
        instances
    }

    /// The instances of a namespace that a selector selects, in order. An empty one selects all.
    pub(crate) fn selected<'a>(
        &'a self,
        namespace: &'a str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Instance> {
        let having = |(key, value): (&String, &String)| self.having(namespace, key, value);
        let fewest = selector.iter().map(having).min_by_key(|having| having.len());
        let fewest = fewest.unwrap_or_else(|| self.having(namespace, "", ""));
        let candidates = fewest.iter().map(|index| &*self.list[*index]);
        candidates.filter(move |instance| {
            instance.namespace == namespace && selects(selector, &instance.labels)
        })
    }

    /// The instances of a namespace with a label, or with any (two empty texts), and perhaps others.
    fn having(&self, namespace: &str, key: &str, value: &str) -> &[usize] {
        let hash = self.hasher.hash_one((namespace, key, value));
        self.by_label.get(&hash).map_or(&[], Vec::as_slice)
    }

    /// The instances of these namespaces (`None`: of all) with labels, in order within each.
    pub(crate) fn matching<'a>(
        &'a self,
        namespaces: Option<&'a [String]>,
        labels: &'a LabelSelector,
    ) -> impl Iterator<Item = &'a Instance> {
        let label = labels.0.iter().find_map(|(key, test)| match test {
            LabelTest::In(values) if values.len() == 1 => Some((key.as_str(), values[0].as_str())),
            _ => None,
        });
        let (key, value) = label.unwrap_or(("", ""));
        let of = move |namespace: &'a String| {
            let having = self.having(namespace, key, value).iter().map(|index| &*self.list[*index]);
            having.filter(move |instance| instance.namespace == *namespace)
        };
        let some = namespaces.unwrap_or_default().iter().flat_map(of);
        let all = if namespaces.is_none() { &self.list[..] } else { &[] };
        let candidates = some.chain(all.iter().map(|instance| &**instance));
        candidates.filter(|instance| labels.holds(&instance.labels))
    }

    /// The instance that owns an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Instance> {
        self.by_address.get(&address).map(|index| &*self.list[*index])
    }

    /// The pod of this name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Instance> {
        let by_name = |i: &Arc<Instance>| (&*i.namespace, &*i.name).cmp(&(namespace, name));
        let first = self.list.partition_point(|instance| by_name(instance).is_lt());
        let mut same = self.list[first..].iter().take_while(|instance| by_name(instance).is_eq());
        same.find(|instance| instance.kind == InstanceKind::Pod).map(|instance| &**instance)
    }

    /// The model's view of them, for a node.
    pub(crate) fn workloads(&self, node: Option<&str>) -> Vec<Workload> {
        let addresses = |(index, instance): (usize, &Arc<Instance>)| {
            let owned = |a: &&IpAddr| self.by_address.get(*a) == Some(&index);
            instance.addresses.iter().filter(owned).copied().collect()
        };
        let mut workloads: Vec<Workload> = self
            .list
            .iter()
            .enumerate()
            .map(|(index, instance)| Workload {
                namespace: instance.namespace.clone(),
                name: instance.name.clone(),
                labels: instance.labels.clone(),
                addresses: addresses((index, instance)),
                service_account: instance.service_account.clone(),
                node: instance.node.clone(),
                uid: instance.home.uid.clone(),
                cgroup: instance.home.cgroup.clone(),
            })
            .collect();
        home::make_up_addresses(&mut workloads, node);
        workloads
    }
}

/// Whether every label that a selector names is there with that value.
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What a pod is; `None`: it has finished.
pub(crate) fn of_pod(
    pod: &Written<core::Pod>,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Instance> {
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
                problems.push(place.error("status", reason));
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
    Some(Instance {
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
        home: Home::of_pod(pod, place, problems),
    })
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
        home: Home::default(),
    })
}
