//! What the demo makes outside of its own process, and that nothing of it stays.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::agent;

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

/// The beginning of the names of temporary directories that a demo of this process makes. The
/// test bed sweeps such names too, but cannot take down kernel programs.
pub fn folder_prefix() -> String {
    format!("bw{}-0-demo-", std::process::id())
}

/// Takes down the kernel programs of demos that were killed.
pub fn sweep(binary: &Path) {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            agent::off(binary, &entry.path().join("state"));
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process in `bw<pid>-0-demo-<random>`.
fn owner(name: &str) -> Option<&str> {
    let (pid, rest) = name.strip_prefix("bw")?.split_once('-')?;
    (rest.starts_with("0-demo-") && pid.bytes().all(|b| b.is_ascii_digit())).then_some(pid)
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

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_demos_have_an_owner() {
        assert_eq!(owner("bw123-0-demo-aBc"), Some("123"));
        assert_eq!(owner("bw123-1-demo-aBc"), None);
        assert_eq!(owner("bw123-0-nginx"), None);
        assert_eq!(owner("bwx-0-demo-aBc"), None);
        assert_eq!(owner("other"), None);
    }
}
