//! What is known of an endpoint's connection: windows, streams, and what waits to be written.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use h2::Reason;
use rustc_hash::FxHashMap;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::Outgoing;
use crate::http2::body::Inlet;
use crate::http2::fields::{Field, Fields};
use crate::http2::frame::{self, *};
use crate::http2::hpack::{Decoder, Encoder};
use crate::http2::output::Output;
use crate::http2::reader::Reader;
use crate::http2::server;
use crate::limits::{HTTP2_ENDPOINT_WINDOW, HTTP2_FIRST_STREAMS, HTTP2_STREAM_WINDOW};
use crate::plain::{Begun, Call};
use crate::stats::Held;

/// Where a connection stands.
pub(super) struct State {
    pub socket: Option<(TcpStream, Held)>,
    pub output: Output,
    pub reader: Reader,
    pub decoder: Decoder,
    pub encoder: Encoder,
    pub fields: Fields,
    pub peer: Peer,
    /// That is what it has said, and not what it may say.
    learnt: bool,
    /// Bytes that the endpoint takes in all.
    pub window: i64,
    /// Bytes of bodies that have come since it was told that it may send as many again.
    pub unreturned: u32,
    pub streams: FxHashMap<u32, Stream>,
    /// Requests that wait for the connection: nobody may want them any more when it is there.
    unsent: Vec<Unsent>,
    pub unsent_bytes: usize,
    pub next: u32,
    /// No further requests.
    pub closed: bool,
    /// It was asked whether it is still there.
    pub asked: bool,
    pub alarm: Option<(Instant, Pin<Box<Sleep>>)>,
    /// What is to be done at the end of this turn, when clients may look back here.
    pub later: Vec<Later>,
    pub waker: Waker,
}

struct Unsent {
    id: u32,
    head: Fields,
    body: Vec<u8>,
    steady: bool,
}

/// What is done at the end of a turn.
pub(super) enum Later {
    /// Something was sent to a client.
    Flush(Rc<server::Connection>),
    /// The engine goes on with a request.
    HandOver(Box<Call>, Begun),
}

/// A request.
pub(super) struct Stream {
    pub to: To,
    /// Bytes that the endpoint may still send.
    pub granted: i64,
    pub unreturned: u32,
    /// Bytes of the answer's body that are still to come, if that was said.
    pub length: Option<u64>,
}

/// Who gets the answer.
pub(super) enum To {
    Client(Box<Call>),
    /// The engine, which a plain request was given to because of its answer.
    Engine(Rc<Inlet>),
}

impl State {
    pub fn new() -> State {
        let mut output = Output::default();
        output.bytes.extend_from_slice(PREFACE);
        let settings = [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, HTTP2_STREAM_WINDOW)];
        frame::settings(&mut output.bytes, &settings);
        frame::number(&mut output.bytes, WINDOW_UPDATE, 0, HTTP2_ENDPOINT_WINDOW - WINDOW);
        State {
            socket: None,
            output,
            reader: Reader::default(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            fields: Fields::default(),
            peer: Peer { streams: HTTP2_FIRST_STREAMS, ..Peer::default() },
            learnt: false,
            window: i64::from(WINDOW),
            unreturned: 0,
            streams: FxHashMap::default(),
            unsent: Vec::new(),
            unsent_bytes: 0,
            next: 1,
            closed: false,
            asked: false,
            alarm: None,
            later: Vec::new(),
            waker: Waker::noop().clone(),
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Some((socket, _)) => self.output.poll_write(cx, Pin::new(socket)),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The connection is there.
    pub fn begin(&mut self, socket: (TcpStream, Held)) {
        self.socket = Some(socket);
        self.unsent_bytes = 0;
        for Unsent { id, head, body, steady } in std::mem::take(&mut self.unsent) {
            self.write(id, head.iter(), &body, steady);
        }
    }

    /// Keeps a request until then.
    pub fn keep(&mut self, id: u32, outgoing: &Outgoing<'_>) {
        let mut head = Fields::default();
        outgoing.head.iter().for_each(|field| head.push(field.name, field.value, field.never));
        let (body, steady) = (outgoing.body.to_vec(), outgoing.steady);
        self.unsent_bytes += head.size() + body.len();
        self.unsent.push(Unsent { id, head, body, steady });
    }

    /// Writes a request. `steady`: its target may come again.
    pub fn write<'a>(
        &mut self,
        id: u32,
        head: impl Iterator<Item = Field<'a>>,
        body: &[u8],
        steady: bool,
    ) {
        let encoder = &mut self.encoder;
        frame::headers(&mut self.output.bytes, id, body.is_empty(), |out| {
            encoder.begin(out);
            head.for_each(|field| encoder.encode(field, !steady && field.name == b":path", out));
        });
        if !body.is_empty() {
            frame::head(&mut self.output.bytes, body.len(), DATA, END_STREAM, id);
            self.output.bytes.extend_from_slice(body);
        }
    }

    /// Takes a request back.
    pub fn reset(&mut self, id: u32, reason: Reason) {
        match self.unsent.iter().position(|unsent| unsent.id == id) {
            Some(at) => self.window += self.unsent.remove(at).body.len() as i64,
            None => frame::reset(&mut self.output.bytes, id, reason),
        }
    }

    /// Takes what the endpoint tells of itself.
    pub fn learn(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        if !std::mem::replace(&mut self.learnt, true) {
            self.peer.streams = u32::MAX;
        }
        self.peer.learn(frame)?;
        self.encoder.limit(self.peer.table);
        frame::head(&mut self.output.bytes, 0, SETTINGS, ACK, 0);
        Ok(())
    }

    /// Whether a stream has not been begun.
    pub fn is_idle(&self, id: u32) -> bool {
        id.is_multiple_of(2) || id >= self.next
    }

    /// An answer is complete.
    pub fn finish(&mut self, id: u32) {
        if let Some(Stream { to: To::Client(call), .. }) = self.streams.remove(&id) {
            call.finish();
        }
    }

    /// Something was sent to a client.
    pub fn note(&mut self, client: &Rc<server::Connection>) {
        if !client.noted.replace(true) {
            self.later.push(Later::Flush(client.clone()));
        }
    }

    /// Lets the endpoint send as much again.
    pub fn give_back(&mut self, bytes: usize) {
        self.unreturned += bytes as u32;
        if self.unreturned >= HTTP2_ENDPOINT_WINDOW / 2 {
            frame::number(&mut self.output.bytes, WINDOW_UPDATE, 0, self.unreturned);
            self.unreturned = 0;
        }
    }

    /// The same for one stream. Returns whether there is something to write.
    pub fn permit(&mut self, id: u32, bytes: usize) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        stream.unreturned += bytes as u32;
        let due = stream.unreturned >= HTTP2_STREAM_WINDOW / 2;
        if due {
            stream.granted += i64::from(stream.unreturned);
            frame::number(&mut self.output.bytes, WINDOW_UPDATE, id, stream.unreturned);
            stream.unreturned = 0;
        }
        due
    }
}
