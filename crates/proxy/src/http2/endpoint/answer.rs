//! Answers as they come from an endpoint.

use std::rc::Rc;

use h2::Reason;

use super::state::{Later, State, Stream, To};
use super::{End, Endpoint};
use crate::http2::body::{Inlet, Lost};
use crate::http2::fields::Fields;
use crate::http2::frame::{self, *};
use crate::http2::reader::Piece;
use crate::http2::{Answer, head, server};
use crate::incoming::Incoming;
use crate::limits::UPSTREAM_BUFFER;
use crate::plain::{Begun, Next};

impl Endpoint {
    pub(super) fn piece(
        self: &Rc<Self>,
        state: &mut State,
        piece: Piece<'_>,
    ) -> Result<(), Reason> {
        let frame = match piece {
            Piece::Head { stream, ends, block } => return self.head(state, stream, ends, block),
            Piece::Frame(frame) => frame,
        };
        match frame.kind {
            DATA | RST_STREAM if state.is_idle(frame.stream) => return Err(Reason::PROTOCOL_ERROR),
            DATA => return self.data(state, &frame),
            RST_STREAM => {
                let refused = frame.number()? == u32::from(Reason::REFUSED_STREAM);
                let end = if refused { End::Refused } else { End::Reset };
                self.lose(state, frame.stream, end);
            }
            SETTINGS | PING | GOAWAY if frame.stream != 0 => return Err(Reason::PROTOCOL_ERROR),
            SETTINGS if frame.has(ACK) => {}
            SETTINGS => state.learn(&frame)?,
            PUSH_PROMISE | CONTINUATION => return Err(Reason::PROTOCOL_ERROR),
            PING if frame.payload.len() != 8 => return Err(Reason::FRAME_SIZE_ERROR),
            PING if !frame.has(ACK) => frame::ping(&mut state.output.bytes, ACK, frame.payload),
            GOAWAY => {
                let last = frame.payload.first_chunk().ok_or(Reason::FRAME_SIZE_ERROR)?;
                let last = u32::from_be_bytes(*last) & 0x7fff_ffff;
                state.closed = true;
                let above = state.streams.keys().filter(|id| **id > last).copied();
                for id in above.collect::<Vec<_>>() {
                    self.lose(state, id, End::Refused);
                }
            }
            WINDOW_UPDATE if frame.stream == 0 => frame::widen(&mut state.window, &frame)?,
            WINDOW_UPDATE => drop(frame.number()?),
            _ => {}
        }
        Ok(())
    }

    /// A head has come: of an answer, or after its body.
    fn head(
        self: &Rc<Self>,
        state: &mut State,
        id: u32,
        ends: bool,
        block: &[u8],
    ) -> Result<(), Reason> {
        if state.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let mut fields = std::mem::take(&mut state.fields);
        fields.clear();
        let whole = state.decoder.decode(block, &mut fields, UPSTREAM_BUFFER);
        let whole = whole.map_err(|_| Reason::COMPRESSION_ERROR)?;
        let headed = match state.streams.get(&id) {
            None => None,
            Some(Stream { to: To::Client(call), .. }) => Some(call.is_headed()),
            Some(Stream { to: To::Engine(_), .. }) => Some(true),
        };
        let done = match headed {
            Some(_) if !whole => None,
            Some(false) => self.answer(state, id, ends, &fields),
            Some(true) => trailers(state, id, ends, &fields),
            None => Some(()),
        };
        if done.is_none() {
            self.break_off(state, id);
        }
        state.fields = fields;
        Ok(())
    }

    /// An answer has begun. `None`: it is malformed.
    fn answer(
        self: &Rc<Self>,
        state: &mut State,
        id: u32,
        ends: bool,
        fields: &Fields,
    ) -> Option<()> {
        let answer = Answer::read(fields)?;
        if (100..200).contains(&answer.status) {
            // More is to come, and nobody has asked for it.
            return (!ends && answer.status != 101).then_some(());
        }
        // There is no HEAD here.
        if ends && answer.length.is_some_and(|n| n > 0) && ![204, 304].contains(&answer.status) {
            return None;
        }
        let stream = state.streams.get_mut(&id)?;
        let To::Client(call) = &mut stream.to else { return None };
        match call.answer(&answer, ends) {
            Next::GoOn => {
                stream.length = answer.length.filter(|_| !ends);
                let client = call.client().clone();
                if ends {
                    state.finish(id);
                }
                state.note(&client);
            }
            Next::ClientGone => self.drop_stream(state, id),
            Next::HandOver => {
                let inlet = Inlet::new(if ends { Some(0) } else { answer.length });
                if ends {
                    inlet.end(None);
                }
                let response = answer.response(())?;
                let weak = Rc::downgrade(self);
                let response = response.map(|()| Incoming::Own(inlet.body(weak, id)));
                stream.length = answer.length.filter(|_| !ends);
                let to = std::mem::replace(&mut stream.to, To::Engine(inlet));
                if ends {
                    state.streams.remove(&id);
                }
                if let To::Client(call) = to {
                    let begun = Begun::Answer(Box::new(response));
                    state.later.push(Later::HandOver(call, begun));
                }
            }
        }
        Some(())
    }

    fn data(self: &Rc<Self>, state: &mut State, frame: &Frame<'_>) -> Result<(), Reason> {
        let (id, flow) = (frame.stream, frame.payload.len());
        let (data, ends) = (frame.content()?, frame.has(END_STREAM));
        state.give_back(flow);
        let Some(stream) = state.streams.get_mut(&id) else { return Ok(()) };
        stream.granted -= flow as i64;
        let length = match stream.length {
            None => Some(None),
            Some(left) => left.checked_sub(data.len() as u64).map(Some),
        };
        let complete = length.is_some_and(|left| !ends || left.is_none_or(|left| left == 0));
        let headed = match &stream.to {
            To::Client(call) => call.is_headed(),
            To::Engine(_) => true,
        };
        let (true, true, Some(length)) = (complete, headed && stream.granted >= 0, length) else {
            self.break_off(state, id);
            return Ok(());
        };
        stream.length = length;
        let mut taken = flow;
        match &mut stream.to {
            To::Engine(inlet) => {
                inlet.push(data);
                taken -= data.len();
                if ends {
                    inlet.end(None);
                    state.streams.remove(&id);
                }
            }
            To::Client(call) => {
                let client = call.client().clone();
                match call.data(data, ends) {
                    Ok(sent) => taken = flow - data.len() + sent,
                    Err(server::Gone) => {
                        self.drop_stream(state, id);
                        return Ok(());
                    }
                }
                if ends {
                    state.finish(id);
                }
                state.note(&client);
            }
        }
        state.permit(id, taken);
        Ok(())
    }

    /// Ends a stream of which something is malformed.
    fn break_off(self: &Rc<Self>, state: &mut State, id: u32) {
        frame::reset(&mut state.output.bytes, id, Reason::PROTOCOL_ERROR);
        self.lose(state, id, End::Garbage);
    }

    /// Ends a stream whose client is gone.
    fn drop_stream(&self, state: &mut State, id: u32) {
        frame::reset(&mut state.output.bytes, id, Reason::CANCEL);
        state.streams.remove(&id);
    }

    /// A stream has no end.
    pub(super) fn lose(self: &Rc<Self>, state: &mut State, id: u32, end: End) {
        match state.streams.remove(&id).map(|stream| stream.to) {
            Some(To::Client(call)) if call.is_headed() => {
                let client = call.client().clone();
                call.cut_off(end);
                state.note(&client);
            }
            Some(To::Client(call)) => state.later.push(Later::HandOver(call, Begun::from(end))),
            Some(To::Engine(inlet)) => inlet.lose(match end {
                End::Reset | End::Refused => Lost::Reset,
                _ => Lost::Connection,
            }),
            None => {}
        }
    }
}

/// Fields have come after the body. `None`: they are malformed.
fn trailers(state: &mut State, id: u32, ends: bool, fields: &Fields) -> Option<()> {
    let trailers = head::trailers(fields).filter(|_| ends)?;
    let stream = state.streams.get_mut(&id)?;
    stream.length.is_none_or(|left| left == 0).then_some(())?;
    match &mut stream.to {
        To::Engine(inlet) => {
            inlet.end(Some(head::map(&trailers)?));
            state.streams.remove(&id);
        }
        To::Client(call) => {
            let client = call.client().clone();
            if call.trailers(&trailers).is_ok() {
                state.finish(id);
                state.note(&client);
            } else {
                state.streams.remove(&id);
            }
        }
    }
    Some(())
}
