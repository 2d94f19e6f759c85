//! What telemetry costs: it is switched on and off in turns, under one load on the same connections. What
//! a machine's speed does by itself is the same for a turn and the next one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_dataplane::traffic::Switch;
use serde::{Deserialize, Serialize};

use crate::bed::Bed;
use crate::check_stop;
use crate::run::Plan;
use crate::summary::{Verdict, median};
use crate::variant::{Mode, Variant};

/// Length of a turn.
const TURN: Duration = Duration::from_millis(100);

/// How long the load runs before the first turn.
const WARM: Duration = Duration::from_millis(500);

/// At least this share of requests a second must be left with telemetry.
const LEAST: f64 = 0.98;

/// The turns of one number of connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// How many connections.
    pub connections: u32,
    /// Requests per second in a turn with telemetry, and in the one before or after it without.
    pub pairs: Vec<[f64; 2]>,
}

/// All turns of a bed with telemetry.
pub fn measure(plan: &Plan, bed: &Bed) -> Result<Vec<Turns>> {
    let switch = Switch::open(bed.state().context("the bed has no agent")?)?;
    let take = |connections: &u32| {
        check_stop()?;
        let pairs = take_turns(plan, bed, &switch, *connections)?;
        Ok(Turns { connections: *connections, pairs })
    };
    plan.connections.iter().map(take).collect()
}

fn take_turns(plan: &Plan, bed: &Bed, switch: &Switch, connections: u32) -> Result<Vec<[f64; 2]>> {
    let end = Instant::now() + Duration::from_secs(plan.turn_seconds.into());
    let seconds = plan.turn_seconds + 1;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| bed.load(Variant::Native, Mode::KeepAlive, connections, seconds));
        std::thread::sleep(WARM);
        let mut pairs = Vec::new();
        while Instant::now() + 2 * TURN < end && !load.is_finished() {
            // what comes first may find the caches otherwise
            let first = pairs.len() % 2 == 0;
            let (a, b) = (rate(switch, first)?, rate(switch, !first)?);
            pairs.push(if first { [a, b] } else { [b, a] });
        }
        switch.turn(true)?;
        let report = load.join().expect("no panic in the load")?;
        ensure!(report.errors + report.non2xx == 0, "the load had errors: {report:?}");
        Ok(pairs)
    })
}

/// Requests per second of a turn.
fn rate(switch: &Switch, on: bool) -> Result<f64> {
    switch.turn(on)?;
    let (before, start) = (switch.requests()?, Instant::now());
    std::thread::sleep(TURN);
    let (after, wall) = (switch.requests()?, start.elapsed());
    Ok(((after - before) as f64 / wall.as_secs_f64()).round())
}

impl Turns {
    /// What is left of the requests a second with telemetry: the median of all pairs, and between what
    /// it lies with a probability of 95 %. `None`: there are too few.
    fn left(&self) -> Option<(f64, [f64; 2])> {
        let mut ratios: Vec<f64> = self
            .pairs
            .iter()
            .filter(|[_, without]| *without > 0.0)
            .map(|[with, without]| with / without)
            .collect();
        ratios.sort_by(f64::total_cmp);
        // of n independent values, n/2 ± 0.98 √n lie below the median in 95 % of all cases
        let (half, spread) = (ratios.len() as f64 / 2.0, 0.98 * (ratios.len() as f64).sqrt());
        let low = *ratios.get((half - spread).max(0.0) as usize)?;
        let high = *ratios.get((half + spread) as usize)?;
        Some((median(&ratios)?, [low, high]))
    }
}

/// How the aim came out.
pub fn verdict(turns: &[Turns]) -> Verdict {
    let found: Vec<_> =
        turns.iter().filter_map(|turns| Some((turns.connections, turns.left()?))).collect();
    let missed = |(_, (left, _)): &(u32, (f64, [f64; 2]))| *left < LEAST;
    let pairs = turns.iter().map(|turns| turns.pairs.len()).min().unwrap_or_default();
    Verdict {
        id: "telemetry",
        aim: format!("Beeway native with telemetry ≥ {LEAST} × without everywhere"),
        met: (!found.is_empty()).then(|| !found.iter().any(missed)),
        found: found
            .iter()
            .map(|(n, (left, [low, high]))| format!("{left:.3} ({low:.3} to {high:.3}) at {n}"))
            .collect::<Vec<_>>()
            .join(", "),
        why: found
            .iter()
            .filter(|found| missed(found))
            .map(|(n, _)| format!("At {n} connections, over {pairs} pairs of turns or more."))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(with: f64) -> Turns {
        let pair = |i: u32| [with * f64::from(i % 3 + 1), 100.0 * f64::from(i % 3 + 1)];
        Turns { connections: 64, pairs: (0..101).map(pair).collect() }
    }

    #[test]
    fn what_changes_the_speed_of_both_does_not_count() {
        let verdict = verdict(&[turns(99.0)]);
        assert_eq!(verdict.met, Some(true));
        assert_eq!(verdict.found, "0.990 (0.990 to 0.990) at 64");
    }

    #[test]
    fn what_is_missed_is_said() {
        let verdict = verdict(&[turns(99.0), turns(97.0)]);
        assert_eq!((verdict.met, verdict.why.len()), (Some(false), 1));
    }

    #[test]
    fn the_likely_range_is_that_of_the_median() {
        let pairs = (0..100).map(|i| [f64::from(i), 100.0]).collect();
        let left = Turns { connections: 1, pairs }.left();
        assert_eq!(left, Some((0.495, [0.4, 0.59])));
    }

    #[test]
    fn nothing_is_not_measured() {
        assert_eq!(verdict(&[]).met, None);
        assert_eq!(verdict(&[Turns { connections: 1, pairs: Vec::new() }]).met, None);
    }
}
