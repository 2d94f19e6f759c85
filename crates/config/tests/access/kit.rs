//! A small cluster, and calls in it.

use std::net::IpAddr;
use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::access::{Access, Call, Party, evaluate};
use beeway_model::{Mesh, Request, Transport};

/// `web` (shop) and `db` (data) are pods, `api` is a service of `db`; 10.0.0.3 is a pod `cron` in
/// `ops`, 192.0.2.1 is the node that all run on, 192.0.2.2 another.
pub const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: red}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: data, labels: {team: blue}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop, labels: {app: web, tier: front}}
  spec: {serviceAccountName: web-sa, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
  status: {podIP: 10.0.0.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: data, labels: {app: db}}
  spec: {serviceAccountName: db-sa, containers: [{name: c, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]}
  status: {podIP: 10.0.0.2}
- {apiVersion: v1, kind: Pod, metadata: {name: cron, namespace: ops, labels: {app: cron}}, status: {podIP: 10.0.0.3}}
- apiVersion: v1
  kind: Service
  metadata: {name: api, namespace: data}
  spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{name: http, port: 80}, {name: tcp-raw, port: 90}]}
- apiVersion: v1
  kind: Node
  metadata: {name: here}
  status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: here}]}
- apiVersion: v1
  kind: Node
  metadata: {name: there}
  status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: ExternalIP, address: '2001:db8::2'}]}
";

/// The cluster with more documents, which begin on line 1 of `f.yaml`.
pub fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    let options = Options { node: Some("here".to_owned()) };
    load(&[file("cluster.yaml", CLUSTER), file("f.yaml", more)], &options)
}

/// An AuthorizationPolicy `data/p` with a `spec`, whose fields begin on line 5.
pub fn authorization(spec: &str) -> Loaded {
    with(&policy("security.istio.io/v1", "AuthorizationPolicy", "data", spec))
}

/// A document with a policy.
pub fn policy(version: &str, kind: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\n\
         spec:\n{}",
        spec.lines().map(|line| format!("  {line}\n")).collect::<String>()
    )
}

/// Findings in `f.yaml`, errors alone.
pub fn errors(loaded: &Loaded) -> Vec<String> {
    let errors = loaded.problems.iter().filter(|p| p.severity == beeway_config::Severity::Error);
    errors.map(ToString::to_string).collect()
}

/// A call that `web` makes of `db`, port 80, unless it says otherwise.
#[derive(Clone)]
pub struct Asked<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub port: u16,
    pub transport: Transport,
    pub sni: Option<&'a str>,
    /// Method and target.
    pub request: Option<(&'a str, &'a str)>,
    pub authority: &'a str,
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// A GET of `/` from `web`.
pub const GET: Asked<'static> = Asked {
    from: "10.0.0.1",
    to: "10.0.0.2",
    port: 80,
    transport: Transport::Tcp,
    sni: None,
    request: Some(("GET", "/")),
    authority: "api.data",
    headers: &[],
};

/// A connection from `web`.
pub const CONNECT: Asked<'static> = Asked { request: None, ..GET };

impl Asked<'_> {
    /// What the mesh's policies say.
    pub fn of(&self, mesh: &Mesh) -> Access {
        // as if the service had an endpoint that is no workload
        let of_api = matches!(self.to, "10.0.0.2" | "198.51.100.7");
        self.as_to(if of_api { &[("data", "api")] } else { &[] }, mesh)
    }

    /// What they say where these services are called.
    pub fn as_to(&self, services: &[(&str, &str)], mesh: &Mesh) -> Access {
        let party = |address: &str| {
            let address: IpAddr = address.parse().expect("an address");
            Party { address, identity: mesh.identity_at(address) }
        };
        let request = self.request.map(|(method, target)| Request {
            method,
            scheme: "http",
            authority: self.authority,
            target,
            headers: self.headers,
            source: None,
        });
        let call = Call {
            caller: party(self.from),
            called: party(self.to),
            port: self.port,
            transport: self.transport,
            services,
            sni: self.sni,
            request: request.as_ref(),
        };
        evaluate(mesh.access.iter().enumerate(), &call)
    }

    /// Whether they let it through.
    pub fn allowed(&self, mesh: &Mesh) -> bool {
        self.of(mesh).allowed
    }
}
