//! Requests of who comes from outside of the mesh are counted where they come in.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use beeway_testbed::{Load, Place, Pod, RawClient, slurp};

use crate::bed::{Bed, JASON, LIMIT, Shape, wait_until};
use crate::{told, wait_for_sum};

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
";

/// Beside the policy's bed somebody whom the configuration does not know.
fn bed(label: &str) -> Result<(Bed, Pod)> {
    let bed = Bed::new(label, Shape { servers_in_mesh: true }, JASON)?;
    let before = bed.generation()?;
    bed.write("policy.yaml", POLICY)?;
    bed.wait_for_generation(before)?;
    let stranger = bed.node.plain_pod("stranger")?;
    Ok((bed, stranger))
}

fn visit(bed: &Bed, who: &Pod, path: &str, requests: u64, close: bool) -> Result<()> {
    let url = format!("http://{}{path}", bed.v1.addr4(8080));
    let load = Load::new(url, requests).header("Host: web").connections(4);
    let load = if close { load.close() } else { load };
    let report = load.command(who)?.plain().output(LIMIT)?.success()?;
    let report = beeway_testbed::LoadReport::parse(&report.stdout)?;
    ensure!(report.errors == 0 && report.requests == requests, "{report:?}");
    Ok(())
}

#[test]
fn who_comes_in_is_counted_once_by_name() -> Result<()> {
    let (mut bed, stranger) = bed("visitsum")?;
    let mut open = 0;
    for turn in 0..2 {
        visit(&bed, &stranger, "/open", 200, false)?;
        visit(&bed, &stranger, "/open", 100, true)?;
        visit(&bed, &stranger, "/status/503", 50, false)?;
        visit(&bed, &stranger, "/admin", 40, false)?;
        // one that the configuration knows, and that is not in the mesh
        visit(&bed, &bed.client, "/open", 60, false)?;
        open += 410;
        wait_for_sum(&bed, open + 40 * (turn + 1))?;
        let mut agent = bed.agent.take().expect("an agent runs");
        match turn {
            0 => agent.kill9(),
            _ => drop(agent.terminate(LIMIT)?),
        }
        // what needs no agent is counted without one
        visit(&bed, &stranger, "/open", 30, turn == 0)?;
        open += 30;
        bed.start_agent()?;
        wait_for_sum(&bed, open + 40 * (turn + 1))?;
    }
    let counted = wait_for_sum(&bed, open + 80)?;
    for (labels, wanted) in [
        (vec![("reporter", "destination")], open + 80),
        (vec![("destination_workload", "v1"), ("destination_service_name", "v1")], open + 80),
        (vec![("response_code", "200"), ("lane", "native")], open - 100),
        (vec![("response_code", "503"), ("lane", "native")], 100),
        (vec![("response_code", "403"), ("lane", "answered")], 80),
        (vec![("source_workload", "client")], 120),
        (vec![("source_workload", "unknown"), ("source_principal", "unknown")], open - 120 + 80),
    ] {
        assert_eq!(counted.sum("istio_requests_total", &labels), wanted, "{labels:?}\n{counted}");
    }
    for (lane, reason, wanted) in [("native", "visit", open), ("answered", "denied", 80)] {
        let labels = [("lane", lane), ("reason", reason)];
        assert_eq!(counted.sum("beeway_requests_total", &labels), wanted, "{counted}");
    }
    Ok(())
}

#[test]
fn who_comes_in_is_told_of_with_bytes_and_time() -> Result<()> {
    let (mut bed, stranger) = bed("visittold")?;
    let to = SocketAddr::new(bed.v1.ip4().into(), 8080);
    let mut raw = RawClient::connect_in(&stranger, to, false)?;
    let long = slurp(&stranger, &format!("http://{to}/bytes/3000000"))?;
    long.args(["-H", "Host: web"]).plain().output(LIMIT)?.success()?;
    assert_eq!(raw.get("web", "/delay/300/x", &["user-agent: visitor"])?.status, 200);
    let body = "x".repeat(200_000);
    let post =
        format!("POST /sum HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(raw.request(&post)?.status, 200);
    // the connection stays: that the last answer has come is told by its silence
    let counted = wait_for_sum(&bed, 3)?;
    let labels = [("reporter", "destination"), ("response_code", "200")];
    assert_eq!(counted.sum("istio_requests_total", &labels), 3, "{counted}");
    let sum = |name: &str| counted.sum(&format!("istio_{name}_sum"), &labels);
    let (received, sent) = (sum("response_bytes"), sum("request_bytes"));
    assert!((3_000_100..3_002_000).contains(&received), "{received}: {counted}");
    assert!((200_050..200_600).contains(&sent), "{sent}: {counted}");
    let waited = sum("request_duration_milliseconds");
    assert!((300..1500).contains(&waited), "{waited} ms: {counted}");

    let mut flows = Vec::new();
    wait_until("three are told of", || {
        flows = told(&bed, &[])?;
        Ok(flows.len() == 3)
    })?;
    let slow = flows.iter().find(|flow| flow["path"] == "/delay/300/x");
    let slow = slow.unwrap_or_else(|| panic!("{flows:#?}"));
    assert_eq!(slow["direction"], "inbound", "{slow}");
    assert_eq!((&slow["verdict"], &slow["lane"]), (&"forwarded".into(), &"native".into()));
    assert_eq!((&slow["method"], &slow["status"]), (&"GET".into(), &200.into()));
    assert_eq!(slow["destination"]["workload"], "v1", "{slow}");
    assert_eq!(slow["service"]["name"], "v1", "{slow}");
    assert!(slow["duration_us"].as_f64().is_some_and(|us| us > 299_000.0), "{slow}");
    // one whose server goes away has no status
    raw.send("GET /delay/8000/x HTTP/1.1\r\nHost: web\r\n\r\n")?;
    wait_until("it is under way", || Ok(bed.requests("native", "visit")? == 4))?;
    bed.stop_servers();
    let counted = wait_for_sum(&bed, 4)?;
    assert_eq!(counted.sum("istio_requests_total", &[("response_code", "0")]), 1, "{counted}");
    Ok(())
}
