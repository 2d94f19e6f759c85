//! What a verdict costs: the run time of `on_send`, as the kernel measures it.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::bed::Bed;
use super::list::{self, Head, Size};
use crate::kernel::{Hook, Program, Stats};
use crate::variant::Variant;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VerdictSample {
    /// The routes in force.
    pub size: Size,
    /// How many of them were asked for, in turn.
    pub asked: u32,
    /// What was sent.
    pub head: Head,
    /// Samples of the same round were taken one after the other.
    pub round: u32,
    /// Requests sent, each of them in one write.
    pub requests: u64,
    /// Runs of `on_send`, which judges the requests of the only client in the mesh.
    pub runs: u64,
    /// The time of these runs over the requests, in nanoseconds. Two readings of the clock per run
    /// are in it.
    pub ns: f64,
    /// The time of a run of `on_receive`, which does nothing: what the readings cost.
    pub empty_ns: f64,
    /// The share of requests that took the native lane.
    pub native: f64,
}

/// Measures one head in one bed, for the first so many routes.
pub fn measure(
    bed: &Bed,
    asked: u32,
    head: Head,
    round: u32,
    seconds: u32,
) -> Result<VerdictSample> {
    let name = format!("timed-{}-{asked}.json", head.bytes());
    let requests = bed.file(&name, &list::timed(asked, head))?;
    let sockets = bed.agent().map("sockets");
    let (send, receive) =
        (Program::on(&sockets, Hook::Send)?, Program::on(&sockets, Hook::Receive)?);
    bed.place(1)?;
    let lanes = bed.agent().lanes()?;
    let _stats = Stats::enable()?;
    let before = (send.runs()?, receive.runs()?);
    let report = bed.ask(Variant::Native, 0, &requests, Some(seconds))?;
    let (sends, receives) = (send.runs()?.since(before.0), receive.runs()?.since(before.1));
    let taken = crate::mesh::growth(&lanes, &bed.agent().lanes()?);
    ensure!(report.wrong == 0, "wrong answers: {}", report.first_wrong.unwrap_or_default());
    ensure!(sends.count >= report.requests, "{} runs, {} requests", sends.count, report.requests);
    Ok(VerdictSample {
        size: bed.size,
        asked,
        head,
        round,
        requests: report.requests,
        runs: sends.count,
        ns: sends.ns as f64 / report.requests as f64,
        empty_ns: receives.ns as f64 / receives.count.max(1) as f64,
        native: taken.get("native").copied().unwrap_or(0) as f64 / report.requests as f64,
    })
}
