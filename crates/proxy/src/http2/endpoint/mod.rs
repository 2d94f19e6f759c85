//! Connections to endpoints, for plain requests of many clients.

mod answer;
mod state;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use beeway_model::action::retry::Failure;
use h2::Reason;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use super::body::Carrier;
use super::fields::Field;
use super::frame::{self, *};
use crate::limits::{
    CONNECT_TIMEOUT, HTTP2_OUTPUT, HTTP2_SILENCE, HTTP2_STREAM_WINDOW, HTTP2_TURNS, POOL_AGE, SWEEP,
};
use crate::plain::{Begun, Call};
use crate::stats::Held;
use crate::upstream::connect;
use crate::worker::Core;
use state::{Later, State, Stream, To};

/// A connection. Its task always reads.
pub(crate) struct Endpoint {
    address: SocketAddr,
    core: Rc<Core>,
    state: RefCell<State>,
    /// When something was last heard, in sweeps.
    heard: Cell<u64>,
}

/// Why a stream has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The endpoint could not be reached.
    NoConnection,
    /// The connection has ended.
    Connection,
    /// The endpoint has not looked at the request.
    Refused,
    /// It has taken the request back.
    Reset,
    /// What it said is not HTTP.
    Garbage,
    TimedOut,
}

/// What goes out to the endpoint.
pub(crate) struct Outgoing<'a> {
    pub head: &'a [Field<'a>],
    pub body: &'a [u8],
    /// The target may come again.
    pub steady: bool,
}

impl Endpoint {
    /// A connection that is made while its first requests wait.
    pub fn open(core: &Rc<Core>, address: SocketAddr) -> Rc<Endpoint> {
        let endpoint = Rc::new(Endpoint {
            address,
            core: core.clone(),
            state: RefCell::new(State::new()),
            heard: Cell::new(core.sweeps.get()),
        });
        tokio::task::spawn_local(run(endpoint.clone()));
        endpoint
    }

    /// Whether it takes a request with so many bytes of body at once.
    pub fn has_room(&self, body: usize) -> bool {
        let state = self.state.borrow();
        let window = state.window.min(i64::from(state.peer.window));
        let streams = state.streams.len() < state.peer.streams as usize;
        let output = state.output.len() + state.unsent_bytes;
        !state.closed && streams && body as i64 <= window && output < HTTP2_OUTPUT
    }

    /// Whether it can be thrown away.
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// Writes a request for which there is room; [`Endpoint::flush`] brings it on its way. Returns its
    /// number, for [`Endpoint::expect`].
    pub fn write(&self, outgoing: &Outgoing<'_>) -> u32 {
        let mut state = self.state.borrow_mut();
        let id = state.next;
        state.next += 2;
        state.closed |= i64::from(state.next) > WINDOW_MAX;
        state.window -= outgoing.body.len() as i64;
        if state.socket.is_some() {
            state.write(id, outgoing.head.iter().copied(), outgoing.body, outgoing.steady);
        } else {
            state.keep(id, outgoing);
        }
        id
    }

    /// Notes who gets the answer to a request.
    pub fn expect(&self, id: u32, call: Call) {
        let mut state = self.state.borrow_mut();
        if state.streams.is_empty() {
            self.heard.set(self.core.sweeps.get());
        }
        if let Some(deadline) = call.deadline()
            && state.alarm.as_ref().is_none_or(|(alarm, _)| *alarm > deadline)
        {
            state.alarm = Some(alarm(deadline));
            state.waker.wake_by_ref();
        }
        let (to, granted) = (To::Client(Box::new(call)), i64::from(HTTP2_STREAM_WINDOW));
        state.streams.insert(id, Stream { to, granted, unreturned: 0, length: None });
    }

    /// Writes what there is, as far as that goes at once.
    pub fn flush(&self) {
        let mut state = self.state.borrow_mut();
        let waker = state.waker.clone();
        if let Poll::Ready(Err(_)) = state.poll_write(&mut Context::from_waker(&waker)) {
            waker.wake();
        }
    }

    /// Nobody wants the answer to a request any more.
    pub fn cancel(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        if state.streams.remove(&id).is_some() {
            state.reset(id, Reason::CANCEL);
            state.waker.wake_by_ref();
        }
    }

    /// House-keeping at intervals of [`SWEEP`]: an endpoint that vanished without a word is found
    /// out, and a connection that has not been used for long ends. Returns whether it is still there.
    pub fn sweep(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let silence = SWEEP * (self.core.sweeps.get() - self.heard.get()) as u32;
        if state.streams.is_empty() {
            if state.closed || silence < POOL_AGE {
                return !state.closed;
            }
            state.closed = true;
            frame::go_away(&mut state.output.bytes, 0, Reason::NO_ERROR);
        } else if silence > HTTP2_SILENCE + CONNECT_TIMEOUT && state.asked {
            state.closed = true;
            state.socket = None;
        } else if silence > HTTP2_SILENCE && !state.asked {
            state.asked = true;
            frame::ping(&mut state.output.bytes, 0, b"beeway..");
        } else {
            return true;
        }
        state.waker.wake_by_ref();
        true
    }

    /// Reads and writes as much as there is; resolves at the end of the connection.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<End> {
        self.state.borrow_mut().waker.clone_from(cx.waker());
        for _ in 0..HTTP2_TURNS {
            self.poll_alarm(cx);
            let mut state = self.state.borrow_mut();
            let written = state.poll_write(cx);
            let broken = matches!(written, Poll::Ready(Err(_)));
            if broken {
                // What it has said before is still to be read.
                state.closed = true;
                state.output.clear();
            }
            if state.socket.is_none() || (state.closed && state.streams.is_empty()) {
                return Poll::Ready(End::Connection);
            }
            // An endpoint that asks and does not listen is not heard. Requests alone do not get here.
            if state.output.len() > 4 * HTTP2_OUTPUT && written.is_pending() {
                return Poll::Pending;
            }
            drop(state);
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending if broken => return Poll::Ready(End::Connection),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what has come.
    fn poll_read(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut room = self.core.plain.room();
        let mut buffer = ReadBuf::new(&mut room);
        let mut state = self.state.borrow_mut();
        let Some((socket, _)) = &mut state.socket else {
            return Poll::Ready(Err(End::Connection));
        };
        if ready!(Pin::new(socket).poll_read(cx, &mut buffer)).is_err() {
            return Poll::Ready(Err(End::Connection));
        }
        let data = buffer.filled();
        if data.is_empty() {
            return Poll::Ready(Err(End::Connection));
        }
        self.heard.set(self.core.sweeps.get());
        state.asked = false;
        let mut reader = std::mem::take(&mut state.reader);
        let taken = reader.read(data, |piece| self.piece(&mut state, piece));
        state.reader = reader;
        let ended = taken.map_err(|reason| {
            tracing::debug!(%reason, endpoint = %self.address, "an endpoint's connection has failed");
            frame::go_away(&mut state.output.bytes, 0, reason);
            let _ = state.poll_write(cx);
            let garbage = reason == Reason::PROTOCOL_ERROR;
            if garbage { End::Garbage } else { End::Connection }
        });
        drop(state);
        self.settle();
        Poll::Ready(ended)
    }

    /// Does what was left for the end of a turn.
    fn settle(&self) {
        let mut later = std::mem::take(&mut self.state.borrow_mut().later);
        for later in later.drain(..) {
            match later {
                Later::Flush(client) => {
                    client.noted.set(false);
                    client.flush();
                }
                Later::HandOver(call, begun) => call.hand_over(begun),
            }
        }
        // with its room
        self.state.borrow_mut().later = later;
    }

    /// Ends the requests whose time is up.
    fn poll_alarm(self: &Rc<Self>, cx: &mut Context<'_>) {
        let mut state = self.state.borrow_mut();
        let mut rang = false;
        while let Some((_, sleep)) = &mut state.alarm
            && sleep.as_mut().poll(cx).is_ready()
        {
            rang = true;
            let now = Instant::now();
            let deadlines = state.streams.iter().filter_map(|(id, stream)| match &stream.to {
                To::Client(call) => Some((call.deadline()?, *id)),
                To::Engine(_) => None,
            });
            let (late, others): (Vec<_>, Vec<_>) = deadlines.partition(|(at, _)| *at <= now);
            let next = others.iter().map(|(at, _)| *at).min();
            state.alarm = next.map(alarm);
            for (_, id) in late {
                state.reset(id, Reason::CANCEL);
                self.lose(&mut state, id, End::TimedOut);
            }
        }
        drop(state);
        if rang {
            self.settle();
        }
    }

    /// Ends all streams, as the connection has ended.
    fn close(self: &Rc<Self>, end: End) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        let ids: Vec<u32> = state.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| self.lose(&mut state, id, end));
        state.socket = None;
        drop(state);
        self.settle();
    }

    /// So many bytes of an answer have been taken: as many may follow.
    pub fn taken(&self, id: u32, bytes: usize) {
        let mut state = self.state.borrow_mut();
        if state.permit(id, bytes) {
            state.waker.wake_by_ref();
        }
    }
}

fn alarm(at: Instant) -> (Instant, Pin<Box<Sleep>>) {
    (at, Box::pin(tokio::time::sleep_until(at.into())))
}

impl Carrier for Endpoint {
    fn taken(&self, id: u32, bytes: usize) {
        Endpoint::taken(self, id, bytes);
    }

    fn left(&self, id: u32) {
        self.cancel(id);
    }
}

/// Makes the connection, and keeps it going.
async fn run(endpoint: Rc<Endpoint>) {
    let mut connected = std::pin::pin!(connect(endpoint.address));
    let connected = std::future::poll_fn(|cx| {
        endpoint.state.borrow_mut().waker.clone_from(cx.waker());
        endpoint.poll_alarm(cx);
        connected.as_mut().poll(cx)
    });
    match connected.await {
        Ok(socket) => {
            let held =
                Held::new(&endpoint.core.counters, |counters| &counters.upstream_connections);
            endpoint.state.borrow_mut().begin((socket, held));
        }
        Err(error) => {
            tracing::debug!(%error, address = %endpoint.address, "cannot connect");
            return endpoint.close(End::NoConnection);
        }
    }
    let end = std::future::poll_fn(|cx| endpoint.poll(cx)).await;
    endpoint.close(end);
}

impl From<End> for Begun {
    fn from(end: End) -> Begun {
        match end {
            End::NoConnection => Begun::Failed(Failure::NoConnection),
            End::Connection => Begun::Failed(Failure::Reset { sent: true }),
            End::Refused => Begun::Failed(Failure::RefusedStream),
            End::Reset => Begun::Reset,
            End::Garbage => Begun::Garbage,
            End::TimedOut => Begun::TimedOut,
        }
    }
}
