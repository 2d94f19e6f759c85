//! `bw-peer`: the client and server of this crate, run inside pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::command::Command;
use crate::node::Place;
use crate::process::Process;

/// How long a server may take to say that it listens.
const START: Duration = Duration::from_secs(10);

/// Where `bw-peer` is: `$BW_PEER`, or next to the running program's profile directory.
///
/// Cargo builds no binaries of dependencies, so tests of other crates find none, or a stale
/// one; it is then built, once a process, with the profile of the running program.
pub fn peer_binary() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.clone().map_err(|error| anyhow!("bw-peer: {error}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BW_PEER") {
        return Ok(path.into());
    }
    let program = std::env::current_exe()?;
    let mut profile = program.parent().context("no directory")?;
    if profile.ends_with("deps") || profile.ends_with("examples") {
        profile = profile.parent().context("no profile directory")?;
    }
    let binary = profile.join("bw-peer");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = binary.metadata().and_then(|file| file.modified()).ok();
    // An installed program comes without sources: then what lies next to it must do.
    if built.is_some_and(|built| newest(&sources.join("src")).is_none_or(|edit| edit <= built)) {
        return Ok(binary);
    }
    let mut cargo = std::process::Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["build", "--quiet", "-p", "beeway-testbed", "--bin", "bw-peer"]);
    cargo.current_dir(sources).arg("--target-dir");
    cargo.arg(profile.parent().context("no target directory")?);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().context("build bw-peer with cargo")?;
    if !output.status.success() {
        bail!("cargo build: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(binary)
}

/// When the newest file below a directory was changed.
fn newest(directory: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let times = entries.filter_map(|entry| match entry.file_type().ok()?.is_dir() {
        true => newest(&entry.path()),
        false => entry.metadata().ok()?.modified().ok(),
    });
    times.max()
}

fn peer(place: &impl Place, subcommand: &str) -> Result<Command> {
    Ok(place.command(peer_binary()?).arg(subcommand))
}

fn listen(place: &impl Place, subcommand: &str, port: u16) -> Result<Command> {
    // Two sockets, not one for both families: v4 clients are to be seen as v4.
    let listen = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    Ok(peer(place, subcommand)?.args(["--listen", &listen[0], "--listen", &listen[1]]))
}

/// Starts a `bw-peer` server and waits until it says that it listens.
pub fn spawn_ready(command: Command) -> Result<Process> {
    let process = command.spawn()?;
    process.wait_for_line("\"event\":\"listening\"", START)?;
    Ok(process)
}

/// `bw-peer server`: an HTTP/1.1 server on all addresses; start it with [`spawn_ready`].
pub fn http_server(place: &impl Place, port: u16, name: &str) -> Result<Command> {
    Ok(listen(place, "server", port)?.args(["--name", name]))
}

/// The same on one address, or on those of one family.
pub fn http_server_at(place: &impl Place, listen: SocketAddr, name: &str) -> Result<Command> {
    Ok(peer(place, "server")?.args(["--listen", &listen.to_string(), "--name", name]))
}

/// `bw-peer grpc` on all addresses: a unary method gets its message back; start it with
/// [`spawn_ready`].
pub fn grpc_echo(place: &impl Place, port: u16, name: &str) -> Result<Command> {
    Ok(listen(place, "grpc", port)?.args(["--name", name]))
}

/// `bw-peer script` on all addresses: sends what a request's path spells; start it with
/// [`spawn_ready`].
pub fn script_server(place: &impl Place, port: u16) -> Result<Command> {
    listen(place, "script", port)
}

/// `bw-peer tcp-echo` on all addresses; start it with [`spawn_ready`].
pub fn tcp_echo(place: &impl Place, port: u16) -> Result<Command> {
    listen(place, "tcp-echo", port)
}

/// `bw-peer udp-echo` on all addresses; start it with [`spawn_ready`].
pub fn udp_echo(place: &impl Place, port: u16) -> Result<Command> {
    listen(place, "udp-echo", port)
}

/// `bw-peer slurp`: downloads and digests; its output is one JSON line.
pub fn slurp(place: &impl Place, url: &str) -> Result<Command> {
    Ok(peer(place, "slurp")?.args(["--url", url]))
}

/// `bw-peer upload`: posts `bytes` of the [`crate::pattern`]; its output is one JSON line.
pub fn upload(place: &impl Place, url: &str, bytes: u64) -> Result<Command> {
    Ok(peer(place, "upload")?.args(["--url", url, "--bytes", &bytes.to_string()]))
}

/// `bw-peer udp-send`: `count` datagrams, one after another; a JSON line for each reply.
pub fn udp_send(place: &impl Place, to: SocketAddr, count: u32) -> Result<Command> {
    let (to, count) = (to.to_string(), count.to_string());
    Ok(peer(place, "udp-send")?.args(["--to", &to, "--count", &count]))
}

/// `bw-peer tcp-ping`: `count` echoes of 32 bytes over one connection; one JSON line.
pub fn tcp_ping(place: &impl Place, to: SocketAddr, count: u32) -> Result<Command> {
    let (to, count) = (to.to_string(), count.to_string());
    Ok(peer(place, "tcp-ping")?.args(["--connect", &to, "--count", &count]))
}

/// `bw-peer raw`: see [`crate::RawClient`].
pub(crate) fn raw(place: &impl Place, to: SocketAddr) -> Result<Command> {
    Ok(peer(place, "raw")?.args(["--connect", &to.to_string()]))
}

/// A run of `bw-peer load`: a closed loop of requests over a number of connections.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub url: String,
    /// Header lines, `name: value`.
    pub headers: Vec<String>,
    /// How many connections at once.
    pub connections: u32,
    /// How many requests altogether; or, if zero, until the duration is over.
    pub requests: u64,
    /// How long, unless a number of requests is given.
    pub duration: Duration,
    /// How long a connection waits between an answer and its next request.
    pub pause: Duration,
    /// Whether to open a connection for each request.
    pub close: bool,
    /// Whether to speak HTTP/2, without asking first.
    pub http2: bool,
    /// The method; there is no body.
    pub method: &'static str,
}

/// What `bw-peer load` saw.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Requests answered, with whatever status.
    pub requests: u64,
    /// Requests without an answer.
    pub errors: u64,
    /// Connections opened.
    pub connections: u64,
    /// Requests by status.
    pub status: BTreeMap<String, u64>,
    /// Requests by the answer's `x-served-by`.
    pub served_by: BTreeMap<String, u64>,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 90th percentile in microseconds.
    pub p90_us: u64,
    /// 99th percentile in microseconds.
    pub p99_us: u64,
    /// Requests answered per second.
    pub rps: f64,
    /// The first few different errors.
    pub messages: Vec<String>,
}

impl Load {
    /// `requests` requests over one connection.
    pub fn new(url: impl Into<String>, requests: u64) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            connections: 1,
            requests,
            duration: Duration::from_secs(10),
            pause: Duration::ZERO,
            close: false,
            http2: false,
            method: "GET",
        }
    }

    /// Adds a header line, `name: value`.
    pub fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    /// Sets the number of connections.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Opens a connection for each request.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Speaks HTTP/2, without asking first.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Sends another method than GET.
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// The command, to start in the background or to pin.
    pub fn command(&self, place: &impl Place) -> Result<Command> {
        let mut command = peer(place, "load")?.args(["--url", &self.url]);
        command = command.args(["--connections", &self.connections.to_string()]);
        command = match self.requests {
            0 => command.args(["--duration", &self.duration.as_secs_f64().to_string()]),
            n => command.args(["--requests", &n.to_string()]),
        };
        command = command.args(["--pause-ms", &self.pause.as_millis().to_string()]);
        command = command.args(["--method", self.method]);
        for header in &self.headers {
            command = command.args(["-H", header]);
        }
        for (flag, given) in [("--close", self.close), ("--http2", self.http2)] {
            command = if given { command.arg(flag) } else { command };
        }
        Ok(command)
    }

    /// Runs it to the end.
    pub fn run(&self, place: &impl Place) -> Result<LoadReport> {
        let limit = self.duration + Duration::from_secs(50);
        let output = self.command(place)?.output(limit)?.success()?;
        LoadReport::parse(&output.stdout)
    }
}

impl LoadReport {
    /// Reads the JSON line that `bw-peer load` prints.
    pub fn parse(stdout: &str) -> Result<Self> {
        let line = stdout.lines().last().context("bw-peer load printed nothing")?;
        let report: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let number = |key: &str| report[key].as_u64().unwrap_or(0);
        let counts = |key: &str| {
            let object = report[key].as_object().into_iter().flatten();
            object.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(0))).collect()
        };
        let messages = report["messages"].as_array().into_iter().flatten();
        Ok(Self {
            requests: number("requests"),
            errors: number("errors"),
            connections: number("connections"),
            status: counts("status"),
            served_by: counts("served_by"),
            p50_us: number("p50_us"),
            p90_us: number("p90_us"),
            p99_us: number("p99_us"),
            rps: report["rps"].as_f64().unwrap_or(0.0),
            messages: messages.filter_map(|m| m.as_str().map(str::to_owned)).collect(),
        })
    }
}
