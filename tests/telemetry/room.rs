//! What there is no room for.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use beeway_testbed::{Place, curl};

use super::{Bed, JASON, NATIVE, wait_for_sum};

/// Addresses of one service: each is another one to ask.
const ADDRESSES: u8 = 7;

fn many(bed: &Bed) -> String {
    let mut text =
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: many}\n\
         spec:\n  hosts: [many.example]\n  resolution: STATIC\n\
         \x20 ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\n"
            .to_owned();
    let addresses: Vec<String> = (1..=ADDRESSES).map(|n| format!("10.97.0.{n}")).collect();
    let endpoint = bed.v1.addr4(8080).ip();
    writeln!(text, "  addresses: [{}]", addresses.join(", ")).expect("a string takes it");
    writeln!(text, "  endpoints: [{{address: {endpoint}}}]").expect("a string takes it");
    text
}

#[test]
fn kinds_of_requests_without_room_are_counted_together_and_each_request() -> Result<()> {
    let bed = Bed::new("room", NATIVE, JASON)?;
    let before = bed.generation()?;
    bed.write("many.yaml", &many(&bed))?;
    bed.wait_for_generation(before)?;
    let all = format!("http://10.97.0.[1-{}]/status/[200-999]", ADDRESSES - 1);
    curl(&bed.client, &["-sS", "-o", "/dev/null", &all])?.success()?;
    let sent = u64::from(ADDRESSES - 1) * 800;
    // the agent has looked at all connections since
    std::thread::sleep(Duration::from_millis(1500));
    let full = bed.counter("series_full")?;
    assert!(full > 0, "{sent} kinds of requests had room");
    // of one kind, and so counted some at a time
    let one = format!("http://10.97.0.{ADDRESSES}/?[1-40]");
    curl(&bed.client, &["-sS", "-o", "/dev/null", &one])?.success()?;
    let counted = wait_for_sum(&bed, sent + 40)?;
    assert_eq!(bed.counter("series_full")?, full + 40);
    let unknown = [("source_workload", "unknown"), ("response_code", "200")];
    assert!(counted.sum("istio_requests_total", &unknown) >= 40, "{counted}");
    Ok(())
}
