//! Bytes on their way out of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection's two directions.
pub(crate) trait Io: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Io for T {}

/// Room that is kept while there is nothing to write.
const KEPT: usize = 4 * 1024;

/// What has been said and not been written yet.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub bytes: Vec<u8>,
    written: usize,
    /// Something was written that may still be held back.
    unflushed: bool,
}

impl Output {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Throws away what waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }

    /// Resolves when all is written.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut io: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let Poll::Ready(n) = io.as_mut().poll_write(cx, &self.bytes[self.written..]) else {
                self.compact();
                return Poll::Pending;
            };
            let n = n?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.written = 0;
        if self.unflushed {
            ready!(io.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets go of what has been written: who never quite catches up must not make this grow.
    fn compact(&mut self) {
        if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes, and no more.
    struct Slow(usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = self.0.min(bytes.len());
            self.0 -= taken;
            if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_never_all_written_does_not_grow() {
        let mut output = Output::default();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            output.bytes.extend_from_slice(&[7; 1000]);
            let left = output.len();
            let taken = left - left.min(500);
            assert!(output.poll_write(&mut cx, Pin::new(&mut Slow(taken))).is_pending());
            assert_eq!(output.len(), left - taken);
        }
        assert!(output.bytes.capacity() < 10_000, "{}", output.bytes.capacity());
    }
}
