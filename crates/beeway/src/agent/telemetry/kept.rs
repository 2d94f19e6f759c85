//! Flows that are kept for who asks what has just been.

use std::collections::VecDeque;
use std::sync::Arc;

use beeway_telemetry::{Flow, Verdict};

/// How many are kept of each kind.
const KEPT: usize = 4096;

/// The newest flows that went to their endpoints, and the newest of the others: seconds of traffic must
/// not push out who was denied a minute ago.
#[derive(Default)]
pub(super) struct Kept {
    forwarded: VecDeque<(u64, Arc<Flow>)>,
    others: VecDeque<(u64, Arc<Flow>)>,
    /// How many there have been.
    count: u64,
}

impl Kept {
    pub(super) fn push(&mut self, flow: Arc<Flow>) {
        let forwarded = flow.verdict == Verdict::Forwarded;
        let kind = if forwarded { &mut self.forwarded } else { &mut self.others };
        if kind.len() >= KEPT {
            kind.pop_front();
        }
        kind.push_back((self.count, flow));
        self.count += 1;
    }

    /// All of them, oldest first.
    pub(super) fn in_order(&self) -> Vec<Arc<Flow>> {
        let mut all: Vec<_> = self.forwarded.iter().chain(&self.others).collect();
        // two sorted runs, which the sort merges
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, flow)| flow.clone()).collect()
    }
}
