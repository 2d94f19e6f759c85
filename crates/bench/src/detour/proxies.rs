//! The other proxies: how they are configured and started.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use beeway_testbed::{Node, Place, Pod, Process, needs, wait_connect};

use crate::envoy;

/// Their ports on the node.
pub const ENVOY: u16 = 9001;
pub const ENVOY_GRPC: u16 = 9002;
pub const HAPROXY: u16 = 9003;
pub const NGINX: u16 = 9004;

/// How long one may take to start.
const START: Duration = Duration::from_secs(10);

/// An Envoy with two threads.
pub fn envoy(binary: &Path, node: &Node, folder: &Path, servers: [&Pod; 2]) -> Result<Process> {
    let template = envoy::template::DETOUR
        .replace("@PORT@", &ENVOY.to_string())
        .replace("@GRPC_PORT@", &ENVOY_GRPC.to_string());
    envoy::start(binary, node, &template, folder, servers)
}

/// An HAProxy with two threads.
pub fn haproxy(node: &Node, folder: &Path, servers: [&Pod; 2]) -> Result<Process> {
    let template = include_str!("../../../../bench/haproxy.cfg");
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, fill(template, HAPROXY, servers))?;
    // `-db`: in the foreground.
    let command = node.command(needs("haproxy", "haproxy")?).args(["-db", "-f"]).arg(&file);
    started(node, HAPROXY, command.plain().spawn()?).context("HAProxy")
}

/// An nginx with two workers.
pub fn nginx(node: &Node, folder: &Path, servers: [&Pod; 2]) -> Result<Process> {
    let template = include_str!("../../../../bench/nginx.conf");
    let root = folder.join("nginx");
    std::fs::create_dir(&root)?;
    let file = root.join("nginx.conf");
    std::fs::write(&file, fill(template, NGINX, servers))?;
    let command = node.command(needs("nginx", "nginx-light")?).arg("-p").arg(&root);
    let command = command.arg("-c").arg(&file).args(["-e", "stderr"]);
    started(node, NGINX, command.plain().spawn()?).context("nginx")
}

fn fill(template: &str, port: u16, servers: [&Pod; 2]) -> String {
    template
        .replace("@PORT@", &port.to_string())
        .replace("@V1@", &servers[0].ip4().to_string())
        .replace("@V2@", &servers[1].ip4().to_string())
}

fn started(node: &Node, port: u16, process: Process) -> Result<Process> {
    wait_connect(node, node.addr4(port), START)
        .with_context(|| process.stderr().join("\n  "))
        .map(|()| process)
}
