//! Token buckets of the kernel against the model's, with a clock of the test's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use beeway_dataplane::Token;
use beeway_model::Bucket;
use beeway_model::limits::Level;
use beeway_model::testing::Dice;

use crate::node::Node;

fn buckets() -> Vec<Bucket> {
    let numbers = [(1, 1, 50, false), (10, 3, 1_000, true), (u32::MAX, u32::MAX, 60_000, false)];
    let numbered = numbers.into_iter().enumerate();
    let bucket = |(at, (capacity, fill, interval, per_caller)): (usize, _)| Bucket {
        id: 1 << 63 | at as u64,
        capacity,
        fill,
        interval: Duration::from_millis(interval),
        per_caller,
        matches: Vec::new(),
    };
    numbered.map(bucket).collect()
}

#[test]
fn a_bucket_of_the_kernel_gives_what_the_model_s_gives() {
    let node = Node::start();
    let dice = &mut Dice(11);
    let buckets = buckets();
    let mut levels: HashMap<(u64, SocketAddr, Option<IpAddr>), Level> = HashMap::new();
    let mut now = 1_000_000_000_u64;
    let mut given = [0, 0];
    for step in 0..20_000 {
        // many at one moment, some after a part of an interval, few after many
        now += match dice.below(20) {
            0..16 => 0,
            16..19 => dice.below(60_000_000) as u64,
            _ => dice.below(20_000) as u64 * 1_000_000,
        };
        let bucket = &buckets[dice.below(3)];
        let endpoint = SocketAddr::from(([10, 0, 0, dice.below(2) as u8], 80));
        let caller = IpAddr::V4(Ipv4Addr::new(10, 0, 1, dice.below(2) as u8));
        let key = (bucket.id, endpoint, bucket.per_caller.then_some(caller));
        let level = levels.entry(key).or_insert_with(|| bucket.full(now));
        let wanted = if bucket.take(level, now) { Token::Taken } else { Token::None };
        let found = node.take_token(bucket, endpoint, caller, Duration::from_nanos(now));
        assert_eq!(found, wanted, "step {step}, {key:?} at {now}: {level:?}");
        given[usize::from(wanted == Token::Taken)] += 1;
    }
    assert!(given.iter().all(|count| *count > 2_000), "{given:?}");
}

#[test]
fn only_buckets_that_have_been_full_for_long_are_removed() {
    let node = Node::start();
    let of = |interval: u64, id| Bucket {
        id,
        capacity: 2,
        fill: 2,
        interval: Duration::from_secs(interval),
        per_caller: false,
        matches: Vec::new(),
    };
    let (soon, late) = (of(1, 1), of(100_000, 2));
    let endpoint: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let caller = endpoint.ip();
    for bucket in [&soon, &late] {
        // some time after the machine has started
        let then = Duration::from_nanos(1);
        assert_eq!(node.take_token(bucket, endpoint, caller, then), Token::Taken);
    }
    assert_eq!(node.sweep_buckets(Duration::from_secs(100_000_000)), 0);
    assert_eq!(node.sweep_buckets(Duration::ZERO), 1);
    // the other one remembers
    let then = Duration::from_nanos(2);
    let taken = [&soon, &late].map(|bucket| {
        let taken =
            (0..4).filter(|_| node.take_token(bucket, endpoint, caller, then) == Token::Taken);
        taken.count()
    });
    assert_eq!(taken, [2, 1]);
}
