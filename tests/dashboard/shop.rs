//! Istio's Bookinfo with traffic, and an agent that serves a dashboard.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{
    Load, Node, Pod, PodOptions, Process, directory, http_server, nginx, spawn_ready,
};
use serde_json::Value;

use crate::bed::{agent_command, off, ready, status};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/bookinfo");
const PORT: u16 = 9080;

/// Pods of `examples/bookinfo`, with the last number of their addresses.
const PODS: [(&str, u16); 8] = [
    ("load", 10),
    ("intruder", 11),
    ("productpage-v1", 20),
    ("details-v1", 21),
    ("ratings-v1", 22),
    ("reviews-v1", 31),
    ("reviews-v2", 32),
    ("reviews-v3", 33),
];

pub const PRODUCTPAGE: &str = "10.96.0.10:9080";
pub const DETAILS: &str = "10.96.0.11:9080";
pub const RATINGS: &str = "10.96.0.12:9080";
pub const REVIEWS: &str = "10.96.0.13:9080";

/// A canary of 30 %, some of it by detour, since a connection leads to one version; ratings that can
/// be made to fail; nobody called `intruder` may ask reviews.
const ROUTES: &str = r#"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 70}
    - {destination: {host: reviews, subset: v2}, weight: 20}
    - {destination: {host: reviews, subset: v3}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http:
  - match: [{uri: {prefix: /broken}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 503}}
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: ratings}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-intruder, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules:
  - from: [{source: {ipBlocks: [10.244.0.11/32]}}]
"#;

/// The shop. What is below is dropped first.
pub struct Shop {
    pub agent: Process,
    _servers: Vec<Process>,
    pods: Vec<Pod>,
    pub config: tempfile::TempDir,
    pub state: tempfile::TempDir,
    pub node: Node,
}

impl Shop {
    /// Opens it; the agent is ready.
    pub fn open(label: &str) -> Result<Shop> {
        let (node, config, state) = (Node::new(label)?, directory("config")?, directory("state")?);
        for name in ["namespace", "services", "pods", "endpoints", "reviews-subsets"] {
            let file = format!("{name}.yaml");
            std::fs::copy(Path::new(EXAMPLE).join(&file), config.path().join(&file))?;
        }
        std::fs::write(config.path().join("routes.yaml"), ROUTES)?;
        let mut pods = Vec::new();
        for (name, number) in PODS {
            let addresses = (
                [10, 244, 0, number as u8].into(),
                // as text the number reads the same in both families
                format!("fd00:be::{number}").parse()?,
            );
            // not in the mesh, as if it were on another node: no shortcut to it
            let mesh = name != "details-v1";
            let options = PodOptions { addresses: Some(addresses), mesh, ..Default::default() };
            pods.push(node.pod_with(name, options)?);
        }
        let agent = start_agent(&node, config.path(), state.path())?;
        let mut shop = Shop { agent, _servers: Vec::new(), pods, config, state, node };
        shop.start_servers()?;
        Ok(shop)
    }

    fn start_servers(&mut self) -> Result<()> {
        let ask = |service: &str, path: &str| format!("http://{service}{path}");
        let ratings = [ask(RATINGS, "/ratings/0")];
        let both = [ask(DETAILS, "/details/0"), ask(REVIEWS, "/reviews/0")];
        let mut servers = vec![nginx(self.pod("details-v1"), PORT, "details-v1")?];
        for (name, upstreams, delay) in [
            ("ratings-v1", &[][..], 1),
            ("reviews-v1", &[], 2),
            ("reviews-v2", &ratings[..], 1),
            ("reviews-v3", &ratings[..], 3),
            ("productpage-v1", &both[..], 1),
        ] {
            let mut command = http_server(self.pod(name), PORT, name)?;
            command = command.args(["--delay-ms", &delay.to_string()]);
            for url in upstreams {
                command = command.args(["--upstream", url]);
            }
            servers.push(spawn_ready(command)?);
        }
        self._servers = servers;
        Ok(())
    }

    /// A pod by its name.
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.label() == name).expect("a pod of PODS")
    }

    /// Sends that many requests from a pod, and expects that status of each.
    pub fn send(&self, from: &str, to: &str, path: &str, n: u64, code: &str) -> Result<()> {
        let report =
            Load::new(format!("http://{to}{path}"), n).connections(2).run(self.pod(from))?;
        ensure!(
            report.errors == 0 && report.status.get(code) == Some(&n),
            "{from} to {to}{path}: {:?} {:?}",
            report.status,
            report.messages
        );
        Ok(())
    }

    /// Keeps on sending until it is dropped.
    pub fn keep_sending(
        &self,
        from: &str,
        to: &str,
        path: &str,
        connections: u32,
        pause: Duration,
    ) -> Result<Process> {
        let mut load = Load::new(format!("http://{to}{path}"), 0).connections(connections);
        (load.duration, load.pause) = (Duration::from_secs(60), pause);
        load.command(self.pod(from))?.spawn()
    }

    /// What `beeway dashboard` prints.
    pub fn url(&self) -> Result<String> {
        url(self.state.path())
    }

    /// The answer to a GET of the dashboard, with the token.
    pub fn api(&self, path: &str) -> Result<Value> {
        let url = self.url()?;
        let (site, token) = site_and_token(&url)?;
        let bearer = format!("Authorization: Bearer {token}");
        let url = format!("{site}/api/{path}");
        let output = beeway_testbed::curl(&self.node, &["-sS", "--fail", "-H", &bearer, &url])?;
        serde_json::from_str(&output.success()?.stdout).context(url)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent ---\n{}", self.agent.stderr().join("\n"));
            if let Ok(status) = status(self.state.path()) {
                eprintln!("--- status ---\n{status:#}");
            }
        }
        let _ = self.agent.terminate(Duration::from_secs(5));
        off(self.state.path());
    }
}

/// An agent with a dashboard, ready.
pub fn start_agent(node: &Node, config: &Path, state: &Path) -> Result<Process> {
    let addresses = ["--metrics", "127.0.0.1:0", "--dashboard", "127.0.0.1:0"];
    // so that the address of the metrics is told without colours
    ready(agent_command(node, config, state).args(addresses).env("NO_COLOR", "1").spawn()?)
}

/// What `beeway dashboard` prints.
pub fn url(state: &Path) -> Result<String> {
    let output = std::process::Command::new(crate::bed::binary())
        .args(["dashboard", "--state"])
        .arg(state)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// `http://ADDRESS` and the token of what `beeway dashboard` prints.
pub fn site_and_token(url: &str) -> Result<(&str, &str)> {
    url.split_once("/?token=").with_context(|| format!("no token in {url}"))
}
