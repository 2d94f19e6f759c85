//! From a mesh to the tables that the kernel reads, and a reader of those tables in Rust.
//!
//! [`compile`] turns a [`Mesh`] into [`Tables`], the value of a `struct generation` of
//! `bpf/include/abi.h`. [`interpret`] follows them as `bpf/include/verdict.h` does; the truth for
//! both is `beeway_model::router`.
//!
//! What the kernel cannot evaluate becomes a detour, which is always right, and a [`Notice`]. The
//! tables never say anything else than the reference router would.

use std::sync::Arc;

use beeway_model::access::AccessPolicy;
use beeway_model::{Mesh, RateLimiter};
use serde::Serialize;

use crate::abi;
use access::Guards;
use balance::{Clusters, PortId};
use heap::{Heap, Slots};
use identity::{Identities, People};

pub use answers::denied_answer;
pub use limits::limited_answer;

mod access;
mod access_rules;
mod answers;
mod automaton;
mod balance;
mod compose;
mod frontends;
mod groups;
pub mod head;
mod heap;
mod identity;
pub mod interpret;
mod limits;
mod pattern;
mod predicates;
mod records;
mod rows;
mod rules;
mod sets;
mod state;
mod table;
mod trie;

/// Why a configuration cannot become tables. The generation before stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Services, endpoints and workloads alone do not fit.
    #[error("the tables need {needed} words, a generation has {limit}")]
    HeapFull {
        /// Words that would have been needed, at least.
        needed: usize,
        /// Words that there are.
        limit: usize,
    },
}

/// Something that the kernel does not do as fast as it could, and what follows from that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// `namespace/name:port`.
    pub service: String,
    /// Which limit, by how much, and the consequence.
    pub reason: String,
}

impl Notice {
    fn new(mesh: &Mesh, id: PortId, reason: String) -> Notice {
        let service = mesh.service(id.service);
        let port = service.ports[id.port].number;
        Notice { service: format!("{}/{}:{port}", service.namespace, service.name), reason }
    }
}

/// What tables hold, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// Endpoints, each as often as it is in a cluster.
    pub endpoints: usize,
    /// Workloads.
    pub workloads: usize,
    /// Rules of all service ports.
    pub rules: usize,
    /// Policies.
    pub policies: usize,
}

/// A configuration as the kernel reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    number: u64,
    words: Vec<u32>,
    frontends: Slots,
    members: Slots,
    workloads: Slots,
    guarded: u32,
    notices: Vec<Notice>,
    counts: Counts,
}

/// Compiles a mesh into generation `number`.
pub fn compile(mesh: &Mesh, number: u64) -> Result<Tables, Error> {
    Compiler::default().compile(mesh, number)
}

/// Compiles one mesh after the other, each to what says the same as what [`compile`] makes of it.
/// What policies become is kept, and the numbers of identities: most changes leave both, and who can
/// be told apart from all others anew changes what names him alone.
#[derive(Debug, Default)]
pub struct Compiler {
    kept: Option<Kept>,
}

/// Guards, and what they were made of.
#[derive(Debug)]
struct Kept {
    policies: Vec<Arc<AccessPolicy>>,
    limits: Vec<RateLimiter>,
    people: People,
    guards: Guards,
}

/// Policies get this much of the heap at the most, as long as everything else fits.
const GUARDS_LIMIT: usize = heap::HEAP_WORDS / 2;

impl Compiler {
    /// Compiles a mesh into generation `number`.
    pub fn compile(&mut self, mesh: &Mesh, number: u64) -> Result<Tables, Error> {
        let before = self.kept.take().map(|kept| {
            let Kept { policies, limits, people, guards } = kept;
            (people, (policies, limits, guards))
        });
        let (people, before) = before.unzip();
        let identities = Identities::new(mesh, people.as_ref());
        let before = before.filter(|(p, l, _)| (p, l) == (&mesh.access, &mesh.limits));
        let grown = before.and_then(|(.., guards)| guards.grown(mesh, &identities, GUARDS_LIMIT));
        let guards = grown.unwrap_or_else(|| Guards::new(mesh, &identities, GUARDS_LIMIT));
        let made = assemble(mesh, number, &identities, &guards);
        if made.is_err() && guards.has_waste() {
            return self.compile(mesh, number);
        }
        let people = identities.people(mesh, people.as_ref());
        let (policies, limits) = (mesh.access.clone(), mesh.limits.clone());
        self.kept = Some(Kept { policies, limits, people, guards });
        match made {
            Err(Error::HeapFull { .. }) if !(mesh.access.is_empty() && mesh.limits.is_empty()) => {
                assemble(mesh, number, &identities, &Guards::new(mesh, &identities, 0))
            }
            made => made,
        }
    }
}

/// Words that a cluster is likely to cost with all that leads there; memory is reserved for as many.
const HEAP_PER_CLUSTER: usize = 64;

fn assemble(
    mesh: &Mesh,
    number: u64,
    identities: &Identities<'_>,
    guards: &Guards,
) -> Result<Tables, Error> {
    let mut heap = Heap::behind(guards.words.clone());
    let clusters = mesh.clusters.len() + mesh.direct.len();
    heap.expect(HEAP_PER_CLUSTER * clusters, clusters);
    let mut notices = guards.notices.clone();
    let mut clusters = Clusters::new(mesh);
    let members = balance::push_members(&mut heap, mesh)?;
    let workloads = identity::push_workloads(&mut heap, mesh, identities, guards)?;
    let ports = table::drafts(&mut heap, mesh, identities, &mut notices);
    let frontends =
        frontends::push_frontends(&mut heap, &mut clusters, &ports, guards, &mut notices)?;
    heap.check()?;
    let drafts = ports.into_values().collect();
    table::place_all(&mut heap, &mut clusters, drafts, heap::HEAP_WORDS, &mut notices);
    let words = heap.into_words();
    let counts = count(mesh);
    let some = !mesh.access.is_empty() || !mesh.kafka.is_empty() || !mesh.limits.is_empty();
    let flag = |set: bool, flag: abi::guards| if set { flag.0 } else { 0 };
    let straight = flag(guards.has_straight(), abi::guards::GUARDS_STRAIGHT);
    let guarded = flag(some, abi::guards::GUARDS_SOME) | straight;
    Ok(Tables { number, words, frontends, members, workloads, guarded, notices, counts })
}

fn count(mesh: &Mesh) -> Counts {
    let ports = mesh.services.iter().flat_map(|service| &service.ports);
    Counts {
        services: mesh.services.len(),
        endpoints: mesh.clusters.iter().map(|cluster| cluster.endpoints.len()).sum::<usize>()
            + mesh.direct.len(),
        workloads: mesh.workloads.len(),
        rules: ports.map(|port| port.rules.as_ref().map_or(0, Vec::len)).sum(),
        policies: mesh.access.len(),
    }
}

impl Tables {
    /// The size of a generation in bytes, however little of it is used.
    pub const BYTES: usize = size_of::<abi::generation>();

    /// Words between the number and the heap.
    const HEADER_WORDS: usize = 10;

    /// The number given to [`compile`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Words of the heap in use.
    pub fn used_words(&self) -> usize {
        self.words.len()
    }

    /// Words that the heap has.
    pub fn limit_words() -> usize {
        heap::HEAP_WORDS
    }

    /// What is left to the userspace proxy because of a limit.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// What the tables hold.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The generation as the kernel map holds it: [`Tables::BYTES`] bytes in native byte order.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::BYTES];
        self.write(&mut bytes);
        bytes
    }

    /// Writes the generation over the beginning of [`Tables::BYTES`] zero bytes; what is not in
    /// use stays zero.
    pub(crate) fn write(&self, bytes: &mut [u8]) {
        let (number, words) = bytes.split_at_mut(8);
        number.copy_from_slice(&self.number.to_ne_bytes());
        let (header, heap) = words.as_chunks_mut::<4>().0.split_at_mut(Self::HEADER_WORDS);
        for (place, word) in header.iter_mut().zip(self.header()) {
            *place = word.to_ne_bytes();
        }
        for (place, word) in heap.iter_mut().zip(&self.words) {
            *place = word.to_ne_bytes();
        }
    }

    fn header(&self) -> [u32; Self::HEADER_WORDS] {
        [
            self.frontends.first,
            self.frontends.mask,
            self.members.first,
            self.members.mask,
            self.workloads.first,
            self.workloads.mask,
            self.guarded,
            0,
            self.words.len() as u32,
            abi::limits::ABI_VERSION.0,
        ]
    }

    /// The word at an index; any index is safe, as in the kernel.
    fn word(&self, index: u32) -> u32 {
        let index = index as usize & (heap::HEAP_WORDS - 1);
        self.words.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_header_is_where_the_kernel_looks() {
        let mut tables = compile(&Mesh::default(), 0x0102_0304_0506_0708).unwrap();
        tables.frontends = Slots { first: 101, mask: 102 };
        tables.members = Slots { first: 103, mask: 104 };
        tables.workloads = Slots { first: 105, mask: 106 };
        tables.guarded = 1;
        let bytes = tables.bytes();
        assert_eq!(bytes.len(), Tables::BYTES);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(bytes[..8], 0x0102_0304_0506_0708u64.to_ne_bytes());
        assert_eq!(offset_of!(abi::generation, number), 0);
        assert_eq!(word(offset_of!(abi::generation, frontends)), 101);
        assert_eq!(word(offset_of!(abi::generation, frontend_mask)), 102);
        assert_eq!(word(offset_of!(abi::generation, members)), 103);
        assert_eq!(word(offset_of!(abi::generation, member_mask)), 104);
        assert_eq!(word(offset_of!(abi::generation, workloads)), 105);
        assert_eq!(word(offset_of!(abi::generation, workload_mask)), 106);
        assert_eq!(word(offset_of!(abi::generation, guarded)), 1);
        assert_eq!(word(offset_of!(abi::generation, used)), tables.used_words() as u32);
        assert_eq!(word(offset_of!(abi::generation, abi)), abi::limits::ABI_VERSION.0);
        assert_eq!(offset_of!(abi::generation, heap) % 8, 0, "even indices are aligned");
        for index in [1, 2, 3, 4] {
            let heap = offset_of!(abi::generation, heap);
            assert_eq!(word(heap + index * 4), tables.words[index]);
            assert_ne!(tables.words[index], 0);
        }
    }
}
