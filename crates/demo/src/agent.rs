//! The agent of the shop's node: started, killed, asked, and removed for good.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beeway_testbed::{Node, Place, Process};
use serde_json::Value;

use crate::shop::NODE;

/// Where its metrics are, on the node.
pub const METRICS: &str = "http://127.0.0.1:15020/metrics";

/// How long the agent may take until it is ready.
const READY: Duration = Duration::from_secs(20);

/// How long a change of configuration may take.
const IN_FORCE: Duration = Duration::from_secs(10);

/// How long the agent may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// An agent, or the place of one: what it pins outlives its process.
pub struct Agent {
    binary: PathBuf,
    config: PathBuf,
    state: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Nothing is started yet; `folder` gets the state directory.
    pub fn new(binary: &Path, config: &Path, folder: &Path) -> Agent {
        Agent {
            binary: binary.to_owned(),
            config: config.to_owned(),
            state: folder.join("state"),
            process: None,
        }
    }

    /// Starts it; how long it took until it was ready.
    pub fn start(&mut self, node: &Node) -> Result<Duration> {
        let begun = Instant::now();
        let command = node.command(&self.binary).arg("run").arg("--config").arg(&self.config);
        let process = command
            .arg("--cgroup")
            .arg(node.mesh().path())
            .arg("--state")
            .arg(&self.state)
            .args(["--metrics", "127.0.0.1:15020", "--node", NODE])
            .spawn()?;
        process.wait_for_line("ready", READY).context(
            "the agent is not ready; `beeway doctor` tells what this kernel lacks, if it lacks \
             something",
        )?;
        self.process = Some(process);
        Ok(begun.elapsed())
    }

    /// Kills it (SIGKILL), as the kernel does when memory runs out.
    pub fn kill9(&mut self) {
        drop(self.process.take());
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// What `beeway status --json` shows.
    pub fn status(&self) -> Result<Value> {
        let path = self.state.join("admin.sock");
        let mut socket = UnixStream::connect(&path)
            .with_context(|| format!("ask the agent at {}", path.display()))?;
        socket.set_read_timeout(Some(FAREWELL))?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        serde_json::from_str(&text).context("the agent's status")
    }

    /// What a command of `beeway` says of it.
    pub fn tell(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--state").arg(&self.state).stdin(Stdio::null());
        let output = command.output().context("run beeway")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "beeway {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Requests by lane, since the kernel programs were first loaded.
    pub fn lanes(&self) -> Result<Lanes> {
        let status = self.status()?;
        let lanes = status["lanes"].as_object().context("no lanes in the agent's status")?;
        Ok(Lanes(lanes.iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap_or(0))).collect()))
    }

    /// The number of the configuration in force.
    pub fn generation(&self) -> Result<u64> {
        self.status()?["generation"]["number"].as_u64().context("no configuration is in force")
    }

    /// Replaces a file of the configuration; how long it took until that was in force.
    pub fn configure(&self, file: &Path) -> Result<Duration> {
        let before = self.generation()?;
        let target = self.config.join(file.file_name().context("not a file")?);
        let draft = target.with_extension("draft");
        std::fs::copy(file, &draft).with_context(|| format!("copy {}", file.display()))?;
        let begun = Instant::now();
        std::fs::rename(&draft, &target)?;
        while self.generation()? <= before {
            let status = self.status()?;
            if let Some(why) = status["rejected"].as_str() {
                bail!("{} was refused: {why}", file.display());
            }
            ensure!(begun.elapsed() < IN_FORCE, "{} is not in force", file.display());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begun.elapsed())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.terminate(FAREWELL);
        }
        off(&self.binary, &self.state);
    }
}

/// Removes what an agent has left: programs, maps, their file system.
fn off(binary: &Path, state: &Path) {
    let mut command = Command::new(binary);
    command.arg("off").arg("--state").arg(state).stdin(Stdio::null());
    // out of reach of the second Ctrl-C of somebody in a hurry
    command.process_group(0);
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!("beeway off: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("beeway off: {error}"),
    }
}

/// Requests by lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lanes(BTreeMap<String, u64>);

impl Lanes {
    /// Requests that took a lane.
    pub fn get(&self, lane: &str) -> u64 {
        self.0.get(lane).copied().unwrap_or(0)
    }

    /// What has been added since.
    pub fn since(&self, before: &Lanes) -> Lanes {
        let grown = self.0.iter().map(|(lane, n)| (lane.clone(), n - before.get(lane)));
        Lanes(grown.collect())
    }
}
