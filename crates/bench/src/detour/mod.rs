//! The detour beside other proxies: requests that lead elsewhere than their connection and get a
//! header more, through Beeway and through an Envoy, an HAProxy and an nginx on the node with the
//! same rules ([`bed`]); HTTP/1.1, and gRPC, by a load generator and by a client library ([`load`]);
//! what each costs, and what memory idle connections take ([`hold`]).

mod bed;
pub mod hold;
mod load;
mod proxies;
pub mod summary;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::bed::Bed;
use crate::cpu::idle_baseline;
use crate::mesh::Lanes;
use crate::results::{Machine, in_lane};
use crate::run::{Plan, REST, observe};
use crate::{check_stop, machine};

/// Who stands between the client and the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Nobody: the client knows the address of the server that the others lead to.
    NoProxy,
    /// Beeway, with the client in the mesh.
    Beeway,
    /// Beeway, with the client and the servers in the mesh.
    BeewayBothEnds,
    /// One Envoy on the node, addressed by the client.
    OneEnvoy,
    /// HAProxy, likewise.
    HaProxy,
    /// nginx, likewise.
    Nginx,
}

impl Way {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 6] = [
        Self::NoProxy,
        Self::Beeway,
        Self::BeewayBothEnds,
        Self::OneEnvoy,
        Self::HaProxy,
        Self::Nginx,
    ];

    /// The name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::NoProxy => "no proxy",
            Self::Beeway => "Beeway detour",
            Self::BeewayBothEnds => "Beeway detour, servers in the mesh too",
            Self::OneEnvoy => "one Envoy",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether the client is in the mesh.
    fn in_mesh(self) -> bool {
        matches!(self, Self::Beeway | Self::BeewayBothEnds)
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// HTTP/1.1 by wrk.
    Http,
    /// gRPC by h2load, with so many calls at once on each connection.
    Grpc(u32),
    /// gRPC by a client library, one call at a time on each connection.
    Library,
}

impl Load {
    /// Who can be asked so.
    fn ways(self) -> Vec<Way> {
        let http = |way: &Way| !matches!(way, Way::HaProxy | Way::Nginx);
        match self {
            Self::Http => Way::ALL.to_vec(),
            Self::Grpc(_) | Self::Library => Way::ALL.into_iter().filter(http).collect(),
        }
    }

    /// What is one request.
    pub fn title(self) -> String {
        match self {
            Self::Http => "HTTP/1.1".to_owned(),
            Self::Grpc(1) => "gRPC, a call at a time on each connection".to_owned(),
            Self::Grpc(streams) => format!("gRPC, {streams} calls at once on each connection"),
            Self::Library => "gRPC, the client library grpcio".to_owned(),
        }
    }
}

/// The shape of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The numbers of connections of the load generators.
    pub connections: Vec<u32>,
    /// The numbers of calls at once on each connection of gRPC.
    pub streams: Vec<u32>,
    /// The numbers of connections of the client library.
    pub library: Vec<u32>,
    /// How many times each cell is measured.
    pub rounds: u32,
    /// Length of one measurement in seconds.
    pub seconds: u32,
    /// The numbers of idle connections.
    pub idle: Vec<u32>,
}

impl Settings {
    /// 3 numbers × (6 ways of HTTP/1.1 + 2 × 4 of gRPC) and 2 × 4 of the library, × 5 rounds × 1 s:
    /// 7 minutes with what lies between.
    pub fn full() -> Self {
        Self {
            connections: vec![1, 16, 64],
            streams: vec![1, 10],
            library: vec![1, 16],
            rounds: 5,
            seconds: 1,
            idle: vec![1000, 10_000],
        }
    }

    /// 2 numbers, 2 rounds: a minute.
    pub fn quick() -> Self {
        let (connections, streams, library) = (vec![1, 64], vec![10], vec![1]);
        Self { connections, streams, library, rounds: 2, idle: vec![1000], ..Self::full() }
    }

    /// What is measured, in order.
    pub fn cells(&self) -> Vec<(Load, u32)> {
        let grpc = self.streams.iter().map(|streams| Load::Grpc(*streams));
        let with = |load: Load| self.connections.iter().map(move |n| (load, *n));
        let library = self.library.iter().map(|n| (Load::Library, *n));
        [Load::Http].into_iter().chain(grpc).flat_map(with).chain(library).collect()
    }
}

/// Everything measured of the detour beside other proxies.
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
    /// Memory of the proxies.
    pub memory: Vec<Memory>,
    /// Who adds the header that the rules ask for, seen by the server.
    pub adds: BTreeSet<Way>,
    /// What did not answer as it should and was left out: one line each.
    pub left_out: Vec<String>,
}

/// One measurement: one run of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Who was in between.
    pub way: Way,
    /// What was sent.
    pub load: Load,
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
    /// Latency percentiles in microseconds.
    pub p50_us: f64,
    /// The 99th.
    pub p99_us: f64,
    /// Errors of sockets, and answers that were not the expected ones.
    pub errors: u64,
    /// CPU time (user and system) of the proxy's processes per request in microseconds.
    pub proxy_cpu_us: f64,
    /// CPU time per request in microseconds: of all processes of the bed, load generator and
    /// servers included, and of the kernel's threads.
    pub cpu_us: f64,
    /// The busy share of the whole machine just before the round, with nothing measured.
    pub idle_busy: f64,
}

/// CPU time of the agent per request in microseconds below which it cannot have passed it on.
const TOUCHED_US: f64 = 1.0;

impl Sample {
    /// Whether the sample measures what it says: a request of HTTP/1.1 takes its lane by the
    /// kernel's counters, a call on a connection that leads to the proxy costs the agent time.
    pub fn proven(&self) -> bool {
        match (self.way.in_mesh(), self.load) {
            (false, _) => self.requests > 0,
            (true, Load::Http) => in_lane(&self.lanes, "detour", self.requests),
            (true, _) => self.requests > 0 && self.proxy_cpu_us >= TOUCHED_US,
        }
    }

    /// The sample and the lanes that it took, for a complaint.
    pub fn describe(&self) -> String {
        format!(
            "{}, {}, {} connections, round {}: {} requests, lanes {:?}, {:.1} µs of the proxy each",
            self.way.title(),
            self.load.title(),
            self.connections,
            self.round,
            self.requests,
            self.lanes,
            self.proxy_cpu_us
        )
    }
}

/// The memory of a proxy that holds idle client connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Whose.
    pub way: Way,
    /// How many connections; each has had one request.
    pub connections: u32,
    /// Proportional set size of all its processes in bytes.
    pub bytes: u64,
}

/// Those whose memory is of interest.
const PROXIES: [Way; 4] = [Way::Beeway, Way::OneEnvoy, Way::HaProxy, Way::Nginx];

/// Builds the beds, measures, and tears the beds down.
pub fn run(plan: &Plan) -> Result<Results> {
    let (started, settings) = (Instant::now(), &plan.detour);
    let beds = [false, true].map(|both| Bed::new(both, plan).context("set up the detour"));
    let [one, both] = beds;
    let beds = Beds { one: one?, both: both? };
    let (adds, left_out) = beds.check(settings)?;
    let skip: BTreeSet<(Way, Load)> = left_out.iter().map(|(way, load, _)| (*way, *load)).collect();
    let memory = measure_memory(&beds, settings)?;
    eprintln!("bench: {:>4} s: memory", started.elapsed().as_secs());
    let mut samples = Vec::new();
    for (load, connections) in settings.cells() {
        let ways: Vec<Way> =
            load.ways().into_iter().filter(|way| !skip.contains(&(*way, load))).collect();
        for round in 0..settings.rounds {
            measure_round(settings, &beds, &ways, (load, connections, round), &mut samples)?;
        }
        let seconds = started.elapsed().as_secs();
        eprintln!("bench: {seconds:>4} s: {}, {connections} connections", load.title());
    }
    Ok(Results {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: machine::describe(plan),
        settings: settings.clone(),
        samples,
        memory,
        adds,
        left_out: left_out.into_iter().map(|(_, _, why)| why).collect(),
    })
}

/// The two beds: with the servers outside of the mesh, and inside.
struct Beds {
    one: Bed,
    both: Bed,
}

/// A way that does not answer rightly to a load, and why.
type LeftOut = (Way, Load, String);

impl Beds {
    fn of(&self, way: Way) -> &Bed {
        if way == Way::BeewayBothEnds { &self.both } else { &self.one }
    }

    /// Who adds the header, and who is left out.
    fn check(&self, settings: &Settings) -> Result<(BTreeSet<Way>, Vec<LeftOut>)> {
        let (mut adds, mut left_out) = (BTreeSet::new(), Vec::new());
        let loads: BTreeSet<Load> = settings.cells().into_iter().map(|(load, _)| load).collect();
        for load in loads {
            for way in load.ways() {
                check_stop()?;
                match self.of(way).check(way, load) {
                    Ok(true) => adds.extend((load == Load::Http).then_some(way)),
                    Ok(false) => {}
                    Err(error) => {
                        let why = format!("{}, {}: {error:#}", way.title(), load.title());
                        eprintln!("bench: LEFT OUT: {why}");
                        left_out.push((way, load, why));
                    }
                }
            }
        }
        Ok((adds, left_out))
    }
}

/// Each way once, starting with another one each round.
fn measure_round(
    settings: &Settings,
    beds: &Beds,
    ways: &[Way],
    (load, connections, round): (Load, u32, u32),
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let idle_busy = idle_baseline(REST)?;
    for way in ways.iter().cycle().skip(round as usize % ways.len().max(1)).take(ways.len()) {
        check_stop()?;
        let bed = beds.of(*way);
        let before = bed.proxy_time(*way)?;
        let run = || bed.load(*way, load, connections, settings.seconds);
        let (report, observed) = observe(bed, run).with_context(|| {
            format!("{}, {}, {connections} connections", way.title(), load.title())
        })?;
        let proxy = bed.proxy_time(*way)?.saturating_sub(before);
        let each = 1e6 / report.requests.max(1) as f64;
        let sample = Sample {
            way: *way,
            load,
            connections,
            round,
            requests: report.requests,
            lanes: observed.lanes,
            rps: report.rps,
            p50_us: report.p50_us,
            p99_us: report.p99_us,
            errors: report.errors + report.non2xx,
            proxy_cpu_us: proxy.as_secs_f64() * each,
            cpu_us: observed.spent.as_secs_f64() * each,
            idle_busy,
        };
        if !sample.proven() {
            eprintln!("bench: INVALID, not by the detour: {}", sample.describe());
        }
        samples.push(sample);
    }
    Ok(())
}

/// With no connection, then with more and more idle ones; before any load, while heaps are small.
fn measure_memory(beds: &Beds, settings: &Settings) -> Result<Vec<Memory>> {
    let mut found = Vec::new();
    for way in PROXIES {
        for connections in [0].iter().chain(&settings.idle) {
            check_stop()?;
            let bytes = beds.of(way).memory(way, *connections).with_context(|| {
                format!("memory of {} with {connections} connections", way.title())
            })?;
            found.push(Memory { way, connections: *connections, bytes });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_connections_is_measured_with_every_load() {
        let cells = Settings::full().cells();
        assert_eq!(cells.len(), 3 + 2 * 3 + 2);
        assert_eq!(cells[..2], [(Load::Http, 1), (Load::Http, 16)]);
        assert!(cells.contains(&(Load::Grpc(10), 64)) && cells.contains(&(Load::Library, 16)));
        assert_eq!(Load::Http.ways().len(), 6);
        assert!(!Load::Library.ways().contains(&Way::Nginx));
    }
}
