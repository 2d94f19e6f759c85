//! HTTP/1 or HTTP/2? The first bytes tell (RFC 9113 section 3.4).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::limits::PREFACE_TIMEOUT;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which the first bytes have been read, and are read again.
pub(crate) struct Begun<I> {
    io: I,
    first: [u8; PREFACE.len()],
    read: usize,
    held: usize,
}

/// Waits for as many bytes as it takes to tell, and says whether it is HTTP/2. Nothing at all for
/// [`PREFACE_TIMEOUT`] after the first byte, and the end of the connection, are not.
pub(crate) async fn is_http2<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Begun<I>, bool)> {
    let mut first = [0; PREFACE.len()];
    let mut held = 0;
    while held < PREFACE.len() && PREFACE.starts_with(&first[..held]) {
        let read = io.read(&mut first[held..]);
        let n = if held == 0 {
            read.await?
        } else {
            tokio::time::timeout(PREFACE_TIMEOUT, read).await.unwrap_or(Ok(0))?
        };
        if n == 0 {
            break;
        }
        held += n;
    }
    let http2 = held == PREFACE.len() && first == PREFACE;
    Ok((Begun { io, first, read: 0, held }, http2))
}

impl<I> Begun<I> {
    /// The connection after its preface, for who needs no preface any more.
    pub fn after_preface(self) -> Begun<I> {
        Begun { read: self.held, ..self }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Begun<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let waiting = self.held - self.read;
        if waiting == 0 {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let taken = waiting.min(buf.remaining());
        buf.put_slice(&self.first[self.read..self.read + taken]);
        self.read += taken;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Begun<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_bytes_tell_and_stay() {
        let with_more = [PREFACE, b"more"].concat();
        for (bytes, http2) in [
            (&with_more[..], true),
            (b"GET / HTTP/1.1\r\n\r\n", false),
            (b"PRI * HTTP/1.1\r\n\r\n", false),
            (b"PRI", false),
            (b"", false),
        ] {
            let (mut begun, found) = is_http2(bytes).await.unwrap();
            let mut all = Vec::new();
            begun.read_to_end(&mut all).await.unwrap();
            assert_eq!((found, all.as_slice()), (http2, bytes));
        }
    }
}
