//! By what the processes of a workload are known on their node.

use std::net::IpAddr;
use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{Workload, is_made_up};

const YAML: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: own, namespace: shop, uid: u-1}, spec: {nodeName: n1, containers: []}, status: {podIP: 10.0.0.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop, uid: u-2}, spec: {nodeName: n1, hostNetwork: true, containers: []}, status: {podIP: 192.0.2.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: new, namespace: shop, uid: u-3}, spec: {nodeName: n1, containers: []}}
- {apiVersion: v1, kind: Pod, metadata: {name: away, namespace: shop, uid: u-4}, spec: {nodeName: n2, containers: []}, status: {podIP: 10.0.0.4}}
- {apiVersion: v1, kind: Pod, metadata: {name: written, namespace: shop}, spec: {containers: []}, status: {podIP: 10.0.0.5}}
- {apiVersion: v1, kind: Pod, metadata: {name: static, namespace: shop, uid: u-6, annotations: {kubernetes.io/config.hash: h-6, kubernetes.io/config.mirror: h-6}}, spec: {nodeName: n1, containers: []}}
- {apiVersion: v1, kind: Pod, metadata: {name: claims, namespace: shop, uid: u-7, annotations: {kubernetes.io/config.hash: u-1}}, spec: {nodeName: n1, containers: []}}
- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop, annotations: {beeway.io/cgroup: /system.slice/vm.service/}}, spec: {address: 10.0.0.8}}
- {apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: wild, namespace: shop, annotations: {beeway.io/cgroup: ../../x}}, spec: {address: 10.0.0.9}}
";

fn read(node: Option<&str>) -> Loaded {
    let options = Options { node: node.map(str::to_owned) };
    load(&[(PathBuf::from("pods.yaml"), YAML.to_owned())], &options)
}

fn of<'a>(loaded: &'a Loaded, name: &str) -> &'a Workload {
    loaded.mesh.workloads.iter().find(|workload| workload.name == name).unwrap()
}

/// Its own addresses, and how many are made up.
fn addresses(workload: &Workload) -> (Vec<String>, usize) {
    let (made_up, own): (Vec<IpAddr>, Vec<IpAddr>) =
        workload.addresses.iter().partition(|address| is_made_up(**address));
    (own.iter().map(IpAddr::to_string).collect(), made_up.len())
}

#[test]
fn cgroups_are_known_by_uid_or_annotation() {
    let loaded = read(Some("n1"));
    let known = |name| {
        let workload = of(&loaded, name);
        (workload.uid.as_deref(), workload.cgroup.as_deref())
    };
    assert_eq!(known("own"), (Some("u-1"), None));
    assert_eq!(known("written"), (None, None));
    // the kubelet's name for a static pod, which the API server's mirror of it tells
    assert_eq!(known("static"), (Some("h-6"), None));
    assert_eq!(known("claims"), (Some("u-7"), None));
    assert_eq!(known("vm"), (None, Some("system.slice/vm.service")));
    assert_eq!(known("wild"), (None, None));
    let said: Vec<String> = loaded.problems.iter().map(|problem| problem.reason.clone()).collect();
    assert_eq!(said, ["beeway.io/cgroup: `../../x` is not a path below the cgroup of the mesh"]);
}

#[test]
fn who_is_known_by_his_cgroup_has_an_address() {
    let loaded = read(Some("n1"));
    let seen = |name| addresses(of(&loaded, name));
    assert_eq!(seen("own"), (vec!["10.0.0.1".to_owned()], 1));
    assert_eq!(seen("host"), (vec![], 1));
    assert_eq!(seen("new"), (vec![], 1));
    assert_eq!(seen("away"), (vec!["10.0.0.4".to_owned()], 0));
    assert_eq!(seen("written"), (vec!["10.0.0.5".to_owned()], 0));
    assert_eq!(seen("vm"), (vec!["10.0.0.8".to_owned()], 1));
    // the same whoever else is there, and another for each
    let (host, new) = (&of(&loaded, "host").addresses, &of(&loaded, "new").addresses);
    assert_ne!(host, new);
    let anywhere = read(None);
    assert_eq!((&of(&anywhere, "host").addresses, &of(&anywhere, "new").addresses), (host, new));
    assert_eq!(addresses(of(&anywhere, "away")).1, 1);
}
