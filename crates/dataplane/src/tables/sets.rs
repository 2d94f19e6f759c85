//! What a state of an automaton accepts: sets of numbers, each written down once.

use rustc_hash::FxHashMap;

/// A set by its number; 0 is the empty one.
pub(super) type SetId = u32;

/// Where sets are kept, and how two become one.
pub(super) trait Sets {
    /// The set of all members of `sets` and `more`.
    fn union(&mut self, sets: &[SetId], more: &[u32]) -> SetId;
}

/// Interned sets of sorted numbers.
#[derive(Debug)]
pub(super) struct Pool {
    sets: Vec<Vec<u32>>,
    known: FxHashMap<Vec<u32>, SetId>,
}

impl Pool {
    /// With the empty set alone.
    pub fn new() -> Pool {
        Pool { sets: vec![Vec::new()], known: FxHashMap::from_iter([(Vec::new(), 0)]) }
    }

    /// The members of a set, in order.
    pub fn get(&self, id: SetId) -> &[u32] {
        &self.sets[id as usize]
    }

    /// How many there are, the empty one included.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// The number of a sorted set.
    pub fn intern(&mut self, set: Vec<u32>) -> SetId {
        if let Some(id) = self.known.get(&set) {
            return *id;
        }
        let id = self.sets.len() as SetId;
        self.sets.push(set.clone());
        self.known.insert(set, id);
        id
    }

    /// All members of several sets and of a list, sorted.
    pub fn gather(&self, sets: &[SetId], more: &[u32]) -> Vec<u32> {
        let mut all = more.to_vec();
        for set in sets {
            all.extend_from_slice(self.get(*set));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Sets for Pool {
    fn union(&mut self, sets: &[SetId], more: &[u32]) -> SetId {
        let all = self.gather(sets, more);
        self.intern(all)
    }
}
