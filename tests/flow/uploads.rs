//! Uploads by detour.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_testbed::{Command, Load, LoadReport, Place, Pod, RawClient, pattern, slurp, upload};
use serde_json::{Value, json};

use crate::bed::{Bed, JASON, LIMIT, Shape, WEB, WEB6};
use crate::{MIB, bed, connect, eventually, upload_head};

const UPLOADER: &str = include_str!("uploader.py");

/// Uploads by detour, and returns what the client saw.
fn upload_by_detour(bed: &Bed, to: &str, bytes: u64, arguments: &[&str]) -> Result<Value> {
    let upload = upload(&bed.client, &format!("http://{to}/sum"), bytes)?
        .args(["-H", "Host: web", "-H", "end-user: jason"])
        .args(arguments);
    let output = upload.spawn()?.output(Duration::from_secs(120))?.success()?;
    Ok(output.json().pop().unwrap_or_default())
}

#[test]
fn an_upload_arrives() -> Result<()> {
    let bed = bed("upload")?;
    let kinds = [&[][..], &["--chunked"], &["--write-size", "1000"], &["--expect"]];
    for (to, arguments) in kinds.map(|kind| (WEB, kind)).into_iter().chain([(WEB6, kinds[0])]) {
        let report = upload_by_detour(&bed, to, 64 * MIB, arguments)?;
        assert_eq!(report["reply"]["sha256"], pattern::sha256(64 * MIB), "{arguments:?} {report}");
        assert_eq!(report["served_by"], "v2");
    }
    assert_eq!(bed.counter("connections_held")?, 5);
    assert_eq!(bed.status()?["proxy"]["aborted"], 0);
    // what is small stays on the bus
    let report = upload_by_detour(&bed, WEB, 100_000, &[])?;
    assert_eq!(report["reply"]["bytes"], 100_000);
    assert_eq!(bed.counter("connections_held")?, 5);
    Ok(())
}

#[test]
fn a_connection_is_good_for_more_after_an_upload() -> Result<()> {
    let bed = bed("after")?;
    let mut raw = connect(&bed)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    let body = "x".repeat(300_000);
    for _ in 0..2 {
        let answer = raw.request(&format!("{}{body}", upload_head("/sum", 300_000)))?;
        assert!(answer.body.contains("300000"), "{}", answer.body);
    }
    for _ in 0..3 {
        assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
        assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    }
    assert_eq!(raw.get("web", "/forbidden", &[])?.status, 403);
    raw.shutdown_write()?;
    assert_eq!(raw.recv_until_close()?, (String::new(), "eof".into()));
    eventually(&bed, |proxy| proxy["open_streams"] == 0)
}

/// Bytes in the send and receive queues of a place's TCP sockets of a port, local or remote.
fn queues(place: &impl Place, port: u16) -> Result<(u64, u64)> {
    let read = || -> std::io::Result<String> {
        let of = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        Ok(of("tcp")? + &of("tcp6")?)
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    let of_port = |end: &str| end.ends_with(&format!(":{port:04X}"));
    let mut sums = (0, 0);
    for line in place.run_in(read)??.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let Some((send, receive)) = fields[4].split_once(':')
            && (of_port(fields[1]) || of_port(fields[2]))
        {
            sums = (sums.0 + hex(send), sums.1 + hex(receive));
        }
    }
    Ok(sums)
}

#[test]
fn a_stalled_upload_holds_little_and_only_itself() -> Result<()> {
    stall(&bed("stalled")?)
}

#[test]
fn so_does_one_that_skips_tcp() -> Result<()> {
    stall(&Bed::new("stalled", Shape { servers_in_mesh: true }, JASON)?)
}

fn stall(bed: &Bed) -> Result<()> {
    const BYTES: u64 = 256 * MIB;
    let url = format!("http://{WEB}/delay/4000/sum");
    let upload = upload(&bed.client, &url, BYTES)?
        .args(["-H", "Host: web", "-H", "end-user: jason"])
        .spawn()?;
    eventually(bed, |proxy| proxy["direct_streams"] == 1)?;
    std::thread::sleep(Duration::from_secs(1));
    let (first, others) = (bed.status()?, connect(bed)?.get("web", "/", &["end-user: jason"])?);
    assert_eq!(others.served_by(), Some("v2"));
    std::thread::sleep(Duration::from_millis(500));
    let last = bed.status()?;
    let taken = last["proxy"]["bytes_in"].as_u64().unwrap_or_default();
    // The socket in the endpoint's place has its port, in the client's namespace. What the proxy
    // has sent on is in TCP's queues between it and its endpoint, but for what skipped TCP.
    let waiting = queues(&bed.client, 8080)?.1;
    let skipped = bed.counter("shortcut_bytes")?;
    let sent_on = queues(&bed.node, 8080)?.0 + queues(&bed.v2, 8080)?.1 + skipped;
    eprintln!("{taken} bytes taken, of them {sent_on} sent on, {skipped} past TCP; {waiting} wait");
    assert!(skipped <= MIB, "{skipped} bytes skipped TCP");
    assert!(taken - first["proxy"]["bytes_in"].as_u64().unwrap_or_default() < 1000, "stalled");
    assert!(waiting >= 16 << 10, "{waiting} bytes wait");
    // and the head, and what the endpoint has read with it
    assert!(taken + waiting <= sent_on + (256 << 10) + (16 << 10), "too much is held");
    let report = upload.output(Duration::from_secs(60))?.success()?.json().pop();
    let report = report.unwrap_or_default();
    assert_eq!(report["reply"]["sha256"], pattern::sha256(BYTES), "{report}");
    Ok(())
}

/// An upload by detour to `web`, by an event loop of this kind.
fn uploader(client: &Pod, ip: &str, path: &str, bytes: u64, mode: &str) -> Result<Command> {
    let command = client.command("python3").args(["-c", UPLOADER, ip, "80", path]);
    Ok(command.args([&bytes.to_string(), mode]))
}

#[test]
fn an_ipv6_socket_uploads_to_an_ipv4_address() -> Result<()> {
    let bed = bed("mapped")?;
    let command = uploader(&bed.client, "::ffff:10.96.0.10", "/sum", 8 * MIB, "edge")?;
    let report = command.output(Duration::from_secs(60))?.success()?.json().pop();
    let report = report.unwrap_or_default();
    assert!(report["body"].as_str().unwrap_or_default().contains("8388608"), "{report}");
    assert_eq!(bed.counter("connections_held")?, 1);
    Ok(())
}

/// v1 is the native endpoint of a pod that calls itself: both ends are in one network namespace.
#[test]
fn a_pod_that_calls_itself_uploads_elsewhere() -> Result<()> {
    let bed = Bed::new("itself", Shape { servers_in_mesh: true }, JASON)?;
    let mut raw = RawClient::connect_in(&bed.v1, WEB.parse()?, true)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    let body = "x".repeat(500_000);
    for _ in 0..2 {
        let answer = raw.request(&format!("{}{body}", upload_head("/sum", 500_000)))?;
        assert!(answer.body.contains("500000"), "{}", answer.body);
        assert_eq!(answer.served_by(), Some("v2"));
    }
    assert_eq!(bed.counter("connections_held")?, 1);
    Ok(())
}

/// Bytes that have come to a pod over the network.
fn received(pod: &Pod) -> Result<u64> {
    let table = pod.run_in(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let bytes = line.and_then(|line| line.split_whitespace().next()).context("no eth0")?;
    Ok(bytes.parse()?)
}

#[test]
fn nothing_of_an_upload_by_detour_gets_to_the_native_endpoint() -> Result<()> {
    let bed = bed("leak")?;
    let before = (received(&bed.v1)?, received(&bed.v2)?);
    let one_write = (16 * MIB).to_string();
    for arguments in [&[][..], &["--chunked"], &["--write-size", &one_write]] {
        let report = upload_by_detour(&bed, WEB, 16 * MIB, arguments)?;
        assert_eq!(report["reply"]["bytes"], 16 * MIB, "{report}");
    }
    let (native, detour) = (received(&bed.v1)? - before.0, received(&bed.v2)? - before.1);
    assert!(detour > 48 * MIB, "{detour}");
    assert!(native < 100_000, "{native} bytes came to v1");
    Ok(())
}

#[test]
fn event_loops_wait_for_a_stalled_upload_without_spinning() -> Result<()> {
    const BYTES: u64 = 32 * MIB;
    let bed = bed("loops")?;
    let run = |mode| uploader(&bed.client, "10.96.0.10", "/delay/2000/sum", BYTES, mode)?.spawn();
    let modes = ["blocking", "level", "edge", "idle-edge"];
    let running: Vec<_> = modes.iter().map(|mode| run(mode)).collect::<Result<_>>()?;
    for (mode, process) in modes.iter().zip(running) {
        let report = process.output(Duration::from_secs(90))?.success()?.json().pop();
        let report = report.unwrap_or_default();
        eprintln!("{mode}: {report}");
        assert!(report["error"].is_null(), "{mode}: {report}");
        let body = report["body"].as_str().unwrap_or_default();
        assert!(body.contains(&BYTES.to_string()), "{mode}: {report}");
        assert!(report["seconds"].as_f64() > Some(1.9), "it did not stall: {report}");
        // Two seconds of waiting, and the copying of 32 MiB.
        assert!(report["cpu"].as_f64() < Some(1.0), "{mode} spins: {report}");
        assert!(report["wakes"].as_u64() < Some(20_000), "{mode} spins: {report}");
    }
    assert_eq!(bed.counter("connections_held")?, 4);
    Ok(())
}

#[test]
fn a_client_that_resets_its_upload_takes_it_along() -> Result<()> {
    let bed = bed("reset")?;
    let mut raw = connect(&bed)?;
    raw.send(&upload_head("/sum", 10 * MIB))?;
    raw.send(&"x".repeat(MIB as usize))?;
    eventually(&bed, |proxy| proxy["direct_streams"] == 1 && proxy["upstream_connections"] == 1)?;
    raw.step(&json!({ "reset": true }))?;
    eventually(&bed, |proxy| proxy["open_streams"] == 0 && proxy["upstream_connections"] == 0)
}

#[test]
fn an_agent_that_dies_during_an_upload_leaves_nobody_waiting() -> Result<()> {
    let mut bed = bed("died")?;
    let mut raw = connect(&bed)?;
    raw.send(&upload_head("/sum", 10 * MIB))?;
    raw.send(&"x".repeat(MIB as usize))?;
    eventually(&bed, |proxy| proxy["direct_streams"] == 1)?;
    bed.agent.take().expect("an agent runs").kill9();
    let (_, end) = raw.recv_until_close()?;
    assert!(["eof", "ECONNRESET"].contains(&end.as_str()), "{end}");
    // and it can come back
    bed.start_agent()?;
    assert_eq!(connect(&bed)?.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    Ok(())
}

#[test]
fn a_gibibyte_each_way_leaves_others_in_peace() -> Result<()> {
    const BYTES: u64 = 1 << 30;
    // userspace sends these to v1, and what is long to v2, so that they share nothing but it
    let rules = "\
- match: [{headers: {x-short: {exact: \"1\"}}}]
  headers: {request: {add: {x-added: \"1\"}}}
  route: [{destination: {host: web, subset: v1}}]
";
    let bed = Bed::new("gibibyte", Shape { servers_in_mesh: false }, &format!("{rules}{JASON}"))?;
    let url = format!("http://{WEB}/");
    let load = || -> Result<LoadReport> {
        let (duration, pause) = (Duration::from_secs(3), Duration::from_millis(50));
        let load = Load { duration, pause, ..Load::new(&url, 0) };
        load.header("Host: web").header("x-short: 1").connections(100).run(&bed.client)
    };
    let alone = load()?;
    let jason = ["-H", "Host: web", "-H", "end-user: jason"];
    let up = upload(&bed.client, &format!("http://{WEB}/sum"), BYTES)?.args(jason).spawn()?;
    let down = slurp(&bed.client, &format!("http://{WEB}/bytes/{BYTES}"))?.args(jason).spawn()?;
    let begun = Instant::now();
    let beside = load()?;
    let up = up.output(Duration::from_secs(200))?.success()?.json().pop().unwrap_or_default();
    let down = down.output(Duration::from_secs(200))?.success()?.json().pop().unwrap_or_default();
    let took = begun.elapsed();
    assert!(bed.lane("detour")? > 1000);
    eprintln!("p99 {} us alone, {} us beside; {took:?}", alone.p99_us, beside.p99_us);
    assert_eq!(up["reply"]["sha256"], pattern::sha256(BYTES), "{up}");
    assert_eq!(down["sha256"], pattern::sha256(BYTES), "{down}");
    assert_eq!((alone.errors, beside.errors), (0, 0), "{:?}", beside.messages);
    assert!(took < 10 * LIMIT);
    Ok(())
}
