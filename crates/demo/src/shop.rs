//! The shop: the pods and services of `examples/bookinfo`, with a server in each pod.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_model::Mesh;
use beeway_testbed::{
    Command, Load, LoadReport, Node, Place, Pod, PodOptions, Process, RawClient, directory,
    http_server, spawn_ready,
};

use crate::agent::Agent;
use crate::check_stop;
use crate::leftovers::Traces;
use crate::screen::{Screen, human};

/// The node's name in the configuration.
pub const NODE: &str = "node-1";

/// The pod that is left out of the mesh's cgroup, as if it were on another node: what goes to it
/// has only one end here, so it cannot take the shortcut.
const ELSEWHERE: &str = "details-v1";

/// The servers, and what each asks when it is asked.
const SERVERS: [(&str, &[(&str, &str)]); 6] = [
    ("productpage-v1", &[("details", "/details/0"), ("reviews", "/reviews/0")]),
    ("details-v1", &[]),
    ("reviews-v1", &[]),
    ("reviews-v2", &[("ratings", "/ratings/0")]),
    ("reviews-v3", &[("ratings", "/ratings/0")]),
    ("ratings-v1", &[]),
];

/// The shop on its node.
// Fields drop in this order: the agent takes down its programs before their cgroup goes.
pub struct Shop {
    /// The agent.
    pub agent: Agent,
    servers: Vec<Process>,
    pods: Vec<Pod>,
    /// The node.
    pub node: Node,
    mesh: Mesh,
    examples: PathBuf,
    _folder: tempfile::TempDir,
}

impl Shop {
    /// Reads the configuration and makes the node, still without pods.
    pub fn new(examples: &Path, agent: &Path, traces: &mut Traces) -> Result<Shop> {
        let folder = directory("demo")?;
        let config = folder.path().join("config");
        copy(&examples.join("bookinfo"), &config)?;
        let options = beeway_config::Options { node: Some(NODE.to_owned()) };
        let loaded = beeway_config::load_dir(&config, &options)?;
        for problem in &loaded.problems {
            eprintln!("{problem}");
        }
        let node = Node::new("demo")?;
        traces.prefix = node.name().to_owned();
        traces.cgroup = node.cgroup().path().to_owned();
        traces.folder = folder.path().to_owned();
        Ok(Shop {
            agent: Agent::new(agent, &config, folder.path()),
            servers: Vec::new(),
            pods: Vec::new(),
            node,
            mesh: loaded.mesh,
            examples: examples.to_owned(),
            _folder: folder,
        })
    }

    /// Makes the pods, starts the agent and the servers.
    pub fn open(&mut self, screen: &Screen) -> Result<()> {
        screen.line("Beeway: a shop of eight pods, and no proxy beside any of them");
        screen.line("");
        screen.line("   load ──────▶ productpage ──▶ details");
        screen.line("                           └──▶ reviews v1 v2 v3 ──▶ ratings");
        screen.line("   intruder ──▶ reviews");
        screen.line("");
        screen.doing("making the pods of examples/bookinfo, a network namespace each");
        for workload in &self.mesh.workloads {
            check_stop()?;
            let options = PodOptions {
                addresses: Some(addresses(&workload.addresses).context(workload.name.clone())?),
                mesh: workload.name != ELSEWHERE,
                ..PodOptions::default()
            };
            self.pods.push(self.node.pod_with(&workload.name, options)?);
        }
        screen.doing("starting the agent: compiling the rules, loading the kernel programs");
        let ready = self.agent.start(&self.node)?;
        check_stop()?;
        screen.doing("starting six servers");
        for (name, upstreams) in SERVERS {
            let server = self.server(name, upstreams)?;
            self.servers.push(spawn_ready(server)?);
        }
        let status = self.agent.status()?;
        let generation = &status["generation"];
        screen.ok(&format!(
            "open: {} services, {} rules, {} kernel programs; the agent was ready in {}",
            generation["services"],
            generation["rules"],
            status["programs"].as_array().map_or(0, Vec::len),
            human(ready)
        ));
        Ok(())
    }

    fn server(&self, name: &str, upstreams: &[(&str, &str)]) -> Result<Command> {
        let port = self.service("reviews")?.port();
        let mut command = http_server(self.pod(name)?, port, name)?;
        for (service, path) in upstreams {
            let url = format!("http://{}{path}", self.service(service)?);
            command = command.args(["--upstream", &url]);
        }
        Ok(command)
    }

    /// A pod by its name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.label() == name);
        found.with_context(|| format!("examples/bookinfo has no pod {name}"))
    }

    /// The agent, to kill and start, beside its node and a pod.
    pub fn agent_and_pod(&mut self, name: &str) -> Result<(&mut Agent, &Node, &Pod)> {
        let found = self.pods.iter().find(|pod| pod.label() == name);
        let pod = found.with_context(|| format!("examples/bookinfo has no pod {name}"))?;
        Ok((&mut self.agent, &self.node, pod))
    }

    /// The server process in a pod.
    pub fn process(&self, name: &str) -> Result<&Process> {
        let index = SERVERS.iter().position(|(server, _)| *server == name);
        index.and_then(|index| self.servers.get(index)).with_context(|| format!("no server {name}"))
    }

    /// The IPv4 address and port by which clients know a service.
    pub fn service(&self, name: &str) -> Result<SocketAddr> {
        let service = self.mesh.service_by_host(name, "default");
        let found = service.and_then(|service| {
            let address = service.addresses.iter().find(|address| address.is_ipv4())?;
            Some(SocketAddr::new(*address, service.ports.first()?.number))
        });
        found.with_context(|| format!("examples/bookinfo has no service {name} with IPv4"))
    }

    /// Replaces the routes of reviews by those of a folder of the examples.
    pub fn route(&self, folder: &str) -> Result<Duration> {
        self.agent.configure(&self.examples.join(folder).join("reviews-route.yaml"))
    }

    /// A connection from a pod to a service, held open.
    pub fn connect(&self, from: &str, service: &str) -> Result<RawClient> {
        RawClient::connect(self.pod(from)?, self.service(service)?)
            .with_context(|| format!("connect from {from} to {service}"))
    }

    /// Runs a load from a pod to a service.
    pub fn load(
        &self,
        from: &str,
        service: &str,
        requests: u64,
        connections: u32,
    ) -> Result<LoadReport> {
        check_stop()?;
        let url = format!("http://{}/{service}/0", self.service(service)?);
        let report = Load::new(url, requests).connections(connections).run(self.pod(from)?)?;
        ensure!(
            report.errors == 0,
            "{} of {requests} requests from {from} to {service} got no answer: {}",
            report.errors,
            report.messages.join("; ")
        );
        Ok(report)
    }

    /// Requests that each server has counted.
    pub fn served(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut counts = Vec::new();
        for (name, _) in SERVERS {
            let pod = self.pod(name)?;
            let address = pod.addr4(self.service("reviews")?.port());
            // not by way of the mesh: asking must not count
            let mut client = RawClient::connect_in(&self.node, address, false)?;
            let body = client.get(name, "/stats", &[])?.body;
            let stats: serde_json::Value = serde_json::from_str(&body)?;
            counts.push((name, stats["requests"].as_u64().context("no requests in /stats")?));
        }
        Ok(counts)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    let entries = fs::read_dir(from).with_context(|| format!("read {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            fs::copy(&path, to.join(path.file_name().context("a file without a name")?))?;
        }
    }
    Ok(())
}

fn addresses(all: &[IpAddr]) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let ip4 = all.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let ip6 = all.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    Ok((ip4.context("a pod without an IPv4 address")?, ip6.context("a pod without IPv6")?))
}
