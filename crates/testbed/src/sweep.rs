//! Removal of what dead test processes left behind.

use std::fs;
use std::path::Path;

use anyhow::Result;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::{cgroup, netns};

/// Removes namespaces, cgroups, processes and temporary directories of test processes that are no more.
///
/// The names carry the pid of their maker: `bw<pid>-<n>-<label>`. Run once by the first
/// [`crate::Node::new`] of a process; returns how many objects were removed.
pub fn sweep() -> Result<usize> {
    let mut removed = 0;
    let cgroups = cgroup::mount()?;
    for name in leftovers(&cgroups) {
        // First the cgroups: their processes hold the namespaces.
        match cgroup::remove(&cgroups.join(&name)) {
            Ok(()) => removed += 1,
            Err(error) => eprintln!("testbed: sweep: {error:#}"),
        }
    }
    for name in leftovers(Path::new(netns::DIRECTORY)) {
        netns::remove(&name);
        removed += 1;
    }
    let temporary = std::env::temp_dir();
    for name in leftovers(&temporary) {
        let directory = temporary.join(name);
        unmount_below(&directory);
        removed += usize::from(fs::remove_dir_all(directory).is_ok());
    }
    Ok(removed)
}

/// What an agent has pinned in the file system in its state directory stays in force as long as that is
/// mounted.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|mount| mount.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(directory)) {
        if let Err(error) = umount2(place, MntFlags::MNT_DETACH) {
            eprintln!("testbed: sweep: unmount {place}: {error}");
        }
    }
}

/// A temporary directory that a sweep finds when nobody was left to remove it, with what is mounted in it.
pub fn directory(label: &str) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("bw{}-0-{label}", std::process::id())).tempdir()
}

/// The entries of a directory that carry the pid of a process that is no more.
fn leftovers(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !is_alive(pid)))
        .collect()
}

/// Whether a process is there, and not only because nobody has waited for it.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // behind the name, which may contain anything
    !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// The pid in `bw<pid>-<n>-<label>`; nothing for names that are not ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("bw")?.split_once('-')?;
    let (sequence, _) = rest.split_once('-')?;
    sequence.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_our_names_have_an_owner() {
        assert_eq!(owner("bw123-0-node"), Some(123));
        assert_eq!(owner("bw123-0-node-pod-a"), Some(123));
        assert_eq!(owner("bw123"), None);
        assert_eq!(owner("bwx-node"), None);
        assert_eq!(owner("bw12-prod-1"), None);
        assert_eq!(owner("cni-1234"), None);
    }
}
