//! Raw results: all that a page is made from.

use serde::{Deserialize, Serialize};

use crate::connect::Cost;
use crate::mesh::Lanes;
use crate::turns::Turns;
use crate::variant::{Mode, Variant};
use crate::{detour, pods, routes};

/// One run of the bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The command line that gave them.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// What it was asked for.
    pub settings: Settings,
    /// Every measurement, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// Native with telemetry and without, in turns.
    #[serde(default)]
    pub telemetry: Vec<Turns>,
    /// Connecting inside and outside the mesh, round by round.
    pub connects: Vec<ConnectRound>,
    /// Cost over the number of routes.
    #[serde(default)]
    pub routes: Option<routes::Results>,
    /// The detour beside other proxies.
    #[serde(default)]
    pub detour: Option<detour::Results>,
    /// One pod of many changes.
    #[serde(default)]
    pub pods: Option<pods::Results>,
}

/// The machine and the versions of what runs on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When, in UTC.
    pub date: String,
    /// The CPU's model.
    pub cpu: String,
    /// How many CPUs.
    pub cpus: usize,
    /// Release and version of the kernel.
    pub kernel: String,
    /// The TCP congestion control of every pod.
    pub congestion_control: String,
    /// The commit that was measured.
    pub commit: String,
    /// Program and version.
    pub versions: Vec<(String, String)>,
}

/// The shape of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The variants, in the order of the tables.
    pub variants: Vec<Variant>,
    /// The ways to connect.
    pub modes: Vec<Mode>,
    /// The numbers of connections.
    pub connections: Vec<u32>,
    /// How many times each cell was measured.
    pub rounds: u32,
    /// Length of one measurement in seconds.
    pub seconds: u32,
}

/// One measurement: one run of wrk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The variant.
    pub variant: Variant,
    /// How connections lived.
    pub mode: Mode,
    /// How many connections.
    pub connections: u32,
    /// Samples of the same round were taken one after the other.
    pub round: u32,
    /// Requests answered.
    pub requests: u64,
    /// Requests by lane, as the kernel counted them; empty without Beeway.
    #[serde(default)]
    pub lanes: Lanes,
    /// Requests per second.
    pub rps: f64,
    /// Latency percentiles in microseconds, as wrk gives them.
    pub p50_us: f64,
    /// The 90th.
    pub p90_us: f64,
    /// The 99th.
    pub p99_us: f64,
    /// Errors of sockets, and answers that were not the expected ones.
    pub errors: u64,
    /// CPU time per request in microseconds: of all processes of the bed, load generator and
    /// servers included, and of the kernel's threads.
    pub cpu_us: f64,
    /// CPU time of the whole machine per request in microseconds, less `idle_busy`; the same as
    /// `cpu_us` on a machine that does nothing else.
    pub machine_cpu_us: f64,
    /// The busy share of each CPU meanwhile.
    pub busy: Vec<f64>,
    /// The busy share of the whole machine just before the round, with nothing measured.
    pub idle_busy: f64,
}

/// The least share of requests that must have taken the lane that a sample stands for.
const IN_LANE: f64 = 0.999;

/// Whether nearly all requests took a lane, by the kernel's own counters.
pub fn in_lane(lanes: &Lanes, lane: &str, requests: u64) -> bool {
    let taken = lanes.get(lane).copied().unwrap_or(0);
    // Requests under way when wrk stops are in the kernel's count only.
    let all = lanes.values().sum::<u64>().max(requests);
    requests > 0 && taken as f64 >= all as f64 * IN_LANE
}

impl Sample {
    /// Whether the kernel's own counters prove that the sample measures what its variant says.
    pub fn proven(&self) -> bool {
        let Some(lane) = self.variant.lane() else {
            return true;
        };
        in_lane(&self.lanes, lane, self.requests)
    }

    /// The sample and the lanes that it took, for a complaint.
    pub fn describe(&self) -> String {
        format!(
            "{}, {} connections, {}, round {}: {} requests, lanes {:?}",
            self.variant.title(),
            self.connections,
            self.mode.title(),
            self.round,
            self.requests,
            self.lanes
        )
    }
}

/// Connecting, once outside and once inside the mesh, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConnectRound {
    /// Outside the mesh, to the server's address.
    pub outside: Cost,
    /// Inside the mesh, to the service's address.
    pub inside: Cost,
    /// The same where policies are asked about the connection.
    #[serde(default)]
    pub guarded: Option<Cost>,
}
