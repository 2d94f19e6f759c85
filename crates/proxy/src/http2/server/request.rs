//! Requests as they come: their heads, bodies and trailers, and who gets them.

use std::rc::Rc;

use h2::Reason;

use super::Connection;
use super::state::{Stage, State};
use crate::exchange::handle_begun;
use crate::http2::body::Inlet;
use crate::http2::fields::Fields;
use crate::http2::frame::{self, END_STREAM, Frame};
use crate::http2::stream::{Answering, Kept, Receiving, Stream};
use crate::http2::{Asked, head};
use crate::incoming::Incoming;
use crate::limits::{PLAIN_REQUEST, REQUEST_HEAD};
use crate::plain::{self, Handed};

impl Connection {
    /// A head has come: of a request, or after its body.
    pub(super) fn head(
        self: &Rc<Self>,
        state: &mut State,
        id: u32,
        ends: bool,
        block: &[u8],
    ) -> Result<(), Reason> {
        let known = id > state.last || state.streams.contains_key(&id);
        let refused = id > state.last && (state.is_full() || state.stage == Stage::Left);
        // What nobody wants is read for the tables' sake.
        let limit = if known && !refused { REQUEST_HEAD } else { 0 };
        let mut fields = Fields::default();
        let whole = state.decoder.decode(block, &mut fields, limit);
        let whole = whole.map_err(|_| Reason::COMPRESSION_ERROR)?;
        if id.is_multiple_of(2) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if id <= state.last {
            self.trailers(state, id, ends && whole, &fields);
            return Ok(());
        }
        state.last = id;
        if refused {
            self.client.core.counters.http2_refused.add(u64::from(state.is_full()));
            state.resets.count();
            frame::reset(&mut state.output.bytes, id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        let window = state.peer.window;
        let mut stream = Stream::new(Kept { head: fields, body: Vec::new() }, window);
        stream.sent = ends;
        state.heads += stream.head;
        state.streams.insert(id, stream);
        if !whole {
            state.answer_alone(id, b"431");
        } else if ends {
            self.dispatch(state, id);
        } else {
            self.begin(state, id);
        }
        Ok(())
    }

    /// A request has begun that has a body.
    fn begin(self: &Rc<Self>, state: &mut State, id: u32) {
        let Some(stream) = state.streams.get_mut(&id) else { return };
        let Receiving::Kept(kept) = &stream.body else { return };
        let Some(asked) = Asked::read(&kept.head) else {
            return state.reset(id, Reason::PROTOCOL_ERROR);
        };
        stream.length = asked.length;
        state.begun.push(id);
    }

    fn trailers(self: &Rc<Self>, state: &mut State, id: u32, ends: bool, fields: &Fields) {
        let Some(stream) = state.streams.get_mut(&id) else {
            // One that was over before this came.
            return;
        };
        let trailers = head::trailers(fields).filter(|_| ends);
        let received = stream.receive(&[], 0, true);
        let (Ok(()), Some(trailers)) = (received, trailers) else {
            let reason = received.err().unwrap_or(Reason::PROTOCOL_ERROR);
            return state.reset(id, reason);
        };
        let Some(trailers) = head::map(&trailers) else {
            return state.reset(id, Reason::PROTOCOL_ERROR);
        };
        if let Receiving::Kept(_) = stream.body {
            stream.sent = false;
            self.engage(state, id, None);
        }
        let Some(stream) = state.streams.get_mut(&id) else { return };
        stream.sent = true;
        if let Receiving::Inlet(inlet) = &stream.body {
            inlet.end(Some(trailers));
        }
    }

    /// Some of a request's body has come.
    pub(super) fn data(
        self: &Rc<Self>,
        state: &mut State,
        frame: &Frame<'_>,
    ) -> Result<(), Reason> {
        let (id, flow) = (frame.stream, frame.payload.len());
        if id == 0 || id > state.last {
            return Err(Reason::PROTOCOL_ERROR);
        }
        state.granted -= flow as i64;
        if state.granted < 0 {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let (data, ends) = (frame.content()?, frame.has(END_STREAM));
        let Some(stream) = state.streams.get_mut(&id) else {
            state.give_back(flow);
            return Ok(());
        };
        if let Err(reason) = stream.receive(data, flow, ends) {
            state.give_back(flow);
            state.reset(id, reason);
            return Ok(());
        }
        let mut taken = flow;
        match &mut stream.body {
            Receiving::Kept(kept) => kept.body.extend_from_slice(data),
            Receiving::Inlet(inlet) => {
                inlet.push(data);
                if ends {
                    inlet.end(None);
                }
                stream.untaken += data.len();
                taken -= data.len();
            }
            Receiving::Nobody => {}
        }
        state.give_back(taken);
        state.permit(id, taken);
        if ends && let Some(Stream { body: Receiving::Kept(_), .. }) = state.streams.get(&id) {
            state.begun.retain(|begun| *begun != id);
            self.dispatch(state, id);
        }
        Ok(())
    }

    /// Forwards a request that is there as a whole, the short way if it is plain.
    fn dispatch(self: &Rc<Self>, state: &mut State, id: u32) {
        let Some(stream) = state.streams.get_mut(&id) else { return };
        let Receiving::Kept(kept) = &stream.body else { return };
        let Some(asked) = Asked::read(&kept.head) else {
            return state.reset(id, Reason::PROTOCOL_ERROR);
        };
        if asked.length.is_some_and(|length| length != kept.body.len() as u64) {
            return state.reset(id, Reason::PROTOCOL_ERROR);
        }
        let small = kept.body.len() <= PLAIN_REQUEST;
        let taken = small.then(|| plain::take_http2(self, id, &asked, &kept.body)).flatten();
        let Some((endpoint, number)) = taken else {
            return self.engage(state, id, None);
        };
        stream.answering = Answering::Endpoint(endpoint.clone(), number);
        if !state.written.iter().any(|other| Rc::ptr_eq(other, &endpoint)) {
            state.written.push(endpoint);
        }
    }

    /// Lets the engine answer a request of which this much has come, or go on with it.
    pub(super) fn engage(self: &Rc<Self>, state: &mut State, id: u32, begun: Option<Box<Handed>>) {
        let Some(stream) = state.streams.get_mut(&id) else { return };
        let Receiving::Kept(kept) = &mut stream.body else { return };
        let kept = std::mem::take(&mut **kept);
        let request = Asked::read(&kept.head).and_then(|asked| {
            stream.bare = asked.method == "HEAD";
            asked.request(asked.length)
        });
        let Some(request) = request else {
            return state.reset(id, Reason::PROTOCOL_ERROR);
        };
        let (parts, length) = request.into_parts();
        let empty = stream.sent && kept.body.is_empty();
        let inlet = Inlet::new(length.or(empty.then_some(0)));
        if !kept.body.is_empty() {
            inlet.push(&kept.body);
        }
        if stream.sent {
            inlet.end(None);
        }
        let weak = Rc::downgrade(self);
        let body = Incoming::Own(inlet.body(weak, id));
        stream.body = Receiving::Inlet(inlet);
        let (connection, request) = (self.clone(), http::Request::from_parts(parts, body));
        let task = tokio::task::spawn_local(async move {
            let answer = handle_begun(&connection.client, request, begun).await;
            connection.answer(id, answer).await;
        });
        stream.answering = Answering::Engine(task.abort_handle());
    }

    /// Lets the engine go on with a request that an endpoint was asked to answer.
    pub fn hand_over(self: &Rc<Self>, id: u32, handed: Handed) {
        let mut state = self.state.borrow_mut();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.answering = Answering::Nobody;
        }
        self.engage(&mut state, id, Some(Box::new(handed)));
        state.waker.wake_by_ref();
    }
}
