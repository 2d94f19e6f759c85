//! One request of a client, and its answer.

use std::rc::Rc;
use std::task::Waker;

use bytes::{Buf, BytesMut};
use h2::Reason;
use tokio::task::AbortHandle;

use super::body::{Inlet, Lost};
use super::endpoint::Endpoint;
use super::fields::Fields;
use super::frame::{self, DATA, END_STREAM};
use super::hpack::Encoder;
use crate::limits::HTTP2_STREAM_WINDOW;

/// A stream of a client's connection.
pub(super) struct Stream {
    /// Where the request's body goes.
    pub body: Receiving,
    /// The client has sent all of it.
    pub sent: bool,
    /// Bytes of the body that are still to come, if that was said.
    pub length: Option<u64>,
    /// Bytes that the client may still send.
    pub granted: i64,
    /// Bytes that have been taken since it was told so.
    pub unreturned: u32,
    /// Bytes that have come and have not been taken.
    pub untaken: usize,
    pub answering: Answering,
    /// Bytes of the request's head.
    pub head: usize,
    /// The answer has no body, whatever it says (HEAD).
    pub bare: bool,
    pub sending: Sending,
}

/// What is done with a request's body.
pub(super) enum Receiving {
    /// Kept, for the request is still coming and may turn out to be plain. Or it is, and may have to
    /// be sent again.
    Kept(Box<Kept>),
    /// Passed on.
    Inlet(Rc<Inlet>),
    /// Thrown away.
    Nobody,
}

/// A request as it has come.
#[derive(Default)]
pub(super) struct Kept {
    pub head: Fields,
    pub body: Vec<u8>,
}

/// Who answers.
pub(super) enum Answering {
    Nobody,
    Engine(AbortHandle),
    /// An endpoint, and the number that the request has there.
    Endpoint(Rc<Endpoint>, u32),
}

/// An answer on its way to the client.
#[derive(Default)]
pub(super) struct Sending {
    /// Bytes that the client takes.
    pub window: i64,
    /// What it does not take yet.
    pub waiting: BytesMut,
    /// What follows that.
    pub ending: Option<Ending>,
    /// It has ended.
    pub over: bool,
    /// By a reset.
    pub broken: bool,
    /// It is in the list of those that wait for room, or for the window of all.
    pub stalled: bool,
    /// Who wants to know when nothing waits any more.
    pub waker: Option<Waker>,
}

/// How an answer ends.
#[derive(Debug)]
pub(crate) enum Ending {
    Plain,
    Trailers(Fields),
    Reset(Reason),
}

impl Stream {
    pub fn new(kept: Kept, window: u32) -> Stream {
        Stream {
            head: kept.head.size(),
            body: Receiving::Kept(Box::new(kept)),
            sent: false,
            length: None,
            granted: i64::from(HTTP2_STREAM_WINDOW),
            unreturned: 0,
            untaken: 0,
            answering: Answering::Nobody,
            bare: false,
            sending: Sending { window: i64::from(window), ..Sending::default() },
        }
    }

    /// Notes bytes of the body, of which `flow` count for the windows. `Err`: there is something wrong
    /// with them.
    pub fn receive(&mut self, data: &[u8], flow: usize, ends: bool) -> Result<(), Reason> {
        self.granted -= flow as i64;
        if self.sent {
            return Err(Reason::STREAM_CLOSED);
        }
        if self.granted < 0 {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        if let Some(left) = &mut self.length {
            *left = left.checked_sub(data.len() as u64).ok_or(Reason::PROTOCOL_ERROR)?;
            if ends && *left > 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
        }
        self.sent = ends;
        Ok(())
    }

    /// Ends all that is done for the request, which the client has taken back, or which is lost.
    pub fn stop(&mut self, lost: Lost) {
        match std::mem::replace(&mut self.answering, Answering::Nobody) {
            Answering::Engine(task) => task.abort(),
            Answering::Endpoint(endpoint, number) => endpoint.cancel(number),
            Answering::Nobody => {}
        }
        self.lose(lost);
    }

    /// Tells who reads the request's body that there is no more.
    pub fn lose(&mut self, lost: Lost) {
        if let (Receiving::Inlet(inlet), false) = (&self.body, self.sent) {
            inlet.lose(lost);
        }
        if let Some(waker) = self.sending.waker.take() {
            waker.wake();
        }
    }
}

/// What an answer may use of a connection.
pub(super) struct Room<'a> {
    pub out: &'a mut Vec<u8>,
    pub encoder: &'a mut Encoder,
    pub window: &'a mut i64,
    pub payload: usize,
    /// Bytes for which there is room.
    pub bytes: usize,
}

impl Sending {
    /// Writes DATA, as much as is allowed. Returns how many bytes that was.
    fn write(&mut self, id: u32, data: &[u8], ends: bool, room: &mut Room<'_>) -> usize {
        let allowed = self.window.min(*room.window).clamp(0, room.bytes as i64) as usize;
        let now = &data[..data.len().min(allowed)];
        for piece in now.chunks(room.payload) {
            let last = ends && piece.as_ptr_range().end == data.as_ptr_range().end;
            frame::head(room.out, piece.len(), DATA, if last { END_STREAM } else { 0 }, id);
            room.out.extend_from_slice(piece);
        }
        self.window -= now.len() as i64;
        *room.window -= now.len() as i64;
        room.bytes -= now.len();
        now.len()
    }

    /// Whether it could go on if there was room.
    pub fn is_ready(&self) -> bool {
        self.window > 0 && !self.waiting.is_empty()
    }

    /// Adds to the answer, and how it ends if it does. Returns the bytes that are on their way.
    pub fn send(
        &mut self,
        id: u32,
        data: &[u8],
        ending: Option<Ending>,
        room: &mut Room<'_>,
    ) -> usize {
        let plain = matches!(ending, Some(Ending::Plain));
        let now = if self.waiting.is_empty() { self.write(id, data, plain, room) } else { 0 };
        self.waiting.extend_from_slice(&data[now..]);
        self.ending = ending;
        self.settle(id, now, room);
        now
    }

    /// Goes on with what waits. Returns the bytes that are on their way.
    pub fn go_on(&mut self, id: u32, room: &mut Room<'_>) -> usize {
        let mut waiting = std::mem::take(&mut self.waiting);
        let plain = matches!(self.ending, Some(Ending::Plain));
        let now = self.write(id, &waiting, plain, room);
        waiting.advance(now);
        self.waiting = waiting;
        self.settle(id, now, room);
        now
    }

    /// Ends the answer, if `now` bytes of it were the last ones.
    fn settle(&mut self, id: u32, now: usize, room: &mut Room<'_>) {
        if !self.waiting.is_empty() {
            return;
        }
        if let Some(ending) = self.ending.take() {
            self.over = true;
            self.broken = matches!(ending, Ending::Reset(_));
            // The last frame of data says it.
            if now == 0 || !matches!(ending, Ending::Plain) {
                end(id, &ending, room);
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn end(id: u32, ending: &Ending, room: &mut Room<'_>) {
    match ending {
        Ending::Plain => frame::head(room.out, 0, DATA, END_STREAM, id),
        Ending::Reset(reason) => frame::reset(room.out, id, *reason),
        Ending::Trailers(trailers) => {
            frame::headers(room.out, id, true, |out| {
                room.encoder.begin(out);
                trailers.iter().for_each(|field| room.encoder.encode(field, false, out));
            });
        }
    }
}
