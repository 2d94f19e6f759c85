//! Documents that are, or were to be, policies. What cannot be read of one never opens a door: it
//! closes what the policy selects, as far as that can be told, and is an error that says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use beeway_model::access::{LabelSelector, LabelTest, Scope};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use crate::decode::decode;
use crate::document::{self, Entry, Malformed, Node, Value};
use crate::item::{Identity, Item, Place, Typed, Written};
use crate::problem::Problem;
use crate::{authorization, network_policy};

/// The kinds of policies that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Authorization,
    Network,
}

/// Why something cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it is.
    pub path: String,
    /// The line in the document, where it is known better than by the path.
    pub line: Option<usize>,
    pub reason: String,
}

/// A policy's document, and what its head says.
#[derive(Debug)]
pub(crate) struct Head {
    pub place: Place,
    /// `None`: it cannot be read.
    pub namespace: Option<String>,
    pub annotations: BTreeMap<String, String>,
    /// Why the policy cannot be read, if its head says so already.
    pub fault: Option<Fault>,
}

impl Kind {
    /// The kind of a policy that is read, in any version.
    pub(crate) fn of(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            ("security.istio.io", "AuthorizationPolicy") => Some(Self::Authorization),
            ("networking.k8s.io", "NetworkPolicy") => Some(Self::Network),
            _ => None,
        }
    }

    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Authorization => &["v1", "v1beta1"],
            Self::Network => &["v1"],
        }
    }

    fn group_and_name(self) -> (&'static str, &'static str) {
        match self {
            Self::Authorization => ("security.istio.io", "AuthorizationPolicy"),
            Self::Network => ("networking.k8s.io", "NetworkPolicy"),
        }
    }
}

impl Fault {
    pub(crate) fn at(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), line: None, reason: reason.into() }
    }

    /// The error, with what follows from it.
    pub(crate) fn error(&self, place: &Place, outcome: &str) -> Problem {
        let problem = place.error(&self.path, format!("{}; {outcome}", self.reason));
        Problem { line: self.line.or(problem.line), ..problem }
    }
}

impl Head {
    /// Who is selected when the policy's own selection cannot be read.
    pub(crate) fn whole(&self) -> Scope {
        Scope::Workloads(self.namespace.clone(), LabelSelector::default())
    }

    /// The part of the document under a key; `None`: there is none.
    pub(crate) fn part(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self.place.node(), |node, key| node.get(key))
    }

    /// That the document has these fields alone, and its `spec` those.
    pub(crate) fn only(&self, spec: &[&str]) -> Result<(), Fault> {
        only_fields(self.place.node(), "", &["apiVersion", "kind", "metadata", "spec", "status"])?;
        self.part(&["spec"]).map_or(Ok(()), |node| only_fields(node, "spec", spec))
    }
}

/// Reads a policy; `fault` is what is wrong with its document, if that is known.
pub(crate) fn read(kind: Kind, node: Node, version: &str, fault: Option<Fault>) -> Item {
    let name_of = |node: &Node| Some(node.get("metadata")?.text("name")?.to_owned());
    let name = name_of(&node).unwrap_or_default();
    let namespace = namespace(&node);
    let (group, word) = kind.group_and_name();
    let label = match &namespace {
        Some(namespace) => format!("{word} {namespace}/{name}"),
        None => format!("{word} ?/{name}"),
    };
    let metadata = node.get("metadata").map_or(Ok(Default::default()), decode::<ObjectMeta>);
    let ((metadata, unread), head) = metadata.map(|read| (read, None)).unwrap_or_else(|misfit| {
        let fault = Fault { line: misfit.line, ..Fault::at("metadata", misfit.reason) };
        (Default::default(), Some(fault))
    });
    let fault = fault.or(head).or_else(|| {
        if !kind.versions().contains(&version) {
            let reason = format!("version {version} of {word} is not supported");
            Some(Fault::at("apiVersion", reason))
        } else if namespace.is_none() {
            Some(Fault::at("metadata.namespace", "the namespace is no text"))
        } else if name.is_empty() {
            Some(Fault::at("metadata", "no metadata.name"))
        } else {
            None
        }
    });
    let identity = namespace.clone().filter(|_| !name.is_empty()).map(|namespace| {
        let (group, kind) = (group.to_owned(), word.to_owned());
        Arc::new(Identity { group, kind, namespace, name: name.clone() })
    });
    let place = Place::of(node, &label);
    let annotations = metadata.annotations.unwrap_or_default();
    let head = Head { place, namespace, annotations, fault };
    let unknown = |field| {
        let path = format!("metadata.{field}");
        head.place.warning(&path, format!("{path} is not known; it is ignored"))
    };
    let mut problems: Vec<Problem> = unread.iter().map(unknown).collect();
    let written = Written {
        namespace: head.namespace.clone().unwrap_or_default(),
        name,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: metadata.creation_timestamp.map(|time| time.0),
        deleted: metadata.deletion_timestamp.is_some(),
        uid: String::new(),
        body: (),
    };
    let typed = match kind {
        Kind::Authorization => {
            let body = authorization::read(&head, &mut problems);
            Typed::Authorization(Arc::new(written.replace(body).0))
        }
        Kind::Network => {
            let body = network_policy::read(&head, &mut problems);
            Typed::NetworkPolicy(Arc::new(written.replace(body).0))
        }
    };
    Item { identity, place: head.place, problems, typed: Some(typed) }
}

/// The policy that a document which is no YAML was to be, if its top level tells: each field of
/// that is read by itself.
pub(crate) fn salvage(text: &str, malformed: &Malformed) -> Option<Item> {
    let mut entries = document::fields(text);
    if !entries.iter().any(|entry| entry.key == "metadata") {
        // There is one that says nothing: not the same as none.
        let node = Node { line: malformed.line, value: Value::Null };
        entries.push(Entry { key: "metadata".to_owned(), line: malformed.line, node });
    }
    let node = Node { line: 1, value: Value::Map(entries) };
    let (group, version) = node.text("apiVersion")?.rsplit_once('/')?;
    let kind = Kind::of(group, node.text("kind")?)?;
    let version = version.to_owned();
    let reason = malformed.reason.clone();
    let fault = Fault { line: Some(malformed.line), ..Fault::at("", reason) };
    Some(read(kind, node, &version, Some(fault)))
}

/// The namespace that a document names, `default` if none; `None`: that cannot be read.
fn namespace(node: &Node) -> Option<String> {
    let default = || Some("default".to_owned());
    let Some(metadata) = node.get("metadata") else { return default() };
    match (&metadata.value, metadata.get("namespace").map(|node| &node.value)) {
        (Value::Map(_), Some(Value::Text(text))) if !text.is_empty() => Some(text.clone()),
        (Value::Map(_), None | Some(Value::Text(_) | Value::Null)) => default(),
        _ => None,
    }
}

/// Reads a part of a document in which every field must be known.
pub(crate) fn strict<T: DeserializeOwned>(node: &Node, path: &str) -> Result<T, Fault> {
    let (value, unread) = decode(node)
        .map_err(|misfit| Fault { line: misfit.line, ..Fault::at(path, misfit.reason) })?;
    match unread.first() {
        None => Ok(value),
        Some(field) => Err(unknown(path, field)),
    }
}

/// That a part of a document is a mapping with no other fields than these.
pub(crate) fn only_fields(node: &Node, path: &str, known: &[&str]) -> Result<(), Fault> {
    let Value::Map(entries) = &node.value else {
        return Err(Fault::at(path, format!("{path} is no mapping")));
    };
    match entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
        None => Ok(()),
        Some(entry) => Err(unknown(path, &entry.key)),
    }
}

fn unknown(path: &str, field: &str) -> Fault {
    let path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    let reason = format!("{path} is not known");
    Fault::at(path, reason)
}

/// The elements of a list under a key of `spec`; `None`: there is no such key.
pub(crate) fn list<'a>(head: &'a Head, key: &str) -> Result<Option<&'a [Node]>, Fault> {
    match head.part(&["spec", key]).map(|node| &node.value) {
        None => Ok(None),
        Some(Value::List(nodes)) => Ok(Some(nodes)),
        Some(_) => Err(Fault::at(format!("spec.{key}"), format!("spec.{key} is no list"))),
    }
}

/// Whose calls a policy is about, for people.
pub(crate) fn selected(scope: &Scope) -> String {
    match scope {
        Scope::Services(services) => {
            let names: Vec<String> =
                services.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
            let word = if names.len() == 1 { "service" } else { "services" };
            format!("{word} {}", names.join(", "))
        }
        Scope::Workloads(namespace, labels) => {
            let of = match namespace {
                Some(namespace) => format!("of namespace {namespace}"),
                None => "of all namespaces".to_owned(),
            };
            match labels.0.is_empty() {
                true => format!("all workloads {of}"),
                false => format!("workloads {of} with {}", labels_text(labels)),
            }
        }
    }
}

/// A label selector in kubectl's notation.
pub(crate) fn labels_text(labels: &LabelSelector) -> String {
    let tests = labels.0.iter().map(|(key, test)| match test {
        LabelTest::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
        LabelTest::In(values) => format!("{key} in ({})", values.join(",")),
        LabelTest::NotIn(values) => format!("{key} notin ({})", values.join(",")),
        LabelTest::Exists => key.clone(),
        LabelTest::Absent => format!("!{key}"),
    });
    tests.collect::<Vec<_>>().join(",")
}
