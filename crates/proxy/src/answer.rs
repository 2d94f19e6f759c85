//! Answers: an endpoint's or our own, and when they end.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use beeway_model::action::grpc::status_of_http;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use crate::call::Call;
use crate::deadline::Deadline;
use crate::grpc;
use crate::headers::strip_trailers;
use crate::incoming::{Incoming, Lost};
use crate::record::Flags;

/// An answer's body. Dropping it ends the answer, which the HTTP server does as soon as it needs no
/// more of it, and gives the connection to the endpoint back.
pub(crate) struct AnswerBody {
    kind: Kind,
    /// The answer ends with this body.
    ends: bool,
    /// The body broke off, or has been read to its end.
    over: Over,
    call: Rc<Call>,
}

enum Kind {
    /// Empty when taken.
    Own(Bytes),
    Endpoint(Box<Answering>),
}

/// What an endpoint sends, and until when.
struct Answering {
    body: Incoming,
    http2: bool,
    deadline: Deadline,
    /// Why it has broken off, which the server has not been told yet.
    cut_off: Option<CutOff>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    Read,
    Broken,
}

/// Why an answer is cut off.
#[derive(Debug)]
pub(crate) enum CutOff {
    /// The endpoint broke off.
    Endpoint(Lost),
    /// It has reset the request although nothing was wrong.
    Reset,
    /// Time ran out.
    Timeout,
}

impl AnswerBody {
    /// All of a body.
    pub fn own(body: Bytes, call: &Rc<Call>) -> AnswerBody {
        AnswerBody { kind: Kind::Own(body), ends: true, over: Over::No, call: call.clone() }
    }

    /// What an endpoint sends.
    pub fn endpoint(
        body: Incoming,
        http2: bool,
        deadline: Deadline,
        call: &Rc<Call>,
    ) -> AnswerBody {
        let kind = Kind::Endpoint(Box::new(Answering { body, http2, deadline, cut_off: None }));
        AnswerBody { kind, ends: true, over: Over::No, call: call.clone() }
    }

    /// A body to be collected for another one.
    pub fn in_part(mut self) -> AnswerBody {
        self.ends = false;
        self
    }

    /// Nothing: after the head the connection is a tunnel, and the answer does not end here.
    pub fn tunnel(call: &Rc<Call>) -> AnswerBody {
        AnswerBody::own(Bytes::new(), call).in_part()
    }
}

/// An answer that no endpoint gave. For gRPC an error is told as one of gRPC.
pub(crate) fn own(status: StatusCode, body: Bytes, call: &Rc<Call>) -> Response<AnswerBody> {
    if call.grpc && !status.is_success() {
        let mut response = own(StatusCode::OK, Bytes::new(), call);
        let text = String::from_utf8_lossy(&body);
        grpc::tell(&mut response, status_of_http(status.as_u16()), &text);
        return response;
    }
    let text = !body.is_empty();
    let mut response = Response::new(AnswerBody::own(body, call));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if text {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(header::SERVER, HeaderValue::from_static("beeway"));
    call.client.core.counters.answered.add(1);
    response
}

impl Answering {
    /// A body that breaks off is told of in the next turn: the server throws away what it has not
    /// sent yet when it hears of it.
    fn poll(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Item>> {
        if let Some(cut_off) = self.cut_off.take() {
            return Poll::Ready(Some(Err(cut_off)));
        }
        let item = self.poll_now(cx, call);
        match item {
            Poll::Ready(Some(Err(cut_off))) => {
                self.cut_off = Some(cut_off);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            item => item,
        }
    }

    fn poll_now(&mut self, cx: &mut Context<'_>, call: &Call) -> Poll<Option<Item>> {
        // Asking first makes the connection read; what it has read is then there at once.
        let mut item = Pin::new(&mut self.body).poll_frame(cx);
        if item.is_pending() {
            call.slot.drive(cx);
            item = Pin::new(&mut self.body).poll_frame(cx);
        }
        if item.is_pending() && self.deadline.poll(cx, call).is_ready() {
            return Poll::Ready(Some(Err(CutOff::Timeout)));
        }
        match item {
            // RST_STREAM with NO_ERROR, which the library calls an end.
            Poll::Ready(None) if self.http2 && !self.body.is_end_stream() => {
                Poll::Ready(Some(Err(CutOff::Reset)))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            item => item.map(|item| item.map(|item| item.map_err(CutOff::Endpoint))),
        }
    }
}

type Item = Result<Frame<Bytes>, CutOff>;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let AnswerBody { kind, ends, over, call } = &mut *self;
        let item = match kind {
            Kind::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Endpoint(answering) => answering.poll(cx, call),
        };
        match &item {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    *over = Over::Read;
                    if let Some(status) = grpc::status_of(trailers) {
                        call.note(|record| record.grpc_status = Some(status.into()));
                    }
                }
                call.count_sent(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "an answer was cut off");
                call.client.core.counters.upstream_errors.add(1);
                call.flag(match error {
                    CutOff::Endpoint(lost) if lost.is_reset() => Flags::UPSTREAM_REMOTE_RESET,
                    CutOff::Endpoint(_) => Flags::UPSTREAM_CONNECTION_TERMINATION,
                    CutOff::Reset => Flags::UPSTREAM_REMOTE_RESET,
                    CutOff::Timeout => Flags::UPSTREAM_REQUEST_TIMEOUT,
                });
                *over = Over::Broken;
                if *ends {
                    call.client.answer_breaks();
                }
            }
            Poll::Ready(None) => *over = Over::Read,
            Poll::Pending => {}
        }
        item
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_empty(),
            Kind::Endpoint(answering) => answering.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Endpoint(answering) => answering.body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let whole = self.over == Over::Read || self.is_end_stream();
        // The connection looks at whether anybody still wants the rest of a body.
        let was_endpoint = matches!(self.kind, Kind::Endpoint(_));
        self.kind = Kind::Own(Bytes::new());
        if was_endpoint && let Some(upstream) = self.call.slot.take() {
            self.call.client.core.pool.borrow_mut().put(upstream);
        }
        if !self.ends {
            return;
        }
        if self.over != Over::Broken {
            self.call.client.answer_ends();
        }
        self.call.finish(whole);
    }
}

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CutOff::Endpoint(error) => write!(f, "the endpoint broke off: {error}"),
            CutOff::Reset => f.write_str("the endpoint took it back"),
            CutOff::Timeout => f.write_str("time ran out"),
        }
    }
}

impl std::error::Error for CutOff {}
