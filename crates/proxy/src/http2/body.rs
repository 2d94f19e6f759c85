//! Bodies that come by a stream of HTTP/2, for those who read them bit by bit.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

/// The connection that a body comes by.
pub(super) trait Carrier {
    /// So many bytes of a stream's body have been taken: as many may follow.
    fn taken(&self, stream: u32, bytes: usize);

    /// Nobody wants the rest of it.
    fn left(&self, stream: u32);
}

/// Why a body has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The other side has taken it back.
    Reset,
    /// The connection has failed.
    Connection,
}

/// Where a body is put in.
#[derive(Default)]
pub(super) struct Inlet(RefCell<State>);

#[derive(Default)]
struct State {
    waiting: BytesMut,
    trailers: Option<HeaderMap>,
    /// Bytes that have not been taken, if that was said before.
    length: Option<u64>,
    ended: bool,
    lost: Option<Lost>,
    reader: Option<Waker>,
}

/// Where it comes out. Dropped before its end, nobody wants the rest.
pub(crate) struct Body {
    inlet: Rc<Inlet>,
    carrier: Weak<dyn Carrier>,
    stream: u32,
}

impl Inlet {
    /// For a body of this length, as far as that was said.
    pub fn new(length: Option<u64>) -> Rc<Inlet> {
        Rc::new(Inlet(RefCell::new(State { length, ..State::default() })))
    }

    pub fn body(self: &Rc<Self>, carrier: Weak<dyn Carrier>, stream: u32) -> Body {
        Body { inlet: self.clone(), carrier, stream }
    }

    pub fn push(&self, bytes: &[u8]) {
        self.change(|state| state.waiting.extend_from_slice(bytes));
    }

    pub fn end(&self, trailers: Option<HeaderMap>) {
        self.change(|state| (state.ended, state.trailers) = (true, trailers));
    }

    /// There will be no end. What has come can still be read.
    pub fn lose(&self, lost: Lost) {
        self.change(|state| state.lost = state.lost.or(Some(lost)).filter(|_| !state.ended));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.borrow_mut();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Lost;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        let mut state = self.inlet.0.borrow_mut();
        if !state.waiting.is_empty() {
            let data = state.waiting.split().freeze();
            state.length = state.length.map(|left| left.saturating_sub(data.len() as u64));
            drop(state);
            if let Some(carrier) = self.carrier.upgrade() {
                carrier.taken(self.stream, data.len());
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match state.lost {
            _ if state.ended => Poll::Ready(None),
            Some(lost) => Poll::Ready(Some(Err(lost))),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.inlet.0.borrow();
        state.ended && state.waiting.is_empty() && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.inlet.0.borrow();
        match state.length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let over = self.inlet.0.borrow().ended;
        if let Some(carrier) = self.carrier.upgrade().filter(|_| !over) {
            carrier.left(self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use http_body::Body as _;

    use super::*;

    #[derive(Default)]
    struct Counting {
        taken: Cell<usize>,
        left: Cell<bool>,
    }

    impl Carrier for Counting {
        fn taken(&self, _: u32, bytes: usize) {
            self.taken.set(self.taken.get() + bytes);
        }

        fn left(&self, _: u32) {
            self.left.set(true);
        }
    }

    fn poll(body: &mut Body) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn data(polled: Poll<Option<Result<Frame<Bytes>, Lost>>>) -> Bytes {
        match polled {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let carrier = Rc::new(Counting::default());
        let (inlet, weak) = (Inlet::new(Some(5)), Rc::downgrade(&carrier));
        let mut body = inlet.body(weak, 1);
        assert!(poll(&mut body).is_pending());
        inlet.push(b"he");
        inlet.push(b"llo");
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(&*data(poll(&mut body)), b"hello");
        assert_eq!((carrier.taken.get(), body.size_hint().exact()), (5, Some(0)));
        inlet.end(Some(HeaderMap::new()));
        assert!(!body.is_end_stream());
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
        assert!(body.is_end_stream() && matches!(poll(&mut body), Poll::Ready(None)));
        drop(body);
        assert!(!carrier.left.get());
    }

    #[test]
    fn what_is_lost_is_told_after_what_has_come() {
        let carrier = Rc::new(Counting::default());
        let (inlet, weak) = (Inlet::new(None), Rc::downgrade(&carrier));
        let mut body = inlet.body(weak, 1);
        inlet.push(b"some");
        inlet.lose(Lost::Reset);
        assert_eq!(&*data(poll(&mut body)), b"some");
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(Lost::Reset)))));
        drop(body);
        assert!(carrier.left.get());
    }
}
