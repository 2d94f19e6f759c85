//! Numbers for who somebody is. Workloads that no rule and no policy could tell apart share one, so
//! that a pod which comes or goes changes an entry by its address, and no rule.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::access::{Field, Identity, IdentityMatch, Scope};
use beeway_model::{Mesh, Workload};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::Error;
use super::access::Guards;
use super::heap::{Heap, Slots, address_bytes, hash_address};
use super::records::words_of;
use crate::abi;

/// The first number of a workload.
const WORKLOADS: usize = abi::identity::IDENTITY_WORKLOADS.0 as usize;

/// All identities of a mesh by their numbers.
pub(super) struct Identities<'a> {
    /// Keys of the labels that are asked for.
    keys: BTreeSet<&'a str>,
    /// One for each number from 0; of workloads that share it the first.
    list: Vec<Identity<'a>>,
    /// By index of the workload.
    numbers: Vec<u32>,
    /// Numbers of workloads by their namespace.
    of_namespace: FxHashMap<&'a str, Vec<u32>>,
}

/// Identities of another time: of each one workload, in order of their numbers.
#[derive(Debug)]
pub(super) struct People {
    keys: Vec<String>,
    /// One for each number.
    workloads: Vec<Arc<Workload>>,
    /// All, and their numbers.
    all: Vec<(Arc<Workload>, u32)>,
}

/// What tells workloads apart.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Traits<'a> {
    namespace: &'a str,
    service_account: &'a str,
    /// Values of the labels that are asked for.
    labels: Vec<Option<&'a str>>,
}

impl<'a> Traits<'a> {
    fn of(workload: &'a Workload, keys: &BTreeSet<&str>) -> Traits<'a> {
        Traits {
            namespace: &workload.namespace,
            service_account: &workload.service_account,
            labels: keys.iter().map(|key| workload.labels.get(*key).map(String::as_str)).collect(),
        }
    }
}

/// What is known of workloads from another time, to be asked in their order.
struct Before<'p> {
    /// Those that have not been passed.
    rest: &'p [(Arc<Workload>, u32)],
    /// The numbers of now by those of then.
    now: Vec<Option<u32>>,
}

impl<'p> Before<'p> {
    fn new(all: &'p [(Arc<Workload>, u32)]) -> Before<'p> {
        let most = all.iter().map(|(_, number)| *number as usize + 1).max();
        Before { rest: all, now: vec![None; most.unwrap_or_default()] }
    }

    /// The number, if there is one yet, of those who were like this same workload.
    fn number(&mut self, workload: &Arc<Workload>) -> Option<&mut Option<u32>> {
        fn name(workload: &Workload) -> (&str, &str) {
            (&workload.namespace, &workload.name)
        }
        while let [(first, number), rest @ ..] = self.rest {
            if Arc::ptr_eq(first, workload) {
                self.rest = rest;
                return Some(&mut self.now[*number as usize]);
            }
            if name(first) > name(workload) {
                break;
            }
            self.rest = rest;
        }
        None
    }
}

impl<'a> Identities<'a> {
    /// Of all that a mesh has. Who was there before, and shared a number with somebody, still does,
    /// as long as the same is asked for: that need not be looked at again.
    pub fn new(mesh: &'a Mesh, before: Option<&People>) -> Identities<'a> {
        let keys = label_keys(mesh);
        let before = before.filter(|before| keys.iter().eq(&before.keys));
        let mut before = Before::new(before.map_or(&[], |people| &people.all));
        let mut known: FxHashMap<Traits<'a>, u32> = FxHashMap::default();
        let mut list = vec![Identity::World, Identity::Host, Identity::RemoteNode];
        debug_assert_eq!(list.len(), WORKLOADS);
        let number = |workload: &'a Arc<Workload>| {
            let mut find = || {
                *known.entry(Traits::of(workload, &keys)).or_insert_with(|| {
                    list.push(Identity::Workload(workload));
                    list.len() as u32 - 1
                })
            };
            match before.number(workload) {
                Some(now) => *now.get_or_insert_with(find),
                None => find(),
            }
        };
        let mut numbers: Vec<u32> = mesh.workloads.iter().map(number).collect();
        in_order(&mut list, &mut numbers, &keys);
        let mut of_namespace: FxHashMap<&str, Vec<u32>> = FxHashMap::default();
        for (number, identity) in list.iter().enumerate() {
            if let Identity::Workload(workload) = identity {
                of_namespace.entry(&workload.namespace).or_default().push(number as u32);
            }
        }
        Identities { keys, list, numbers, of_namespace }
    }

    /// What tells them apart, for another time.
    pub fn people(&self, mesh: &Mesh) -> People {
        let mut first: Vec<Option<Arc<Workload>>> = vec![None; self.list.len()];
        for (number, workload) in self.numbers.iter().zip(&mesh.workloads) {
            first[*number as usize].get_or_insert_with(|| workload.clone());
        }
        let keys = self.keys.iter().map(|key| (*key).to_owned()).collect();
        let all = mesh.workloads.iter().cloned().zip(self.numbers.iter().copied()).collect();
        People { keys, workloads: first.into_iter().flatten().collect(), all }
    }

    /// Whether the same tells the same number of them apart, each like the one before.
    pub fn are_alike(&self, before: &People) -> bool {
        let workloads = self.list.iter().filter_map(|identity| identity.workload());
        let alike = |(now, before): (&Workload, &Arc<Workload>)| {
            std::ptr::eq(now, &**before)
                || Traits::of(now, &self.keys) == Traits::of(before, &self.keys)
        };
        self.keys.iter().eq(&before.keys)
            && workloads.clone().count() == before.workloads.len()
            && workloads.zip(&before.workloads).all(alike)
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
        let count = self.list.len();
        let mut bits = vec![u32::MAX; count.div_ceil(32)];
        if !count.is_multiple_of(32) {
            bits[count / 32] = (1 << (count % 32)) - 1;
        }
        bits
    }

    /// Those that are like one of these, a bit for each number.
    pub fn like(&self, wanted: &[IdentityMatch]) -> Vec<u32> {
        let mut bits = vec![0; self.list.len().div_ceil(32)];
        for wanted in wanted {
            let mut look = |number: u32| {
                if wanted.holds(self.list[number as usize]) {
                    bits[number as usize / 32] |= 1 << (number % 32);
                }
            };
            match wanted.namespaces() {
                Some(namespaces) => {
                    let within = namespaces.iter().filter_map(|name| self.of_namespace.get(name));
                    within.flatten().for_each(|number| look(*number));
                }
                None => (0..self.list.len() as u32).for_each(look),
            }
        }
        bits
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

/// Numbers workloads in the order of what tells them apart: so a workload that becomes like others
/// changes no other's number.
fn in_order<'a>(list: &mut [Identity<'a>], numbers: &mut [u32], keys: &BTreeSet<&str>) {
    let workloads = list.iter().enumerate().filter_map(|(at, i)| Some((at, i.workload()?)));
    let mut sorted: Vec<(Traits<'a>, usize)> =
        workloads.map(|(at, workload)| (Traits::of(workload, keys), at)).collect();
    sorted.sort();
    let before = list.to_vec();
    let mut now = vec![0; list.len()];
    for ((_, at), number) in sorted.iter().zip(WORKLOADS..) {
        now[*at] = number as u32;
        list[number] = before[*at];
    }
    numbers.iter_mut().for_each(|number| *number = now[*number as usize]);
}

/// Who owns an address; of several the first, as [`Mesh::identity_at`] says.
pub(super) fn push_workloads(
    heap: &mut Heap,
    mesh: &Mesh,
    identities: &Identities<'_>,
    guards: &Guards,
) -> Result<Slots, Error> {
    let count = mesh.workloads.len() + mesh.nodes.len();
    let mut seen = FxHashSet::with_capacity_and_hasher(count, FxBuildHasher);
    let mut entries = Vec::with_capacity(count);
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
