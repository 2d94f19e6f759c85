//! From raw results over routes to medians and verdicts. Pure.

use super::list::{Head, Size};
use super::verdict::VerdictSample;
use super::{Results, RouteSample, TableCost};
use crate::summary::{Verdict, median};
use crate::variant::Variant;

/// The most that native latency may grow by from the shortest to the longest list.
const GROWTH: f64 = 1.05;

/// The most that a verdict may take, in nanoseconds.
fn limit_ns(head: Head) -> f64 {
    match head {
        Head::Short => 600.0,
        Head::Long => 1200.0,
    }
}

/// The most that compiling the longest list on one core may take, in milliseconds.
const COMPILE_MS: f64 = 1000.0;

/// The most that a change of one route may take until it is in force, in milliseconds.
const CHANGE_MS: f64 = 50.0;

/// The list that the aims speak of.
const LONGEST: Size = Size::one(10_000);

/// Medians over rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Requests per second.
    pub rps: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// CPU time per request in microseconds.
    pub cpu_us: f64,
    /// All errors of all rounds.
    pub errors: u64,
}

impl Results {
    /// The sizes of one service, shortest first.
    pub fn curve(&self) -> Vec<Size> {
        let mut sizes = self.settings.sizes.clone();
        sizes.retain(|size| size.services == 1);
        sizes.sort_unstable();
        sizes
    }

    fn of(
        &self,
        variant: Variant,
        size: Size,
        connections: u32,
    ) -> impl Iterator<Item = &RouteSample> + Clone {
        // No mesh knows nothing of routes: it was measured once a round, at whatever size.
        let fits = move |s: &&RouteSample| {
            (s.sample.variant, s.sample.connections) == (variant, connections)
                && (s.size == size || variant == Variant::NoMesh)
                && s.sample.proven()
        };
        self.samples.iter().filter(fits)
    }

    /// A cell, unless it was not measured.
    pub fn cell(&self, variant: Variant, size: Size, connections: u32) -> Option<Cell> {
        let all = self.of(variant, size, connections);
        let of =
            |value: fn(&RouteSample) -> f64| median(&all.clone().map(value).collect::<Vec<_>>());
        Some(Cell {
            rps: of(|s| s.sample.rps)?,
            p50_us: of(|s| s.sample.p50_us)?,
            p99_us: of(|s| s.sample.p99_us)?,
            cpu_us: of(|s| s.sample.cpu_us)?,
            errors: all.clone().map(|s| s.sample.errors).sum(),
        })
    }

    /// The median latency at a size over that with the shortest list: the median of the rounds'
    /// ratios.
    pub fn growth(&self, variant: Variant, size: Size, connections: u32) -> Option<f64> {
        let least = *self.curve().first()?;
        let ratios: Vec<f64> = self
            .of(variant, size, connections)
            .filter_map(|s| {
                let mut others = self.of(variant, least, connections);
                let other = others.find(|other| other.sample.round == s.sample.round)?;
                (other.sample.p50_us > 0.0).then(|| s.sample.p50_us / other.sample.p50_us)
            })
            .collect();
        median(&ratios)
    }

    /// Nanoseconds of a verdict when so many of the routes are asked for, and of a program that
    /// does nothing; only where at least 99.9 % of the requests were native.
    pub fn verdict_ns(&self, head: Head, size: Size, asked: u32) -> Option<(f64, f64)> {
        let fits = |s: &&VerdictSample| {
            (s.head, s.size, s.asked) == (head, size, asked) && s.native >= 0.999
        };
        let all = self.verdicts.iter().filter(fits);
        let of =
            |value: fn(&VerdictSample) -> f64| median(&all.clone().map(value).collect::<Vec<_>>());
        Some((of(|s| s.ns)?, of(|s| s.empty_ns)?))
    }

    /// What the tables of a size cost.
    pub fn table(&self, size: Size) -> Option<&TableCost> {
        self.tables.iter().find(|table| table.size == size)
    }
}

/// One verdict for each aim; not measured without results.
pub fn verdicts(results: Option<&Results>) -> Vec<Verdict> {
    let heads = Head::ALL.into_iter().map(|head| judge_head(results, head));
    [judge_growth(results)]
        .into_iter()
        .chain(heads)
        .chain([judge_compile(results), judge_change(results)])
        .collect()
}

fn judge_growth(results: Option<&Results>) -> Verdict {
    let measured: Vec<(u32, f64)> = results
        .into_iter()
        .flat_map(|results| {
            let growth = |n: &u32| Some((*n, results.growth(Variant::Native, LONGEST, *n)?));
            results.settings.connections.iter().filter_map(growth).collect::<Vec<_>>()
        })
        .collect();
    let found: Vec<String> =
        measured.iter().map(|(n, growth)| format!("{growth:.2} × at {n}")).collect();
    Verdict {
        id: "routes",
        aim: format!("Beeway native: p50 at 10 000 routes ≤ {GROWTH} × that at 10"),
        met: (!measured.is_empty()).then(|| measured.iter().all(|(_, growth)| *growth <= GROWTH)),
        found: found.join(", "),
        why: measured.iter().filter_map(|(n, _)| explain_growth(results?, *n)).collect(),
    }
}

/// What a request costs with the shortest and with the longest list.
fn explain_growth(results: &Results, connections: u32) -> Option<String> {
    let cell = |size| results.cell(Variant::Native, size, connections);
    let (least, most) = (cell(*results.curve().first()?)?, cell(LONGEST)?);
    Some(format!(
        "At {connections} connections: p50 {:.1} µs and {:.1} µs, CPU per request {:.1} µs and \
         {:.1} µs with the fewest and with the most routes.",
        least.p50_us, most.p50_us, least.cpu_us, most.cpu_us
    ))
}

fn judge_head(results: Option<&Results>, head: Head) -> Verdict {
    let limit = limit_ns(head);
    let measured: Vec<(Size, f64)> = results
        .into_iter()
        .flat_map(|results| {
            let ns = |size: Size| Some((size, results.verdict_ns(head, size, size.routes)?.0));
            results.curve().into_iter().filter_map(ns).collect::<Vec<_>>()
        })
        .collect();
    let found: Vec<String> = measured
        .iter()
        .map(|(size, ns)| format!("{:.2} µs with {}", ns / 1e3, thousands(size.total())))
        .collect();
    Verdict {
        id: match head {
            Head::Short => "verdict-100",
            Head::Long => "verdict-730",
        },
        aim: format!("verdict on {} ≤ {} µs at any number of routes", head.title(), limit / 1e3),
        met: (!measured.is_empty()).then(|| measured.iter().all(|(_, ns)| *ns <= limit)),
        found: found.join(", "),
        why: Vec::new(),
    }
}

fn judge_compile(results: Option<&Results>) -> Verdict {
    let table = results.and_then(|results| results.table(LONGEST));
    Verdict {
        id: "compile",
        aim: format!("10 000 routes compiled on one core in ≤ {} s", COMPILE_MS / 1e3),
        met: table.map(|table| table.cost.compile_ms <= COMPILE_MS),
        found: table.map_or_else(String::new, |table| {
            let cost = table.cost;
            format!("{:.0} ms; reading the files {:.0} ms", cost.compile_ms, cost.read_ms)
        }),
        why: Vec::new(),
    }
}

fn judge_change(results: Option<&Results>) -> Verdict {
    let longest = results.filter(|results| results.curve().last() == Some(&LONGEST));
    let times = longest.map_or(&[][..], |results| &results.changes_ms);
    let half = median(times);
    Verdict {
        id: "change",
        aim: format!("one of 10 000 routes changed and in force in ≤ {CHANGE_MS} ms"),
        met: half.map(|half| half <= CHANGE_MS),
        found: half.map_or_else(String::new, |half| {
            let slowest = times.iter().copied().fold(0.0, f64::max);
            format!("{half:.0} ms, the slowest of {} {slowest:.0} ms", times.len())
        }),
        why: Vec::new(),
    }
}

/// A number of routes for people.
pub fn thousands(number: u32) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands} {rest:03}"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::results::Machine;
    use crate::routes::{Settings, compile};
    use crate::summary::tests::example as example_of_lanes;

    /// The shortest and the longest list; native grows by `growth`, Envoy a hundredfold.
    pub fn example(growth: f64) -> Results {
        let sizes = vec![Size::one(10), LONGEST];
        let sample = |size: Size, variant, round, p50_us: f64| {
            let mut sample = example_of_lanes().samples.remove(0);
            (sample.variant, sample.round, sample.p50_us) = (variant, round, p50_us);
            sample.errors = 0;
            let lane = variant.lane().map(|lane| (lane.to_owned(), sample.requests));
            sample.lanes = lane.into_iter().collect();
            RouteSample { size, sample }
        };
        let round = |n: u32, slow: f64| {
            vec![
                sample(sizes[0], Variant::NoMesh, n, 9.0 * slow),
                sample(sizes[0], Variant::Native, n, 10.0 * slow),
                sample(sizes[1], Variant::Native, n, 10.0 * growth * slow),
                sample(sizes[0], Variant::OneEnvoy, n, 50.0 * slow),
                sample(sizes[1], Variant::OneEnvoy, n, 5000.0 * slow),
            ]
        };
        let verdict = |size, head, ns| VerdictSample {
            size,
            asked: size.routes,
            head,
            round: 0,
            requests: 1000,
            runs: 1000,
            ns,
            empty_ns: 30.0,
            native: 1.0,
        };
        Results {
            command: "beeway-bench run --parts routes".into(),
            machine: Machine::default(),
            settings: Settings { connections: vec![64], sizes: sizes.clone(), ..Settings::full() },
            samples: [round(0, 1.0), round(1, 3.0), round(2, 1.0)].concat(),
            verdicts: vec![
                verdict(sizes[0], Head::Short, 400.0),
                verdict(sizes[1], Head::Short, 410.0),
                verdict(sizes[1], Head::Long, 1300.0),
            ],
            tables: vec![TableCost {
                size: LONGEST,
                words: 250_000,
                map_bytes: 4 << 20,
                cost: compile::Cost { read_ms: 180.0, compile_ms: 40.0 },
            }],
            changes_ms: vec![30.0, 40.0, 70.0],
        }
    }

    #[test]
    fn growth_is_taken_within_rounds() {
        let results = example(1.02);
        let growth = |variant| results.growth(variant, LONGEST, 64).expect("a ratio");
        assert!((growth(Variant::Native) - 1.02).abs() < 1e-9);
        assert!((growth(Variant::OneEnvoy) - 100.0).abs() < 1e-9);
        assert_eq!(results.cell(Variant::NoMesh, LONGEST, 64).expect("a cell").p50_us, 9.0);
        assert_eq!(results.cell(Variant::Native, LONGEST, 1), None);
    }

    #[test]
    fn requests_in_another_lane_count_for_nothing() {
        let mut results = example(1.0);
        for s in results.samples.iter_mut().filter(|s| s.size == LONGEST) {
            s.sample.lanes = [("detour".to_owned(), 100)].into();
        }
        assert_eq!(results.growth(Variant::Native, LONGEST, 64), None);
        results.verdicts[1].native = 0.9;
        assert_eq!(results.verdict_ns(Head::Short, LONGEST, 10_000), None);
    }

    #[test]
    fn aims_are_met_missed_or_not_measured() {
        let met = |results: Option<&Results>| -> Vec<Option<bool>> {
            verdicts(results).iter().map(|verdict| verdict.met).collect()
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(met(Some(&example(1.02))), [yes, yes, no, yes, yes]);
        assert_eq!(met(Some(&example(1.06)))[0], no);
        assert_eq!(met(None), [None; 5]);
        // Another list than the longest says nothing of the aims.
        let mut short = example(1.0);
        short.settings.sizes.pop();
        short.samples.retain(|s| s.size != LONGEST);
        short.tables.clear();
        assert_eq!(met(Some(&short)), [None, yes, None, None, None]);
        let found: Vec<String> =
            verdicts(Some(&example(1.02))).into_iter().map(|verdict| verdict.found).collect();
        assert_eq!(found[0], "1.02 × at 64");
        assert_eq!(found[1], "0.40 µs with 10, 0.41 µs with 10 000");
        assert_eq!(found[4], "40 ms, the slowest of 3 70 ms");
    }
}
