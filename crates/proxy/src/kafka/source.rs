//! What comes from one side: messages with their sizes in front.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::limits::{KAFKA_FRAME, SPLICE_BYTES};

/// One that has nothing under way holds no buffer.
pub(crate) struct Source<'a> {
    from: ReadHalf<'a>,
    buffer: BytesMut,
}

impl<'a> Source<'a> {
    /// `first` was read before.
    pub fn new(from: ReadHalf<'a>, first: Vec<u8>) -> Source<'a> {
        Source { from, buffer: BytesMut::from(&first[..]) }
    }

    /// What has been read and not taken.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits until there is something, or the end.
    pub async fn readable(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.from.readable().await?;
        }
        Ok(())
    }

    /// Reads until there are so many bytes; false: there will not be.
    pub async fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.buffer.len() < wanted {
            if self.read().await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what there is; 0: the end.
    pub async fn read(&mut self) -> io::Result<usize> {
        self.readable().await?;
        // what is wanted in all may be no more than a claim
        self.buffer.reserve(SPLICE_BYTES);
        self.from.read_buf(&mut self.buffer).await
    }

    /// The size of the next message, which is not taken yet; `None`: there is none.
    pub async fn size(&mut self) -> io::Result<Option<usize>> {
        if !self.fill(4).await? {
            return if self.buffer.is_empty() { Ok(None) } else { Err(cut_off()) };
        }
        let size = (&self.buffer[..4]).get_i32();
        let fits = usize::try_from(size).ok().filter(|size| *size <= KAFKA_FRAME);
        fits.map(Some).ok_or_else(|| broken("a message has no size that it could have"))
    }

    /// The next so many bytes.
    pub async fn take(&mut self, n: usize) -> io::Result<Bytes> {
        if !self.fill(n).await? {
            return Err(cut_off());
        }
        Ok(self.buffer.split_to(n).freeze())
    }

    /// Hands the next so many bytes on, or throws them away.
    pub async fn pass(
        &mut self,
        mut n: usize,
        mut to: Option<&mut WriteHalf<'_>>,
    ) -> io::Result<()> {
        while n > 0 {
            if self.buffer.is_empty() && self.read().await? == 0 {
                return Err(cut_off());
            }
            let piece = self.buffer.split_to(n.min(self.buffer.len()));
            n -= piece.len();
            if let Some(to) = &mut to {
                to.write_all(&piece).await?;
            }
        }
        Ok(())
    }
}

pub(crate) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a message is cut off")
}

pub(crate) fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
