//! Commands that run in a network namespace and a cgroup.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::process::{Output, Process};

/// A command that will enter a network namespace and a cgroup before it executes.
///
/// It does not go through `ip netns exec`: that gives a private mount namespace, in which a
/// bpffs mounted by the agent would be seen by nobody else.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    program: OsString,
    netns: Arc<File>,
    mesh: PathBuf,
    plain: PathBuf,
    cgroup: PathBuf,
    cpu: Option<usize>,
    keep: Option<tempfile::TempDir>,
}

impl Command {
    pub(crate) fn new(program: &OsStr, netns: &Netns, mesh: PathBuf, plain: PathBuf) -> Self {
        Self {
            inner: std::process::Command::new(program),
            program: program.to_owned(),
            netns: netns.file(),
            cgroup: plain.clone(),
            mesh,
            plain,
            cpu: None,
            keep: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.inner.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.inner.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.inner.current_dir(directory);
        self
    }

    /// Runs in the node's cgroup of the mesh.
    pub fn mesh(mut self) -> Self {
        self.cgroup.clone_from(&self.mesh);
        self
    }

    /// Runs in the node's cgroup outside the mesh.
    pub fn plain(mut self) -> Self {
        self.cgroup.clone_from(&self.plain);
        self
    }

    /// Runs in another cgroup, named by its directory.
    pub fn cgroup(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cgroup = directory.into();
        self
    }

    /// Pins the process to one CPU.
    pub fn cpu(mut self, cpu: usize) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// Keeps a directory until the process has ended.
    pub(crate) fn keep(mut self, directory: tempfile::TempDir) -> Self {
        self.keep = Some(directory);
        self
    }

    /// Starts the process with its output captured. Its input is a pipe: see
    /// [`Process::write_line`] and [`Process::close_stdin`].
    pub fn spawn(mut self) -> Result<Process> {
        let mut cpus = CpuSet::new();
        if let Some(cpu) = self.cpu {
            cpus.set(cpu).with_context(|| format!("no CPU {cpu}"))?;
        }
        let pinned = self.cpu.is_some();
        let netns = Arc::clone(&self.netns);
        let procs = self.cgroup.join("cgroup.procs");
        let mut procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("open {}", procs.display()))?;
        let parent = Pid::this();
        let enter = move || -> io::Result<()> {
            // The process that writes is the one that moves.
            procs.write_all(b"0")?;
            setns(&*netns, CloneFlags::CLONE_NEWNET)?;
            if pinned {
                sched_setaffinity(Pid::from_raw(0), &cpus)?;
            }
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if Pid::parent() != parent {
                // The parent died before the line above: no signal will come.
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // a shell ignores it on behalf of what it starts in the background, and that is inherited
            // SAFETY: no handler is set, and nothing else is touched.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
            Ok(())
        };
        self.inner.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec the closure makes system calls on descriptors opened
        // before, and neither allocates nor takes a lock.
        unsafe { self.inner.pre_exec(enter) };
        Process::start(self.inner, &self.program, self.keep)
    }

    /// Runs to the end and hands back what was printed; an error if it takes longer than `limit`.
    pub fn output(self, limit: Duration) -> Result<Output> {
        let mut process = self.spawn()?;
        process.close_stdin();
        process.output(limit)
    }
}
