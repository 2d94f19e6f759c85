//! A request under way, and how far its answer is.

use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use beeway_model::action::retry::{Failure, should_retry};

use super::answer;
use super::body::Body;
use super::{Begun, Handed, Routed, Untold};
use crate::attempt::USUAL_RETRY;
use crate::call::{Active, conclude};
use crate::frame::Judged;
use crate::record::{Flags, Record};
use crate::stream::Stream;
use crate::wire::Wire;

/// A client's request. Dropped before [`Job::finish`], it was given up because its client is gone.
pub(super) struct Job {
    active: Option<Active>,
    stream: Rc<Stream>,
    routed: Routed,
    judged: Judged,
    /// See [`Handed::made_up`].
    made_up: Option<[u8; 36]>,
    record: Option<(Box<Record>, Instant)>,
    over: bool,
    /// What is to come of the answer; `None`: its head, too.
    body: Option<Body>,
    /// Its framing is none from here on.
    broken: bool,
    sent: u64,
    /// Bytes of the answer that the client could not be given at once.
    waiting: Vec<u8>,
    given: usize,
    /// The connection can be used again.
    pub keep_alive: bool,
    /// The answer's head is not a plain one.
    pub unusual: bool,
}

/// Why a job cannot go on here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// What the endpoint says is for the engine to understand.
    HandOver,
    /// The answer broke off.
    CutOff,
    ClientGone,
}

impl Job {
    pub fn new(
        stream: &Rc<Stream>,
        routed: Routed,
        judged: Judged,
        made_up: Option<[u8; 36]>,
        record: Option<Box<Record>>,
    ) -> Job {
        Job {
            active: Some(Active::new(&stream.core)),
            stream: stream.clone(),
            routed,
            judged,
            made_up,
            record: record.map(|record| (record, Instant::now())),
            over: false,
            body: None,
            broken: false,
            sent: 0,
            waiting: Vec::new(),
            given: 0,
            keep_alive: true,
            unusual: false,
        }
    }

    pub fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// What to do now that the connection has ended.
    pub fn at_end(&self) -> Stop {
        if self.body.is_none() { Stop::HandOver } else { Stop::CutOff }
    }

    /// Takes what the endpoint has sent.
    pub fn read(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let mut rest = data;
        if self.body.is_none() {
            let length = self.read_head(cx, data, out)?;
            rest = &data[length..];
        }
        while let Some(body) = &mut self.body
            && !rest.is_empty()
        {
            if body.has_ended() {
                // Nobody has asked for more.
                self.keep_alive = false;
                return Ok(());
            }
            let chunked = body.is_chunked();
            let Ok(run) = body.next(rest) else {
                // What came before goes to the client first.
                self.broken = true;
                return Ok(());
            };
            let ended = body.has_ended();
            rest = &rest[run.used..];
            self.sent += run.content.len() as u64;
            if !chunked {
                self.give(cx, run.content)?;
                continue;
            }
            if !run.content.is_empty() {
                out.clear();
                write!(out, "{:X}\r\n", run.content.len()).map_err(|_| Stop::CutOff)?;
                self.give(cx, out)?;
                self.give(cx, run.content)?;
                self.give(cx, b"\r\n")?;
            }
            if ended {
                self.give(cx, b"0\r\n\r\n")?;
            }
        }
        Ok(())
    }

    fn read_head(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, Stop> {
        let Some(head) = answer::read(data) else {
            self.unusual = true;
            return Err(Stop::HandOver);
        };
        let chosen = self.routed.chosen();
        let retry = chosen.policy.retry.as_ref().unwrap_or(&USUAL_RETRY);
        let (status, grpc_status) = (head.status, head.grpc_status);
        if should_retry(retry, Failure::Answered { status, grpc_status }) {
            return Err(Stop::HandOver);
        }
        if let Some((record, _)) = &mut self.record {
            record.status = status;
        }
        let length = head.length;
        self.keep_alive = head.keep_alive;
        self.body = Some(head.write(&chosen, out));
        self.give(cx, out)?;
        Ok(length)
    }

    fn give(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), Stop> {
        let mut given = 0;
        if self.waiting.is_empty() {
            given = match self.stream.collect(cx, bytes) {
                Poll::Ready(given) => given.map_err(|_| Stop::ClientGone)?,
                Poll::Pending => 0,
            };
        }
        self.waiting.extend_from_slice(&bytes[given..]);
        Ok(())
    }

    /// Resolves when the client has been given all that was read; `true`: and that is the whole
    /// answer.
    pub fn poll_give(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Stop>> {
        let Some(body) = &self.body else {
            return Poll::Ready(Ok(false));
        };
        while self.given < self.waiting.len() {
            let left = &self.waiting[self.given..];
            self.given += ready!(self.stream.collect(cx, left)).map_err(|_| Stop::ClientGone)?;
        }
        self.waiting.clear();
        self.given = 0;
        let ended = body.has_ended();
        if ended {
            self.stream.answer_ends();
        }
        ready!(self.stream.flush(cx)).map_err(|_| Stop::ClientGone)?;
        Poll::Ready(if self.broken { Err(Stop::CutOff) } else { Ok(ended) })
    }

    /// The answer has ended, `whole` or broken off by the endpoint.
    pub fn finish(mut self, whole: bool) {
        let core = &self.stream.core;
        let mut flags = Flags::default();
        core.counters.plain.add(1);
        if !whole {
            core.counters.upstream_errors.add(1);
            flags = Flags::UPSTREAM_CONNECTION_TERMINATION;
        }
        self.over = true;
        conclude(core, self.record.take(), flags, self.sent);
    }

    /// Lets the engine go on: with `request` as the client has sent it and the connection, on which
    /// the rest of it is `unsent` and `read` has come back.
    pub fn hand_over(mut self, address: SocketAddr, request: &[u8], wire: Option<Wire>) {
        self.over = true;
        let untold = Untold::new(&self.stream.core, self.record.take());
        let (view, made_up) = (self.routed.view.clone(), self.made_up);
        let begun = wire.map_or(Begun::Failed(Failure::NoConnection), Begun::Sent);
        let (draw, started) = (self.judged.draw, Instant::now());
        let _active = self.active.take();
        let handed = Handed { view, address, made_up, untold, begun, draw, started, _active };
        self.stream.hand_over(request, self.judged, handed);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.over {
            let flags = Flags::DOWNSTREAM_CONNECTION_TERMINATION;
            conclude(&self.stream.core, self.record.take(), flags, self.sent);
        }
    }
}
