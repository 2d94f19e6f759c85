//! Candidates, and the ordered groups of them that a host and a path lead to.

use std::collections::BTreeSet;

use super::sets::{Pool, SetId, Sets};
use crate::abi;

const CANDIDATES: usize = abi::limits::GROUP_CANDIDATES.0 as usize;
const PREDICATES: usize = abi::limits::GROUP_PREDICATES.0 as usize;
/// Marks a member behind which members are missing: from there on userspace decides.
const REST: u32 = 1 << 31;

/// What must hold besides host and path for a rule to decide, and what it then does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    /// Predicates that must hold, by their numbers, in order.
    pub need: Vec<u32>,
    /// Predicates that must not.
    pub forbid: Vec<u32>,
    /// A bit for each method that is allowed.
    pub methods: u32,
    /// Index of the rule.
    pub rule: u32,
    /// Userspace decides and acts.
    pub detour: bool,
}

impl Candidate {
    /// Puts its predicates in order. False: it can never hold.
    pub fn sort(&mut self) -> bool {
        for list in [&mut self.need, &mut self.forbid] {
            list.sort_unstable();
            list.dedup();
        }
        !self.need.iter().any(|predicate| self.forbid.contains(predicate))
    }

    /// Whether this one holds whenever the other does.
    fn covers(&self, other: &Candidate) -> bool {
        let within = |few: &[u32], many: &[u32]| few.iter().all(|p| many.binary_search(p).is_ok());
        within(&self.need, &other.need)
            && within(&self.forbid, &other.forbid)
            && other.methods & !self.methods == 0
    }

    /// One that always holds and leaves the decision to userspace.
    fn rest(rule: u32) -> Candidate {
        let methods = (1 << abi::method::METHODS.0) - 1;
        Candidate { methods, rule, detour: true, ..Candidate::default() }
    }

    /// All predicates that it looks at.
    pub fn predicates(&self) -> impl Iterator<Item = u32> {
        self.need.iter().chain(&self.forbid).copied()
    }
}

/// Sets of candidates as the kernel needs them: in order of rules, without those that an earlier
/// one covers, and not more of them and of their predicates than it looks at.
#[derive(Debug)]
pub(super) struct Groups {
    candidates: Vec<Candidate>,
    pool: Pool,
}

impl Groups {
    /// Groups of these candidates, which are in order of rules.
    pub fn new(candidates: Vec<Candidate>) -> Groups {
        Groups { candidates, pool: Pool::new() }
    }

    /// How many sets there are, the empty one included.
    pub fn len(&self) -> usize {
        self.pool.len()
    }

    /// The candidates of a set.
    pub fn get(&self, set: SetId) -> Vec<Candidate> {
        let of = |member: &u32| {
            let candidate = &self.candidates[(member & !REST) as usize];
            if member & REST == 0 { candidate.clone() } else { Candidate::rest(candidate.rule) }
        };
        self.pool.get(set).iter().map(of).collect()
    }

    /// Whether a set had more candidates than the kernel looks at.
    pub fn is_cut(&self, set: SetId) -> bool {
        self.pool.get(set).last().is_some_and(|member| member & REST != 0)
    }

    /// What of sorted members the kernel has to look at.
    fn reachable(&self, members: &[u32]) -> Vec<u32> {
        let mut rest = members.iter().filter(|m| *m & REST != 0).map(|m| m & !REST).min();
        let mut kept: Vec<u32> = Vec::new();
        let mut predicates: BTreeSet<u32> = BTreeSet::new();
        for member in members.iter().copied().filter(|member| *member < rest.unwrap_or(REST)) {
            let candidate = &self.candidates[member as usize];
            if self.is_covered(&kept, candidate) {
                continue;
            }
            predicates.extend(candidate.predicates());
            if kept.len() == CANDIDATES || predicates.len() > PREDICATES {
                rest = Some(member);
                break;
            }
            kept.push(member);
        }
        let Some(mut rest) = rest else { return kept };
        if !self.is_covered(&kept, &Candidate::rest(0)) {
            if kept.len() == CANDIDATES {
                rest = kept.pop().unwrap_or(rest);
            }
            kept.push(rest | REST);
        }
        kept
    }

    fn is_covered(&self, earlier: &[u32], candidate: &Candidate) -> bool {
        earlier.iter().any(|member| self.candidates[*member as usize].covers(candidate))
    }
}

impl Sets for Groups {
    fn union(&mut self, sets: &[SetId], more: &[u32]) -> SetId {
        let members = self.pool.gather(sets, more);
        let kept = self.reachable(&members);
        self.pool.intern(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many, none of which covers another, on few predicates.
    fn candidates(count: u32) -> Vec<Candidate> {
        let pairs = (0..64u32).flat_map(|a| (a + 1..64).map(move |b| vec![a, b]));
        let of = |(need, rule)| Candidate { need, rule, detour: false, ..Candidate::rest(0) };
        pairs.zip(0..count).map(of).collect()
    }

    fn rules(groups: &Groups, set: SetId) -> Vec<(u32, bool)> {
        groups.get(set).iter().map(|candidate| (candidate.rule, candidate.detour)).collect()
    }

    #[test]
    fn a_group_holds_as_many_as_the_kernel_looks_at() {
        let mut groups = Groups::new(candidates(65));
        let members: Vec<u32> = (0..65).collect();
        let full = groups.union(&[], &members[..64]);
        assert_eq!(rules(&groups, full), (0..64).map(|n| (n, false)).collect::<Vec<_>>());
        assert!(!groups.is_cut(full));
        let cut = groups.union(&[], &members);
        let expected: Vec<_> = (0..63).map(|n| (n, false)).chain([(63, true)]).collect();
        assert_eq!(rules(&groups, cut), expected, "the 64th stands for the last two");
        assert!(groups.is_cut(cut));
    }

    #[test]
    fn what_was_cut_off_stays_cut_off() {
        let mut all = candidates(70);
        all[0] = Candidate { detour: false, ..Candidate::rest(0) };
        let mut groups = Groups::new(all);
        let members: Vec<u32> = (2..70).collect();
        let cut = groups.union(&[], &members);
        let more = groups.union(&[cut], &[1]);
        let expected: Vec<_> = (1..64).map(|n| (n, false)).chain([(64, true)]).collect();
        assert_eq!(rules(&groups, more), expected);
        let closed = groups.union(&[more], &[0]);
        assert_eq!(rules(&groups, closed), [(0, false)], "the first rule holds for everything");
        assert!(!groups.is_cut(closed));
    }

    #[test]
    fn a_group_has_as_many_predicates_as_the_kernel_keeps() {
        let of = |n: u32| Candidate {
            need: vec![2 * n, 2 * n + 1],
            rule: n,
            detour: false,
            ..Candidate::rest(0)
        };
        let mut groups = Groups::new((0..33).map(of).collect());
        let members: Vec<u32> = (0..33).collect();
        let full = groups.union(&[], &members[..32]);
        assert!(!groups.is_cut(full), "64 of them");
        let cut = groups.union(&[], &members);
        assert_eq!(rules(&groups, cut).last(), Some(&(32, true)));
        assert_eq!(groups.get(cut).len(), 33);
    }

    #[test]
    fn a_candidate_covers_what_asks_for_more() {
        let of = |need: &[u32], forbid: &[u32], methods| Candidate {
            need: need.into(),
            forbid: forbid.into(),
            methods,
            ..Candidate::default()
        };
        let wide = of(&[0], &[1], 3);
        assert!(wide.covers(&of(&[0, 2], &[1, 3], 1)));
        assert!(!wide.covers(&of(&[2], &[1], 3)));
        assert!(!wide.covers(&of(&[0], &[], 3)));
        assert!(!wide.covers(&of(&[0], &[1], 7)));
    }
}
