//! A request's body on its way: read once, sent as often as it takes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::limits::{MIRROR_BUFFER, REPLAY_BYTES};

/// The body of one try. All tries of a request share its [`Source`].
pub(crate) enum RequestBody {
    /// Nothing follows the head.
    Empty,
    /// What the client sends; `next` counts the pieces taken so far.
    Source { source: Rc<Source>, next: usize },
    /// A mirror's copy.
    Tee(Rc<Tee>),
}

/// Where a request's body comes from.
pub(crate) struct Source {
    body: RefCell<Incoming>,
    /// What has been read, for another try.
    kept: RefCell<Vec<Piece>>,
    kept_bytes: Cell<usize>,
    /// Another try is possible.
    keeping: Cell<bool>,
    /// The end has been read.
    ended: Cell<bool>,
    /// Bytes read.
    pub received: Cell<u64>,
    tees: RefCell<Vec<Rc<Tee>>>,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// What of a body a mirror has not sent yet.
#[derive(Default)]
pub(crate) struct Tee {
    /// Bytes of the whole, if known.
    length: Option<u64>,
    waiting: RefCell<VecDeque<Piece>>,
    bytes: Cell<usize>,
    state: Cell<TeeState>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum TeeState {
    #[default]
    Open,
    Ended,
    /// The mirror was too slow, or the body broke off.
    Broken,
}

/// Why a body ends early.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The client's bytes are no body.
    Client(hyper::Error),
    /// A mirror fell behind.
    Mirror,
}

impl RequestBody {
    /// The first try's body, and the source for more; no source when there is no body.
    pub fn of(body: Incoming) -> (RequestBody, Option<Rc<Source>>) {
        if body.is_end_stream() {
            return (RequestBody::Empty, None);
        }
        let source = Rc::new(Source {
            body: RefCell::new(body),
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            keeping: Cell::new(false),
            ended: Cell::new(false),
            received: Cell::new(0),
            tees: RefCell::default(),
        });
        (RequestBody::Source { source: source.clone(), next: 0 }, Some(source))
    }
}

impl Source {
    /// Keeps what is read, as far as [`REPLAY_BYTES`], so that another try can send it again.
    pub fn keep(&self) {
        self.keeping.set(true);
    }

    /// There will be no other try.
    pub fn let_go(&self) {
        self.keeping.set(false);
        self.kept.borrow_mut().clear();
    }

    /// The body of another try; `None`: too much has been read.
    pub fn again(self: &Rc<Self>) -> Option<RequestBody> {
        let possible = self.keeping.get() || self.received.get() == 0;
        possible.then(|| RequestBody::Source { source: self.clone(), next: 0 })
    }

    /// Whether the client has sent all of it.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// A copy of all that is read from now on, for a mirror.
    pub fn tee(&self) -> RequestBody {
        let length = self.body.borrow().size_hint().exact();
        let tee = Rc::new(Tee { length, ..Tee::default() });
        self.tees.borrow_mut().push(tee.clone());
        RequestBody::Tee(tee)
    }

    fn poll(&self, cx: &mut Context<'_>, next: &mut usize) -> Poll<Option<Item>> {
        if let Some(piece) = self.kept.borrow().get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(piece.clone().into())));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        let mut body = self.body.borrow_mut();
        let frame = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        // Without this the end of a body of known length would only be seen by asking once more,
        // which nobody does.
        let last = frame.is_none() || body.is_end_stream();
        drop(body);
        let frame = match frame {
            None => None,
            Some(Ok(frame)) => {
                self.note(&frame, next);
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.keeping.set(false);
                self.tees.take().iter().for_each(|tee| tee.end(TeeState::Broken));
                Some(Err(BodyError::Client(error)))
            }
        };
        if last {
            self.ended.set(true);
            self.tees.take().iter().for_each(|tee| tee.end(TeeState::Ended));
        }
        Poll::Ready(frame)
    }

    fn note(&self, frame: &Frame<Bytes>, next: &mut usize) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (_, Some(trailers)) => Piece::Trailers(trailers.clone()),
            _ => return,
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.received.set(self.received.get() + length as u64);
        self.tees.borrow_mut().retain(|tee| tee.push(piece.clone(), length));
        if !self.keeping.get() {
            return;
        }
        self.kept_bytes.set(self.kept_bytes.get() + length);
        if self.kept_bytes.get() > REPLAY_BYTES {
            self.let_go();
        } else {
            self.kept.borrow_mut().push(piece);
            *next += 1;
        }
    }
}

impl Tee {
    /// Whether more is wanted.
    fn push(&self, piece: Piece, length: usize) -> bool {
        self.bytes.set(self.bytes.get() + length);
        let room = self.bytes.get() <= MIRROR_BUFFER && self.state.get() == TeeState::Open;
        if room {
            self.waiting.borrow_mut().push_back(piece);
            self.wake();
        } else {
            self.end(TeeState::Broken);
        }
        room
    }

    fn end(&self, state: TeeState) {
        self.state.set(state);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.state.get() == TeeState::Broken {
            return Poll::Ready(Some(Err(BodyError::Mirror)));
        }
        if let Some(piece) = self.waiting.borrow_mut().pop_front() {
            if let Piece::Data(data) = &piece {
                self.bytes.set(self.bytes.get() - data.len());
            }
            return Poll::Ready(Some(Ok(piece.into())));
        }
        if self.state.get() == TeeState::Ended {
            return Poll::Ready(None);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

type Item = Result<Frame<Bytes>, BodyError>;

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Source { source, next } => source.poll(cx, next),
            RequestBody::Tee(tee) => tee.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Source { source, next } => {
                source.ended.get() && *next >= source.kept.borrow().len()
            }
            RequestBody::Tee(tee) => {
                tee.state.get() == TeeState::Ended && tee.waiting.borrow().is_empty()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            // What is left in the source is the whole before anything was read.
            RequestBody::Source { source, next: 0 } => {
                let left = source.body.borrow().size_hint();
                match left.exact() {
                    Some(left) => SizeHint::with_exact(left + source.received.get()),
                    None => SizeHint::default(),
                }
            }
            RequestBody::Tee(tee) => {
                tee.length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            RequestBody::Source { .. } => SizeHint::default(),
        }
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BodyError::Client(error) => write!(f, "the client's body: {error}"),
            BodyError::Mirror => f.write_str("a mirror fell behind"),
        }
    }
}

impl std::error::Error for BodyError {}
