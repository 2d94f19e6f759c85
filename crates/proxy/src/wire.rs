//! The socket of a connection to an endpoint, as the HTTP library sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection, new or with a request under way.
pub(crate) struct Wire {
    socket: TcpStream,
    begun: Option<Begun>,
}

/// A request that has been sent already: what is written as the request goes nowhere, and nothing
/// can be sent after it.
struct Begun {
    /// The rest of the request.
    unsent: Vec<u8>,
    sent: usize,
    /// What the endpoint has said so far.
    read: Vec<u8>,
    taken: usize,
    /// The library reads an answer only to a request that it has written.
    written: bool,
    reader: Option<Waker>,
}

impl Wire {
    /// A connection that has not been used.
    pub fn new(socket: TcpStream) -> Wire {
        Wire { socket, begun: None }
    }

    /// A connection on which a request was sent, `unsent` excepted, and `read` came back.
    pub fn begun(socket: TcpStream, unsent: Vec<u8>, read: Vec<u8>) -> Wire {
        let (sent, taken, written) = (0, 0, false);
        Wire { socket, begun: Some(Begun { unsent, sent, read, taken, written, reader: None }) }
    }

    /// Whether it can carry more than one request.
    pub fn is_whole(&self) -> bool {
        self.begun.is_none()
    }

    /// The socket itself.
    pub fn into_inner(self) -> TcpStream {
        self.socket
    }

    fn swallow(&mut self, length: usize) -> Option<usize> {
        let begun = self.begun.as_mut()?;
        begun.written = true;
        if let Some(reader) = begun.reader.take() {
            reader.wake();
        }
        Some(length)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Wire { socket, begun } = &mut *self;
        if let Some(begun) = begun {
            if !begun.written {
                begun.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            while begun.sent < begun.unsent.len() {
                match Pin::new(&mut *socket).poll_write(cx, &begun.unsent[begun.sent..]) {
                    Poll::Ready(Ok(n)) => begun.sent += n,
                    // What the endpoint has said, or that it is gone, shows when it is read.
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            let left = &begun.read[begun.taken..];
            if !left.is_empty() {
                let taken = left.len().min(buf.remaining());
                buf.put_slice(&left[..taken]);
                begun.taken += taken;
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.swallow(buf.len()) {
            Some(length) => Poll::Ready(Ok(length)),
            None => Pin::new(&mut self.socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.swallow(bufs.iter().map(|buf| buf.len()).sum()) {
            Some(length) => Poll::Ready(Ok(length)),
            None => Pin::new(&mut self.socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
