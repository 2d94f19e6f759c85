//! How long until a changed route is in force: a client inside the mesh that changes the file
//! itself and asks until the answer is the new one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::ask::Connection;
use super::list::Server;

/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two questions: short beside a change, and long enough to leave the CPUs to the agent.
const PAUSE: Duration = Duration::from_micros(200);

/// Between a change and the next one: the agent has finished with the last.
const REST: Duration = Duration::from_millis(200);

/// What to change and how to see that it is in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The service.
    pub to: SocketAddr,
    /// A request for the route that changes.
    pub head: String,
    /// The file; as it is, the route leads to v1.
    pub file: PathBuf,
    /// Its text with the route leading to v1, and to v2.
    pub texts: [String; 2],
    /// Where the next text is written before it replaces the file: the same file system, but no
    /// place that the agent looks at.
    pub staging: PathBuf,
    /// How many changes.
    pub count: u32,
}

/// Changes the route to and fro; milliseconds from each rename to the answer of the first request
/// that went the new way.
pub fn run(plan: &Plan) -> Result<Vec<f64>> {
    let mut connection = Connection::open(plan.to)?;
    let first = connection.ask(&plan.head)?;
    ensure!(first == (200, Some(Server::V1)), "before any change: {first:?}");
    (0..plan.count)
        .map(|n| {
            let to = [Server::V2, Server::V1][n as usize % 2];
            // Not in step with any timer of the agent.
            std::thread::sleep(REST + Duration::from_millis(u64::from(n) * 7 % 50));
            change(plan, &mut connection, to).with_context(|| format!("change {n}"))
        })
        .collect()
}

fn change(plan: &Plan, connection: &mut Connection, to: Server) -> Result<f64> {
    std::fs::write(&plan.staging, &plan.texts[usize::from(to == Server::V2)])?;
    let start = Instant::now();
    std::fs::rename(&plan.staging, &plan.file)?;
    loop {
        let (status, server) = connection.ask(&plan.head)?;
        let took = start.elapsed();
        ensure!(status == 200, "answered {status}");
        if server == Some(to) {
            return Ok(took.as_secs_f64() * 1e3);
        }
        ensure!(took < LIMIT, "not in force after {LIMIT:?}");
        std::thread::sleep(PAUSE);
    }
}
