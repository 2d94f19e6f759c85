//! Calls of gRPC, by curl.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeway_testbed::{Load, Pod};
use serde_json::Value;

use crate::bed::LIMIT;
use crate::calls::call;
use crate::world::World;

const SERVICE: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";
const MESH: &str = "gateway-conformance-mesh";

fn pairs(value: &Value) -> Vec<(&str, &str)> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, v)| (name.as_str(), v.as_str().unwrap_or_default())).collect()
}

/// The fields that a server was asked with, found by the mark among them.
fn asked(world: &World, (namespace, backend): (&str, &str), mark: &str) -> Result<Value> {
    let server = world.server(namespace, backend);
    let line = server.wait_for_line(&format!("\"x-mark\":\"{mark}\""), LIMIT)?;
    Ok(serde_json::from_str::<Value>(&line)?["headers"].take())
}

/// Replays cases of a gateway; how many there were.
///
/// What they say of header fields is left out: three rules of the manifest have the same match, so
/// that most of it cannot be, and the source does not look. [`mesh_headers`] does.
pub fn replay(client: &Pod, to: SocketAddr, cases: &[Value]) -> Result<usize> {
    for case in cases {
        let metadata = &case["RequestMetadata"];
        let mut fields = pairs(&metadata["Metadata"]);
        let authority = metadata["Authority"].as_str().unwrap_or("gateway.example");
        fields.push(("Host", authority));
        let method = ["EchoRequest", "EchoTwoRequest", "EchoThreeRequest"]
            .into_iter()
            .find(|request| case.get(request).is_some())
            .and_then(|request| request.strip_suffix("Request"))
            .with_context(|| format!("no method: {case}"))?;
        let called = call(client, to, &format!("{SERVICE}/{method}"), &fields)?;
        let status = match case["Response"]["Code"].as_str() {
            Some("$codes.Unimplemented") => "12",
            _ => "0",
        };
        assert_eq!(called.statuses(), (200, status), "{case}: {called:?}");
        if let Some(backend) = case["Backend"].as_str() {
            let by = called.field("x-served-by");
            assert!(by.contains(&format!("/{backend}")), "{case}: {called:?}");
        }
    }
    Ok(cases.len())
}

/// What the source of the mesh's `grpcroute-weight` asserts: 70, 30 and none.
pub fn mesh_weights(world: &World, to: SocketAddr) -> Result<()> {
    const CALLS: u64 = 2000;
    let report = Load::new(format!("http://{to}{SERVICE}/Echo"), CALLS)
        .header("content-type: application/grpc")
        .method("POST")
        .http2()
        .run(world.pod(MESH, "echo-v1"))?;
    assert_eq!((report.errors, report.connections), (0, 1), "{report:?}");
    for (backend, share) in [("echo-v1", 70.0), ("echo-v2", 30.0), ("echo-v3", 0.0)] {
        let by = report.served_by.iter().filter(|(name, _)| name.contains(backend));
        let percent = by.map(|(_, n)| *n as f64).sum::<f64>() * 100.0 / CALLS as f64;
        // five standard deviations
        assert!((percent - share).abs() < 5.0, "{backend}: {percent} %, not {share} %: {report:?}");
    }
    Ok(())
}

/// What the source of the mesh's `grpcroute-request-header-modifier` computes, from its manifest.
pub fn mesh_headers(world: &World, to: SocketAddr) -> Result<()> {
    for (case, backend, sent, seen) in [
        (
            "set",
            "echo-v1",
            vec![("x-header-set", "old")],
            vec![("x-header-set", Some("set-overwrites-values"))],
        ),
        (
            "add",
            "echo-v1",
            vec![("x-header-add", "old")],
            vec![("x-header-add", Some("old, add-appends-values"))],
        ),
        ("remove", "echo-v1", vec![("x-header-remove", "old")], vec![("x-header-remove", None)]),
        (
            "multi",
            "echo-v2",
            vec![
                ("x-header-set-1", "old"),
                ("x-header-add-2", "old"),
                ("x-header-remove-1", "old"),
            ],
            vec![
                ("x-header-set-1", Some("header-set-1")),
                ("x-header-set-2", Some("header-set-2")),
                ("x-header-add-1", Some("header-add-1")),
                ("x-header-add-2", Some("old, header-add-2")),
                ("x-header-remove-1", None),
            ],
        ),
    ] {
        let mark = format!("mesh-{case}");
        let mut fields = vec![("x-test-case", case), ("x-mark", &mark), ("x-kept", "kept")];
        fields.extend(sent);
        let client = world.pod(MESH, "echo-v1");
        let called = call(client, to, &format!("{SERVICE}/Echo"), &fields)?;
        assert_eq!(called.statuses(), (200, "0"), "{case}: {called:?}");
        assert!(called.field("x-served-by").contains(backend), "{case}: {called:?}");
        let got = asked(world, (MESH, backend), &mark)?;
        for (name, wanted) in seen.into_iter().chain([("x-kept", Some("kept"))]) {
            assert_eq!(got.get(name).and_then(Value::as_str), wanted, "{case}: {got}");
        }
    }
    Ok(())
}
