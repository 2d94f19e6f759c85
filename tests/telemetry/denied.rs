//! Whoever is denied is told of: by connection, by request, and where requests come in.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use beeway_testbed::{Place, RawClient, spawn_ready, tcp_echo, tcp_ping};
use serde_json::Value;

use crate::bed::{Bed, JASON, LIMIT, Shape, WEB, wait_until};
use crate::told;

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {ports: [\"7007\"]}}]
  - to: [{operation: {paths: [/admin*]}}]
";

/// Flows that are denied.
fn denied(bed: &Bed) -> Result<Vec<Value>> {
    told(bed, &["--verdict", "denied"])
}

fn wait_for_flow(bed: &Bed, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = Value::Null;
    let waited = wait_until(what, || {
        found = denied(bed)?.into_iter().find(&fits).unwrap_or_default();
        Ok(!found.is_null())
    });
    waited.map_err(|error| error.context(format!("{:#?}", denied(bed))))?;
    Ok(found)
}

#[test]
fn who_is_denied_is_told_of_by_name() -> Result<()> {
    let mut bed = Bed::new("denied", Shape { servers_in_mesh: true }, JASON)?;
    for pod in [&bed.v1, &bed.v2] {
        bed.servers.push(spawn_ready(tcp_echo(pod, 7007)?)?);
    }
    let raw: SocketAddr = "10.96.0.12:7".parse()?;
    let mut live = RawClient::connect(&bed.client, raw)?;
    live.send("before")?;
    let before = bed.generation()?;
    bed.write("policy.yaml", POLICY)?;
    bed.wait_for_generation(before)?;

    let report = tcp_ping(&bed.client, raw, 1)?.output(LIMIT)?.success()?.json();
    ensure!(report.first().is_some_and(|said| said["error"] == "ECONNREFUSED"), "{report:?}");
    let refused = wait_for_flow(&bed, "a connection that is refused", |flow| {
        flow["kind"] == "connection" && flow["detail"] == ""
    })?;
    assert_eq!(refused["source"]["workload"], "client", "{refused}");
    assert_eq!(refused["service"]["name"], "raw", "{refused}");
    assert!(refused["policy"].as_str().unwrap_or_default().contains("closed"), "{refused}");

    let _ = live.send("after");
    let reset = wait_for_flow(&bed, "a live connection that is reset", |flow| {
        flow["detail"] == "connection_reset_by_policy"
    })?;
    assert!(reset["policy"].as_str().unwrap_or_default().contains("closed"), "{reset}");

    let mut inside = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(inside.get("web", "/admin/a?secret=1", &[])?.status, 403);
    let asked = wait_for_flow(&bed, "a denied request", |flow| flow["path"] == "/admin/a")?;
    assert_eq!(asked["source"]["workload"], "client", "{asked}");
    assert_eq!((&asked["lane"], &asked["status"]), (&"answered".into(), &403.into()), "{asked}");
    assert!(asked["policy"].as_str().unwrap_or_default().contains("closed"), "{asked}");

    let straight = SocketAddr::new(bed.v1.ip4().into(), 8080);
    let mut outside = RawClient::connect_in(&bed.client, straight, false)?;
    assert_eq!(outside.get("web", "/admin/b", &[])?.status, 403);
    let came = wait_for_flow(&bed, "a denied visit", |flow| flow["path"] == "/admin/b")?;
    assert_eq!(came["direction"], "inbound", "{came}");
    assert_eq!(came["destination"]["workload"], "v1", "{came}");
    assert!(came["policy"].as_str().unwrap_or_default().contains("closed"), "{came}");
    let reporter = [("reporter", "destination"), ("response_code", "403")];
    wait_until("it is counted where it came in", || {
        Ok(bed.scrape()?.sum("istio_requests_total", &reporter) == 1)
    })
}
