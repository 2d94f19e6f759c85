//! The run: every variant in every cell, interleaved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_testbed::WrkReport;

use crate::bed::{self, Bed};
use crate::cpu::{Snapshot, idle_baseline, kernel_threads, kernel_threads_since};
use crate::mesh::Lanes;
use crate::results::{ConnectRound, Results, Sample, Settings};
use crate::routes;
use crate::variant::{BedKind, Mode, Variant};
use crate::{check_stop, detour, envoy, machine, mesh, turns};

/// How long the machine is watched at rest before each round.
pub const REST: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The variants.
    pub variants: Vec<Variant>,
    /// The numbers of connections.
    pub connections: Vec<u32>,
    /// How many times each cell is measured.
    pub rounds: u32,
    /// Length of one measurement in seconds.
    pub seconds: u32,
    /// How long telemetry is switched on and off, for each number of connections, in seconds.
    pub turn_seconds: u32,
    /// How many rounds of connecting, and connections in each.
    pub connects: (u32, u32),
    /// What to measure over routes.
    pub routes: routes::Settings,
    /// What to measure of the detour beside other proxies.
    pub detour: detour::Settings,
    /// How many times a pod goes through all changes of it, six each.
    pub pod_rounds: u32,
    /// The Beeway binary.
    pub agent: PathBuf,
    /// The folder of Envoy.
    pub envoy: PathBuf,
}

impl Plan {
    /// 9 variants × 4 numbers × 2 modes × 5 rounds × 1 s: 9 minutes with what lies between, and 4 of turns.
    pub fn full() -> Self {
        Self {
            variants: Variant::ALL.to_vec(),
            connections: vec![1, 16, 64, 256],
            rounds: 5,
            seconds: 1,
            turn_seconds: 60,
            connects: (21, 2000),
            routes: routes::Settings::full(),
            detour: detour::Settings::full(),
            pod_rounds: 20,
            agent: "target/release/beeway".into(),
            envoy: envoy::FOLDER.into(),
        }
    }

    /// 9 variants × 2 numbers × 2 modes × 3 rounds × 1 s: 2 minutes.
    pub fn quick() -> Self {
        let connections = vec![1, 64];
        let (connects, routes) = ((5, 1000), routes::Settings::quick());
        let detour = detour::Settings::quick();
        let (rounds, turn_seconds, pod_rounds) = (3, 5, 9);
        Self {
            connections,
            rounds,
            turn_seconds,
            connects,
            routes,
            detour,
            pod_rounds,
            ..Self::full()
        }
    }
}

/// Results without any measurement.
pub fn nothing(plan: &Plan) -> Results {
    Results {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: machine::describe(plan),
        settings: Settings {
            variants: plan.variants.clone(),
            modes: Mode::ALL.to_vec(),
            connections: plan.connections.clone(),
            rounds: plan.rounds,
            seconds: plan.seconds,
        },
        samples: Vec::new(),
        telemetry: Vec::new(),
        connects: Vec::new(),
        routes: None,
        detour: None,
        pods: None,
    }
}

/// Builds the beds, measures, and tears the beds down.
pub fn run(plan: &Plan) -> Result<Results> {
    let started = Instant::now();
    let beds = bed::build(plan)?;
    for variant in &plan.variants {
        bed_of(&beds, *variant)?.check(*variant)?;
    }
    eprintln!("bench: {} beds stand and answer rightly", beds.len());
    let mut samples = Vec::new();
    for mode in Mode::ALL {
        for connections in &plan.connections {
            for round in 0..plan.rounds {
                let cell = (mode, *connections, round);
                measure_round(plan, &beds, &plan.variants, cell, &mut samples)?;
            }
            eprintln!(
                "bench: {:>4} s: {connections} connections, {}",
                started.elapsed().as_secs(),
                mode.title()
            );
        }
    }
    let connects = match beds.get(&BedKind::Beeway) {
        Some(bed) => measure_connects(plan, bed, beds.get(&BedKind::BeewayGuarded))?,
        None => Vec::new(),
    };
    let telemetry = match beds.get(&BedKind::Beeway) {
        Some(bed) => turns::measure(plan, bed).context("switch telemetry on and off")?,
        None => Vec::new(),
    };
    Ok(Results { samples, telemetry, connects, ..nothing(plan) })
}

fn bed_of(beds: &BTreeMap<BedKind, Bed>, variant: Variant) -> Result<&Bed> {
    beds.get(&variant.bed()).context("every variant has a bed")
}

/// Each variant once, starting with another one each round.
fn measure_round(
    plan: &Plan,
    beds: &BTreeMap<BedKind, Bed>,
    variants: &[Variant],
    cell: (Mode, u32, u32),
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let (mode, connections, round) = cell;
    let idle_busy = idle_baseline(REST)?;
    let count = variants.len();
    for variant in variants.iter().cycle().skip(round as usize % count).take(count) {
        check_stop()?;
        let bed = bed_of(beds, *variant)?;
        let cell = Cell { variant: *variant, mode, connections, round };
        let load = || bed.load(*variant, mode, connections, plan.seconds);
        let sample = measure_once(bed, cell, idle_busy, load);
        samples.push(sample.with_context(|| {
            format!("{}, {connections} connections, {}", variant.title(), mode.title())
        })?);
    }
    Ok(())
}

/// What is measured, as far as it is the same wherever a load runs.
pub trait Subject {
    /// The requests by lane so far; none without Beeway.
    fn lanes(&self) -> Result<Lanes>;

    /// The CPU time of all processes that ever ran in the bed.
    fn cpu_time(&self) -> Result<Duration>;
}

/// What a bed and its machine did while something ran.
#[derive(Debug)]
pub struct Observed {
    /// Requests by lane.
    pub lanes: Lanes,
    /// CPU time of the bed and of the kernel's threads.
    pub spent: Duration,
    /// The busy share of each CPU.
    pub busy: Vec<f64>,
    /// How long it ran.
    pub wall: Duration,
}

/// Runs something and watches the bed meanwhile.
pub fn observe<T>(bed: &impl Subject, work: impl FnOnce() -> Result<T>) -> Result<(T, Observed)> {
    let lanes = bed.lanes()?;
    let (own, threads) = (bed.cpu_time()?, kernel_threads());
    let (before, start) = (Snapshot::take()?, Instant::now());
    let done = work()?;
    let (busy, wall) = (before.busy_since()?, start.elapsed());
    let spent = bed.cpu_time()?.saturating_sub(own) + kernel_threads_since(&threads);
    let lanes = mesh::growth(&lanes, &bed.lanes()?);
    Ok((done, Observed { lanes, spent, busy, wall }))
}

/// What a measurement is of.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// The variant.
    pub variant: Variant,
    /// How connections live.
    pub mode: Mode,
    /// How many connections.
    pub connections: u32,
    /// The round.
    pub round: u32,
}

/// Runs a load once, and says so if it was not in its lane.
pub fn measure_once(
    bed: &impl Subject,
    cell: Cell,
    idle_busy: f64,
    load: impl FnOnce() -> Result<WrkReport>,
) -> Result<Sample> {
    let Cell { variant, mode, connections, round } = cell;
    let (report, Observed { lanes, spent, busy, wall }) = observe(bed, load)?;
    let restless = idle_busy * busy.len() as f64;
    let machine = (busy.iter().sum::<f64>() - restless).max(0.0) * wall.as_secs_f64();
    let per_request = |seconds: f64| seconds * 1e6 / report.requests.max(1) as f64;
    let unexpected = match variant.expected().0 {
        200 => report.non2xx,
        _ => report.requests.saturating_sub(report.non2xx),
    };
    let sample = Sample {
        variant,
        mode,
        connections,
        round,
        requests: report.requests,
        lanes,
        rps: report.rps,
        p50_us: report.p50_us,
        p90_us: report.p90_us,
        p99_us: report.p99_us,
        errors: report.errors + unexpected,
        cpu_us: per_request(spent.as_secs_f64()),
        machine_cpu_us: per_request(machine),
        busy,
        idle_busy,
    };
    if !sample.proven() {
        eprintln!("bench: INVALID, not in its lane: {}", sample.describe());
    }
    Ok(sample)
}

fn measure_connects(plan: &Plan, bed: &Bed, guarded: Option<&Bed>) -> Result<Vec<ConnectRound>> {
    let (rounds, count) = plan.connects;
    (0..rounds)
        .map(|_| {
            check_stop()?;
            Ok(ConnectRound {
                outside: bed.connect(false, count)?,
                inside: bed.connect(true, count)?,
                guarded: guarded.map(|bed| bed.connect(true, count)).transpose()?,
            })
        })
        .collect()
}
