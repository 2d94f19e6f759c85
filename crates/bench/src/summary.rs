//! From raw results to medians, ratios and verdicts. Pure.

use crate::results::{ConnectRound, Results, Sample};
use crate::variant::{Mode, Variant};
use crate::{detour, pods, routes, turns};

/// A cell's medians over its rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Requests per second.
    pub rps: f64,
    /// Latency percentiles in microseconds.
    pub p50_us: f64,
    /// The 90th.
    pub p90_us: f64,
    /// The 99th.
    pub p99_us: f64,
    /// CPU time per request in microseconds.
    pub cpu_us: f64,
    /// The busy share of each CPU.
    pub busy: Vec<f64>,
    /// All errors of all rounds.
    pub errors: u64,
}

/// The median; the mean of the middle two of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The samples of one cell, by round; those that are not in their lane count for nothing.
fn samples(
    all: &[Sample],
    variant: Variant,
    mode: Mode,
    connections: u32,
) -> impl Iterator<Item = &Sample> + Clone {
    all.iter().filter(move |sample| {
        (sample.variant, sample.mode, sample.connections) == (variant, mode, connections)
            && sample.proven()
    })
}

/// A cell, unless it was not measured.
pub fn cell(results: &Results, variant: Variant, mode: Mode, connections: u32) -> Option<Cell> {
    let all = samples(&results.samples, variant, mode, connections);
    let of = |value: fn(&Sample) -> f64| median(&all.clone().map(value).collect::<Vec<_>>());
    let cpus = all.clone().map(|sample| sample.busy.len()).min()?;
    let busy = |cpu: usize| median(&all.clone().map(|s| s.busy[cpu]).collect::<Vec<_>>());
    Some(Cell {
        rps: of(|s| s.rps)?,
        p50_us: of(|s| s.p50_us)?,
        p90_us: of(|s| s.p90_us)?,
        p99_us: of(|s| s.p99_us)?,
        cpu_us: of(|s| s.cpu_us)?,
        busy: (0..cpus).filter_map(busy).collect(),
        errors: all.clone().map(|s| s.errors).sum(),
    })
}

/// Requests per second of one variant over those of another: the median of the rounds' ratios,
/// because what disturbs one round disturbs both variants in it.
pub fn ratio(
    results: &Results,
    (over, under): (Variant, Variant),
    mode: Mode,
    connections: u32,
) -> Option<f64> {
    let all = &results.samples;
    let ratios: Vec<f64> = samples(all, over, mode, connections)
        .filter_map(|sample| {
            let mut others = samples(all, under, mode, connections);
            let other = others.find(|other| other.round == sample.round)?;
            (other.rps > 0.0).then(|| sample.rps / other.rps)
        })
        .collect();
    median(&ratios)
}

/// What the mesh costs a connect() in microseconds: medians of the rounds' differences, of
/// connect() alone and of the whole cycle with close().
pub fn connect_cost(results: &Results) -> Option<(f64, f64)> {
    let rounds = results.connects.iter();
    let connect: Vec<f64> =
        rounds.clone().map(|round| round.inside.connect_us - round.outside.connect_us).collect();
    let cycle: Vec<f64> =
        rounds.map(|round| round.inside.cycle_us - round.outside.cycle_us).collect();
    Some((median(&connect)?, median(&cycle)?))
}

/// A ratio that is aimed at, with keep-alive.
#[derive(Debug, Clone, Copy)]
pub struct Aim {
    /// The name of its section in the notes.
    pub id: &'static str,
    /// Over what.
    pub pair: (Variant, Variant),
    /// At least this.
    pub least: f64,
    /// At this number of connections; at every one that was measured.
    pub at: Option<u32>,
}

/// The aims of the project but for the cost of connecting.
pub const AIMS: [Aim; 7] = [
    Aim { id: "native-no-mesh", pair: (Variant::Native, Variant::NoMesh), least: 0.97, at: None },
    Aim { id: "guarded-no-mesh", pair: (Variant::Guarded, Variant::NoMesh), least: 0.97, at: None },
    Aim { id: "denied-no-mesh", pair: (Variant::Denied, Variant::NoMesh), least: 1.5, at: None },
    Aim {
        id: "shortcut-no-mesh",
        pair: (Variant::Shortcut, Variant::NoMesh),
        least: 2.0,
        at: Some(64),
    },
    Aim {
        id: "native-sidecars",
        pair: (Variant::Native, Variant::SidecarPair),
        least: 9.0,
        at: None,
    },
    Aim {
        id: "shortcut-sidecars",
        pair: (Variant::Shortcut, Variant::SidecarPair),
        least: 9.0,
        at: None,
    },
    Aim {
        id: "detour-sidecars",
        pair: (Variant::Detour, Variant::SidecarPair),
        least: 4.0,
        at: None,
    },
];

/// The most that the mesh may add to a connect(), in microseconds.
pub const CONNECT_LIMIT_US: f64 = 3.0;

/// The name of the section of notes about connecting.
pub const CONNECT_ID: &str = "connect";

/// How an aim came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The name of its section in the notes.
    pub id: &'static str,
    /// The aim in words.
    pub aim: String,
    /// Whether it was met; nothing if it was not measured.
    pub met: Option<bool>,
    /// What was measured.
    pub found: String,
    /// Why it was missed, as far as the numbers say; one line for each missed cell.
    pub why: Vec<String>,
}

/// One verdict for each aim.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let lanes = AIMS.iter().map(|aim| judge(results, aim));
    lanes
        .chain([judge_connect(results), judge_policy(results)])
        .chain([turns::verdict(&results.telemetry)])
        .chain(detour::summary::verdicts(results.detour.as_ref()))
        .chain(routes::summary::verdicts(results.routes.as_ref()))
        .chain([pods::verdict(results.pods.as_ref())])
        .collect()
}

fn judge(results: &Results, aim: &Aim) -> Verdict {
    let (over, under) = aim.pair;
    let place = aim.at.map_or("everywhere".to_owned(), |at| format!("at {at} connections"));
    let measured: Vec<(u32, f64)> = results
        .settings
        .connections
        .iter()
        .filter(|connections| aim.at.is_none_or(|at| at == **connections))
        .filter_map(|n| Some((*n, ratio(results, aim.pair, Mode::KeepAlive, *n)?)))
        .collect();
    let missed: Vec<u32> =
        measured.iter().filter(|(_, ratio)| *ratio < aim.least).map(|(n, _)| *n).collect();
    let found: Vec<String> =
        measured.iter().map(|(n, ratio)| format!("{ratio:.2} at {n}")).collect();
    Verdict {
        id: aim.id,
        aim: format!("{} ≥ {} × {} {place}", over.title(), aim.least, under.title()),
        met: (!measured.is_empty()).then_some(missed.is_empty()),
        found: found.join(", "),
        why: missed.iter().filter_map(|n| explain(results, aim, *n)).collect(),
    }
}

fn judge_connect(results: &Results) -> Verdict {
    let cost = connect_cost(results);
    let outside: Vec<f64> = results.connects.iter().map(|round| round.outside.connect_us).collect();
    Verdict {
        id: CONNECT_ID,
        aim: format!("connect() costs at most {CONNECT_LIMIT_US} µs more"),
        met: cost.map(|(connect, _)| connect <= CONNECT_LIMIT_US),
        found: cost.map_or_else(String::new, |(connect, cycle)| {
            format!(
                "{connect:+.1} µs on {:.1} µs; with socket() and close() {cycle:+.1} µs",
                median(&outside).unwrap_or_default()
            )
        }),
        why: Vec::new(),
    }
}

/// The most that policies may add to a connect(), in microseconds.
pub const POLICY_LIMIT_US: f64 = 1.0;

/// What policies cost a connect() in microseconds: the median of the rounds' differences.
pub fn policy_cost(results: &Results) -> Option<f64> {
    let cost = |round: &ConnectRound| Some(round.guarded?.connect_us - round.inside.connect_us);
    median(&results.connects.iter().filter_map(cost).collect::<Vec<_>>())
}

fn judge_policy(results: &Results) -> Verdict {
    let cost = policy_cost(results);
    Verdict {
        id: "connect-policy",
        aim: format!("policies add at most {POLICY_LIMIT_US} µs to connect()"),
        met: cost.map(|cost| cost <= POLICY_LIMIT_US),
        found: cost.map_or_else(String::new, |cost| format!("{cost:+.1} µs")),
        why: Vec::new(),
    }
}

/// A CPU this busy is saturated: the start and the end of wrk lie within the measured time.
const SATURATED: f64 = 0.88;

/// What the busy shares say about a missed ratio.
fn explain(results: &Results, aim: &Aim, connections: u32) -> Option<String> {
    let (over, under) = aim.pair;
    let cells = [over, under].map(|variant| cell(results, variant, Mode::KeepAlive, connections));
    let [Some(a), Some(b)] = cells else {
        return None;
    };
    let full = |cell: &Cell| cell.busy.iter().filter(|busy| **busy >= SATURATED).count();
    let percent = |cell: &Cell| {
        cell.busy.iter().map(|busy| format!("{:.0} %", busy * 100.0)).collect::<Vec<_>>().join("/")
    };
    let reason = if full(&a) == a.busy.len() && full(&b) == b.busy.len() {
        "all CPUs are saturated in both, so the ratio can only be that of CPU time per request"
    } else if full(&a) > full(&b) {
        "one side has a saturated CPU and the other has time left: that CPU is the limit"
    } else {
        "CPU time is left, so it is latency that limits"
    };
    Some(format!(
        "At {connections} connections {reason}: {:.1} µs for {}, {:.1} µs for {} (× {:.1}); CPUs \
         busy {} and {}; p50 {:.0} µs and {:.0} µs.",
        a.cpu_us,
        over.title(),
        b.cpu_us,
        under.title(),
        b.cpu_us / a.cpu_us.max(f64::MIN_POSITIVE),
        percent(&a),
        percent(&b),
        a.p50_us,
        b.p50_us
    ))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::connect::Cost;
    use crate::results::{Machine, Settings};

    /// Two variants, three rounds; the second round disturbed both.
    pub fn example() -> Results {
        let sample = |variant, round, rps: f64| Sample {
            variant,
            mode: Mode::KeepAlive,
            connections: 64,
            round,
            requests: rps as u64,
            lanes: variant.lane().map(|lane| (lane.to_owned(), rps as u64)).into_iter().collect(),
            rps,
            p50_us: 20.0,
            p90_us: 30.0,
            p99_us: 40.0,
            errors: 1,
            cpu_us: 2e6 / rps,
            machine_cpu_us: 2e6 / rps,
            busy: vec![0.99, 0.98],
            idle_busy: 0.01,
        };
        let cost = |connect_us| Cost { connect_us, cycle_us: connect_us + 10.0 };
        let round = |inside| ConnectRound {
            outside: cost(20.0),
            inside: cost(inside),
            guarded: Some(cost(inside + 0.5)),
        };
        Results {
            command: "beeway-bench run".into(),
            machine: Machine::default(),
            settings: Settings {
                variants: vec![Variant::NoMesh, Variant::Native],
                modes: vec![Mode::KeepAlive],
                connections: vec![64],
                rounds: 3,
                seconds: 1,
            },
            samples: vec![
                sample(Variant::NoMesh, 0, 100.0),
                sample(Variant::Native, 0, 98.0),
                sample(Variant::Native, 1, 49.0),
                sample(Variant::NoMesh, 1, 50.0),
                sample(Variant::NoMesh, 2, 100.0),
                sample(Variant::Native, 2, 90.0),
            ],
            telemetry: Vec::new(),
            connects: vec![round(22.0), round(21.5), round(40.0)],
            routes: None,
            detour: None,
            pods: None,
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let pair = (Variant::Native, Variant::NoMesh);
        let ratio = |connections| ratio(&example(), pair, Mode::KeepAlive, connections);
        assert_eq!(ratio(64), Some(0.98));
        assert_eq!(ratio(1), None);
    }

    #[test]
    fn samples_outside_their_lane_count_for_nothing() {
        let mut results = example();
        for sample in &mut results.samples {
            sample.lanes = [("detour".to_owned(), sample.requests)].into();
        }
        assert!(cell(&results, Variant::NoMesh, Mode::KeepAlive, 64).is_some());
        assert_eq!(cell(&results, Variant::Native, Mode::KeepAlive, 64), None);
        // One of 98 in another lane is too much, one of 10,000 is not.
        let mut sample = example().samples.remove(1);
        sample.lanes.insert("detour".into(), 1);
        assert!(!sample.proven());
        sample.lanes.insert("native".into(), 10_000);
        assert!(sample.proven());
    }

    #[test]
    fn a_cell_is_made_of_medians() {
        let cell = cell(&example(), Variant::Native, Mode::KeepAlive, 64).expect("a cell");
        assert_eq!((cell.rps, cell.errors, cell.busy), (90.0, 3, vec![0.99, 0.98]));
    }

    #[test]
    fn aims_are_met_missed_or_not_measured() {
        let verdicts = verdicts(&example());
        let met: Vec<_> = verdicts.iter().map(|verdict| verdict.met).collect();
        let (lanes, others) = met.split_at(AIMS.len());
        assert_eq!(lanes[0], Some(true));
        assert_eq!(lanes[1..], [None; AIMS.len() - 1]);
        assert_eq!(others[..2], [Some(true), Some(true)], "of connecting");
        assert_eq!(others[2..], [None; 12]);
        assert_eq!(policy_cost(&example()), Some(0.5));
        assert_eq!(connect_cost(&example()), Some((2.0, 2.0)));
    }

    #[test]
    fn a_missed_aim_says_why() {
        let mut results = example();
        for sample in &mut results.samples {
            if sample.variant == Variant::Native {
                sample.rps /= 2.0;
            }
        }
        let verdict = &verdicts(&results)[0];
        assert_eq!((verdict.met, verdict.found.as_str()), (Some(false), "0.49 at 64"));
        assert!(verdict.why[0].contains("saturated in both"), "{:?}", verdict.why);
    }
}
