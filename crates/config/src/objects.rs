//! Documents → typed objects: which kinds are read, which are only reported, which appear twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::decode::{Unread, decode};
use crate::document::{self, Node, Value};
use crate::problem::{Problem, Severity};
use crate::{gateway, istio};

/// Where an object was written, and what it is called in problems.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    file: Arc<Path>,
    label: String,
    node: Node,
}

/// One object of a kind that is read.
#[derive(Debug)]
pub(crate) struct Object<T> {
    pub place: Place,
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub created: Option<Timestamp>,
    pub deleted: bool,
    pub body: T,
}

/// Everything that was read, each kind in order of namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub services: Vec<Object<core::Service>>,
    pub pods: Vec<Object<core::Pod>>,
    pub slices: Vec<Object<EndpointSlice>>,
    pub http_routes: Vec<Object<gateway::HttpRoute>>,
    pub reference_grants: Vec<Object<gateway::ReferenceGrant>>,
    pub virtual_services: Vec<Object<istio::VirtualService>>,
    pub destination_rules: Vec<Object<istio::DestinationRule>>,
    pub service_entries: Vec<Object<istio::ServiceEntry>>,
    pub workload_entries: Vec<Object<istio::WorkloadEntry>>,
}

impl Place {
    /// What the object is called: `VirtualService default/reviews`.
    pub(crate) fn label(&self) -> &str {
        &self.label
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
        let line = Some(self.node.line_of(path));
        let object = (!self.label.is_empty()).then(|| self.label.clone());
        Problem { severity, file: self.file.to_path_buf(), line, object, reason }
    }

    fn position(&self) -> String {
        format!("{}:{}", self.file.display(), self.node.line)
    }
}

/// Reads every object of every file.
pub(crate) fn collect(files: &[(PathBuf, String)], problems: &mut Vec<Problem>) -> Objects {
    let mut reader = Reader { objects: Objects::default(), seen: BTreeMap::new(), problems };
    for (path, text) in files {
        let file: Arc<Path> = Arc::from(path.as_path());
        for document in document::read(text) {
            match document {
                Ok(node) => reader.document(&file, node),
                Err(malformed) => reader.problems.push(Problem {
                    severity: Severity::Error,
                    file: path.clone(),
                    line: Some(malformed.line),
                    object: None,
                    reason: malformed.reason,
                }),
            }
        }
    }
    let mut objects = reader.objects;
    objects.sort();
    objects
}

impl Objects {
    fn sort(&mut self) {
        fn by_name<T>(list: &mut [Object<T>]) {
            list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        }
        by_name(&mut self.services);
        by_name(&mut self.pods);
        by_name(&mut self.slices);
        by_name(&mut self.http_routes);
        by_name(&mut self.reference_grants);
        by_name(&mut self.virtual_services);
        by_name(&mut self.destination_rules);
        by_name(&mut self.service_entries);
        by_name(&mut self.workload_entries);
    }
}

struct Reader<'a> {
    objects: Objects,
    /// Group, kind, namespace and name → the place that stands.
    seen: BTreeMap<(String, String, String, String), String>,
    problems: &'a mut Vec<Problem>,
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

impl Reader<'_> {
    fn document(&mut self, file: &Arc<Path>, node: Node) {
        let place = Place { file: file.clone(), label: String::new(), node };
        let (Some(version), Some(kind)) = (place.node.text("apiVersion"), place.node.text("kind"))
        else {
            self.problems
                .push(place.error("", "not a Kubernetes object: no apiVersion or no kind"));
            return;
        };
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let (group, version, kind) = (group.to_owned(), version.to_owned(), kind.to_owned());
        let items = place.node.get("items").map(|items| &items.value);
        match items {
            Some(Value::List(items)) if kind.ends_with("List") => {
                for item in items {
                    self.document(file, item.clone());
                }
            }
            _ => self.object(place, &group, &version, &kind),
        }
    }

    fn object(&mut self, mut place: Place, group: &str, version: &str, kind: &str) {
        let metadata = place.node.get("metadata");
        let name = metadata.and_then(|m| m.text("name")).unwrap_or_default().to_owned();
        let cluster_wide = group.is_empty() && matches!(kind, "Namespace" | "Node");
        let namespace = match metadata.and_then(|m| m.text("namespace")) {
            _ if cluster_wide => String::new(),
            Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
            _ => "default".to_owned(),
        };
        place.label = if cluster_wide {
            format!("{kind} {name}")
        } else {
            format!("{kind} {namespace}/{name}")
        };
        if let Some(problem) = unread_kind(&place, group, kind) {
            self.problems.push(problem);
            return;
        }
        let versions: &[&str] = match group {
            "networking.istio.io" => &ISTIO_VERSIONS,
            "gateway.networking.k8s.io" => &GATEWAY_VERSIONS,
            _ => &["v1"],
        };
        if !versions.contains(&version) {
            let reason = format!("version {version} of {kind} is not supported; it is not applied");
            self.problems.push(place.error("apiVersion", reason));
            return;
        }
        if name.is_empty() {
            self.problems.push(place.error("metadata", "no metadata.name; it is not applied"));
            return;
        }
        let key = (group.to_owned(), kind.to_owned(), namespace.clone(), name.clone());
        if let Some(first) = self.seen.get(&key) {
            let reason = format!("defined before at {first}; that one stands, this one is ignored");
            self.problems.push(place.error("", reason));
            return;
        }
        self.seen.insert(key, place.position());
        self.typed(place, namespace, name, kind);
    }

    fn typed(&mut self, place: Place, namespace: String, name: String, kind: &str) {
        let at = (place, namespace, name);
        match kind {
            "Namespace" => drop(self.read::<core::Namespace>(at)),
            "Node" => drop(self.read::<core::Node>(at)),
            "Service" => {
                let read = self.read(at);
                self.objects.services.extend(read);
            }
            "Pod" => {
                let read = self.read(at);
                self.objects.pods.extend(read);
            }
            "EndpointSlice" => {
                let read = self.read(at);
                self.objects.slices.extend(read);
            }
            "HTTPRoute" => {
                let read = self.read_spec(at);
                self.objects.http_routes.extend(read);
            }
            "ReferenceGrant" => {
                let read = self.read_spec(at);
                self.objects.reference_grants.extend(read);
            }
            "VirtualService" => {
                let read = self.read_spec(at);
                self.objects.virtual_services.extend(read);
            }
            "DestinationRule" => {
                let read = self.read_spec(at);
                self.objects.destination_rules.extend(read);
            }
            "ServiceEntry" => {
                let read = self.read_spec(at);
                self.objects.service_entries.extend(read);
            }
            _ => {
                let read = self.read_spec(at);
                self.objects.workload_entries.extend(read);
            }
        }
    }

    fn read_spec<T: DeserializeOwned>(&mut self, at: (Place, String, String)) -> Option<Object<T>> {
        let read = self.read::<Resource<T>>(at)?;
        Some(Object {
            place: read.place,
            namespace: read.namespace,
            name: read.name,
            labels: read.labels,
            annotations: read.annotations,
            created: read.created,
            deleted: read.deleted,
            body: read.body.spec,
        })
    }

    fn read<T: DeserializeOwned>(
        &mut self,
        (place, namespace, name): (Place, String, String),
    ) -> Option<Object<T>> {
        let metadata = place
            .node
            .get("metadata")
            .map_or_else(|| Ok((ObjectMeta::default(), Vec::new())), decode::<ObjectMeta>);
        let (metadata, body, unread) = match (metadata, decode::<T>(&place.node)) {
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
            if is_condition(&path) {
                let reason =
                    format!("{path} is not known: a condition cannot be ignored; not applied");
                self.problems.push(place.error(&path, reason));
                unsafe_match = true;
            } else {
                let reason = format!("{path} is not known; it is ignored");
                self.problems.push(place.warning(&path, reason));
            }
        }
        (!unsafe_match).then(|| Object {
            namespace,
            name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            created: metadata.creation_timestamp.map(|time| time.0),
            deleted: metadata.deletion_timestamp.is_some(),
            body,
            place,
        })
    }
}

/// Whether a path lies in the `match` of a VirtualService or the `matches` of an HTTPRoute.
fn is_condition(path: &str) -> bool {
    let mut steps = path.split('.');
    (steps.next(), steps.next()) == (Some("spec"), Some("http"))
        && path.split('.').nth(3) == Some("match")
        || path.starts_with("spec.rules.") && path.split('.').nth(3) == Some("matches")
}

/// What to say of an object of a kind that is not read; `None` for the kinds that are.
fn unread_kind(place: &Place, group: &str, kind: &str) -> Option<Problem> {
    let security =
        matches!(kind, "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication")
            || kind.ends_with("NetworkPolicy");
    let read = match group {
        "" => matches!(kind, "Service" | "Pod" | "Namespace" | "Node"),
        "discovery.k8s.io" => kind == "EndpointSlice",
        "gateway.networking.k8s.io" => matches!(kind, "HTTPRoute" | "ReferenceGrant"),
        "networking.istio.io" => {
            matches!(kind, "VirtualService" | "DestinationRule" | "ServiceEntry" | "WorkloadEntry")
        }
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
