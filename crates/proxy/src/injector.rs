//! The way back: whole frames into one socket, never one inside another.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::frame::FRAME_BYTES;
use crate::stats::Counters;
use crate::stream::Stream;

/// One worker's injector socket.
pub(crate) struct Injector {
    socket: TcpStream,
    /// Rest of a frame that the socket took only a part of.
    partial: RefCell<Option<Partial>>,
    waiting: RefCell<VecDeque<Rc<Stream>>>,
    blocked: Cell<bool>,
    failed: RefCell<Option<io::Error>>,
    attention: Notify,
}

struct Partial {
    bytes: Vec<u8>,
    written: usize,
    stream: Rc<Stream>,
}

/// Why a frame was not taken, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientGone;

enum Written {
    All,
    Part(usize),
    Nothing,
    Gone,
}

impl Injector {
    pub fn new(socket: TcpStream) -> Injector {
        Injector {
            socket,
            partial: RefCell::default(),
            waiting: RefCell::default(),
            blocked: Cell::new(false),
            failed: RefCell::default(),
            attention: Notify::new(),
        }
    }

    /// Takes a whole frame, or nothing and wakes the stream when it is worth another try.
    pub fn send(&self, frame: &[u8], stream: &Rc<Stream>) -> Poll<Result<(), ClientGone>> {
        if !self.blocked.get() {
            match self.write(frame) {
                Written::All => return Poll::Ready(Ok(())),
                Written::Gone => return Poll::Ready(Err(ClientGone)),
                Written::Part(written) => {
                    // The rest is ours now, as far as the stream is concerned.
                    let partial =
                        Partial { bytes: frame.to_vec(), written, stream: stream.clone() };
                    *self.partial.borrow_mut() = Some(partial);
                    self.block();
                    return Poll::Ready(Ok(()));
                }
                Written::Nothing => self.block(),
            }
        }
        self.enqueue(stream);
        Poll::Pending
    }

    fn enqueue(&self, stream: &Rc<Stream>) {
        if !stream.waits_for_injector.replace(true) {
            self.waiting.borrow_mut().push_back(stream.clone());
            stream.core.counters.injector_queue.add(1);
        }
    }

    /// Whether the rest of a frame of this stream is still to be written. If so, the stream is woken
    /// when it is not.
    pub fn is_amid(&self, stream: &Rc<Stream>) -> bool {
        let amid = self
            .partial
            .borrow()
            .as_ref()
            .is_some_and(|partial| Rc::ptr_eq(&partial.stream, stream));
        if amid {
            self.enqueue(stream);
        }
        amid
    }

    fn block(&self) {
        self.blocked.set(true);
        self.attention.notify_one();
    }

    fn write(&self, bytes: &[u8]) -> Written {
        match self.socket.try_write(bytes) {
            Ok(n) if n == bytes.len() => Written::All,
            Ok(n) => Written::Part(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Written::Nothing,
            Err(error) => {
                // EPIPE is how the kernel says that the frame's client is gone. Any other error is
                // the socket's own, and the worker's end.
                if error.kind() == io::ErrorKind::BrokenPipe && bytes.len() == FRAME_BYTES {
                    // a header alone was understood, and there is nothing left to pass on
                    return Written::All;
                }
                if error.kind() != io::ErrorKind::BrokenPipe {
                    *self.failed.borrow_mut() = Some(error);
                    self.attention.notify_one();
                }
                Written::Gone
            }
        }
    }

    /// Goes on where a write stopped. Ends with an error when the socket itself has failed.
    pub async fn run(&self, counters: &Counters) -> io::Error {
        loop {
            self.attention.notified().await;
            if let Some(error) = self.failed.borrow_mut().take() {
                return error;
            }
            while self.blocked.get() {
                if let Err(error) = self.socket.writable().await {
                    return error;
                }
                if self.finish_partial(counters) {
                    self.blocked.set(false);
                    // Those that find it blocked again queue up anew, in the same order.
                    let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
                    counters.injector_queue.sub(waiting.len() as u64);
                    for stream in waiting {
                        stream.waits_for_injector.set(false);
                        stream.wake();
                    }
                }
            }
        }
    }

    /// Whether no frame is half-written any more.
    fn finish_partial(&self, counters: &Counters) -> bool {
        let mut slot = self.partial.borrow_mut();
        let Some(partial) = slot.as_mut() else {
            return true;
        };
        match self.write(&partial.bytes[partial.written..]) {
            Written::All => {}
            Written::Part(n) => {
                partial.written += n;
                return false;
            }
            Written::Nothing => return false,
            Written::Gone => {
                counters.clients_gone.add(1);
                partial.stream.fail();
            }
        }
        *slot = None;
        true
    }

    /// Resolves once the socket can be written to at all.
    pub async fn ready(&self) -> io::Result<()> {
        self.socket.writable().await
    }
}
