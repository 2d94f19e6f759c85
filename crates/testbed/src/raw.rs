//! A raw TCP client inside a pod's cgroup, steered step by step (`bw-peer raw`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::node::Place;
use crate::peer;
use crate::process::Process;

/// How long a step may take before the test fails; steps have shorter limits of their own.
const STEP: Duration = Duration::from_secs(60);

/// A TCP connection held by a process in the pod's cgroup. One step at a time.
#[derive(Debug)]
pub struct RawClient {
    process: Process,
}

/// An HTTP/1.1 answer, as it came.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Headers by lower-case name; repeated ones joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body; each byte one char (latin-1). Empty if longer than 64 KiB: see `sha256`.
    pub body: String,
    /// How long the body is.
    pub body_len: u64,
    /// The digest of the body.
    pub sha256: String,
}

impl Response {
    /// The server's name: header `x-served-by`.
    pub fn served_by(&self) -> Option<&str> {
        self.headers.get("x-served-by").map(String::as_str)
    }
}

impl RawClient {
    /// Connects from a place, in its usual cgroup.
    pub fn connect(place: &impl Place, to: SocketAddr) -> Result<Self> {
        Self::start(peer::raw(place, to)?)
    }

    /// Connects from a place, in the mesh's cgroup or outside of it.
    pub fn connect_in(place: &impl Place, to: SocketAddr, mesh: bool) -> Result<Self> {
        let command = peer::raw(place, to)?;
        Self::start(if mesh { command.mesh() } else { command.plain() })
    }

    fn start(command: crate::Command) -> Result<Self> {
        let mut client = Self { process: command.spawn()? };
        let connected = client.read()?;
        check(&connected).context("connect")?;
        Ok(client)
    }

    /// Runs any step, as `bw-peer raw` describes them, and hands back its line of answer, with
    /// an `error` in it if the step failed.
    pub fn step(&mut self, step: &Value) -> Result<Value> {
        self.process.write_line(&step.to_string())?;
        self.read()
    }

    fn read(&mut self) -> Result<Value> {
        let line = self.process.next_line(STEP)?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    fn checked(&mut self, step: &Value) -> Result<Value> {
        let answer = self.step(step)?;
        check(&answer).with_context(|| step.to_string())?;
        Ok(answer)
    }

    /// Sends text (chars up to U+00FF, each one byte) in one write.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.checked(&json!({ "send": text })).map(drop)
    }

    /// Sends as much of text as the send buffer takes at once; how many bytes that was.
    pub fn send_nonblocking(&mut self, text: &str) -> Result<usize> {
        let answer = self.checked(&json!({ "send_nonblocking": text }))?;
        Ok(answer["bytes"].as_u64().context("no number of bytes")? as usize)
    }

    /// Sends text in writes of `piece` bytes, with a pause between them.
    pub fn dribble(&mut self, text: &str, piece: usize, pause: Duration) -> Result<()> {
        let delay = pause.as_millis() as u64;
        self.checked(&json!({ "send": text, "split": piece, "delay_ms": delay })).map(drop)
    }

    /// Reads one whole HTTP/1.1 answer.
    pub fn response(&mut self) -> Result<Response> {
        let answer = self.checked(&json!({ "recv_response": true }))?;
        let headers = answer["headers"].as_object().into_iter().flatten();
        Ok(Response {
            status: answer["status"].as_u64().context("no status")? as u16,
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned()))
                .collect(),
            body: answer["body"].as_str().unwrap_or("").to_owned(),
            body_len: answer["body_len"].as_u64().unwrap_or(0),
            sha256: answer["sha256"].as_str().unwrap_or("").to_owned(),
        })
    }

    /// Sends text and reads one answer.
    pub fn request(&mut self, text: &str) -> Result<Response> {
        self.send(text)?;
        self.response()
    }

    /// Sends a `GET` with header lines (`name: value`) and reads the answer.
    pub fn get(&mut self, host: &str, path: &str, headers: &[&str]) -> Result<Response> {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"))
    }

    /// What getpeername says.
    pub fn peername(&mut self) -> Result<SocketAddr> {
        self.address("peername")
    }

    /// What getsockname says.
    pub fn sockname(&mut self) -> Result<SocketAddr> {
        self.address("sockname")
    }

    fn address(&mut self, step: &str) -> Result<SocketAddr> {
        let answer = self.checked(&json!({ step: true }))?;
        Ok(answer["addr"].as_str().context("no address")?.parse()?)
    }

    /// Ends the sending direction.
    pub fn shutdown_write(&mut self) -> Result<()> {
        self.checked(&json!({ "shutdown_write": true })).map(drop)
    }

    /// Reads to the end: what came, and how it ended (`eof`, an errno's name or `timeout`).
    pub fn recv_until_close(&mut self) -> Result<(String, String)> {
        let answer = self.step(&json!({ "recv_until_close": true }))?;
        let text = |key: &str| answer[key].as_str().unwrap_or("").to_owned();
        Ok((text("data"), text("end")))
    }

    /// The process that holds the connection.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn check(answer: &Value) -> Result<()> {
    match answer.get("error") {
        Some(error) => bail!("{}: {answer}", error.as_str().unwrap_or("error")),
        None => Ok(()),
    }
}
