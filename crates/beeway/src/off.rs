//! `beeway off`: stops the agent, and detaches and removes everything that it or an earlier one
//! has left.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::{self, OffArgs};
use crate::output;
use crate::run::require_root;
use crate::status::{admin_socket, api_socket, ledger_file, pid_file, tallies_file};

/// How long the agent may take to end, in milliseconds.
const PATIENCE_MS: u16 = 5000;

/// Removes everything and says what that was.
pub fn off(args: &OffArgs) -> Result<ExitCode> {
    require_root("beeway off", "CAP_BPF, CAP_SYS_ADMIN")?;
    let mut done = Vec::new();
    let lock = args.state.join("agent.lock");
    // as long as we hold the lock no other agent starts
    let _held = match File::open(&lock) {
        Ok(file) => {
            if file.try_lock().is_err() {
                let pid = stop_agent(&args.state)?;
                done.push(format!("stopped the agent (process {pid})"));
                file.try_lock().context("another agent has started meanwhile: try again")?;
            }
            Some(file)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("open {}", lock.display())),
    };
    let pins = beeway_dataplane::off(&args.state)?;
    if pins > 0 {
        done.push(format!("detached the programs and removed {}", output::count(pins, "pin")));
    }
    let files = [admin_socket, api_socket, ledger_file, tallies_file, pid_file];
    for path in files.map(|file| file(&args.state)).into_iter().chain([lock]) {
        if removed(fs::remove_file(&path))? {
            done.push(format!("removed {}", path.display()));
        }
    }
    // what else is in there is not ours
    let _ = fs::remove_dir(&args.state);
    done.extend(remove_cgroup(args)?);
    match done.is_empty() {
        true => output::text("nothing to remove\n")?,
        false => output::text(&(done.join("\n") + "\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells the agent that holds the lock to stop, and waits until it has.
fn stop_agent(state: &Path) -> Result<i32> {
    let path = pid_file(state);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("an agent owns {}; read its process id from {}", state.display(), path.display())
    })?;
    let pid: i32 = match text.trim().parse() {
        Ok(pid) if pid > 0 => pid,
        _ => bail!("{} holds no process id: stop the agent by hand", path.display()),
    };
    let process = open_process(pid).with_context(|| format!("find the agent's process {pid}"))?;
    signal(&process, libc::SIGTERM).with_context(|| format!("stop the agent's process {pid}"))?;
    let mut waiting = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waiting, PollTimeout::from(PATIENCE_MS)) {
        Ok(1..) => Ok(pid),
        Ok(_) => bail!(
            "the agent (process {pid}) has not ended within {} s and nothing was removed: \
             try `kill -KILL {pid}`, then again",
            PATIENCE_MS / 1000
        ),
        Err(error) => Err(error).context("wait for the agent"),
    }
}

/// A descriptor of a process stays that process's, whoever gets its number later.
fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn signal(process: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    let fd = std::os::fd::AsRawFd::as_raw_fd(process);
    // SAFETY: the descriptor is open; without siginfo it is as kill() would.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    Errno::result(done)?;
    Ok(())
}

/// The directory goes when nobody is in it.
fn remove_cgroup(args: &OffArgs) -> Result<Option<String>> {
    let path = args.cgroup.clone().unwrap_or_else(cli::default_cgroup);
    match removed(fs::remove_dir(&path)) {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some(format!("removed the cgroup {}", path.display()))),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(Some(format!(
            "the cgroup {} stays: there are processes or groups in it, which are out of the mesh now",
            path.display()
        ))),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

/// Whether there was something to remove.
fn removed(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
