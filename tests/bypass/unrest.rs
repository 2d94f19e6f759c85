//! Policies under load: while the agent dies and comes back, and while they come and go.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Place, Process, spawn_ready, tcp_echo};

use crate::bed::{Bed, LIMIT, Shape};
use crate::kit::{ALL, NATIVE, SHORTCUT, apply, asked, policy};

/// How long each phase goes on.
const PHASE: Duration = Duration::from_millis(150);

/// Results, and how often there were: of one kind of calls, allowed or forbidden.
type Results = BTreeMap<String, u64>;
/// By phase, by kind, and by whether they are "fine" or "forbidden".
type Report = BTreeMap<String, BTreeMap<String, BTreeMap<String, Results>>>;

/// A process that goes on calling.
struct Caller(Process);

impl Caller {
    fn start(bed: &Bed, cgroup: &Path, kinds: &[&str]) -> Result<Caller> {
        let command = bed.client.command("/usr/bin/python3");
        let command = command.args(["-c", include_str!("caller.py"), "10.96.0.10"]);
        let command = command.arg(bed.v1.ip4().to_string()).args(kinds);
        let mut caller = Caller(command.cgroup(cgroup).spawn()?);
        assert_eq!(caller.0.next_line(LIMIT)?, "here");
        Ok(caller)
    }

    /// Begins a phase: nothing of the one before is under way then.
    fn phase(&mut self, name: &str) -> Result<()> {
        self.0.write_line(&format!("phase {name}"))?;
        assert_eq!(self.0.next_line(LIMIT)?, name);
        Ok(())
    }

    fn report(&mut self) -> Result<Report> {
        self.0.write_line("report")?;
        Ok(serde_json::from_str(&self.0.next_line(LIMIT)?)?)
    }

    /// Waits until each kind has been tried in a phase, and a while.
    fn stay(&mut self, phase: &str, kinds: &[&str]) -> Result<()> {
        let begun = Instant::now();
        loop {
            std::thread::sleep(PHASE);
            let report = self.report()?;
            let tried = |kind: &&str| report.get(phase).is_some_and(|by| by.contains_key(*kind));
            if kinds.iter().all(tried) {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "{phase}: {report:?}");
        }
    }
}

/// All results of one kind in a phase are among these, and there are some.
fn assert_only(report: &Report, phase: &str, kind: &str, what: &str, allowed: &[&str]) {
    let results = report.get(phase).and_then(|by| by.get(kind)?.get(what));
    let results = results.unwrap_or_else(|| panic!("{phase}, {kind}: nothing is {what}"));
    assert!(
        results.keys().all(|result| allowed.contains(&result.as_str())),
        "{phase}, {kind}, {what}: {results:?}"
    );
}

/// Nobody may ask for what is below /admin, or connect to one of two ports.
fn policies() -> String {
    policy(
        "unrest",
        "  action: DENY\n  rules:\n  - to: [{operation: {ports: [\"8080\"], paths: [/admin*]}}]\n  \
         - to: [{operation: {ports: [\"7008\"]}}]\n",
    )
}

fn bed(label: &str, shape: Shape) -> Result<(Bed, Vec<Process>)> {
    let mut bed = Bed::new(label, shape, ALL)?;
    bed.record_requests()?;
    let mut echoes = Vec::new();
    // the service of the first port has both versions
    for (pod, port) in [(&bed.v1, 7007), (&bed.v2, 7007), (&bed.v1, 7008)] {
        echoes.push(spawn_ready(tcp_echo(pod, port)?)?);
    }
    Ok((bed, echoes))
}

const KINDS: [&str; 4] = ["kept", "detour", "fresh", "opaque"];

#[test]
fn an_agent_that_dies_leaves_policies_in_force() -> Result<()> {
    let (mut bed, _echoes) = bed("dies", SHORTCUT)?;
    apply(&bed, "policy.yaml", &policies())?;
    let mut caller = Caller::start(&bed, bed.node.mesh().path(), &KINDS)?;
    // straight to the pod, from outside: judged where they come in, and answered by the agent
    let mut outside = Caller::start(&bed, bed.node.plain().path(), &["straight"])?;
    caller.phase("alive")?;
    caller.stay("alive", &KINDS)?;
    for round in 0..2 {
        let (dead, again) = (format!("dead-{round}"), format!("again-{round}"));
        caller.phase("falling")?;
        bed.agent.take().context("an agent")?.kill9();
        caller.phase(&dead)?;
        caller.stay(&dead, &KINDS)?;
        outside.stay("start", &["straight"])?;
        caller.phase("rising")?;
        bed.start_agent()?;
        caller.phase(&again)?;
        caller.stay(&again, &KINDS)?;
    }
    let (report, outside) = (caller.report()?, outside.report()?);
    for (phase, kinds) in &report {
        let steady = phase == "alive" || phase.starts_with("again");
        for kind in kinds.keys() {
            let (fine, forbidden): (&[_], &[_]) = match kind.as_str() {
                // nothing of these needs an agent
                "kept" | "fresh" => (&["200"], &["403"]),
                "opaque" => (&["ping"], &["ECONNREFUSED"]),
                _ if steady => (&["200"], &["403"]),
                _ if phase.starts_with("dead") => (&["503"], &["503"]),
                // what is under way when the agent dies is answered by the next one
                _ => (&["200", "503", "timeout"], &["403", "503", "timeout"]),
            };
            assert_only(&report, phase, kind, "fine", fine);
            assert_only(&report, phase, kind, "forbidden", forbidden);
        }
    }
    assert_only(&outside, "start", "straight", "fine", &["200", "timeout"]);
    assert!(outside["start"]["straight"]["fine"]["200"] > 0, "{outside:?}");
    assert_only(&outside, "start", "straight", "forbidden", &["403", "timeout"]);
    let paths = asked(&bed)?;
    assert!(!paths.iter().any(|path| path.contains("admin")), "{report:?}");
    assert!(paths.len() > 100, "hardly any load: {report:?}");
    Ok(())
}

#[test]
fn policies_come_and_go_under_load() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let (bed, _echoes) = bed("comes", shape)?;
        let mut caller = Caller::start(&bed, bed.node.mesh().path(), &KINDS)?;
        for round in 0..4 {
            let (closed, open) = (format!("closed-{round}"), format!("open-{round}"));
            caller.phase("change")?;
            apply(&bed, "policy.yaml", &policies())?;
            caller.phase(&closed)?;
            caller.stay(&closed, &KINDS)?;
            caller.phase("change")?;
            let before = bed.generation()?;
            std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
            bed.wait_for_generation(before)?;
            caller.phase(&open)?;
            caller.stay(&open, &KINDS)?;
        }
        let report = caller.report()?;
        for (phase, kinds) in &report {
            for kind in kinds.keys() {
                let (yes, no) =
                    if kind == "opaque" { ("ping", "ECONNREFUSED") } else { ("200", "403") };
                assert_only(&report, phase, kind, "fine", &[yes]);
                let forbidden: &[_] = match phase.split('-').next() {
                    Some("closed") => &[no],
                    Some("open" | "start") => &[yes],
                    // reset, if it was made a moment before
                    _ => &[yes, no, "ECONNABORTED"],
                };
                assert_only(&report, phase, kind, "forbidden", forbidden);
            }
        }
        let paths = asked(&bed)?;
        assert!(!paths.iter().any(|path| path.contains("admin/closed")), "{report:?}");
        assert!(paths.iter().any(|path| path.contains("admin/open-3")), "{report:?}");
    }
    Ok(())
}
