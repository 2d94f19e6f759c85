//! One YAML document → the objects in it, as far as the document alone tells. What comes of it
//! depends on nothing but the document's text, so it can be kept while that stays the same.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::authorization::Authorization;
use crate::decode::{Unread, decode};
use crate::document::{self, Node, Value};
use crate::instance::{self, Instance};
use crate::mesh_config::{self, MeshConfig};
use crate::network_policy::NetworkPolicy;
use crate::policy_item;
use crate::problem::{Problem, Severity};
use crate::{envoy_filter, gateway, istio, kafka, rate_limit, telemetry};

/// Where an object was written, and what it is called in problems.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<Told>);

/// What a [`Place`] knows.
#[derive(Debug, Clone)]
struct Told {
    /// Empty until the document's file is known.
    file: Arc<Path>,
    /// Lines of the file before the document.
    before: usize,
    label: Arc<str>,
    node: Arc<Node>,
}

/// One object of a kind that is read.
#[derive(Debug)]
pub(crate) struct Object<T> {
    pub place: Place,
    written: Arc<Written<T>>,
}

/// What is written of an object, wherever that is.
#[derive(Debug, Default)]
pub(crate) struct Written<T> {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub created: Option<Timestamp>,
    pub deleted: bool,
    /// Empty: none is written.
    pub uid: String,
    pub body: T,
}

impl<T> Clone for Object<T> {
    fn clone(&self) -> Self {
        Self::new(self.place.clone(), &self.written)
    }
}

impl<T> Deref for Object<T> {
    type Target = Written<T>;

    fn deref(&self) -> &Written<T> {
        &self.written
    }
}

/// One object of a document, or what was to be one. Places and problems know no file yet, and
/// count lines from the document's first.
#[derive(Debug)]
pub(crate) struct Item {
    /// `None`: it is no object of a kind that is read, and there are only problems.
    pub identity: Option<Arc<Identity>>,
    pub place: Place,
    /// Group, kind, namespace and name have nothing to do with these.
    pub problems: Vec<Problem>,
    /// `None`: it cannot be used.
    pub typed: Option<Typed>,
}

/// What no two objects have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub group: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// An object of one of the kinds that are read.
#[derive(Debug)]
pub(crate) enum Typed {
    Service(Arc<Written<core::Service>>),
    /// `None`: it has finished, and its addresses are free again.
    Pod(Arc<Written<Option<Arc<Instance>>>>),
    EndpointSlice(Arc<Written<EndpointSlice>>),
    HttpRoute(Arc<Written<gateway::HttpRoute>>),
    GrpcRoute(Arc<Written<gateway::GrpcRoute>>),
    ReferenceGrant(Arc<Written<gateway::ReferenceGrant>>),
    VirtualService(Arc<Written<istio::VirtualService>>),
    DestinationRule(Arc<Written<istio::DestinationRule>>),
    ServiceEntry(Arc<Written<istio::ServiceEntry>>),
    WorkloadEntry(Arc<Written<istio::WorkloadEntry>>),
    Namespace(Arc<Written<core::Namespace>>),
    Node(Arc<Written<core::Node>>),
    MeshConfig(Arc<Written<MeshConfig>>),
    Authorization(Arc<Written<Authorization>>),
    NetworkPolicy(Arc<Written<NetworkPolicy>>),
    KafkaPolicy(Arc<Written<kafka::Spec>>),
    EnvoyFilter(Arc<Written<envoy_filter::Spec>>),
    Telemetry(Arc<Written<telemetry::Spec>>),
}

impl<T> Written<T> {
    /// The same object with another body, and the one that it had.
    pub(crate) fn replace<U>(self, body: U) -> (Written<U>, T) {
        let Written { namespace, name, labels, annotations, created, deleted, uid, body: old } =
            self;
        (Written { namespace, name, labels, annotations, created, deleted, uid, body }, old)
    }
}

impl<T> Object<T> {
    pub(crate) fn new(place: Place, written: &Arc<Written<T>>) -> Self {
        Self { place, written: written.clone() }
    }

    /// Whether both are one and the same, at one place.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.written, &other.written) && self.place.is(&other.place)
    }
}

impl Place {
    /// What the object is called: `VirtualService default/reviews`.
    pub(crate) fn label(&self) -> &str {
        &self.0.label
    }

    /// Something asked for at this path is not done.
    pub(crate) fn error(&self, path: &str, reason: impl Into<String>) -> Problem {
        self.problem(Severity::Error, path, reason.into())
    }

    /// A part of what is asked for at this path is not carried out.
    pub(crate) fn warning(&self, path: &str, reason: impl Into<String>) -> Problem {
        self.problem(Severity::Warning, path, reason.into())
    }

    /// Worth knowing.
    pub(crate) fn notice(&self, path: &str, reason: impl Into<String>) -> Problem {
        self.problem(Severity::Notice, path, reason.into())
    }

    fn problem(&self, severity: Severity, path: &str, reason: String) -> Problem {
        let line = Some(self.0.before + self.0.node.line_of(path));
        let object = (!self.0.label.is_empty()).then(|| self.0.label.to_string());
        Problem { severity, file: self.0.file.to_path_buf(), line, object, reason }
    }

    /// The line of the file for one of the document.
    pub(crate) fn line(&self, line: usize) -> usize {
        self.0.before + line
    }

    /// File and line.
    pub(crate) fn position(&self) -> String {
        format!("{}:{}", self.0.file.display(), self.0.before + self.0.node.line)
    }

    /// The same place in a file, behind that many lines.
    pub(crate) fn within(&self, file: &Arc<Path>, before: usize) -> Self {
        let Told { label, node, .. } = &*self.0;
        let (label, node) = (label.clone(), node.clone());
        Self(Arc::new(Told { file: file.clone(), before, label, node }))
    }

    /// Whether both are one and the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A problem of the document as one of the file.
    pub(crate) fn found(&self, problem: &Problem) -> Problem {
        Problem {
            file: self.0.file.to_path_buf(),
            line: problem.line.map(|line| self.0.before + line),
            ..problem.clone()
        }
    }

    /// What is written there.
    pub(crate) fn node(&self) -> &Node {
        &self.0.node
    }

    /// A place in no file yet, with what it is called in problems.
    pub(crate) fn of(node: Node, label: &str) -> Self {
        let file = Arc::from(Path::new(""));
        Self(Arc::new(Told { file, before: 0, label: Arc::from(label), node: Arc::new(node) }))
    }
}

/// Reads the objects of a document.
pub(crate) fn read(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    match document::parse(text) {
        None => {}
        Some(Ok(node)) => document_items(node, &mut items),
        Some(Err(malformed)) => {
            if let Some(closed) = policy_item::salvage(text, &malformed) {
                items.push(closed);
                return items;
            }
            let problem = Problem {
                severity: Severity::Error,
                file: PathBuf::new(),
                line: Some(malformed.line),
                object: None,
                reason: malformed.reason,
            };
            let place = Place::of(Node { line: malformed.line, value: Value::Null }, "");
            items.push(Item { identity: None, place, problems: vec![problem], typed: None });
        }
    }
    items
}

/// What every custom resource has around its `spec`.
#[derive(Deserialize)]
struct Resource<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "metadata")]
    _metadata: Unread,
    spec: S,
    #[serde(rename = "status")]
    _status: Option<Unread>,
}

const ISTIO_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
const GATEWAY_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

fn document_items(node: Node, items: &mut Vec<Item>) {
    let (Some(version), Some(kind)) = (node.text("apiVersion"), node.text("kind")) else {
        let place = Place::of(node, "");
        let problem = place.error("", "not a Kubernetes object: no apiVersion or no kind");
        items.push(Item { identity: None, place, problems: vec![problem], typed: None });
        return;
    };
    let list = kind.ends_with("List");
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let (group, version, kind) = (group.to_owned(), version.to_owned(), kind.to_owned());
    match node.into_list_items(list) {
        Ok(nodes) => nodes.into_iter().for_each(|node| document_items(node, items)),
        Err(node) => items.push(item(node, group, &version, kind)),
    }
}

fn item(node: Node, group: String, version: &str, kind: String) -> Item {
    if let Some(policy) = policy_item::Kind::of(&group, &kind) {
        return policy_item::read(policy, node, version, None);
    }
    let metadata = node.get("metadata");
    let name = metadata.and_then(|m| m.text("name")).unwrap_or_default().to_owned();
    let cluster_wide = group.is_empty() && matches!(&*kind, "Namespace" | "Node");
    let namespace = match metadata.and_then(|m| m.text("namespace")) {
        _ if cluster_wide => String::new(),
        Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
        _ => "default".to_owned(),
    };
    let label = match cluster_wide {
        true => format!("{kind} {name}"),
        false => format!("{kind} {namespace}/{name}"),
    };
    let place = Place::of(node, &label);
    let versions: &[&str] = match &*group {
        "networking.istio.io" => &ISTIO_VERSIONS,
        "gateway.networking.k8s.io" => &GATEWAY_VERSIONS,
        kafka::GROUP => &["v1alpha1"],
        "telemetry.istio.io" => &["v1", "v1alpha1"],
        _ => &["v1"],
    };
    let mesh_config = (&*group, &*kind) == ("", "ConfigMap")
        && (&*namespace, &*name) == (mesh_config::NAMESPACE, mesh_config::NAME);
    let unread = (!mesh_config).then(|| unread_kind(&place, &group, &kind)).flatten();
    let refused = if let Some(problem) = unread {
        Some(problem)
    } else if !versions.contains(&version) {
        let reason = format!("version {version} of {kind} is not supported; it is not applied");
        Some(place.error("apiVersion", reason))
    } else if name.is_empty() {
        Some(place.error("metadata", "no metadata.name; it is not applied"))
    } else {
        None
    };
    let is_kafka = kafka::is_policy(&group, &kind);
    let identity = Identity { group, kind, namespace, name };
    let mut reader = Reader { identity: &identity, place: &place, problems: Vec::new() };
    if let Some(problem) = refused {
        reader.problems.push(problem);
        let typed = is_kafka.then(|| Typed::KafkaPolicy(reader.closed()));
        let problems = reader.problems;
        return Item { identity: None, place, problems, typed };
    }
    let typed = reader.typed();
    let problems = reader.problems;
    Item { identity: Some(Arc::new(identity)), place, problems, typed }
}

struct Reader<'a> {
    identity: &'a Identity,
    place: &'a Place,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn typed(&mut self) -> Option<Typed> {
        Some(match &*self.identity.kind {
            "Namespace" => Typed::Namespace(self.read()?.into()),
            "Node" => Typed::Node(self.read()?.into()),
            "ConfigMap" => {
                let read = self.read::<core::ConfigMap>()?;
                let text = read.body.data.as_ref().and_then(|data| data.get(mesh_config::KEY));
                let body = mesh_config::read(
                    text.map_or("", String::as_str),
                    self.place,
                    &mut self.problems,
                );
                Typed::MeshConfig(Arc::new(read.replace(body).0))
            }
            "Service" => Typed::Service(self.read()?.into()),
            "Pod" => {
                let read = self.read::<core::Pod>()?;
                let instance = instance::of_pod(&read, self.place, &mut self.problems);
                Typed::Pod(Arc::new(read.replace(instance.map(Arc::new)).0))
            }
            "EndpointSlice" => Typed::EndpointSlice(self.read()?.into()),
            "HTTPRoute" => Typed::HttpRoute(self.read_spec()?),
            "GRPCRoute" => Typed::GrpcRoute(self.read_spec()?),
            "ReferenceGrant" => Typed::ReferenceGrant(self.read_spec()?),
            "VirtualService" => Typed::VirtualService(self.read_spec()?),
            "DestinationRule" => Typed::DestinationRule(self.read_spec()?),
            "ServiceEntry" => Typed::ServiceEntry(self.read_spec()?),
            "EnvoyFilter" => Typed::EnvoyFilter(self.rate_limit()?),
            "Telemetry" => Typed::Telemetry(self.read_spec()?),
            "KafkaPolicy" => Typed::KafkaPolicy(self.read_spec().unwrap_or_else(|| self.closed())),
            _ => Typed::WorkloadEntry(self.read_spec()?),
        })
    }

    /// An EnvoyFilter, which must do nothing but limit rates.
    fn rate_limit(&mut self) -> Option<Arc<Written<envoy_filter::Spec>>> {
        if let Some((path, what)) = envoy_filter::something_else(self.place.node()) {
            let outcome = rate_limit::NOT_APPLIED;
            let reason = format!("{what}: only local rate limits are supported; {outcome}");
            self.problems.push(self.place.error(&path, reason));
            return None;
        }
        let read = self.read_spec();
        if read.is_none() {
            self.problems.push(self.place.error("", rate_limit::NOT_APPLIED));
        }
        read
    }

    /// Stands for a policy that cannot be read.
    fn closed(&mut self) -> Arc<Written<kafka::Spec>> {
        let spec = kafka::closed(self.place.node());
        self.problems.push(kafka::closed_problem(self.place, &spec));
        Arc::new(Written {
            namespace: self.identity.namespace.clone(),
            name: self.identity.name.clone(),
            body: spec,
            ..Written::default()
        })
    }

    fn read_spec<T: DeserializeOwned>(&mut self) -> Option<Arc<Written<T>>> {
        let read = self.read::<Resource<T>>()?;
        let (read, resource) = read.replace(());
        Some(Arc::new(read.replace(resource.spec).0))
    }

    fn read<T: DeserializeOwned>(&mut self) -> Option<Written<T>> {
        let place = self.place;
        let metadata = place
            .node()
            .get("metadata")
            .map_or_else(|| Ok((ObjectMeta::default(), Vec::new())), decode::<ObjectMeta>);
        let (metadata, body, unread) = match (metadata, decode::<T>(place.node())) {
            (Ok((metadata, _)), Ok((body, unread))) => (metadata, body, unread),
            (Err(misfit), _) | (_, Err(misfit)) => {
                let mut problem = place.error("", format!("{}; it is not applied", misfit.reason));
                problem.line = misfit.line.or(problem.line);
                self.problems.push(problem);
                return None;
            }
        };
        let mut unsafe_match = false;
        for path in unread {
            // A condition that is not understood must not be taken as met.
            if is_condition(&self.identity.kind, &path) {
                let reason =
                    format!("{path} is not known: a condition cannot be ignored; not applied");
                self.problems.push(place.error(&path, reason));
                unsafe_match = true;
            } else {
                let reason = format!("{path} is not known; it is ignored");
                self.problems.push(place.warning(&path, reason));
            }
        }
        (!unsafe_match).then(|| Written {
            namespace: self.identity.namespace.clone(),
            name: self.identity.name.clone(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            created: metadata.creation_timestamp.map(|time| time.0),
            deleted: metadata.deletion_timestamp.is_some(),
            uid: metadata.uid.unwrap_or_default(),
            body,
        })
    }
}

/// Whether a path lies in the `match` of a VirtualService, the `matches` of a route, a policy, or what
/// a Telemetry is about.
fn is_condition(kind: &str, path: &str) -> bool {
    let mut steps = path.split('.');
    let (root, list, _) = (steps.next(), steps.next(), steps.next());
    root == Some("spec")
        && match list {
            _ if matches!(kind, "KafkaPolicy" | "EnvoyFilter") => true,
            Some("http" | "tls" | "tcp") => steps.next() == Some("match"),
            Some("rules") => steps.next() == Some("matches"),
            Some("selector") => kind == "Telemetry",
            Some("accessLogging" | "tracing") => {
                matches!(steps.next(), Some("match" | "filter"))
            }
            _ => false,
        }
}

/// What to say of an object of a kind that is not read; `None` for the kinds that are.
fn unread_kind(place: &Place, group: &str, kind: &str) -> Option<Problem> {
    let security =
        matches!(kind, "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication")
            || kind.ends_with("NetworkPolicy");
    let read = match group {
        "" => matches!(kind, "Service" | "Pod" | "Namespace" | "Node"),
        "discovery.k8s.io" => kind == "EndpointSlice",
        "gateway.networking.k8s.io" => matches!(kind, "HTTPRoute" | "GRPCRoute" | "ReferenceGrant"),
        "networking.istio.io" => matches!(
            kind,
            "VirtualService" | "DestinationRule" | "ServiceEntry" | "WorkloadEntry" | "EnvoyFilter"
        ),
        kafka::GROUP => kind == "KafkaPolicy",
        "telemetry.istio.io" => kind == "Telemetry",
        _ => false,
    };
    // Built-in kinds that say nothing about traffic.
    let harmless = match group {
        "" => !matches!(kind, "Endpoints"),
        "apps"
        | "batch"
        | "autoscaling"
        | "policy"
        | "rbac.authorization.k8s.io"
        | "apiextensions.k8s.io"
        | "storage.k8s.io"
        | "scheduling.k8s.io"
        | "coordination.k8s.io" => true,
        _ => false,
    };
    if read {
        None
    } else if security {
        let reason = "this version does NOT enforce it: what it forbids is allowed";
        Some(place.error("kind", reason))
    } else if harmless {
        Some(place.notice("kind", "this kind says nothing about traffic; it is not read"))
    } else {
        Some(place.warning("kind", "this kind is not supported yet; it is not applied"))
    }
}
