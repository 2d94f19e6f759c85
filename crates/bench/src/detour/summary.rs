//! From raw results of the detour to medians and verdicts. Pure.

use super::{Load, Results, Sample, Way};
use crate::summary::{Verdict, median};

/// The way that is judged.
const JUDGED: Way = Way::Beeway;

/// The least that Beeway is to reach over one Envoy.
const OVER_ENVOY: f64 = 2.0;

/// The least that it is to reach over the better of HAProxy and nginx.
const OVER_OTHERS: f64 = 1.5;

/// The least that it is to reach over one Envoy with gRPC.
const OVER_ENVOY_GRPC: f64 = 1.5;

/// Medians over rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Requests per second.
    pub rps: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// CPU time of the proxy per request in microseconds.
    pub proxy_cpu_us: f64,
    /// CPU time of all per request in microseconds.
    pub cpu_us: f64,
    /// All errors of all rounds.
    pub errors: u64,
}

/// What was sent over how many connections.
pub type Place = (Load, u32);

impl Results {
    fn of(&self, way: Way, place: Place) -> impl Iterator<Item = &Sample> + Clone {
        let fits = move |s: &&Sample| (s.way, (s.load, s.connections)) == (way, place);
        self.samples.iter().filter(fits).filter(|sample| sample.proven())
    }

    /// A cell, unless it was not measured.
    pub fn cell(&self, way: Way, place: Place) -> Option<Cell> {
        let all = self.of(way, place);
        let of = |value: fn(&Sample) -> f64| median(&all.clone().map(value).collect::<Vec<_>>());
        Some(Cell {
            rps: of(|s| s.rps)?,
            p50_us: of(|s| s.p50_us)?,
            p99_us: of(|s| s.p99_us)?,
            proxy_cpu_us: of(|s| s.proxy_cpu_us)?,
            cpu_us: of(|s| s.cpu_us)?,
            errors: all.clone().map(|s| s.errors).sum(),
        })
    }

    /// Requests per second of one way over those of another: the median of the rounds' ratios.
    pub fn ratio(&self, way: Way, base: Way, place: Place) -> Option<f64> {
        let ratios: Vec<f64> = self
            .of(way, place)
            .filter_map(|sample| {
                let other = self.of(base, place).find(|other| other.round == sample.round)?;
                (other.rps > 0.0).then(|| sample.rps / other.rps)
            })
            .collect();
        median(&ratios)
    }

    /// HAProxy or nginx, whichever answers more requests.
    pub fn better(&self, place: Place) -> Option<Way> {
        let rps = |way: Way| Some((self.cell(way, place)?.rps, way));
        let found = [Way::HaProxy, Way::Nginx].into_iter().filter_map(rps);
        found.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, way)| way)
    }

    /// The lowest 99th percentile of the other proxies.
    fn lowest_p99(&self, place: Place) -> Option<f64> {
        let others = [Way::OneEnvoy, Way::HaProxy, Way::Nginx].into_iter();
        others.filter_map(|way| Some(self.cell(way, place)?.p99_us)).min_by(f64::total_cmp)
    }

    /// Bytes of memory with a number of idle connections.
    pub fn bytes(&self, way: Way, connections: u32) -> Option<u64> {
        let fits = |m: &&super::Memory| (m.way, m.connections) == (way, connections);
        self.memory.iter().find(fits).map(|memory| memory.bytes)
    }

    /// The places of one kind of load.
    pub fn places(&self, fits: impl Fn(Load) -> bool) -> Vec<Place> {
        self.settings.cells().into_iter().filter(|(load, _)| fits(*load)).collect()
    }
}

/// One verdict for each aim; not measured without results.
pub fn verdicts(results: Option<&Results>) -> Vec<Verdict> {
    let http = |load: Load| load == Load::Http;
    let grpc = |load: Load| matches!(load, Load::Grpc(_));
    let library = |load: Load| load == Load::Library;
    let envoy = |_: &Results, _: Place| Some(Way::OneEnvoy);
    let title = JUDGED.title();
    let over = |least: f64, base: &str| format!("{title}, header added ≥ {least} × {base}");
    let grpc_over = |by: &str| format!("gRPC, {by}: {title} ≥ {OVER_ENVOY_GRPC} × one Envoy");
    let others = over(OVER_OTHERS, "the better of HAProxy and nginx");
    vec![
        judge(results, ("detour-envoy", over(OVER_ENVOY, "one Envoy")), OVER_ENVOY, http, envoy),
        judge(results, ("detour-others", others), OVER_OTHERS, http, Results::better),
        judge_p99(results),
        judge(results, ("grpc-envoy", grpc_over("h2load")), OVER_ENVOY_GRPC, grpc, envoy),
        judge(results, ("grpc-library", grpc_over("grpcio")), OVER_ENVOY_GRPC, library, envoy),
    ]
}

/// Whether requests per second are so many times those of another way at each place.
fn judge(
    results: Option<&Results>,
    (id, aim): (&'static str, String),
    least: f64,
    fits: impl Fn(Load) -> bool,
    base: impl Fn(&Results, Place) -> Option<Way>,
) -> Verdict {
    let ratios = |way: Way| -> Vec<(Place, f64)> {
        let Some(results) = results else { return Vec::new() };
        let places = results.places(&fits).into_iter();
        places
            .filter_map(|place| Some((place, results.ratio(way, base(results, place)?, place)?)))
            .collect()
    };
    let (judged, both) = (ratios(JUDGED), ratios(Way::BeewayBothEnds));
    let list = |ratios: &[(Place, f64)]| {
        let one = |(place, ratio): &(Place, f64)| format!("{ratio:.2} at {}", name(*place));
        ratios.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut found = list(&judged);
    if !both.is_empty() {
        found += &format!("; with the servers in the mesh too {}", list(&both));
    }
    let missed = judged.iter().filter(|(_, ratio)| *ratio < least);
    let why =
        missed.clone().filter_map(|(place, _)| explain(results?, *place, base(results?, *place)?));
    Verdict {
        id,
        aim,
        met: (!judged.is_empty()).then(|| missed.clone().next().is_none()),
        found,
        why: why.collect(),
    }
}

fn judge_p99(results: Option<&Results>) -> Verdict {
    let measured: Vec<(Place, f64, f64)> = results.map_or_else(Vec::new, |results| {
        let places = results.places(|load| load == Load::Http).into_iter();
        let both = |place| {
            let own = results.cell(JUDGED, place)?.p99_us;
            Some((place, own, results.lowest_p99(place)?))
        };
        places.filter_map(both).collect()
    });
    let found: Vec<String> = measured
        .iter()
        .map(|(place, own, others)| format!("{own:.0} µs and {others:.0} µs at {}", name(*place)))
        .collect();
    Verdict {
        id: "detour-p99",
        aim: format!("{}, header added: p99 ≤ the lowest of the other proxies", JUDGED.title()),
        met: (!measured.is_empty()).then(|| measured.iter().all(|(_, own, others)| own <= others)),
        found: found.join(", "),
        why: Vec::new(),
    }
}

/// Where CPU time goes.
fn explain(results: &Results, place: Place, base: Way) -> Option<String> {
    let (own, other) = (results.cell(JUDGED, place)?, results.cell(base, place)?);
    Some(format!(
        "At {}: CPU time of the proxy {:.1} µs, of all {:.1} µs a request; {} {:.1} µs of {:.1} µs.",
        name(place),
        own.proxy_cpu_us,
        own.cpu_us,
        base.title(),
        other.proxy_cpu_us,
        other.cpu_us
    ))
}

/// "16", or "16×10" where there are several calls at once on each connection.
pub fn name((load, connections): Place) -> String {
    match load {
        Load::Grpc(streams) => format!("{connections}×{streams}"),
        Load::Http | Load::Library => connections.to_string(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::detour::{Memory, Settings};
    use crate::results::Machine;

    /// At 64 connections: Beeway twice the others, with servers in the mesh four times; gRPC
    /// through an Envoy alone.
    pub fn example() -> Results {
        let sample = |way, load, round, rps: f64| Sample {
            way,
            load,
            connections: 64,
            round,
            requests: rps as u64,
            lanes: [("detour".to_owned(), rps as u64)].into(),
            rps,
            p50_us: 1e6 / rps,
            p99_us: 2e6 / rps,
            errors: 0,
            proxy_cpu_us: 5.0,
            cpu_us: 20.0,
            idle_busy: 0.01,
        };
        let mut samples = Vec::new();
        for round in 0..3 {
            let http = |way, rps| sample(way, Load::Http, round, rps * f64::from(round + 1));
            samples.push(http(Way::Beeway, 200.0));
            samples.push(http(Way::BeewayBothEnds, 400.0));
            samples.push(http(Way::OneEnvoy, 50.0));
            samples.push(http(Way::HaProxy, 90.0));
            samples.push(http(Way::Nginx, 100.0));
            samples.push(sample(Way::OneEnvoy, Load::Grpc(10), round, 70.0));
        }
        let memory = |way, connections, mib: u64| Memory { way, connections, bytes: mib << 20 };
        Results {
            command: "beeway-bench run".into(),
            machine: Machine::default(),
            settings: Settings {
                connections: vec![64],
                streams: vec![10],
                library: vec![1],
                rounds: 3,
                seconds: 1,
                idle: vec![10_000],
            },
            samples,
            memory: vec![memory(Way::Beeway, 0, 10), memory(Way::Beeway, 10_000, 20)],
            adds: [Way::Beeway].into(),
            left_out: vec!["nginx, gRPC: no answer".into()],
        }
    }

    #[test]
    fn beeway_is_held_to_the_better_of_the_others() {
        let verdicts = verdicts(Some(&example()));
        let met: Vec<_> = verdicts.iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [Some(true), Some(true), Some(true), None, None]);
        assert_eq!(example().better((Load::Http, 64)), Some(Way::Nginx));
        assert_eq!(
            verdicts[1].found, "2.00 at 64; with the servers in the mesh too 4.00 at 64",
            "{verdicts:?}"
        );
        assert_eq!(verdicts[2].found, "5000 µs and 10000 µs at 64");
    }

    #[test]
    fn a_missed_aim_says_where_time_goes() {
        let mut results = example();
        results.samples.retain(|sample| sample.way != Way::HaProxy);
        for sample in &mut results.samples {
            sample.rps /= if sample.way == Way::Beeway { 2.0 } else { 1.0 };
        }
        let verdicts = verdicts(Some(&results));
        assert_eq!(verdicts[1].met, Some(false));
        assert!(verdicts[1].why[0].starts_with("At 64: CPU time of the proxy 5.0 µs"));
    }

    #[test]
    fn what_went_natively_counts_for_nothing() {
        let mut results = example();
        for sample in &mut results.samples {
            sample.lanes = [("native".to_owned(), sample.requests)].into();
        }
        assert_eq!(results.cell(Way::Beeway, (Load::Http, 64)), None);
        assert!(results.cell(Way::Nginx, (Load::Http, 64)).is_some());
        let grpc = Sample { load: Load::Grpc(1), ..results.samples[0].clone() };
        assert!(grpc.proven() && !Sample { proxy_cpu_us: 0.1, ..grpc }.proven());
    }
}
