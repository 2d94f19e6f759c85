//! A client's connection that leads to the proxy: a socket of ours, whose bytes follow those that
//! came by bus.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::{LINGER, LINGER_BYTES};

/// Where the bytes of a connection that leads to the proxy begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Bytes that went by bus before.
    pub by_bus: u64,
    /// TCP sequence number of the first byte that did not, if there was one yet. Once there was,
    /// none goes by bus.
    pub first: Option<u32>,
}

/// The socket of such a connection.
pub(crate) struct Direct {
    socket: TcpStream,
    /// Sequence number of the next byte that the socket has for us.
    next: Cell<u32>,
}

impl Direct {
    /// `first` is the sequence number of the first byte that the socket has for us.
    pub fn new(socket: std::net::TcpStream, first: u32) -> io::Result<Direct> {
        Ok(Direct { socket: TcpStream::from_std(socket)?, next: Cell::new(first) })
    }

    /// Reads away what was for the endpoint, and resolves when there is something else to read: with
    /// the number of bytes that must have come by bus before it. `ask` is for the turn.
    pub fn poll_turn(
        &self,
        cx: &mut Context<'_>,
        ask: impl Fn() -> Option<Turn>,
    ) -> Poll<io::Result<u64>> {
        loop {
            let mut bytes = [0; 4096];
            let there = ready!(self.socket.poll_peek(cx, &mut ReadBuf::new(&mut bytes)))?;
            // The turn is noted before the first byte behind it is sent.
            let stray = match ask() {
                Some(Turn { by_bus, .. }) if there == 0 => return Poll::Ready(Ok(by_bus)),
                Some(Turn { by_bus, first: Some(first) }) => {
                    match first.wrapping_sub(self.next.get()) as usize {
                        0 => return Poll::Ready(Ok(by_bus)),
                        stray => stray.min(there),
                    }
                }
                Some(Turn { first: None, .. }) => there,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
            let n = self.socket.try_read(&mut bytes[..stray])?;
            self.next.set(self.next.get().wrapping_add(n as u32));
        }
    }

    /// Reads what the client has sent.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends some of the bytes.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Tells the client that nothing more comes, and closes when it has closed too. To close while
    /// it still sends would reset the connection, and take from it what it has not read yet.
    pub async fn finish(self) {
        let mut socket = self.socket;
        let drained = async {
            socket.shutdown().await?;
            tokio::io::copy(&mut socket.take(LINGER_BYTES), &mut tokio::io::sink()).await
        };
        let _ = tokio::time::timeout(LINGER, drained).await;
    }

    /// Resets the connection.
    pub fn reset(self) {
        // man 7 socket
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        if let Err(error) = setsockopt(&self.socket, sockopt::Linger, &at_once) {
            tracing::debug!(%error, "a connection is closed instead of reset");
        }
    }
}
