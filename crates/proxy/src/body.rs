//! A request's body on its way: read once, sent as often as it takes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};

use crate::headers::strip_trailers;
use crate::incoming::{self, Incoming};
use crate::limits::{MIRROR_BUFFER, REPLAY_BYTES};

/// The body of one try. All tries of a request share its [`Source`].
pub(crate) enum RequestBody {
    /// Nothing follows the head.
    Empty,
    /// All of it; empty when taken.
    Own(Bytes),
    /// What the client sends, for the try of this number.
    Source { source: Rc<Source>, attempt: u32 },
    /// A mirror's copy.
    Tee(Rc<Tee>),
}

/// Where a request's body comes from. One try at a time reads it, the newest.
pub(crate) struct Source {
    body: RefCell<Incoming>,
    http2: bool,
    attempt: Cell<u32>,
    /// What has been read, for another try, and how much of it this try has taken.
    kept: RefCell<Vec<Piece>>,
    next: Cell<usize>,
    kept_bytes: Cell<usize>,
    /// Another try is possible.
    keeping: Cell<bool>,
    state: Cell<Reading>,
    /// The newest try does not want the rest.
    left: Cell<bool>,
    /// The newest try has asked for some of it.
    asked_for: Cell<bool>,
    /// Bytes read.
    pub received: Cell<u64>,
    /// Bytes that this try has taken.
    taken: Cell<u64>,
    /// The try that waits for more.
    reader: RefCell<Option<Waker>>,
    /// Who waits for the end.
    waiting: RefCell<Option<Waker>>,
    tees: RefCell<Vec<Rc<Tee>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// The end has been read.
    Ended,
    /// What the client sent is no body: there is no whole of it.
    Broken,
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
    Client(incoming::Lost),
    /// The same, found before.
    Broken,
    /// Another try reads it now.
    Superseded,
    /// A mirror fell behind.
    Mirror,
}

impl RequestBody {
    /// The first try's body, and the source for more; no source when there is no body.
    pub fn of(body: Incoming, version: Version) -> (RequestBody, Option<Rc<Source>>) {
        if body.is_end_stream() {
            return (RequestBody::Empty, None);
        }
        let source = Rc::new(Source {
            body: RefCell::new(body),
            http2: version == Version::HTTP_2,
            attempt: Cell::new(0),
            kept: RefCell::default(),
            next: Cell::new(0),
            kept_bytes: Cell::new(0),
            keeping: Cell::new(false),
            state: Cell::new(Reading::Open),
            left: Cell::new(false),
            asked_for: Cell::new(false),
            received: Cell::new(0),
            taken: Cell::new(0),
            reader: RefCell::default(),
            waiting: RefCell::default(),
            tees: RefCell::default(),
        });
        (RequestBody::Source { source: source.clone(), attempt: 0 }, Some(source))
    }
}

impl Source {
    /// Keeps what is read, as far as [`REPLAY_BYTES`], so that another try can send it again.
    pub fn keep(&self) {
        self.keeping.set(true);
    }

    /// There will be no other try. What this one has not taken yet stays until it has.
    pub fn let_go(&self) {
        self.keeping.set(false);
        self.forget();
    }

    fn forget(&self) {
        if !self.keeping.get() && self.next.get() >= self.kept.borrow().len() {
            self.kept.take();
            self.next.set(0);
        }
    }

    /// The body of another try; `None`: too much has been read. Earlier tries get no more of it: an
    /// HTTP/2 connection may still be sending one that has been answered.
    pub fn again(self: &Rc<Self>) -> Option<RequestBody> {
        let possible = self.keeping.get() || self.received.get() == 0;
        if !possible || self.is_broken() {
            return None;
        }
        let attempt = self.attempt.get() + 1;
        self.attempt.set(attempt);
        self.left.set(false);
        self.asked_for.set(false);
        self.next.set(0);
        self.taken.set(0);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Some(RequestBody::Source { source: self.clone(), attempt })
    }

    /// Reads ahead to the end, or as far as `enough` bytes; whoever reads next gets the same
    /// again. Whether that is all comes with it.
    pub async fn ahead(&self, attempt: u32, enough: usize) -> Result<(Bytes, bool), BodyError> {
        let (mut read, mut trailers) = (BytesMut::new(), None);
        let whole = loop {
            let kept = self.next.get() < self.kept.borrow().len();
            if !kept && self.state.get() == Reading::Ended {
                break true;
            }
            if read.len() >= enough {
                break false;
            }
            match poll_fn(|cx| self.poll(cx, attempt)).await.transpose()? {
                None => break true,
                Some(frame) => match frame.into_data() {
                    Ok(data) => read.extend_from_slice(&data),
                    Err(other) => trailers = other.into_trailers().ok(),
                },
            }
        };
        let read = read.freeze();
        let rest = self.kept.take().into_iter().skip(self.next.get());
        let ahead = (!read.is_empty()).then(|| Piece::Data(read.clone())).into_iter();
        let ahead: Vec<Piece> = ahead.chain(trailers.map(Piece::Trailers)).chain(rest).collect();
        self.kept_bytes.set(ahead.iter().map(Piece::cost).sum());
        self.kept.replace(ahead);
        self.next.set(0);
        self.taken.set(0);
        Ok((read, whole))
    }

    /// Whether what the client has sent is no body.
    pub fn is_broken(&self) -> bool {
        self.state.get() == Reading::Broken
    }

    /// Whether all of it has been read: the client's next request would begin here.
    pub fn has_ended(&self) -> bool {
        self.state.get() == Reading::Ended
    }

    /// Whether the client has sent all of it, or all that is wanted; wakes the caller when it has.
    pub fn poll_ended(&self, cx: &Context<'_>) -> bool {
        let ended = self.state.get() != Reading::Open || self.left.get();
        if !ended {
            note_waker(&self.waiting, cx);
        }
        ended
    }

    /// Whether the newest try has asked for some of it.
    pub fn is_asked_for(&self) -> bool {
        self.asked_for.get()
    }

    /// A copy of all that is read from now on, for a mirror.
    pub fn tee(&self) -> RequestBody {
        let length = self.body.borrow().size_hint().exact();
        let tee = Rc::new(Tee { length, ..Tee::default() });
        self.tees.borrow_mut().push(tee.clone());
        RequestBody::Tee(tee)
    }

    fn poll(&self, cx: &mut Context<'_>, attempt: u32) -> Poll<Option<Item>> {
        if attempt != self.attempt.get() {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        self.asked_for.set(true);
        let kept = self.kept.borrow().get(self.next.get()).cloned();
        if let Some(piece) = kept {
            self.next.set(self.next.get() + 1);
            self.taken.set(self.taken.get() + piece.length() as u64);
            self.forget();
            return Poll::Ready(Some(Ok(piece.into())));
        }
        match self.state.get() {
            Reading::Open => {}
            Reading::Ended => return Poll::Ready(None),
            Reading::Broken => return Poll::Ready(Some(Err(BodyError::Broken))),
        }
        let mut body = self.body.borrow_mut();
        let frame = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => {
                note_waker(&self.reader, cx);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        // Without this the end of a body of known length, or after trailers, would only be seen by
        // asking once more, which nobody does.
        let trailers = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        let last = frame.is_none() || trailers || body.is_end_stream();
        // The client took it back (RST_STREAM with NO_ERROR, which the library calls an end).
        let taken_back = frame.is_none() && self.http2 && !body.is_end_stream();
        drop(body);
        let frame = match frame {
            None if taken_back => {
                self.end(Reading::Broken);
                return Poll::Ready(Some(Err(BodyError::Broken)));
            }
            None => None,
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                self.note(&frame);
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.end(Reading::Broken);
                return Poll::Ready(Some(Err(BodyError::Client(error))));
            }
        };
        if last {
            self.end(Reading::Ended);
        }
        Poll::Ready(frame)
    }

    fn end(&self, state: Reading) {
        self.state.set(state);
        let tees = match state {
            Reading::Ended => TeeState::Ended,
            _ => TeeState::Broken,
        };
        self.tees.take().iter().for_each(|tee| tee.end(tees));
        self.tell();
    }

    fn tell(&self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn note(&self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (_, Some(trailers)) => Piece::Trailers(trailers.clone()),
            _ => return,
        };
        let length = piece.length() as u64;
        self.received.set(self.received.get() + length);
        self.taken.set(self.taken.get() + length);
        self.tees.borrow_mut().retain(|tee| tee.push(piece.clone()));
        if !self.keeping.get() {
            return;
        }
        self.kept_bytes.set(self.kept_bytes.get() + piece.cost());
        if self.kept_bytes.get() > REPLAY_BYTES {
            self.let_go();
        } else {
            self.kept.borrow_mut().push(piece);
            self.next.set(self.next.get() + 1);
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // An answer comes before the end of the request, or none at all: some failures of an HTTP/2
        // stream are told in no other way.
        if let RequestBody::Source { source, attempt } = self
            && source.attempt.get() == *attempt
        {
            source.left.set(true);
            source.tell();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The client is gone, or nobody wants the rest.
        self.tees.take().iter().for_each(|tee| tee.end(TeeState::Broken));
    }
}

impl Piece {
    /// Bytes of the body.
    fn length(&self) -> usize {
        match self {
            Piece::Data(data) => data.len(),
            Piece::Trailers(_) => 0,
        }
    }

    /// Bytes that keeping it takes: a body may come in chunks of one byte.
    fn cost(&self) -> usize {
        self.length() + size_of::<Piece>()
    }
}

impl Tee {
    /// Whether more is wanted.
    fn push(&self, piece: Piece) -> bool {
        self.bytes.set(self.bytes.get() + piece.cost());
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
            self.bytes.set(self.bytes.get() - piece.cost());
            return Poll::Ready(Some(Ok(piece.into())));
        }
        if self.state.get() == TeeState::Ended {
            return Poll::Ready(None);
        }
        note_waker(&self.waker, cx);
        Poll::Pending
    }
}

fn note_waker(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    match &mut *slot.borrow_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
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

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestBody::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            RequestBody::Source { source, attempt } => source.poll(cx, *attempt),
            RequestBody::Tee(tee) => tee.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Own(bytes) => bytes.is_empty(),
            RequestBody::Source { source, attempt } => {
                source.state.get() == Reading::Ended
                    && source.attempt.get() == *attempt
                    && source.next.get() >= source.kept.borrow().len()
            }
            RequestBody::Tee(tee) => {
                tee.state.get() == TeeState::Ended && tee.waiting.borrow().is_empty()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Source { source, .. } => {
                let unread = source.body.borrow().size_hint().exact();
                let read = source.received.get() - source.taken.get();
                unread.map_or_else(SizeHint::default, |unread| SizeHint::with_exact(read + unread))
            }
            RequestBody::Tee(tee) => {
                tee.length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BodyError::Client(error) => write!(f, "the client's body: {error}"),
            BodyError::Broken => f.write_str("the client's body is broken"),
            BodyError::Superseded => f.write_str("the request is tried again"),
            BodyError::Mirror => f.write_str("a mirror fell behind"),
        }
    }
}

impl std::error::Error for BodyError {}
