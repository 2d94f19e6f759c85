//! Beds: a node with its pods, servers and proxies, standing for the whole run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use beeway_testbed::{Node, Place, Pod, PodOptions, Process, WrkReport, directory, nginx};

use crate::connect::Cost;
use crate::cpu::confine;
use crate::envoy;
use crate::mesh::{self, Agent, Lanes};
use crate::run::{Plan, Subject};
use crate::variant::{BedKind, Mode, Placement, Variant};

/// The port of the service, of the servers and of the Envoy on the node.
pub const PORT: u16 = 8080;

/// The address of the service.
pub const SERVICE: &str = "10.96.0.10";

/// How long until a new bed answers rightly: the agent and Envoy are ready before this.
pub const SETTLE: Duration = Duration::from_secs(5);

/// A node, two server pods and a client pod, with the processes of one [`BedKind`].
#[derive(Debug)]
pub struct Bed {
    kind: BedKind,
    // Fields drop in this order: processes before the pods that they run in.
    agent: Option<Agent>,
    proxies: Vec<Process>,
    servers: Vec<Process>,
    client: Pod,
    server: Pod,
    _v2: Pod,
    node: Node,
    _folder: tempfile::TempDir,
}

impl Bed {
    /// Builds a bed.
    pub fn new(kind: BedKind, plan: &Plan) -> Result<Self> {
        let node = Node::new(label(kind))?;
        let both = kind == BedKind::BeewayBothEnds;
        let pod = |name: &str, mesh| node.pod_with(name, PodOptions { mesh, ..Default::default() });
        let proxied = matches!(kind, BedKind::Plain | BedKind::Sidecars | BedKind::Gateway);
        let client = pod("client", !proxied)?;
        let (v1, v2) = (pod("v1", both)?, pod("v2", both)?);
        for pod in [&client, &v1, &v2] {
            prepare(pod)?;
        }
        let folder = directory("bench")?;
        // The agent first: a socket can be enrolled only when it is made.
        let agent = match kind {
            BedKind::Plain | BedKind::Sidecars | BedKind::Gateway => None,
            _ => {
                let mut files = vec![mesh::three_routes(&client, [&v1, &v2])];
                if kind == BedKind::BeewayGuarded {
                    files.push(mesh::policies());
                }
                Some(Agent::start(&plan.agent, &node, folder.path(), &files)?)
            }
        };
        let proxies = match kind {
            BedKind::Sidecars => sidecars(&plan.envoy, folder.path(), &client, [&v1, &v2])?,
            BedKind::Gateway => {
                let binary = envoy::install(&plan.envoy)?;
                let template = envoy::template::GATEWAY;
                vec![envoy::start(&binary, &node, template, folder.path(), [&v1, &v2])?]
            }
            _ => Vec::new(),
        };
        let servers = vec![nginx(&v1, PORT, "v1")?, nginx(&v2, PORT, "v2")?];
        Ok(Self {
            kind,
            agent,
            proxies,
            servers,
            client,
            server: v1,
            _v2: v2,
            node,
            _folder: folder,
        })
    }

    /// Where the client sends its requests.
    fn target(&self) -> String {
        match self.kind {
            BedKind::Plain => self.server.addr4(PORT).to_string(),
            BedKind::Gateway => self.node.addr4(PORT).to_string(),
            _ => format!("{SERVICE}:{PORT}"),
        }
    }

    /// Puts every process of the bed where it belongs.
    fn place(&self, placement: Placement) -> Result<()> {
        confine_all(placement, &self.servers, self.proxies())
    }

    /// Envoys or the agent.
    fn proxies(&self) -> impl Iterator<Item = &Process> {
        self.proxies.iter().chain(self.agent.as_ref().map(Agent::process))
    }

    /// The state directory of its agent.
    pub fn state(&self) -> Option<&Path> {
        self.agent.as_ref().map(Agent::state)
    }

    /// Makes sure that the variant does what it is said to do before it is measured.
    pub fn check(&self, variant: Variant) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            match self.check_once(variant) {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => {
                    return outcome.with_context(|| {
                        format!("check {}{}", variant.title(), self.complaints())
                    });
                }
            }
        }
    }

    /// The last words of the bed's proxies, for an error message.
    fn complaints(&self) -> String {
        let last = |process: &Process| {
            let lines = process.stderr();
            let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
            format!("\n  process {}: {tail}\n", process.pid())
        };
        self.proxies().map(last).collect()
    }

    fn check_once(&self, variant: Variant) -> Result<()> {
        let url = format!("http://{}{}", self.target(), variant.path());
        // Twice on one connection: the second request shows that keep-alive holds.
        let output = self
            .client
            .command("curl")
            .args(["-s", "-m", "3", "-w", "%{http_code} %header{x-served-by}\n"])
            .args(variant.headers().iter().flat_map(|header| ["-H", header]))
            .args(["-o", "/dev/null", &url, "-o", "/dev/null", &url])
            .output(Duration::from_secs(10))?
            .success()?;
        let (status, server) = variant.expected();
        let wanted = format!("{status} {}", server.unwrap_or_default());
        let answers: Vec<&str> = output.stdout.lines().map(str::trim_end).collect();
        if answers != [wanted.trim_end(); 2] {
            bail!("{url} answered {answers:?}, not twice {wanted:?}");
        }
        Ok(())
    }

    /// Runs wrk once.
    pub fn load(
        &self,
        variant: Variant,
        mode: Mode,
        connections: u32,
        seconds: u32,
    ) -> Result<WrkReport> {
        let placement = Placement::of(connections);
        self.place(placement)?;
        let limit = Duration::from_secs(u64::from(seconds) + 20);
        let output = self
            .client
            .command("wrk")
            .args(wrk_arguments(variant, mode, connections, seconds))
            .arg(format!("http://{}{}", self.target(), variant.path()))
            .cpu(placement.client)
            .output(limit)?
            .success()?;
        WrkReport::parse(&output.stdout)
    }

    /// Places the processes and tells how to measure by hand.
    pub fn describe(&self, variant: Variant, connections: u32) -> Result<String> {
        let placement = Placement::of(connections);
        self.place(placement)?;
        let pids = |processes: &mut dyn Iterator<Item = &Process>| {
            processes.map(|process| process.pid().to_string()).collect::<Vec<_>>().join(" ")
        };
        let headers = variant.headers().iter().map(|header| format!(" -H '{header}'"));
        let (cgroup, cpu) = (self.client.cgroup().display(), placement.client);
        Ok(format!(
            "servers: {}; proxies: {}\n\
             sh -c 'echo $$ > {cgroup}/cgroup.procs && exec \"$@\"' - nsenter --net={} \
             taskset -c {cpu} wrk -t1 -c{connections} -d3s --latency{} http://{}{}",
            pids(&mut self.servers.iter()),
            pids(&mut self.proxies()),
            self.client.path().display(),
            headers.collect::<String>(),
            self.target(),
            variant.path()
        ))
    }

    /// Measures connecting: inside the mesh to the service, or outside to the server's address.
    pub fn connect(&self, inside: bool, count: u32) -> Result<Cost> {
        self.place(Placement::of(2))?;
        let to = if inside { self.target() } else { self.server.addr4(PORT).to_string() };
        let command = self
            .client
            .command(std::env::current_exe()?)
            .args(["connect", &to, "--count", &count.to_string()])
            .cpu(1);
        let command = if inside { command.mesh() } else { command.plain() };
        let output = command.output(Duration::from_secs(60))?.success()?;
        serde_json::from_str(&output.stdout).context("read the cost of connecting")
    }
}

impl Subject for Bed {
    fn lanes(&self) -> Result<Lanes> {
        self.agent.as_ref().map_or_else(|| Ok(Lanes::new()), Agent::lanes)
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.node.cgroup().cpu_time()
    }
}

/// Puts servers and proxies on their CPUs.
pub fn confine_all<'a>(
    placement: Placement,
    servers: &[Process],
    proxies: impl Iterator<Item = &'a Process>,
) -> Result<()> {
    for server in servers {
        confine(server.pid(), &[placement.server])?;
    }
    for proxy in proxies {
        confine(proxy.pid(), placement.proxies)?;
    }
    Ok(())
}

/// The arguments of wrk, but for the address.
pub fn wrk_arguments(variant: Variant, mode: Mode, connections: u32, seconds: u32) -> Vec<String> {
    let close = (mode == Mode::PerRequest).then_some("Connection: close");
    let headers = variant.headers().iter().copied().chain(close);
    [format!("-t1 -c{connections} -d{seconds}s --timeout 5s --latency")]
        .iter()
        .flat_map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .chain(headers.flat_map(|header| ["-H".to_owned(), header.to_owned()]))
        .collect()
}

/// All beds that some variants need.
pub fn build(plan: &Plan) -> Result<BTreeMap<BedKind, Bed>> {
    let mut beds = BTreeMap::new();
    for variant in &plan.variants {
        crate::check_stop()?;
        if let std::collections::btree_map::Entry::Vacant(vacant) = beds.entry(variant.bed()) {
            vacant.insert(
                Bed::new(variant.bed(), plan)
                    .with_context(|| format!("set up {}", variant.title()))?,
            );
        }
    }
    Ok(beds)
}

fn label(kind: BedKind) -> &'static str {
    match kind {
        BedKind::Plain => "plain",
        BedKind::Beeway => "beeway",
        BedKind::BeewayGuarded => "guarded",
        BedKind::BeewayBothEnds => "shortcut",
        BedKind::Sidecars => "sidecars",
        BedKind::Gateway => "gateway",
    }
}

/// Room for ten thousand connections a second, the same for every variant.
pub fn prepare(pod: &Pod) -> Result<()> {
    for (key, value) in [("ipv4/tcp_tw_reuse", "1"), ("ipv4/ip_local_port_range", "10000 65535")] {
        pod.netns().sysctl(key, value)?;
    }
    Ok(())
}

fn sidecars(
    folder_of_envoy: &Path,
    folder: &Path,
    client: &Pod,
    servers: [&Pod; 2],
) -> Result<Vec<Process>> {
    let binary = envoy::install(folder_of_envoy)?;
    let start = |pod, template| envoy::start(&binary, pod, template, folder, servers);
    let mut processes = vec![start(client, envoy::template::OUTBOUND)?];
    envoy::redirect_outbound(client)?;
    for server in servers {
        processes.push(start(server, envoy::template::INBOUND)?);
        envoy::redirect_inbound(server)?;
    }
    // Connection tracking would remember closed connections for two minutes and fill up.
    for pod in [client, servers[0], servers[1]] {
        pod.netns().sysctl("netfilter/nf_conntrack_tcp_timeout_time_wait", "1")?;
    }
    Ok(processes)
}
