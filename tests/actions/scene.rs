//! The usual bed with servers that tell what they were asked, and a service for HTTPRoutes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Place, Pod, Process, RawClient, Response, http_server, spawn_ready};
use serde_json::Value;

use crate::bed::{Bed, LIMIT, Shape, WEB};

/// Virtual address of the service `api`, port 80: both versions, ruled by HTTPRoutes.
pub const API: &str = "10.96.0.20:80";

/// A service whose endpoint does not listen.
pub const REFUSED: &str = "\
apiVersion: v1
kind: Service
metadata: {name: refused, namespace: default}
spec:
  clusterIP: 10.96.0.30
  selector: {app: web, version: v1}
  ports: [{name: http, port: 80, targetPort: 8099}]
";

/// `api`, and the services that its routes lead to; `first` is v1 and `second` is v2.
const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: default}
spec:
  clusterIP: 10.96.0.20
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: first, namespace: default}
spec:
  clusterIP: 10.96.0.21
  selector: {app: web, version: v1}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: second, namespace: default}
spec:
  clusterIP: 10.96.0.22
  selector: {app: web, version: v2}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// A rule that sends everything to v1.
pub const PLAIN: &str = "- route: [{destination: {host: web, subset: v1}}]\n";

/// A bed whose rules can be replaced.
pub struct Scene {
    pub bed: Bed,
}

impl Scene {
    /// With `rules`, YAML items of `spec.http` of the VirtualService of `web`.
    pub fn new(label: &str, rules: &str) -> Result<Scene> {
        let mut bed = Bed::new(label, Shape { servers_in_mesh: false }, PLAIN)?;
        bed.stop_servers();
        bed.servers = vec![server(&bed.v1, "v1")?, server(&bed.v2, "v2")?];
        let scene = Scene { bed };
        scene.apply("services.yaml", SERVICES)?;
        scene.rules(rules)?;
        Ok(scene)
    }

    /// With `rules`, YAML items of `spec.rules` of the HTTPRoute of `api`.
    pub fn gateway_api(label: &str, rules: &str) -> Result<Scene> {
        let scene = Scene::new(label, PLAIN)?;
        scene.http_route(rules)?;
        Ok(scene)
    }

    /// Writes a file and waits until it is in force.
    pub fn apply(&self, name: &str, text: &str) -> Result<()> {
        let before = self.bed.generation()?;
        self.bed.write(name, text)?;
        self.bed.wait_for_generation(before).map(drop)
    }

    /// Replaces the rules of the VirtualService.
    pub fn rules(&self, rules: &str) -> Result<()> {
        if rules == PLAIN {
            return Ok(());
        }
        let before = self.bed.generation()?;
        self.bed.route(rules)?;
        self.bed.wait_for_generation(before).map(drop)
    }

    /// Replaces the rules of the HTTPRoute.
    pub fn http_route(&self, rules: &str) -> Result<()> {
        let rules: String = rules.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: api, namespace: default}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: api, port: 80}}]\n  rules:\n{rules}"
        );
        self.apply("api-route.yaml", &text)
    }

    /// A connection to `web`.
    pub fn connect(&self) -> Result<RawClient> {
        RawClient::connect(&self.bed.client, WEB.parse()?)
    }

    /// A GET to `web` on a connection of its own.
    pub fn get(&self, path: &str, headers: &[&str]) -> Result<Response> {
        self.connect()?.get("web", path, headers).with_context(|| format!("GET {path}"))
    }

    /// A GET to `api` on a connection of its own.
    pub fn get_api(&self, path: &str, headers: &[&str]) -> Result<Response> {
        let mut raw = RawClient::connect(&self.bed.client, API.parse()?)?;
        raw.get("api", path, headers).with_context(|| format!("GET {path}"))
    }

    /// Waits for the record of a request for a path.
    pub fn record(&self, path: &str) -> Result<Value> {
        let end = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read_to_string(self.bed.state.path().join("access.log"))?;
            let mut records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(record) = records.find(|record: &Value| record["path"] == path) {
                return Ok(record);
            }
            ensure!(Instant::now() < end, "no record of {path} in {text}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// How many requests with a key a server has met, asked for past the mesh.
    pub fn count(&self, pod: &Pod, key: &str) -> Result<u64> {
        let mut raw = RawClient::connect_in(&self.bed.client, pod.addr4(8080), false)?;
        Ok(raw.get("x", &format!("/count/{key}"), &[])?.body.parse()?)
    }

    /// Waits until a server has met a number of requests with a key.
    pub fn wait_for_count(&self, pod: &Pod, key: &str, wanted: u64) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while self.count(pod, key)? < wanted {
            ensure!(Instant::now() < end, "{key}: {} of {wanted}", self.count(pod, key)?);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A server that answers with what it was asked, where nothing else is asked for.
pub fn server(pod: &Pod, name: &str) -> Result<Process> {
    spawn_ready(http_server(pod, 8080, name)?.args(["--echo", "--log"]))
}

/// What a server says that it was asked.
pub fn asked(answer: &Response) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("no head: {answer:?}"))
}

/// A field of what a server was asked, values without spaces between them.
pub fn field(answer: &Response, name: &str) -> Option<String> {
    asked(answer)["headers"][name].as_str().map(|value| value.replace(", ", ","))
}
