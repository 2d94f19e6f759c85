//! `beeway top` in a terminal: what it draws, what keys do, and how it leaves the terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::bed::{self, LIMIT};
use crate::kit::Scene;

/// A command in a terminal of its own.
struct Seat {
    child: Child,
    keys: File,
    /// Kept open, so that what the child leaves can be looked at.
    terminal: OwnedFd,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a screen has cells")
}

impl Seat {
    fn new(scene: &Scene, args: &[&str]) -> Result<Seat> {
        let pair = openpty(&size(24, 100), None).context("a terminal")?;
        let before = tcgetattr(&pair.slave)?;
        let mut command = Command::new(bed::binary());
        command.args(args).arg("--state").arg(scene.bed.state.path());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let side = || pair.slave.try_clone();
        command.stdin(side()?).stdout(side()?).stderr(side()?);
        // SAFETY: system calls only, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            })
        };
        let child = command.spawn()?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(24), cells(100), 0)));
        let (shown, mut output) = (screen.clone(), File::from(pair.master.try_clone()?));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                shown.lock().expect("no panic while locked").process(&piece[..length]);
            }
        });
        let keys = File::from(pair.master);
        Ok(Seat { child, keys, terminal: pair.slave, before, screen })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    fn text(&self) -> String {
        self.screen.lock().expect("no panic while locked").screen().contents()
    }

    /// Waits until the screen shows something.
    fn shows(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let text = self.text();
            if holds(&text) {
                return Ok(text);
            }
            ensure!(Instant::now() < end, "never {what}:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        let mut screen = self.screen.lock().expect("no panic while locked");
        screen.screen_mut().set_size(cells(rows), cells(columns));
        drop(screen);
        let size = size(rows, columns);
        // SAFETY: the size lives until the call is over.
        let done = unsafe { libc::ioctl(self.keys.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        ensure!(done == 0, "resize: {}", std::io::Error::last_os_error());
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Waits for the end, after which the terminal is as it was.
    fn ends(mut self) -> Result<ExitStatus> {
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        };
        let after = tcgetattr(self.terminal.as_fd())?;
        assert_eq!(after, self.before, "the terminal's modes");
        let end = Instant::now() + LIMIT;
        loop {
            let screen = self.screen.lock().expect("no panic while locked");
            if !screen.screen().alternate_screen() && !screen.screen().hide_cursor() {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the other screen, or no cursor, is left");
            drop(screen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_view_is_drawn_hears_keys_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let mut scene = Scene::new("live")?;
    let mut seat = Seat::new(&scene, &["top", "--window", "60"])?;
    seat.shows("an empty picture", |text| text.contains("no traffic yet"))?;
    let mut raw = scene.connect()?;
    for path in ["/a", "/b", "/status/500", "/x/../admin"] {
        raw.get("web", path, &[])?;
    }
    // by itself, within some ticks
    let text = seat.shows("the service", |text| text.contains("default/web"))?;
    assert!(text.contains("SERVICE") && text.contains("\u{2592} detour 100 %"), "{text}");
    seat.press("\r")?;
    let caller = |text: &str| text.contains("CALLER") && text.contains("default/client");
    let text = seat.shows("callers", caller)?;
    assert!(text.contains(scene.bed.v1.label()), "{text}");
    seat.press("\x1b")?;
    seat.shows("services again", |text| text.contains("SERVICE"))?;
    seat.press("?")?;
    seat.shows("help", |text| text.contains(" keys "))?;
    seat.press("?/nothing")?;
    let none = |text: &str| !text.contains("default/web") && text.contains("/nothing");
    seat.shows("no service of that name", none)?;
    seat.press("\x1b")?;
    seat.shows("all services", |text| text.contains("default/web"))?;
    seat.resize(8, 60)?;
    let small = |text: &str| text.lines().nth(7).is_some_and(|line| line.starts_with("q end"));
    seat.shows("the smaller view", small)?;
    scene.bed.agent.take().context("an agent")?.terminate(LIMIT)?;
    seat.shows("trouble", |text| text.contains("no agent is running"))?;
    assert!(seat.text().contains("default/web"), "the last picture stays");
    scene.bed.start_agent()?;
    seat.shows("a new agent", |text| !text.contains("no agent is running"))?;
    seat.press("q")?;
    assert_eq!(seat.ends()?.code(), Some(0));

    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let seat = Seat::new(&scene, &["top"])?;
        seat.shows("a view", |text| text.contains("beeway top"))?;
        seat.signal(signal)?;
        assert_eq!(seat.ends()?.signal(), Some(signal as i32));
    }
    let mut seat = Seat::new(&scene, &["top"])?;
    seat.shows("a view", |text| text.contains("beeway top"))?;
    seat.press("\x03")?;
    assert_eq!(seat.ends()?.code(), Some(0));
    Ok(())
}

#[test]
fn colour_is_for_terminals() -> Result<()> {
    let scene = Scene::new("colour")?;
    scene.connect()?.get("web", "/a", &[])?;
    scene.wait_for_flows(1)?;
    let seat = Seat::new(&scene, &["flows"])?;
    seat.shows("a flow", |text| text.contains("forwarded"))?;
    let screen = seat.screen.clone();
    assert_eq!(seat.ends()?.code(), Some(0));
    let screen = screen.lock().expect("no panic while locked");
    let contents = screen.screen().contents_formatted();
    let contents = String::from_utf8_lossy(contents.as_ref()).into_owned();
    assert!(contents.contains("\x1b[32mforwarded"), "{contents:?}");
    Ok(())
}
