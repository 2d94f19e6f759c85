//! A TCP listener that takes so many connections at once, and closes those that say nothing: who may
//! not enter must not be able to use up the agent's file descriptors, which traffic needs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections at once to one port; one more waits in the kernel's queue.
pub(super) const CONNECTIONS: usize = 64;

/// How often it is logged that there are as many.
const REMINDER: Duration = Duration::from_secs(60);

/// The places for connections to a port.
pub(super) struct Room {
    port: &'static str,
    /// A connection that has said nothing for so long is closed.
    silence: Duration,
    free: Arc<Semaphore>,
    full: AtomicU64,
}

impl Room {
    /// All free. The port is what the log and metrics call it.
    pub(super) fn new(port: &'static str, silence: Duration) -> Arc<Room> {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        Arc::new(Room { port, silence, free, full: AtomicU64::new(0) })
    }

    /// What the log and metrics call the port.
    pub(super) fn port(&self) -> &'static str {
        self.port
    }

    /// Connections that are open.
    pub(super) fn used(&self) -> usize {
        CONNECTIONS - self.free.available_permits()
    }

    /// How often the last place was taken.
    pub(super) fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }
}

/// The listener.
pub(super) struct Limited {
    listener: TcpListener,
    room: Arc<Room>,
    reminded: Option<Instant>,
}

impl Limited {
    /// Takes connections from a listener, which must not block.
    pub(super) fn new(listener: std::net::TcpListener, room: Arc<Room>) -> io::Result<Limited> {
        Ok(Limited { listener: TcpListener::from_std(listener)?, room, reminded: None })
    }

    /// Waits for a place, and says so when there is none.
    async fn place(&mut self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.room.free.clone().try_acquire_owned() {
            return place;
        }
        self.room.full.fetch_add(1, Ordering::Relaxed);
        if self.reminded.is_none_or(|at| at.elapsed() > REMINDER) {
            self.reminded = Some(Instant::now());
            let (port, limit) = (self.room.port, CONNECTIONS);
            tracing::warn!(port, limit, "as many connections as there may be: others wait");
        }
        self.room.free.clone().acquire_owned().await.expect("it is never closed")
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.place().await;
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let silence = self.room.silence;
        let silent = Box::pin(sleep(silence));
        (Connection { stream, silence, silent, _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, with its place among those there may be.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Duration,
    silent: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            let until = Instant::now() + self.silence;
            self.silent.as_mut().reset(until);
            return Poll::Ready(read);
        }
        ready!(self.silent.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
