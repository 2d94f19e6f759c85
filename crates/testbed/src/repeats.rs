//! A TCP server whose segments are those that a test wants, whatever a kernel would send.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::node::Place;
use crate::process::{Process, debian_python};

/// What it does is written at its top.
const SCRIPT: &str = include_str!("repeats.py");

/// How long it may take to start, and to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A server at the other end of a tun device of the client's own network namespace.
#[derive(Debug)]
pub struct RepeatingServer {
    process: Process,
}

impl RepeatingServer {
    /// Starts it with an address that is nobody else's; any port will do.
    pub fn start(client: &impl Place, address: Ipv4Addr) -> Result<RepeatingServer> {
        let python = debian_python("python3")?;
        let command = client.command(python).args(["-c", SCRIPT, &address.to_string()]);
        let server = RepeatingServer { process: command.plain().spawn()? };
        server.process.wait_for_line("listening", LIMIT).with_context(|| server.errors())?;
        Ok(server)
    }

    /// Answers the next request by the segments of a plan: see the top of `repeats.py`.
    pub fn answer(&mut self, plan: &Value) -> Result<()> {
        self.process.write_line(&plan.to_string())
    }

    /// Waits until the answer has been acknowledged to its last byte.
    pub fn wait(&mut self) -> Result<()> {
        loop {
            let line = self.process.next_line(LIMIT).with_context(|| self.errors())?;
            if line == "answered" {
                return Ok(());
            }
        }
    }

    fn errors(&self) -> String {
        self.process.stderr().join("\n")
    }
}
