//! Beeway: its configuration for the bench, and its agent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Node, Place, Pod, Process};

/// The mesh: a service with two versions, one canary header, one denied path.
const CONFIG: &str = include_str!("../../../bench/beeway.yaml");

/// How long the agent may take until it is ready.
const START: Duration = Duration::from_secs(20);

/// Starts the agent on a node; returns when it is ready.
pub fn start(
    binary: &Path,
    node: &Node,
    folder: &Path,
    client: &Pod,
    servers: [&Pod; 2],
) -> Result<Process> {
    ensure!(
        binary.is_file(),
        "no agent at {}: cargo build --release -p beeway, or name it with --agent",
        binary.display()
    );
    let (config, state) = (folder.join("config"), folder.join("state"));
    for directory in [&config, &state] {
        std::fs::create_dir(directory)?;
    }
    let text = CONFIG
        .replace("@CLIENT@", &client.ip4().to_string())
        .replace("@V1@", &servers[0].ip4().to_string())
        .replace("@V2@", &servers[1].ip4().to_string());
    std::fs::write(config.join("bench.yaml"), text)?;
    let agent = node
        .command(binary.canonicalize()?)
        .arg("run")
        .arg("--config")
        .arg(&config)
        .arg("--cgroup")
        .arg(node.mesh().path())
        .arg("--state")
        .arg(&state)
        .args(["--metrics", "127.0.0.1:0"])
        .plain()
        .spawn()?;
    agent
        .wait_for_line("ready", START)
        .context("the agent is not ready")?;
    Ok(agent)
}
