//! Time limits that begin when the client has sent its whole request, as Envoy's do.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::call::Call;

/// A time limit that is not running yet, or is.
#[derive(Default)]
pub(crate) struct Deadline {
    limit: Option<Duration>,
    /// The client has sent all.
    started: bool,
    running: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Zero and `None` are no limit.
    pub fn new(limit: Option<Duration>) -> Deadline {
        Deadline { limit: limit.filter(|limit| !limit.is_zero()), started: false, running: None }
    }

    /// Resolves when time is up. The clock starts when the client has sent all of the request; and it
    /// runs as long as the endpoint takes nothing of that (HTTP/2 may have no room for another
    /// request): nothing is read then, and when the client has sent all is not known.
    pub fn poll(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if !self.started && call.poll_sent(cx) {
            self.started = true;
        } else if !self.started && call.is_taken() {
            self.running = None;
            return Poll::Pending;
        }
        let running = self.running.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        running.as_mut().poll(cx)
    }
}
