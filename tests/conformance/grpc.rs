//! Calls of gRPC, by curl.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeway_testbed::{Pod, curl};
use serde_json::Value;

use crate::bed::LIMIT;
use crate::world::World;

const SERVICE: &str = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";
const MESH: &str = "gateway-conformance-mesh";

/// What came back of a call.
#[derive(Debug)]
struct Called {
    grpc_status: Option<String>,
    served_by: Option<String>,
}

/// Calls a method a number of times on one connection.
fn call(
    client: &Pod,
    to: SocketAddr,
    method: &str,
    metadata: &[(String, String)],
    times: u32,
) -> Result<Vec<Called>> {
    // a message of no bytes
    let message = tempfile::NamedTempFile::new()?;
    std::fs::write(message.path(), [0; 5])?;
    let data = format!("@{}", message.path().display());
    let mut arguments = vec!["-sS", "-i", "--http2-prior-knowledge", "--data-binary", &data];
    let lines: Vec<String> = [("content-type", "application/grpc"), ("te", "trailers")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .iter()
        .chain(metadata)
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    for line in &lines {
        arguments.extend(["-H", line]);
    }
    let url = format!("http://{to}/{SERVICE}/{method}?[1-{times}]");
    arguments.push(&url);
    let output = curl(client, &arguments)?.success()?.stdout;
    let answers = output.split("HTTP/2 200").skip(1);
    Ok(answers.map(read).collect())
}

fn read(answer: &str) -> Called {
    let field = |wanted: &str| {
        let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(name, _)| name.trim_start_matches('\0') == wanted)
    };
    let value = |name| field(name).map(|(_, value)| value.trim().to_owned());
    Called { grpc_status: value("grpc-status"), served_by: value("x-served-by") }
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, v)| (name.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}

/// The fields that a server was asked with, found by the mark among them.
fn asked(world: &World, (namespace, backend): (&str, &str), mark: &str) -> Result<Value> {
    let server = world.server(namespace, backend);
    let line = server.wait_for_line(&format!("\"x-mark\":\"{mark}\""), LIMIT)?;
    Ok(serde_json::from_str::<Value>(&line)?["headers"].take())
}

/// Replays cases of a gateway; how many there were.
pub fn replay(
    world: &World,
    client: &Pod,
    to: SocketAddr,
    source: &str,
    cases: &[Value],
) -> Result<usize> {
    for (at, case) in cases.iter().enumerate() {
        let (metadata, response) = (&case["RequestMetadata"], &case["Response"]);
        let mark = format!("{source}-{at}");
        let mut fields = pairs(&metadata["Metadata"]);
        fields.push(("x-mark".to_owned(), mark.clone()));
        let authority = metadata["Authority"].as_str().unwrap_or("gateway.example");
        fields.push(("Host".to_owned(), authority.to_owned()));
        let method = ["EchoRequest", "EchoTwoRequest", "EchoThreeRequest"]
            .into_iter()
            .find(|request| case.get(request).is_some())
            .and_then(|request| request.strip_suffix("Request"))
            .with_context(|| format!("no method: {case}"))?;
        let called = call(client, to, method, &fields, 1)?;
        let status = match response["Code"].as_str() {
            Some("$codes.Unimplemented") => "12",
            _ => "0",
        };
        let called = called.first().with_context(|| format!("no answer: {case}"))?;
        assert_eq!(called.grpc_status.as_deref(), Some(status), "{case}: {called:?}");
        let Some(backend) = case["Backend"].as_str() else { continue };
        let by = called.served_by.as_deref().unwrap_or_default();
        assert!(by.contains(&format!("/{backend}")), "{case}: {called:?}");
        let seen = asked(world, ("gateway-conformance-infra", backend), &mark)?;
        for (name, values) in response["Headers"].as_object().into_iter().flatten() {
            let values: Vec<&str> =
                values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let got = seen[name.to_ascii_lowercase()].as_str();
            assert_eq!(got, Some(values.join(", ").as_str()), "{name}: {case}: {seen}");
        }
        for name in response["AbsentHeaders"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default().to_ascii_lowercase();
            assert_eq!(seen.get(&name), None, "{case}: {seen}");
        }
    }
    Ok(cases.len())
}

/// What the source of the mesh's `grpcroute-weight` asserts: 70, 30 and none.
pub fn mesh_weights(world: &World, to: SocketAddr) -> Result<()> {
    const CALLS: u32 = 1000;
    let called = call(world.pod(MESH, "echo-v1"), to, "Echo", &[], CALLS)?;
    assert_eq!(called.len(), CALLS as usize);
    let failed = called.iter().find(|called| called.grpc_status.as_deref() != Some("0"));
    assert!(failed.is_none(), "{failed:?}");
    for (backend, share) in [("echo-v1", 70.0), ("echo-v2", 30.0), ("echo-v3", 0.0)] {
        let by =
            |called: &&Called| called.served_by.as_ref().is_some_and(|by| by.contains(backend));
        let percent = called.iter().filter(by).count() as f64 * 100.0 / f64::from(CALLS);
        // five standard deviations are seven percentage points
        assert!((percent - share).abs() < 7.5, "{backend}: {percent} %, not {share} %");
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
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let called = call(world.pod(MESH, "echo-v1"), to, "Echo", &fields, 1)?;
        let called = called.first().context("no answer")?;
        assert_eq!(called.grpc_status.as_deref(), Some("0"), "{case}: {called:?}");
        let by = called.served_by.as_deref().unwrap_or_default();
        assert!(by.contains(backend), "{case}: {called:?}");
        let got = asked(world, (MESH, backend), &mark)?;
        for (name, wanted) in seen.into_iter().chain([("x-kept", Some("kept"))]) {
            assert_eq!(got.get(name).and_then(Value::as_str), wanted, "{case}: {got}");
        }
    }
    Ok(())
}
