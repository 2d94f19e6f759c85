//! The view in the terminal: keys and pictures come in, and whatever ends it, the terminal is left as
//! it was.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use beeway_telemetry::graph::Snapshot;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::view::View;
use super::{COMMAND, draw, what};
use crate::cli::TopArgs;
use crate::client;

/// How long a picture, or a signal, waits at most to be seen.
const GLANCE: Duration = Duration::from_millis(100);

type Picture = Result<Snapshot, String>;

/// Shows the view until a key or a signal ends it.
pub(super) fn run(args: &TopArgs, picture: Snapshot) -> Result<ExitCode> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register_usize(number, signal.clone(), number as usize)
            .context("take signals")?;
    }
    let pictures = pictures(args)?;
    let mut screen = Screen::enter()?;
    let shown = show(&mut screen, View::new(picture, args.sort), &pictures, &signal);
    drop(screen);
    shown?;
    match signal.load(Ordering::Relaxed) {
        0 => Ok(ExitCode::SUCCESS),
        number => {
            // ends this process as if the signal had not been taken
            signal_hook::low_level::emulate_default_handler(number as i32)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The terminal while the view has it.
struct Screen(DefaultTerminal);

impl Screen {
    /// Has it restored on a panic too.
    fn enter() -> Result<Screen> {
        ratatui::try_init().map(Screen).context("take over the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // what cannot be restored is gone
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

fn show(
    screen: &mut Screen,
    mut view: View,
    pictures: &Receiver<Picture>,
    signal: &AtomicUsize,
) -> Result<()> {
    let mut changed = true;
    while signal.load(Ordering::Relaxed) == 0 {
        if changed {
            screen.0.draw(|frame| draw::draw(&mut view, frame))?;
        }
        changed = event::poll(GLANCE)?;
        if changed
            && let Event::Key(key) = event::read()?
            && !view.key(key)
        {
            return Ok(());
        }
        for picture in pictures.try_iter() {
            view.update(picture);
            changed = true;
        }
    }
    Ok(())
}

/// Asks the agent again and again.
fn pictures(args: &TopArgs) -> Result<Receiver<Picture>> {
    let (sender, pictures) = channel();
    let (runtime, state, what) = (client::runtime()?, args.state.clone(), what(args));
    let interval = Duration::from_secs(args.interval);
    let ask = move || loop {
        std::thread::sleep(interval);
        let answer = runtime.block_on(client::json::<Snapshot>(&state, &what, COMMAND));
        let picture = match answer {
            Ok(Some(picture)) => Ok(picture),
            Ok(None) => Err("no agent is running".into()),
            Err(error) => Err(format!("{error:#}")),
        };
        if sender.send(picture).is_err() {
            return;
        }
    };
    std::thread::Builder::new().name("pictures".into()).spawn(ask).context("start a thread")?;
    Ok(pictures)
}
