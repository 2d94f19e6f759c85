//! Other users of the machine are told nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use beeway_testbed::directory;

use crate::bed;
use crate::kit::{Listener, Scene};

const NOBODY: u32 = 65534;

#[test]
fn nobody_but_root_is_told() -> Result<()> {
    let scene = Scene::new("others")?;
    scene.connect()?.get("web", "/private", &[])?;
    scene.wait_for_flows(1)?;
    let state = scene.bed.state.path();
    let socket = state.join("api.sock");
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    // where anybody may run it
    let place = directory("others")?;
    fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
    let binary = place.path().join("beeway");
    // a child that another test forks while this process writes the file would keep it from being run
    let copied = Command::new("cp").arg(bed::binary()).arg(&binary).status()?;
    ensure!(copied.success(), "cp: {copied}");
    let ask = |args: &[&str]| -> Result<Output> {
        let mut command = Command::new(&binary);
        command.args(args).arg("--state").arg(state).uid(NOBODY).gid(NOBODY);
        command.output().context("run it as nobody")
    };
    let refused = |why: &str| -> Result<()> {
        for args in [&["flows", "--json"][..], &["flows", "-f"], &["top", "--once"]] {
            let output = ask(args)?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                (output.status.code(), &*output.stdout),
                (Some(1), &b""[..]),
                "{why}: {said}"
            );
            let hint = format!("only root may ask the agent: try `sudo beeway {}`", args[0]);
            assert!(said.contains(&hint), "{why}: {said}");
        }
        Ok(())
    };
    refused("by the directory's mode")?;
    fs::set_permissions(state, Permissions::from_mode(0o755))?;
    refused("by the socket's mode")?;
    fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    refused("by who it is")?;
    for what in ["/flows", "/snapshot", "/status", "/nothing"] {
        let error = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                become_nobody();
                Listener::connect(&socket, what).map(drop)
            });
            asked.join().expect("no panic")
        });
        let error = error.expect_err(what).to_string();
        assert!(error.starts_with("HTTP/1.0 403") && !error.contains("private"), "{what}: {error}");
    }
    assert_eq!(scene.flows(&[])?.len(), 1, "root is told");
    Ok(())
}

/// Gives up the user id of this thread alone, which the C library would do for all.
fn become_nobody() {
    let nobody = libc::c_long::from(NOBODY);
    // SAFETY: no pointers; the kernel changes the credentials of the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
    assert_eq!(done, 0, "the thread is nobody's");
}
