//! What the agent tells of traffic is what was sent: every request once, under its own names, also
//! across agents that end, are killed, or hand over.

#[path = "../bed/mod.rs"]
mod bed;
mod denied;
mod prometheus;
mod room;
mod visits;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use bed::{Bed, JASON, LIMIT, Shape, WEB, metrics_address, wait_until};
use beeway_testbed::{Load, Place, RawClient, Scrape, slurp, spawn_ready, tcp_echo, tcp_ping};
use serde_json::Value;

const NATIVE: Shape = Shape { servers_in_mesh: false };
const SHORTCUT: Shape = Shape { servers_in_mesh: true };
const URL: &str = "http://10.96.0.10:80/";

fn load(bed: &Bed, path: &str, header: Option<&str>, requests: u64) -> Result<()> {
    let mut load = Load::new(format!("{URL}{path}"), requests).header("Host: web").connections(4);
    if let Some(header) = header {
        load = load.header(header);
    }
    let report = load.run(&bed.client)?;
    ensure!(report.errors == 0 && report.requests == requests, "{report:?}");
    Ok(())
}

/// Waits until as many requests are counted, and shows what is; fails when there are ever more.
fn wait_for_sum(bed: &Bed, wanted: u64) -> Result<Scrape> {
    let mut last = Scrape::default();
    wait_until(&format!("{wanted} requests are counted"), || {
        last = bed.scrape()?;
        let sum = last.sum("istio_requests_total", &[]);
        ensure!(sum <= wanted, "{sum} requests are counted of {wanted}: {last}");
        Ok(sum == wanted)
    })?;
    Ok(last)
}

/// The newest flows that the agent tells of.
fn told(bed: &Bed, arguments: &[&str]) -> Result<Vec<Value>> {
    let mut command = std::process::Command::new(bed::binary());
    command.args(["flows", "--json", "--last", "1000", "--state"]).arg(bed.state.path());
    let output = command.args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn every_request_is_counted_once_under_its_lane_and_names() -> Result<()> {
    for (shape, lane) in [(NATIVE, "native"), (SHORTCUT, "shortcut")] {
        let bed = Bed::new("sums", shape, JASON)?;
        load(&bed, "", None, 1000)?;
        load(&bed, "", Some("end-user: jason"), 300)?;
        load(&bed, "forbidden/x", None, 200)?;
        load(&bed, "status/503", None, 50)?;
        let counted = wait_for_sum(&bed, 1550)?;
        let name = "istio_requests_total";
        for (labels, wanted) in [
            (vec![("response_code", "200"), ("destination_workload", "v1")], 1000),
            (vec![("lane", "detour"), ("destination_workload", "v2")], 300),
            (vec![("lane", "answered"), ("response_code", "403")], 200),
            (vec![("response_code", "503"), ("destination_workload", "v1")], 50),
            (vec![("source_workload", "client"), ("reporter", "source")], 1550),
            (vec![("destination_service", "web.default.svc.cluster.local")], 1550),
        ] {
            assert_eq!(counted.sum(name, &labels), wanted, "{labels:?}\n{counted}");
        }
        // the first requests of a connection may come before its other end is known
        let straight = counted.sum(name, &[("lane", "native")]);
        assert_eq!(straight + counted.sum(name, &[("lane", "shortcut")]), 1050, "{counted}");
        assert!(counted.sum(name, &[("lane", lane)]) >= 1000, "{counted}");
        for lane in ["native", "shortcut", "detour", "answered", "refused"] {
            assert_eq!(
                counted.sum(name, &[("lane", lane)]),
                counted.sum("beeway_requests_total", &[("lane", lane)]),
                "{lane}: {counted}"
            );
        }
        let ok = [("response_code", "200")];
        for histogram in ["request_duration_milliseconds", "request_bytes", "response_bytes"] {
            let counts = counted.sum(&format!("istio_{histogram}_count"), &ok);
            assert_eq!(counts, 1300, "{histogram}: {counted}");
        }
        let sizes = counted.sum("istio_response_bytes_sum", &[("destination_workload", "v1")]);
        assert!((1050 * 50..1050 * 1000).contains(&sizes), "{sizes} bytes");
    }
    Ok(())
}

#[test]
fn sums_go_on_over_agents_that_end_or_are_killed() -> Result<()> {
    let mut bed = Bed::new("restart", SHORTCUT, JASON)?;
    let mut sent = 0;
    for turn in 0..4 {
        load(&bed, "", None, 250)?;
        load(&bed, "", Some("end-user: jason"), 150)?;
        load(&bed, "forbidden/x", None, 100)?;
        sent += 500;
        let mut agent = bed.agent.take().expect("an agent runs");
        match turn % 2 {
            0 => agent.kill9(),
            _ => drop(agent.terminate(LIMIT)?),
        }
        // what needs no agent is counted without one
        load(&bed, "", None, 100)?;
        sent += 100;
        bed.start_agent()?;
        let counted = wait_for_sum(&bed, sent)?;
        let detoured = counted.sum("istio_requests_total", &[("lane", "detour")]);
        assert_eq!(detoured, 150 * (turn + 1), "{counted}");
    }
    Ok(())
}

#[test]
fn long_answers_and_bodies_have_their_bytes_and_time() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("bytes", shape, "- route: [{destination: {host: web, subset: v1}}]\n")?;
        let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
        let long = slurp(&bed.client, &format!("{URL}bytes/3000000"))?.args(["-H", "Host: web"]);
        long.output(LIMIT)?.success()?;
        assert_eq!(raw.get("web", "/delay/300/x", &[])?.status, 200);
        let body = "x".repeat(200_000);
        let post = format!(
            "POST /sum HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(raw.request(&post)?.status, 200);
        let counted = wait_for_sum(&bed, 3)?;
        let received = counted.sum("istio_response_bytes_sum", &[]);
        assert!((3_000_100..3_002_000).contains(&received), "{received}: {counted}");
        let sent = counted.sum("istio_request_bytes_sum", &[]);
        assert!((200_050..200_600).contains(&sent), "{sent}: {counted}");
        let waited = counted.sum("istio_request_duration_milliseconds_sum", &[]);
        assert!((300..1500).contains(&waited), "{waited} ms: {counted}");
        assert_eq!(counted.sum("istio_requests_total", &[("response_code", "200")]), 3);
    }
    Ok(())
}

#[test]
fn connections_are_counted_with_their_bytes() -> Result<()> {
    let mut bed = Bed::new("tcp", NATIVE, JASON)?;
    for pod in [&bed.v1, &bed.v2] {
        bed.servers.push(spawn_ready(tcp_echo(pod, 7007)?)?);
    }
    let to: SocketAddr = "10.96.0.12:7".parse()?;
    for _ in 0..5 {
        tcp_ping(&bed.client, to, 20)?.output(LIMIT)?.success()?;
    }
    let mut counted = Scrape::default();
    wait_until("five connections have ended", || {
        counted = bed.scrape()?;
        Ok(counted.sum("istio_tcp_connections_closed_total", &[]) == 5)
    })?;
    assert_eq!(counted.sum("istio_tcp_connections_opened_total", &[]), 5, "{counted}");
    let (sent, received) = (
        counted.sum("istio_tcp_sent_bytes_total", &[("destination_app", "web")]),
        counted.sum("istio_tcp_received_bytes_total", &[("destination_app", "web")]),
    );
    assert!(sent == received && sent >= 5 * 20, "{sent} and {received}: {counted}");
    Ok(())
}

#[test]
fn a_request_that_waits_is_counted_when_its_answer_has_come() -> Result<()> {
    let bed = Bed::new("waits", NATIVE, JASON)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    raw.send("GET /delay/2500/x HTTP/1.1\r\nHost: web\r\n\r\n")?;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(bed.scrape()?.sum("istio_requests_total", &[]), 0, "it is under way");
    assert_eq!(raw.response()?.status, 200);
    let counted = wait_for_sum(&bed, 1)?;
    let took = counted.sum("istio_request_duration_milliseconds_sum", &[]);
    assert!((2500..3500).contains(&took), "{took} ms");
    // one whose client goes away has no status
    raw.send("GET /delay/8000/x HTTP/1.1\r\nHost: web\r\n\r\n")?;
    std::thread::sleep(Duration::from_millis(100));
    drop(raw);
    let counted = wait_for_sum(&bed, 2)?;
    assert_eq!(counted.sum("istio_requests_total", &[("response_code", "0")]), 1, "{counted}");
    Ok(())
}

#[test]
fn who_says_nothing_uses_up_neither_descriptors_nor_metrics() -> Result<()> {
    let bed = Bed::new("silent", NATIVE, JASON)?;
    let agent = bed.agent.as_ref().expect("an agent runs");
    let (address, files) = (metrics_address(agent)?, format!("/proc/{}/fd", agent.pid()));
    let descriptors = || Ok::<_, anyhow::Error>(std::fs::read_dir(&files)?.count());
    let before = descriptors()?;
    let silent: std::io::Result<Vec<TcpStream>> =
        bed.node.run_in(|| (0..100).map(|_| TcpStream::connect(&address)).collect())?;
    let silent = silent?;
    agent.wait_for_line("as many connections as there may be", LIMIT)?;
    let most = descriptors()?;
    ensure!(most < before + 80, "{before} open files became {most}");
    drop(silent);
    let counted = bed.scrape()?;
    let port = [("port", "metrics")];
    ensure!(counted.sum("beeway_port_full_total", &port) > 0, "it is counted");
    let limit = counted.value("beeway_port_connections_limit")? as u64;
    let open = counted.sum("beeway_port_connections", &port);
    ensure!((1..=limit).contains(&open), "{open} connections of {limit}");
    Ok(())
}
