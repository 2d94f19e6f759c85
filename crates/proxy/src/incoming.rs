//! Bodies of messages as they come, whichever way.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::attempt::is_remote_reset;
use crate::http2;

/// A body that comes from the other side.
pub(crate) enum Incoming {
    Library(hyper::body::Incoming),
    /// By a connection of HTTP/2 that no library serves.
    Own(http2::Body),
}

/// Why a body has no end.
#[derive(Debug)]
pub(crate) enum Lost {
    Library(hyper::Error),
    Own(http2::Lost),
}

impl Lost {
    /// Whether the other side has taken it back, and the connection goes on.
    pub fn is_reset(&self) -> bool {
        match self {
            Lost::Library(error) => is_remote_reset(error),
            Lost::Own(lost) => *lost == http2::Lost::Reset,
        }
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Incoming::Library(body)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Lost;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        match self.get_mut() {
            Incoming::Library(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Lost::Library)))
            }
            Incoming::Own(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Lost::Own)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Library(body) => body.is_end_stream(),
            Incoming::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Library(body) => body.size_hint(),
            Incoming::Own(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Library(error) => write!(f, "{error}"),
            Lost::Own(http2::Lost::Reset) => f.write_str("taken back"),
            Lost::Own(http2::Lost::Connection) => f.write_str("the connection has failed"),
        }
    }
}

impl std::error::Error for Lost {}
