//! Child cgroups (v2). The root cgroup is never touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a killed process may take to leave its cgroup.
const LEAVE: Duration = Duration::from_secs(3);

/// A child cgroup; processes in it are killed and it is removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("make cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// The directory of this cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pids in this cgroup itself.
    pub fn pids(&self) -> Result<Vec<u32>> {
        pids(&self.path)
    }

    /// The CPU time used by all processes that ever ran in this cgroup, from `cpu.stat`.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(self.path.join("cpu.stat"))?;
        let usec = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .context("no usage_usec in cpu.stat")?;
        Ok(Duration::from_micros(usec.trim().parse()?))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("testbed: {error:#}");
        }
    }
}

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or a directory below it in hybrid mode.
pub(crate) fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .context("no cgroup2 in /proc/mounts")
}

fn pids(path: &Path) -> Result<Vec<u32>> {
    let text = fs::read_to_string(path.join("cgroup.procs"))
        .with_context(|| format!("read cgroup.procs of {}", path.display()))?;
    // A process outside our pid namespace reads as 0, which `kill` would take for ourselves.
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
}

/// Kills what is in a cgroup and below, by pid, and removes the directories, deepest first.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    let deadline = Instant::now() + LEAVE;
    loop {
        for pid in pids(path).unwrap_or_default() {
            if pid == std::process::id() {
                bail!("the test process itself is in {}: not removed", path.display());
            }
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("remove cgroup {}", path.display()));
            }
            // Busy until the killed have gone; there is no event to wait for before rmdir.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
