//! By what a workload's processes are known on its node: the UID in the names of its cgroups, or a
//! cgroup that an annotation names. And an address for workloads that have none of their own.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use beeway_model::Workload;
use sha2::{Digest, Sha256};

use crate::item::{Object, Place, Written};
use crate::problem::Problem;

/// Path of a cgroup, relative to that of the mesh, in which the workload's processes run.
pub(crate) const CGROUP: &str = "beeway.io/cgroup";
/// The kubelet names the cgroups of a static pod by this, and not by the UID that the API server
/// gave to its mirror (`pkg/kubelet/types`).
const STATIC_HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is known of the cgroups of a workload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Home {
    pub uid: Option<String>,
    pub cgroup: Option<String>,
}

impl Home {
    /// Of a pod.
    pub(crate) fn of_pod<T>(pod: &Written<T>, place: &Place, problems: &mut Vec<Problem>) -> Home {
        let hash = pod.annotations.get(STATIC_HASH);
        let uid = hash.filter(|_| pod.annotations.contains_key(MIRROR)).unwrap_or(&pod.uid);
        let uid = Some(uid.clone()).filter(|uid| !uid.is_empty());
        Home { uid, cgroup: cgroup(pod, place, problems) }
    }

    /// Of something that no kubelet runs.
    pub(crate) fn of<T>(object: &Object<T>, problems: &mut Vec<Problem>) -> Home {
        Home { uid: None, cgroup: cgroup(object, &object.place, problems) }
    }
}

fn cgroup<T>(written: &Written<T>, place: &Place, problems: &mut Vec<Problem>) -> Option<String> {
    let text = written.annotations.get(CGROUP)?;
    let path = text.trim_matches('/');
    if path.is_empty() || path.split('/').any(|step| matches!(step, "" | "." | "..")) {
        let reason = format!("{CGROUP}: `{text}` is not a path below the cgroup of the mesh");
        problems.push(place.error("metadata.annotations", reason));
        return None;
    }
    Some(path.to_owned())
}

/// Appends an address of `100::/64` (RFC 6666) to those of each workload whose processes may be on
/// this node and are known by their cgroup: it may be in its node's network namespace, or its own
/// address may not be known yet. It is made of a hash of its names, and so stays the same.
pub(crate) fn make_up_addresses(workloads: &mut [Arc<Workload>], node: Option<&str>) {
    let mut taken = HashSet::new();
    // a name that the configuration does not know is no node's
    let node = node.filter(|own| workloads.iter().any(|w| w.node.as_deref() == Some(own)));
    for workload in workloads {
        let elsewhere =
            node.is_some() && workload.node.is_some() && workload.node.as_deref() != node;
        if elsewhere || (workload.uid.is_none() && workload.cgroup.is_none()) {
            continue;
        }
        let names = format!("{}/{}", workload.namespace, workload.name);
        let address = (0u32..).map(|n| made_up(&names, n)).find(|address| taken.insert(*address));
        Arc::make_mut(workload).addresses.extend(address);
    }
}

fn made_up(names: &str, n: u32) -> IpAddr {
    let hash = Sha256::new().chain_update(names).chain_update(n.to_be_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[1, 0]);
    bytes[8..].copy_from_slice(&hash[..8]);
    IpAddr::V6(Ipv6Addr::from(bytes))
}
