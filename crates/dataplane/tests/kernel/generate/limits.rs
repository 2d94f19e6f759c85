//! Limits: whose they are, for which ports, and which requests have a bucket of their own.

use std::time::Duration;

use beeway_model::access::LabelSelector;
use beeway_model::limits::WHOLE;
use beeway_model::testing::Dice;
use beeway_model::{Bucket, Match, PathMatch, RateLimit, RateLimiter};

use super::Palette;
use crate::world::{exact, header, labels};

impl Palette {
    /// Limits of the endpoints' workloads, few enough for the kernel.
    pub fn limits(&self, dice: &mut Dice) -> Vec<RateLimiter> {
        let mut next = 0;
        (0..dice.of(&[1, 1, 2])).map(|_| self.limiter(dice, &mut next)).collect()
    }

    fn limiter(&self, dice: &mut Dice, next: &mut u64) -> RateLimiter {
        let ports = (0..dice.of(&[0, 0, 1])).map(|_| dice.of(&[8080, 8081]));
        let ports = ports.collect::<Vec<u16>>();
        let selector = match dice.below(3) {
            0 => LabelSelector::equal(&labels(["shop-1", "shop-2"][dice.below(2)])),
            _ => LabelSelector::default(),
        };
        RateLimiter {
            name: "a limit".to_owned(),
            namespace: None,
            selector,
            ports: ports.into_iter().map(|port| (port, self.limit(dice, next))).collect(),
            others: (!dice.one_in(5)).then(|| self.limit(dice, next)),
        }
    }

    fn limit(&self, dice: &mut Dice, next: &mut u64) -> RateLimit {
        let special = (0..dice.of(&[0, 0, 1, 3])).map(|_| self.bucket(dice, next, true)).collect();
        RateLimit {
            special,
            usual: Some(self.bucket(dice, next, false)),
            always: dice.one_in(2),
            enabled: WHOLE,
            enforced: WHOLE,
            status: 429,
            headers: Vec::new(),
        }
    }

    fn bucket(&self, dice: &mut Dice, next: &mut u64, special: bool) -> Bucket {
        *next += 1;
        let count = if special { dice.of(&[0, 1, 1, 2]) } else { 0 };
        let matches = (0..count).map(|_| self.wanted(dice)).collect();
        let interval = Duration::from_secs(1);
        Bucket { id: *next << 33, capacity: 1, fill: 1, interval, per_caller: false, matches }
    }

    fn wanted(&self, dice: &mut Dice) -> Match {
        let mut m = Match::default();
        let path = dice.of(&self.paths);
        match dice.below(3) {
            0 => m.path = Some(PathMatch::Exact(path)),
            1 => m.path = Some(PathMatch::Prefix(path[..dice.between(1, path.len())].to_owned())),
            _ => {}
        }
        if dice.one_in(3) {
            m.method = Some(exact(["GET", "POST"][dice.below(2)]));
        }
        if dice.one_in(3) {
            m.headers.push(header(&dice.of(&self.names), exact(&dice.of(&self.values))));
        }
        m
    }
}
