//! The Deployments of the manifests as pods with a server each, their Services with addresses, and
//! an agent whose routes change from source file to source file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Node, Place, Pod, Process, directory, http_server, spawn_ready};
use serde_json::{Value, json};

use crate::bed::{self, LIMIT};

/// Namespace and name.
type Key = (String, String);

pub struct World {
    pub node: Node,
    /// By namespace and Deployment.
    pods: BTreeMap<Key, (Pod, Process)>,
    /// Services' addresses.
    frontends: BTreeMap<Key, Ipv4Addr>,
    config: tempfile::TempDir,
    state: tempfile::TempDir,
    routes: String,
    agent: Option<Process>,
}

impl World {
    /// With objects of a manifest, and servers that listen on these ports.
    pub fn new(label: &str, objects: Vec<Value>, ports: [u16; 2]) -> Result<World> {
        let mut world = World {
            node: Node::new(label)?,
            pods: BTreeMap::new(),
            frontends: BTreeMap::new(),
            config: directory("config")?,
            state: directory("state")?,
            routes: String::new(),
            agent: None,
        };
        let mut written = Vec::new();
        for mut object in objects {
            let name = |key| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            let key = (name("namespace"), name("name"));
            match object["kind"].as_str() {
                Some("Deployment") => written.push(world.deploy(key, &object, ports)?),
                Some("Service") => {
                    let address = Ipv4Addr::new(10, 96, 3, world.frontends.len() as u8 + 1);
                    object["spec"]["clusterIP"] = address.to_string().into();
                    world.frontends.insert(key, address);
                    written.push(object);
                }
                _ => written.push(object),
            }
        }
        let text: Vec<String> = written.iter().map(Value::to_string).collect();
        world.write("world.yaml", &text.join("\n---\n"))?;
        world.agent = Some(bed::start_agent(&world.node, world.config.path(), world.state.path())?);
        Ok(world)
    }

    /// A pod of a Deployment, with its server, and the object that says so.
    fn deploy(&mut self, key: Key, deployment: &Value, ports: [u16; 2]) -> Result<Value> {
        let (namespace, name) = &key;
        let pod = self.node.pod(&format!("{name}-{}", self.pods.len()))?;
        let mut server = http_server(&pod, ports[0], &format!("{namespace}/{}", pod.label()))?;
        for address in ["0.0.0.0", "[::]"] {
            server = server.args(["--listen", &format!("{address}:{}", ports[1])]);
        }
        let server = spawn_ready(server.args(["--echo", "--log"]))?;
        let template = &deployment["spec"]["template"];
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod.label(), "namespace": namespace,
                "labels": template["metadata"]["labels"],
            },
            "spec": template["spec"],
            "status": {
                "phase": "Running", "podIP": pod.ip4().to_string(),
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        self.pods.insert(key, (pod, server));
        Ok(object)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.config.path().join(name);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text)?;
        Ok(std::fs::rename(draft, path)?)
    }

    /// Puts these routes in force, and no others.
    pub fn route(&mut self, objects: &[Value]) -> Result<()> {
        let objects: Vec<String> = objects.iter().map(Value::to_string).collect();
        let routes = objects.join("\n---\n");
        if routes == self.routes {
            return Ok(());
        }
        let before = self.generation()?;
        self.write("routes.yaml", &routes)?;
        self.routes = routes;
        let end = Instant::now() + LIMIT;
        while self.generation()? <= before {
            ensure!(Instant::now() < end, "the routes are not in force");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    }

    fn generation(&self) -> Result<u64> {
        bed::status(self.state.path())?["generation"]["number"].as_u64().context("no generation")
    }

    /// The pod of a Deployment.
    pub fn pod(&self, namespace: &str, name: &str) -> &Pod {
        &self.pods[&(namespace.to_owned(), name.to_owned())].0
    }

    /// The server in it.
    pub fn server(&self, namespace: &str, name: &str) -> &Process {
        &self.pods[&(namespace.to_owned(), name.to_owned())].1
    }

    /// The address of a Service.
    pub fn frontend(&self, namespace: &str, name: &str) -> Ipv4Addr {
        self.frontends[&(namespace.to_owned(), name.to_owned())]
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(agent) = &self.agent
        {
            eprintln!("--- agent ---\n{}", agent.stderr().join("\n"));
        }
        drop(self.agent.take());
        bed::off(self.state.path());
    }
}
