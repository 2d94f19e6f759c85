//! A node with pods, a mesh configuration and a real agent, for the traffic tests.
#![allow(dead_code)] // each test binary uses its part

use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{
    Command, Node, Place, Pod, Process, Scrape, directory, http_server, spawn_ready,
};
use serde_json::Value;

pub const LIMIT: Duration = Duration::from_secs(20);

/// Virtual address of the service `web`, port 80.
pub const WEB: &str = "10.96.0.10:80";
pub const WEB6: &str = "[fd00:96::10]:80";

/// Nobody may read what is below /admin of `web`.
pub const NO_ADMIN: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
";

/// A node in the mesh: a client and two versions of `web`, routed by the rules of a test.
pub struct Bed {
    pub node: Node,
    pub client: Pod,
    pub v1: Pod,
    pub v2: Pod,
    pub config: tempfile::TempDir,
    pub state: tempfile::TempDir,
    pub agent: Option<Process>,
    /// Of v1 and v2.
    pub servers: Vec<Process>,
}

/// How a bed differs from the usual one.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Servers are in the mesh too, so that both ends are on this host: the shortcut.
    pub servers_in_mesh: bool,
}

impl Bed {
    /// With `rules`, YAML items of `spec.http` of the VirtualService of `web`.
    pub fn new(label: &str, shape: Shape, rules: &str) -> Result<Bed> {
        let node = Node::new(label)?;
        let pod = |name: &str, mesh| if mesh { node.pod(name) } else { node.plain_pod(name) };
        let client = pod("client", true)?;
        let v1 = pod("v1", shape.servers_in_mesh)?;
        let v2 = pod("v2", shape.servers_in_mesh)?;
        let servers = vec![
            spawn_ready(http_server(&v1, 8080, "v1")?)?,
            spawn_ready(http_server(&v2, 8080, "v2")?)?,
        ];
        let bed = Bed {
            config: directory("config")?,
            state: directory("state")?,
            agent: None,
            servers,
            node,
            client,
            v1,
            v2,
        };
        bed.write("mesh.yaml", &bed.mesh_yaml(true))?;
        bed.route(rules)?;
        let mut bed = bed;
        bed.start_agent()?;
        Ok(bed)
    }

    /// Ends the usual servers, to make room for others.
    pub fn stop_servers(&mut self) {
        self.servers.clear();
    }

    /// Lets the usual servers keep a record of what they are asked.
    pub fn record_requests(&mut self) -> Result<()> {
        self.stop_servers();
        for (pod, name) in [(&self.v1, "v1"), (&self.v2, "v2")] {
            self.servers.push(spawn_ready(http_server(pod, 8080, name)?.arg("--log"))?);
        }
        Ok(())
    }

    /// The paths that the servers were asked for so far, in the order of each server.
    pub fn recorded_paths(&self) -> Vec<String> {
        let lines = self.servers.iter().flat_map(|server| server.stdout());
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let requests = events.filter(|event| event["event"] == "request");
        requests.map(|event| event["path"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Writes a file of the configuration, in one step as an editor would.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.config.path().join(name);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text)?;
        Ok(std::fs::rename(draft, path)?)
    }

    /// Replaces the rules of `web`.
    pub fn route(&self, rules: &str) -> Result<()> {
        let mut text = String::from(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {name: web, namespace: default}\n\
             spec:\n  hosts: [web]\n  http:\n",
        );
        for line in rules.lines() {
            writeln!(text, "  {line}")?;
        }
        self.write("web-route.yaml", &text)
    }

    /// Services, pods and subsets; `v2_ready` is the state of v2's pod.
    pub fn mesh_yaml(&self, v2_ready: bool) -> String {
        let mut text = String::from(
            r#"apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: v1, namespace: default}
spec:
  clusterIP: 10.96.0.11
  selector: {app: web, version: v1}
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: raw, namespace: default}
spec:
  clusterIP: 10.96.0.12
  selector: {app: web}
  ports:
  - {name: tcp-echo, port: 7, targetPort: 7007}
  - {name: udp-echo, port: 7, protocol: UDP, targetPort: 7007}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: default}
spec:
  clusterIP: 10.96.0.13
  selector: {app: nobody}
  ports:
  - {name: http, port: 80}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"#,
        );
        for (pod, labels, ready) in [
            (&self.client, "app: client", true),
            (&self.v1, "app: web, version: v1", true),
            (&self.v2, "app: web, version: v2", v2_ready),
        ] {
            let status = if ready { "True" } else { "False" };
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\n\
                 metadata: {{name: {}, namespace: default, labels: {{{labels}}}}}\n\
                 spec: {{nodeName: node-1, containers: [{{name: main, image: none}}]}}\n\
                 status:\n  phase: Running\n  podIP: {ip4}\n  podIPs: [{{ip: {ip4}}}, {{ip: \"{}\"}}]\n  \
                 conditions: [{{type: Ready, status: \"{status}\"}}]\n",
                pod.label(),
                pod.ip6(),
                ip4 = pod.ip4(),
            )
            .expect("writing to a string");
        }
        text
    }

    /// Starts the agent and waits until it is ready.
    pub fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(start_agent(&self.node, self.config.path(), self.state.path())?);
        Ok(())
    }

    /// What the agent logged.
    pub fn agent_log(&self) -> String {
        self.agent.as_ref().map(|agent| agent.stderr().join("\n")).unwrap_or_default()
    }

    /// What the agent says at `/metrics`.
    pub fn scrape(&self) -> Result<Scrape> {
        scrape(&self.node, self.agent.as_ref().context("no agent")?)
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<Value> {
        status(self.state.path())
    }

    /// Requests that took a lane.
    pub fn lane(&self, lane: &str) -> Result<u64> {
        self.status()?["lanes"][lane].as_u64().with_context(|| format!("no lane {lane}"))
    }

    /// Requests that took a lane for a reason.
    pub fn requests(&self, lane: &str, reason: &str) -> Result<u64> {
        let status = self.status()?;
        let counts = status["requests"].as_array().context("no requests")?;
        let mine = counts.iter().filter(|c| c["lane"] == lane && c["reason"] == reason);
        Ok(mine.filter_map(|count| count["count"].as_u64()).sum())
    }

    /// One of the kernel's counters.
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.status()?["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
    }

    /// Waits until a generation newer than `before` is in force.
    pub fn wait_for_generation(&self, before: u64) -> Result<u64> {
        let end = Instant::now() + LIMIT;
        loop {
            let number = self.generation()?;
            if number > before {
                return Ok(number);
            }
            ensure!(Instant::now() < end, "generation {before} stays in force");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn generation(&self) -> Result<u64> {
        self.status()?["generation"]["number"].as_u64().context("no generation")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent ---\n{}", self.agent_log());
            if let Ok(status) = self.status() {
                eprintln!("--- status ---\n{status:#}");
            }
        }
        drop(self.agent.take());
        off(self.state.path());
    }
}

/// Starts an agent for the mesh of a node and waits until it is ready.
pub fn start_agent(node: &Node, config: &Path, state: &Path) -> Result<Process> {
    ready(agent_command(node, config, state).args(["--metrics", "127.0.0.1:0"]).spawn()?)
}

/// The agent, which needs an address for its metrics, and may be given other arguments.
pub fn agent_command(node: &Node, config: &Path, state: &Path) -> Command {
    node.command(env!("CARGO_BIN_EXE_beeway"))
        .arg("run")
        .arg("--config")
        .arg(config)
        .arg("--state")
        .arg(state)
        .arg("--cgroup")
        .arg(node.mesh().path())
        .args(["--node", "node-1", "--log-queries", "--access-log"])
        .arg(state.join("access.log"))
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits until an agent has started.
pub fn ready(agent: Process) -> Result<Process> {
    let ready = agent.wait_for_line("ready", LIMIT);
    if ready.is_err() {
        eprintln!("{}", agent.stderr().join("\n"));
    }
    ready.context("the agent is not ready")?;
    Ok(agent)
}

/// Where an agent serves metrics.
pub fn metrics_address(agent: &Process) -> Result<String> {
    let line = agent.wait_for_line("metrics=", LIMIT)?;
    let address = line.split("metrics=").nth(1).context("the log names the address")?;
    Ok(address.split_whitespace().next().unwrap_or_default().to_owned())
}

/// What an agent of a node says at `/metrics`.
pub fn scrape(node: &Node, agent: &Process) -> Result<Scrape> {
    Scrape::of(node, &metrics_address(agent)?)
}

/// What the agent of a state directory says of itself.
pub fn status(state: &Path) -> Result<Value> {
    let mut socket = UnixStream::connect(state.join("admin.sock"))?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// Removes what an agent left; nothing to do is fine.
pub fn off(state: &Path) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_beeway"))
        .args(["off", "--state"])
        .arg(state)
        .output();
    if let Ok(output) = done
        && !output.status.success()
    {
        eprintln!("beeway off: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The default rules: one user to v2, one path forbidden, all else to v1.
pub const JASON: &str = "\
- match: [{uri: {prefix: /forbidden}}]
  directResponse: {status: 403, body: {string: \"RBAC: access denied\"}}
- match: [{headers: {end-user: {exact: jason}}}]
  route: [{destination: {host: web, subset: v2}}]
- route: [{destination: {host: web, subset: v1}}]
";

pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_beeway"))
}
