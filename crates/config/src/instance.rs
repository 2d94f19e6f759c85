//! What can stand behind a service: Pods, WorkloadEntries and the inline endpoints of a
//! ServiceEntry, seen alike.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::{Deref, Range};
use std::sync::Arc;

use beeway_model::access::{LabelSelector, LabelTest};
use beeway_model::{Transport, Workload};
use k8s_openapi::api::core::v1 as core;
use rustc_hash::FxHashMap;

use crate::home::{self, Home};
use crate::istio;
use crate::item::Written;
use crate::objects::{Objects, Place};
use crate::problem::Problem;

/// Something with addresses that can serve.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// What the model says of it, if nobody else has its addresses. Shared with the mesh.
    pub workload: Arc<Workload>,
    pub kind: InstanceKind,
    /// Where it can be reached: also its node's, when it is in that network namespace.
    pub addresses: Vec<IpAddr>,
    /// The addresses are its own, not its node's.
    pub own_addresses: bool,
    pub ready: bool,
    pub ports: Vec<InstancePort>,
    pub weight: u32,
}

impl Deref for Instance {
    type Target = Workload;

    fn deref(&self) -> &Workload {
        &self.workload
    }
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
    by_address: FxHashMap<IpAddr, Arc<Instance>>,
    /// An address is several instances': the first one's.
    contested: bool,
    /// Addresses that may have another owner than before; `None`: any may.
    moved: Option<Vec<IpAddr>>,
    /// Made when they are first asked for, by where the namespace begins.
    by_label: RefCell<FxHashMap<usize, FxHashMap<String, ByValue>>>,
}

/// The instances of a namespace that have a label, by its value, in order.
type ByValue = FxHashMap<String, Arc<[usize]>>;

impl Instance {
    /// Addresses that are to be its own alone.
    fn claimed(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(|_| self.own_addresses)
    }

    /// The number of the port of a name (`transport` `None`: of any).
    pub(crate) fn port(&self, name: &str, transport: Option<Transport>) -> Option<u16> {
        let alike = |port: &&InstancePort| {
            let any = transport.is_none() || port.transport.is_none();
            port.name == name && !name.is_empty() && (any || port.transport == transport)
        };
        self.ports.iter().find(alike).map(|port| port.number)
    }
}

/// Addresses of no more instances than these are looked for one by one.
const FEW: usize = 8;

/// Instances and where they are from, in order of namespace and name.
type Listed<'a> = Vec<(Cow<'a, Arc<Instance>>, &'a Place)>;

impl Instances {
    /// Becomes the instances of a configuration. Finished pods are none: their addresses are free
    /// again.
    pub(crate) fn follow(&mut self, objects: &Objects, problems: &mut Vec<Problem>) {
        self.by_label.get_mut().clear();
        let listed = Self::listed(objects, problems);
        if !self.change(&listed) {
            self.begin(&listed, problems);
        }
    }

    /// Whether an address has the owner that it had before.
    pub(crate) fn has_stayed(&self, address: IpAddr) -> bool {
        self.moved.as_ref().is_some_and(|moved| !moved.contains(&address))
    }

    fn listed<'a>(objects: &'a Objects, problems: &mut Vec<Problem>) -> Listed<'a> {
        let pods = objects.pods.iter();
        let pods = pods.filter_map(|pod| Some((Cow::Borrowed(pod.body.as_ref()?), &pod.place)));
        let mut list: Listed<'_> = pods.collect();
        for entry in &objects.workload_entries {
            let (place, namespace, name) = (&entry.place, &entry.namespace, &entry.name);
            let read = of_entry(&entry.body, place, "spec", namespace, name, problems);
            list.extend(read.map(|mut instance| {
                let workload = Arc::make_mut(&mut instance.workload);
                // As Istio: labels of the metadata count, and win.
                workload.labels.extend(entry.labels.clone());
                workload.cgroup = Home::of(entry, problems).cgroup;
                (Cow::Owned(Arc::new(instance)), place)
            }));
        }
        if !objects.workload_entries.is_empty() {
            list.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        }
        list
    }

    /// Exchanges those that are not the same as before. False, and nothing to rely on, when it
    /// matters to an address who comes first.
    fn change(&mut self, listed: &Listed<'_>) -> bool {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let mut list = Vec::with_capacity(listed.len());
        let mut before = std::mem::take(&mut self.list).into_iter().peekable();
        for (instance, _) in listed {
            let is_it = |before: &Arc<Instance>| Arc::ptr_eq(before, instance);
            let goes = |before: &Arc<Instance>| {
                // names are far away: they are looked at only where something has changed
                !is_it(before)
                    && (&before.namespace, &before.name) <= (&instance.namespace, &instance.name)
            };
            gone.extend(std::iter::from_fn(|| before.next_if(goes)));
            list.push(before.next_if(is_it).unwrap_or_else(|| {
                come.push(Arc::clone(instance));
                Arc::clone(instance)
            }));
        }
        gone.extend(before);
        self.list = list;
        let moved = gone.iter().chain(&come).flat_map(|instance| instance.claimed());
        self.moved = (gone.len() + come.len() <= FEW).then(|| moved.collect());
        !self.contested
            && gone.iter().all(|instance| {
                let mut own = instance.claimed();
                own.all(|address| self.by_address.remove(&address).is_some())
            })
            && come.iter().all(|instance| {
                let mut own = instance.claimed();
                own.all(|address| self.by_address.insert(address, instance.clone()).is_none())
            })
    }

    /// Becomes these instances, whatever was before.
    fn begin(&mut self, listed: &Listed<'_>, problems: &mut Vec<Problem>) {
        *self = Self::default();
        self.by_address.reserve(listed.len());
        for (instance, place) in listed {
            for address in instance.claimed() {
                let first = self.by_address.entry(address).or_insert_with(|| Arc::clone(instance));
                if !Arc::ptr_eq(first, instance) {
                    self.contested = true;
                    let reason = format!(
                        "address {address} is also that of {}/{}, which stands",
                        first.namespace, first.name
                    );
                    problems.push(place.warning("", reason));
                }
            }
        }
        self.list = listed.iter().map(|(instance, _)| Arc::clone(instance)).collect();
    }

    /// The instances of a namespace that a selector selects, in order. An empty one selects all.
    pub(crate) fn selected<'a>(
        &'a self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Instance>> {
        let having = selector.iter().map(|(key, value)| self.having(namespace, key, value));
        let fewest = having.min_by_key(|having| having.len());
        let candidates = fewest.unwrap_or_else(|| self.within(namespace).collect());
        let candidates = (0..candidates.len()).map(move |at| &self.list[candidates[at]]);
        candidates.filter(|instance| selects(selector, &instance.labels))
    }

    /// Where the instances of a namespace are in the list.
    pub(crate) fn within(&self, namespace: &str) -> Range<usize> {
        let first = self.list.partition_point(|instance| *instance.namespace < *namespace);
        let count = self.list[first..].partition_point(|instance| instance.namespace == namespace);
        first..first + count
    }

    /// Where those of a namespace are, if they are the same as before, and there.
    pub(crate) fn again(&self, first: usize, same: &[Arc<Instance>]) -> Option<Range<usize>> {
        let namespace = &same.first()?.namespace;
        let within = first..first + same.len();
        let is_other = |other: &Arc<Instance>| other.namespace != *namespace;
        let here = self.list.get(within.clone())?;
        let alone = self.list[..first].last().is_none_or(is_other)
            && self.list.get(within.end).is_none_or(is_other);
        let mut pairs = here.iter().zip(same);
        (alone && pairs.all(|(a, b)| Arc::ptr_eq(a, b))).then_some(within)
    }

    /// The instances of a namespace with a label.
    fn having(&self, namespace: &str, key: &str, value: &str) -> Arc<[usize]> {
        let within = self.within(namespace);
        let mut known = self.by_label.borrow_mut();
        let known = known.entry(within.start).or_default();
        if !known.contains_key(key) {
            known.insert(key.to_owned(), self.by_value(within, key));
        }
        known[key].get(value).cloned().unwrap_or_default()
    }

    fn by_value(&self, within: Range<usize>, key: &str) -> ByValue {
        let mut found: FxHashMap<&str, Vec<usize>> = FxHashMap::default();
        for index in within {
            if let Some(value) = self.list[index].labels.get(key) {
                found.entry(value).or_default().push(index);
            }
        }
        found.into_iter().map(|(value, list)| (value.to_owned(), list.into())).collect()
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
        let of = move |namespace: &'a String| match label {
            Some((key, value)) => self.having(namespace, key, value),
            None => self.within(namespace).collect(),
        };
        let some = namespaces.unwrap_or_default().iter().map(of);
        let some = some.flat_map(|list| (0..list.len()).map(move |at| list[at]));
        let all = if namespaces.is_none() { 0..self.list.len() } else { 0..0 };
        let candidates = some.chain(all).map(|index| &*self.list[index]);
        candidates.filter(|instance| labels.holds(&instance.labels))
    }

    /// The instance that owns an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Arc<Instance>> {
        self.by_address.get(&address)
    }

    /// The pod of this name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Instance>> {
        let by_name = |i: &Arc<Instance>| (&*i.namespace, &*i.name).cmp(&(namespace, name));
        let first = self.list.partition_point(|instance| by_name(instance).is_lt());
        let mut same = self.list[first..].iter().take_while(|instance| by_name(instance).is_eq());
        same.find(|instance| instance.kind == InstanceKind::Pod)
    }

    /// The model's view of them, for a node.
    pub(crate) fn workloads(&self, node: Option<&str>) -> Vec<Arc<Workload>> {
        let workload = |instance: &Arc<Instance>| {
            let owned = |address: &IpAddr| {
                self.at(*address).is_some_and(|owner| Arc::ptr_eq(owner, instance))
            };
            let mut workload = instance.workload.clone();
            if self.contested && !workload.addresses.iter().all(owned) {
                Arc::make_mut(&mut workload).addresses.retain(owned);
            }
            workload
        };
        let mut workloads = self.list.iter().map(workload).collect::<Vec<_>>();
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
    let own_addresses = spec.host_network != Some(true);
    let home = Home::of_pod(pod, place, problems);
    let workload = Workload {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        addresses: if own_addresses { addresses.clone() } else { Vec::new() },
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        node: spec.node_name.filter(|name| !name.is_empty()),
        uid: home.uid,
        cgroup: home.cgroup,
    };
    let (workload, kind) = (Arc::new(workload), InstanceKind::Pod);
    Some(Instance { workload, kind, addresses, own_addresses, ready, ports, weight: 1 })
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
    let workload = Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: entry.labels.clone(),
        addresses: vec![address],
        service_account: entry.service_account.clone().unwrap_or_else(|| "default".to_owned()),
        node: None,
        uid: None,
        cgroup: None,
    };
    let port = |(name, number): (&String, &u16)| InstancePort {
        name: name.clone(),
        number: *number,
        transport: None,
    };
    Some(Instance {
        workload: Arc::new(workload),
        kind: InstanceKind::WorkloadEntry,
        addresses: vec![address],
        own_addresses: true,
        ready: true,
        ports: entry.ports.iter().map(port).collect(),
        // 0 and absent alike mean 1, as in Istio.
        weight: entry.weight.unwrap_or(1).max(1),
    })
}
