//! Waiting for less than a millisecond, which tokio's clock cannot.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::stream::Stream;

/// Wakes streams at points in time, by one timer descriptor.
pub(crate) struct Pacer {
    timer: TimerFd,
    /// The same timer, as the runtime watches it.
    expired: AsyncFd<OwnedFd>,
    waiting: RefCell<BinaryHeap<Reverse<Entry>>>,
    armed: Cell<Option<Instant>>,
}

struct Entry {
    at: Instant,
    stream: Rc<Stream>,
}

impl Pacer {
    pub fn new() -> io::Result<Pacer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let watched = timer.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd names the same open descriptor from here until the AsyncFd drops it.
        let expired = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE)? };
        Ok(Pacer { timer, expired, waiting: RefCell::default(), armed: Cell::new(None) })
    }

    /// Wakes `stream` after `delay`.
    pub fn wake_in(&self, delay: Duration, stream: Rc<Stream>) {
        let at = Instant::now() + delay;
        self.waiting.borrow_mut().push(Reverse(Entry { at, stream }));
        if self.armed.get().is_none_or(|armed| at < armed) {
            self.arm(at, delay);
        }
    }

    /// Runs for as long as the worker does.
    pub async fn run(&self) -> io::Result<()> {
        loop {
            let mut ready = self.expired.readable().await?;
            ready.clear_ready();
            nix_again(nix::unistd::read(&self.timer, &mut [0; 8]))?;
            self.armed.set(None);
            let now = Instant::now();
            let mut waiting = self.waiting.borrow_mut();
            while waiting.peek().is_some_and(|Reverse(entry)| entry.at <= now) {
                if let Some(Reverse(entry)) = waiting.pop() {
                    entry.stream.wake();
                }
            }
            if let Some(Reverse(entry)) = waiting.peek() {
                self.arm(entry.at, entry.at - now);
            }
        }
    }

    fn arm(&self, at: Instant, delay: Duration) {
        // A zero timer would be a disarmed one.
        let delay = TimeSpec::from_duration(delay.max(Duration::from_micros(1)));
        match self.timer.set(Expiration::OneShot(delay), TimerSetTimeFlags::empty()) {
            Ok(()) => self.armed.set(Some(at)),
            Err(error) => tracing::error!(%error, "cannot set a timer"),
        }
    }
}

fn nix_again(read: nix::Result<usize>) -> io::Result<()> {
    match read {
        Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
