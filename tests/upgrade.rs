//! The agent dies, comes back, and is replaced: what goes on without it, and what it takes over.

mod bed;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, JASON, LIMIT, Shape, WEB};
use beeway_testbed::{Load, LoadReport, RawClient};

const URL: &str = "http://10.96.0.10:80/";

/// Keeps load on the bed while the agent is killed with SIGKILL and started again.
fn load_over_a_restart(bed: &mut Bed) -> Result<LoadReport> {
    let before = bed.generation()?;
    let load = Load::new(URL, 0).header("Host: web").connections(4);
    let process = load.command(&bed.client)?.spawn()?;
    let busy = bed.lane("native")? + bed.lane("shortcut")?;
    let begun = Instant::now();
    while bed.lane("native")? + bed.lane("shortcut")? < busy + 100 {
        ensure!(begun.elapsed() < LIMIT, "no load: {:?}", process.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    bed.agent.take().expect("an agent runs").kill9();
    // detours meanwhile: refused with a reason, on the same connection as native requests
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    for _ in 0..3 {
        assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
        let refused = raw.get("web", "/", &["end-user: jason"]).expect("a refusal");
        assert_eq!(refused.status, 503);
        assert!(refused.body.contains("proxy is not running"), "{}", refused.body);
    }
    // connections and answers of the kernel need no agent either
    let denied = RawClient::connect(&bed.client, WEB.parse()?)?.get("web", "/forbidden", &[])?;
    assert_eq!(denied.status, 403);
    bed.start_agent()?;
    bed.agent.as_ref().expect("an agent runs").wait_for_line("adopted=true", LIMIT)?;
    assert!(bed.generation()? > before, "generations count on over a restart");
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    LoadReport::parse(&process.output(LIMIT)?.success()?.stdout)
}

/// No request of that load failed, and none was refused.
fn loses_nothing(servers_in_mesh: bool) -> Result<()> {
    let mut bed = Bed::new("killed", Shape { servers_in_mesh }, JASON)?;
    let report = load_over_a_restart(&mut bed)?;
    assert_eq!(report.errors, 0, "{:?}", report.messages);
    assert_eq!(report.status.keys().collect::<Vec<_>>(), ["200"], "{report:?}");
    assert_eq!(bed.lane("refused")?, 0);
    Ok(())
}

#[test]
fn a_killed_agent_loses_no_native_request() -> Result<()> {
    loses_nothing(false)
}

#[test]
fn a_killed_agent_loses_no_shortcut_request() -> Result<()> {
    loses_nothing(true)
}

#[test]
fn a_stopped_agent_leaves_the_mesh_running_and_off_removes_it() -> Result<()> {
    let mut bed = Bed::new("stopped", Shape { servers_in_mesh: true }, JASON)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    bed.agent.take().expect("an agent runs").terminate(LIMIT)?;
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.status, 503);
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    bed::off(bed.state.path());
    let begun = Instant::now();
    // nothing answers at a service's address any more
    let mut refused = RawClient::connect(&bed.client, WEB.parse()?);
    while refused.is_ok() && begun.elapsed() < LIMIT {
        refused = RawClient::connect(&bed.client, WEB.parse()?);
    }
    assert!(refused.is_err());
    assert!(!bed.state.path().join("bpf").exists(), "the pins are gone");
    Ok(())
}

#[test]
fn a_request_that_went_down_with_the_agent_is_answered() -> Result<()> {
    let mut bed = Bed::new("orphan", Shape { servers_in_mesh: false }, JASON)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    raw.send("GET /delay/8000/x HTTP/1.1\r\nHost: web\r\nend-user: jason\r\n\r\n")?;
    let begun = Instant::now();
    while bed.status()?["proxy"]["requests"] != 2 {
        ensure!(begun.elapsed() < LIMIT, "the request did not reach the proxy");
    }
    bed.agent.take().expect("an agent runs").kill9();
    bed.start_agent()?;
    let answer = raw.response()?;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("ended during this request"), "{}", answer.body);
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    Ok(())
}
