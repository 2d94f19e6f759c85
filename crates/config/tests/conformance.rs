//! Gateway API's north-south HTTPRoute cases through `load()` and `route()`.
//!
//! Each Gateway becomes a Service of the same name with the listeners' ports, and the parent of
//! the routes becomes that Service; then what must be matched, and by which backend answered, is
//! the same inside of a mesh. Hostnames of listeners are the one thing that a Service lacks: the
//! replay stands in for them (see [`Gateway::admits`]).

#[path = "../../../tests/cases/mod.rs"]
mod cases;

use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{Outcome, Request, ServicePort, Transport, Workload, route};
use cases::{Case, Cases, assert_all_named};
use serde_json::{Value, json};

const REPLAYED: [&str; 18] = [
    "httproute-exact-path-matching",
    "httproute-header-matching",
    "httproute-hostname-intersection",
    "httproute-invalid-backendref-unknown-kind",
    "httproute-invalid-cross-namespace-backend-ref",
    "httproute-invalid-nonexistent-backendref",
    "httproute-invalid-reference-grant",
    "httproute-matching",
    "httproute-matching-across-routes",
    "httproute-method-matching",
    "httproute-multiple-gateways",
    "httproute-named-rule",
    "httproute-omitted-backendrefs",
    "httproute-partially-invalid-via-invalid-reference-grant",
    "httproute-path-match-order",
    "httproute-query-param-matching",
    "httproute-simple-same-namespace",
    "httproute-weight",
];

const ACTION: &str = "what a rule does, not what it matches; tests/conformance looks at that";
const GATEWAY: &str = "what a Gateway's listener does; a Service has no such thing";
const COMPUTED: &str = "the source computes its requests; the data has none of them";

const LEFT_OUT: [(&str, &str); 30] = [
    ("httproute-303-redirect", ACTION),
    ("httproute-307-redirect", ACTION),
    ("httproute-308-redirect", ACTION),
    ("httproute-backend-protocol-h2c", ACTION),
    ("httproute-backend-request-redirect", ACTION),
    ("httproute-backend-url-rewrite", ACTION),
    ("httproute-cors", ACTION),
    (
        "httproute-cross-namespace",
        "in a mesh, a route of another namespace is for that one's clients",
    ),
    ("httproute-https-listener", GATEWAY),
    ("httproute-https-listener-detect-misdirected-requests", GATEWAY),
    ("httproute-listener-hostname-matching", GATEWAY),
    ("httproute-listener-port-matching", GATEWAY),
    ("httproute-redirect-host-and-status", ACTION),
    ("httproute-redirect-path", ACTION),
    ("httproute-redirect-port", ACTION),
    ("httproute-redirect-port-and-scheme", ACTION),
    ("httproute-redirect-scheme", ACTION),
    ("httproute-reference-grant", "the second of its two cases is after the grant was deleted"),
    ("httproute-request-header-modifier", ACTION),
    ("httproute-request-header-modifier-backend-weights", ACTION),
    ("httproute-request-mirror", ACTION),
    ("httproute-request-multiple-mirrors", ACTION),
    ("httproute-request-percentage-mirror", ACTION),
    ("httproute-response-header-modifier", ACTION),
    ("httproute-retry", ACTION),
    ("httproute-rewrite-host", ACTION),
    ("httproute-rewrite-path", ACTION),
    ("httproute-service-types", COMPUTED),
    ("httproute-timeout-backend-request", ACTION),
    ("httproute-timeout-request", ACTION),
];

/// A Gateway of the manifests.
struct Gateway {
    name: String,
    /// Hostnames of its listeners; `None`: any.
    hostnames: Vec<Option<String>>,
}

impl Gateway {
    fn read(object: &Value) -> Gateway {
        let listeners = object["spec"]["listeners"].as_array().into_iter().flatten();
        Gateway {
            name: object["metadata"]["name"].as_str().expect("a name").to_owned(),
            hostnames: listeners
                .map(|listener| listener["hostname"].as_str().map(str::to_owned))
                .collect(),
        }
    }

    /// Whether a listener is for a host, and whether by its name.
    fn admits(&self, host: &str) -> Option<bool> {
        let named = |pattern: &str| match pattern.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == pattern,
        };
        if self.hostnames.iter().flatten().any(|pattern| named(pattern)) {
            return Some(true);
        }
        self.hostnames.contains(&None).then_some(false)
    }

    /// The Service that stands for it.
    fn as_service(object: &Value, number: usize) -> Value {
        let mut ports: Vec<u64> = Vec::new();
        for listener in object["spec"]["listeners"].as_array().into_iter().flatten() {
            let port = listener["port"].as_u64().expect("a port");
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"name": format!("http-{port}"), "port": port}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": object["metadata"],
            "spec": {"clusterIP": format!("10.96.2.{number}"), "ports": ports},
        })
    }
}

/// The manifests of a source, made a mesh's, and the Gateways of the case's own manifest.
fn translated(cases: &Cases, source: &str) -> (Loaded, Vec<Gateway>) {
    let base = cases.manifest("base/manifests.yaml");
    let own = cases.manifest(&format!("tests/{source}.yaml"));
    let is = |object: &&Value, kind: &str| object["kind"] == kind;
    let gateways = own.iter().filter(|o| is(o, "Gateway")).map(Gateway::read).collect();
    let mut objects = Vec::new();
    for (number, mut object) in base.into_iter().chain(own).enumerate() {
        match object["kind"].as_str() {
            Some("Gateway") => objects.push(Gateway::as_service(&object, number + 1)),
            Some("HTTPRoute" | "GRPCRoute") => {
                for parent in object["spec"]["parentRefs"].as_array_mut().expect("parents") {
                    parent["group"] = "".into();
                    parent["kind"] = "Service".into();
                }
                objects.push(object);
            }
            Some("Service" | "ReferenceGrant") => objects.push(object),
            _ => {}
        }
    }
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    let files = [(PathBuf::from(source), text.join("\n---\n"))];
    (load(&files, &Options::default()), gateways)
}

/// Which Gateway a request is for: the one that names its host, or that is for any; else the base's.
fn gateway<'a>(case: &Case, own: &'a [Gateway]) -> &'a str {
    let host = case.host.split(':').next().unwrap_or_default();
    let named = own.iter().find(|gateway| gateway.admits(host) == Some(true));
    let any = || own.iter().find(|gateway| gateway.admits(host) == Some(false));
    named.or_else(any).map_or("same-namespace", |gateway| &gateway.name)
}

fn port<'a>(loaded: &'a Loaded, service: &str) -> &'a ServicePort {
    let service = loaded.mesh.services.iter().find(|s| s.name == service);
    service.and_then(|s| s.port(80, Transport::Tcp)).expect("port 80")
}

/// Who answers, or with which status.
fn answer(loaded: &Loaded, port: &ServicePort, case: &Case, draw: u32) -> Result<String, u64> {
    let headers: Vec<(&str, &[u8])> =
        case.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let caller = Workload {
        namespace: "gateway-conformance-infra".into(),
        name: "client".into(),
        labels: Default::default(),
        addresses: Vec::new(),
        service_account: "default".into(),
        node: None,
        uid: None,
        cgroup: None,
    };
    let request = Request {
        method: &case.method,
        scheme: "http",
        authority: if case.host.is_empty() { "example.com" } else { &case.host },
        target: &case.path,
        headers: &headers,
        source: Some(&caller),
    };
    match route(port, &request, draw).outcome {
        Outcome::Forward(cluster) => Ok(loaded.mesh.cluster(cluster).name.clone()),
        Outcome::Respond { status, .. } => Err(status.into()),
        Outcome::Redirect => Err(302),
    }
}

fn check(loaded: &Loaded, port: &ServicePort, case: &Case) {
    let wanted = match (&case.backend, &case.namespace) {
        (Some(backend), Some(namespace)) if case.statuses.contains(&200) => {
            Ok(format!("{backend}.{namespace}.svc.cluster.local:8080"))
        }
        _ if case.statuses.contains(&200) => {
            let got = answer(loaded, port, case, 0);
            assert!(got.is_ok(), "{}: {got:?}", case.label);
            return;
        }
        _ => Err(case.statuses[0]),
    };
    assert_eq!(answer(loaded, port, case, 0), wanted, "{}: {case:?}", case.label);
}

#[test]
fn north_south_cases_are_decided_as_gateway_api_says() {
    let Some(cases) = Cases::find() else { return };
    let sources: Vec<&str> =
        cases.sources("tests").into_iter().filter(|s| s.starts_with("httproute-")).collect();
    assert_all_named(&sources, &REPLAYED, &LEFT_OUT);
    let mut replayed = 0;
    for source in REPLAYED {
        let (loaded, own) = translated(&cases, source);
        for (at, case) in cases.of("tests", source).iter().enumerate() {
            match source {
                "httproute-weight" => shares(&loaded, port(&loaded, "same-namespace"), case),
                "httproute-multiple-gateways" => {
                    // Which of them is in the source, not in the data: two cases each.
                    let through = if at < 2 { "same-namespace" } else { "all-namespaces" };
                    check(&loaded, port(&loaded, through), case);
                }
                _ => check(&loaded, port(&loaded, gateway(case, &own)), case),
            }
            replayed += 1;
        }
    }
    println!("{replayed} cases of {} source files", REPLAYED.len());
}

const GRPC_REPLAYED: [&str; 3] =
    ["grpcroute-exact-method-matching", "grpcroute-header-matching", "grpcroute-named-rule"];

const GRPC_LEFT_OUT: [(&str, &str); 3] = [
    ("grpcroute-listener-hostname-matching", GATEWAY),
    ("grpcroute-request-header-modifier", ACTION),
    ("grpcroute-weight", COMPUTED),
];

#[test]
fn grpc_cases_are_decided_as_gateway_api_says() {
    let Some(cases) = Cases::find() else { return };
    let sources: Vec<&str> =
        cases.sources("tests").into_iter().filter(|s| s.starts_with("grpcroute-")).collect();
    assert_all_named(&sources, &GRPC_REPLAYED, &GRPC_LEFT_OUT);
    for source in GRPC_REPLAYED {
        let (loaded, _) = translated(&cases, source);
        for value in cases.values("tests", source) {
            let method = ["Echo", "EchoTwo", "EchoThree"]
                .into_iter()
                .find(|method| value.get(format!("{method}Request")).is_some())
                .expect("one of the methods");
            let metadata = value["RequestMetadata"]["Metadata"].as_object();
            let headers: Vec<(&str, &[u8])> = metadata
                .into_iter()
                .flatten()
                .map(|(name, value)| (&**name, value.as_str().expect("text").as_bytes()))
                .collect();
            let target = format!("/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/{method}");
            let request = Request {
                method: "POST",
                scheme: "http",
                authority: "example.com",
                target: &target,
                headers: &headers,
                source: None,
            };
            let answer = match route(port(&loaded, "same-namespace"), &request, 0).outcome {
                Outcome::Forward(cluster) => loaded.mesh.cluster(cluster).name.clone(),
                // Which clients take for UNIMPLEMENTED.
                other => format!("{other:?}"),
            };
            let wanted = match value["Backend"].as_str() {
                Some(backend) => {
                    format!("{backend}.gateway-conformance-infra.svc.cluster.local:8080")
                }
                None => format!("{:?}", Outcome::Respond { status: 404, body: String::new() }),
            };
            assert_eq!(answer, wanted, "{source}: {value}");
        }
    }
}

/// Weights: each backend's share of evenly spread draws.
fn shares(loaded: &Loaded, port: &ServicePort, case: &Case) {
    let mut counts = std::collections::BTreeMap::new();
    for step in 0..1000_u64 {
        // In the middle of each thousandth, so that none lies on a boundary.
        let draw = ((2 * step + 1) << 31) / 1000;
        let name = answer(loaded, port, case, draw as u32).expect("a backend");
        *counts.entry(name).or_insert(0) += 1;
    }
    let counts: Vec<(&str, i32)> = counts.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let host = "gateway-conformance-infra.svc.cluster.local:8080";
    let wanted =
        [(format!("infra-backend-v1.{host}"), 700), (format!("infra-backend-v2.{host}"), 300)];
    assert_eq!(counts, wanted.each_ref().map(|(name, n)| (name.as_str(), *n)), "{}", case.label);
}
