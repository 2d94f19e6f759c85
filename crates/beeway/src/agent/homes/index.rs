//! What the configuration says by which a workload can be recognised on this node.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use beeway_model::{Mesh, Workload, is_made_up};

/// Workloads that may be on this node, by what is seen of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_uid: HashMap<String, Arc<Workload>>,
    by_cgroup: HashMap<String, Arc<Workload>>,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    /// Addresses that no process of this node has.
    pub elsewhere: HashSet<IpAddr>,
}

impl Index {
    pub fn of(mesh: &Mesh, node: Option<&str>) -> Index {
        let mut index = Index::default();
        // a name that the configuration does not know is a mistake, or it is not Kubernetes'
        let node = node.filter(|own| {
            let runs_one = mesh.workloads.iter().any(|w| w.node.as_deref() == Some(own));
            runs_one || mesh.nodes.iter().any(|node| node.name == *own)
        });
        for workload in &mesh.workloads {
            let on_other = |own| workload.node.as_deref().is_some_and(|node| node != own);
            if node.is_some_and(on_other) {
                index.elsewhere.extend(&workload.addresses);
                continue;
            }
            if let Some(uid) = &workload.uid {
                index.by_uid.entry(uid.clone()).or_insert_with(|| workload.clone());
            }
            if let Some(path) = &workload.cgroup {
                index.by_cgroup.entry(path.clone()).or_insert_with(|| workload.clone());
            }
            for address in &workload.addresses {
                let address = address.to_canonical();
                index.by_address.entry(address).or_insert_with(|| workload.clone());
                // no interface has it, so whoever is not at home has forged it
                index.elsewhere.extend(is_made_up(address).then_some(address));
            }
        }
        let others = mesh.nodes.iter().filter(|other| node.is_some() && !other.local);
        index.elsewhere.extend(others.flat_map(|other| &other.addresses));
        index
    }

    /// The workload of a cgroup, by its path below that of the mesh alone: not by those around it.
    pub fn by_path(&self, path: &Path) -> Option<&Arc<Workload>> {
        let mut uids = uids(path.file_name()?.to_str()?);
        let by_uid = uids.find_map(|uid| self.by_uid.get(&uid));
        by_uid.or_else(|| self.by_cgroup.get(path.to_str()?))
    }

    /// The workload that owns an address.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address)
    }

    /// What a workload of this name is now.
    pub fn again(&self, before: &Workload) -> Option<&Arc<Workload>> {
        let same =
            |now: &&Arc<Workload>| (&now.namespace, &now.name) == (&before.namespace, &before.name);
        before.addresses.iter().find_map(|address| self.by_address(*address).filter(same))
    }
}

/// Whether it is by its path that a cgroup is a workload's.
pub(super) fn is_named(workload: &Workload, path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let cgroup = workload.cgroup.as_deref().is_some_and(|cgroup| Path::new(cgroup) == path);
    cgroup || uids(name).any(|uid| workload.uid.as_ref() == Some(&uid))
}

/// What may be the UID of a pod in the name that a kubelet gives to its cgroup: `podUID` by the
/// cgroupfs driver; `kubepods-burstable-podUID.slice`, with `_` for `-` in the UID, by systemd's.
fn uids(name: &str) -> impl Iterator<Item = String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let starts = |at: &usize| *at == 0 || name.as_bytes()[at - 1] == b'-';
    let places = name.match_indices("pod").map(|(at, _)| at).filter(starts);
    places.map(|at| name[at + "pod".len()..].replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, uid: Option<&str>, node: Option<&str>, address: &str) -> Arc<Workload> {
        Arc::new(Workload {
            namespace: "shop".into(),
            name: name.into(),
            labels: Default::default(),
            addresses: vec![address.parse().unwrap()],
            service_account: "default".into(),
            node: node.map(str::to_owned),
            uid: uid.map(str::to_owned),
            cgroup: (name == "vm").then(|| "system.slice/vm.service".to_owned()),
        })
    }

    #[test]
    fn a_cgroup_is_recognised_by_its_name() {
        let uid = "0f6a2d11-8f2d-4f2e-9a57-1d0f4b4a3c21";
        let mesh = Mesh {
            workloads: vec![
                workload("a", Some(uid), None, "10.0.0.1"),
                workload("static", Some("d3b07384d113edec49eaa6238ad5ff00"), None, "10.0.0.2"),
                workload("vm", None, None, "10.0.0.3"),
            ],
            ..Mesh::default()
        };
        let index = Index::of(&mesh, None);
        let systemd = format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"));
        let inside = format!("kubepods/pod{uid}/0123abcd");
        for (path, name) in [
            (&*format!("kubepods/burstable/pod{uid}"), Some("a")),
            (&*format!("kubepods.slice/kubepods-besteffort.slice/{systemd}"), Some("a")),
            ("kubepods/podd3b07384d113edec49eaa6238ad5ff00", Some("static")),
            ("system.slice/vm.service", Some("vm")),
            // of these the cgroup around them says it
            (&*inside, None),
            ("system.slice/vm.service/payload", None),
            ("vm.service", None),
            ("kubepods", None),
            (&*format!("mypod{uid}"), None),
            (&*format!("pod{uid}0"), None),
            ("pod", None),
        ] {
            let found = index.by_path(Path::new(path)).map(|workload| workload.name.as_str());
            assert_eq!(found, name, "{path}");
        }
    }

    #[test]
    fn what_runs_on_another_node_is_not_here() {
        let mesh = Mesh {
            workloads: vec![
                workload("here", Some("1"), Some("n1"), "10.0.0.1"),
                workload("there", Some("2"), Some("n2"), "10.0.0.2"),
                workload("somewhere", None, None, "10.0.0.3"),
            ],
            ..Mesh::default()
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let index = Index::of(&mesh, Some("n1"));
        assert!(index.by_address(ip("10.0.0.2")).is_none());
        assert!(index.by_path(Path::new("pod2")).is_none());
        assert_eq!(index.elsewhere, [ip("10.0.0.2")].into());
        assert!(index.by_path(Path::new("pod1")).is_some());
        assert!(index.by_address(ip("10.0.0.3")).is_some());
        // without a node's name, or one that the configuration does not know, all may be here
        for unknown in [None, Some("n3")] {
            let index = Index::of(&mesh, unknown);
            assert!(index.by_path(Path::new("pod2")).is_some());
            assert_eq!(index.elsewhere, [].into());
        }
    }
}
