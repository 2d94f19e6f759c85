//! The admin socket: whoever may open it reads one JSON document and the connection closes.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use beeway_dataplane::counts::LANES;

use super::Agent;
use super::configuration::InForce;
use super::socket;
use crate::status::{Generation, Status, admin_socket};

/// Serves `STATE/admin.sock`, mode 0600.
pub(crate) fn serve(agent: Arc<Agent>) -> Result<()> {
    let listener = socket::listen(&admin_socket(&agent.args.state))?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // a reader that does not read must not hold up the next one for long
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            let status = status(&agent);
            if let Ok(text) = serde_json::to_vec(&status) {
                let _ = stream.write_all(&text);
            }
        }
    })?;
    Ok(())
}

/// Everything that `beeway status` shows.
pub(crate) fn status(agent: &Agent) -> Status {
    let counts = agent.dataplane.counts().unwrap_or_default();
    let configuration = agent.follower.state();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started: since_epoch(agent.started).as_secs(),
        cgroup: agent.args.cgroup.clone(),
        state: agent.args.state.clone(),
        generation: configuration.in_force.map(generation),
        rejected: configuration.rejected,
        programs: agent.dataplane.programs(),
        maps: agent.dataplane.map_use(),
        lanes: LANES.iter().map(|lane| (lane.to_string(), counts.lane(lane))).collect(),
        requests: counts.requests,
        counters: counts.counters.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
        detour_addresses: agent.detour.listeners(),
        proxy: agent.detour.stats(),
        homes: agent.homes.status(),
        problems: configuration.problems,
    }
}

fn generation(in_force: InForce) -> Generation {
    Generation {
        number: in_force.number,
        services: in_force.counts.services,
        endpoints: in_force.counts.endpoints,
        rules: in_force.counts.rules,
        words_used: in_force.words_used,
        words_limit: in_force.words_limit,
        in_force_unix_ms: since_epoch(in_force.since).as_millis() as u64,
        took_ms: in_force.took.as_secs_f64() * 1000.0,
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
