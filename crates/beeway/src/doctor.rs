//! `beeway doctor`: finds out what this kernel can do, by doing it. What each check of the kernel
//! does is in [`beeway_dataplane::probe`]; here is what surrounds them.
//!
//! The probing is done by a child process that joins a scratch cgroup; this process does nothing
//! but wait for its end and remove the cgroup, whatever that end was. Signals wait so long.

mod scratch;
mod surroundings;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use beeway_dataplane::probe::{self, Finding};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::output;
use scratch::Scratch;

#[derive(Serialize)]
struct Report {
    kernel: String,
    ok: bool,
    findings: Vec<Finding>,
}

/// Tries everything and tells what was found.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let held = hold_signals()?;
    let result = in_scratch(args, &held);
    // the cgroup is gone: whatever signal has come meanwhile ends us here
    held.thread_unblock().context("take signals again")?;
    result
}

fn in_scratch(args: &DoctorArgs, held: &SigSet) -> Result<ExitCode> {
    let scratch = match Scratch::make() {
        Ok(scratch) => scratch,
        Err(error) => return report(args, &probe::not_tried(&format!("not tried: {error:#}"))),
    };
    // SAFETY: this process has one thread, so the child may do whatever we may.
    match unsafe { fork() }.context("start a process to try things in")? {
        ForkResult::Parent { child } => wait_for(child),
        ForkResult::Child => {
            let code = probe_in(&scratch, held, args).unwrap_or_else(|error| {
                output::error(&error);
                ExitCode::FAILURE
            });
            // without the destructor of `scratch`, which is the parent's to run
            std::process::exit(i32::from(code != ExitCode::SUCCESS));
        }
    }
}

/// A signal must not end us before the cgroup is removed.
fn hold_signals() -> Result<SigSet> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block().context("hold signals back")?;
    Ok(set)
}

fn wait_for(child: Pid) -> Result<ExitCode> {
    match waitpid(child, None).context("wait for the probing process")? {
        WaitStatus::Exited(_, 0) => Ok(ExitCode::SUCCESS),
        WaitStatus::Exited(..) => Ok(ExitCode::FAILURE),
        WaitStatus::Signaled(_, signal, _) => bail!("the probing process ended by {signal}"),
        status => bail!("the probing process ended oddly: {status:?}"),
    }
}

fn probe_in(scratch: &Scratch, held: &SigSet, args: &DoctorArgs) -> Result<ExitCode> {
    held.thread_unblock().context("take signals again")?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("end with the parent")?;
    scratch.join()?;
    report(args, &probe::run(scratch.path()))
}

fn report(args: &DoctorArgs, probed: &[Finding]) -> Result<ExitCode> {
    let mut findings = surroundings::findings();
    findings.extend_from_slice(probed);
    let ok = findings.iter().all(|finding| finding.ok || !finding.required);
    let kernel = nix::sys::utsname::uname().map_or_else(
        |_| "an unknown kernel".into(),
        |name| format!("{} {}", name.release().to_string_lossy(), name.machine().to_string_lossy()),
    );
    let report = Report { kernel, ok, findings };
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&text(&report))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let width = report.findings.iter().map(|f| f.name.len()).max().unwrap_or_default();
    let mut text = format!("kernel {}\n", report.kernel);
    for finding in &report.findings {
        let mark = match (finding.ok, finding.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "missing",
        };
        text += &format!("  {mark:<7}  {:<width$}  {}\n", finding.name, finding.detail);
        if finding.ok {
            continue;
        }
        text += &format!("           so: {}\n", finding.consequence);
        if let Some(remedy) = &finding.remedy {
            text += &format!("           try: {remedy}\n");
        }
    }
    let missing = report.findings.iter().filter(|f| f.required && !f.ok).count();
    text += &match missing {
        0 => "everything that Beeway requires is there\n".to_owned(),
        n => format!("{} missing\n", output::count(n, "required thing")),
    };
    text
}
