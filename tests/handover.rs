//! A second `beeway run` takes over from the first: nothing is lost.

mod bed;

use std::time::Duration;

use anyhow::{Context, Result};
use bed::{Bed, JASON, LIMIT, Shape, WEB, agent_command, ready, wait_until};
use beeway_testbed::{Command, Load, LoadReport, Process, RawClient, pattern, upload};

const URL: &str = "http://10.96.0.10:80/";
const MIB: u64 = 1 << 20;
const ANY: &str = "127.0.0.1:0";

fn agent(bed: &Bed, metrics: &str) -> Command {
    agent_command(&bed.node, bed.config.path(), bed.state.path()).args(["--metrics", metrics])
}

/// Lets another agent take over; what was the agent until then.
fn take_over(bed: &mut Bed) -> Result<Process> {
    let next = ready(agent(bed, ANY).spawn()?)?;
    bed.agent.replace(next).context("an agent runs")
}

/// A request by detour that has got to the proxy.
fn slow_request(bed: &Bed, path: &str) -> Result<RawClient> {
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    let before = bed.status()?["proxy"]["requests"].as_u64();
    raw.send(&format!("GET {path} HTTP/1.1\r\nHost: web\r\nend-user: jason\r\n\r\n"))?;
    wait_until("a request", || Ok(bed.status()?["proxy"]["requests"].as_u64() > before))?;
    Ok(raw)
}

#[test]
fn no_request_is_lost() -> Result<()> {
    let mut bed = Bed::new("handover", Shape { servers_in_mesh: false }, JASON)?;
    let load = |header: &str| {
        let load = Load::new(URL, 0).header("Host: web").header(header).connections(4);
        let load = Load { duration: Duration::from_secs(5), ..load };
        load.command(&bed.client)?.spawn()
    };
    let upload = upload(&bed.client, "http://10.96.0.10:80/delay/3000/sum", 4 * MIB)?
        .args(["-H", "Host: web", "-H", "end-user: jason"])
        .spawn()?;
    wait_until("an upload", || Ok(bed.status()?["proxy"]["direct_streams"] == 1))?;
    let mut waiting = slow_request(&bed, "/delay/3000/x")?;
    let mut idle = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    let loads = [load("end-user: jason")?, load("x-none: 1")?];
    let (detours, natives) = (bed.lane("detour")?, bed.lane("native")?);
    wait_until("load", || {
        Ok(bed.lane("detour")? > detours + 100 && bed.lane("native")? > natives + 100)
    })?;

    let mut last = take_over(&mut bed)?;
    // connections of the last agent go on with the new one, which has an own idea of rules
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert_ne!(bed.status()?["proxy"]["requests"], 0);
    assert_eq!(bed.status()?["pid"], bed.agent.as_ref().map(Process::pid).context("an agent")?);
    // begun with the last one, ended with it
    assert_eq!(waiting.response()?.served_by(), Some("v2"));
    assert_eq!(waiting.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    let sent = upload.output(LIMIT)?.success()?.json().pop().context("a report")?;
    assert_eq!(sent["reply"]["sha256"], pattern::sha256(4 * MIB), "{sent}");
    for load in loads {
        let report = LoadReport::parse(&load.output(LIMIT)?.success()?.stdout)?;
        assert_eq!(report.errors, 0, "{:?}", report.messages);
        assert_eq!(report.status.keys().collect::<Vec<_>>(), ["200"], "{report:?}");
    }
    assert!(last.wait(LIMIT)?.success(), "{}", last.stderr().join("\n"));
    // and once more, the other way round
    let mut last = take_over(&mut bed)?;
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert!(last.wait(LIMIT)?.success(), "{}", last.stderr().join("\n"));
    assert_eq!(bed.lane("refused")?, 0);
    Ok(())
}

#[test]
fn what_takes_longer_than_the_drain_is_answered() -> Result<()> {
    let mut bed = Bed::new("drain", Shape { servers_in_mesh: false }, JASON)?;
    let first = agent(&bed, ANY).args(["--drain-seconds", "1"]).spawn()?;
    let mut last = bed.agent.replace(ready(first)?).context("an agent runs")?;
    assert!(last.wait(LIMIT)?.success());
    let mut waiting = slow_request(&bed, "/delay/20000/x")?;
    let mut last = take_over(&mut bed)?;
    // one after another
    let third = agent(&bed, ANY).spawn()?.output(LIMIT)?;
    assert_eq!(third.status.code(), Some(1));
    assert!(third.stderr.contains("has not finished taking over"), "{}", third.stderr);
    let answer = waiting.response()?;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("ended during this request"), "{}", answer.body);
    assert_eq!(waiting.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert!(last.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn an_agent_that_cannot_start_leaves_the_other_in_charge() -> Result<()> {
    let mut bed = Bed::new("fails", Shape { servers_in_mesh: false }, JASON)?;
    let mut idle = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    let next = agent(&bed, "192.0.2.1:1").spawn()?.output(LIMIT)?;
    assert_eq!(next.status.code(), Some(1));
    assert!(next.stderr.contains("192.0.2.1:1"), "{}", next.stderr);
    let log = || bed.agent_log().contains("this one goes on");
    wait_until("the agent goes on", || Ok(log()))?;
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    let before = bed.generation()?;
    bed.route("- route:\n  - destination: {host: v1}\n")?;
    bed.wait_for_generation(before)?;
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v1"));
    let mut last = take_over(&mut bed)?;
    assert_eq!(idle.get("web", "/", &["end-user: jason"])?.served_by(), Some("v1"));
    assert!(last.wait(LIMIT)?.success());
    Ok(())
}
