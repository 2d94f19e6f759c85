//! Uploads by detour.

use std::time::{Duration, Instant};

use anyhow::Result;
use beeway_testbed::{Load, LoadReport, Place, pattern, slurp, upload};
use serde_json::{Value, json};

use crate::bed::{Bed, LIMIT, WEB, WEB6};
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

/// Bytes in the receive queues of a place's TCP sockets whose local port is `port`.
fn unread(place: &impl Place, port: u16) -> Result<u64> {
    let table = place.run_in(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    let queues = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields[1].split_once(':').unwrap_or_default();
        let (_, receive) = fields[4].split_once(':').unwrap_or_default();
        if hex(local) == u64::from(port) { hex(receive) } else { 0 }
    });
    Ok(queues.sum())
}

#[test]
fn a_stalled_upload_holds_little_and_only_itself() -> Result<()> {
    const BYTES: u64 = 256 * MIB;
    let bed = bed("stalled")?;
    let url = format!("http://{WEB}/delay/4000/sum");
    let upload = upload(&bed.client, &url, BYTES)?
        .args(["-H", "Host: web", "-H", "end-user: jason"])
        .spawn()?;
    eventually(&bed, |proxy| proxy["direct_streams"] == 1)?;
    std::thread::sleep(Duration::from_secs(1));
    let (first, others) = (bed.status()?, connect(&bed)?.get("web", "/", &["end-user: jason"])?);
    assert_eq!(others.served_by(), Some("v2"));
    std::thread::sleep(Duration::from_millis(500));
    let last = bed.status()?;
    let taken = last["proxy"]["bytes_in"].as_u64().unwrap_or_default();
    // the socket in the endpoint's place has its port, in the client's namespace
    let (waiting, endpoint) = (unread(&bed.client, 8080)?, unread(&bed.v2, 8080)?);
    eprintln!("the proxy has taken {taken} bytes, {waiting} wait; its endpoint holds {endpoint}");
    assert!(taken - first["proxy"]["bytes_in"].as_u64().unwrap_or_default() < 1000, "stalled");
    assert!((16 << 10..=256 << 10).contains(&waiting), "{waiting} bytes wait");
    // What the proxy has sent on is in TCP's queues, and some in its own and its endpoint's buffers.
    assert!(taken < 8 * MIB, "{taken} bytes were taken");
    let report = upload.output(Duration::from_secs(60))?.success()?.json().pop();
    let report = report.unwrap_or_default();
    assert_eq!(report["reply"]["sha256"], pattern::sha256(BYTES), "{report}");
    Ok(())
}

#[test]
fn event_loops_wait_for_a_stalled_upload_without_spinning() -> Result<()> {
    const BYTES: u64 = 32 * MIB;
    let bed = bed("loops")?;
    let run = |mode: &str| {
        let command = bed.client.command("python3").args(["-c", UPLOADER]);
        let (address, port) = WEB.split_once(':').unwrap_or_default();
        let command = command.args([address, port, "/delay/2000/sum", &BYTES.to_string(), mode]);
        command.spawn()
    };
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
    let bed = bed("gibibyte")?;
    let url = format!("http://{WEB}/");
    let load = |seconds| -> Result<LoadReport> {
        let load = Load { duration: Duration::from_secs(seconds), ..Load::new(&url, 0) };
        let load = load.header("Host: web").header("end-user: jason").connections(100);
        load.run(&bed.client)
    };
    let alone = load(3)?;
    let jason = ["-H", "Host: web", "-H", "end-user: jason"];
    let up = upload(&bed.client, &format!("http://{WEB}/sum"), BYTES)?.args(jason).spawn()?;
    let down = slurp(&bed.client, &format!("http://{WEB}/bytes/{BYTES}"))?.args(jason).spawn()?;
    let begun = Instant::now();
    let beside = load(3)?;
    let up = up.output(Duration::from_secs(200))?.success()?.json().pop().unwrap_or_default();
    let down = down.output(Duration::from_secs(200))?.success()?.json().pop().unwrap_or_default();
    let took = begun.elapsed();
    eprintln!("p99 {} us alone, {} us beside; {took:?}", alone.p99_us, beside.p99_us);
    assert_eq!(up["reply"]["sha256"], pattern::sha256(BYTES), "{up}");
    assert_eq!(down["sha256"], pattern::sha256(BYTES), "{down}");
    assert_eq!((alone.errors, beside.errors), (0, 0), "{:?}", beside.messages);
    assert!(took < 10 * LIMIT);
    Ok(())
}
