//! Follows the configuration directory: every change becomes one new generation.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use beeway_config::{Loaded, Loader, Options, Problem};
use beeway_dataplane::Dataplane;
use beeway_dataplane::generation::{self, Blank};
use beeway_dataplane::tables::{self, Compiler};
use beeway_model::Mesh;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::RunArgs;

/// An editor's save is several events: they are taken together when they come closer than this.
const QUIET: Duration = Duration::from_millis(15);
/// The same after an event that ends a change: a file was closed by who wrote it, or something was
/// renamed to its name. (`..data`, the link that a mounted ConfigMap is switched by, is renamed.)
const SETTLED: Duration = Duration::from_millis(1);
/// But a busy directory is read at the latest after this.
const LATEST: Duration = Duration::from_millis(50);
/// When events have told which files are others, all are looked at after this much quiet: of a file
/// that is a link to elsewhere no event may tell.
const LEISURE: Duration = Duration::from_millis(500);

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
    /// The same as soon as the kernel goes by it.
    settled: watch::Sender<Arc<Mesh>>,
    dataplane: Arc<Dataplane>,
    /// For the next generation.
    blank: Mutex<Option<Blank>>,
    directory: PathBuf,
    /// Another agent may be following: nothing is put in force.
    paused: Mutex<bool>,
}

/// What an event tells of a change in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    /// A file or link is whole. If not, more is likely to follow: a file was made, written to, moved
    /// away or removed.
    ended: bool,
    /// What it is about; empty: that is not known.
    paths: Vec<PathBuf>,
}

/// What may be another in the directory.
#[derive(Debug, PartialEq, Eq)]
enum Changed {
    /// What is at these paths.
    Paths(BTreeSet<PathBuf>),
    Anything,
    /// Nothing, as far as events tell.
    Untold,
}

impl Changed {
    fn add(&mut self, change: Change) {
        match self {
            Changed::Paths(paths) if !change.paths.is_empty() => paths.extend(change.paths),
            _ => *self = Changed::Anything,
        }
    }
}

impl Follower {
    /// Puts the directory in force as it is now, then follows it on a thread of its own.
    pub(crate) fn start(args: &RunArgs, dataplane: Arc<Dataplane>) -> Result<Arc<Follower>> {
        let follower = Arc::new(Follower {
            state: Mutex::default(),
            mesh: watch::Sender::new(Arc::new(Mesh::default())),
            settled: watch::Sender::new(Arc::new(Mesh::default())),
            blank: Mutex::default(),
            dataplane,
            loader: Mutex::new(Loader::new(Options { node: args.node.clone() })),
            compiler: Mutex::default(),
            directory: args.config.clone(),
            paused: Mutex::default(),
        });
        let (send, changes) = channel();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if let Some(change) = change(event) {
                    let _ = send.send(change);
                }
            })
            .context("start watching files")?;
        watcher
            .watch(&args.config, RecursiveMode::Recursive)
            .with_context(|| format!("watch {}", args.config.display()))?;
        follower.apply(&Changed::Anything).with_context(|| {
            format!("put the configuration in {} in force", args.config.display())
        })?;
        let on_thread = follower.clone();
        std::thread::Builder::new().name("configuration".into()).spawn(move || {
            let _watcher = watcher;
            let mut leisure = None;
            while let Some(changed) = wait_for_change(&changes, leisure) {
                leisure = matches!(changed, Changed::Paths(_)).then_some(LEISURE);
                let paused = on_thread.paused.lock().expect("no panic while locked");
                if !*paused {
                    on_thread.follow(&changed);
                }
            }
        })?;
        Ok(follower)
    }

    /// While it is paused nothing is put in force, from when this returns. Then what has changed is.
    pub(crate) fn pause(&self, pause: bool) {
        let mut paused = self.paused.lock().expect("no panic while locked");
        if std::mem::replace(&mut *paused, pause) && !pause {
            self.follow(&Changed::Anything);
        }
    }

    fn follow(&self, changed: &Changed) {
        if let Err(error) = self.apply(changed) {
            tracing::error!("{error:#}; the configuration before it stays in force");
        }
    }

    /// The mesh, always the newest.
    pub(crate) fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.subscribe()
    }

    /// The mesh that the kernel goes by: for what need not be done before it does.
    pub(crate) fn settled(&self) -> watch::Receiver<Arc<Mesh>> {
        self.settled.subscribe()
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().expect("no panic while locked").clone()
    }

    fn apply(&self, changed: &Changed) -> Result<()> {
        if *changed == Changed::Untold && self.state().rejected.is_some() {
            // it is tried again when something happens
            return Ok(());
        }
        let begun = Instant::now();
        let done = self.read(changed).and_then(|loaded| match loaded {
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
    fn read(&self, changed: &Changed) -> Result<Option<Loaded>> {
        let state = self.state();
        let refused = state.in_force.is_none() || state.rejected.is_some();
        let mut loader = self.loader.lock().expect("no panic while locked");
        let directory = &self.directory;
        let read = match changed {
            Changed::Paths(paths) if !refused => loader.load_changed(directory, paths),
            _ => loader.load_dir(directory, refused),
        };
        read.with_context(|| format!("read {}", directory.display()))
    }

    /// An empty map for a generation.
    fn blank(&self) -> Result<Blank> {
        let kept = self.blank.lock().expect("no panic while locked").take();
        Ok(kept.map_or_else(generation::blank, Ok)?)
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
        let filled = generation::fill(self.blank()?, &tables)?;
        // Right before the kernel: nothing routes by two generations, but for an instant detours
        // may be ahead of the kernel. A detour of the old generation is routed by the new mesh.
        let mesh = Arc::new(mesh);
        let before = self.mesh.send_replace(mesh.clone());
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
        drop(state);
        self.settled.send_replace(mesh);
        // the kernel's memory may suffice later
        *self.blank.lock().expect("no panic while locked") = generation::blank().ok();
        Ok(())
    }
}

/// What an event says; `None`: nothing has changed. Reading a file is an event too.
fn change(event: notify::Result<Event>) -> Option<Change> {
    let Ok(event) = event else { return Some(Change { ended: false, paths: Vec::new() }) };
    let ended = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => true,
        EventKind::Access(_) => return None,
        _ => false,
    };
    Some(Change { ended, paths: event.paths })
}

/// Waits for a change and for the quiet after it, with `leisure` no longer than that; `None` when
/// nobody watches any more.
fn wait_for_change(changes: &Receiver<Change>, leisure: Option<Duration>) -> Option<Changed> {
    let first = match leisure {
        None => changes.recv().ok()?,
        Some(leisure) => match changes.recv_timeout(leisure) {
            Ok(change) => change,
            Err(RecvTimeoutError::Timeout) => return Some(Changed::Untold),
            Err(RecvTimeoutError::Disconnected) => return None,
        },
    };
    let latest = Instant::now() + LATEST;
    let mut ended = first.ended;
    let mut changed = Changed::Paths(BTreeSet::new());
    changed.add(first);
    loop {
        let left = latest.saturating_duration_since(Instant::now());
        let quiet = if ended { SETTLED } else { QUIET };
        match changes.recv_timeout(quiet.min(left)) {
            Ok(change) => {
                ended = change.ended;
                changed.add(change);
                if Instant::now() >= latest {
                    return Some(changed);
                }
            }
            Err(RecvTimeoutError::Timeout) => return Some(changed),
            Err(RecvTimeoutError::Disconnected) => return None,
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

    const BEGUN: Change = Change { ended: false, paths: Vec::new() };
    const ENDED: Change = Change { ended: true, paths: Vec::new() };

    /// How long is waited after these changes, each sent when the one before it is taken.
    fn waited(script: impl FnOnce(Sender<Change>) + Send + 'static) -> Duration {
        let (send, changes) = channel();
        let script = thread::spawn(move || script(send));
        let begun = Instant::now();
        assert_eq!(wait_for_change(&changes, None), Some(Changed::Anything));
        let waited = begun.elapsed();
        drop(changes);
        script.join().unwrap();
        waited
    }

    #[test]
    fn the_end_of_a_change_is_not_waited_on_for_long() {
        let hold = |_send: Sender<Change>| thread::sleep(LATEST * 2);
        let begun = waited(move |send| {
            send.send(BEGUN).unwrap();
            hold(send);
        });
        assert!(begun >= QUIET, "{begun:?}");
        let ended = waited(move |send| {
            send.send(BEGUN).unwrap();
            send.send(ENDED).unwrap();
            hold(send);
        });
        assert!(ended >= SETTLED, "{ended:?}");
        // comes back although changes do not end
        waited(|send| while send.send(ENDED).is_ok() {});
    }

    #[test]
    fn what_events_do_not_tell_is_looked_at_at_leisure() {
        let (send, changes) = channel();
        let of = |path: &str| Change { ended: true, paths: vec![path.into()] };
        let wait = |leisure| wait_for_change(&changes, leisure).unwrap();
        for path in ["a", "b", "a"] {
            send.send(of(path)).unwrap();
        }
        let paths = |paths: &[&str]| Changed::Paths(paths.iter().map(PathBuf::from).collect());
        assert_eq!(wait(None), paths(&["a", "b"]));
        assert_eq!(wait(Some(Duration::ZERO)), Changed::Untold);
        send.send(of("c")).unwrap();
        assert_eq!(wait(Some(LEISURE)), paths(&["c"]));
        for change in [of("c"), ENDED, of("c")] {
            send.send(change).unwrap();
        }
        assert_eq!(wait(None), Changed::Anything);
    }

    #[test]
    fn reading_is_no_change() {
        use notify::event::{CreateKind, DataChange, RemoveKind};
        let told = |kind| change(Ok(Event::new(kind).add_path("x".into())));
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert_eq!(told(read), None);
        let paths = vec![PathBuf::from("x")];
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        for ended in [written, renamed] {
            assert_eq!(told(ended), Some(Change { ended: true, paths: paths.clone() }));
        }
        for begun in [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            EventKind::Remove(RemoveKind::File),
        ] {
            assert_eq!(told(begun), Some(Change { ended: false, paths: paths.clone() }));
        }
        let lost = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(change(Ok(lost)), Some(BEGUN));
        assert_eq!(change(Err(notify::Error::generic("x"))), Some(BEGUN));
    }
}
