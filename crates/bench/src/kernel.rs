//! What the kernel says of the agent's programs and maps, by bpf(2) alone: run times and memory.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;

/// Commands of bpf(2), as in include/uapi/linux/bpf.h.
#[derive(Debug, Clone, Copy)]
enum Command {
    MapLookup = 1,
    ObjectGet = 7,
    ProgramById = 13,
    MapById = 14,
    ProgramQuery = 16,
    EnableStats = 32,
}

/// How a program hangs on a map of sockets (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    /// Runs when bytes have come in.
    Receive = 5,
    /// Runs when a message is sent.
    Send = 7,
}

/// `union bpf_attr`: zeros but for what a command reads.
#[repr(C, align(8))]
struct Attributes([u32; 32]);

impl Attributes {
    /// With words at the beginning.
    fn new(words: &[u32]) -> Self {
        let mut all = [0; 32];
        all[..words.len()].copy_from_slice(words);
        Self(all)
    }

    /// With an address at a word that is aligned to 8 bytes.
    fn with<T>(mut self, at: usize, address: *const T) -> Self {
        let bytes = (address as u64).to_ne_bytes();
        for (word, half) in self.0[at..at + 2].iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(half.try_into().expect("4 bytes"));
        }
        self
    }

    /// Calls bpf(2).
    ///
    /// # Safety
    /// Addresses among the attributes must be valid for what the command reads and writes there.
    unsafe fn call(&mut self, command: Command) -> io::Result<i32> {
        // SAFETY: the attributes are as long as is said; the caller answers for what they point to.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command as i32, &raw mut self.0, size_of_val(&self.0))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }

    /// Calls a command that makes a file descriptor.
    ///
    /// # Safety
    /// As for [`Attributes::call`].
    unsafe fn open(mut self, command: Command) -> io::Result<OwnedFd> {
        // SAFETY: the caller answers for the attributes.
        let fd = unsafe { self.call(command) }?;
        // SAFETY: the command has just made this descriptor, for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The kernel measures the run time of all programs while this lives; however the process ends.
#[derive(Debug)]
pub struct Stats {
    _fd: OwnedFd,
}

impl Stats {
    /// Begins to measure. The sysctl `kernel.bpf_stats_enabled` does the same, but it would have
    /// to be set back.
    pub fn enable() -> Result<Self> {
        // SAFETY: no address is involved; the type of statistics is 0, BPF_STATS_RUN_TIME.
        let fd = unsafe { Attributes::new(&[0]).open(Command::EnableStats) };
        Ok(Self { _fd: fd.context("have the kernel measure run times")? })
    }
}

/// How often a program has run and for how long, while that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Runs.
    pub count: u64,
    /// Their time in nanoseconds, by the kernel's clock, the reading of which is in it.
    pub ns: u64,
}

impl Runs {
    /// What has been added since.
    pub fn since(self, before: Self) -> Self {
        Self { count: self.count - before.count, ns: self.ns - before.ns }
    }
}

/// A program.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// The one that hangs on a pinned map of sockets.
    pub fn on(map: &Path, hook: Hook) -> Result<Self> {
        let inner = || -> io::Result<OwnedFd> {
            let map = pinned(map)?;
            let mut id = 0u32;
            let mut query = Attributes::new(&[map.as_raw_fd() as u32, hook as u32, 0, 0, 0, 0, 1])
                .with(4, &raw mut id);
            // SAFETY: there is room for one id, and room for one is what the query says.
            unsafe { query.call(Command::ProgramQuery) }?;
            // SAFETY: no address is involved.
            unsafe { Attributes::new(&[id]).open(Command::ProgramById) }
        };
        let fd = inner().with_context(|| format!("find the program {hook:?} of {map:?}"))?;
        Ok(Self(fd))
    }

    /// What has been measured of it.
    pub fn runs(&self) -> Result<Runs> {
        Ok(Runs { count: info(&self.0, "run_cnt")?, ns: info(&self.0, "run_time_ns")? })
    }
}

/// The bytes of memory that the map in the first slot of a pinned array of maps takes.
pub fn inner_map_bytes(array: &Path) -> Result<u64> {
    let inner = || -> io::Result<OwnedFd> {
        let array = pinned(array)?;
        let (key, mut id) = (0u32, 0u32);
        let mut lookup = Attributes::new(&[array.as_raw_fd() as u32])
            .with(2, &raw const key)
            .with(4, &raw mut id);
        // SAFETY: keys and values of such a map have four bytes.
        unsafe { lookup.call(Command::MapLookup) }?;
        // SAFETY: no address is involved.
        unsafe { Attributes::new(&[id]).open(Command::MapById) }
    };
    info(&inner().with_context(|| format!("find the map in {array:?}"))?, "memlock")
}

fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a NUL and outlives the call.
    unsafe { Attributes::new(&[]).with(0, path.as_ptr()).open(Command::ObjectGet) }
}

/// A number that /proc tells of a descriptor.
fn info(fd: &OwnedFd, name: &str) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = io::read_to_string(File::open(&path)?)?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(key, _)| *key == name).with_context(|| format!("no {name}"))?;
    value.trim().parse().with_context(|| format!("{name} is {value:?}"))
}

/// Whether the kernel measures run times all the time, which makes every program slower.
pub fn always_measures() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled");
    setting.is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_where_the_kernel_reads_them() {
        let value = 0u32;
        let attributes = Attributes::new(&[1, 2, 0, 0, 0, 0, 7]).with(4, &raw const value);
        let address = (&raw const value as u64).to_ne_bytes();
        let bytes: Vec<u8> = attributes.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!((bytes[16..24].to_vec(), bytes[24]), (address.to_vec(), 7));
        assert!(bytes[28..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = inner_map_bytes(Path::new("/nowhere/generations")).expect_err("no map");
        assert!(error.to_string().contains("/nowhere/generations"), "{error}");
    }
}
