//! Follows the configuration directory: every change becomes one new generation.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use beeway_config::{Loaded, Loader, Options, Problem};
use beeway_dataplane::tables::{self, Compiler};
use beeway_dataplane::{Dataplane, generation};
use beeway_model::Mesh;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher};
use tokio::sync::watch;

use super::RunArgs;

/// An editor's save is several events: they are taken together when they come closer than this.
const QUIET: Duration = Duration::from_millis(15);
/// The same after an event that ends a change: a file was closed by who wrote it, or something was
/// renamed to its name. (`..data`, the link that a mounted ConfigMap is switched by, is renamed.)
const SETTLED: Duration = Duration::from_millis(2);
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
    loader: Mutex<Loader>,
    compiler: Mutex<Compiler>,
    mesh: watch::Sender<Arc<Mesh>>,
    dataplane: Arc<Dataplane>,
    directory: PathBuf,
    /// Another agent may be following: nothing is put in force.
    paused: Mutex<bool>,
}

/// What is known of a change in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// More is likely to follow: a file was made, written to, moved away or removed.
    Begun,
    /// A file or link is whole.
    Ended,
}

impl Follower {
    /// Puts the directory in force as it is now, then follows it on a thread of its own.
    pub(crate) fn start(args: &RunArgs, dataplane: Arc<Dataplane>) -> Result<Arc<Follower>> {
        let follower = Arc::new(Follower {
            state: Mutex::default(),
            mesh: watch::Sender::new(Arc::new(Mesh::default())),
            dataplane,
            loader: Mutex::new(Loader::new(Options { node: args.node.clone() })),
            compiler: Mutex::default(),
            directory: args.config.clone(),
            paused: Mutex::default(),
        });
        let (send, changes) = channel();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if let Some(change) = change(event.map(|event| event.kind)) {
                    let _ = send.send(change);
                }
            })
            .context("start watching files")?;
        watcher
            .watch(&args.config, RecursiveMode::Recursive)
            .with_context(|| format!("watch {}", args.config.display()))?;
        follower.apply().with_context(|| {
            format!("put the configuration in {} in force", args.config.display())
        })?;
        let on_thread = follower.clone();
        std::thread::Builder::new().name("configuration".into()).spawn(move || {
            let _watcher = watcher;
            while wait_for_change(&changes) {
                let paused = on_thread.paused.lock().expect("no panic while locked");
                if !*paused {
                    on_thread.follow();
                }
            }
        })?;
        Ok(follower)
    }

    /// While it is paused nothing is put in force, from when this returns. Then what has changed is.
    pub(crate) fn pause(&self, pause: bool) {
        let mut paused = self.paused.lock().expect("no panic while locked");
        if std::mem::replace(&mut *paused, pause) && !pause {
            self.follow();
        }
    }

    fn follow(&self) {
        if let Err(error) = self.apply() {
            tracing::error!("{error:#}; the configuration before it stays in force");
        }
    }

    /// The mesh, always the newest.
    pub(crate) fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.subscribe()
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().expect("no panic while locked").clone()
    }

    fn apply(&self) -> Result<()> {
        let begun = Instant::now();
        let done = self.read(&self.directory).and_then(|loaded| match loaded {
            Some(loaded) => self.put_in_force(loaded, begun),
            None => Ok(()),
        });
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

    /// `None`: the files are those that are in force. An event does not mean a change of them.
    fn read(&self, directory: &Path) -> Result<Option<Loaded>> {
        let state = self.state();
        let refused = state.in_force.is_none() || state.rejected.is_some();
        let mut loader = self.loader.lock().expect("no panic while locked");
        loader.load_dir(directory, refused).with_context(|| format!("read {}", directory.display()))
    }

    fn put_in_force(&self, loaded: Loaded, begun: Instant) -> Result<()> {
        let number = self.dataplane.generation()? + 1;
        let Loaded { mesh, mut problems } = loaded;
        let read = begun.elapsed();
        let mut compiler = self.compiler.lock().expect("no panic while locked");
        let compiled = compiler.compile(&mesh, number);
        drop(compiler);
        tracing::debug!(?read, compiled = ?begun.elapsed() - read, "tables are made");
        if let Ok(tables) = &compiled {
            problems.extend(tables.notices().iter().map(crate::check::notice_problem));
        }
        let mut state = self.state.lock().expect("no panic while locked");
        let before = std::mem::replace(&mut state.problems, problems.clone());
        drop(state);
        log_new(&problems, &before);
        let tables = compiled?;
        let filled = generation::fill(&tables)?;
        // Right before the kernel: nothing routes by two generations, but for an instant detours
        // may be ahead of the kernel. A detour of the old generation is routed by the new mesh.
        let before = self.mesh.send_replace(Arc::new(mesh));
        if let Err(error) = self.dataplane.switch(filled) {
            self.mesh.send_replace(before);
            return Err(error.into());
        }
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
        let mut state = self.state.lock().expect("no panic while locked");
        state.in_force = Some(in_force);
        state.applied += 1;
        Ok(())
    }
}

/// What an event says; `None`: nothing has changed. Reading a file is an event too.
fn change(event: notify::Result<EventKind>) -> Option<Change> {
    match event {
        Ok(EventKind::Access(AccessKind::Close(AccessMode::Write)))
        | Ok(EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))) => {
            Some(Change::Ended)
        }
        Ok(EventKind::Access(_)) => None,
        Ok(_) | Err(_) => Some(Change::Begun),
    }
}

/// Waits for a change and for the quiet after it; false when nobody watches any more.
fn wait_for_change(changes: &Receiver<Change>) -> bool {
    let Ok(mut last) = changes.recv() else { return false };
    let latest = Instant::now() + LATEST;
    loop {
        let left = latest.saturating_duration_since(Instant::now());
        let quiet = if last == Change::Ended { SETTLED } else { QUIET };
        match changes.recv_timeout(quiet.min(left)) {
            Ok(change) if Instant::now() < latest => last = change,
            Ok(_) | Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Logs what was not among the problems of the configuration before.
fn log_new(problems: &[Problem], before: &[Problem]) {
    let before: HashSet<&Problem> = before.iter().collect();
    for problem in problems.iter().filter(|problem| !before.contains(problem)) {
        match problem.severity {
            beeway_config::Severity::Error => tracing::error!("{problem}"),
            beeway_config::Severity::Warning => tracing::warn!("{problem}"),
            beeway_config::Severity::Notice => tracing::info!("{problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::thread;

    use super::*;

    /// How long is waited after these changes, each sent when the one before it is taken.
    fn waited(script: impl FnOnce(Sender<Change>) + Send + 'static) -> Duration {
        let (send, changes) = channel();
        let script = thread::spawn(move || script(send));
        let begun = Instant::now();
        assert!(wait_for_change(&changes));
        let waited = begun.elapsed();
        drop(changes);
        script.join().unwrap();
        waited
    }

    #[test]
    fn the_end_of_a_change_is_not_waited_on_for_long() {
        let hold = |_send: Sender<Change>| thread::sleep(LATEST * 2);
        let begun = waited(move |send| {
            send.send(Change::Begun).unwrap();
            hold(send);
        });
        assert!(begun >= QUIET, "{begun:?}");
        let ended = waited(move |send| {
            send.send(Change::Begun).unwrap();
            send.send(Change::Ended).unwrap();
            hold(send);
        });
        assert!(ended >= SETTLED, "{ended:?}");
        // comes back although changes do not end
        waited(|send| while send.send(Change::Ended).is_ok() {});
    }

    #[test]
    fn reading_is_no_change() {
        use notify::event::{CreateKind, DataChange, RemoveKind};
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert_eq!(change(Ok(read)), None);
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        for ended in [written, renamed] {
            assert_eq!(change(Ok(ended)), Some(Change::Ended), "{ended:?}");
        }
        for begun in [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            EventKind::Remove(RemoveKind::File),
        ] {
            assert_eq!(change(Ok(begun)), Some(Change::Begun), "{begun:?}");
        }
    }
}
