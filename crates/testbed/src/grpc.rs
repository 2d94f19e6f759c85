//! gRPC as Google's own library speaks it: Python's `grpc` (Debian package python3-grpcio).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::Command;
use crate::node::Place;
use crate::process::{Process, debian_python};

/// What it does is written at its top.
const SCRIPT: &str = include_str!("grpc.py");

/// How long a server may take to start, and a call to be over; calls have limits of their own.
const LIMIT: Duration = Duration::from_secs(60);

fn script(place: &impl Place) -> Result<Command> {
    Ok(place.command(debian_python("python3-grpcio")?).args(["-c", SCRIPT]))
}

/// Starts a gRPC server on all addresses that tells its name in the trailer `served-by`.
pub fn grpc_server(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    let process = script(place)?.args(["serve", &port.to_string(), name]).spawn()?;
    let listens = process.wait_for_line("listening", LIMIT);
    listens.with_context(|| process.stderr().join("\n"))?;
    Ok(process)
}

/// A gRPC client with one channel.
#[derive(Debug)]
pub struct GrpcClient {
    process: Process,
}

impl GrpcClient {
    /// Makes a channel, which connects with the first call.
    pub fn start(place: &impl Place, to: SocketAddr) -> Result<GrpcClient> {
        // without the library's own ideas of proxies and names
        let command = script(place)?.args(["call", &to.to_string()]).env("no_grpc_proxy", "*");
        Ok(GrpcClient { process: command.spawn()? })
    }

    /// Makes a call, as `grpc.py` describes them; what came of it.
    pub fn call(&mut self, call: &Value) -> Result<Value> {
        self.process.write_line(&call.to_string())?;
        let line = self.process.next_line(LIMIT);
        let line = line.with_context(|| self.process.stderr().join("\n"))?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}
