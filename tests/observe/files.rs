//! Files of access logs, which others move away.

use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::bed::wait_until;
use crate::scene::Scene;

#[test]
fn a_file_that_is_moved_is_made_anew_and_no_line_is_lost() -> Result<()> {
    let scene = Scene::new("rotate", &[], &["--access-log", "STATE/a.log"])?;
    let (path, first, second) = (scene.state("a.log"), scene.state("a.1"), scene.state("a.2"));
    let mode =
        |path: &str| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!(mode(&path)?, 0o640);
    scene.get("/one", &[])?;
    scene.records(&path, 1)?;
    // it is found out within a second or so
    std::fs::rename(&path, &first)?;
    wait_until("the file is there again", || Ok(std::fs::exists(&path)?))?;
    scene.get("/two", &[])?;
    assert_eq!(scene.records(&path, 1)?[0]["path"], "/two");
    // and at once when it is told
    std::fs::rename(&path, &second)?;
    scene.bed.agent.as_ref().expect("it runs").signal(Signal::SIGHUP);
    wait_until("the file is there again", || Ok(std::fs::exists(&path)?))?;
    scene.get("/detour/three", &[])?;
    assert_eq!(scene.records(&path, 1)?[0]["path"], "/detour/three");
    assert_eq!((scene.lines(&first, 1)?.len(), scene.lines(&second, 1)?.len()), (1, 1));
    assert_eq!(mode(&path)?, 0o640);
    assert_eq!(scene.counter("beeway_access_log_lost_total")?, 0);
    Ok(())
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_traffic_goes_on() -> Result<()> {
    let scene = Scene::new("full", &[], &["--access-log", "/dev/full"])?;
    for n in 0..5 {
        assert_eq!(scene.get(&format!("/detour/{n}"), &[])?.status, 200);
    }
    wait_until("all are counted", || Ok(scene.counter("beeway_access_log_lost_total")? == 5))?;
    assert!(scene.bed.agent_log().contains("the access log cannot be written"));
    Ok(())
}
