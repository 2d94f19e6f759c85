//! How much traffic there was of each kind, in the terms of Istio's standard metrics
//! (istio.io/latest/docs/reference/config/metrics).

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::flow::Verdict;
use crate::names::{Party, ServiceName};

/// Upper bounds of the buckets of Envoy's and Istio's histograms, in milliseconds or bytes. What is
/// above the last is in one more.
pub const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Buckets of such a histogram.
pub const BOUNDED: usize = BOUNDS.len() + 1;

/// The bucket of a value in milliseconds or bytes.
pub fn bounded(value: f64) -> usize {
    BOUNDS.partition_point(|bound| *bound < value)
}

/// Kinds of traffic that are told apart. Those beyond are counted as one of their lane, code and
/// verdict between unknown parties.
pub const SERIES: usize = 10_000;

/// What a kind of traffic has in common. Order is that of labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// It was seen where it came in, and not where it was sent.
    pub inbound: bool,
    /// Who called.
    pub source: Arc<Party>,
    /// What was asked for.
    pub service: Arc<ServiceName>,
    /// Who was called.
    pub destination: Arc<Party>,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// Status; 0: no answer.
    pub code: u16,
    /// `grpc-status`.
    pub grpc_status: Option<u32>,
    /// Envoy's response flags.
    pub flags: String,
    /// The lane, as in `beeway_requests_total`.
    pub lane: String,
    /// What became of it. Not a label.
    pub verdict: Verdict,
}

/// Sums over requests, or over connections where [`Series::protocol`] is `tcp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that are over, or connections made.
    pub requests: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes of requests, or bytes from the caller.
    pub request_bytes: u64,
    /// Bytes of answers, or bytes to the caller.
    pub response_bytes: u64,
    /// Sum of durations, nanoseconds.
    pub duration: u64,
    /// Durations by [`BOUNDS`] in milliseconds.
    pub durations: [u64; BOUNDED],
    /// Bytes of requests by [`BOUNDS`].
    pub request_sizes: [u64; BOUNDED],
    /// Bytes of answers by [`BOUNDS`].
    pub response_sizes: [u64; BOUNDED],
}

impl Tally {
    /// Adds another's sums.
    pub fn add(&mut self, other: &Tally) {
        self.each(other, u64::wrapping_add);
    }

    /// What has come since `before`.
    pub fn since(&self, before: &Tally) -> Tally {
        let mut grown = self.clone();
        grown.each(before, u64::wrapping_sub);
        grown
    }

    fn each(&mut self, other: &Tally, of: impl Fn(u64, u64) -> u64) {
        let sums =
            |t: &Tally| [t.requests, t.closed, t.request_bytes, t.response_bytes, t.duration];
        let [requests, closed, request_bytes, response_bytes, duration] = sums(other);
        self.requests = of(self.requests, requests);
        self.closed = of(self.closed, closed);
        self.request_bytes = of(self.request_bytes, request_bytes);
        self.response_bytes = of(self.response_bytes, response_bytes);
        self.duration = of(self.duration, duration);
        for (mine, theirs) in [
            (&mut self.durations, &other.durations),
            (&mut self.request_sizes, &other.request_sizes),
            (&mut self.response_sizes, &other.response_sizes),
        ] {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine = of(*mine, *theirs);
            }
        }
    }
}

/// Tallies of all series.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    series: FxHashMap<Arc<Series>, Tally>,
    cut: u64,
}

impl Totals {
    /// Adds to a series. Where there are [`SERIES`] already, a new one is counted with all others that
    /// there is no room for.
    pub fn add(&mut self, series: &Arc<Series>, more: &Tally) {
        if let Some(tally) = self.series.get_mut(series) {
            return tally.add(more);
        }
        let series = if self.series.len() < SERIES {
            series.clone()
        } else {
            self.cut += more.requests;
            Arc::new(rest(series))
        };
        self.series.entry(series).or_default().add(more);
    }

    /// All series and their sums.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Series>, &Tally)> {
        self.series.iter()
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there was no traffic.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Requests that are counted under no series of their own.
    pub fn cut(&self) -> u64 {
        self.cut
    }
}

/// The series of all that there is no room for.
fn rest(of: &Series) -> Series {
    let other = || "other".to_owned();
    Series {
        source: Party::unknown(),
        destination: Party::unknown(),
        service: Arc::new(ServiceName {
            namespace: other(),
            name: other(),
            host: other(),
            port: 0,
        }),
        ..of.clone()
    }
}

/// What is kept of [`Totals`] on disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedTotals {
    series: Vec<(Series, Tally)>,
    cut: u64,
}

impl From<&Totals> for SavedTotals {
    fn from(totals: &Totals) -> SavedTotals {
        let series = totals.iter().map(|(series, tally)| ((**series).clone(), tally.clone()));
        SavedTotals { series: series.collect(), cut: totals.cut }
    }
}

impl From<SavedTotals> for Totals {
    fn from(saved: SavedTotals) -> Totals {
        let series = saved.series.into_iter().map(|(series, tally)| (Arc::new(series), tally));
        Totals { series: series.collect(), cut: saved.cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(code: u16, name: &str) -> Arc<Series> {
        let text = || name.to_owned();
        Arc::new(Series {
            inbound: false,
            source: Party::unknown(),
            service: Arc::new(ServiceName {
                namespace: text(),
                name: text(),
                host: text(),
                port: 1,
            }),
            destination: Party::unknown(),
            protocol: "http".into(),
            code,
            grpc_status: None,
            flags: "-".into(),
            lane: "native".into(),
            verdict: Verdict::Forwarded,
        })
    }

    #[test]
    fn nothing_is_lost_where_there_is_no_room() {
        let mut totals = Totals::default();
        let one = Tally { requests: 1, ..Tally::default() };
        for at in 0..SERIES + 50 {
            totals.add(&series(200, &at.to_string()), &one);
        }
        let sum: u64 = totals.iter().map(|(_, tally)| tally.requests).sum();
        assert_eq!((sum, totals.len(), totals.cut()), (SERIES as u64 + 50, SERIES + 1, 50));
    }

    #[test]
    fn what_is_saved_comes_back() {
        let mut totals = Totals::default();
        totals.add(&series(503, "a"), &Tally { requests: 3, duration: 7, ..Tally::default() });
        let text = serde_json::to_string(&SavedTotals::from(&totals)).expect("it is data");
        let back: SavedTotals = serde_json::from_str(&text).expect("it was written so");
        let back = Totals::from(back);
        assert_eq!(back.iter().collect::<Vec<_>>(), totals.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        assert_eq!((bounded(0.5), bounded(0.51), bounded(0.0)), (0, 1, 0));
        assert_eq!(bounded(3_600_000.0), BOUNDS.len() - 1);
        assert_eq!(bounded(3_600_001.0), BOUNDS.len());
    }
}
