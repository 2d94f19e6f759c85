//! The cgroup v2 tree.

use std::path::{Path, PathBuf};

/// Where cgroup v2 is mounted, from `/proc/mounts`.
pub fn mount_point() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// The cgroup of this process.
pub(crate) fn own() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount_point()?.join(path))
}

/// Whether a directory is the root of the tree: the only one without `cgroup.events`.
pub(crate) fn is_root(directory: &Path) -> bool {
    !directory.join("cgroup.events").exists() && directory.join("cgroup.procs").exists()
}
