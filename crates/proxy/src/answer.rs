//! Answers: an endpoint's or our own, and when they end.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::stream::Stream;

/// An answer's body. Dropping it ends the answer, which the HTTP server does as soon as it needs no
/// more of it, and gives the connection to the endpoint back.
pub(crate) struct AnswerBody {
    kind: Kind,
    /// The answer ends with this body.
    ends: bool,
    stream: Rc<Stream>,
}

enum Kind {
    /// Empty when taken.
    Own(Bytes),
    Endpoint(Incoming),
}

impl AnswerBody {
    /// All of a body.
    pub fn own(body: Bytes, stream: &Rc<Stream>) -> AnswerBody {
        AnswerBody { kind: Kind::Own(body), ends: true, stream: stream.clone() }
    }

    /// What an endpoint sends.
    pub fn endpoint(body: Incoming, stream: &Rc<Stream>) -> AnswerBody {
        AnswerBody { kind: Kind::Endpoint(body), ends: true, stream: stream.clone() }
    }

    /// What an endpoint sends, to be collected for another body.
    pub fn in_part(body: Incoming, stream: &Rc<Stream>) -> AnswerBody {
        AnswerBody { kind: Kind::Endpoint(body), ends: false, stream: stream.clone() }
    }

    /// Nothing: after the head the connection is a tunnel, and the answer does not end here.
    pub fn tunnel(stream: &Rc<Stream>) -> AnswerBody {
        AnswerBody { kind: Kind::Own(Bytes::new()), ends: false, stream: stream.clone() }
    }
}

/// An answer that no endpoint gave.
pub(crate) fn own(status: StatusCode, body: Bytes, stream: &Rc<Stream>) -> Response<AnswerBody> {
    let text = !body.is_empty();
    let mut response = Response::new(AnswerBody::own(body, stream));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if text {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(header::SERVER, HeaderValue::from_static("beeway"));
    stream.core.counters.answered.add(1);
    response
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let AnswerBody { kind, ends, stream } = &mut *self;
        let body = match kind {
            Kind::Own(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Own(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Endpoint(body) => body,
        };
        // Asking first makes the connection read; what it has read is then there at once.
        let mut item = Pin::new(&mut *body).poll_frame(cx);
        if item.is_pending() {
            stream.drive(cx);
            item = Pin::new(body).poll_frame(cx);
        }
        if let Poll::Ready(Some(Err(error))) = &item {
            tracing::debug!(%error, "an answer was cut off");
            stream.core.counters.upstream_errors.add(1);
            stream.broken.set(*ends);
        }
        item
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_empty(),
            Kind::Endpoint(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Endpoint(body) => body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // The connection looks at whether anybody still wants the rest of a body.
        let was_endpoint = matches!(self.kind, Kind::Endpoint(_));
        self.kind = Kind::Own(Bytes::new());
        if was_endpoint {
            let upstream = self.stream.upstream.borrow_mut().take();
            if let Some(upstream) = upstream {
                self.stream.core.pool.borrow_mut().put(upstream);
            }
        }
        if self.ends && !self.stream.broken.get() {
            self.stream.answer_ends();
        }
    }
}
