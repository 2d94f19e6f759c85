//! Beeway: its configuration for the bench, its agent, and what the agent counts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Node, Place, Pod, Process};
use serde::Deserialize;

/// The mesh: a service with two versions, one canary header, one denied path.
const CONFIG: &str = include_str!("../../../bench/beeway.yaml");

/// How long the agent may take until it is ready.
const START: Duration = Duration::from_secs(20);

/// How long the agent may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the agent may take to say what it has counted.
const ANSWER: Duration = Duration::from_secs(2);

/// Requests by lane.
pub type Lanes = BTreeMap<String, u64>;

/// A running agent; ended on drop, with all that it has attached.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    binary: PathBuf,
    cgroup: PathBuf,
    config: PathBuf,
    state: PathBuf,
}

/// The file of the three routes that Envoy has too: its name and its text.
pub fn three_routes(client: &Pod, servers: [&Pod; 2]) -> (String, String) {
    file(CONFIG, client, servers)
}

/// A file made from a template in which the addresses of the pods are missing.
pub fn file(template: &str, client: &Pod, servers: [&Pod; 2]) -> (String, String) {
    let text = template
        .replace("@CLIENT@", &client.ip4().to_string())
        .replace("@V1@", &servers[0].ip4().to_string())
        .replace("@V2@", &servers[1].ip4().to_string());
    ("bench.yaml".to_owned(), text)
}

/// The file of policies for the servers: a NetworkPolicy that lets the client in, by port, and 1,000
/// rules that deny requests by path, method and header.
pub fn policies() -> (String, String) {
    let mut text = String::from(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: bench, namespace: default}\n\
         spec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress]\n  ingress:\n  \
         - from: [{podSelector: {matchLabels: {app: client}}}]\n    ports: [{port: 8080}]\n",
    );
    for policy in 0..10 {
        write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: bench-{policy}, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: DENY\n  rules:\n"
        )
        .expect("writing to a string");
        for rule in policy * 100..(policy + 1) * 100 {
            // of each four, one asks for a header besides
            let when = match rule % 4 {
                0 => format!(
                    "    when: [{{key: \"request.headers[x-tenant]\", values: [t{rule}]}}]\n"
                ),
                _ => String::new(),
            };
            write!(
                text,
                "  - to: [{{operation: {{methods: [GET], paths: [\"/closed/{rule}/*\"]}}}}]\n{when}"
            )
            .expect("writing to a string");
        }
    }
    ("policies.yaml".to_owned(), text)
}

impl Agent {
    /// Starts the agent on a node, with files of these names and texts as its configuration;
    /// returns when it is ready.
    pub fn start(
        binary: &Path,
        node: &Node,
        folder: &Path,
        files: &[(String, String)],
    ) -> Result<Self> {
        ensure!(
            binary.is_file(),
            "no agent at {}: cargo build --release -p beeway, or name it with --agent",
            binary.display()
        );
        let binary = binary.canonicalize()?;
        let cgroup = node.mesh().path().to_owned();
        let (config, state) = (folder.join("config"), folder.join("state"));
        for directory in [&config, &state] {
            std::fs::create_dir(directory)?;
        }
        for (name, text) in files {
            let path = config.join(name);
            std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
            std::fs::write(path, text)?;
        }
        let process = node
            .command(&binary)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--cgroup")
            .arg(&cgroup)
            .arg("--state")
            .arg(&state)
            .args(["--metrics", "127.0.0.1:0", "--node", "bench"])
            .plain()
            .spawn()?;
        // An agent that fails half-way is cleaned up too.
        let agent = Self { process, binary, cgroup, config, state };
        let ready = agent.process.wait_for_line("ready", START);
        ready.with_context(|| {
            format!("the agent is not ready: {}", agent.process.stderr().join("\n  "))
        })?;
        Ok(agent)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The directory of its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where it keeps what outlives it.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where a map of its kernel programs is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.state.join("bpf/maps").join(name)
    }

    /// The requests that the kernel has counted so far.
    pub fn lanes(&self) -> Result<Lanes> {
        Ok(self.status()?.lanes)
    }

    /// The words that the tables in force use.
    pub fn words(&self) -> Result<u64> {
        Ok(self.status()?.generation.context("no tables are in force")?.words_used)
    }

    fn status(&self) -> Result<Status> {
        let ask = || -> Result<Status> {
            let mut socket = UnixStream::connect(self.state.join("admin.sock"))?;
            socket.set_read_timeout(Some(ANSWER))?;
            let mut text = String::new();
            socket.read_to_string(&mut text)?;
            Ok(serde_json::from_str(&text)?)
        };
        ask().context("ask the agent for its status")
    }

    /// Detaches and removes what the agent leaves on purpose.
    fn off(&self) -> Result<()> {
        let output = std::process::Command::new(&self.binary)
            .args(["off", "--state"])
            .arg(&self.state)
            .arg("--cgroup")
            .arg(&self.cgroup)
            .output()
            .context("start beeway off")?;
        ensure!(
            output.status.success(),
            "beeway off: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// What the bench wants to know of it.
#[derive(Deserialize)]
struct Status {
    lanes: Lanes,
    generation: Option<Generation>,
}

#[derive(Deserialize)]
struct Generation {
    words_used: u64,
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.process.terminate(FAREWELL) {
            eprintln!("bench: {error:#}");
            self.process.kill9();
        }
        if let Err(error) = self.off() {
            eprintln!("bench: {error:#}");
        }
    }
}

/// What the lanes have grown by.
pub fn growth(before: &Lanes, after: &Lanes) -> Lanes {
    let old = |lane: &str| before.get(lane).copied().unwrap_or(0);
    after
        .iter()
        .map(|(lane, count)| (lane.clone(), count.saturating_sub(old(lane))))
        .filter(|(_, count)| *count > 0)
        .collect()
}
