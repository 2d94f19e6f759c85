//! A client connection as this side sees it: bytes in order on the way in, frames on the way out.

mod bytes;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::ReadBuf;
use tokio::task::AbortHandle;

use crate::direct::Direct;
use crate::frame::{Address, FLAG_END, FLAG_STICKY, Frame, Judged};
use crate::inbox::Inbox;
use crate::injector::ClientGone;
use crate::limits::{CLIENT_QUEUE, DIRECT_IDLE, PACE_MAX, PACE_MIN, STREAM_BUFFER, SWEEP};
use crate::outbox::Outbox;
use crate::plain::Handed;
use crate::worker::Core;

pub(crate) use bytes::Io;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No HTTP server is at work: requests are forwarded the short way, one at a time, until one
    /// comes that needs more.
    Plain,
    /// An HTTP server is at work.
    Serving,
    /// The server is done (it said `connection: close`, or answered without reading the body). The
    /// rest of the request is thrown away; the next [`FLAG_REQUEST`] starts anew.
    Ended,
    /// The client is gone.
    Gone,
}

/// One client connection.
pub(crate) struct Stream {
    pub cookie: u64,
    pub source: Address,
    /// An address by which it is known.
    pub caller: Address,
    pub service: Address,
    pub core: Rc<Core>,
    pub state: Cell<State>,
    /// An answer was cut off: there is no orderly end.
    pub broken: Cell<bool>,
    /// The server has answered what is no request, by itself.
    pub refused: Cell<bool>,
    pub waits_for_injector: Cell<bool>,
    pub task: RefCell<Option<AbortHandle>>,
    /// What plain forwarding has done of the first request in the inbox.
    pub handed: RefCell<Option<Box<Handed>>>,
    /// Plain forwarding is at work.
    forwarding: Cell<bool>,
    sticky: Cell<bool>,
    inbox: RefCell<Inbox>,
    outbox: RefCell<Outbox>,
    pace: Cell<Pace>,
    /// The answer's last byte has been given to the server; the next flush says so to the kernel.
    ending: Cell<bool>,
    /// Number of the request that is being answered, if the kernel gave it one.
    answering: Cell<Option<u32>>,
    /// That request has got as far as [`Stream::draw`].
    drawn: Cell<bool>,
    /// A next request waits for that.
    gated: Cell<bool>,
    /// The server has ended before requests that had come already.
    lost: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// The connection itself, if it leads here.
    direct: RefCell<Option<Direct>>,
    /// It does, or did.
    diverted: Cell<bool>,
    /// Bytes to come by bus before those that come directly, once that is known.
    by_bus: Cell<Option<u64>>,
    /// When the last request was over, in sweeps; `None`: one may be under way.
    idle_since: Cell<Option<u64>>,
    /// The client is told that there is nothing more as soon as it says nothing more.
    retiring: Cell<bool>,
}

/// All that a connection holds without a request.
const _: () = assert!(size_of::<Stream>() <= 400);

#[derive(Clone, Copy, Default)]
struct Pace {
    /// Bytes that the client has not read, at most.
    unread: u64,
    /// Zero: the client keeps up.
    delay: Duration,
    until: Option<Instant>,
}

/// Bytes that are not the next ones, or are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disorder;

impl Stream {
    pub fn new(core: Rc<Core>, frame: &Frame) -> Stream {
        core.counters.open_streams.add(1);
        Stream {
            cookie: frame.cookie,
            source: frame.source,
            caller: frame.caller,
            service: frame.service,
            core,
            state: Cell::new(State::Plain),
            broken: Cell::new(false),
            refused: Cell::new(false),
            waits_for_injector: Cell::new(false),
            task: RefCell::default(),
            handed: RefCell::default(),
            forwarding: Cell::new(false),
            sticky: Cell::new(false),
            inbox: RefCell::new(Inbox { received: frame.offset, ..Inbox::default() }),
            outbox: RefCell::default(),
            pace: Cell::default(),
            ending: Cell::new(false),
            answering: Cell::default(),
            drawn: Cell::new(false),
            gated: Cell::new(false),
            lost: Cell::new(false),
            waker: RefCell::default(),
            direct: RefCell::default(),
            diverted: Cell::new(false),
            by_bus: Cell::default(),
            idle_since: Cell::default(),
            retiring: Cell::new(false),
        }
    }

    /// Whether all bytes of the connection come this way from now on.
    pub fn is_sticky(&self) -> bool {
        self.sticky.get()
    }

    /// Takes the next bytes of the connection.
    pub fn deliver(
        self: &Rc<Self>,
        frame: &Frame,
        first: bool,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Disorder> {
        if frame.flags & FLAG_STICKY != 0 {
            self.sticky.set(true);
        }
        let judged = frame.judged().filter(|_| first);
        let mut inbox = self.inbox.borrow_mut();
        if offset != inbox.received {
            return Err(Disorder);
        }
        self.accept(&mut inbox, judged, data)?;
        drop(inbox);
        self.wake();
        Ok(())
    }

    fn accept(
        self: &Rc<Self>,
        inbox: &mut Inbox,
        judged: Option<Judged>,
        data: &[u8],
    ) -> Result<(), Disorder> {
        inbox.received = inbox.received.checked_add(data.len() as u64).ok_or(Disorder)?;
        if self.state.get() == State::Ended && judged.is_some() {
            if self.lost.get() {
                // The client would take the answer for that to a request that has none.
                return Err(Disorder);
            }
            self.core.serve(self);
        }
        match self.state.get() {
            State::Serving | State::Plain if inbox.waiting() + data.len() > STREAM_BUFFER => {
                Err(Disorder)
            }
            State::Serving | State::Plain => {
                inbox.judged.extend(judged);
                inbox.append(data);
                Ok(())
            }
            // Only the kernel knows where the next request begins, and for a sticky connection it
            // does not say.
            State::Ended if self.sticky.get() => Err(Disorder),
            State::Ended | State::Gone => Ok(()),
        }
    }

    /// Whether the request that begins at `offset` is the next one and can go the short way.
    pub fn is_idle_at(&self, offset: u64) -> bool {
        let free = self.has_no_server() || self.rests();
        free && self.inbox.borrow().received == offset && self.has_nothing()
    }

    /// Whether there is a server that has nothing to do: the last answer has gone out, and nothing
    /// has come since.
    fn rests(&self) -> bool {
        let idle = self.state.get() == State::Serving && self.idle_since.get().is_some();
        idle && self.has_nothing()
    }

    /// Whether nothing is under way.
    fn has_nothing(&self) -> bool {
        let inbox = self.inbox.borrow();
        !self.sticky.get()
            && !self.diverted.get()
            && inbox.waiting() == 0
            && inbox.judged.is_empty()
            && !self.ending.get()
            && !self.is_answering()
    }

    /// Ends the server if it has had nothing to do for long: it holds much more than this does.
    pub fn rest(&self) {
        let long = |since: u64| self.core.sweeps.get() - since > 1;
        if self.idle_since.get().is_some_and(long) && self.rests() {
            self.leave_server();
        }
    }

    /// Ends a server that has nothing to do.
    fn leave_server(&self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.state.set(State::Plain);
        self.gated.set(false);
        self.waker.take();
        let mut inbox = self.inbox.borrow_mut();
        *inbox = Inbox { received: inbox.received, ..Inbox::default() };
    }

    /// Whether what comes now needs a server.
    pub fn has_no_server(&self) -> bool {
        self.state.get() == State::Plain && !self.forwarding.get()
    }

    /// A request of so many bytes is forwarded the short way.
    pub fn begin_plain(&self, length: usize, judged: Judged) {
        if self.state.get() == State::Serving {
            self.leave_server();
        }
        self.idle_since.set(None);
        self.inbox.borrow_mut().received += length as u64;
        self.answering.set(Some(judged.request));
        self.drawn.set(true);
        self.forwarding.set(true);
    }

    /// Its answer has gone out. What came meanwhile, or will come directly, is for a server.
    pub fn end_plain(self: &Rc<Self>) {
        self.forwarding.set(false);
        if self.inbox.borrow().waiting() > 0 || self.diverted.get() {
            self.core.serve(self);
        }
    }

    /// A server goes on with a request that was forwarded the short way.
    pub fn hand_over(self: &Rc<Self>, request: &[u8], judged: Judged, handed: Handed) {
        let mut inbox = self.inbox.borrow_mut();
        inbox.put_back(request, judged);
        drop(inbox);
        self.answering.set(None);
        self.forwarding.set(false);
        *self.handed.borrow_mut() = Some(Box::new(handed));
        self.core.serve(self);
    }

    /// The random number for the next request head.
    pub fn draw(&self) -> u32 {
        self.idle_since.set(None);
        self.drawn.set(true);
        let judged = self.inbox.borrow_mut().judged.pop_front();
        self.answering.set(judged.map(|judged| judged.request));
        judged.map_or_else(|| fastrand::u32(..), |judged| judged.draw)
    }

    /// The number of the request whose answer ends now, 0 if it has none. A head that the server
    /// itself refuses (400, 431) never gets as far as [`Stream::draw`].
    fn ending_request(&self) -> u32 {
        let refused = || Some(self.inbox.borrow().judged.front()?.request);
        self.answering.get().or_else(refused).unwrap_or_default()
    }

    /// The server of this stream is done; what the client still sends belongs to no request.
    pub fn end(&self) {
        self.state.set(State::Ended);
        let mut inbox = self.inbox.borrow_mut();
        inbox.data = Vec::new();
        inbox.read = 0;
        self.lost.set(!inbox.judged.is_empty());
        inbox.judged.clear();
    }

    /// The client is gone: reads and writes fail from now on.
    pub fn fail(&self) {
        self.state.set(State::Gone);
        self.wake();
    }

    /// Ends the stream's task.
    pub fn stop(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }

    /// Lets the stream's task look again.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }

    /// Whether bytes of an answer went out whose end did not.
    pub fn is_answering(&self) -> bool {
        self.outbox.borrow().open
    }

    /// Notes that the server has been given the whole answer.
    pub fn answer_ends(&self) {
        self.ending.set(true);
    }

    /// Resolves when the previous answer has been injected. A server that reads ahead would
    /// otherwise mix the next answer into the frame that ends this one.
    pub fn poll_answered(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.ending.get() || self.state.get() == State::Gone {
            return Poll::Ready(());
        }
        self.gated.set(true);
        self.wait(cx);
        Poll::Pending
    }

    /// Takes bytes of an answer, as many as there is room for.
    pub fn collect(self: &Rc<Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut outbox = self.outbox.borrow_mut();
        let mut rest = bytes;
        outbox.open = true;
        while !rest.is_empty() {
            // A full frame stays until there is more, so that the end can be told in it.
            let room = outbox.room();
            if room == 0 {
                match self.inject(cx, &mut outbox, 0) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Pending if rest.len() == bytes.len() => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                }
            }
            let (taken, left) = rest.split_at(room.min(rest.len()));
            outbox.add(taken);
            rest = left;
        }
        Poll::Ready(Ok(bytes.len() - rest.len()))
    }

    /// Sends what was collected, with the end of the answer if it has ended.
    pub fn flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.get() == State::Gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut outbox = self.outbox.borrow_mut();
        let ending = self.ending.get();
        if outbox.payload() == 0 && !ending {
            return Poll::Ready(Ok(()));
        }
        ready!(self.inject(cx, &mut outbox, if ending { FLAG_END } else { 0 }))?;
        if ending {
            outbox.end();
            self.ending.set(false);
            self.answering.set(None);
            if !self.drawn.replace(false) {
                // The server has refused the head.
                self.inbox.borrow_mut().judged.pop_front();
            }
            self.idle_since.set(Some(self.core.sweeps.get()));
            if self.gated.replace(false) {
                self.wake();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn inject(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        flags: u16,
    ) -> Poll<io::Result<()>> {
        let gone = |ClientGone| {
            self.core.counters.clients_gone.add(1);
            self.fail();
            io::Error::from(io::ErrorKind::BrokenPipe)
        };
        if let Some(direct) = &*self.direct.borrow() {
            return self.send(cx, outbox, direct);
        }
        let Poll::Ready(paced) = self.poll_pace() else {
            self.wait(cx);
            return Poll::Pending;
        };
        paced.map_err(gone)?;
        let length = outbox.payload();
        let request = if flags & FLAG_END != 0 { self.ending_request() } else { 0 };
        let frame = outbox.frame(self.cookie, flags, request);
        let core = &self.core;
        let Poll::Ready(sent) = core.injector.send(frame, self) else {
            self.wait(cx);
            return Poll::Pending;
        };
        sent.map_err(gone)?;
        outbox.clear();
        core.counters.bytes_out.add(length as u64);
        let pace = self.pace.get();
        self.pace.set(Pace { unread: pace.unread + length as u64, ..pace });
        Poll::Ready(Ok(()))
    }

    /// Sends what was collected over the connection itself.
    fn send(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        direct: &Direct,
    ) -> Poll<io::Result<()>> {
        if self.core.injector.is_amid(self) {
            self.wait(cx);
            return Poll::Pending;
        }
        while !outbox.unsent().is_empty() {
            match ready!(direct.poll_write(cx, outbox.unsent())) {
                Ok(n) => {
                    outbox.sent += n;
                    self.core.counters.bytes_out.add(n as u64);
                }
                Err(error) => {
                    self.core.counters.clients_gone.add(1);
                    self.fail();
                    return Poll::Ready(Err(error));
                }
            }
        }
        outbox.clear();
        Poll::Ready(Ok(()))
    }

    /// Goes on over the connection itself, which leads here now.
    pub fn turn_to(&self, direct: Direct) {
        self.diverted.set(true);
        self.core.counters.direct_streams.add(1);
        let pace = self.pace.take();
        if !pace.delay.is_zero() {
            self.core.counters.slow_readers.sub(1);
        }
        *self.direct.borrow_mut() = Some(direct);
        self.wake();
    }

    /// Whether the connection leads here, or did.
    pub fn is_diverted(&self) -> bool {
        self.diverted.get()
    }

    /// The connection itself, for its end.
    pub fn take_direct(&self) -> Option<Direct> {
        let direct = self.direct.take();
        if direct.is_some() {
            self.core.counters.direct_streams.sub(1);
        }
        direct
    }

    /// Ends a connection that leads here when it has been idle for [`DIRECT_IDLE`].
    pub fn retire(&self) {
        const LONG: u64 = DIRECT_IDLE.as_secs() / SWEEP.as_secs();
        let idle = |since: u64| self.core.is_draining() || self.core.sweeps.get() - since > LONG;
        if self.diverted.get() && self.idle_since.get().is_some_and(idle) {
            self.retiring.set(true);
            self.wake();
        }
    }

    fn poll_direct(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // for bytes by bus, and for the connection to lead here
        self.wait(cx);
        let direct = self.direct.borrow();
        let Some(direct) = &*direct else {
            return Poll::Pending;
        };
        let by_bus = match self.by_bus.get() {
            Some(by_bus) => by_bus,
            None => {
                let ask = || self.core.kernel.turn(self.cookie);
                let by_bus = ready!(direct.poll_turn(cx, ask))?;
                self.by_bus.set(Some(by_bus));
                by_bus
            }
        };
        if self.inbox.borrow().received < by_bus {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let done = direct.poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.core.counters.bytes_in.add(read as u64);
            self.idle_since.set(self.idle_since.get().map(|_| self.core.sweeps.get()));
        }
        match done {
            Poll::Pending if self.retiring.get() => Poll::Ready(Ok(())),
            done => done,
        }
    }

    /// Nothing but this bounds what a client that does not read makes the kernel hold.
    fn poll_pace(self: &Rc<Self>) -> Poll<Result<(), ClientGone>> {
        let mut pace = self.pace.get();
        if pace.unread <= CLIENT_QUEUE {
            return Poll::Ready(Ok(()));
        }
        if pace.until.is_some_and(|until| Instant::now() < until) {
            return Poll::Pending;
        }
        let Some(unread) = self.core.kernel.queued(self.cookie) else {
            return Poll::Ready(Err(ClientGone));
        };
        pace.unread = unread;
        let was_slow = !pace.delay.is_zero();
        let slow = unread > CLIENT_QUEUE;
        if slow {
            pace.delay = (pace.delay * 2).clamp(PACE_MIN, PACE_MAX);
            pace.until = Some(Instant::now() + pace.delay);
            self.core.pacer.wake_in(pace.delay, self.clone());
        } else {
            pace.delay = Duration::ZERO;
            pace.until = None;
        }
        self.pace.set(pace);
        match (was_slow, slow) {
            (false, true) => self.core.counters.slow_readers.add(1),
            (true, false) => self.core.counters.slow_readers.sub(1),
            _ => {}
        }
        if slow { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core.counters.open_streams.sub(1);
        self.take_direct();
        if !self.pace.get().delay.is_zero() {
            self.core.counters.slow_readers.sub(1);
        }
    }
}
