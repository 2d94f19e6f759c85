//! Buckets of the kernel's histograms against those that are read out of them.

use beeway_dataplane::traffic::{BOUNDS, LATENCY_BUCKETS};
use beeway_model::testing::Dice;
use beeway_telemetry::latency;
use beeway_telemetry::totals::{self, bounded};

use crate::node::Node;

/// The shortest duration of a bucket, by what userspace says.
fn beginning(bucket: usize) -> u64 {
    let (mut below, mut from) = (0, 1 << 40);
    while below < from {
        let middle = (below + from) / 2;
        match latency::bucket(middle) < bucket {
            true => below = middle + 1,
            false => from = middle,
        }
    }
    from
}

#[test]
fn the_kernel_counts_durations_where_they_are_looked_for() {
    let node = Node::start();
    let mut hit = vec![false; LATENCY_BUCKETS];
    let mut check = |ns: u64| {
        let found = node.find_buckets(ns, 0);
        assert_eq!(found.latency, latency::bucket(ns), "{ns} ns");
        assert_eq!(found.milliseconds, bounded(ns as f64 / 1e6), "{ns} ns");
        hit[found.latency] = true;
    };
    let bounds = totals::BOUNDS.map(|milliseconds| (milliseconds * 1e6) as u64);
    for at in (0..latency::BUCKETS).map(beginning).chain(bounds) {
        [at.saturating_sub(1), at, at + 1].into_iter().for_each(&mut check);
    }
    let dice = &mut Dice(3);
    for shift in 0..52 {
        (0..100).for_each(|_| check((dice.below(1 << 12) as u64) << shift));
    }
    assert!(hit.iter().all(|hit| *hit), "each bucket was looked for");
    assert_eq!(hit.len(), latency::BUCKETS);
}

#[test]
fn the_kernel_counts_sizes_where_they_are_looked_for() {
    let node = Node::start();
    let mut hit = [false; BOUNDS];
    for bound in totals::BOUNDS {
        let bytes = bound as u64;
        for bytes in [bytes.saturating_sub(1), bytes, bytes + 1, bytes * 2] {
            let found = node.find_buckets(0, bytes).size;
            assert_eq!(found, bounded(bytes as f64), "{bytes} bytes");
            hit[found] = true;
        }
    }
    assert!(hit.iter().all(|hit| *hit), "{hit:?}");
}
