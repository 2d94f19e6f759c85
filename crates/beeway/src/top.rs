//! `beeway top`: what services are asked, how fast they answer and by which lanes, as it changes.
//!
//! The agent makes the picture; here it is sorted, filtered and drawn.

mod cells;
mod detail;
mod draw;
mod live;
mod once;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::{Result, bail};
use beeway_telemetry::graph::Snapshot;
use serde_json::Value;

use crate::cli::TopArgs;
use crate::{client, output, status};

const COMMAND: &str = "beeway top";

/// Shows the picture.
pub fn top(args: &TopArgs) -> Result<ExitCode> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !args.once && !terminal {
        bail!("this is no terminal: `beeway top --once` prints a table, `--once --json` JSON");
    }
    let what = what(args);
    let ask = client::json::<Value>(&args.state, &what, COMMAND);
    let Some(picture) = client::runtime()?.block_on(ask)? else {
        return status::show::nobody(&args.state);
    };
    if args.json {
        let document = output::ascii(&serde_json::to_string_pretty(&picture)?);
        output::text(&(document + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let picture: Snapshot = serde_json::from_value(picture)?;
    if args.once {
        output::text(&once::text(&picture, args.sort))?;
        return Ok(ExitCode::SUCCESS);
    }
    live::run(args, picture)
}

/// What the agent is asked.
fn what(args: &TopArgs) -> String {
    format!("/snapshot?seconds={}", args.window)
}
