//! Beeway: a service mesh without sidecars. The one binary: agent and command line.

mod agent;
mod check;
mod cli;
mod exec;
mod output;
mod run;
mod status;

use std::process::ExitCode;

use anyhow::Result;
use cli::Command;

fn main() -> ExitCode {
    output::start_log();
    let result = dispatch(cli::parse());
    result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::FAILURE
    })
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::exec(&args),
        _ => anyhow::bail!("not there yet"),
    }
}
