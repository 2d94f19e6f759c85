//! What is known of a client's connection: windows, streams, and what waits to be written.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use h2::Reason;

use super::{Gone, LEAVING};
use crate::http2::body::Lost;
use crate::http2::endpoint::Endpoint;
use crate::http2::fields::Field;
use crate::http2::frame::{self, *};
use crate::http2::hpack::{Decoder, Encoder};
use crate::http2::output::{Io, Output};
use crate::http2::reader::Reader;
use crate::http2::stream::{Answering, Ending, Receiving, Room, Stream};
use crate::limits::{
    HTTP2_CLIENT_WINDOW, HTTP2_HEADS, HTTP2_OUTPUT, HTTP2_RESETS, HTTP2_STREAM_WINDOW,
    HTTP2_STREAMS, REQUEST_HEAD,
};

/// Where a client's connection stands.
pub(super) struct State {
    pub io: Pin<Box<dyn Io>>,
    pub output: Output,
    pub reader: Reader,
    pub stage: Stage,
    pub decoder: Decoder,
    pub encoder: Encoder,
    pub peer: Peer,
    /// Bytes that the client takes in all.
    pub window: i64,
    /// Bytes that it may still send in all.
    pub granted: i64,
    /// Bytes that have been taken since it was told so.
    pub unreturned: u32,
    /// By numbers that the client chooses.
    pub streams: HashMap<u32, Stream>,
    /// Bytes of their heads.
    pub heads: usize,
    /// Those whose answers wait for windows or room.
    pub stalled: VecDeque<u32>,
    /// Those whose requests have begun in this turn and not ended.
    pub begun: Vec<u32>,
    /// Endpoints to which something was written in this turn.
    pub written: Vec<Rc<Endpoint>>,
    /// The highest number of a stream.
    pub last: u32,
    pub resets: Resets,
    pub waker: Waker,
}

/// Requests that ended by a reset, of either side, in one interval of house-keeping.
#[derive(Default)]
pub(super) struct Resets {
    since: u64,
    count: u32,
}

impl Resets {
    /// It is the nth interval.
    pub fn begin(&mut self, now: u64) {
        if self.since != now {
            *self = Resets { since: now, count: 0 };
        }
    }

    pub fn count(&mut self) {
        self.count += 1;
    }

    /// Each of them costs an endpoint work, and the client nothing.
    pub fn check(&self) -> Result<(), Reason> {
        if self.count > HTTP2_RESETS { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first frame must be SETTINGS.
    Settings,
    Open,
    /// The client has been told that there will be no more requests, and may not have heard it yet.
    Leaving,
    /// One of both has said so, and the other knows: it ends with its last request.
    Left,
    /// It has failed.
    Failed(Reason),
    /// The client has ended it.
    Ended,
}

impl State {
    pub fn new(io: Pin<Box<dyn Io>>) -> State {
        let mut output = Output::default();
        let settings = [
            (MAX_CONCURRENT_STREAMS, HTTP2_STREAMS),
            (INITIAL_WINDOW_SIZE, HTTP2_STREAM_WINDOW),
            (MAX_HEADER_LIST_SIZE, REQUEST_HEAD as u32),
        ];
        frame::settings(&mut output.bytes, &settings);
        frame::number(&mut output.bytes, WINDOW_UPDATE, 0, HTTP2_CLIENT_WINDOW - WINDOW);
        State {
            io,
            output,
            reader: Reader::default(),
            stage: Stage::Settings,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            peer: Peer::default(),
            window: i64::from(WINDOW),
            granted: i64::from(HTTP2_CLIENT_WINDOW),
            unreturned: 0,
            streams: HashMap::new(),
            heads: 0,
            stalled: VecDeque::new(),
            begun: Vec::new(),
            written: Vec::new(),
            last: 0,
            resets: Resets::default(),
            waker: Waker::noop().clone(),
        }
    }

    /// Tells the client that there will be no more requests.
    pub fn leave(&mut self) {
        match self.stage {
            Stage::Open => {}
            Stage::Settings => return self.stage = Stage::Left,
            _ => return,
        }
        frame::go_away(&mut self.output.bytes, WINDOW_MAX as u32, Reason::NO_ERROR);
        frame::ping(&mut self.output.bytes, 0, LEAVING);
        self.stage = Stage::Leaving;
    }

    /// The client knows that: what it has sent by now is all.
    pub fn has_heard(&mut self) {
        if self.stage == Stage::Leaving {
            frame::go_away(&mut self.output.bytes, self.last, Reason::NO_ERROR);
            self.stage = Stage::Left;
        }
    }

    /// The client will ask for nothing more.
    pub fn is_left(&mut self) {
        self.stage = Stage::Left;
    }

    /// Ends the connection, of which nothing more can be understood.
    pub fn fail(&mut self, reason: Reason) {
        frame::go_away(&mut self.output.bytes, self.last, reason);
        self.stage = Stage::Failed(reason);
        self.streams.drain().for_each(|(_, mut stream)| stream.stop(Lost::Connection));
    }

    /// Whether there is no room for another request.
    pub fn is_full(&self) -> bool {
        self.streams.len() >= HTTP2_STREAMS as usize || self.heads > HTTP2_HEADS
    }

    /// Resolves when all is written that can be.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let written = self.output.poll_write(cx, self.io.as_mut())?;
            self.go_on();
            if written.is_pending() || self.output.len() == 0 {
                return written.map(Ok);
            }
        }
    }

    /// How the connection ends, if it does.
    pub fn end(&self) -> Option<Result<(), Reason>> {
        match self.stage {
            Stage::Failed(reason) => Some(Err(reason)),
            Stage::Left if self.streams.is_empty() => Some(Ok(())),
            Stage::Ended => Some(Ok(())),
            _ => None,
        }
    }

    pub fn learn(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let before = self.peer.window;
        self.peer.learn(frame)?;
        self.encoder.limit(self.peer.table);
        frame::head(&mut self.output.bytes, 0, SETTINGS, ACK, 0);
        let more = i64::from(self.peer.window) - i64::from(before);
        if more == 0 {
            return Ok(());
        }
        for (id, stream) in &mut self.streams {
            stream.sending.window += more;
            if stream.sending.window > WINDOW_MAX {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            if stream.sending.is_ready() && !stream.sending.stalled {
                stream.sending.stalled = true;
                self.stalled.push_back(*id);
            }
        }
        self.go_on();
        Ok(())
    }

    pub fn widen(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let id = frame.stream;
        if id == 0 {
            let was_open = self.window > 0;
            frame::widen(&mut self.window, frame)?;
            if !was_open {
                self.go_on();
            }
            return Ok(());
        }
        if id > self.last {
            return Err(Reason::PROTOCOL_ERROR);
        }
        frame.number()?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if let Err(reason) = frame::widen(&mut stream.sending.window, frame) {
            self.reset(id, reason);
        } else if stream.sending.is_ready() && !stream.sending.stalled {
            stream.sending.stalled = true;
            self.stalled.push_back(id);
            self.go_on();
        }
        Ok(())
    }

    /// The client has taken a request back.
    pub fn taken_back(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        frame.number()?;
        if frame.stream == 0 || frame.stream > self.last {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.streams.contains_key(&frame.stream) {
            self.resets.count();
            self.remove(frame.stream);
        }
        Ok(())
    }

    /// Ends a stream from here.
    pub fn reset(&mut self, id: u32, reason: Reason) {
        self.resets.count();
        frame::reset(&mut self.output.bytes, id, reason);
        self.remove(id);
    }

    fn remove(&mut self, id: u32) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        self.begun.retain(|begun| *begun != id);
        self.heads -= stream.head;
        self.give_back(stream.untaken);
        stream.stop(Lost::Reset);
        self.look_for_end();
    }

    /// An answer has ended: so has the stream, and what is still to come of the request nobody wants.
    pub fn over(&mut self, id: u32) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        self.heads -= stream.head;
        if !stream.sent && !stream.sending.broken {
            frame::reset(&mut self.output.bytes, id, Reason::NO_ERROR);
        }
        self.give_back(stream.untaken);
        stream.lose(Lost::Reset);
        self.look_for_end();
    }

    /// The last stream of a connection may end in somebody else's turn.
    fn look_for_end(&self) {
        if self.end().is_some() {
            self.waker.wake_by_ref();
        }
    }

    /// Answers a request with a status and nothing more.
    pub fn answer_alone(&mut self, id: u32, status: &[u8]) {
        let encoder = &mut self.encoder;
        frame::headers(&mut self.output.bytes, id, true, |out| {
            encoder.begin(out);
            encoder.encode(Field { name: b":status", value: status, never: false }, false, out);
        });
        self.over(id);
    }

    pub fn send(&mut self, id: u32, data: &[u8], ending: Option<Ending>) -> Result<usize, Gone> {
        // Those that wait come first.
        let bytes = if self.stalled.is_empty() { self.room() } else { 0 };
        let stream = self.streams.get_mut(&id).ok_or(Gone)?;
        let mut room = Room {
            out: &mut self.output.bytes,
            encoder: &mut self.encoder,
            window: &mut self.window,
            payload: self.peer.payload,
            bytes,
        };
        let sent = stream.sending.send(id, data, ending, &mut room);
        if stream.sending.over {
            self.over(id);
        } else if stream.sending.is_ready() && !stream.sending.stalled {
            stream.sending.stalled = true;
            self.stalled.push_back(id);
        }
        Ok(sent)
    }

    /// Goes on with answers that wait, each in its turn.
    fn go_on(&mut self) {
        while self.room() > 0 && self.window > 0 {
            let Some(id) = self.stalled.pop_front() else { return };
            let bytes = self.room().min(PAYLOAD);
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let mut room = Room {
                out: &mut self.output.bytes,
                encoder: &mut self.encoder,
                window: &mut self.window,
                payload: self.peer.payload,
                bytes,
            };
            let sent = stream.sending.go_on(id, &mut room);
            if let Answering::Endpoint(endpoint, number) = &stream.answering
                && sent > 0
            {
                endpoint.taken(*number, sent);
            }
            stream.sending.stalled = stream.sending.is_ready();
            if stream.sending.stalled {
                self.stalled.push_back(id);
            } else if stream.sending.over {
                self.over(id);
            }
        }
    }

    /// Bytes that answers may add to what waits to be written.
    fn room(&self) -> usize {
        HTTP2_OUTPUT.saturating_sub(self.output.len())
    }

    /// Lets the client send as much again.
    pub fn give_back(&mut self, bytes: usize) {
        self.unreturned += bytes as u32;
        if self.unreturned >= HTTP2_CLIENT_WINDOW / 2 {
            self.granted += i64::from(self.unreturned);
            frame::number(&mut self.output.bytes, WINDOW_UPDATE, 0, self.unreturned);
            self.unreturned = 0;
        }
    }

    /// The same for one stream.
    pub fn permit(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sent || matches!(stream.body, Receiving::Nobody) {
            return;
        }
        stream.unreturned += bytes as u32;
        if stream.unreturned >= HTTP2_STREAM_WINDOW / 2 {
            stream.granted += i64::from(stream.unreturned);
            frame::number(&mut self.output.bytes, WINDOW_UPDATE, id, stream.unreturned);
            stream.unreturned = 0;
        }
    }
}
