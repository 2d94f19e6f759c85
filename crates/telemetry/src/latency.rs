//! Histograms of durations, exact to 0.8 %, in the layout that the kernel fills (`struct latency` in
//! bpf/include/abi.h): linear in steps of 16 ns up to 1 µs, from there 64 steps to each doubling.

use std::time::Duration;

/// Steps of one doubling.
pub const STEPS: usize = 64;

/// Durations are counted in units of `1 << UNIT_SHIFT` nanoseconds.
pub const UNIT_SHIFT: u32 = 4;

/// Doublings behind the linear part. What is longer than all (137 s) is counted as the longest.
pub const DOUBLINGS: usize = 27;

/// Buckets of a histogram.
pub const BUCKETS: usize = STEPS * (DOUBLINGS + 1);

/// The bucket that a duration is counted in.
pub fn bucket(nanoseconds: u64) -> usize {
    let units = nanoseconds >> UNIT_SHIFT;
    let doublings = (u64::BITS - units.leading_zeros()).saturating_sub(STEPS.ilog2() + 1);
    if doublings as usize >= DOUBLINGS {
        return BUCKETS - 1;
    }
    STEPS * doublings as usize + (units >> doublings) as usize
}

/// The middle of a bucket, in nanoseconds.
pub fn middle(bucket: usize) -> f64 {
    let doublings = (bucket / STEPS).saturating_sub(1);
    let first = ((bucket - STEPS * doublings) as u64) << doublings;
    let width = 1u64 << doublings;
    ((first << UNIT_SHIFT) as f64) + ((width << UNIT_SHIFT) as f64) / 2.0
}

/// How often durations fell into each bucket.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        self.add(bucket(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)), 1);
    }

    /// Counts `n` durations of a bucket; one that there is not is the last.
    pub fn add(&mut self, bucket: usize, n: u64) {
        self.counts[bucket.min(BUCKETS - 1)] += n;
        self.total += n;
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Buckets that are not empty.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Microseconds that a share of durations is no longer than; `None`: none was counted.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let reached = self.filled().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        reached.map(|(bucket, _)| middle(bucket) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_as_wide_as_said() {
        let mut last = 0;
        for shift in 4..37 {
            for part in 0..200u64 {
                let ns = (1u64 << shift) + (part << shift) / 200;
                let at = bucket(ns);
                assert!(at >= last, "{ns}");
                last = at;
                let error = (middle(at) - ns as f64).abs() / ns as f64;
                assert!(error <= 0.008 || ns < 1024, "{ns} ns is off by {error}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket(0), 0);
    }

    #[test]
    fn quantiles_agree_with_another_histogram_to_one_percent() {
        let mut ours = Histogram::default();
        let mut theirs = hdrhistogram::Histogram::<u64>::new(5).expect("a histogram");
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // from 2 µs to 2 s, most of them short
            let ns = 2_000
                + (state >> 40) * ((state >> 20) % 128) * u64::from(state.is_multiple_of(97))
                + (state >> 48);
            ours.record(Duration::from_nanos(ns));
            theirs.record(ns).expect("in range");
        }
        for share in [0.5, 0.9, 0.99, 0.999, 0.9999] {
            let (a, b) = (
                ours.quantile(share).expect("some"),
                theirs.value_at_quantile(share) as f64 / 1000.0,
            );
            assert!((a - b).abs() / b < 0.01, "{share}: {a} and {b}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
