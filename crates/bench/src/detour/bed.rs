//! A node with two servers, an agent and the other proxies, all with the same rules.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{
    Command, Node, Place, Pod, PodOptions, Process, WrkReport, directory, grpc_client, grpc_echo,
    needs, nginx, spawn_ready,
};

use super::load::{self, Calls};
use super::{Load, Way, hold, proxies};
use crate::bed::{PORT, SERVICE, SETTLE, confine_all, prepare};
use crate::envoy;
use crate::mesh::{self, Agent, Lanes};
use crate::run::{Plan, Subject};
use crate::variant::Placement;

/// What Beeway is told.
const CONFIG: &str = include_str!("../../../../bench/detour.yaml");

/// The port of the gRPC servers and of their service.
const GRPC_PORT: u16 = 50051;

/// The address of the gRPC service.
const GRPC_SERVICE: &str = "10.96.0.20";

/// The header by which requests belong to v2.
const HEADER: (&str, &str) = ("end-user", "jason");

/// How long opening many connections may take.
const HOLDING: Duration = Duration::from_secs(120);

/// A node with its pods and processes.
#[derive(Debug)]
pub struct Bed {
    // Fields drop in this order: processes before the pods that they run in.
    agent: Agent,
    others: BTreeMap<Way, Process>,
    servers: Vec<Process>,
    client: Pod,
    v2: Pod,
    _v1: Pod,
    node: Node,
    folder: tempfile::TempDir,
}

impl Bed {
    /// Builds a bed with the client in the mesh, and the servers too when `both`. Where they are
    /// not, the other proxies are there.
    pub fn new(both: bool, plan: &Plan) -> Result<Self> {
        let node = Node::new(if both { "detour-both" } else { "detour" })?;
        let pod = |name: &str, mesh| node.pod_with(name, PodOptions { mesh, ..Default::default() });
        let (client, v1, v2) = (pod("client", true)?, pod("v1", both)?, pod("v2", both)?);
        for pod in [&client, &v1, &v2] {
            prepare(pod)?;
        }
        let folder = directory("detour")?;
        std::fs::write(folder.path().join("body"), load::BODY)?;
        // The agent first: a socket can be enrolled only when it is made.
        let files = [mesh::file(CONFIG, &client, [&v1, &v2])];
        let agent = Agent::start(&plan.agent, &node, folder.path(), &files)?;
        let mut servers = Vec::new();
        for (pod, name) in [(&v1, "v1"), (&v2, "v2")] {
            servers.push(nginx(pod, PORT, name)?);
            servers.push(spawn_ready(grpc_echo(pod, GRPC_PORT, name)?)?);
        }
        let mut others = BTreeMap::new();
        if !both {
            let (path, pods) = (folder.path(), [&v1, &v2]);
            let binary = envoy::install(&plan.envoy)?;
            others.insert(Way::OneEnvoy, proxies::envoy(&binary, &node, path, pods)?);
            others.insert(Way::HaProxy, proxies::haproxy(&node, path, pods)?);
            others.insert(Way::Nginx, proxies::nginx(&node, path, pods)?);
        }
        Ok(Self { agent, others, servers, client, v2, _v1: v1, node, folder })
    }

    /// Where the client sends its requests.
    fn target(&self, way: Way, load: Load) -> Result<SocketAddr> {
        let http = load == Load::Http;
        let port = if http { PORT } else { GRPC_PORT };
        Ok(match way {
            Way::NoProxy => self.v2.addr4(port),
            Way::Beeway | Way::BeewayBothEnds => {
                let service = if http { SERVICE } else { GRPC_SERVICE };
                format!("{service}:{port}").parse()?
            }
            Way::OneEnvoy if http => self.node.addr4(proxies::ENVOY),
            Way::OneEnvoy => self.node.addr4(proxies::ENVOY_GRPC),
            Way::HaProxy => self.node.addr4(proxies::HAPROXY),
            Way::Nginx => self.node.addr4(proxies::NGINX),
        })
    }

    /// The proxy itself; there may be none.
    fn proxy(&self, way: Way) -> Option<&Process> {
        match way {
            Way::NoProxy => None,
            Way::Beeway | Way::BeewayBothEnds => Some(self.agent.process()),
            other => self.others.get(&other),
        }
    }

    /// The CPU time that the proxy has used so far.
    pub fn proxy_time(&self, way: Way) -> Result<Duration> {
        self.proxy(way).map_or(Ok(Duration::ZERO), Process::cpu_time)
    }

    /// Puts servers and proxies where they are for a number of connections.
    fn place(&self, connections: u32) -> Result<()> {
        let proxies = self.others.values().chain([self.agent.process()]);
        confine_all(Placement::of(connections), &self.servers, proxies)
    }

    /// A command of the client: in the mesh for Beeway, outside for the others.
    fn command(&self, way: Way, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.in_lane(way, self.client.command(program))
    }

    fn in_lane(&self, way: Way, command: Command) -> Command {
        if way.in_mesh() { command.mesh() } else { command.plain() }
    }

    /// Makes sure that requests lead where they should; whether they get the header more.
    pub fn check(&self, way: Way, load: Load) -> Result<bool> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let found = match load {
                Load::Http => self.check_http(way),
                Load::Grpc(_) | Load::Library => self.check_grpc(way),
            };
            if found.is_ok() || Instant::now() >= deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn check_http(&self, way: Way) -> Result<bool> {
        let url = format!("http://{}/", self.target(way, Load::Http)?);
        let ask = |headers: &[String]| -> Result<String> {
            let output = self
                .command(way, needs("curl", "curl")?)
                .args(["-s", "-m", "3", "-H", "Host: web"])
                .args(headers)
                .args(["-w", "%{http_code} %header{x-served-by} %header{x-canary};"])
                // Twice on one connection: the second request shows that keep-alive holds.
                .args(["-o", "/dev/null", &url, "-o", "/dev/null", &url])
                .output(Duration::from_secs(10))?
                .success()?;
            Ok(output.stdout.trim().to_owned())
        };
        let (name, value) = HEADER;
        let answers = ask(&["-H".to_owned(), format!("{name}: {value}")])?;
        let added = answers == "200 v2 yes;200 v2 yes;";
        ensure!(added || answers == "200 v2 ;200 v2 ;", "answered {answers:?}, not v2");
        if way != Way::NoProxy {
            let answers = ask(&[])?;
            ensure!(answers == "200 v1 ;200 v1 ;", "answered {answers:?} without the header");
        }
        Ok(added)
    }

    fn check_grpc(&self, way: Way) -> Result<bool> {
        let (name, value) = HEADER;
        let calls = self.call(way, &["--metadata".to_owned(), format!("{name}={value}")])?;
        let server = calls.header("x-served-by")?;
        ensure!(server == Some("v2"), "answered by {server:?}, not v2");
        let added = calls.header("x-canary")?.is_some();
        if way != Way::NoProxy {
            let calls = self.call(way, &[])?;
            let server = calls.header("x-served-by")?;
            ensure!(server == Some("v1"), "answered by {server:?} without the header");
        }
        Ok(added)
    }

    /// Runs the client library.
    fn call(&self, way: Way, arguments: &[String]) -> Result<Calls> {
        let output = self
            .in_lane(way, grpc_client(&self.client, self.target(way, Load::Library)?)?)
            .args(arguments)
            .cpu(Placement::of(1).client)
            .output(Duration::from_secs(60))?;
        Calls::parse(&output.stdout).with_context(|| output.stderr)
    }

    /// Runs a load once.
    pub fn load(&self, way: Way, load: Load, connections: u32, seconds: u32) -> Result<WrkReport> {
        self.place(connections)?;
        match load {
            Load::Http => self.wrk(way, connections, seconds),
            Load::Grpc(streams) => self.h2load(way, streams, connections, seconds),
            Load::Library => {
                let (name, value) = HEADER;
                let metadata = format!("{name}={value}");
                let (n, seconds) = (connections.to_string(), seconds.to_string());
                let arguments =
                    ["--metadata", &metadata, "--connections", &n, "--seconds", &seconds];
                Ok(self.call(way, &arguments.map(str::to_owned))?.as_wrk())
            }
        }
    }

    fn wrk(&self, way: Way, connections: u32, seconds: u32) -> Result<WrkReport> {
        let (name, value) = HEADER;
        let output = self
            .command(way, needs("wrk", "wrk")?)
            .args(["-t1", "--timeout", "5s", "--latency"])
            .args([format!("-c{connections}"), format!("-d{seconds}s")])
            .args(["-H", "Host: web", "-H", &format!("{name}: {value}")])
            .arg(format!("http://{}", self.target(way, Load::Http)?))
            .cpu(Placement::of(connections).client)
            .output(Duration::from_secs(u64::from(seconds) + 20))?
            .success()?;
        WrkReport::parse(&output.stdout)
    }

    fn h2load(&self, way: Way, streams: u32, connections: u32, seconds: u32) -> Result<WrkReport> {
        let (name, value) = HEADER;
        let log = self.folder.path().join("h2load.log");
        let target = self.target(way, Load::Grpc(streams))?;
        let output = self
            .command(way, needs("h2load", "nghttp2-client")?)
            .args(["-t1", &format!("-c{connections}"), &format!("-m{streams}")])
            .arg(format!("--duration={seconds}"))
            .arg(format!("--log-file={}", log.display()))
            .arg(format!("--data={}", self.folder.path().join("body").display()))
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", &format!("{name}: {value}")])
            .arg(format!("http://{target}{}", load::METHOD))
            .cpu(Placement::of(connections).client)
            .output(Duration::from_secs(u64::from(seconds) + 20))?
            .success()?;
        let report = load::read_h2load(&output.stdout, &std::fs::read_to_string(&log)?);
        std::fs::remove_file(&log)?;
        report
    }

    /// The memory of a proxy in bytes while so many connections are idle that had a request each.
    pub fn memory(&self, way: Way, connections: u32) -> Result<u64> {
        let proxy = self.proxy(way).context("there is no proxy")?;
        if connections == 0 {
            return proxy.memory();
        }
        let mut holder = self
            .command(way, std::env::current_exe()?)
            .args(["hold", &self.target(way, Load::Http)?.to_string(), &connections.to_string()])
            .spawn()?;
        holder.wait_for_line(hold::HELD, HOLDING)?;
        let bytes = proxy.memory()?;
        holder.close_stdin();
        holder.wait(Duration::from_secs(30))?;
        Ok(bytes)
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
