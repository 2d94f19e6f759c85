//! Named network namespaces, as `ip netns` makes them, and threads that enter them.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// The directory in which `ip netns` keeps its namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A named network namespace, removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes `/run/netns/<name>` with `lo` up, and IPv6 addresses usable at once.
    pub(crate) fn create(name: &str) -> Result<Self> {
        // Not part of an `ip -batch`: within one, iproute2 6.1 loses its way between namespaces.
        run("ip", &["netns", "add", name], "")?;
        let path = PathBuf::from(DIRECTORY).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()));
        let netns = match file {
            Ok(file) => Self { name: name.to_owned(), file: Arc::new(file) },
            Err(error) => {
                remove(name);
                return Err(error);
            }
        };
        netns.run(|| -> Result<()> {
            for (key, value) in [
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                // Duplicate address detection would keep an address unusable for a second.
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
            ] {
                write_sysctl(key, value)?;
            }
            Ok(())
        })??;
        Ok(netns)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path, `/run/netns/<name>`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    /// The namespace itself; valid for `setns` as long as it is held.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Runs `work` on a new thread that has entered this namespace, and hands back its answer.
    ///
    /// Sockets opened there belong to the namespace wherever they are used later. The thread
    /// stays in the cgroup of the test process: membership is per process in cgroup v2, so what
    /// must run inside the mesh's cgroup has to be a process of its own ([`crate::Command`]).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter network namespace {}", self.name))?;
                Ok(work())
            });
            match thread.join() {
                Ok(answer) => answer,
                // An assertion that failed inside the namespace fails the test outside.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets a `/proc/sys/net/<key>` of this namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| write_sysctl(key, value))?
    }

    /// Runs `ip -batch` with these commands inside the namespace.
    pub fn ip(&self, batch: &str) -> Result<()> {
        run("ip", &["-n", &self.name, "-batch", "-"], batch)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    std::fs::write(&path, value).with_context(|| format!("write {value:?} to {path}"))
}

/// Removes the name; the namespace goes when the last process and socket in it has gone.
pub(crate) fn remove(name: &str) {
    let path = PathBuf::from(DIRECTORY).join(name);
    // Both may fail where another sweep was faster; there is nobody to tell in a drop.
    let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(&path);
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program} (Debian package iproute2)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe here is explained by the exit status below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}\n{input}", arguments.join(" "), stderr.trim());
    }
    Ok(())
}
