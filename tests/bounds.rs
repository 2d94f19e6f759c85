//! What is queued is bounded, and what was queued arrives.

mod bed;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, JASON, Shape, WEB};
use beeway_testbed::{Place, Pod, RepeatingServer, pattern, slurp};
use serde_json::json;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Bytes in the send and receive queues of a pod's or node's established TCP sockets.
fn tcp_queues(place: &impl Place) -> Result<(u64, u64)> {
    let table = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{name}"))?;
        Ok::<_, std::io::Error>(text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
    };
    let lines = place.run_in(|| Ok::<_, std::io::Error>([table("tcp")?, table("tcp6")?]))??;
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    let mut sums = (0, 0);
    for line in lines.iter().flatten() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[3] == "01"
            && let Some((send, receive)) = fields[4].split_once(':')
        {
            sums = (sums.0 + hex(send), sums.1 + hex(receive));
        }
    }
    Ok(sums)
}

/// Downloads 1 GiB with a reader that does not read for a while, and returns how many bytes the
/// kernel held for it then: those put into its queue by us, and those of TCP.
fn held_for_a_slow_reader(bed: &Bed, counter: &str, server: &Pod, header: &str) -> Result<u64> {
    let before = bed.counter(counter)?;
    let mut download = slurp(&bed.client, &format!("http://{WEB}/bytes/{GIB}"))?
        .args(["--wait", "-H", "Host: web", "-H", header])
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(60);
    let (mut redirected, mut held, mut since) = (0, 0, Instant::now());
    // the queues stand still once the sender is blocked; the first bytes may be the request's
    while held < 64 * 1024 || since.elapsed() < Duration::from_secs(1) {
        ensure!(Instant::now() < end, "the sender is never blocked: {redirected} of {held} bytes");
        std::thread::sleep(Duration::from_millis(50));
        redirected = bed.counter(counter)? - before;
        let now = match counter {
            "injected_bytes" => redirected + tcp_queues(&bed.node)?.1,
            _ => redirected + tcp_queues(&bed.client)?.1 + tcp_queues(server)?.0,
        };
        if now != held {
            (held, since) = (now, Instant::now());
        }
    }
    download.close_stdin();
    let report = download.output(Duration::from_secs(120))?.success()?.json().pop();
    let report = report.unwrap_or_default();
    assert_eq!(report["bytes"], GIB, "{report}");
    assert_eq!(report["sha256"], pattern::sha256(GIB as _), "every byte in its place: {report}");
    Ok(held)
}

#[test]
fn a_slow_reader_of_a_shortcut_answer() -> Result<()> {
    let bed = Bed::new("slow", Shape { servers_in_mesh: true }, JASON)?;
    let held = held_for_a_slow_reader(&bed, "shortcut_bytes", &bed.v1, "x-none: 1")?;
    eprintln!("the kernel held {held} bytes");
    assert!((64 * 1024..=MIB).contains(&held), "{held} bytes were held");
    assert_eq!(bed.lane("shortcut")?, 1);
    Ok(())
}

#[test]
fn a_slow_reader_of_a_detoured_answer() -> Result<()> {
    let bed = Bed::new("slow", Shape { servers_in_mesh: false }, JASON)?;
    let held = held_for_a_slow_reader(&bed, "injected_bytes", &bed.v2, "end-user: jason")?;
    eprintln!("the kernel held {held} bytes");
    assert!((64 * 1024..=MIB).contains(&held), "{held} bytes were held");
    assert_eq!(bed.lane("detour")?, 1);
    Ok(())
}

/// Downloads with a runtime that takes a short read for the last, when bytes have come both past
/// TCP and by TCP to the socket in question: `is_there` says so, of those past TCP.
fn download_by_edges(
    bed: &Bed,
    bytes: u64,
    header: &str,
    mut is_there: impl FnMut(u64) -> Result<bool>,
) -> Result<()> {
    let before = bed.counter("shortcut_bytes")?;
    let mut download = slurp(&bed.client, &format!("http://{WEB}/bytes/{bytes}"))?
        .args(["--edge", "--wait", "-H", "Host: web", "-H", header])
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(60);
    while !is_there(bed.counter("shortcut_bytes")? - before)? {
        ensure!(Instant::now() < end, "the answer does not come by both ways");
        std::thread::sleep(Duration::from_millis(20));
    }
    download.close_stdin();
    // before the server takes the connection for unused and ends it, which would wake the reader
    let report = download.output(Duration::from_secs(20))?.success()?.json().pop();
    let report = report.unwrap_or_default();
    assert_eq!(report["bytes"], bytes, "{report}");
    assert_eq!(report["sha256"], pattern::sha256(bytes as _), "every byte arrived in its place");
    Ok(())
}

#[test]
fn a_client_that_is_told_once_of_what_has_come() -> Result<()> {
    let bed = Bed::new("edge", Shape { servers_in_mesh: true }, JASON)?;
    for bytes in [600_000, 800_000] {
        download_by_edges(&bed, bytes, "x-none: 1", |skipped| {
            let by_tcp = tcp_queues(&bed.client)?.1;
            let waiting = tcp_queues(&bed.v1)?.0;
            Ok(by_tcp > 0 && skipped + by_tcp + waiting > bytes)
        })?;
    }
    assert_eq!(bed.lane("shortcut")?, 2);
    Ok(())
}

#[test]
fn a_proxy_that_is_told_once_of_what_has_come() -> Result<()> {
    let bed = Bed::new("edge", Shape { servers_in_mesh: true }, JASON)?;
    for bytes in [600_000, 650_000] {
        download_by_edges(&bed, bytes, "end-user: jason", |skipped| {
            let by_tcp = tcp_queues(&bed.node)?.1;
            Ok(by_tcp > 0 && skipped + by_tcp + tcp_queues(&bed.v2)?.0 > bytes)
        })?;
    }
    assert_eq!(bed.lane("detour")?, 2);
    Ok(())
}

/// A service that is at an address behind the client's tun device.
const FAR: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far, namespace: default}
spec:
  hosts: [far.example]
  addresses: [10.96.0.30]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
";

#[test]
fn bytes_that_tcp_brings_twice_are_read_once() -> Result<()> {
    let bed = Bed::new("twice", Shape { servers_in_mesh: false }, JASON)?;
    let before = bed.generation()?;
    bed.write("far.yaml", FAR)?;
    bed.wait_for_generation(before)?;
    let mut server = RepeatingServer::start(&bed.client, "192.0.2.1".parse()?)?;
    // within the queue, out of order, more than the kernel cuts off at once, and all but one byte
    let plan = json!([
        [0, 1000],
        [500, 1500],
        1500,
        [1500, 3000],
        [5000, 7000],
        [6000, 8000],
        [3000, 5500],
        8000,
        [8000, 20000],
        [9000, 40000],
        40000,
        [39000, 40000],
        [20000, 40001],
        [39999, 42000],
    ]);
    let repeated = 500 + 500 + 1000 + 11_000 + 20_000 + 2;
    for wait in [true, false] {
        let counted = bed.counter("repeated_bytes")?;
        server.answer(&plan)?;
        let download = slurp(&bed.client, "http://10.96.0.30:80/")?;
        let mut download = if wait { download.args(["--wait"]) } else { download }.spawn()?;
        server.wait()?;
        download.close_stdin();
        let report = download.output(Duration::from_secs(20))?.success()?.json().pop();
        let report = report.unwrap_or_default();
        assert_eq!(report["bytes"], 42_000, "{report}");
        assert_eq!(report["sha256"], pattern::sha256(42_000), "every byte in its place: {report}");
        assert_eq!(bed.counter("repeated_bytes")? - counted, repeated);
    }
    Ok(())
}
