//! gRPC as Google's own libraries speak it: Python's `grpc` (Debian package python3-grpcio), and Go's
//! (golang-google-grpc-dev), which has an HTTP/2 of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::command::Command;
use crate::node::Place;
use crate::process::{Process, debian_python, needs, target};

/// What it does is written at its top.
const SCRIPT: &str = include_str!("grpc.py");

/// How long a server may take to start, and a call to be over; calls have limits of their own.
const LIMIT: Duration = Duration::from_secs(60);

fn script(place: &impl Place) -> Result<Command> {
    Ok(place.command(debian_python("python3-grpcio")?).args(["-c", SCRIPT]))
}

/// Starts a gRPC server on all addresses that tells its name in the trailer `served-by`.
pub fn grpc_server(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    serve(script(place)?, port, name)
}

fn serve(program: Command, port: u16, name: &str) -> Result<Process> {
    let process = program.args(["serve", &port.to_string(), name]).spawn()?;
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

/// Go's server on all addresses, which tells its name in the header `served-by`.
pub fn grpc_go_server(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    serve(place.command(go_program()?), port, name)
}

/// Go's client makes the calls that `grpc.go` has, to [`grpc_go_server`]s; how often each one of them
/// answered a call of `Echo`. An error if any call failed.
pub fn grpc_go_calls(place: &impl Place, to: SocketAddr) -> Result<BTreeMap<String, u64>> {
    let output = place.command(go_program()?).args(["call", &to.to_string()]).output(LIMIT)?;
    let output = output.success()?;
    serde_json::from_str(&output.stdout).with_context(|| output.stdout.clone())
}

/// `grpc.go`, built once a process; Go itself knows what has not changed.
fn go_program() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_go().map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!("grpc.go: {error}"))
}

fn build_go() -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = target().join("go");
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let program = folder.join("grpc");
    let output = std::process::Command::new(needs("go", "golang-go")?)
        // where Debian's packages put libraries
        .env("GOPATH", "/usr/share/gocode")
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOCACHE", folder.join("cache"))
        .args(["build", "-o"])
        .arg(&program)
        .arg(sources.join("src/grpc.go"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}
