//! How long until a changed pod is known: a client inside the mesh that changes the file itself and
//! calls until it is allowed or denied.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Change, Kind};
use crate::routes::ask::Connection;

/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two calls: short beside a change, and long enough to leave the CPUs to the agent.
const PAUSE: Duration = Duration::from_micros(200);
/// Between a change and the next one: the agent has finished with the last.
const REST: Duration = Duration::from_millis(300);

/// What to change and how to see that it is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The server's own address.
    pub to: SocketAddr,
    /// A request that is allowed at first.
    pub head: String,
    /// Changes in turn. Each turns round whether the request is allowed.
    pub steps: Vec<Step>,
    /// Where the next text is written before it replaces the file: the same file system, but no
    /// place that the agent looks at.
    pub staging: PathBuf,
    /// How many times all of them are made.
    pub rounds: u32,
}

/// A change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Of which kind it is.
    pub kind: Kind,
    /// The file.
    pub file: PathBuf,
    /// Its new text.
    pub text: String,
}

/// Makes all changes; milliseconds from each rename to the first request that was judged by it.
pub fn run(plan: &Plan) -> Result<Vec<Change>> {
    ensure!(is_allowed(plan)?, "the request is denied before any change");
    let steps = (0..plan.rounds).flat_map(|_| &plan.steps);
    let mut changes = Vec::new();
    for (n, step) in steps.enumerate() {
        // Not in step with any timer of the agent.
        std::thread::sleep(REST + Duration::from_millis(n as u64 * 7 % 50));
        let ms = change(plan, step, n % 2 == 1);
        let ms = ms.with_context(|| format!("change {n}, {:?}", step.kind))?;
        changes.push(Change { kind: step.kind, ms });
    }
    Ok(changes)
}

fn change(plan: &Plan, step: &Step, allowed: bool) -> Result<f64> {
    std::fs::write(&plan.staging, &step.text)?;
    let start = Instant::now();
    std::fs::rename(&plan.staging, &step.file)?;
    loop {
        let now = is_allowed(plan)?;
        let took = start.elapsed();
        if now == allowed {
            return Ok(took.as_secs_f64() * 1e3);
        }
        ensure!(took < LIMIT, "not in force after {LIMIT:?}");
        std::thread::sleep(PAUSE);
    }
}

/// Asks on a connection of its own: who calls is asked when it is made.
fn is_allowed(plan: &Plan) -> Result<bool> {
    let (status, _) = Connection::open(plan.to)?.ask(&plan.head)?;
    ensure!(matches!(status, 200 | 403), "answered {status}");
    Ok(status == 200)
}
