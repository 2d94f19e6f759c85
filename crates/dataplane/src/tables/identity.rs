//! Numbers for who somebody is. Workloads that no rule and no policy could tell apart share one, so
//! that a pod which comes or goes changes an entry by its address, and no rule.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use beeway_model::access::{Field, Identity, Scope};
use beeway_model::{Mesh, Workload};
use rustc_hash::FxHashMap;

use super::Error;
use super::access::Guards;
use super::heap::{Heap, Slots, address_bytes, hash_address};
use super::records::words_of;
use crate::abi;

/// The first number of a workload.
const WORKLOADS: usize = abi::identity::IDENTITY_WORKLOADS.0 as usize;

/// All identities of a mesh by their numbers.
pub(super) struct Identities<'a> {
    /// One for each number from 0; of workloads that share it the first.
    list: Vec<Identity<'a>>,
    /// By index of the workload.
    numbers: Vec<u32>,
}

/// What tells workloads apart.
#[derive(PartialEq, Eq, Hash)]
struct Traits<'a> {
    namespace: &'a str,
    service_account: &'a str,
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Identities<'a> {
    /// Of all that a mesh has.
    pub fn new(mesh: &'a Mesh) -> Identities<'a> {
        let keys = label_keys(mesh);
        let mut known: FxHashMap<Traits<'a>, u32> = FxHashMap::default();
        let mut list = vec![Identity::World, Identity::Host, Identity::RemoteNode];
        debug_assert_eq!(list.len(), WORKLOADS);
        let mut number = |workload: &'a Workload| {
            let labels = workload.labels.iter();
            let traits = Traits {
                namespace: &workload.namespace,
                service_account: &workload.service_account,
                labels: labels
                    .filter(|(key, _)| keys.contains(key.as_str()))
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect(),
            };
            *known.entry(traits).or_insert_with(|| {
                list.push(Identity::Workload(workload));
                list.len() as u32 - 1
            })
        };
        let numbers = mesh.workloads.iter().map(&mut number).collect();
        Identities { list, numbers }
    }

    /// The number of a workload, by its index.
    pub fn number(&self, workload: usize) -> u32 {
        self.numbers[workload]
    }

    /// All of them, in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Identity<'a>> {
        self.list.iter().copied()
    }

    /// All of them, a bit for each number.
    pub fn everybody(&self) -> Vec<u32> {
        self.having(|_| true)
    }

    /// Those for which a test holds, a bit for each number.
    pub fn having(&self, holds: impl Fn(Identity<'a>) -> bool) -> Vec<u32> {
        let mut bits = vec![0; self.list.len().div_ceil(32)];
        for (number, identity) in self.list.iter().enumerate() {
            if holds(*identity) {
                bits[number / 32] |= 1u32 << (number % 32);
            }
        }
        bits
    }
}

/// Who owns an address; of several the first, as [`Mesh::identity_at`] says.
pub(super) fn push_workloads(
    heap: &mut Heap,
    mesh: &Mesh,
    identities: &Identities<'_>,
    guards: &Guards,
) -> Result<Slots, Error> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    let here = mesh.nodes.iter().find(|node| node.local).map(|node| &node.name);
    let mut own = |addresses: &[IpAddr], number: u32, (guard, leave): (u32, u32), remote: bool| {
        let mut first = 0;
        for (at, address) in addresses.iter().enumerate() {
            let ip = address_bytes(address.to_canonical());
            if at == 1 && !mesh.limits.is_empty() {
                first = heap.intern(words_of(&address_bytes(addresses[0].to_canonical())));
            }
            if seen.insert(ip) {
                let remote = remote.into();
                let workload = abi::workload { ip, number, guard, leave, remote, first };
                entries.push((hash_address(&ip, 0), workload));
            }
        }
    };
    for (index, workload) in mesh.workloads.iter().enumerate() {
        let number = identities.number(index);
        let elsewhere = workload.node.is_some() && workload.node.as_ref() != here;
        own(&workload.addresses, number, guards.of(number), here.is_some() && elsewhere);
    }
    for node in &mesh.nodes {
        let number = match node.local {
            true => abi::identity::IDENTITY_HOST,
            false => abi::identity::IDENTITY_REMOTE_NODE,
        };
        own(&node.addresses, number.0, (0, 0), !node.local);
    }
    heap.push_table(&entries)
}

/// A set without zero words at its end.
pub(super) fn trim(mut bits: Vec<u32>) -> Vec<u32> {
    bits.truncate(bits.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
    bits
}

/// The keys of all labels that rules and policies ask for.
fn label_keys(mesh: &Mesh) -> BTreeSet<&str> {
    let ports = mesh.services.iter().flat_map(|service| &service.ports);
    let matches = ports.flat_map(|port| port.rules.iter().flatten()).flat_map(|rule| &rule.matches);
    let sources = matches.flat_map(|m| &m.sources);
    let mut keys: BTreeSet<&str> =
        sources.flat_map(|source| source.labels.keys()).map(String::as_str).collect();
    for limiter in &mesh.limits {
        keys.extend(limiter.selector.0.iter().map(|(key, _)| key.as_str()));
    }
    for policy in &mesh.access {
        if let Scope::Workloads(_, selector) = &policy.scope {
            keys.extend(selector.0.iter().map(|(key, _)| key.as_str()));
        }
        let fields =
            policy.rules.iter().flat_map(|rule| rule.clauses()).map(|clause| &clause.field);
        for field in fields {
            if let Field::Caller(wanted) | Field::Called(wanted) = field {
                keys.extend(wanted.iter().flat_map(|wanted| wanted.label_keys()));
            }
        }
    }
    keys
}
