//! A connection to an endpoint that carries plain requests, and the task behind it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::job::{Job, Stop};
use crate::limits::PLAIN_KEPT;
use crate::stats::Held;
use crate::upstream::connect;
use crate::wire::Wire;
use crate::worker::Core;

/// A connection. Its task always reads: an answer, or the end of the connection.
pub(super) struct Connection {
    pub address: SocketAddr,
    /// When it was last put away, in sweeps.
    pub idle_since: Cell<u64>,
    socket: RefCell<Option<(TcpStream, Held)>>,
    job: RefCell<Option<Job>>,
    /// The request as the client has sent it.
    request: RefCell<Vec<u8>>,
    unsent: RefCell<Unsent>,
    task: RefCell<Option<AbortHandle>>,
    waker: RefCell<Option<Waker>>,
}

/// What the socket has not taken of a request.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    written: usize,
}

/// What a connection comes to.
enum Event {
    /// The answer is complete.
    Answered,
    Stopped(Stop, Vec<u8>),
    /// The endpoint has closed an unused connection, or has said something on it.
    Closed,
}

impl Connection {
    /// A connection that is made while its first request waits.
    pub fn open(core: &Rc<Core>, address: SocketAddr) -> Rc<Connection> {
        let connection = Rc::new(Connection {
            address,
            idle_since: Cell::new(0),
            socket: RefCell::default(),
            job: RefCell::default(),
            request: RefCell::default(),
            unsent: RefCell::default(),
            task: RefCell::default(),
            waker: RefCell::default(),
        });
        let task = tokio::task::spawn_local(run(core.clone(), connection.clone()));
        *connection.task.borrow_mut() = Some(task.abort_handle());
        connection
    }

    /// Whether an unused connection is still there. Costs a system call only if something happened.
    pub fn is_usable(&self) -> bool {
        let socket = self.socket.borrow();
        let read = socket.as_ref().map(|(socket, _)| socket.try_read(&mut [0]));
        matches!(read, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ends an unused connection.
    pub fn close(&self) {
        self.socket.take();
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Sends a request: `request` is what the client has sent, `bytes` what the endpoint gets.
    pub fn send(&self, job: Job, request: &[u8], bytes: &[u8]) {
        job.stream().task.replace(self.task.borrow().clone());
        self.request.borrow_mut().extend_from_slice(request);
        *self.job.borrow_mut() = Some(job);
        let written = match &*self.socket.borrow() {
            // Whatever is wrong with the socket, its task sees when it reads.
            Some((socket, _)) => socket.try_write(bytes).unwrap_or(0),
            None => 0,
        };
        if written < bytes.len() {
            self.unsent.borrow_mut().bytes.extend_from_slice(&bytes[written..]);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    fn poll(&self, core: &Core, cx: &mut Context<'_>) -> Poll<Event> {
        let mut socket = self.socket.borrow_mut();
        let Some((socket, _)) = &mut *socket else {
            return Poll::Ready(Event::Closed);
        };
        let mut job = self.job.borrow_mut();
        loop {
            match job.as_mut().map(|job| job.poll_give(cx)) {
                None | Some(Poll::Ready(Ok(false))) => {}
                Some(Poll::Ready(Ok(true))) => return Poll::Ready(Event::Answered),
                Some(Poll::Ready(Err(stop))) => {
                    return Poll::Ready(Event::Stopped(stop, Vec::new()));
                }
                Some(Poll::Pending) => return Poll::Pending,
            }
            self.unsent.borrow_mut().write(cx, socket);
            let mut room = core.plain.read.borrow_mut();
            let mut room = ReadBuf::new(&mut room);
            let read = Pin::new(&mut *socket).poll_read(cx, &mut room);
            let data = match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => room.filled(),
                Poll::Ready(Err(_)) => &[],
            };
            let Some(job) = &mut *job else {
                return Poll::Ready(Event::Closed);
            };
            if data.is_empty() {
                return Poll::Ready(Event::Stopped(job.at_end(), Vec::new()));
            }
            if let Err(stop) = job.read(cx, data, &mut core.plain.out.borrow_mut()) {
                let read = if stop == Stop::HandOver { data.to_vec() } else { Vec::new() };
                return Poll::Ready(Event::Stopped(stop, read));
            }
        }
    }

    /// Ends the request that is under way. Returns whether the connection is kept.
    fn settle(self: &Rc<Self>, core: &Rc<Core>, event: Event) -> bool {
        let Some(job) = self.job.take() else {
            return false;
        };
        let stream = job.stream().clone();
        stream.task.take();
        match event {
            Event::Answered => {
                let kept = job.keep_alive && self.unsent.borrow().is_empty();
                job.finish(true);
                self.forget();
                core.plain.was_usual(self.address);
                let kept = kept && core.plain.put(self, core.sweeps.get());
                stream.end_plain();
                kept
            }
            Event::Stopped(Stop::ClientGone, _) => {
                drop(job);
                core.close(stream.cookie);
                false
            }
            Event::Stopped(Stop::CutOff, _) => {
                job.finish(false);
                stream.broken.set(true);
                core.abort(&stream);
                false
            }
            Event::Stopped(Stop::HandOver, read) => {
                if job.unusual {
                    core.plain.was_unusual(self.address);
                }
                let unsent = self.unsent.take().rest();
                let socket = self.socket.take();
                let wire = socket.map(|(socket, _)| Wire::begun(socket, unsent, read));
                job.hand_over(self.address, &self.request.borrow(), wire);
                false
            }
            Event::Closed => false,
        }
    }

    fn forget(&self) {
        let mut request = self.request.borrow_mut();
        request.clear();
        request.shrink_to(PLAIN_KEPT);
        *self.unsent.borrow_mut() = Unsent::default();
    }
}

/// Makes the connection, and passes on one answer after the other.
async fn run(core: Rc<Core>, connection: Rc<Connection>) {
    match connect(connection.address).await {
        Ok(socket) => {
            let held = Held::new(&core.counters, |counters| &counters.upstream_connections);
            *connection.socket.borrow_mut() = Some((socket, held));
        }
        Err(error) => {
            let address = connection.address;
            tracing::debug!(%error, %address, "cannot connect");
            connection.settle(&core, Event::Stopped(Stop::HandOver, Vec::new()));
            return;
        }
    }
    std::future::poll_fn(|cx| {
        *connection.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    loop {
        let event = std::future::poll_fn(|cx| connection.poll(&core, cx)).await;
        if !connection.settle(&core, event) {
            // The pool may still know it.
            connection.socket.take();
            return;
        }
    }
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Writes what the socket takes. That it takes nothing any more shows when it is read.
    fn write(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) {
        while !self.is_empty() {
            match Pin::new(&mut *socket).poll_write(cx, &self.bytes[self.written..]) {
                Poll::Ready(Ok(n)) => self.written += n,
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    fn rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.written);
        self.bytes
    }
}
