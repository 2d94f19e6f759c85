//! What the demo makes outside of its own process, and that nothing of it stays.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// Names of what was made; filled in before it is made.
#[derive(Debug, Default)]
pub struct Traces {
    /// Beginning of the names of namespaces and of the cgroup.
    pub prefix: String,
    /// The cgroup of the node.
    pub cgroup: PathBuf,
    /// The directory of configuration, state and pins.
    pub folder: PathBuf,
}

impl Traces {
    /// Fails when something is left; says what was looked for.
    pub fn verify(&self) -> Result<String> {
        let mut left = Vec::new();
        if self.prefix.is_empty() {
            return Ok("nothing was made".into());
        }
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.prefix) {
                left.push(format!("network namespace {}", entry.path().display()));
            }
        }
        // a cgroup that is gone had no process left in it
        for path in [&self.cgroup, &self.folder] {
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        let folder = self.folder.to_string_lossy();
        for mount in fs::read_to_string("/proc/mounts")?.lines() {
            if mount.contains(&*folder) {
                left.push(format!("mount {mount}"));
            }
        }
        if left.is_empty() {
            return Ok("no namespace, cgroup, process, pinned program, mount or file".into());
        }
        bail!("left behind, remove by hand: {}", left.join(", "))
    }
}
