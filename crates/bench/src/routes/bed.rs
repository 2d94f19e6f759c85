//! The bed of a size: one node on which Beeway and an Envoy have the same routes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Command, Node, Place, Pod, PodOptions, Process, WrkReport, directory, nginx};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::list::{self, Request, Server, Size};
use super::{ask, config};
use crate::bed::{PORT, SETTLE, confine_all, prepare};
use crate::envoy;
use crate::mesh::{Agent, Lanes};
use crate::run::{Plan, Subject};
use crate::variant::{Placement, Variant};

/// How many requests show that a list is right, and how many services of many are asked.
const CHECKED: (u32, u32) = (2000, 20);

/// A node with a client, two servers, an agent and, when it is measured, an Envoy.
#[derive(Debug)]
pub struct Bed {
    /// What it has.
    pub size: Size,
    // Fields drop in this order: processes before the pods that they run in.
    agent: Agent,
    envoy: Option<Process>,
    servers: Vec<Process>,
    client: Pod,
    server: Pod,
    _v2: Pod,
    node: Node,
    folder: tempfile::TempDir,
}

impl Bed {
    /// Builds a bed.
    pub fn new(size: Size, plan: &Plan) -> Result<Self> {
        let node = Node::new(&format!("routes-{size}"))?;
        let pod = |name: &str, mesh| node.pod_with(name, PodOptions { mesh, ..Default::default() });
        let (client, v1, v2) = (pod("client", true)?, pod("v1", false)?, pod("v2", false)?);
        for pod in [&client, &v1, &v2] {
            prepare(pod)?;
        }
        let folder = directory("routes")?;
        let [c, a, b] = [&client, &v1, &v2].map(|pod| pod.ip4().to_string());
        let files = config::beeway(size, &c, &a, &b);
        let agent = Agent::start(&plan.agent, &node, folder.path(), &files)?;
        let servers = vec![nginx(&v1, PORT, "v1")?, nginx(&v2, PORT, "v2")?];
        let envoy = if plan.variants.contains(&Variant::OneEnvoy) {
            let template = envoy::template::ROUTES.replace("@HOSTS@", &config::envoy(size));
            let binary = envoy::install(&plan.envoy)?;
            Some(envoy::start(&binary, &node, &template, folder.path(), [&v1, &v2])?)
        } else {
            None
        };
        Ok(Self { size, agent, envoy, servers, client, server: v1, _v2: v2, node, folder })
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    fn target(&self, variant: Variant, service: u32) -> Result<SocketAddr> {
        Ok(match variant {
            Variant::NoMesh => self.server.addr4(PORT),
            Variant::OneEnvoy => self.node.addr4(PORT),
            _ => format!("{}:{PORT}", list::service_ip(service)).parse()?,
        })
    }

    /// Puts servers and proxies where they are for a number of connections.
    pub fn place(&self, connections: u32) -> Result<()> {
        let placement = Placement::of(connections);
        confine_all(placement, &self.servers, self.envoy.iter().chain([self.agent.process()]))
    }

    /// A command of a client: in the mesh for Beeway, outside for the others.
    fn command(&self, variant: Variant, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let command = self.client.command(program);
        if variant.lane().is_some() { command.mesh() } else { command.plain() }
    }

    /// Makes sure that every route leads where it should before anything is measured.
    pub fn check(&self, variant: Variant) -> Result<()> {
        let services = CHECKED.1.min(self.size.services);
        for n in 0..services {
            let service = n * (self.size.services / services);
            let mut requests = list::checked(self.size, service, CHECKED.0 / services);
            // Nobody routes where there is no mesh.
            requests.retain(|r| variant != Variant::NoMesh || r.server == Server::V1);
            let file = self.file(&format!("check-{service}.json"), &requests)?;
            let deadline = Instant::now() + SETTLE;
            let mut report = self.ask(variant, service, &file, None)?;
            while report.wrong > 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                report = self.ask(variant, service, &file, None)?;
            }
            ensure!(
                report.wrong == 0,
                "{}, size {}: {} of {} answers were wrong: {}",
                variant.title(),
                self.size,
                report.wrong,
                report.requests,
                report.first_wrong.unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Runs the load once: by wrk, and at one connection by a client of our own.
    pub fn load(
        &self,
        variant: Variant,
        service: u32,
        connections: u32,
        seconds: u32,
    ) -> Result<WrkReport> {
        self.place(connections)?;
        let requests = list::asked(self.size, service);
        if connections == 1 {
            let file = self.file(&format!("ask-{service}.json"), &requests)?;
            return Ok(self.ask(variant, service, &file, Some(seconds))?.as_wrk());
        }
        let script = self.folder.path().join(format!("ask-{service}.lua"));
        if !script.exists() {
            std::fs::write(&script, lua(&requests))?;
        }
        let limit = Duration::from_secs(u64::from(seconds) + 20);
        let output = self
            .command(variant, "wrk")
            .args(["-t1", "--timeout", "5s", "--latency"])
            .args([format!("-c{connections}"), format!("-d{seconds}s")])
            .arg("-s")
            .arg(&script)
            .arg(format!("http://{}", self.target(variant, service)?))
            .cpu(Placement::of(connections).client)
            .output(limit)?
            .success()?;
        WrkReport::parse(&output.stdout)
    }

    /// Sends a file of requests over one connection: for some seconds, or once.
    pub fn ask(
        &self,
        variant: Variant,
        service: u32,
        requests: &Path,
        seconds: Option<u32>,
    ) -> Result<ask::Report> {
        let to = self.target(variant, service)?.to_string();
        let mut arguments = vec!["ask".to_owned(), to, requests.display().to_string()];
        if let Some(seconds) = seconds {
            arguments.extend(["--seconds".to_owned(), seconds.to_string()]);
        }
        self.own(variant, &arguments)
    }

    /// Runs this program on the load generator's CPU inside the client pod; what it prints.
    pub fn own<T: DeserializeOwned>(&self, variant: Variant, arguments: &[String]) -> Result<T> {
        let output = self
            .command(variant, std::env::current_exe()?)
            .args(arguments)
            .cpu(Placement::of(1).client)
            .output(Duration::from_secs(120))?
            .success()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("read {:?}", output.stdout))
    }

    /// The address of the first service.
    pub fn service(&self) -> Result<SocketAddr> {
        self.target(Variant::Native, 0)
    }

    /// A file outside the configuration, written unless it is there.
    pub fn file(&self, name: &str, content: &impl Serialize) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        if !path.exists() {
            std::fs::write(&path, serde_json::to_string(content)?)
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(path)
    }

    /// The folder of the bed's files; the configuration is in one below.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Subject for Bed {
    fn lanes(&self) -> Result<Lanes> {
        self.agent.lanes()
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.node.cgroup().cpu_time()
    }
}

/// A script that makes wrk send the requests in turn. Rust's quoting of such text is Lua's too.
fn lua(requests: &[Request]) -> String {
    let heads: Vec<String> = requests.iter().map(|request| format!("{:?}", request.head)).collect();
    format!(
        "local heads = {{\n{}\n}}\nlocal at = 0\nfunction request()\n  at = at % #heads + 1\n  \
         return heads[at]\nend\n",
        heads.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_every_request_once() {
        let script = lua(&list::asked(Size::one(10), 0));
        assert_eq!(script.matches("\nfunction request()").count(), 1);
        assert_eq!(script.matches("\\r\\nHost: s0000\\r\\n").count(), 9000);
    }
}
