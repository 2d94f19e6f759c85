//! Random policies and calls near the borders of their conditions, for tests that hold one
//! implementation to another. A seed repeats a case on every machine.

mod calls;
mod dice;
mod policies;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::access::Node;
use crate::mesh::{Mesh, Workload};

pub use calls::{Asked, Attempt};
pub use dice::Dice;

const NAMESPACES: [&str; 3] = ["shop", "data", "default"];
const ACCOUNTS: [&str; 3] = ["default", "web", "db"];
const LABELS: [(&str, &[&str]); 2] = [("app", &["web", "db", "api"]), ("tier", &["a", "b"])];

/// What calls of a test can be.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Addresses of who calls.
    pub callers: Vec<IpAddr>,
    /// Whom they call.
    pub endpoints: Vec<SocketAddr>,
    /// Services by whose addresses they do: namespace and name. Not empty.
    pub services: Vec<(String, String)>,
    /// Providers that CUSTOM policies may name; empty: there are no such policies.
    pub providers: Vec<String>,
    /// Calls may be connections that are not HTTP.
    pub connections: bool,
}

impl Stage {
    /// Gives the addresses to workloads and nodes, or to nobody, and makes policies.
    pub fn set(&self, dice: &mut Dice, mesh: &mut Mesh) {
        (mesh.workloads, mesh.nodes) = self.people(dice);
        mesh.access = self.policies(dice).into_iter().map(Arc::new).collect();
    }

    fn people(&self, dice: &mut Dice) -> (Vec<Arc<Workload>>, Vec<Node>) {
        let (mut workloads, mut nodes) = (Vec::new(), Vec::new());
        let mut addresses = self.callers.clone();
        addresses.extend(self.endpoints.iter().map(SocketAddr::ip));
        addresses.sort();
        addresses.dedup();
        for (n, address) in addresses.into_iter().enumerate() {
            match dice.below(12) {
                0 => {}
                1 => nodes.push(Node {
                    name: format!("node-{n}"),
                    addresses: vec![address],
                    local: dice.one_in(2),
                }),
                _ => workloads.push(Arc::new(workload(dice, n, address))),
            }
        }
        (workloads, nodes)
    }
}

fn workload(dice: &mut Dice, n: usize, address: IpAddr) -> Workload {
    let mut labels = std::collections::BTreeMap::new();
    for (key, values) in LABELS {
        if !dice.one_in(4) {
            labels.insert(key.to_owned(), dice.of(values).to_owned());
        }
    }
    Workload {
        namespace: dice.of(&NAMESPACES).to_owned(),
        name: format!("workload-{n}"),
        labels,
        addresses: vec![address],
        service_account: dice.of(&ACCOUNTS).to_owned(),
        node: None,
        uid: None,
        cgroup: None,
    }
}
