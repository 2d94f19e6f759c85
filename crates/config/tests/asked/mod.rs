//! A mesh of two namespaces, and requests to be decided in it.
#![allow(dead_code)] // each test binary uses its part

use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{Outcome, Request, Transport, route};

/// `api` with two HTTP ports and one that is not, and three services to tell answers apart. The
/// callers are pods: two of namespace web, one of shop, one of another.
const BASE: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: http-b, port: 81}, {name: tcp, port: 82}]}}
- {apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: front, namespace: web}, spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: one, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: two, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: three, namespace: web}, spec: {ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: web, labels: {app: web, v: '1'}}, spec: {containers: []}, status: {podIP: 10.0.0.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-2, namespace: web, labels: {app: web, v: '2'}}, spec: {containers: []}, status: {podIP: 10.0.0.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: shop-1, namespace: shop, labels: {app: web}}, spec: {containers: []}, status: {podIP: 10.0.0.3}}
- {apiVersion: v1, kind: Pod, metadata: {name: lone-1, namespace: lone}, spec: {containers: []}, status: {podIP: 10.0.0.4}}
";

/// A configuration on top of [`BASE`].
pub struct Mesh(Loaded);

/// A request: by default `GET /` of an unknown caller to port 80 of `api`.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    method: &'a str,
    target: &'a str,
    scheme: &'a str,
    host: &'a str,
    headers: &'a [(&'a str, &'a str)],
    from: &'a str,
    service: &'a str,
    port: u16,
}

pub fn ask<'a>(method: &'a str, target: &'a str) -> Ask<'a> {
    let (scheme, host, headers, from, service) = ("http", "api", &[], "", "api");
    Ask { method, target, scheme, host, headers, from, service, port: 80 }
}

/// A GET of each target.
pub fn gets<const N: usize>(targets: [&'static str; N]) -> [Ask<'static>; N] {
    targets.map(|target| ask("GET", target))
}

impl<'a> Ask<'a> {
    pub fn scheme(self, scheme: &'a str) -> Self {
        Self { scheme, ..self }
    }

    pub fn host(self, host: &'a str) -> Self {
        Self { host, ..self }
    }

    pub fn headers(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    /// The name of a pod; empty: nobody knows who it is.
    pub fn from(self, from: &'a str) -> Self {
        Self { from, ..self }
    }

    pub fn to(self, service: &'a str) -> Self {
        Self { service, ..self }
    }

    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }
}

impl Mesh {
    pub fn load(text: &str) -> Mesh {
        let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
        Mesh(load(&[file("base.yaml", BASE), file("f.yaml", text)], &Options::default()))
    }

    /// What is wrong with the configuration, notices left out.
    pub fn problems(&self) -> Vec<String> {
        let all = self.0.problems.iter().map(ToString::to_string);
        all.filter(|text| !text.contains("notice: ")).collect()
    }

    /// The cluster, or the status, that the reference router decides on.
    pub fn decide(&self, ask: &Ask<'_>) -> String {
        let mesh = &self.0.mesh;
        let service = mesh.services.iter().find(|s| s.name == ask.service).expect("a service");
        let port = service.port(ask.port, Transport::Tcp).expect("a port");
        let source = mesh.workloads.iter().map(|w| &**w).find(|w| w.name == ask.from);
        assert_eq!(source.is_none(), ask.from.is_empty(), "{}", ask.from);
        let headers: Vec<(&str, &[u8])> =
            ask.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let request = Request {
            method: ask.method,
            scheme: ask.scheme,
            authority: ask.host,
            target: ask.target,
            headers: &headers,
            source,
        };
        match route(port, &request, 0).outcome {
            Outcome::Forward(cluster) => mesh.cluster(cluster).name.clone(),
            Outcome::Respond { status, .. } => status.to_string(),
            Outcome::Redirect => "redirect".to_owned(),
        }
    }
}
