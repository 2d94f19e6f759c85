//! `beeway flows`: asks the agent for flows and shows them, one a line. The agent filters.

mod line;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
use beeway_telemetry::FlowQuery;
use http_body_util::BodyExt;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::FlowsArgs;
use crate::{client, output, status};

/// Flows that are shown unless told otherwise, where none are waited for.
const LAST: usize = 20;

/// Shows flows.
pub fn flows(args: &FlowsArgs) -> Result<ExitCode> {
    end_with_the_reader()?;
    client::runtime()?.block_on(show(args))
}

async fn show(args: &FlowsArgs) -> Result<ExitCode> {
    let what = format!("/flows?{}", serde_urlencoded::to_string(query(args))?);
    let Some(response) = client::get(&args.state, &what, "beeway flows").await? else {
        return status::show::nobody(&args.state);
    };
    let mut shown = Shown::new(args);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => shown.add(frame.data_ref().map_or(&[][..], |data| data))?,
            Err(_) if args.follow => break,
            Err(error) => return Err(error).context("the agent went away before the last flow"),
        }
    }
    if args.follow {
        eprintln!("the agent has gone away");
        return Ok(ExitCode::from(status::show::NO_AGENT));
    }
    if shown.flows == 0 && !args.json {
        eprintln!("no such flow is known (the newest 4096 are; `--follow` waits for more)");
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &FlowsArgs) -> FlowQuery {
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
    FlowQuery {
        last: args.last.or(Some(if args.follow { 0 } else { LAST })),
        follow: args.follow.then_some(1),
        queries: args.queries.then_some(1),
        from: args.from.clone(),
        to: args.to.clone(),
        verdict: list(&args.verdict),
        lane: list(&args.lane),
        status: args.status.clone(),
        method: args.method.clone(),
        path: args.path.clone(),
    }
}

/// Ends this process when nobody reads its output any more, also while there is none.
fn end_with_the_reader() -> Result<()> {
    let watch = || {
        let stdout = io::stdout();
        // no event is asked for: what is left are errors, of a pipe that its reader has closed
        let mut ends = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        while poll(&mut ends, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
        if ends[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLERR)) {
            std::process::exit(0);
        }
    };
    std::thread::Builder::new().name("reader".into()).spawn(watch).context("start a thread")?;
    Ok(())
}

/// What was shown, and what is not a whole line yet.
struct Shown {
    json: bool,
    colour: bool,
    rest: Vec<u8>,
    flows: u64,
}

impl Shown {
    fn new(args: &FlowsArgs) -> Shown {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = io::stdout().is_terminal() && !dumb && !unwanted;
        Shown { json: args.json, colour, rest: Vec::new(), flows: 0 }
    }

    /// Shows the lines that are whole.
    fn add(&mut self, data: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(data);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.rest.split_off(end + 1);
        let lines = String::from_utf8(std::mem::replace(&mut self.rest, rest))
            .context("read what the agent says")?;
        let mut text = String::with_capacity(lines.len());
        for line in lines.lines() {
            self.flows += 1;
            match self.json {
                true => text += &output::ascii(line),
                false => text += &line::of(&serde_json::from_str(line)?, self.colour),
            }
            text.push('\n');
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            result => result.context("write to standard output"),
        }
    }
}
