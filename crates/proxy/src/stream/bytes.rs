//! A stream as bytes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{State, Stream};

/// The stream as a byte stream, for the HTTP server or a tunnel.
pub(crate) struct Io(pub Rc<Stream>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.0;
        if stream.state.get() == State::Gone {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if stream.inbox.borrow_mut().take(buf) {
            return Poll::Ready(Ok(()));
        }
        stream.poll_direct(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.0.state.get() == State::Gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.0.collect(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for buf in bufs {
            match self.as_mut().poll_write(cx, buf) {
                Poll::Ready(Ok(taken)) => total += taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if total == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.outbox.borrow().open && !self.0.broken.get() {
            self.0.refused.set(true);
            self.0.ending.set(true);
        }
        self.0.flush(cx)
    }
}
