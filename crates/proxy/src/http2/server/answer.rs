//! Answers on their way to the client: from the engine, bit by bit, or from an endpoint's connection.

use std::task::{Context, Poll};

use h2::Reason;
use http::header::{self, HeaderMap};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::{Connection, Gone};
use crate::exchange::Answer;
use crate::headers::HOP_BY_HOP;
use crate::http2::body::Carrier;
use crate::http2::fields::{Field, Fields};
use crate::http2::frame;
use crate::http2::stream::{Ending, Receiving};

impl Connection {
    /// Sends what the engine answers.
    pub(super) async fn answer(&self, id: u32, answer: Answer) {
        let (mut parts, mut body) = answer.into_parts();
        for name in &HOP_BY_HOP {
            parts.headers.remove(name);
        }
        let bare = self.is_bare(id);
        let mut ends = body.is_end_stream() || bare;
        if let Some(length) = body.size_hint().exact().filter(|_| !ends) {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        let (status, fields) = (parts.status.as_str().as_bytes(), fields_of(&parts.headers));
        let mut sent = self.send_head(id, status, fields, ends);
        self.wake();
        while !ends && sent.is_ok() {
            let Some(item) = body.frame().await else {
                // Whether the client is still there makes no difference any more.
                let _ = self.send(id, &[], Some(Ending::Plain));
                break;
            };
            ends = true;
            sent = match item.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => {
                    ends = body.is_end_stream();
                    self.send(id, &data, ends.then_some(Ending::Plain)).map(drop)
                }
                Ok(Err(other)) => {
                    let trailers = other.into_trailers().unwrap_or_default();
                    self.send_trailers(id, fields_of(&trailers))
                }
                Err(_) => self.break_off(id),
            };
            self.wake();
            if !ends && sent.is_ok() {
                sent = std::future::poll_fn(|cx| self.poll_room(id, cx)).await;
            }
        }
        self.wake();
    }

    fn is_bare(&self, id: u32) -> bool {
        self.state.borrow().streams.get(&id).is_some_and(|stream| stream.bare)
    }

    /// Resolves when nothing of an answer waits any more.
    fn poll_room(&self, id: u32, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&id) else { return Poll::Ready(Err(Gone)) };
        if stream.sending.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        stream.sending.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Sends an answer's head.
    pub fn send_head<'a>(
        &self,
        id: u32,
        status: &[u8],
        fields: impl Iterator<Item = Field<'a>>,
        ends: bool,
    ) -> Result<(), Gone> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let stream = state.streams.get_mut(&id).ok_or(Gone)?;
        if let Receiving::Kept(_) = stream.body {
            // It will not be sent again.
            stream.body = Receiving::Nobody;
        }
        let encoder = &mut state.encoder;
        frame::headers(&mut state.output.bytes, id, ends, |out| {
            encoder.begin(out);
            encoder.encode(Field { name: b":status", value: status, never: false }, false, out);
            fields.for_each(|field| encoder.encode(field, false, out));
        });
        if ends {
            state.over(id);
        }
        Ok(())
    }

    /// Sends more of an answer. Returns how many bytes are on their way; as to the others, whoever
    /// answers is told of them later.
    pub fn send(&self, id: u32, data: &[u8], ending: Option<Ending>) -> Result<usize, Gone> {
        self.state.borrow_mut().send(id, data, ending)
    }

    /// Ends an answer with these fields.
    pub fn send_trailers<'a>(
        &self,
        id: u32,
        trailers: impl Iterator<Item = Field<'a>>,
    ) -> Result<(), Gone> {
        let mut fields = Fields::default();
        trailers.for_each(|field| fields.push(field.name, field.value, field.never));
        self.send(id, &[], Some(Ending::Trailers(fields))).map(drop)
    }

    /// Ends an answer in the middle, after what has been said of it.
    pub fn break_off(&self, id: u32) -> Result<(), Gone> {
        self.send(id, &[], Some(Ending::Reset(Reason::INTERNAL_ERROR))).map(drop)
    }
}

fn fields_of(headers: &HeaderMap) -> impl Iterator<Item = Field<'_>> {
    headers.iter().map(|(name, value)| Field {
        name: name.as_str().as_bytes(),
        value: value.as_bytes(),
        never: value.is_sensitive(),
    })
}

impl Carrier for Connection {
    fn taken(&self, id: u32, bytes: usize) {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&id) else { return };
        // What came before somebody read it has been given back.
        let bytes = bytes.min(stream.untaken);
        stream.untaken -= bytes;
        state.give_back(bytes);
        state.permit(id, bytes);
        if state.output.len() > 0 {
            state.waker.wake_by_ref();
        }
    }

    fn left(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&id) else { return };
        stream.body = Receiving::Nobody;
        let untaken = std::mem::take(&mut stream.untaken);
        state.give_back(untaken);
        if state.output.len() > 0 {
            state.waker.wake_by_ref();
        }
    }
}
