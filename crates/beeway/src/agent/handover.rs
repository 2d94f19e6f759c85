//! An agent hands over to the next one without losing a request.
//!
//! Who finds the state directory taken asks its owner over `STATE/handover.sock` (mode 0600), in
//! lines of text:
//!
//! ```text
//! new: take over                      old: lets go of the lock, metrics, events, configuration
//!                                     old: yours            (or: busy, while it has not finished
//!                                          taking over itself)
//! new: loads, opens its own sockets; new requests come to it
//! new: closed COOKIE, held COOKIE     (from now on: what the kernel tells of the old one's
//!                                     connections)
//! new: serving                        old: ends what it has begun, at most `--drain-seconds`
//!                                     old: ends; what is left is answered by the new one
//! ```
//!
//! Should the new one end before it serves, the old one goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeway_dataplane::{Error, Event, StateLock};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Agent, socket};

const TAKE_OVER: &str = "take over";
const YOURS: &str = "yours";
const BUSY: &str = "busy";
const SERVING: &str = "serving";

/// How long an agent may take to let go.
const PATIENCE: Duration = Duration::from_secs(5);

fn path(state: &Path) -> PathBuf {
    state.join("handover.sock")
}

/// What the next agent is told of the kernel's events, or tells the last one.
pub(crate) fn line(event: Event) -> Option<String> {
    match event {
        Event::Closed(cookie) => Some(format!("closed {cookie}\n")),
        Event::Held(cookie) => Some(format!("held {cookie}\n")),
        // whoever hears of it sees to it
        Event::Forbidden(_) | Event::Denied { .. } => None,
    }
}

fn event(line: &str) -> Option<Event> {
    let (kind, cookie) = line.split_once(' ')?;
    let cookie = cookie.parse().ok()?;
    match kind {
        "closed" => Some(Event::Closed(cookie)),
        "held" => Some(Event::Held(cookie)),
        _ => None,
    }
}

/// The agent that hands over to us.
pub(crate) struct Predecessor(UnixStream);

/// Takes the state directory: it is free, or its owner hands it over.
pub(crate) fn claim(state: &Path) -> Result<(StateLock, Option<Predecessor>)> {
    let locked = match StateLock::take(state) {
        Ok(lock) => return Ok((lock, None)),
        Err(locked @ Error::Locked(_)) => locked,
        Err(error) => return Err(error.into()),
    };
    let Ok(mut owner) = UnixStream::connect(path(state)) else { return Err(locked.into()) };
    if !beeway_dataplane::can_adopt(state) {
        bail!(
            "{locked}; it cannot hand over, since its tables in the kernel are of another version"
        );
    }
    tracing::info!("another agent runs here: it is asked to hand over");
    owner.set_read_timeout(Some(PATIENCE))?;
    writeln!(owner, "{TAKE_OVER}").context("ask the agent that runs to hand over")?;
    match read_line(&owner).context("wait for the agent that runs to hand over")?.as_str() {
        YOURS => {}
        BUSY => bail!(
            "{locked}; it has not finished taking over from another one itself: try again when \
             that has ended"
        ),
        said => bail!("{locked}; it cannot hand over: it says {said:?}"),
    }
    // it has let go before it said so
    Ok((StateLock::take(state)?, Some(Predecessor(owner))))
}

impl Predecessor {
    /// A way to tell it of events.
    pub(crate) fn line(&self) -> Result<UnixStream> {
        let line = self.0.try_clone().context("talk to the agent that hands over")?;
        // one that hangs must not hold up what is ours
        line.set_write_timeout(Some(PATIENCE))?;
        Ok(line)
    }

    /// Lets it end, and answers what it has not answered by then.
    pub(crate) fn relieve(mut self, agent: Arc<Agent>) -> Result<()> {
        writeln!(self.0, "{SERVING}").context("tell the agent that hands over to end")?;
        self.0.set_read_timeout(None)?;
        std::thread::Builder::new().name("predecessor".into()).spawn(move || {
            // it says nothing more; its end is the end of the connection
            let _ = self.0.read(&mut [0]);
            if let Err(error) = agent.detour.end_orphans() {
                tracing::error!("requests of the agent before this one stay unanswered: {error:#}");
            }
            agent.alone.store(true, Ordering::Release);
            tracing::info!("the agent before this one has ended");
        })?;
        Ok(())
    }
}

/// Waits for the next agent, on a thread of its own.
pub(crate) fn serve(agent: Arc<Agent>) -> Result<()> {
    let listener = socket::listen(&path(&agent.args.state))?;
    std::thread::Builder::new().name("handover".into()).spawn(move || {
        for next in listener.incoming().flatten() {
            match hand_over(&agent, &next) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::error!("cannot hand over: {error:#}"),
            }
        }
    })?;
    Ok(())
}

/// Whether another agent has the node now.
fn hand_over(agent: &Arc<Agent>, mut next: &UnixStream) -> Result<bool> {
    next.set_read_timeout(Some(PATIENCE))?;
    if read_line(next)? != TAKE_OVER {
        return Ok(false);
    }
    if !agent.alone.load(Ordering::Acquire) {
        writeln!(next, "{BUSY}")?;
        return Ok(false);
    }
    tracing::info!("another agent takes over");
    agent.let_go();
    if let Err(error) = wait_until_it_serves(agent, next) {
        tracing::warn!("the other agent has ended before it served: this one goes on: {error:#}");
        return agent.resume().map(|()| false);
    }
    drain(agent, next);
    Ok(true)
}

fn wait_until_it_serves(agent: &Agent, mut next: &UnixStream) -> Result<()> {
    writeln!(next, "{YOURS}")?;
    next.set_read_timeout(None)?;
    loop {
        let said = read_line(next)?;
        if said == SERVING {
            return Ok(());
        }
        // it hears the kernel's events before it serves
        let Some(event) = event(&said) else { bail!("it says {said:?}") };
        agent.detour.happened(event);
    }
}

/// Ends what was begun, and then this process.
fn drain(agent: &Agent, next: &UnixStream) {
    agent.relieved.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in BufReader::new(next).lines().map_while(Result::ok) {
                if let Some(event) = event(&line) {
                    agent.detour.happened(event);
                }
            }
        });
        if agent.detour.drain(agent.args.drain) {
            tracing::info!("what this agent had begun has ended");
        } else {
            tracing::warn!(limit = ?agent.args.drain, "not all that this agent had begun has ended");
        }
        let _ = next.shutdown(std::net::Shutdown::Read);
    });
    let _ = kill(Pid::this(), Signal::SIGTERM);
}

/// One line, byte by byte: what follows is left for the next reader. The end of the connection is an
/// error.
fn read_line(mut from: &UnixStream) -> Result<String> {
    const LIMIT: usize = 80;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LIMIT {
        from.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
    bail!("a line of more than {LIMIT} bytes")
}
