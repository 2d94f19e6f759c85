//! Who calls: keeps the kernel's record of the cgroups and network namespaces in which the
//! configuration's workloads run.
//!
//! All cgroups of the mesh are looked at when the agent starts, and when the configuration changes;
//! one of them when something happens to it or to a process in it, as the kernel tells
//! ([`Watch`]). What nobody tells (a process that enters a namespace and goes on with its program,
//! a namespace that goes) is seen when all are looked at again, every [`PERIOD`].

mod index;
mod keeper;
mod survey;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use beeway_dataplane::Dataplane;
use beeway_dataplane::homes::Watch;
use beeway_model::Mesh;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::RunArgs;
use crate::status::HomesStatus;
use keeper::Keeper;

/// All cgroups are looked at again after this.
const PERIOD: Duration = Duration::from_secs(10);
/// The same where the kernel does not tell what happens to them.
const BLIND_PERIOD: Duration = Duration::from_millis(500);
/// How long the thread that hears of it sleeps at the most.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Who is at home where, kept up to date.
pub(crate) struct Homes(Arc<Mutex<Keeper>>);

impl Homes {
    /// Looks at all cgroups of the mesh, and follows what happens to them from then on.
    pub(crate) fn start(
        args: &RunArgs,
        dataplane: Arc<Dataplane>,
        mut mesh: watch::Receiver<Arc<Mesh>>,
    ) -> Result<Homes> {
        let mut keeper = Keeper::new(args, dataplane)?;
        // before all are looked at, so that nothing is missed
        let source = match args.no_tracing {
            false => Source::of_kernel(keeper.top()),
            true => None,
        };
        let source = match source {
            Some(source) => source,
            None => {
                keeper.blind();
                Source::Directory(look_out(keeper.top())?)
            }
        };
        keeper.configure(&mesh.borrow_and_update().clone());
        let keeper = Arc::new(Mutex::new(keeper));
        let homes = Homes(keeper.clone());
        let spawn = |name: &str| std::thread::Builder::new().name(name.into());
        let on_thread = keeper.clone();
        spawn("homes").spawn(move || source.follow(&on_thread))?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        spawn("homes-mesh").spawn(move || {
            runtime.block_on(async move {
                while mesh.changed().await.is_ok() {
                    let newest = mesh.borrow_and_update().clone();
                    lock(&keeper).configure(&newest);
                }
            });
        })?;
        Ok(homes)
    }

    /// While it is paused nothing is written, from when this returns: another agent does.
    pub(crate) fn pause(&self, pause: bool) {
        lock(&self.0).pause(pause);
    }

    pub(crate) fn status(&self) -> HomesStatus {
        lock(&self.0).status()
    }
}

fn lock(keeper: &Mutex<Keeper>) -> MutexGuard<'_, Keeper> {
    keeper.lock().expect("no panic while locked")
}

/// What tells that something has happened.
enum Source {
    Kernel(Watch),
    Directory((RecommendedWatcher, Receiver<()>)),
}

impl Source {
    fn of_kernel(top: &Path) -> Option<Source> {
        let watch = Watch::start(top).inspect_err(|error| {
            tracing::warn!(
                "{error}: new processes are found by looking at all cgroups, every {BLIND_PERIOD:?} \
                 (`beeway doctor` tells what is missing)"
            );
        });
        watch.ok().map(Source::Kernel)
    }

    fn follow(self, keeper: &Mutex<Keeper>) {
        match self {
            Source::Kernel(watch) => loop {
                let stirs = watch.wait(HEARTBEAT).unwrap_or_else(|error| {
                    tracing::error!(%error, "what happens to cgroups goes unheard");
                    std::thread::sleep(HEARTBEAT);
                    Vec::new()
                });
                lock(keeper).hear(&stirs, watch.lost());
            },
            Source::Directory((_watcher, changes)) => loop {
                if changes.recv_timeout(BLIND_PERIOD) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
                lock(keeper).survey();
            },
        }
    }
}

/// Hears of cgroups that are made and removed, but not of processes.
fn look_out(top: &Path) -> Result<(RecommendedWatcher, Receiver<()>)> {
    let (send, changes) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_remove()) {
            let _ = send.send(());
        }
    })
    .context("start watching cgroups")?;
    watcher.watch(top, RecursiveMode::Recursive).context("watch the cgroups of the mesh")?;
    Ok((watcher, changes))
}
