//! The cases of gateways that are about what rules do.
//!
//! Each Gateway becomes a Service of the same name with the listeners' ports, and the parent of
//! the routes becomes that Service. Its own endpoint is a pod that no rule leads to. What is
//! matched is not looked at here: `crates/config/tests/conformance.rs` does.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeway_testbed::{Load, RawClient, Response, curl};
use serde_json::{Value, json};

use crate::bed::LIMIT;
use crate::cases::{Case, Cases};
use crate::grpc;
use crate::wire::{check, head};
use crate::world::World;

const INFRA: &str = "gateway-conformance-infra";

/// The source files that are replayed as they are.
const REPLAYED: [&str; 23] = [
    "httproute-303-redirect",
    "httproute-307-redirect",
    "httproute-308-redirect",
    "httproute-backend-request-redirect",
    "httproute-backend-url-rewrite",
    "httproute-cors",
    "httproute-redirect-host-and-status",
    "httproute-redirect-path",
    "httproute-redirect-port",
    "httproute-redirect-port-and-scheme",
    "httproute-redirect-scheme",
    "httproute-request-header-modifier",
    "httproute-request-mirror",
    "httproute-request-multiple-mirrors",
    "httproute-response-header-modifier",
    "httproute-rewrite-host",
    "httproute-rewrite-path",
    "httproute-timeout-backend-request",
    "httproute-timeout-request",
    "grpcroute-exact-method-matching",
    "grpcroute-header-matching",
    "grpcroute-named-rule",
    "grpcroute-request-header-modifier",
];

/// Requests for a case of shares. One may be off by five percentage points, which is more than
/// five standard deviations of so many.
const DRAWS: u64 = 3000;

/// The manifests' backends, a pod that sends, and Gateways as Services.
fn objects(cases: &Cases) -> Vec<Value> {
    let mut objects = vec![deployment("gateway"), deployment("client")];
    for object in cases.manifest("base/manifests.yaml") {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let backend = name.starts_with("infra-backend-") || name.starts_with("grpc-infra-backend-");
        match object["kind"].as_str() {
            Some("Gateway") => objects.push(as_service(&object)),
            Some("Service" | "Deployment") if backend => objects.push(object),
            _ => {}
        }
    }
    let extra = cases.manifest("tests/httproute-redirect-port-and-scheme.yaml");
    objects.extend(extra.iter().filter(|object| object["kind"] == "Gateway").map(as_service));
    objects
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": INFRA},
        "spec": {"template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }},
    })
}

fn as_service(gateway: &Value) -> Value {
    let mut ports: Vec<u64> = Vec::new();
    for listener in gateway["spec"]["listeners"].as_array().into_iter().flatten() {
        let port = listener["port"].as_u64().expect("a port");
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let port =
        |port: &u64| json!({"name": format!("http-{port}"), "port": port, "targetPort": 3000});
    let ports: Vec<Value> = ports.iter().map(port).collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": gateway["metadata"],
        "spec": {"selector": {"app": "gateway"}, "ports": ports},
    })
}

/// The routes of a source, with Services as parents.
fn routes(cases: &Cases, source: &str) -> Vec<Value> {
    let mut objects = cases.manifest(&format!("tests/{source}.yaml"));
    objects.retain(|object| {
        matches!(object["kind"].as_str(), Some("HTTPRoute" | "GRPCRoute" | "ReferenceGrant"))
    });
    for route in &mut objects {
        for parent in route["spec"]["parentRefs"].as_array_mut().into_iter().flatten() {
            parent["group"] = "".into();
            parent["kind"] = "Service".into();
        }
    }
    objects
}

/// Where a case of a source goes; `None`: to a listener with TLS, which a Service has not.
fn target(world: &World, source: &str, at: usize) -> Option<SocketAddr> {
    let (gateway, port) = match (source, at) {
        // Which gateway is in the source, not in the data: six cases, three, six.
        ("httproute-redirect-port-and-scheme", 9..) => return None,
        ("httproute-redirect-port-and-scheme", 6..) => {
            ("same-namespace-with-http-listener-on-8080", 8080)
        }
        _ => ("same-namespace", 80),
    };
    Some((world.frontend(INFRA, gateway), port).into())
}

fn send(world: &World, raw: &mut RawClient, case: &Case, mark: &str) -> Result<Response> {
    let host = if case.host.is_empty() { "gateway.example" } else { &case.host };
    let answer = raw.request(&head(case, host, mark)).with_context(|| format!("{case:?}"))?;
    check(case, &answer, INFRA);
    for (namespace, name) in &case.mirrors {
        let mirror = world.server(namespace, name);
        let line = mirror.wait_for_line(&format!("\"x-mark\":\"{mark}\""), LIMIT)?;
        let copy: Value = serde_json::from_str(&line)?;
        let original: Value = serde_json::from_str(&answer.body)?;
        for key in ["method", "path", "headers"] {
            assert_eq!(copy[key], original[key], "{name}: {case:?}");
        }
    }
    Ok(answer)
}

fn replay(world: &World, source: &str, cases: &[Case]) -> Result<usize> {
    let mut replayed = 0;
    for (at, case) in cases.iter().enumerate() {
        let Some(to) = target(world, source, at) else { continue };
        let mut raw = RawClient::connect(world.pod(INFRA, "client"), to)?;
        // twice on one connection: what one request has met does not stick to it
        for round in 0..2 {
            send(world, &mut raw, case, &format!("{source}-{at}-{round}"))?;
        }
        replayed += 1;
    }
    Ok(replayed)
}

fn world(label: &str, cases: &Cases) -> Result<World> {
    World::new(label, objects(cases), [3000, 3001])
}

#[test]
fn gateway_cases_of_actions_are_answered_as_gateway_api_says() -> Result<()> {
    let Some(cases) = Cases::find() else { return Ok(()) };
    let mut world = world("actions", &cases)?;
    let mut replayed = 0;
    for source in REPLAYED {
        world.route(&routes(&cases, source))?;
        replayed += if source.starts_with("grpcroute-") {
            let to = target(&world, source, 0).expect("a target");
            grpc::replay(world.pod(INFRA, "client"), to, cases.values("tests", source))?
        } else {
            replay(&world, source, &cases.of("tests", source))?
        };
    }
    println!("{replayed} cases of {} source files", REPLAYED.len());
    Ok(())
}

/// Those whose source loops over requests, with what it asserts of them.
#[test]
fn gateway_cases_of_shares_are_met() -> Result<()> {
    let Some(cases) = Cases::find() else { return Ok(()) };
    let mut world = world("shares", &cases)?;
    let source = "httproute-request-header-modifier-backend-weights";
    world.route(&routes(&cases, source))?;
    let to = target(&world, source, 0).expect("a target");
    let mut raw = RawClient::connect(world.pod(INFRA, "client"), to)?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let answer = raw.get("gateway.example", "/", &[])?;
        let request: Value = serde_json::from_str(&answer.body)?;
        let backend = request["headers"]["backend"].as_str().unwrap_or_default().to_owned();
        let by = answer.served_by().unwrap_or_default();
        assert!(by.starts_with(&format!("{INFRA}/{backend}")), "{answer:?}");
        seen.insert(backend);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");

    let source = "httproute-request-percentage-mirror";
    world.route(&routes(&cases, source))?;
    // the percentages are in the manifest, the data has none of them
    for (case, percent) in cases.of("tests", source).iter().zip([20.0, 50.0, 35.0]) {
        let mut load = Load::new(format!("http://{to}{}", case.path), DRAWS).connections(2);
        for (name, value) in &case.headers {
            load = load.header(format!("{name}: {value}"));
        }
        let report = load.run(world.pod(INFRA, "client"))?;
        assert_eq!((report.errors, report.status.get("200")), (0, Some(&DRAWS)), "{report:?}");
        let path = format!("\"path\":\"{}\"", case.path);
        let copies = || {
            let lines = world.server(INFRA, "infra-backend-v2").stdout();
            let copies = lines.iter().filter(|line| line.contains(&path)).count();
            copies as f64 * 100.0 / DRAWS as f64
        };
        // the last of them may be on their way
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!((copies() - percent).abs() < 5.0, "{}: {} %, not {percent} %", case.path, copies());
    }
    Ok(())
}

/// What the source of `httproute-retry` computes: paths of two routes, and codes.
#[test]
fn gateway_cases_of_retries_and_protocols_are_met() -> Result<()> {
    let Some(cases) = Cases::find() else { return Ok(()) };
    let mut world = world("retry", &cases)?;
    let source = "httproute-retry";
    world.route(&routes(&cases, source))?;
    let to = target(&world, source, 0).expect("a target");
    let mut raw = RawClient::connect(world.pod(INFRA, "client"), to)?;
    for (at, (path, code, failures, status)) in [
        ("/retry/code-500-attempts-3", 500, 3, 200),
        ("/retry/code-500-attempts-3", 500, 4, 500),
        ("/retry/code-500-attempts-3", 503, 1, 503),
        ("/retry/code-all-attempts-2", 500, 2, 200),
        ("/retry/code-all-attempts-2", 502, 2, 200),
        ("/retry/code-all-attempts-2", 503, 2, 200),
        ("/retry/code-all-attempts-2", 504, 2, 200),
        ("/retry/code-all-attempts-2", 504, 3, 504),
        ("/retry/code-all-attempts-2", 501, 1, 501),
    ]
    .into_iter()
    .enumerate()
    {
        let fail = format!("x-first: {failures}/retry{at}/{code}");
        let answer = raw.get("gateway.example", path, &[&fail])?;
        let by = answer.served_by().unwrap_or_default();
        assert!(by.starts_with(&format!("{INFRA}/infra-backend-v3")), "{answer:?}");
        assert_eq!(answer.status, status, "{path} {code} {failures} times: {answer:?}");
    }
    // a client that speaks HTTP/2 without having asked, to an endpoint that speaks it too
    let source = "httproute-backend-protocol-h2c";
    world.route(&routes(&cases, source))?;
    let url = format!("http://{to}/");
    let client = world.pod(INFRA, "client");
    let output = curl(client, &["-sS", "--http2-prior-knowledge", &url])?.success()?;
    let seen: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!(seen["version"], "HTTP/2.0", "{seen}");
    Ok(())
}
