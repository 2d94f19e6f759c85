//! Numbers for who somebody is. Workloads that no rule and no policy could tell apart share one, so
//! that a pod which comes or goes changes an entry by its address, and no rule.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::access::{Field, Identity, IdentityMatch, Scope};
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
    /// Keys of the labels that are asked for.
    keys: BTreeSet<&'a str>,
    /// One for each number from 0; of workloads that share it any, which may have gone.
    list: Vec<Identity<'a>>,
    /// How many of them have the numbers of before; `None`: these are no concern.
    kept: Option<usize>,
    /// By index of the workload.
    numbers: Vec<u32>,
    /// Numbers of workloads by their namespace.
    of_namespace: OnceCell<FxHashMap<String, Vec<u32>>>,
}

/// Identities of another time.
#[derive(Debug)]
pub(super) struct People {
    kinds: Arc<Kinds>,
    /// All workloads, and their numbers.
    all: Vec<(Arc<Workload>, u32)>,
}

/// What the numbers of workloads stand for.
#[derive(Debug)]
struct Kinds {
    keys: Vec<String>,
    /// One workload of each, which may have gone.
    list: Vec<Arc<Workload>>,
    /// Indices, in the order of what tells them apart.
    sorted: Vec<usize>,
}

/// Numbers that nobody has any more are kept up to this many, and to as many as others.
const GONE: usize = 64;

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
    people: &'p People,
    /// Those that have not been passed.
    rest: &'p [(Arc<Workload>, u32)],
}

impl<'p> Before<'p> {
    /// The number of this same workload, or of those who were like it.
    fn number(&mut self, workload: &Arc<Workload>, keys: &BTreeSet<&str>) -> Option<u32> {
        fn name(workload: &Workload) -> (&str, &str) {
            (&workload.namespace, &workload.name)
        }
        while let [(first, number), rest @ ..] = self.rest {
            if Arc::ptr_eq(first, workload) {
                self.rest = rest;
                return Some(*number);
            }
            if name(first) > name(workload) {
                break;
            }
            self.rest = rest;
        }
        let Kinds { list, sorted, .. } = &*self.people.kinds;
        let traits = Traits::of(workload, keys);
        let place = sorted.binary_search_by(|at| Traits::of(&list[*at], keys).cmp(&traits));
        place.ok().map(|place| (WORKLOADS + sorted[place]) as u32)
    }
}

impl<'a> Identities<'a> {
    /// Of all that a mesh has. Who was like somebody before has that one's number, as long as the
    /// same is asked for: a number keeps its meaning, and new ones come behind.
    pub fn new(mesh: &'a Mesh, before: Option<&'a People>) -> Identities<'a> {
        let keys = label_keys(mesh);
        let before = before.filter(|before| keys.iter().eq(&before.kinds.keys));
        let found = before.map(|people| Self::with(mesh, keys.clone(), Some(people)));
        found.filter(|found| !found.is_worn()).unwrap_or_else(|| {
            let mut found = Self::with(mesh, keys, None);
            found.in_order();
            found
        })
    }

    fn with(mesh: &'a Mesh, keys: BTreeSet<&'a str>, before: Option<&'a People>) -> Self {
        let mut list = vec![Identity::World, Identity::Host, Identity::RemoteNode];
        debug_assert_eq!(list.len(), WORKLOADS);
        let kinds = before.map_or(&[][..], |people| &people.kinds.list);
        list.extend(kinds.iter().map(|workload| Identity::Workload(workload)));
        let kept = before.map(|_| list.len());
        let mut before = before.map(|people| Before { people, rest: &people.all });
        let mut new: FxHashMap<Traits<'a>, u32> = FxHashMap::default();
        let mut number = |workload: &'a Arc<Workload>| {
            let known = before.as_mut().and_then(|before| before.number(workload, &keys));
            known.unwrap_or_else(|| {
                *new.entry(Traits::of(workload, &keys)).or_insert_with(|| {
                    list.push(Identity::Workload(workload));
                    list.len() as u32 - 1
                })
            })
        };
        let numbers = mesh.workloads.iter().map(&mut number).collect();
        Identities { keys, list, kept, numbers, of_namespace: OnceCell::new() }
    }

    /// Whether more numbers are nobody's than may be.
    fn is_worn(&self) -> bool {
        let mut used = vec![false; self.list.len()];
        self.numbers.iter().for_each(|number| used[*number as usize] = true);
        let here = used.iter().filter(|used| **used).count();
        self.list.len() - WORKLOADS - here > here.max(GONE)
    }

    /// Numbers workloads in the order of what tells them apart.
    fn in_order(&mut self) {
        let sorted = self.sorted();
        let before = self.list.clone();
        let mut now = vec![0; before.len()];
        for (at, number) in sorted.into_iter().zip(WORKLOADS..) {
            now[WORKLOADS + at] = number as u32;
            self.list[number] = before[WORKLOADS + at];
        }
        self.numbers.iter_mut().for_each(|number| *number = now[*number as usize]);
    }

    /// Indices of the workloads among the numbers, in the order of what tells them apart.
    fn sorted(&self) -> Vec<usize> {
        let workloads = self.list.iter().filter_map(|identity| identity.workload());
        let traits = workloads.map(|workload| Traits::of(workload, &self.keys));
        let mut sorted: Vec<(Traits<'_>, usize)> = traits.zip(0..).collect();
        sorted.sort_unstable();
        sorted.into_iter().map(|(_, at)| at).collect()
    }

    /// What tells them apart, for another time.
    pub fn people(&self, mesh: &Mesh, before: Option<&People>) -> People {
        let all = mesh.workloads.iter().cloned().zip(self.numbers.iter().copied()).collect();
        let before = before.filter(|_| self.kept.is_some()).map(|people| &people.kinds);
        if let Some(kinds) = before.filter(|_| self.kept == Some(self.list.len())) {
            return People { kinds: kinds.clone(), all };
        }
        let mut list: Vec<Option<Arc<Workload>>> = Vec::new();
        list.extend(before.iter().flat_map(|kinds| kinds.list.iter().cloned().map(Some)));
        list.resize(self.list.len() - WORKLOADS, None);
        for (number, workload) in self.numbers.iter().zip(&mesh.workloads) {
            list[*number as usize - WORKLOADS].get_or_insert_with(|| workload.clone());
        }
        let keys = self.keys.iter().map(|key| (*key).to_owned()).collect();
        let list = list.into_iter().flatten().collect();
        People { kinds: Arc::new(Kinds { keys, list, sorted: self.sorted() }), all }
    }

    /// How many numbers have the meaning that they had before; `None`: maybe none.
    pub fn kept(&self) -> Option<usize> {
        self.kept
    }

    /// The number of a workload, by its index.
    pub fn number(&self, workload: usize) -> u32 {
        self.numbers[workload]
    }

    /// All of them, in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Identity<'a>> {
        self.list.iter().copied()
    }

    fn by_namespace(&self) -> FxHashMap<String, Vec<u32>> {
        let mut numbers: FxHashMap<String, Vec<u32>> = FxHashMap::default();
        for (number, identity) in self.list.iter().enumerate() {
            if let Identity::Workload(workload) = identity {
                numbers.entry(workload.namespace.clone()).or_default().push(number as u32);
            }
        }
        numbers
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
                    let known = self.of_namespace.get_or_init(|| self.by_namespace());
                    let within = namespaces.iter().filter_map(|name| known.get(*name));
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

/// Who owns an address; of several the first, as [`Mesh::identity_at`] says.
pub(super) fn push_workloads(
    heap: &mut Heap,
    mesh: &Mesh,
    identities: &Identities<'_>,
    guards: &Guards,
) -> Result<Slots, Error> {
    let count = mesh.workloads.len() + mesh.nodes.len();
    let mut entries = Vec::with_capacity(count);
    let here = mesh.nodes.iter().find(|node| node.local).map(|node| &node.name);
    let mut own = |addresses: &[IpAddr], number: u32, (guard, leave): (u32, u32), remote: bool| {
        let mut first = 0;
        for (at, address) in addresses.iter().enumerate() {
            let ip = address_bytes(address.to_canonical());
            if at == 1 && !mesh.limits.is_empty() {
                first = heap.intern(words_of(&address_bytes(addresses[0].to_canonical())));
            }
            let remote = remote.into();
            let workload = abi::workload { ip, number, guard, leave, remote, first };
            entries.push((hash_address(&ip, 0), workload));
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
    heap.push_table(&entries, |a, b| a.ip == b.ip)
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
