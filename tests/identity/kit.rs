//! A node whose service tells each client whom it is taken for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beeway_testbed::{Node, Place, Pod, Process, directory, http_server, spawn_ready};
use serde_json::Value;

use crate::bed::{self, LIMIT};

/// The service, by IPv4.
pub const WEB: &str = "10.96.0.10 80";

/// A pod as the configuration has it.
#[derive(Default)]
pub struct Told {
    pub name: &'static str,
    pub addresses: Vec<String>,
    pub uid: Option<&'static str>,
    pub cgroup: Option<&'static str>,
    pub host_network: bool,
    pub node: Option<&'static str>,
}

/// A node with a server, in a pod of its own or of somebody else.
pub struct Bed {
    pub agent: Option<Process>,
    _server: Process,
    pub server: Pod,
    pub config: tempfile::TempDir,
    pub state: tempfile::TempDir,
    pub node: Node,
}

impl Bed {
    pub fn new(label: &str) -> Result<Bed> {
        let node = Node::new(label)?;
        let server = node.plain_pod("server")?;
        let process = spawn_ready(http_server(&server, 8080, "server")?)?;
        let (config, state) = (directory("config")?, directory("state")?);
        Ok(Bed { agent: None, _server: process, server, config, state, node })
    }

    /// Writes the configuration: these pods, and rules that tell each by its label.
    pub fn tell(&self, pods: &[Told]) -> Result<()> {
        let address = self.server.ip4().to_string();
        self.tell_with(pods, &address)
    }

    /// The same, with the server at this address.
    pub fn tell_with(&self, pods: &[Told], server: &str) -> Result<()> {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\n\
             spec: {{clusterIP: 10.96.0.10, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: web-1, namespace: default, \
             labels: {{kubernetes.io/service-name: web}}}}\n\
             ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{server}]}}]\n"
        );
        for pod in pods {
            write!(text, "---\n{}", pod.yaml())?;
        }
        text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {name: web, namespace: default}\nspec:\n  hosts: [web]\n  http:\n";
        for Told { name, .. } in pods {
            writeln!(
                text,
                "  - {{match: [{{sourceLabels: {{app: {name}}}}}], \
                 directResponse: {{status: 200, body: {{string: {name}}}}}}}"
            )?;
        }
        text += "  - {directResponse: {status: 200, body: {string: nobody}}}\n";
        let draft = self.config.path().join("mesh.draft");
        std::fs::write(&draft, text)?;
        Ok(std::fs::rename(draft, self.config.path().join("mesh.yaml"))?)
    }

    /// Writes another configuration and waits until it is in force.
    pub fn tell_again(&self, pods: &[Told]) -> Result<()> {
        let before = self.status()?["generation"]["number"].as_u64().context("no generation")?;
        self.tell(pods)?;
        bed::wait_until("the generation", || {
            Ok(self.status()?["generation"]["number"].as_u64() > Some(before))
        })
    }

    pub fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(bed::start_agent(&self.node, self.config.path(), self.state.path())?);
        Ok(())
    }

    /// One that the kernel does not tell of processes.
    pub fn start_blind_agent(&mut self) -> Result<()> {
        let command = bed::agent_command(&self.node, self.config.path(), self.state.path());
        let command = command.args(["--metrics", "127.0.0.1:0", "--no-tracing"]);
        self.agent = Some(bed::ready(command.spawn()?)?);
        Ok(())
    }

    pub fn status(&self) -> Result<Value> {
        bed::status(self.state.path())
    }

    /// Makes a cgroup below that of the mesh.
    pub fn cgroup(&self, path: &str) -> Result<PathBuf> {
        let directory = self.node.mesh().path().join(path);
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// Waits until a workload is at home in so many cgroups and namespaces.
    pub fn wait_home(&self, name: &str, cgroups: usize, namespaces: usize) -> Result<()> {
        bed::wait_until(&format!("the home of {name}"), || {
            let status = self.status()?;
            let all = status["homes"]["workloads"].as_array().context("no homes")?;
            let count = |key: &str| {
                let found = all.iter().find(|w| w["name"] == name);
                found.map_or(0, |w| w[key].as_array().map_or(0, Vec::len))
            };
            Ok((count("cgroups"), count("namespaces")) == (cgroups, namespaces))
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.agent.as_ref().map(|agent| agent.stderr().join("\n"));
            eprintln!("--- agent ---\n{}", log.unwrap_or_default());
            if let Ok(status) = self.status() {
                eprintln!("--- homes ---\n{:#}", status["homes"]);
            }
        }
        drop(self.agent.take());
        bed::off(self.state.path());
    }
}

impl Told {
    /// A pod with the addresses of one of the testbed.
    pub fn of(name: &'static str, pod: &Pod) -> Told {
        let addresses = vec![pod.ip4().to_string(), pod.ip6().to_string()];
        Told { name, addresses, ..Told::default() }
    }

    /// A pod with an address that none of the testbed has.
    pub fn at(name: &'static str, address: &str) -> Told {
        Told { name, addresses: vec![address.to_owned()], ..Told::default() }
    }

    pub fn uid(self, uid: &'static str) -> Told {
        Told { uid: Some(uid), ..self }
    }

    fn yaml(&self) -> String {
        let mut metadata =
            format!("name: {name}, namespace: default, labels: {{app: {name}}}", name = self.name);
        if let Some(uid) = self.uid {
            write!(metadata, ", uid: {uid}").expect("writing to a string");
        }
        if let Some(cgroup) = self.cgroup {
            write!(metadata, ", annotations: {{beeway.io/cgroup: {cgroup}}}")
                .expect("writing to a string");
        }
        let ips: Vec<String> =
            self.addresses.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}}}\n\
             spec: {{nodeName: {}, hostNetwork: {}, containers: []}}\n\
             status: {{phase: Running, podIPs: [{}]}}\n",
            self.node.unwrap_or("node-1"),
            self.host_network,
            ips.join(", ")
        )
    }
}

/// A client that does as it is told.
pub struct Client(Process);

impl Client {
    /// In a place, and in a cgroup.
    pub fn start(place: &impl Place, cgroup: &Path) -> Result<Client> {
        let script = include_str!("client.py");
        let command = place.command("/usr/bin/python3").args(["-c", script]);
        let mut client = Client(command.cgroup(cgroup).spawn()?);
        assert_eq!(client.0.next_line(LIMIT)?, "here");
        Ok(client)
    }

    /// Gives an order, and hands back the answer.
    pub fn order(&mut self, order: &str) -> Result<String> {
        self.0.write_line(order)?;
        self.0.next_line(LIMIT)
    }

    /// Whom a new connection is taken for.
    pub fn ask(&mut self) -> Result<String> {
        self.order(&format!("ask {WEB}"))
    }

    /// Moves it to another cgroup.
    pub fn move_to(&self, cgroup: &Path) -> Result<()> {
        Ok(std::fs::write(cgroup.join("cgroup.procs"), self.0.pid().to_string())?)
    }
}
