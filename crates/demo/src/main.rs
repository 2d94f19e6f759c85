//! `beeway-demo`: a shop of eight pods on one simulated node, governed by Beeway, on real traffic.
//!
//! The demo asserts what it shows: a step whose result is not what it should be ends it with an
//! error. Whatever the end (success, failure, Ctrl-C), everything that was made is removed, and
//! that nothing is left is looked up, not assumed ([`leftovers`]).

mod agent;
mod leftovers;
mod screen;
mod shop;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::leftovers::Traces;
use crate::screen::Screen;
use crate::shop::Shop;

/// Set by SIGINT, SIGTERM and SIGHUP; looked at between any two things the demo does.
static STOP: AtomicBool = AtomicBool::new(false);

/// Shows Beeway at work: a shop of eight pods on one simulated node, real traffic, one minute.
#[derive(Debug, Parser)]
#[command(name = "beeway-demo", version, max_term_width = 100)]
struct Cli {
    /// Directory with the folders `bookinfo` and `bookinfo-canary`
    #[arg(long, value_name = "DIR", default_value = "examples")]
    examples: PathBuf,
    /// The agent [default: `beeway` beside this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Err(error) = run(&Cli::parse()) else { return ExitCode::SUCCESS };
    if STOP.load(Ordering::Relaxed) {
        // what a signal tears down makes errors of its own, which say nothing
        eprintln!("beeway-demo: stopped by a signal");
        return ExitCode::from(130);
    }
    eprintln!("beeway-demo: {error:#}");
    ExitCode::FAILURE
}

fn run(cli: &Cli) -> Result<()> {
    let agent = prepare(cli)?;
    let screen = Screen::start();
    let mut traces = Traces::default();
    let told = play(cli, &agent, &screen, &mut traces);
    screen.doing("removing everything");
    let clean = traces.verify();
    match &clean {
        Ok(looked) => screen.ok(&format!("nothing is left: {looked}")),
        Err(error) => screen.bad(&format!("{error:#}")),
    }
    told.and(clean.map(drop))
}

/// Builds the shop, goes through the steps, and takes the shop down.
fn play(cli: &Cli, agent: &Path, screen: &Screen, traces: &mut Traces) -> Result<()> {
    let mut shop = Shop::new(&cli.examples, agent, traces)?;
    shop.open(screen)?;
    steps::all(&mut shop, screen)
}

/// What must be there before anything is made; the path of the agent.
fn prepare(cli: &Cli) -> Result<PathBuf> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads kernel programs: run it as root \
         (sudo env PATH=\"$PATH\" make demo)"
    );
    ensure!(
        cli.examples.join("bookinfo").is_dir(),
        "there is no {}: run the demo in the root of the checkout, or name the folder with --examples",
        cli.examples.join("bookinfo").display()
    );
    let beside = std::env::current_exe()?.with_file_name("beeway");
    let agent = cli.agent.clone().unwrap_or(beside);
    ensure!(
        agent.is_file(),
        "there is no agent at {}: build it with `make demo`, or name it with --agent",
        agent.display()
    );
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("handle signals")?;
    Ok(agent.canonicalize()?)
}

/// An error once a signal has asked to stop.
fn check_stop() -> Result<()> {
    ensure!(!STOP.load(Ordering::Relaxed), "stopped by a signal");
    Ok(())
}
