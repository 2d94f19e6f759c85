//! The cases of a mesh.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeway_testbed::{Load, Place, Pod, RawClient};

use crate::cases::{Case, Cases, assert_all_named};
use crate::grpc;
use crate::wire::{check, head};
use crate::world::World;

/// The source files that are replayed.
const REPLAYED: [&str; 22] = [
    "grpcroute-request-header-modifier",
    "grpcroute-weight",
    "httproute-303-redirect",
    "httproute-307-redirect",
    "httproute-308-redirect",
    "httproute-matching",
    "httproute-named-rule",
    "httproute-query-param-matching",
    "httproute-redirect-host-and-status",
    "httproute-redirect-path",
    "httproute-redirect-port",
    "httproute-redirect-scheme",
    "httproute-request-header-modifier",
    "httproute-rewrite-path",
    "httproute-simple-same-namespace",
    "httproute-weight",
    "mesh-basic",
    "mesh-consumer-route",
    "mesh-frontend",
    "mesh-frontend-hostname",
    "mesh-ports",
    "mesh-split",
];

const MESH: &str = "gateway-conformance-mesh";
const CONSUMER: &str = "gateway-conformance-mesh-consumer";

/// Requests for a case of weights. The share may be off by five percentage points, which is five
/// standard deviations of so many.
const DRAWS: u64 = 2000;

/// The manifests whose routes a source needs.
fn manifests(source: &str) -> Vec<&str> {
    match source {
        "mesh-basic" => vec![],
        "mesh-frontend-hostname" => vec!["mesh-frontend"],
        "httproute-request-header-modifier" => {
            vec![source, "httproute-request-header-modifier-backend"]
        }
        _ => vec![source],
    }
}

/// What a host of a case resolves to, for a client of the mesh's namespace.
fn resolve(world: &World, host: &str) -> SocketAddr {
    // The source puts the address of a pod of echo-v2 there.
    if host.starts_with('$') {
        return world.pod(MESH, "echo-v2").addr4(8080);
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let (service, namespace) = name.split_once('.').unwrap_or((name, MESH));
    (world.frontend(namespace, service), port.parse().expect("a port")).into()
}

/// The host of a case's URL. A case without one calls `echo`.
fn host(case: &Case) -> &str {
    if case.host.is_empty() { "echo" } else { &case.host }
}

/// Who sends a case: a pod of echo-v1, of the namespace that the case's name speaks of.
fn client<'a>(world: &'a World, case: &Case) -> &'a Pod {
    let of_consumer = case.label.contains("request from consumer route's namespace");
    world.pod(if of_consumer { CONSUMER } else { MESH }, "echo-v1")
}

fn text(case: &Case, to: SocketAddr) -> String {
    let host = host(case);
    let address = to.to_string();
    head(case, if host.starts_with('$') { &address } else { host }, &case.label)
}

/// Each case on a connection of its own.
fn alone(world: &World, cases: &[Case]) -> Result<()> {
    for case in cases {
        let to = resolve(world, host(case));
        let mut raw = RawClient::connect(client(world, case), to)?;
        let answer = raw.request(&text(case, to)).with_context(|| format!("{case:?}"))?;
        check(case, &answer, MESH);
    }
    Ok(())
}

/// All cases again, there and back, on one connection from each client to each frontend.
fn together(world: &World, cases: &[Case]) -> Result<()> {
    let mut connections: BTreeMap<(&str, SocketAddr), RawClient> = BTreeMap::new();
    for case in cases.iter().chain(cases.iter().rev()) {
        let to = resolve(world, host(case));
        let client = client(world, case);
        let raw = match connections.entry((client.label(), to)) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(RawClient::connect(client, to)?)
            }
        };
        let answer = raw.request(&text(case, to)).with_context(|| format!("{case:?}"))?;
        check(case, &answer, MESH);
    }
    Ok(())
}

/// The case of weights, which the source loops over: 70 and 30.
fn weights(world: &World) -> Result<()> {
    let url = format!("http://{}/", resolve(world, "echo"));
    let report = Load::new(url, DRAWS).header("Host: echo").run(world.pod(MESH, "echo-v1"))?;
    assert_eq!((report.errors, report.status.get("200")), (0, Some(&DRAWS)), "{report:?}");
    for (backend, share) in [("echo-v1", 70.0), ("echo-v2", 30.0)] {
        let by = report.served_by.iter().filter(|(name, _)| name.contains(backend));
        let percent = by.map(|(_, n)| *n as f64).sum::<f64>() * 100.0 / DRAWS as f64;
        assert!((percent - share).abs() < 5.0, "{backend}: {percent} %, not {share} %");
    }
    Ok(())
}

#[test]
fn mesh_cases_are_answered_as_gateway_api_says() -> Result<()> {
    let Some(cases) = Cases::find() else { return Ok(()) };
    assert_all_named(&cases.sources("mesh"), &REPLAYED, &[]);
    let mut world = World::new("gamma", cases.manifest("mesh/manifests.yaml"), [8080, 7070])?;
    let mut replayed = 0;
    for source in REPLAYED {
        let manifests = manifests(source);
        let objects =
            manifests.iter().flat_map(|name| cases.manifest(&format!("tests/mesh/{name}.yaml")));
        world.route(&objects.collect::<Vec<_>>())?;
        let mut of_source = cases.of("mesh", source);
        if source == "httproute-named-rule" {
            // It wants a path that nothing rewrites to, and the source does not look.
            of_source.iter_mut().for_each(|case| case.expected = None);
        }
        replayed += of_source.len();
        let echo = SocketAddr::from((world.frontend(MESH, "echo"), 7070));
        match source {
            "httproute-weight" => weights(&world)?,
            "grpcroute-weight" => grpc::mesh_weights(&world, echo)?,
            "grpcroute-request-header-modifier" => grpc::mesh_headers(&world, echo)?,
            _ => {
                alone(&world, &of_source)?;
                together(&world, &of_source)?;
            }
        }
    }
    println!("{replayed} cases of {} source files", REPLAYED.len());
    Ok(())
}
