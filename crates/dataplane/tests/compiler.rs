//! A compiler that keeps what policies became says the same as one that begins anew.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use beeway_dataplane::tables::interpret::{
    Lane, decide, judge_connection, judge_visit, pick_endpoint,
};
use beeway_dataplane::tables::{Compiler, Tables, compile};
use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, Guarded, IdentityMatch,
    LabelSelector, Layer, Scope, Text, add_direct,
};
use beeway_model::testing::{Asked, Dice, Stage};
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
        idle: Default::default(),
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
        3 => {
            Arc::make_mut(workload).namespace = dice.of(&["shop", "data", "default", "new"]).into()
        }
        4 => {
            let tier = match dice.one_in(2) {
                true => dice.of(&["a", "b", "c"]).to_owned(),
                false => dice.below(200).to_string(),
            };
            Arc::make_mut(workload).labels.insert("tier".into(), tier);
        }
        _ => drop(Arc::make_mut(workload).labels.insert("unasked".into(), "x".into())),
    }
}

const CALLERS: [&str; 6] = ["10.2.0.1", "10.2.0.2", "10.2.0.3", "10.2.0.4", "10.2.0.5", "10.2.0.6"];

const SERVICE: &str = "10.96.0.1:80";

fn head(asked: &Asked) -> Vec<u8> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nHost: {}\r\n", asked.method, asked.target, asked.authority);
    asked.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    (head + "\r\n").into_bytes()
}

/// Asserts that two tables for a mesh mean the same.
fn compare(dice: &mut Dice, stage: &Stage, mesh: &Mesh, [kept, anew]: [&Tables; 2]) {
    assert_eq!(kept.counts(), anew.counts());
    assert_eq!(kept.notices(), anew.notices());
    let service: SocketAddr = SERVICE.parse().unwrap();
    let callers = stage.callers.iter().copied().chain(["10.9.9.9".parse::<IpAddr>().unwrap()]);
    for caller in callers {
        for endpoint in &stage.endpoints {
            for straight in [false, true] {
                let says = |tables| judge_connection(tables, caller, *endpoint, straight);
                assert_eq!(says(kept), says(anew), "{caller} calls {endpoint}: {mesh:#?}");
            }
        }
    }
    for _ in 0..12 {
        let attempt = stage.attempt(dice, mesh);
        let draw = dice.below(1 << 30) as u32 * 4;
        let pick = |tables| pick_endpoint(tables, service, Transport::Tcp, draw);
        assert_eq!(pick(kept), pick(anew));
        let Some(asked) = &attempt.request else { continue };
        let says =
            |tables| decide(tables, service, attempt.endpoint, attempt.caller, &head(asked), draw);
        assert_eq!(says(kept), says(anew), "{attempt:?}: {mesh:#?}");
        let (caller, endpoint) = (attempt.caller, attempt.endpoint);
        let says = |tables| judge_visit(tables, caller, endpoint, &head(asked));
        assert_eq!(says(kept), says(anew), "{attempt:?}: {mesh:#?}");
    }
}

/// Makes services of the endpoints that policies are about, as the configuration does.
fn address_endpoints(mesh: &mut Mesh) {
    let owners = mesh.workloads.clone();
    let owner = |ip| owners.iter().find(|workload| workload.addresses.contains(&ip));
    add_direct(mesh, &mut Guarded::default(), owner, |_| false);
}

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
    let (mut with_policies, mut others) = (0, 0);
    for round in 0..4000u64 {
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
        address_endpoints(&mut mesh);
        let kept = compiler.compile(&mesh, round).unwrap();
        let anew = compile(&mesh, round).unwrap();
        compare(&mut dice, &stage, &mesh, [&kept, &anew]);
        others += usize::from(kept != anew);
    }
    assert!(others > 500, "{others} of the tables were others than those made anew");
    assert!(with_policies > 500, "{with_policies} of the meshes had policies");
}

fn workload(name: &str, namespace: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        namespace: namespace.into(),
        name: name.into(),
        labels: Default::default(),
        addresses: vec![address.parse().unwrap()],
        service_account: "default".into(),
        node: None,
        uid: None,
        cgroup: None,
    })
}

/// A policy about all workloads of the service's namespace.
fn allow(layer: Layer, direction: Direction, rules: Vec<AccessRule>) -> Arc<AccessPolicy> {
    Arc::new(AccessPolicy {
        name: "p".into(),
        layer,
        direction,
        scope: Scope::Workloads(Some("shop".into()), LabelSelector::default()),
        effect: Effect::Allow,
        dry_run: false,
        rules,
    })
}

#[test]
fn who_is_the_first_not_to_be_meant_is_told_apart() {
    let foreign = IdentityMatch::Namespace(Text::Exact("foreign".into()));
    let not_foreign = Clause { field: Field::Caller(vec![foreign]), negated: true };
    let rule = AccessRule { sources: vec![vec![not_foreign]], ..AccessRule::default() };
    let policy = allow(Layer::Authorization, Direction::Ingress, vec![rule]);
    let endpoint = SocketAddr::from(([10, 1, 0, 1], 8080));
    let mut mesh = service(&[endpoint]);
    mesh.workloads = vec![workload("web-1", "shop", "10.1.0.1")];
    mesh.access = vec![policy];
    let mut compiler = Compiler::default();
    let caller = CALLERS[0].parse().unwrap();
    let mut may_call = |mesh: &Mesh| {
        let tables = compiler.compile(mesh, 1).unwrap();
        judge_connection(&tables, caller, endpoint, false)[2]
    };
    assert_eq!(may_call(&mesh), Some(true), "there is nobody in that namespace");
    mesh.workloads.push(workload("x-1", "foreign", CALLERS[0]));
    assert_eq!(may_call(&mesh), Some(false));
    mesh.workloads.pop();
    assert_eq!(may_call(&mesh), Some(true));
    mesh.workloads.push(workload("x-2", "foreign", CALLERS[0]));
    assert_eq!(may_call(&mesh), Some(false));
}

#[test]
fn the_network_keeps_nobody_from_himself() {
    let both = &[Direction::Ingress, Direction::Egress][..];
    let (all, requests) = ([true, true, true, true], [true, true, false, false]);
    for (layer, directions, itself, others) in [
        (Layer::Network, both, all, [false, false, true, true]),
        (Layer::Network, &both[..1], all, [true, false, true, true]),
        (Layer::Network, &both[1..], all, [false, true, true, true]),
        (Layer::Authorization, &both[..1], requests, requests),
    ] {
        let endpoint = SocketAddr::from(([10, 1, 0, 1], 80));
        let mut mesh = service(&[endpoint]);
        mesh.workloads =
            vec![workload("web", "shop", "10.1.0.1"), workload("other", "shop", "10.2.0.1")];
        let policies = directions.iter().map(|direction| allow(layer, *direction, Vec::new()));
        mesh.access = policies.collect();
        let tables = compile(&mesh, 1).unwrap();
        for (source, wanted) in
            [("10.1.0.1", itself), ("::ffff:10.1.0.1", itself), ("10.2.0.1", others)]
        {
            let source = source.parse().unwrap();
            assert_eq!(judge_connection(&tables, source, endpoint, false), wanted.map(Some));
            let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            let verdict = decide(&tables, SERVICE.parse().unwrap(), endpoint, source, head, 0);
            let allowed = wanted.iter().all(|group| *group);
            let lane = if allowed { Lane::LANE_NATIVE } else { Lane::LANE_ANSWERED };
            assert_eq!(verdict.lane, lane, "{layer:?} {directions:?} {source}");
        }
    }
}
