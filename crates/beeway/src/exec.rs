//! `beeway exec`: runs a command inside the mesh. A process is in the mesh when it is in the
//! mesh's cgroup; nothing else about it changes.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::cli::ExecArgs;

/// Replaces this process by the command; returns only when it cannot.
pub fn exec(args: &ExecArgs) -> Result<ExitCode> {
    crate::run::require_root("beeway exec", "to join the cgroup and enter network namespaces")?;
    // both are opened before anything changes, so that a mistake in one leaves the other undone
    let netns = args.netns.as_deref().map(open_netns).transpose()?;
    join(&args.cgroup)?;
    if let Some((path, file)) = netns {
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the network namespace {}", path.display()))?;
    }
    let (program, rest) = args.command.split_first().context("no command given")?;
    // `exec` also gives the command the default SIGPIPE back, which Rust programs ignore
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("run {}", program.to_string_lossy()))
}

/// Moves this process into the mesh's cgroup.
fn join(cgroup: &Path) -> Result<()> {
    let procs = cgroup.join("cgroup.procs");
    if !procs.exists() {
        bail!(
            "there is no cgroup {}: start the agent with `beeway run --config DIR`, or name its \
             cgroup with --cgroup",
            cgroup.display()
        );
    }
    std::fs::write(&procs, "0").with_context(|| format!("join the cgroup {}", cgroup.display()))
}

/// A bare name is one of `ip netns`; anything with a slash is a path.
fn open_netns(name: &Path) -> Result<(PathBuf, File)> {
    let path = match name.components().count() {
        1 => Path::new("/run/netns").join(name),
        _ => name.to_path_buf(),
    };
    let file = File::open(&path).map_err(|error| {
        anyhow!(
            "there is no network namespace {}: {error} (`ip netns list` names those that are)",
            path.display()
        )
    })?;
    Ok((path, file))
}
