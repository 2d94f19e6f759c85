//! What goes back to a client's connection and has not been sent.

use crate::frame::{FRAME_BYTES, put_header};
use crate::limits::FRAME_PAYLOAD;

/// Room for a header and most answers, to begin with.
const FIRST_BYTES: usize = 1024;

/// A frame in the making. Between answers it holds no memory.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Room for a header, then payload; empty when there is none.
    frame: Vec<u8>,
    /// Bytes of the payload that a direct connection has taken.
    pub sent: usize,
    /// Something was sent or collected since an answer ended.
    pub open: bool,
}

impl Outbox {
    /// Bytes of payload.
    pub fn payload(&self) -> usize {
        self.frame.len().saturating_sub(FRAME_BYTES)
    }

    /// Bytes of payload that can still be added.
    pub fn room(&self) -> usize {
        FRAME_PAYLOAD - self.payload()
    }

    /// Adds payload, at most as much as there is room for.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.frame.is_empty() {
            self.frame.reserve(FIRST_BYTES.max(FRAME_BYTES + bytes.len()));
            self.frame.resize(FRAME_BYTES, 0);
        }
        self.frame.extend_from_slice(bytes);
    }

    /// The frame for an injector.
    pub fn frame(&mut self, cookie: u64, flags: u16, request: u32) -> &[u8] {
        if self.frame.is_empty() {
            self.frame.resize(FRAME_BYTES, 0);
        }
        let length = self.payload();
        put_header(&mut self.frame, cookie, length, flags, request);
        &self.frame
    }

    /// Payload that a direct connection has not taken.
    pub fn unsent(&self) -> &[u8] {
        self.frame.get(FRAME_BYTES + self.sent..).unwrap_or_default()
    }

    /// All of the payload has been sent.
    pub fn clear(&mut self) {
        self.frame.truncate(FRAME_BYTES);
        self.sent = 0;
    }

    /// The answer has ended.
    pub fn end(&mut self) {
        *self = Outbox::default();
    }
}
