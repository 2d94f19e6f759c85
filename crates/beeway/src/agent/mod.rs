//! The node agent: owns the kernel programs, follows the configuration, serves the detour.
//!
//! Configuration → [`Mesh`](beeway_model::Mesh) → tables → kernel maps, and the same mesh to the
//! userspace proxy. Nothing flows back but counters.

mod access_log;
mod admin;
mod api;
mod buckets;
mod configuration;
mod dashboard;
mod detour;
mod divert;
mod forbidden;
mod handover;
mod homes;
mod limited;
mod listen;
mod metrics;
mod outlets;
#[cfg(test)]
mod sample;
mod socket;
mod subjects;
mod telemetry;
mod traces;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use beeway_dataplane::{Dataplane, StateLock, Telling};

use configuration::Follower;
use detour::Detour;
use homes::Homes;
use limited::Room;
use outlets::Outlets;
use telemetry::Telemetry;

pub use access_log::{LogFormat, LogSettings};
pub use traces::{Endpoint, TraceSettings};

use crate::status::{admin_socket, api_socket, pid_file};

/// What `beeway run` was asked to do.
#[derive(Debug, Clone)]
pub struct RunArgs {
    /// Directory of YAML files.
    pub config: PathBuf,
    /// cgroup v2 directory whose processes are in the mesh; made when it is not there.
    pub cgroup: PathBuf,
    /// Directory for pins, the lock and the admin socket.
    pub state: PathBuf,
    /// Where metrics are served.
    pub metrics: SocketAddr,
    /// Where requests are logged, and how.
    pub access_log: LogSettings,
    /// Never let bytes skip TCP.
    pub no_shortcut: bool,
    /// Count and tell nothing of traffic.
    pub no_telemetry: bool,
    /// Do not ask the kernel to tell what happens to cgroups.
    pub no_tracing: bool,
    /// Where clients are led whose connections the proxy takes as a whole: at most one address of
    /// each family. Empty: found out.
    pub detour_addresses: Vec<SocketAddr>,
    /// How long an agent that has handed over goes on with what it had begun.
    pub drain: Duration,
    /// This node's name in the configuration.
    pub node: Option<String>,
    /// Where the dashboard is served.
    pub dashboard: Option<SocketAddr>,
    /// Where spans go, and of how many requests.
    pub traces: TraceSettings,
}

/// What all parts of the running agent see.
pub(crate) struct Agent {
    pub(crate) args: RunArgs,
    pub(crate) started: SystemTime,
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) follower: Arc<Follower>,
    pub(crate) homes: Homes,
    pub(crate) detour: Arc<Detour>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) outlets: Outlets,
    rooms: Rooms,
    /// Taken while this agent has the state directory, and serves metrics.
    lock: Mutex<Option<StateLock>>,
    metrics: Mutex<Option<metrics::Server>>,
    dashboard: Mutex<Option<dashboard::Server>>,
    /// No agent before this one has anything left to end.
    alone: AtomicBool,
    /// Another agent has the node now.
    relieved: AtomicBool,
}

/// The places for connections to the agent's own ports.
struct Rooms {
    metrics: Arc<Room>,
    dashboard: Arc<Room>,
}

/// Runs until SIGTERM or SIGINT, or until another agent has taken over. The kernel programs stay
/// attached then: native and shortcut traffic goes on, and the next agent takes over. `beeway off`
/// removes them.
pub fn run(args: RunArgs) -> Result<()> {
    let stop = Signals::block()?;
    std::fs::create_dir_all(&args.state)
        .with_context(|| format!("create the state directory {}", args.state.display()))?;
    std::fs::create_dir_all(&args.cgroup)
        .with_context(|| format!("create the cgroup {}", args.cgroup.display()))?;
    let (lock, predecessor) = handover::claim(&args.state)?;
    let agent = Arc::new(Agent::start(args, lock, predecessor.is_some())?);
    let line = predecessor.as_ref().map(handover::Predecessor::line).transpose()?;
    agent.detour.hear(line, agent.telemetry.clone())?;
    let metrics = agent.serve_metrics()?;
    agent.serve_dashboard()?;
    admin::serve(agent.clone())?;
    api::serve(agent.clone())?;
    handover::serve(agent.clone())?;
    if let Some(predecessor) = predecessor {
        predecessor.relieve(agent.clone())?;
    }
    tracing::info!(
        cgroup = %agent.args.cgroup.display(),
        %metrics,
        adopted = agent.dataplane.adopted(),
        "in force"
    );
    println!("ready");
    notify_systemd(&[
        sd_notify::NotifyState::MainPid(std::process::id()),
        sd_notify::NotifyState::Ready,
    ]);
    stop.wait(|| agent.outlets.access_log.reopen());
    if agent.relieved.load(Ordering::Acquire) {
        tracing::info!("another agent has taken over");
        agent.detour.end();
        agent.telemetry.stop();
        agent.outlets.stop();
        return Ok(());
    }
    notify_systemd(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; the kernel programs stay attached (`beeway off` removes them)");
    agent.detour.stop();
    agent.telemetry.stop();
    drop(agent.dashboard.lock().expect("no panic while locked").take());
    agent.outlets.stop();
    let _ = std::fs::remove_file(pid_file(&agent.args.state));
    let _ = std::fs::remove_file(api_socket(&agent.args.state));
    let _ = std::fs::remove_file(admin_socket(&agent.args.state));
    Ok(())
}

impl Agent {
    /// Everything that must be there before an agent that hands over may end.
    fn start(args: RunArgs, lock: StateLock, beside: bool) -> Result<Agent> {
        let dataplane = Arc::new(Dataplane::start(&beeway_dataplane::Options {
            cgroup: args.cgroup.clone(),
            state: args.state.clone(),
            shortcut: !args.no_shortcut,
            telling: match args.access_log.file {
                _ if args.no_telemetry => Telling::Off,
                Some(_) => Telling::All,
                None => Telling::Some(telemetry::TOLD),
            },
            beside,
        })?);
        let follower = Follower::start(&args, dataplane.clone())?;
        let homes = Homes::start(&args, dataplane.clone(), follower.settled())?;
        let (log, traces) = (args.access_log.clone(), args.traces.clone());
        let outlets = Outlets::open(log, traces, &follower.mesh(), teller(&args, &dataplane))?;
        let (telemetry, witness) =
            Telemetry::start(dataplane.clone(), &args.state, follower.mesh(), outlets.clone())?;
        let mesh = follower.mesh();
        let detour = Arc::new(Detour::start(dataplane.clone(), mesh, Some(witness), beside)?);
        listen::start(&args, &detour, follower.settled())?;
        buckets::start(&dataplane)?;
        write_pid(&args.state)?;
        Ok(Agent {
            args,
            started: SystemTime::now(),
            dataplane,
            follower,
            homes,
            detour,
            telemetry,
            outlets,
            rooms: Rooms { metrics: metrics::room(), dashboard: dashboard::room() },
            lock: Mutex::new(Some(lock)),
            metrics: Mutex::default(),
            dashboard: Mutex::default(),
            alone: AtomicBool::new(!beside),
            relieved: AtomicBool::new(false),
        })
    }

    /// This node's name.
    fn node(&self) -> Arc<str> {
        self.args.node.as_deref().unwrap_or_default().into()
    }

    fn serve_metrics(self: &Arc<Agent>) -> Result<SocketAddr> {
        let server = metrics::serve(self.clone())?;
        let address = server.address;
        *self.metrics.lock().expect("no panic while locked") = Some(server);
        Ok(address)
    }

    fn serve_dashboard(self: &Arc<Agent>) -> Result<()> {
        let server = dashboard::serve(self.clone())?;
        *self.dashboard.lock().expect("no panic while locked") = server;
        Ok(())
    }

    /// Leaves to another agent what only one can have. Requests are still served.
    fn let_go(&self) {
        self.follower.pause(true);
        self.homes.pause(true);
        self.detour.stop_hearing();
        if let Err(error) = self.telemetry.rest(&self.args.state, true) {
            tracing::warn!("what was counted is not written down: {error:#}");
        }
        drop(self.metrics.lock().expect("no panic while locked").take());
        drop(self.dashboard.lock().expect("no panic while locked").take());
        drop(self.lock.lock().expect("no panic while locked").take());
    }

    /// Takes it back.
    fn resume(self: &Arc<Agent>) -> Result<()> {
        let lock = StateLock::take(&self.args.state)?;
        *self.lock.lock().expect("no panic while locked") = Some(lock);
        self.detour.reopen()?;
        self.detour.hear(None, self.telemetry.clone())?;
        self.follower.pause(false);
        self.homes.pause(false);
        self.telemetry.rest(&self.args.state, false)?;
        write_pid(&self.args.state)?;
        self.serve_metrics()?;
        self.serve_dashboard()
    }
}

/// Has the kernel tell of all requests, or of some.
fn teller(args: &RunArgs, dataplane: &Arc<Dataplane>) -> impl Fn(bool) + Send + 'static {
    let (dataplane, silent) = (dataplane.clone(), args.no_telemetry);
    move |all| {
        let telling = if all { Telling::All } else { Telling::Some(telemetry::TOLD) };
        if let Err(error) = if silent { Ok(()) } else { dataplane.tell(telling) } {
            tracing::error!(%error, "the kernel could not be told how much to tell");
        }
    }
}

fn write_pid(state: &Path) -> Result<()> {
    let path = pid_file(state);
    std::fs::write(&path, format!("{}\n", std::process::id()))
        .with_context(|| format!("write {}", path.display()))
}

fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// SIGTERM, SIGINT and SIGHUP, taken synchronously.
struct Signals(nix::sys::signal::SigSet);

impl Signals {
    /// Must be called before threads start, so that they inherit the mask.
    fn block() -> Result<Signals> {
        use nix::sys::signal::{SigSet, Signal};
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.add(Signal::SIGHUP);
        set.thread_block().context("block signals")?;
        Ok(Signals(set))
    }

    /// Waits until the process shall end; SIGHUP (logrotate sends it) is another matter.
    fn wait(&self, hung_up: impl Fn()) {
        use nix::sys::signal::Signal;
        loop {
            match self.0.wait() {
                Ok(Signal::SIGHUP) => hung_up(),
                Ok(_) => return,
                // EINTR; a signal that cannot be waited for would spin without this
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}
