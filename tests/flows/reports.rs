//! Policies that only report are told of with what the kernel judges alone.

use anyhow::{Context, Result};
use beeway_testbed::{Place, RawClient, spawn_ready, tcp_echo, tcp_ping};
use serde_json::{Value, json};

use crate::bed::{Bed, LIMIT, Shape};
use crate::kit::{Scene, wait_for};

/// The service `raw`, which is not HTTP.
const RAW: &str = "10.96.0.12:7";

/// An AuthorizationPolicy on `web`.
fn policy(name: &str, dry_run: bool, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata:\n  name: {name}\n  namespace: default\n  \
         annotations: {{istio.io/dry-run: \"{dry_run}\"}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n{spec}"
    )
}

/// Puts policies in force that only report, and whose names say what they do.
fn report(bed: &Bed, operation: &str) -> Result<()> {
    let to = format!("  rules:\n  - to: [{{operation: {operation}}}]\n");
    let from = "  rules:\n  - from: [{source: {namespaces: [nowhere]}}]\n";
    let text = [
        policy("watch", false, &format!("  action: AUDIT\n{to}")),
        policy("watch-others", false, &format!("  action: AUDIT\n{from}")),
        policy("deny-next", true, &format!("  action: DENY\n{to}")),
        policy("deny-others-next", true, &format!("  action: DENY\n{from}")),
        policy("elsewhere", false, &format!("  action: AUDIT\n{to}")).replace("web", "nobody"),
    ];
    let before = bed.generation()?;
    bed.write("reports.yaml", &text.concat())?;
    bed.wait_for_generation(before)?;
    Ok(())
}

/// What a flow, or a line of the access log, says of policies.
fn reports(said: &Value) -> (&Value, &Value) {
    (&said["audit"], &said["dry_run"])
}

fn names() -> (Value, Value) {
    let name = |name: &str| json!([format!("AuthorizationPolicy default/{name}")]);
    (name("watch"), name("deny-next"))
}

#[test]
fn connections_that_are_not_http_are_reported() -> Result<()> {
    for servers_in_mesh in [false, true] {
        let scene = Scene::shaped("reports", Shape { servers_in_mesh })?;
        let bed = &scene.bed;
        let _servers = [&bed.v1, &bed.v2]
            .map(|pod| spawn_ready(tcp_echo(pod, 7007)?))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        // of a connection a rule about paths denies all
        let before = bed.generation()?;
        std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
        bed.wait_for_generation(before)?;
        let ping = || -> Result<()> {
            let pings = tcp_ping(&bed.client, RAW.parse()?, 1)?.output(LIMIT)?.success()?.json();
            assert_eq!(pings[0]["pings"], 1, "{pings:?}");
            Ok(())
        };
        ping()?;
        let before = scene.wait_for_flows(1)?;
        assert_eq!(reports(&before[0]), (&json!([]), &json!([])), "{before:?}");
        // where there is no request, what is said of one holds
        report(bed, "{ports: [\"7007\"], methods: [DELETE]}")?;
        ping()?;
        let flows = scene.wait_for_flows(2)?;
        let (audit, dry_run) = names();
        assert_eq!(reports(&flows[1]), (&audit, &dry_run), "{flows:#?}");
        assert_eq!(
            (&flows[1]["lane"], &flows[1]["verdict"]),
            (&json!("native"), &json!("forwarded"))
        );
        let text = scene.run(&["flows", "--last", "1"])?.success()?.stdout;
        let said = "audited by AuthorizationPolicy default/watch dry run of \
                    AuthorizationPolicy default/deny-next";
        assert!(text.trim_end().ends_with(said), "{text}");
        wait_for("a line of the access log", || {
            let log = std::fs::read_to_string(bed.state.path().join("access.log"))?;
            let Some(line) = log.lines().nth(1) else { return Ok(false) };
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            assert_eq!(reports(&line), (&audit, &dry_run), "{line:#}");
            Ok(true)
        })?;
        // a change holds for what is told of next
        report(bed, "{ports: [\"8080\"]}")?;
        ping()?;
        let flows = scene.wait_for_flows(3)?;
        assert_eq!(reports(&flows[2]), (&json!([]), &json!([])), "{flows:#?}");
    }
    Ok(())
}

#[test]
fn requests_that_are_judged_where_they_come_in_are_reported() -> Result<()> {
    let scene = Scene::shaped("visitreports", Shape { servers_in_mesh: true })?;
    let bed = &scene.bed;
    report(bed, "{paths: [/watched*]}")?;
    let mut raw = RawClient::connect_in(&bed.client, bed.v1.addr4(8080), false)?;
    let asked = [("/open", 200), ("/watched", 200), ("/admin", 403), ("/open/2", 200)];
    for (path, status) in asked {
        assert_eq!(raw.get("web", path, &[])?.status, status, "{path}");
    }
    drop(raw);
    let flows = scene.wait_for_flows(asked.len())?;
    let (audit, dry_run) = names();
    for flow in &flows {
        let wanted = match flow["path"].as_str() {
            Some("/watched") => (&audit, &dry_run),
            _ => (&json!([]), &json!([])),
        };
        assert_eq!((reports(flow), &flow["direction"]), (wanted, &json!("inbound")), "{flow:#}");
    }
    Ok(())
}
