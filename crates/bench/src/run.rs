//! The run: every variant in every cell, interleaved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bed::{self, Bed};
use crate::cpu::{Snapshot, idle_baseline, kernel_threads, kernel_threads_since};
use crate::results::{ConnectRound, Results, Sample, Settings};
use crate::variant::{BedKind, Mode, Variant};
use crate::{check_stop, envoy, machine, mesh};

/// How long the machine is watched at rest before each round.
const REST: Duration = Duration::from_millis(500);

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
    /// How many rounds of connecting, and connections in each.
    pub connects: (u32, u32),
    /// The Beeway binary.
    pub agent: PathBuf,
    /// The folder of Envoy.
    pub envoy: PathBuf,
}

impl Plan {
    /// 7 variants × 4 numbers × 2 modes × 5 rounds × 3 s: 16 minutes with what lies between.
    pub fn full() -> Self {
        Self {
            variants: Variant::ALL.to_vec(),
            connections: vec![1, 16, 64, 256],
            rounds: 5,
            seconds: 3,
            connects: (21, 2000),
            agent: "target/release/beeway".into(),
            envoy: envoy::FOLDER.into(),
        }
    }

    /// 7 variants × 2 numbers × 2 modes × 3 rounds × 1 s: 2 minutes.
    pub fn quick() -> Self {
        let connections = vec![1, 64];
        Self { connections, rounds: 3, seconds: 1, connects: (5, 1000), ..Self::full() }
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
                measure_round(plan, &beds, (mode, *connections, round), &mut samples)?;
            }
            eprintln!(
                "bench: {:>4} s: {connections} connections, {}",
                started.elapsed().as_secs(),
                mode.title()
            );
        }
    }
    let connects = match beds.get(&BedKind::Beeway) {
        Some(bed) => measure_connects(plan, bed)?,
        None => Vec::new(),
    };
    Ok(Results {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: machine::describe(plan),
        settings: Settings {
            variants: plan.variants.clone(),
            modes: Mode::ALL.to_vec(),
            connections: plan.connections.clone(),
            rounds: plan.rounds,
            seconds: plan.seconds,
        },
        samples,
        connects,
    })
}

fn bed_of(beds: &BTreeMap<BedKind, Bed>, variant: Variant) -> Result<&Bed> {
    beds.get(&variant.bed()).context("every variant has a bed")
}

/// Each variant once, starting with another one each round.
fn measure_round(
    plan: &Plan,
    beds: &BTreeMap<BedKind, Bed>,
    cell: (Mode, u32, u32),
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let (mode, connections, round) = cell;
    let idle_busy = idle_baseline(REST)?;
    let count = plan.variants.len();
    for variant in plan.variants.iter().cycle().skip(round as usize % count).take(count) {
        check_stop()?;
        let bed = bed_of(beds, *variant)?;
        let sample = measure_once(bed, *variant, cell, plan.seconds, idle_busy);
        let sample = sample.with_context(|| {
            format!("{}, {connections} connections, {}", variant.title(), mode.title())
        })?;
        if !sample.proven() {
            eprintln!("bench: INVALID, not in its lane: {}", sample.describe());
        }
        samples.push(sample);
    }
    Ok(())
}

fn measure_once(
    bed: &Bed,
    variant: Variant,
    (mode, connections, round): (Mode, u32, u32),
    seconds: u32,
    idle_busy: f64,
) -> Result<Sample> {
    let lanes = bed.lanes()?;
    let (own, threads) = (bed.cpu_time()?, kernel_threads());
    let (before, start) = (Snapshot::take()?, Instant::now());
    let report = bed.load(variant, mode, connections, seconds)?;
    let (busy, wall) = (before.busy_since()?, start.elapsed());
    let spent = bed.cpu_time()?.saturating_sub(own) + kernel_threads_since(&threads);
    let restless = idle_busy * busy.len() as f64;
    let machine = (busy.iter().sum::<f64>() - restless).max(0.0) * wall.as_secs_f64();
    let per_request = |seconds: f64| seconds * 1e6 / report.requests.max(1) as f64;
    let unexpected = match variant.expected().0 {
        200 => report.non2xx,
        _ => report.requests.saturating_sub(report.non2xx),
    };
    Ok(Sample {
        variant,
        mode,
        connections,
        round,
        requests: report.requests,
        lanes: mesh::growth(&lanes, &bed.lanes()?),
        rps: report.rps,
        p50_us: report.p50_us,
        p90_us: report.p90_us,
        p99_us: report.p99_us,
        errors: report.errors + unexpected,
        cpu_us: per_request(spent.as_secs_f64()),
        machine_cpu_us: per_request(machine),
        busy,
        idle_busy,
    })
}

fn measure_connects(plan: &Plan, bed: &Bed) -> Result<Vec<ConnectRound>> {
    let (rounds, count) = plan.connects;
    (0..rounds)
        .map(|_| {
            check_stop()?;
            Ok(ConnectRound {
                outside: bed.connect(false, count)?,
                inside: bed.connect(true, count)?,
            })
        })
        .collect()
}
