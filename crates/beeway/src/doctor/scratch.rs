//! A child cgroup to try things in, removed on every path.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const PREFIX: &str = "beeway-doctor-";

/// How long the kernel may take to let go of a cgroup whose last process has ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// The cgroup; dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one below the cgroup v2 mount.
    pub fn make() -> Result<Scratch> {
        let mount = beeway_dataplane::cgroup::mount_point().context("cgroup v2 is not mounted")?;
        sweep(&mount);
        let path = mount.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make the cgroup {}", path.display()))?;
        Ok(Scratch { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves this process into it.
    pub fn join(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
            .with_context(|| format!("join the cgroup {}", self.path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let begun = Instant::now();
        while let Err(error) = fs::remove_dir(&self.path) {
            if error.kind() == io::ErrorKind::NotFound || begun.elapsed() > PATIENCE {
                break;
            }
            // the kernel tells nobody when the directory is free
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Removes what doctors have left that were killed.
fn sweep(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().strip_prefix(PREFIX).map(str::to_owned);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
