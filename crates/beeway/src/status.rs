//! What the agent tells about itself. It listens on `STATE/admin.sock` (mode 0600), writes one JSON
//! document [`Status`] to whoever connects, and closes.

pub mod show;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use beeway_config::Problem;
use beeway_dataplane::MapUse;
use beeway_dataplane::counts::RequestCount;
use beeway_proxy::Stats;
use serde::Serialize;

/// The admin socket of the agent with this state directory.
pub fn admin_socket(state: &Path) -> PathBuf {
    state.join("admin.sock")
}

/// Where that agent tells of traffic, by HTTP.
pub fn api_socket(state: &Path) -> PathBuf {
    state.join("api.sock")
}

/// Where that agent writes the address of its dashboard, with the token, mode 0600.
pub fn dashboard_url(state: &Path) -> PathBuf {
    state.join("dashboard.url")
}

/// Where that agent writes down what it has counted.
pub fn ledger_file(state: &Path) -> PathBuf {
    state.join("telemetry.json")
}

/// Where the proxy counts.
pub fn tallies_file(state: &Path) -> PathBuf {
    state.join("tallies")
}

/// Where that agent writes its process id, in decimal.
pub fn pid_file(state: &Path) -> PathBuf {
    state.join("agent.pid")
}

/// Everything that `beeway status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// The cgroup whose processes are in the mesh.
    pub cgroup: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    /// The configuration in force.
    pub generation: Option<Generation>,
    /// Why the files as last read are not in force.
    pub rejected: Option<String>,
    /// Names of the programs that are attached.
    pub programs: Vec<String>,
    /// How full the maps are.
    pub maps: Vec<MapUse>,
    /// Requests by lane, since the maps were made.
    pub lanes: BTreeMap<String, u64>,
    /// Requests by lane and reason; those that are not zero.
    pub requests: Vec<RequestCount>,
    /// What else the kernel counts.
    pub counters: BTreeMap<String, u64>,
    /// Where clients are led whose connections the userspace proxy takes as a whole.
    pub detour_addresses: Vec<SocketAddr>,
    /// What the userspace proxy has done and holds.
    pub proxy: Stats,
    /// Who is at home on this node.
    pub homes: HomesStatus,
    /// What is wrong with the configuration.
    pub problems: Vec<Problem>,
}

/// What the agent knows of where workloads run on this node.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HomesStatus {
    /// Whether the kernel tells what happens to cgroups; else they are looked at all the time.
    pub told: bool,
    /// Cgroups whose workload is known, without those inside of them.
    pub cgroups: usize,
    /// Network namespaces whose workload is known.
    pub namespaces: usize,
    /// Addresses that are nobody's but for those who are at home there.
    pub housed: usize,
    /// Entries that the kernel's maps had no room for, when all were last written.
    pub refused: usize,
    /// What went wrong since then.
    pub error: Option<String>,
    /// Times that all cgroups were looked at.
    pub surveys: u64,
    /// How long that took the last time, in milliseconds.
    pub survey_ms: f64,
    /// Things heard from the kernel.
    pub stirs: u64,
    /// How long the slowest of them took to be in force, in milliseconds.
    pub slowest_ms: f64,
    /// Things that went unheard, because the ring buffer was full.
    pub lost: u32,
    /// Those who are at home, in order of namespace and name.
    pub workloads: Vec<Resident>,
}

/// A workload that is at home on this node.
#[derive(Debug, Clone, Serialize)]
pub struct Resident {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The address by which the kernel programs know it.
    pub address: IpAddr,
    /// Numbers of its cgroups.
    pub cgroups: Vec<u64>,
    /// Cookies of its network namespaces.
    pub namespaces: Vec<u64>,
}

/// A generation of tables.
#[derive(Debug, Clone, Serialize)]
pub struct Generation {
    /// Grows by one with each configuration.
    pub number: u64,
    /// Services in it.
    pub services: usize,
    /// Endpoints, each counted once for every cluster that it is in.
    pub endpoints: usize,
    /// Routing rules.
    pub rules: usize,
    /// Words of the heap in use.
    pub words_used: u64,
    /// The most that there can be.
    pub words_limit: u64,
    /// When it was put in force, in milliseconds since 1970.
    pub in_force_unix_ms: u64,
    /// How long that took, from reading the files to the switch, in milliseconds.
    pub took_ms: f64,
}
