//! What this kernel can do, found out by doing it: tiny programs (`bpf/probe.bpf.c`) are loaded one
//! by one, attached to a scratch cgroup or a map of their own, given a few bytes on the loopback
//! interface, and judged by the effect. Nothing is pinned: all of it ends with this process.

mod checks;
mod traffic;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;

use libbpf_rs::{
    Link, MapCore, MapFlags, Object, ObjectBuilder, PrintLevel, ProgramInput, libbpf_sys, set_print,
};
use serde::Serialize;

use crate::error::Context;
use crate::load;

/// One thing that the kernel can do, or cannot.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was tried.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// Whether Beeway cannot run without it.
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// What follows when it does not work.
    pub consequence: &'static str,
    /// What mends it, when something does.
    pub remedy: Option<String>,
}

/// Tries everything. The calling process must be in `cgroup`, a scratch one, and have no sockets
/// that matter.
pub fn run(cgroup: &Path) -> Vec<Finding> {
    set_print(Some((PrintLevel::Warn, keep_log)));
    let scratch = File::open(cgroup).map_err(|error| Failure(format!("open the cgroup: {error}")));
    let findings = checks::CHECKS.iter().map(|check| {
        let outcome = match &scratch {
            Ok(scratch) => (check.run)(scratch),
            Err(failure) => Err(failure.clone()),
        };
        check.finding(outcome)
    });
    let findings = findings.collect();
    set_print(None);
    findings
}

/// The findings when nothing could be tried.
pub fn not_tried(why: &str) -> Vec<Finding> {
    checks::CHECKS.iter().map(|check| check.finding(Err(Failure(why.to_owned())))).collect()
}

/// Whether a socket's read position counts what TCP brought and nothing else, as it does since
/// Linux 6.18.14.
pub(crate) fn counts_own_bytes() -> bool {
    checks::read_positions().is_ok()
}

/// Something to try.
struct Check {
    name: &'static str,
    required: bool,
    consequence: &'static str,
    remedy: Option<&'static str>,
    run: fn(&File) -> Outcome,
}

impl Check {
    fn finding(&self, outcome: Outcome) -> Finding {
        let ok = outcome.is_ok();
        Finding {
            name: self.name,
            ok,
            required: self.required,
            detail: outcome.unwrap_or_else(|Failure(detail)| detail),
            consequence: self.consequence,
            remedy: self.remedy.filter(|_| !ok).map(str::to_owned),
        }
    }
}

/// What was seen, or why it does not work.
type Outcome = Result<String, Failure>;

#[derive(Debug, Clone)]
struct Failure(String);

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure(text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<libbpf_rs::Error> for Failure {
    fn from(error: libbpf_rs::Error) -> Failure {
        Failure(format!("{error:#}"))
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// The object as the build left it; libbpf reads ELF structures in place.
#[repr(C, align(16))]
struct Aligned<B: ?Sized>(B);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/probe.o")));

/// Some of the probe programs, loaded.
struct Probe {
    // detached before the object goes
    links: Vec<Link>,
    object: Object,
}

impl Probe {
    /// Loads these programs and maps of the object and no others, so that each failure has one
    /// cause.
    fn load(programs: &[&str], maps: &[&str]) -> Result<Probe, Failure> {
        let mut open = ObjectBuilder::default().name("probe")?.open_memory(&OBJECT.0)?;
        for mut program in open.progs_mut() {
            let wanted = programs.iter().any(|name| program.name() == *name);
            program.set_autoload(wanted);
        }
        for mut map in open.maps_mut() {
            let wanted = maps.iter().any(|name| map.name() == *name);
            map.set_autocreate(wanted)?;
        }
        let object = with_log(|| open.load())?;
        Ok(Probe { links: Vec::new(), object })
    }

    /// Loads one program that hangs on a cgroup, and attaches it.
    fn on_cgroup(program: &str, maps: &[&str], cgroup: &File) -> Result<Probe, Failure> {
        let mut probe = Probe::load(&[program], maps)?;
        let link = load::program(&probe.object, program).attach_cgroup(cgroup.as_raw_fd())?;
        probe.links.push(link);
        Ok(probe)
    }

    /// Attaches a program to the map of sockets. The attachment ends with the map.
    fn attach_to_ends(&self, program: &str, kind: u32) -> Result<(), Failure> {
        let program = load::program(&self.object, program).as_fd().as_raw_fd();
        let target = load::map(&self.object, "ends").as_fd().as_raw_fd();
        // SAFETY: both descriptors are open for the call; it takes no pointers.
        match unsafe { libbpf_sys::bpf_prog_attach(program, target, kind, 0) } {
            0 => Ok(()),
            error => Err(std::io::Error::from_raw_os_error(-error))
                .context(|| "attach it to a map of sockets".into())
                .map_err(Failure::from),
        }
    }

    /// Puts a socket into the map of sockets.
    fn put_end(&self, key: u32, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        let value = (socket.as_raw_fd() as u64).to_ne_bytes();
        load::map(&self.object, "ends")
            .update(&key.to_ne_bytes(), &value, MapFlags::ANY)
            .context(|| "put a socket into a map".into())
            .map_err(Failure::from)
    }

    fn has_end(&self, key: u32) -> Result<bool, Failure> {
        let found = load::map(&self.object, "ends").lookup(&key.to_ne_bytes(), MapFlags::ANY)?;
        Ok(found.is_some())
    }

    /// The port that stands for the one that clients ask for.
    fn set_target(&self, port: u16) -> Result<(), Failure> {
        let (key, value) = (0u32.to_ne_bytes(), u32::from(port).to_ne_bytes());
        Ok(load::map(&self.object, "target").update(&key, &value, MapFlags::ANY)?)
    }

    /// Bytes that passed the program.
    fn seen(&self) -> Result<u64, Failure> {
        let value = load::map(&self.object, "seen").lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?;
        let bytes = value.and_then(|value| value.try_into().ok()).unwrap_or_default();
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Runs a program that userspace may run itself, with a number in and out: the kernel writes
    /// the context back to where it came from, and refuses another place (`ctx_out`).
    fn ask(&self, program: &str, value: u64) -> Result<u64, Failure> {
        let mut context = value.to_ne_bytes();
        let input = ProgramInput { context_in: Some(&mut context), ..Default::default() };
        let output =
            load::program(&self.object, program).test_run(input).context(|| "run it".into())?;
        match output.return_value as i32 {
            0 => Ok(u64::from_ne_bytes(context)),
            value => Err(format!("it returned {value}").into()),
        }
    }
}

/// Loads all that `beeway run` loads, and lets go of it.
fn load_everything() -> Outcome {
    let begun = std::time::Instant::now();
    let template = load::new_generation_map()?;
    let mut open = load::open_object()?;
    for mut map in open.maps_mut() {
        if map.name() == "generations" {
            map.set_inner_map_fd(template.as_fd())?;
        }
    }
    let object = with_log(|| open.load())?;
    let programs = object.progs_mut().count();
    Ok(format!("{programs} programs in {} ms", begun.elapsed().as_millis()))
}

/// The last of what libbpf had to say: a verifier's log can be megabytes.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
const LOG_LINES: usize = 4;

fn keep_log(_: PrintLevel, text: String) {
    let mut log = LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let worth = |line: &&str| !line.trim().is_empty() && !line.contains("PROG LOAD LOG");
    log.extend(text.lines().filter(worth).map(|line| line.trim().to_owned()));
    let surplus = log.len().saturating_sub(LOG_LINES);
    log.drain(..surplus);
}

fn with_log<T>(load: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, Failure> {
    let take = || std::mem::take(&mut *LOG.lock().unwrap_or_else(|poison| poison.into_inner()));
    take();
    load().map_err(|error| {
        let log = take();
        match log.is_empty() {
            true => Failure::from(error),
            false => Failure(format!("{error:#} ({})", log.join("; "))),
        }
    })
}
