//! Who somebody is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::policy::Text;
use crate::mesh::{Mesh, Workload};

/// The trust domain of a mesh that names none (Istio's default).
pub const TRUST_DOMAIN: &str = "cluster.local";

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Kubernetes name.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The node that this agent runs on.
    pub local: bool,
}

/// One side of a call.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// The address that the other side sees.
    pub address: IpAddr,
    /// Who that is.
    pub identity: Identity<'a>,
}

/// Who an address, or a process, belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity<'a> {
    /// A workload of the mesh.
    Workload(&'a Workload),
    /// This node itself: processes outside of pods.
    Host,
    /// Another node of the cluster.
    RemoteNode,
    /// Anybody else.
    World,
}

/// Kinds of parties that no selector names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    /// Neither a workload nor a node.
    World,
    /// A workload.
    Cluster,
    /// This node.
    Host,
    /// Another node.
    RemoteNode,
}

/// What an identity must be like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum IdentityMatch {
    /// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, without `spiffe://`.
    Principal(Text),
    /// The trust domain.
    TrustDomain(Text),
    /// The namespace.
    Namespace(Text),
    /// Namespace and service account.
    ServiceAccount(String, String),
    /// Workloads of these namespaces (`None`: any) with these labels.
    Workloads(Option<Vec<String>>, LabelSelector),
    /// A kind of party.
    Entity(Entity),
}

/// Conditions on labels that must all hold (Kubernetes' `LabelSelector`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct LabelSelector(pub Vec<(String, LabelTest)>);

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum LabelTest {
    /// It is there with one of these values.
    In(Vec<String>),
    /// It is absent, or has none of these values.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is absent.
    Absent,
}

impl LabelSelector {
    /// Labels that must be there with these values.
    pub fn equal(labels: &BTreeMap<String, String>) -> LabelSelector {
        let test =
            |(key, value): (&String, &String)| (key.clone(), LabelTest::In(vec![value.clone()]));
        LabelSelector(labels.iter().map(test).collect())
    }

    /// Whether all conditions hold for labels.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, test)| match (test, labels.get(key)) {
            (LabelTest::In(values), Some(value)) => values.contains(value),
            (LabelTest::NotIn(values), Some(value)) => !values.contains(value),
            (LabelTest::Exists, value) => value.is_some(),
            (LabelTest::Absent, value) => value.is_none(),
            (LabelTest::In(_), None) => false,
            (LabelTest::NotIn(_), None) => true,
        })
    }
}

impl Mesh {
    /// Who owns an address. The loopback addresses are the node's own.
    pub fn identity_at(&self, address: IpAddr) -> Identity<'_> {
        match self.workload_at(address.to_canonical()) {
            Some(workload) => Identity::Workload(workload),
            None => self.stranger_at(address),
        }
    }

    /// Who owns an address that is no workload's.
    pub fn stranger_at(&self, address: IpAddr) -> Identity<'_> {
        let address = address.to_canonical();
        let node = self.nodes.iter().find(|node| node.addresses.contains(&address));
        match node {
            Some(node) if node.local => Identity::Host,
            Some(_) => Identity::RemoteNode,
            None if address.is_loopback() => Identity::Host,
            None => Identity::World,
        }
    }
}

impl<'a> Identity<'a> {
    /// The workload, if it is one.
    pub fn workload(self) -> Option<&'a Workload> {
        match self {
            Identity::Workload(workload) => Some(workload),
            _ => None,
        }
    }

    /// What kind of party it is.
    pub fn entity(self) -> Entity {
        match self {
            Identity::Workload(_) => Entity::Cluster,
            Identity::Host => Entity::Host,
            Identity::RemoteNode => Entity::RemoteNode,
            Identity::World => Entity::World,
        }
    }
}

impl IdentityMatch {
    /// Whether an identity is like this. Who is no workload has neither principal nor namespace.
    pub fn holds(&self, identity: Identity<'_>) -> bool {
        let workload = identity.workload();
        match self {
            IdentityMatch::Entity(entity) => *entity == identity.entity(),
            IdentityMatch::TrustDomain(text) => {
                workload.is_some() && text.holds(TRUST_DOMAIN.as_bytes())
            }
            IdentityMatch::Principal(text) => {
                workload.is_some_and(|workload| is_principal(workload, text))
            }
            IdentityMatch::Namespace(text) => {
                workload.is_some_and(|workload| text.holds(workload.namespace.as_bytes()))
            }
            IdentityMatch::ServiceAccount(namespace, account) => workload.is_some_and(|workload| {
                workload.namespace == *namespace && workload.service_account == *account
            }),
            IdentityMatch::Workloads(namespaces, labels) => workload.is_some_and(|workload| {
                namespaces.as_ref().is_none_or(|list| list.contains(&workload.namespace))
                    && labels.holds(&workload.labels)
            }),
        }
    }

    /// The namespaces outside of which nobody is like this; `None`: anybody may be.
    pub fn namespaces(&self) -> Option<Vec<&str>> {
        match self {
            IdentityMatch::Namespace(Text::Exact(namespace))
            | IdentityMatch::ServiceAccount(namespace, _) => Some(vec![namespace]),
            IdentityMatch::Workloads(Some(namespaces), _) => {
                Some(namespaces.iter().map(String::as_str).collect())
            }
            // a name in Kubernetes has no slash
            IdentityMatch::Principal(Text::Exact(text)) => {
                let rest = text.strip_prefix(TRUST_DOMAIN)?.strip_prefix("/ns/")?;
                Some(vec![rest.split_once('/')?.0])
            }
            _ => None,
        }
    }

    /// Label keys that it looks at.
    pub fn label_keys(&self) -> impl Iterator<Item = &str> {
        let tests = match self {
            IdentityMatch::Workloads(_, labels) => labels.0.as_slice(),
            _ => &[],
        };
        tests.iter().map(|(key, _)| key.as_str())
    }
}

/// The principal of a workload, as Istio writes it: a SPIFFE id without its scheme.
pub fn principal(workload: &Workload) -> String {
    format!("{TRUST_DOMAIN}/ns/{}/sa/{}", workload.namespace, workload.service_account)
}

/// Whether a text holds for [`principal`]; a whole one is compared without making that.
fn is_principal(workload: &Workload, text: &Text) -> bool {
    let Text::Exact(text) = text else {
        return text.holds(principal(workload).as_bytes());
    };
    let rest = text.strip_prefix(TRUST_DOMAIN).and_then(|rest| rest.strip_prefix("/ns/"));
    let rest = rest.and_then(|rest| rest.strip_prefix(workload.namespace.as_str()));
    rest.and_then(|rest| rest.strip_prefix("/sa/")) == Some(&workload.service_account)
}
