//! Long bodies by detour, and the ends of connections with detours: what is held back, what arrives,
//! and what a client sees when there is nothing more.

#[path = "../bed/mod.rs"]
mod bed;
mod ends;
mod uploads;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, JASON, LIMIT, Shape, WEB};
use beeway_testbed::RawClient;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A bed whose detours go over the network, from v1's connection to v2.
fn bed(label: &str) -> Result<Bed> {
    Bed::new(label, Shape { servers_in_mesh: false }, JASON)
}

fn connect(bed: &Bed) -> Result<RawClient> {
    RawClient::connect(&bed.client, WEB.parse()?)
}

/// A request by detour, to v2.
fn other(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\nend-user: jason\r\n\r\n")
}

/// The head of an upload by detour.
fn upload_head(path: &str, bytes: u64) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: web\r\nend-user: jason\r\nContent-Length: {bytes}\r\n\r\n"
    )
}

/// Waits until what the agent says of its proxy is as it should be.
fn eventually(bed: &Bed, holds: impl Fn(&Value) -> bool) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let status = bed.status()?;
        if holds(&status["proxy"]) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{:#}", status["proxy"]);
        std::thread::sleep(Duration::from_millis(10));
    }
}
