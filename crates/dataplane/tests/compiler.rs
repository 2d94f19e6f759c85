//! A compiler that keeps what policies became says the same as one that begins anew.

use std::net::SocketAddr;
use std::sync::Arc;

use beeway_dataplane::tables::{Compiler, compile};
use beeway_model::testing::{Dice, Stage};
use beeway_model::{
    Cluster, ClusterId, Endpoint, Mesh, Protocol, Service, ServicePort, Transport, Workload,
};

fn service(endpoints: &[SocketAddr]) -> Mesh {
    let endpoint = |address: &SocketAddr| Endpoint {
        address: *address,
        weight: 1,
        workload: String::new(),
        node: None,
    };
    let port = ServicePort {
        stream_rules: Vec::new(),
        name: String::new(),
        number: 80,
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules: None,
    };
    let cluster = Cluster {
        name: String::new(),
        protocol: Protocol::Http,
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    let service = Service {
        namespace: "shop".into(),
        name: "web".into(),
        hosts: Vec::new(),
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![port],
    };
    Mesh { services: vec![service], clusters: vec![cluster], ..Mesh::default() }
}

/// Has a workload go, come back, move, or be another one.
fn change(dice: &mut Dice, mesh: &mut Mesh, gone: &mut Vec<Arc<Workload>>) {
    let at = dice.below(mesh.workloads.len().max(1));
    let Some(workload) = mesh.workloads.get_mut(at) else {
        return mesh.workloads.append(gone);
    };
    match dice.below(6) {
        0 => gone.push(mesh.workloads.remove(at)),
        1 => mesh.workloads.append(gone),
        2 => Arc::make_mut(workload).addresses = vec![dice.of(&CALLERS).parse().unwrap()],
        3 => Arc::make_mut(workload).namespace = dice.of(&["shop", "data", "new"]).into(),
        4 => {
            let tier = dice.of(&["a", "b", "c"]).to_owned();
            Arc::make_mut(workload).labels.insert("tier".into(), tier);
        }
        _ => drop(Arc::make_mut(workload).labels.insert("unasked".into(), "x".into())),
    }
}

const CALLERS: [&str; 6] = ["10.2.0.1", "10.2.0.2", "10.2.0.3", "10.2.0.4", "10.2.0.5", "10.2.0.6"];

#[test]
fn what_is_kept_changes_nothing() {
    let mut dice = Dice(11);
    let endpoints: Vec<SocketAddr> =
        (1..5).map(|n| SocketAddr::from(([10, 1, 0, n], 8080))).collect();
    let stage = Stage {
        callers: CALLERS.iter().map(|address| address.parse().unwrap()).collect(),
        endpoints: endpoints.clone(),
        services: vec![("shop".into(), "web".into())],
        providers: vec!["authorizer".into()],
        connections: true,
    };
    let mut compiler = Compiler::default();
    let mut mesh = service(&endpoints);
    let mut gone = Vec::new();
    let mut with_policies = 0;
    for round in 0..2000u64 {
        match dice.below(20) {
            0 => {
                gone.clear();
                stage.set(&mut dice, &mut mesh);
            }
            1 if !mesh.access.is_empty() => {
                let at = dice.below(mesh.access.len());
                drop(mesh.access.remove(at));
            }
            _ => change(&mut dice, &mut mesh, &mut gone),
        }
        with_policies += usize::from(!mesh.access.is_empty());
        assert_eq!(
            compiler.compile(&mesh, round),
            compile(&mesh, round),
            "round {round}: {mesh:#?}"
        );
    }
    assert!(with_policies > 500, "{with_policies} of the meshes had policies");
}
