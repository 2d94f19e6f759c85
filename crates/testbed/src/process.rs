//! Running processes: captured lines, waiting, and certain death.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running process. It is killed, with its descendants, and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    program: String,
    captured: Arc<Captured>,
    /// How many lines of stdout [`Process::next_line`] has handed out.
    read: usize,
    status: Option<ExitStatus>,
    _keep: Option<tempfile::TempDir>,
}

/// What a process printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// An error with the standard error in it unless the process ended well.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}: {}{}", self.status, self.stdout, self.stderr)
    }

    /// The lines of standard output that are JSON.
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[derive(Debug, Default)]
struct Captured {
    streams: Mutex<Streams>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Streams {
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// How many of the two pipes have been closed by the process and its children.
    closed: u8,
}

impl Captured {
    /// Waits until `find` finds something, the pipes are closed, or the time is up.
    fn wait<T>(&self, limit: Duration, mut find: impl FnMut(&Streams) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut streams = self.streams.lock().expect("no panic while holding the lock");
        loop {
            if let Some(found) = find(&streams) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || streams.closed == 2 {
                return None;
            }
            let waited = self.changed.wait_timeout(streams, left);
            streams = waited.expect("no panic while holding the lock").0;
        }
    }
}

impl Process {
    pub(crate) fn start(
        command: std::process::Command,
        program: &OsStr,
        keep: Option<tempfile::TempDir>,
    ) -> Result<Self> {
        let program = program.to_string_lossy().into_owned();
        let mut child = spawn(command).with_context(|| format!("start {program}"))?;
        let captured = Arc::new(Captured::default());
        if let Some(pipe) = child.stdout.take() {
            capture(pipe, Arc::clone(&captured), |streams| &mut streams.stdout);
        }
        if let Some(pipe) = child.stderr.take() {
            capture(pipe, Arc::clone(&captured), |streams| &mut streams.stderr);
        }
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, program, captured, read: 0, status: None, _keep: keep })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to the standard input.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input was closed")?;
        stdin.write_all(format!("{line}\n").as_bytes())?;
        Ok(())
    }

    /// Closes the standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// All lines of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.captured.streams.lock().expect("no panic while holding the lock").stdout.clone()
    }

    /// All lines of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.captured.streams.lock().expect("no panic while holding the lock").stderr.clone()
    }

    /// Waits for a line, of either stream and printed at any time, that contains `wanted`.
    pub fn wait_for_line(&self, wanted: &str, limit: Duration) -> Result<String> {
        let found = self.captured.wait(limit, |streams| {
            let mut lines = streams.stdout.iter().chain(&streams.stderr);
            lines.find(|line| line.contains(wanted)).cloned()
        });
        found.ok_or_else(|| self.complaint(&format!("no line with {wanted:?} within {limit:?}")))
    }

    /// The next line of standard output that this method has not yet handed out.
    pub fn next_line(&mut self, limit: Duration) -> Result<String> {
        let read = self.read;
        let line = self.captured.wait(limit, |streams| streams.stdout.get(read).cloned());
        let line = line.ok_or_else(|| self.complaint(&format!("no line within {limit:?}")))?;
        self.read += 1;
        Ok(line)
    }

    /// Waits for the end and hands back everything printed; kills it if the time is up.
    pub fn output(mut self, limit: Duration) -> Result<Output> {
        // The pipes close when the process ends (or hands them to nobody), so waiting for them
        // is waiting for the end, without polling.
        self.captured.wait(limit, |streams| (streams.closed == 2).then_some(()));
        let status = match self.try_wait(Duration::from_secs(1))? {
            Some(status) => status,
            None => {
                self.kill9();
                return Err(self.complaint(&format!("still running after {limit:?}")));
            }
        };
        let join = |lines: Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect();
        Ok(Output { status, stdout: join(self.stdout()), stderr: join(self.stderr()) })
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.try_wait(Duration::ZERO), Ok(None))
    }

    /// Waits for the end, without a limit on what it prints meanwhile.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.captured.wait(limit, |streams| (streams.closed == 2).then_some(()));
        let status = self.try_wait(Duration::from_secs(1))?;
        status.ok_or_else(|| self.complaint(&format!("still running after {limit:?}")))
    }

    fn try_wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if self.status.is_none() {
                self.status = self.child.try_wait()?;
            }
            if self.status.is_some() || Instant::now() >= deadline {
                return Ok(self.status);
            }
            // Only in the instant between the closing of the pipes and the exit.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it and its descendants (SIGKILL), and reaps it.
    ///
    /// Descendants too, because the workers of a killed nginx would go on serving.
    pub fn kill9(&mut self) {
        if self.status.is_some() {
            return;
        }
        let descendants = descendants(self.pid());
        self.signal(Signal::SIGKILL);
        self.status = self.child.wait().ok();
        for pid in descendants {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }

    /// Asks it to end (SIGTERM) and waits; an error if it has not ended in time.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(limit)
    }

    /// Sends a signal, unless it has been reaped: the pid could be somebody else's by now.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(Pid::from_raw(self.pid() as i32), signal);
        }
    }

    /// The CPU time (user and system) of the process and its children, running and reaped.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// The memory (bytes) of the process and its running children; pages that they share with each
    /// other or with other processes count in part (the proportional set size).
    pub fn memory(&self) -> Result<u64> {
        memory(self.pid())
    }

    fn complaint(&self, what: &str) -> anyhow::Error {
        anyhow!(
            "{} ({}): {what}\nstdout: {}\nstderr: {}",
            self.program,
            self.pid(),
            tail(&self.stdout()),
            tail(&self.stderr())
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The last lines of a stream, for an error message.
fn tail(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn capture(
    pipe: impl Read + Send + 'static,
    captured: Arc<Captured>,
    stream: fn(&mut Streams) -> &mut Vec<String>,
) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        // Bytes that are not UTF-8 must not stop the capture, so not `lines()`.
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
            let mut streams = captured.streams.lock().expect("no panic while holding the lock");
            stream(&mut streams).push(text.into_owned());
            captured.changed.notify_all();
            line.clear();
        }
        captured.streams.lock().expect("no panic while holding the lock").closed += 1;
        captured.changed.notify_all();
    });
}

type Job = (std::process::Command, Sender<std::io::Result<Child>>);

/// Starts every child from one thread that lives as long as this process.
///
/// PR_SET_PDEATHSIG fires when the *thread* that forked ends. Were children started from the
/// thread of a test (or of [`crate::Netns::run`]), they would die with it, not with the process.
fn spawn(command: std::process::Command) -> Result<Child> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, receiver) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    let (answer, child) = channel();
    spawner.send((command, answer)).map_err(|_| anyhow!("the spawning thread is gone"))?;
    Ok(child.recv().context("the spawning thread is gone")??)
}

/// CPU time of a process, of its reaped children and, recursively, of its running children.
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The command's name, in brackets, may itself contain spaces and brackets.
    let (_, fields) = stat.rsplit_once(')').context("malformed /proc stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    let seconds = |ticks: u64| Duration::from_secs_f64(ticks as f64 / per_second);
    // The process's own clock counts nanoseconds where stat counts ticks of 10 ms.
    let own = nix::time::ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32))
        .and_then(nix::time::clock_gettime)
        .map(Duration::from)
        .unwrap_or_else(|_| seconds(ticks(11) + ticks(12)));
    let mut total = own + seconds(ticks(13) + ticks(14));
    for child in children(pid) {
        // A child that ended meanwhile is in its parent's reaped time at the next call.
        total += cpu_time(child).unwrap_or_default();
    }
    Ok(total)
}

/// Proportional set size of a process and, recursively, of its running children.
fn memory(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let own = kib.with_context(|| format!("no Pss of process {pid}"))? << 10;
    Ok(own + children(pid).into_iter().map(|child| memory(child).unwrap_or(0)).sum::<u64>())
}

/// The running children of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let parse = |list: String| list.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>();
    lists.flat_map(parse).collect()
}

/// The children of a process, their children, and so on.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// Where a tool is; if it is missing, an error that names its Debian package.
pub fn needs(program: &str, package: &str) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // nginx lives in sbin, which is not in everybody's path.
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .map(Into::into)
        .with_context(|| format!("{program} is missing: apt-get install {package}"))
}

/// Where Cargo puts what is built, and the Makefile what tests need besides.
pub(crate) fn target() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside, PathBuf::from)
}

/// Where something is that `make MAKER` makes in `target/MAKER`; if it is missing, an error that says
/// so.
pub fn needs_made(maker: &str, name: &str) -> Result<PathBuf> {
    let path = target().join(maker).join(name);
    ensure!(path.exists(), "{} is missing: make {maker}", path.display());
    Ok(path)
}

/// The Python that has a Debian package; another one in the path would not.
pub(crate) fn debian_python(package: &str) -> Result<OsString> {
    let python = std::path::Path::new("/usr/bin/python3");
    if python.exists() { Ok(python.into()) } else { needs("python3", package) }
}
