//! Who owns an address, in the words of Istio's standard labels.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use beeway_model::{Mesh, Protocol, Transport, Workload};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// What Istio writes where it does not know.
pub const UNKNOWN: &str = "unknown";

/// A workload, or whoever is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Party {
    /// Kubernetes namespace.
    pub namespace: String,
    /// What the pod belongs to: the name of its Deployment, StatefulSet or DaemonSet where its
    /// labels tell, else its own.
    pub workload: String,
    /// Canonical service (Istio's labels `source_canonical_service`, ...): `app`, mostly.
    pub app: String,
    /// Canonical revision: `version`, mostly.
    pub version: String,
    /// Label `app` alone.
    pub app_label: String,
    /// Label `version` alone.
    pub version_label: String,
    /// Service account.
    pub service_account: String,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
    /// Fully qualified DNS name.
    pub host: String,
    /// Port.
    pub port: u16,
}

static UNKNOWN_PARTY: LazyLock<Arc<Party>> = LazyLock::new(|| {
    let unknown = || UNKNOWN.to_owned();
    Arc::new(Party {
        namespace: unknown(),
        workload: unknown(),
        app: unknown(),
        version: unknown(),
        app_label: unknown(),
        version_label: unknown(),
        service_account: unknown(),
    })
});

impl Party {
    /// Who is no workload of the mesh.
    pub fn unknown() -> Arc<Party> {
        UNKNOWN_PARTY.clone()
    }

    /// Whether it is nobody that the configuration knows.
    pub fn is_unknown(&self) -> bool {
        self.workload == UNKNOWN
    }

    fn of(workload: &Workload) -> Party {
        let label = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| workload.labels.get(*name))
                .filter(|value| !value.is_empty())
        };
        let name = owner(&workload.name, &workload.labels);
        let or_unknown = |value: Option<&String>| value.map_or(UNKNOWN.to_owned(), String::clone);
        Party {
            namespace: workload.namespace.clone(),
            app: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
                .cloned()
                .unwrap_or_else(|| name.clone()),
            version: label(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ])
            .cloned()
            .unwrap_or_else(|| "latest".to_owned()),
            app_label: or_unknown(label(&["app"])),
            version_label: or_unknown(label(&["version"])),
            service_account: workload.service_account.clone(),
            workload: name,
        }
    }
}

/// The name of what a pod belongs to, told by the labels that Kubernetes' controllers set.
fn owner(name: &str, labels: &BTreeMap<String, String>) -> String {
    if let Some(own) = labels.get("service.istio.io/workload-name") {
        return own.clone();
    }
    if let Some(hash) = labels.get("pod-template-hash") {
        // DEPLOYMENT-HASH-RANDOM, or REPLICASET-RANDOM
        if let Some((deployment, _)) = name.rsplit_once(&format!("-{hash}-")) {
            return deployment.to_owned();
        }
    }
    let numbered = labels.contains_key("statefulset.kubernetes.io/pod-name")
        || labels.contains_key("apps.kubernetes.io/pod-index");
    if numbered || labels.contains_key("controller-revision-hash") {
        // STATEFULSET-0, DAEMONSET-RANDOM
        if let Some((owner, _)) = name.rsplit_once('-') {
            return owner.to_owned();
        }
    }
    name.to_owned()
}

/// Names by address, of one configuration.
#[derive(Debug, Default)]
pub struct Names {
    parties: FxHashMap<IpAddr, Arc<Party>>,
    services: FxHashMap<(IpAddr, u16), Named>,
    /// By the address of an endpoint.
    entered: FxHashMap<(IpAddr, u16), Arc<ServiceName>>,
}

/// A service port.
#[derive(Debug)]
struct Named {
    name: Arc<ServiceName>,
    http: bool,
    rules: Vec<String>,
}

impl Names {
    /// The names of a mesh.
    pub fn of(mesh: &Mesh) -> Names {
        let mut names = Names::default();
        // workloads of one kind share their names
        let mut known: FxHashMap<Party, Arc<Party>> = FxHashMap::default();
        for workload in &mesh.workloads {
            let party = Party::of(workload);
            let party = known.entry(party).or_insert_with_key(|party| Arc::new(party.clone()));
            for address in &workload.addresses {
                names.parties.entry(address.to_canonical()).or_insert_with(|| party.clone());
            }
        }
        for service in mesh.all_services() {
            for port in service.ports.iter().filter(|port| port.transport == Transport::Tcp) {
                let name = Arc::new(ServiceName {
                    namespace: service.namespace.clone(),
                    name: service.name.clone(),
                    host: service.hosts.first().unwrap_or(&service.name).clone(),
                    port: port.number,
                });
                let http = matches!(port.protocol, Protocol::Http | Protocol::Http2);
                let rules = || port.rules.iter().flatten().map(|rule| rule.name.clone()).collect();
                // a workload's own address is a service too, which nobody has named
                let endpoints = mesh.cluster(port.cluster).everybody();
                for at in endpoints.map(|endpoint| key(endpoint.address)) {
                    if !service.addresses.iter().any(|own| own.to_canonical() == at.0) {
                        names.entered.entry(at).or_insert_with(|| name.clone());
                    }
                }
                for address in &service.addresses {
                    let at = (address.to_canonical(), port.number);
                    let named = || Named { name: name.clone(), http, rules: rules() };
                    names.services.entry(at).or_insert_with(named);
                }
            }
        }
        names
    }

    /// The workload that owns an address.
    pub fn party(&self, address: IpAddr) -> Arc<Party> {
        self.parties.get(&address.to_canonical()).cloned().unwrap_or_else(Party::unknown)
    }

    /// Whether HTTP is spoken there.
    pub fn is_http(&self, address: SocketAddr) -> bool {
        self.services.get(&key(address)).is_some_and(|service| service.http)
    }

    /// The name of a service port's rule; empty: there is none.
    pub fn rule(&self, address: SocketAddr, index: usize) -> &str {
        let rules = self.services.get(&key(address)).map(|service| &service.rules);
        rules.and_then(|rules| rules.get(index)).map_or("", |name| name)
    }

    /// The service of which an endpoint was called, when all that is known is the endpoint: the first by
    /// namespace and name.
    pub fn entered(&self, endpoint: SocketAddr) -> Arc<ServiceName> {
        let entered = self.entered.get(&key(endpoint)).cloned();
        entered.unwrap_or_else(|| self.service(endpoint))
    }

    /// The service that is asked for by an address. A workload's own address, and what no service
    /// owns, is a service of that name.
    pub fn service(&self, address: SocketAddr) -> Arc<ServiceName> {
        let ip = address.ip().to_canonical();
        if let Some(service) = self.services.get(&(ip, address.port())) {
            return service.name.clone();
        }
        let party = self.party(ip);
        let name = if party.is_unknown() { ip.to_string() } else { party.workload.clone() };
        Arc::new(ServiceName {
            namespace: party.namespace.clone(),
            host: name.clone(),
            name,
            port: address.port(),
        })
    }
}

fn key(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(name: &str, labels: &[(&str, &str)]) -> String {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        owner(name, &labels)
    }

    #[test]
    fn pods_are_counted_under_what_they_belong_to() {
        let hash = [("pod-template-hash", "7c4f9d")];
        assert_eq!(owner_of("reviews-v1-7c4f9d-x2x2x", &hash), "reviews-v1");
        assert_eq!(owner_of("db-0", &[("apps.kubernetes.io/pod-index", "0")]), "db");
        assert_eq!(owner_of("agent-x2x2x", &[("controller-revision-hash", "1")]), "agent");
        assert_eq!(owner_of("reviews-v1", &[("app", "reviews")]), "reviews-v1");
    }
}
