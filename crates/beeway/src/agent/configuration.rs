//! Follows the configuration directory: every change becomes one new generation.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use beeway_config::{Loaded, Options, Problem};
use beeway_dataplane::{Dataplane, tables};
use beeway_model::Mesh;
use notify::{RecursiveMode, Watcher};
use tokio::sync::watch;

use super::RunArgs;

/// An editor's save is several events: they are taken together when they come closer than this.
const QUIET: Duration = Duration::from_millis(15);
/// But a busy directory is read at the latest after this.
const LATEST: Duration = Duration::from_millis(50);

/// The generation in force.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    /// Its number: one more than the last one's, over restarts of the agent too.
    pub(crate) number: u64,
    /// What is in it.
    pub(crate) counts: tables::Counts,
    /// Words of the tables' heap.
    pub(crate) words_used: u64,
    pub(crate) words_limit: u64,
    /// Since when.
    pub(crate) since: SystemTime,
    /// From reading the files to the switch.
    pub(crate) took: Duration,
}

/// What is known of the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) in_force: Option<InForce>,
    /// Of the files as last read, whether or not they are in force.
    pub(crate) problems: Vec<Problem>,
    /// Why the files as last read are not in force.
    pub(crate) rejected: Option<String>,
    /// Generations that were put in force, and that were refused.
    pub(crate) applied: u64,
    pub(crate) refused: u64,
}

/// Keeps the kernel and the proxy at the newest configuration.
pub(crate) struct Follower {
    state: Mutex<State>,
    mesh: watch::Sender<Arc<Mesh>>,
    dataplane: Arc<Dataplane>,
    options: Options,
}

impl Follower {
    /// Puts the directory in force as it is now, then follows it on a thread of its own.
    pub(crate) fn start(args: &RunArgs, dataplane: Arc<Dataplane>) -> Result<Arc<Follower>> {
        let follower = Arc::new(Follower {
            state: Mutex::default(),
            mesh: watch::Sender::new(Arc::new(Mesh::default())),
            dataplane,
            options: Options { node: args.node.clone() },
        });
        let (send, changes) = channel();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // reading a file is an event too
                if !event.is_ok_and(|event| event.kind.is_access()) {
                    let _ = send.send(());
                }
            })
            .context("start watching files")?;
        watcher
            .watch(&args.config, RecursiveMode::Recursive)
            .with_context(|| format!("watch {}", args.config.display()))?;
        follower.apply(&args.config).with_context(|| {
            format!("put the configuration in {} in force", args.config.display())
        })?;
        let (on_thread, directory) = (follower.clone(), args.config.clone());
        std::thread::Builder::new().name("configuration".into()).spawn(move || {
            let _watcher = watcher;
            while wait_for_change(&changes) {
                if let Err(error) = on_thread.apply(&directory) {
                    tracing::error!("{error:#}; the configuration before it stays in force");
                }
            }
        })?;
        Ok(follower)
    }

    /// The mesh, always the newest.
    pub(crate) fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.subscribe()
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().expect("no panic while locked").clone()
    }

    fn apply(&self, directory: &Path) -> Result<()> {
        let begun = Instant::now();
        let loaded = beeway_config::load_dir(directory, &self.options)
            .with_context(|| format!("read {}", directory.display()));
        let done = loaded.and_then(|loaded| self.put_in_force(loaded, begun));
        let mut state = self.state.lock().expect("no panic while locked");
        match &done {
            Ok(()) => state.rejected = None,
            Err(error) => {
                state.rejected = Some(format!("{error:#}"));
                state.refused += 1;
            }
        }
        done
    }

    fn put_in_force(&self, loaded: Loaded, begun: Instant) -> Result<()> {
        let number = self.dataplane.generation()? + 1;
        let Loaded { mesh, mut problems } = loaded;
        let compiled = tables::compile(&mesh, number);
        if let Ok(tables) = &compiled {
            problems.extend(tables.notices().iter().map(crate::check::notice_problem));
        }
        log_problems(&problems);
        self.state.lock().expect("no panic while locked").problems = problems;
        let tables = compiled?;
        self.dataplane.publish(&tables)?;
        let in_force = InForce {
            number,
            counts: tables.counts(),
            words_used: tables.used_words() as u64,
            words_limit: tables::Tables::limit_words() as u64,
            since: SystemTime::now(),
            took: begun.elapsed(),
        };
        tracing::info!(
            generation = number,
            services = in_force.counts.services,
            rules = in_force.counts.rules,
            took = ?in_force.took,
            "configuration in force"
        );
        // after the kernel: a detour of the old generation may be routed by the old mesh
        self.mesh.send_replace(Arc::new(mesh));
        let mut state = self.state.lock().expect("no panic while locked");
        state.in_force = Some(in_force);
        state.applied += 1;
        Ok(())
    }
}

/// Waits for a change and for the quiet after it; false when nobody watches any more.
fn wait_for_change(changes: &Receiver<()>) -> bool {
    if changes.recv().is_err() {
        return false;
    }
    let latest = Instant::now() + LATEST;
    loop {
        let left = latest.saturating_duration_since(Instant::now());
        match changes.recv_timeout(QUIET.min(left)) {
            Ok(()) if Instant::now() < latest => {}
            Ok(()) | Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn log_problems(problems: &[Problem]) {
    for problem in problems {
        match problem.severity {
            beeway_config::Severity::Error => tracing::error!("{problem}"),
            beeway_config::Severity::Warning => tracing::warn!("{problem}"),
            beeway_config::Severity::Notice => tracing::info!("{problem}"),
        }
    }
}
