//! `beeway-bench`: two pods of one node, with no mesh, with Beeway and with Envoy between them.
//!
//! Every variant has a bed of its own ([`bed`]): a simulated node with its pods, servers and
//! proxies. All beds stand for the whole run and are idle but for the one that is measured, so
//! that variants can be interleaved ([`run`]) without paying for their start each time. What was
//! measured becomes raw results ([`results`]), and from these alone the pages are made
//! ([`summary`], [`report`]). Cost over the number of routes ([`routes`]) and the detour beside other
//! proxies ([`detour`]) have beds of their own, and so has one pod of many that changes ([`pods`]).

mod bed;
mod connect;
mod cpu;
mod detour;
mod envoy;
mod kernel;
mod machine;
mod mesh;
mod pods;
mod report;
mod results;
mod routes;
mod run;
mod summary;
mod turns;
mod variant;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::results::Results;
use crate::routes::list::Size;
use crate::run::Plan;
use crate::variant::Variant;

/// Set by SIGINT, SIGTERM and SIGHUP; looked at between any two measurements.
static STOP: AtomicBool = AtomicBool::new(false);

#[derive(Parser)]
#[command(about = "Measures Beeway against no mesh and against Envoy sidecars.")]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure, and write the raw results and the pages made from them.
    Run(RunArgs),
    /// Make the pages again from a file of raw results.
    Report {
        /// The file that `run` wrote.
        results: PathBuf,
        /// Reasons for missed aims, in sections named after them.
        #[arg(long, default_value = "bench/notes.md")]
        notes: PathBuf,
        /// A README whose excerpt, between two lines `<!-- bench -->`, is made again too.
        #[arg(long)]
        readme: Option<PathBuf>,
    },
    /// Let the bed of a variant stand until a signal, and print how to measure in it.
    Stand(StandArgs),
    /// Get Envoy, if it is not there yet, and print where it is.
    Envoy {
        /// The folder that it is kept in.
        #[arg(long, default_value = envoy::FOLDER)]
        folder: PathBuf,
    },
    /// Connect and close in a loop; prints medians as JSON. Runs inside a pod.
    #[command(hide = true)]
    Connect {
        /// Where to.
        to: SocketAddr,
        /// How often.
        #[arg(long, default_value_t = 2000)]
        count: u32,
    },
    /// Send requests over one connection; prints latencies as JSON. Runs inside a pod.
    #[command(hide = true)]
    Ask {
        /// Where to.
        to: SocketAddr,
        /// A file of requests, sent in turn.
        requests: PathBuf,
        /// For how long; without, each is sent once.
        #[arg(long)]
        seconds: Option<u32>,
    },
    /// Change a route to and fro; prints milliseconds as JSON. Runs inside a pod.
    #[command(hide = true)]
    Change {
        /// A file that says how.
        plan: PathBuf,
    },
    /// Change a pod again and again; prints milliseconds as JSON. Runs inside a pod.
    #[command(hide = true)]
    ChangePods {
        /// A file that says how.
        plan: PathBuf,
    },
    /// Hold many connections until standard input ends. Runs inside a pod.
    #[command(hide = true)]
    Hold {
        /// Where to.
        to: SocketAddr,
        /// How many.
        count: u32,
    },
    /// Read and compile a configuration; prints medians as JSON. Runs pinned to a CPU.
    #[command(hide = true)]
    Compile {
        /// The directory.
        directory: PathBuf,
        /// How often.
        #[arg(long)]
        count: u32,
    },
}

/// What can be measured by itself; the results of the other parts stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The variants side by side.
    Lanes,
    /// Cost over the number of routes.
    Routes,
    /// The detour beside other proxies.
    Detour,
    /// One pod of many changes beside many policies.
    Pods,
}

#[derive(clap::Args)]
struct RunArgs {
    /// A smoke version of four minutes: fewer and shorter runs, results under target/.
    #[arg(long)]
    quick: bool,
    /// The parts to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_values = ["lanes", "routes", "detour", "pods"])]
    parts: Vec<Part>,
    /// The variants to measure.
    #[arg(long, value_delimiter = ',', value_enum)]
    variants: Vec<Variant>,
    /// The numbers of routes: 10 for one service, 1000x10 for a thousand services.
    #[arg(long, value_delimiter = ',')]
    routes: Vec<Size>,
    /// The numbers of connections of lanes and of the detour.
    #[arg(long, value_delimiter = ',')]
    connections: Vec<u32>,
    /// How many times each cell is measured.
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of one measurement of lanes and of the detour in seconds; over routes it is 1 s.
    #[arg(long)]
    seconds: Option<u32>,
    /// Where the results go.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Reasons for missed aims, in sections named after them.
    #[arg(long, default_value = "bench/notes.md")]
    notes: PathBuf,
    /// The Beeway binary.
    #[arg(long, default_value = "target/release/beeway")]
    agent: PathBuf,
    /// The folder that Envoy is kept in.
    #[arg(long, default_value = envoy::FOLDER)]
    envoy: PathBuf,
}

#[derive(clap::Args)]
struct StandArgs {
    /// The variant.
    #[arg(value_enum)]
    variant: Variant,
    /// Places processes as for this number of connections.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// The Beeway binary.
    #[arg(long, default_value = "target/release/beeway")]
    agent: PathBuf,
    /// The folder that Envoy is kept in.
    #[arg(long, default_value = envoy::FOLDER)]
    envoy: PathBuf,
}

impl RunArgs {
    fn plan(self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::full() };
        if !self.variants.is_empty() {
            plan.variants = self.variants;
        }
        if !self.connections.is_empty() {
            plan.detour.connections.clone_from(&self.connections);
            plan.connections = self.connections;
        }
        if !self.routes.is_empty() {
            plan.routes.sizes = self.routes;
        }
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        plan.routes.rounds = self.rounds.unwrap_or(plan.routes.rounds);
        plan.detour.rounds = self.rounds.unwrap_or(plan.detour.rounds);
        plan.seconds = self.seconds.unwrap_or(plan.seconds);
        plan.detour.seconds = self.seconds.unwrap_or(plan.detour.seconds);
        plan.agent = self.agent;
        plan.envoy = self.envoy;
        plan
    }
}

fn main() -> ExitCode {
    match serve(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beeway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(verb: Verb) -> Result<()> {
    match verb {
        Verb::Run(arguments) => measure(arguments),
        Verb::Report { results: path, notes, readme } => {
            let results = read_results(&path)?;
            if let Some(readme) = readme {
                report::renew_readme(&readme, &results)?;
            }
            let folder = path.parent().unwrap_or(Path::new("."));
            report::write_pages(folder, &results, &read_notes(&notes))
        }
        Verb::Stand(arguments) => stand(arguments),
        Verb::Envoy { folder } => {
            println!("{}", envoy::install(&folder)?.display());
            Ok(())
        }
        Verb::Connect { to, count } => print(&connect::measure(to, count)?),
        Verb::Ask { to, requests, seconds } => print(&routes::ask::run(to, &requests, seconds)?),
        Verb::Change { plan } => {
            let plan = serde_json::from_str(&std::fs::read_to_string(&plan)?)?;
            print(&routes::change::run(&plan)?)
        }
        Verb::ChangePods { plan } => {
            let plan = serde_json::from_str(&std::fs::read_to_string(&plan)?)?;
            print(&pods::change::run(&plan)?)
        }
        Verb::Hold { to, count } => detour::hold::run(to, count),
        Verb::Compile { directory, count } => print(&routes::compile::run(&directory, count)?),
    }
}

/// What a program inside a pod tells the bench.
fn print(result: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

fn measure(arguments: RunArgs) -> Result<()> {
    let default = if arguments.quick { "target/bench/quick" } else { "bench/results" };
    let out = arguments.out.clone().unwrap_or_else(|| default.into());
    let (notes, parts) = (read_notes(&arguments.notes), arguments.parts.clone());
    handle_signals()?;
    raise_limits()?;
    if kernel::always_measures() {
        eprintln!("bench: kernel.bpf_stats_enabled is on, and makes Beeway look slower");
    }
    let plan = arguments.plan();
    std::fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let path = out.join("bench.json");
    let every = [Part::Lanes, Part::Routes, Part::Detour, Part::Pods];
    let all = every.iter().all(|part| parts.contains(part));
    let mut results = match path.exists() && !all {
        true => read_results(&path)?,
        false => run::nothing(&plan),
    };
    if parts.contains(&Part::Lanes) {
        let Results { routes, detour, pods, .. } = results;
        results = Results { routes, detour, pods, ..run::run(&plan)? };
        write_results(&path, &results)?;
    }
    if parts.contains(&Part::Routes) {
        results.routes = Some(routes::run(&plan)?);
        write_results(&path, &results)?;
    }
    if parts.contains(&Part::Detour) {
        results.detour = Some(detour::run(&plan)?);
        write_results(&path, &results)?;
    }
    if parts.contains(&Part::Pods) {
        results.pods = Some(pods::run(&plan).context("change a pod")?);
        write_results(&path, &results)?;
    }
    report::write_pages(&out, &results, &notes)?;
    println!("{}", report::markdown::verdicts(&results, &notes));
    println!("results: {}", out.display());
    Ok(())
}

fn read_results(path: &Path) -> Result<Results> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// Each part as soon as it is there.
fn write_results(path: &Path, results: &Results) -> Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(results)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}

/// Beds are torn down by their Drop, so a signal must end a run the way an error does.
fn handle_signals() -> Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("handle signals")
}

/// Every process of a bed may have as many descriptors as the system lets it: proxies and clients
/// of 10,000 connections need them.
fn raise_limits() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of descriptors")
}

fn stand(arguments: StandArgs) -> Result<()> {
    handle_signals()?;
    let StandArgs { variant, connections, agent, envoy } = arguments;
    let plan = Plan { variants: vec![variant], agent, envoy, ..Plan::quick() };
    let beds = bed::build(&plan)?;
    for bed in beds.values() {
        bed.check(variant)?;
        println!("{}", bed.describe(variant, connections)?);
    }
    while check_stop().is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Hand-written reasons are optional: without them the page has only the computed ones.
fn read_notes(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// An error once a signal has asked to stop.
fn check_stop() -> Result<()> {
    anyhow::ensure!(!STOP.load(Ordering::Relaxed), "stopped by a signal");
    Ok(())
}
