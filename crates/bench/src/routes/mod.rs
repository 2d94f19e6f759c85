//! Cost over the number of routes: the same list ([`list`]) as configuration of Beeway and of an
//! Envoy ([`config`]), on one node for each size ([`bed`]), measured in turn; what a verdict costs
//! in the kernel ([`verdict`]), and what it costs to change the routes ([`compile`], [`change`]).

pub mod ask;
mod bed;
pub mod change;
pub mod compile;
mod config;
pub mod list;
pub mod summary;
pub mod verdict;

use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::bed::Bed;
use self::list::{Head, Size};
use self::verdict::VerdictSample;
use crate::cpu::idle_baseline;
use crate::results::{Machine, Sample};
use crate::run::{Cell, Plan, REST, measure_once};
use crate::variant::{Mode, Variant};
use crate::{check_stop, kernel, machine};

/// Everything measured over routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The command line that gave them.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// What it was asked for.
    pub settings: Settings,
    /// Every measurement of requests, in the order in which they were made.
    pub samples: Vec<RouteSample>,
    /// Every measurement of verdicts.
    pub verdicts: Vec<VerdictSample>,
    /// The tables of each size.
    pub tables: Vec<TableCost>,
    /// Milliseconds until a changed route was in force, with the most routes of one service.
    pub changes_ms: Vec<f64>,
}

/// The shape of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The sizes, in the order of the tables.
    pub sizes: Vec<Size>,
    /// The numbers of connections.
    pub connections: Vec<u32>,
    /// How many times each cell is measured.
    pub rounds: u32,
    /// Length of one measurement in seconds.
    pub seconds: u32,
    /// How many changes are made.
    pub changes: u32,
}

impl Settings {
    /// 2 numbers of connections × (5 sizes × 2 variants + no mesh) × 5 rounds × 1 s, then 2 heads
    /// × 3 × 5 rounds × 1 s, and 31 changes: 3 minutes with what lies between.
    pub fn full() -> Self {
        let mut sizes: Vec<Size> = [10, 100, 1000, 10_000].map(Size::one).to_vec();
        sizes.push(Size { services: 1000, routes: 10 });
        Self { sizes, connections: vec![1, 64], rounds: 5, seconds: 1, changes: 31 }
    }

    /// The shortest and the longest list, 2 rounds: under a minute.
    pub fn quick() -> Self {
        let sizes = [10, 10_000].map(Size::one).to_vec();
        Self { sizes, rounds: 2, changes: 21, ..Self::full() }
    }
}

/// A measurement of requests with some routes in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteSample {
    /// The routes.
    pub size: Size,
    /// What was measured.
    #[serde(flatten)]
    pub sample: Sample,
}

/// What the tables of a size cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TableCost {
    /// The routes.
    pub size: Size,
    /// Words of 4 bytes that the tables use.
    pub words: u64,
    /// Bytes of kernel memory of the map that holds them, used or not.
    pub map_bytes: u64,
    /// Reading and compiling on one core.
    #[serde(flatten)]
    pub cost: compile::Cost,
}

/// How often a configuration is compiled in a process of its own.
const COMPILED: u32 = 5;

/// The variants that are measured over routes.
const VARIANTS: [Variant; 3] = [Variant::NoMesh, Variant::Native, Variant::OneEnvoy];

/// Builds the beds, measures, and tears the beds down.
pub fn run(plan: &Plan) -> Result<Results> {
    let (started, settings) = (Instant::now(), &plan.routes);
    let beds = build(plan)?;
    eprintln!("bench: {:>4} s: routes lead where they should", started.elapsed().as_secs());
    let mut samples = Vec::new();
    for connections in &settings.connections {
        for round in 0..settings.rounds {
            measure_round(plan, &beds, *connections, round, &mut samples)?;
        }
        eprintln!("bench: {:>4} s: {connections} connections", started.elapsed().as_secs());
    }
    let (mut verdicts, mut tables, mut changes_ms) = (Vec::new(), Vec::new(), Vec::new());
    if plan.variants.contains(&Variant::Native) {
        verdicts = measure_verdicts(plan, &beds)?;
        tables = beds.iter().map(table_cost).collect::<Result<_>>()?;
        if let Some(bed) = longest(&beds) {
            changes_ms = measure_changes(bed, settings.changes).context("change a route")?;
        }
        eprintln!("bench: {:>4} s: verdicts and changes", started.elapsed().as_secs());
    }
    Ok(Results {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: machine::describe(plan),
        settings: settings.clone(),
        samples,
        verdicts,
        tables,
        changes_ms,
    })
}

/// The variants among those that are asked for.
fn variants(plan: &Plan) -> impl Iterator<Item = Variant> {
    VARIANTS.into_iter().filter(|variant| plan.variants.contains(variant))
}

fn build(plan: &Plan) -> Result<Vec<Bed>> {
    let build_one = |size: &Size| {
        check_stop()?;
        let bed = Bed::new(*size, plan).with_context(|| format!("set up {size} routes"))?;
        for variant in variants(plan) {
            bed.check(variant)?;
        }
        Ok(bed)
    };
    plan.routes.sizes.iter().map(build_one).collect()
}

/// No mesh once, because it knows nothing of routes, and the others at every size; each round
/// starts with another measurement.
fn measure_round(
    plan: &Plan,
    beds: &[Bed],
    connections: u32,
    round: u32,
    samples: &mut Vec<RouteSample>,
) -> Result<()> {
    let idle_busy = idle_baseline(REST)?;
    let all: Vec<(Variant, &Bed)> = variants(plan)
        .flat_map(|variant| {
            let beds = if variant == Variant::NoMesh { &beds[..1] } else { beds };
            beds.iter().map(move |bed| (variant, bed))
        })
        .collect();
    for (variant, bed) in all.iter().cycle().skip(round as usize * 3).take(all.len()) {
        check_stop()?;
        let cell = Cell { variant: *variant, mode: Mode::KeepAlive, connections, round };
        // Another service each time, where there are many.
        let service = round * 211 % bed.size.services;
        let load = || bed.load(*variant, service, connections, plan.routes.seconds);
        let sample = measure_once(*bed, cell, idle_busy, load).with_context(|| {
            format!("{}, {} routes, {connections} connections", variant.title(), bed.size)
        })?;
        samples.push(RouteSample { size: bed.size, sample });
    }
    Ok(())
}

/// The bed with the most routes of one service.
fn longest(beds: &[Bed]) -> Option<&Bed> {
    beds.iter().filter(|bed| bed.size.services == 1).max_by_key(|bed| bed.size)
}

/// Each head in turn: with the fewest and with the most routes of one service, all asked for, and
/// with the most when only as many as the fewest are asked for.
fn measure_verdicts(plan: &Plan, beds: &[Bed]) -> Result<Vec<VerdictSample>> {
    let shortest = beds.iter().filter(|bed| bed.size.services == 1).min_by_key(|bed| bed.size);
    let (Some(shortest), Some(longest)) = (shortest, longest(beds)) else {
        return Ok(Vec::new());
    };
    let (few, many) = (shortest.size.routes, longest.size.routes);
    let mut all = vec![(shortest, few), (longest, many), (longest, few)];
    all.dedup_by_key(|(bed, asked)| (bed.size, *asked));
    let mut samples = Vec::new();
    for round in 0..plan.routes.rounds {
        for head in Head::ALL {
            for (bed, asked) in &all {
                check_stop()?;
                let sample = verdict::measure(bed, *asked, head, round, plan.routes.seconds);
                samples.push(sample.with_context(|| {
                    format!("verdicts of {} bytes, {} routes", head.bytes(), bed.size)
                })?);
            }
        }
    }
    Ok(samples)
}

fn table_cost(bed: &Bed) -> Result<TableCost> {
    check_stop()?;
    let directory = bed.agent().config().display().to_string();
    let arguments = ["compile".to_owned(), directory, "--count".to_owned(), COMPILED.to_string()];
    Ok(TableCost {
        size: bed.size,
        words: bed.agent().words()?,
        map_bytes: kernel::inner_map_bytes(&bed.agent().map("generations"))?,
        cost: bed.own(Variant::NoMesh, &arguments).context("compile")?,
    })
}

fn measure_changes(bed: &Bed, count: u32) -> Result<Vec<f64>> {
    check_stop()?;
    let (name, texts, index) = config::changing(bed.size);
    let plan = change::Plan {
        to: bed.service()?,
        head: list::single(bed.size, index).head,
        file: bed.agent().config().join(name),
        texts,
        staging: bed.folder().join("next.yaml"),
        count,
    };
    let file = bed.file("change.json", &plan)?;
    bed.place(2)?;
    bed.own(Variant::Native, &["change".to_owned(), file.display().to_string()])
}
