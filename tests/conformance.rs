//! Gateway API's mesh cases (GAMMA) as traffic: a real agent, real pods, real requests.
//!
//! The Deployments of the conformance manifests become pods with a server each, the Services get
//! addresses, the routes are written into the agent's directory as they are. One bed serves all
//! cases; the routes change from source file to source file.

mod bed;
mod cases;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{
    Load, Node, Place, Pod, Process, RawClient, Response, http_server, spawn_ready,
};
use cases::{Case, Cases, assert_all_named};
use serde_json::{Value, json};

/// The source files that are replayed.
const REPLAYED: [&str; 11] = [
    "httproute-matching",
    "httproute-named-rule",
    "httproute-query-param-matching",
    "httproute-simple-same-namespace",
    "httproute-weight",
    "mesh-basic",
    "mesh-consumer-route",
    "mesh-frontend",
    "mesh-frontend-hostname",
    "mesh-ports",
    "mesh-split",
];

const REDIRECT: &str = "redirects are answered 501 for now";
const FILTER: &str = "the filter is not carried out yet";
const GRPC: &str = "GRPCRoute is not read yet, and gRPC is not taken apart";

/// Those that are not, and why.
const LEFT_OUT: [(&str, &str); 11] = [
    ("grpcroute-request-header-modifier", GRPC),
    ("grpcroute-weight", GRPC),
    ("httproute-303-redirect", REDIRECT),
    ("httproute-307-redirect", REDIRECT),
    ("httproute-308-redirect", REDIRECT),
    ("httproute-redirect-host-and-status", REDIRECT),
    ("httproute-redirect-path", REDIRECT),
    ("httproute-redirect-port", REDIRECT),
    ("httproute-redirect-scheme", REDIRECT),
    ("httproute-request-header-modifier", FILTER),
    ("httproute-rewrite-path", FILTER),
];

const MESH: &str = "gateway-conformance-mesh";
const CONSUMER: &str = "gateway-conformance-mesh-consumer";

/// How long anything may take.
const LIMIT: Duration = bed::LIMIT;

/// Requests for a case of weights. The share may be off by five percentage points, which is five
/// standard deviations of so many.
const DRAWS: u64 = 2000;

struct Mesh {
    node: Node,
    /// By namespace and Deployment.
    pods: BTreeMap<(String, String), Pod>,
    /// Services' addresses by namespace and name.
    frontends: BTreeMap<(String, String), Ipv4Addr>,
    config: tempfile::TempDir,
    state: tempfile::TempDir,
    routes: String,
    agent: Option<Process>,
    _servers: Vec<Process>,
}

impl Mesh {
    fn new(cases: &Cases) -> Result<Mesh> {
        let mut mesh = Mesh {
            node: Node::new("gamma")?,
            pods: BTreeMap::new(),
            frontends: BTreeMap::new(),
            config: tempfile::tempdir()?,
            state: tempfile::tempdir()?,
            routes: String::new(),
            agent: None,
            _servers: Vec::new(),
        };
        let mut objects = Vec::new();
        for mut object in cases.manifest("mesh/manifests.yaml") {
            let name = |key| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            let key = (name("namespace"), name("name"));
            match object["kind"].as_str() {
                Some("Deployment") => objects.push(mesh.deploy(key, &object)?),
                Some("Service") => {
                    let address = Ipv4Addr::new(10, 96, 3, mesh.frontends.len() as u8 + 1);
                    object["spec"]["clusterIP"] = address.to_string().into();
                    mesh.frontends.insert(key, address);
                    objects.push(object);
                }
                _ => objects.push(object),
            }
        }
        let objects: Vec<String> = objects.iter().map(Value::to_string).collect();
        mesh.write("mesh.yaml", &objects.join("\n---\n"))?;
        mesh.agent = Some(bed::start_agent(&mesh.node, mesh.config.path(), mesh.state.path())?);
        Ok(mesh)
    }

    /// A pod of a Deployment, with its server, and the object that says so.
    fn deploy(&mut self, key: (String, String), deployment: &Value) -> Result<Value> {
        let (namespace, name) = &key;
        let pod = self.node.pod(&format!("{name}-{}", self.pods.len()))?;
        let server = http_server(&pod, 8080, &format!("{namespace}/{}", pod.label()))?;
        self._servers.push(spawn_ready(server)?);
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
        self.pods.insert(key, pod);
        Ok(object)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.config.path().join(name);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text)?;
        Ok(std::fs::rename(draft, path)?)
    }

    /// Puts the routes of a source file in force, and no others.
    fn route(&mut self, cases: &Cases, source: &str) -> Result<()> {
        let manifest = match source {
            "mesh-basic" => None,
            "mesh-frontend-hostname" => Some("mesh-frontend"),
            _ => Some(source),
        };
        let objects = manifest.map(|name| cases.manifest(&format!("tests/mesh/{name}.yaml")));
        let objects: Vec<String> = objects.iter().flatten().map(Value::to_string).collect();
        let routes = objects.join("\n---\n");
        if routes == self.routes {
            return Ok(());
        }
        let before = self.generation()?;
        self.write("routes.yaml", &routes)?;
        self.routes = routes;
        let end = Instant::now() + LIMIT;
        while self.generation()? <= before {
            ensure!(Instant::now() < end, "the routes of {source} are not in force");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn generation(&self) -> Result<u64> {
        bed::status(self.state.path())?["generation"]["number"].as_u64().context("no generation")
    }

    fn detours(&self) -> Result<u64> {
        bed::status(self.state.path())?["lanes"]["detour"].as_u64().context("no lane detour")
    }

    fn pod(&self, namespace: &str, name: &str) -> &Pod {
        &self.pods[&(namespace.to_owned(), name.to_owned())]
    }

    /// What a host of a case resolves to, for a client of the mesh's namespace.
    fn resolve(&self, host: &str) -> SocketAddr {
        // The source puts the address of a pod of echo-v2 there.
        if host.starts_with('$') {
            return self.pod(MESH, "echo-v2").addr4(8080);
        }
        let (name, port) = host.split_once(':').unwrap_or((host, "80"));
        let (service, namespace) = name.split_once('.').unwrap_or((name, MESH));
        let address = self.frontends[&(namespace.to_owned(), service.to_owned())];
        (address, port.parse().expect("a port")).into()
    }
}

impl Drop for Mesh {
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

/// The host of a case's URL. A case without one calls `echo`.
fn host(case: &Case) -> &str {
    if case.host.is_empty() { "echo" } else { &case.host }
}

/// Who sends a case: a pod of echo-v1, of the namespace that the case's name speaks of.
fn client(case: &Case) -> &'static str {
    let of_consumer = case.label.contains("request from consumer route's namespace");
    if of_consumer { CONSUMER } else { MESH }
}

fn head(case: &Case, to: SocketAddr) -> String {
    let own = case.headers.iter().find(|(name, _)| name == "Host");
    let host = match (own, host(case)) {
        (Some((_, host)), _) => host.clone(),
        (None, host) if host.starts_with('$') => to.to_string(),
        (None, host) => host.to_owned(),
    };
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", case.method, case.path);
    for (name, value) in case.headers.iter().filter(|(name, _)| name != "Host") {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

fn check(case: &Case, answer: &Response) {
    assert!(case.statuses.contains(&answer.status.into()), "{case:?}: {answer:?}");
    if let Some(backend) = &case.backend {
        let wanted = format!("{}/{backend}", case.namespace.as_deref().unwrap_or(MESH));
        let by = answer.served_by().unwrap_or_default();
        assert!(by.starts_with(&wanted), "{case:?}: {answer:?}");
    }
}

/// Whether the answer's headers are to be changed by a filter. `None`: the case does not look.
fn filtered(case: &Case) -> Option<bool> {
    match (case.answer_headers.is_empty(), case.absent_headers.is_empty()) {
        (true, true) => None,
        (changed, _) => Some(!changed),
    }
}

/// Each case on a connection of its own.
///
/// Filters are not carried out yet; but the requests of a rule that has one take the detour, and
/// nothing else here does, since the connection leads to the only endpoint. So the lane says which
/// rule was met, where the case looks at a header.
fn alone(mesh: &Mesh, cases: &[Case]) -> Result<()> {
    for case in cases {
        let to = mesh.resolve(host(case));
        let before = mesh.detours()?;
        let mut raw = RawClient::connect(mesh.pod(client(case), "echo-v1"), to)?;
        let answer = raw.request(&head(case, to)).with_context(|| format!("{case:?}"))?;
        check(case, &answer);
        if let Some(filtered) = filtered(case) {
            assert_eq!(mesh.detours()? - before, u64::from(filtered), "{case:?}: {answer:?}");
        }
    }
    Ok(())
}

/// All cases again, there and back, on one connection from each client to each frontend.
fn together(mesh: &Mesh, cases: &[Case]) -> Result<()> {
    let mut connections: BTreeMap<(&str, SocketAddr), RawClient> = BTreeMap::new();
    for case in cases.iter().chain(cases.iter().rev()) {
        let to = mesh.resolve(host(case));
        let raw = match connections.entry((client(case), to)) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(RawClient::connect(mesh.pod(client(case), "echo-v1"), to)?)
            }
        };
        let answer = raw.request(&head(case, to)).with_context(|| format!("{case:?}"))?;
        check(case, &answer);
    }
    Ok(())
}

/// The case of weights, which the source loops over: 70 and 30.
fn weights(mesh: &Mesh) -> Result<()> {
    let url = format!("http://{}/", mesh.resolve("echo"));
    let report = Load::new(url, DRAWS).header("Host: echo").run(mesh.pod(MESH, "echo-v1"))?;
    assert_eq!((report.errors, report.status.get("200")), (0, Some(&DRAWS)), "{report:?}");
    for (backend, share) in [("echo-v1", 70.0), ("echo-v2", 30.0)] {
        let by = report.served_by.iter().filter(|(name, _)| name.contains(backend));
        let percent = by.map(|(_, n)| *n as f64).sum::<f64>() * 100.0 / DRAWS as f64;
        assert!((percent - share).abs() < 5.0, "{backend}: {percent} %, not {share} %");
    }
    Ok(())
}

#[test]
fn mesh_cases_are_answered_as_gateway_api_says() -> Result<()> {
    let Some(cases) = Cases::find() else { return Ok(()) };
    assert_all_named(&cases.sources("mesh"), &REPLAYED, &LEFT_OUT);
    let mut mesh = Mesh::new(&cases)?;
    let mut replayed = 0;
    for source in REPLAYED {
        mesh.route(&cases, source)?;
        let of_source = cases.of("mesh", source);
        replayed += of_source.len();
        if source == "httproute-weight" {
            weights(&mesh)?;
            continue;
        }
        alone(&mesh, &of_source)?;
        together(&mesh, &of_source)?;
    }
    println!("{replayed} cases of {} source files", REPLAYED.len());
    Ok(())
}
