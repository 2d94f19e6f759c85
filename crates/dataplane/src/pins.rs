//! Where programs and maps stay when no agent runs: a BPF file system inside the state directory.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// `statfs` magic of a BPF file system (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The pins of one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pins below `state`, whether they are there or not.
    pub(crate) fn of(state: &Path) -> Pins {
        Pins { root: state.join("bpf") }
    }

    /// Mounts the BPF file system unless it is there.
    pub(crate) fn mount(&self) -> Result<()> {
        fs::create_dir_all(&self.root).context(|| format!("create {}", self.root.display()))?;
        if !self.mounted() {
            let target = c_path(&self.root);
            // SAFETY: all pointers are to NUL-terminated strings that outlive the call.
            let done = unsafe {
                libc::mount(
                    c"bpf".as_ptr(),
                    target.as_ptr(),
                    c"bpf".as_ptr(),
                    libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
                    c"mode=0700".as_ptr().cast(),
                )
            };
            if done != 0 {
                return Err(std::io::Error::last_os_error())
                    .context(|| format!("mount a BPF file system at {}", self.root.display()));
            }
        }
        for folder in ["maps", "links"] {
            let path = self.root.join(folder);
            fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether the BPF file system is there.
    pub(crate) fn mounted(&self) -> bool {
        let path = c_path(&self.root);
        // SAFETY: statfs is plain data, for which zeros are valid.
        let mut found: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is NUL-terminated and `found` is writable for the call.
        let done = unsafe { libc::statfs(path.as_ptr(), &mut found) };
        done == 0 && found.f_type as i64 == BPF_FS_MAGIC
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    /// Removes everything: once nothing is pinned, the kernel detaches and frees it. Says how
    /// many pins there were.
    pub(crate) fn remove(&self) -> Result<usize> {
        if !self.mounted() {
            let _ = fs::remove_dir(&self.root);
            return Ok(0);
        }
        let mut removed = 0;
        // links first: nothing must run on maps that are half gone
        for folder in ["links", "maps"] {
            let path = self.root.join(folder);
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                fs::remove_file(entry.path())
                    .context(|| format!("remove {}", entry.path().display()))?;
                removed += 1;
            }
        }
        let path = c_path(&self.root);
        // SAFETY: the path is NUL-terminated.
        if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
            return Err(std::io::Error::last_os_error())
                .context(|| format!("unmount {}", self.root.display()));
        }
        let _ = fs::remove_dir(&self.root);
        Ok(removed)
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL byte")
}
