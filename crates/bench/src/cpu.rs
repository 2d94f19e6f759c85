//! How busy the CPUs are, from /proc/stat, and where processes may run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Ticks of /proc/stat per second (USER_HZ, 100 on every Linux that Rust knows).
const TICKS: f64 = 100.0;

/// The idle ticks of each CPU at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    at: Instant,
    idle: Vec<u64>,
}

impl Snapshot {
    /// Takes one.
    pub fn take() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Ok(Self { at: Instant::now(), idle: parse(&text) })
    }

    /// The share of each CPU that was busy since: everything but idle, waiting for a disk, and
    /// taken by the hypervisor. From idle time, because with tickless CPUs that is counted
    /// exactly, while busy time is sampled.
    pub fn busy_since(&self) -> Result<Vec<f64>> {
        let now = Self::take()?;
        let wall = now.at.duration_since(self.at).as_secs_f64();
        let idle = now.idle.iter().zip(&self.idle).map(|(now, then)| now.saturating_sub(*then));
        Ok(idle.map(|ticks| (1.0 - ticks as f64 / TICKS / wall).clamp(0.0, 1.0)).collect())
    }
}

/// Idle, iowait and steal of each CPU line.
fn parse(stat: &str) -> Vec<u64> {
    stat.lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .map(|line| {
            let fields: Vec<u64> =
                line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
            [3, 4, 7].iter().filter_map(|index| fields.get(*index)).sum()
        })
        .collect()
}

/// The CPU time used so far by every thread of the kernel: softirq threads and workers do part of
/// the work of sockets, in no cgroup of ours.
pub fn kernel_threads() -> HashMap<u32, Duration> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // kthreadd, the parent of them all, has the pid 2.
            if parent(&stat)? != 2 {
                return None;
            }
            let times = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
            let nanoseconds = times.split_whitespace().next()?.parse().ok()?;
            Some((pid, Duration::from_nanos(nanoseconds)))
        })
        .collect()
}

/// The CPU time used by kernel threads since; those that came or went meanwhile are not in it.
pub fn kernel_threads_since(before: &HashMap<u32, Duration>) -> Duration {
    let now = kernel_threads();
    now.iter().filter_map(|(pid, time)| Some(time.saturating_sub(*before.get(pid)?))).sum()
}

/// The parent's pid in a /proc/<pid>/stat.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The share of the whole machine that is busy while nothing is measured.
pub fn idle_baseline(over: Duration) -> Result<f64> {
    let before = Snapshot::take()?;
    std::thread::sleep(over);
    let busy = before.busy_since()?;
    Ok(busy.iter().sum::<f64>() / busy.len().max(1) as f64)
}

/// Confines a process, all its threads and its children to some CPUs.
pub fn confine(pid: u32, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).with_context(|| format!("no CPU {cpu}"))?;
    }
    confine_tree(pid, &set).with_context(|| format!("confine process {pid} to {cpus:?}"))
}

fn confine_tree(pid: u32, set: &CpuSet) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        sched_setaffinity(Pid::from_raw(thread), set)?;
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            confine_tree(child, set)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{parent, parse};

    #[test]
    fn the_parent_comes_after_the_name() {
        assert_eq!(parent("12 (a) b (c)) S 2 0 0"), Some(2));
    }

    #[test]
    fn idle_is_idle_iowait_and_steal_of_each_cpu() {
        let stat = "cpu  1 2 3 40 5 6 7 8 0 0\ncpu0 1 2 3 10 2 6 7 1 0 0\n\
                    cpu1 1 2 3 30 3 6 7 7 0 0\nintr 5\n";
        assert_eq!(parse(stat), [13, 40]);
    }
}
