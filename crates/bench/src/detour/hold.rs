//! Many idle client connections. Runs inside a pod.

use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::routes::ask::Connection;

/// What each connection asks for.
const HEAD: &str = "GET / HTTP/1.1\r\nHost: web\r\nend-user: jason\r\n\r\n";

/// What is said once all connections stand.
pub const HELD: &str = "held";

/// Connects so many times, sends one request on each connection, says so, and holds the
/// connections until standard input ends.
pub fn run(to: SocketAddr, count: u32) -> Result<()> {
    let mut connections = Vec::new();
    for n in 0..count {
        let mut connection = Connection::open(to).with_context(|| format!("connection {n}"))?;
        let (status, _) = connection.ask(HEAD).with_context(|| format!("connection {n}"))?;
        ensure!(status == 200, "connection {n} was answered {status}");
        connections.push(connection);
    }
    println!("{HELD}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
