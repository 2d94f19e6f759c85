//! WebSocket as a common library speaks it: Python's `websockets` (Debian package
//! python3-websockets).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::node::Place;
use crate::process::{Process, debian_python};

/// What it does is written at its top.
const SCRIPT: &str = include_str!("websocket.py");

/// How long a server may take to start, and a step to be over.
const LIMIT: Duration = Duration::from_secs(90);

/// Starts an echo server on all addresses. Its first message is JSON: its `name`, and the `path` and
/// `headers` that it was asked for.
pub fn websocket_server(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    let python = debian_python("python3-websockets")?;
    let process =
        place.command(python).args(["-c", SCRIPT, "serve", &port.to_string(), name]).spawn()?;
    let listens = process.wait_for_line("listening", LIMIT);
    listens.with_context(|| process.stderr().join("\n"))?;
    Ok(process)
}

/// A client with one connection at a time.
#[derive(Debug)]
pub struct WebSocket {
    process: Process,
}

impl WebSocket {
    /// Starts it, without a connection.
    pub fn start(place: &impl Place) -> Result<WebSocket> {
        let python = debian_python("python3-websockets")?;
        Ok(WebSocket { process: place.command(python).args(["-c", SCRIPT, "call"]).spawn()? })
    }

    /// Connects to an address, whatever the URL's is; `ok`, or the `status` of the answer.
    pub fn open(&mut self, to: SocketAddr, url: &str, headers: &Value) -> Result<Value> {
        self.step(&json!({ "open": url, "to": to.to_string(), "headers": headers }))
    }

    /// Makes a step, as `websocket.py` describes them; what came of it.
    pub fn step(&mut self, step: &Value) -> Result<Value> {
        self.process.write_line(&step.to_string())?;
        let line = self.process.next_line(LIMIT);
        let line = line.with_context(|| self.process.stderr().join("\n"))?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}
