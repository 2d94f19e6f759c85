//! What is queued is bounded, and what was queued arrives.

mod bed;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, JASON, Shape, WEB};
use beeway_testbed::{Place, Pod, pattern, slurp};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Bytes in the send and receive queues of a pod's or node's established TCP sockets.
fn tcp_queues(place: &impl Place) -> Result<(u64, u64)> {
    let table = place.run_in(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    let mut sums = (0, 0);
    for line in table.lines().skip(1) {
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
    let download = slurp(&bed.client, &format!("http://{WEB}/bytes/{GIB}"))?
        .args(["--pause-ms", "4000", "-H", "Host: web", "-H", header])
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(30);
    while bed.counter(counter)? == before {
        ensure!(Instant::now() < end, "the download does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    // the queues stand still once the sender is blocked; the reader waits for longer than this
    let begun = Instant::now();
    let mut held = 0;
    while begun.elapsed() < Duration::from_millis(3000) {
        std::thread::sleep(Duration::from_millis(50));
        let redirected = bed.counter(counter)? - before;
        held = match counter {
            "injected_bytes" => redirected + tcp_queues(&bed.node)?.1,
            _ => redirected + tcp_queues(&bed.client)?.1 + tcp_queues(server)?.0,
        };
    }
    let report = download.output(Duration::from_secs(120))?.success()?.json().pop();
    let report = report.unwrap_or_default();
    assert_eq!(report["bytes"], GIB, "{report}");
    assert_eq!(report["sha256"], pattern::sha256(GIB as _), "every byte arrived in its place");
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
