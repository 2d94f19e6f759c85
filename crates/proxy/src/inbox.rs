//! What has come of a client's connection and has not been read.

use std::collections::VecDeque;

use tokio::io::ReadBuf;

use crate::frame::Judged;

/// A buffer that grew past this is given back when it is empty.
const KEPT_CAPACITY: usize = 8 * 1024;

/// Bytes in order.
#[derive(Default)]
pub(crate) struct Inbox {
    pub data: Vec<u8>,
    /// Bytes of `data` that have been read.
    pub read: usize,
    /// Offset of the next byte.
    pub received: u64,
    /// What the kernel said of the heads among them.
    pub judged: VecDeque<Judged>,
}

impl Inbox {
    /// Bytes that have not been read.
    pub fn waiting(&self) -> usize {
        self.data.len() - self.read
    }

    /// Takes the next bytes.
    pub fn append(&mut self, data: &[u8]) {
        // What has been read goes when it is as much as what has to be moved for it: a reader that
        // never quite catches up must not make this grow.
        if self.read > 0 && self.read >= self.waiting() {
            self.data.drain(..self.read);
            self.read = 0;
        }
        self.data.extend_from_slice(data);
    }

    /// Moves what fits into `buf`. Returns whether there was anything.
    pub fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let waiting = self.waiting();
        let taken = waiting.min(buf.remaining());
        buf.put_slice(&self.data[self.read..self.read + taken]);
        self.read += taken;
        if taken == waiting {
            self.read = 0;
            self.data.clear();
            if self.data.capacity() > KEPT_CAPACITY {
                self.data = Vec::new();
            }
        }
        waiting > 0
    }

    /// Puts a request that was taken in front again.
    pub fn put_back(&mut self, request: &[u8], judged: Judged) {
        self.data = [request, &self.data[self.read..]].concat();
        self.read = 0;
        self.judged.push_front(judged);
    }
}
