//! The cgroup v2 tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

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

/// The number of a cgroup, which no other one ever has: the kernel's `bpf_get_current_cgroup_id()`.
pub fn number(directory: &Path) -> Result<u64> {
    std::fs::metadata(directory)
        .map(|found| found.ino())
        .context(|| format!("look at the cgroup {}", directory.display()))
}

/// The directory of the cgroup of this number in the tree of `any`, an open cgroup; an error when
/// there is none (any more). Needs CAP_DAC_READ_SEARCH.
pub fn directory(any: &File, number: u64) -> io::Result<PathBuf> {
    /// `struct file_handle` with the number of a file in kernfs (FILEID_KERNFS, linux/exportfs.h).
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        number: u64,
    }
    let mut handle = Handle { bytes: 8, kind: 0xfe, number };
    // SAFETY: the handle is as long as it says, and outlives the call.
    let opened = unsafe {
        libc::open_by_handle_at(
            any.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened above and is nobody else's.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    let path = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    match path.to_string_lossy().ends_with(" (deleted)") {
        true => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        false => Ok(path),
    }
}
