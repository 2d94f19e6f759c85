//! Connections of clients.

mod answer;
mod request;
mod state;

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Lost;
use super::frame::{self, *};
use super::output::Io;
use super::reader::Piece;
use crate::client::Client;
use crate::limits::{HTTP2_OUTPUT, HTTP2_TURNS};
use state::{Stage, State};

/// What the PING says that is sent to learn when a client has heard that the connection will end.
const LEAVING: &[u8; 8] = b"leaving.";

/// A client's connection.
pub(crate) struct Connection {
    pub client: Rc<Client>,
    /// An endpoint's connection will flush this one at the end of its turn.
    pub noted: Cell<bool>,
    state: RefCell<State>,
}

/// The client has taken the request back, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Serves a client's connection, whose preface has been read, to its end.
pub(crate) async fn serve(
    client: Rc<Client>,
    io: impl AsyncRead + AsyncWrite + 'static,
) -> io::Result<()> {
    let state = RefCell::new(State::new(Box::pin(io)));
    let connection = Rc::new(Connection { client, noted: Cell::new(false), state });
    let _closing = Closing(connection.clone());
    // Also by bus: all that the client says on this connection comes here.
    let mut draining = std::pin::pin!(connection.client.core.draining());
    let mut told = false;
    std::future::poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            connection.state.borrow_mut().leave();
        }
        connection.poll(cx)
    })
    .await
}

/// Ends all that was begun when a connection is over.
struct Closing(Rc<Connection>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        // Whoever is still answering holds the connection a little longer.
        let io: Pin<Box<dyn Io>> = Box::pin(tokio::io::empty());
        let io = std::mem::replace(&mut state.io, io);
        let streams = std::mem::take(&mut state.streams);
        drop(state);
        streams.into_values().for_each(|mut stream| stream.stop(Lost::Connection));
        drop(io);
    }
}

impl Connection {
    /// Reads and writes as much as there is; resolves at the end of the connection.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.borrow_mut().waker.clone_from(cx.waker());
        for _ in 0..HTTP2_TURNS {
            let mut state = self.state.borrow_mut();
            let written = state.poll_write(cx)?;
            if let Some(end) = state.end()
                && written.is_ready()
            {
                let shut = ready!(state.io.as_mut().poll_shutdown(cx));
                let end = end.map_err(|reason| io::Error::other(reason.description()));
                return Poll::Ready(end.and(shut));
            }
            // Whoever asks and does not listen is not heard. Answers alone do not get here.
            let unheard = state.output.len() > 4 * HTTP2_OUTPUT || state.stage == Stage::Ended;
            if unheard && written.is_pending() {
                return Poll::Pending;
            }
            drop(state);
            ready!(self.poll_read(cx))?;
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what has come.
    fn poll_read(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = self.client.core.plain.room();
        let mut buffer = ReadBuf::new(&mut room);
        let mut state = self.state.borrow_mut();
        ready!(state.io.as_mut().poll_read(cx, &mut buffer))?;
        let data = buffer.filled();
        if data.is_empty() {
            state.stage = Stage::Ended;
        } else if !matches!(state.stage, Stage::Failed(_))
            && let Err(reason) = self.take(&mut state, data)
        {
            let client = self.client.source;
            tracing::debug!(%reason, %client, "a connection of HTTP/2 has failed");
            self.client.core.counters.http2_failed.add(1);
            state.fail(reason);
        }
        Poll::Ready(Ok(()))
    }

    fn take(self: &Rc<Self>, state: &mut State, data: &[u8]) -> Result<(), Reason> {
        let mut reader = std::mem::take(&mut state.reader);
        state.resets.begin(self.client.core.sweeps.get());
        reader.read(data, |piece| {
            self.piece(state, piece)?;
            state.resets.check()
        })?;
        state.reader = reader;
        // What has not come as a whole by now may take any time.
        for id in std::mem::take(&mut state.begun) {
            self.engage(state, id, None);
        }
        state.written.drain(..).for_each(|endpoint| endpoint.flush());
        Ok(())
    }

    fn piece(self: &Rc<Self>, state: &mut State, piece: Piece<'_>) -> Result<(), Reason> {
        if state.stage == Stage::Settings {
            match &piece {
                Piece::Frame(frame) if frame.kind == SETTINGS && !frame.has(ACK) => {}
                _ => return Err(Reason::PROTOCOL_ERROR),
            }
            state.stage = Stage::Open;
        }
        let frame = match piece {
            Piece::Head { stream, ends, block } => return self.head(state, stream, ends, block),
            Piece::Frame(frame) => frame,
        };
        match frame.kind {
            DATA => self.data(state, &frame)?,
            PRIORITY if frame.payload.len() != 5 => return Err(Reason::FRAME_SIZE_ERROR),
            PRIORITY if frame.stream == 0 => return Err(Reason::PROTOCOL_ERROR),
            RST_STREAM => state.taken_back(&frame)?,
            SETTINGS | PING | GOAWAY if frame.stream != 0 => return Err(Reason::PROTOCOL_ERROR),
            SETTINGS if frame.has(ACK) && !frame.payload.is_empty() => {
                return Err(Reason::FRAME_SIZE_ERROR);
            }
            SETTINGS if !frame.has(ACK) => state.learn(&frame)?,
            PUSH_PROMISE | CONTINUATION => return Err(Reason::PROTOCOL_ERROR),
            PING if frame.payload.len() != 8 => return Err(Reason::FRAME_SIZE_ERROR),
            PING if !frame.has(ACK) => frame::ping(&mut state.output.bytes, ACK, frame.payload),
            PING if frame.payload == LEAVING => state.has_heard(),
            GOAWAY if frame.payload.len() < 8 => return Err(Reason::FRAME_SIZE_ERROR),
            GOAWAY => state.is_left(),
            WINDOW_UPDATE => state.widen(&frame)?,
            _ => {}
        }
        Ok(())
    }

    /// Writes what there is, as far as that goes at once.
    pub fn flush(&self) {
        let mut state = self.state.borrow_mut();
        // The task's own: a stream by bus knows one waker for both directions.
        let waker = state.waker.clone();
        if let Poll::Ready(Err(_)) = state.poll_write(&mut Context::from_waker(&waker)) {
            waker.wake();
        }
    }

    fn wake(&self) {
        self.state.borrow().waker.wake_by_ref();
    }
}
