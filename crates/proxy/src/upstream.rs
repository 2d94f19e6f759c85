//! One connection to an endpoint, driven by the task that uses it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use crate::limits::{CONNECT_TIMEOUT, RECEIVE_BUFFER, UPSTREAM_BUFFER};
use crate::stats::Counters;

/// An HTTP/1.1 connection to an endpoint.
///
/// There is no task behind it: whoever waits for its answer polls [`Upstream::drive`], which saves
/// two task switches a request. Idle in the pool it is not polled at all; what happened meanwhile
/// is looked at when it is taken out.
pub(crate) struct Upstream {
    pub address: SocketAddr,
    pub sender: http1::SendRequest<Incoming>,
    /// When it was last put away.
    pub idle_since: Instant,
    connection: http1::Connection<TokioIo<TcpStream>, Incoming>,
    over: bool,
    _held: Held,
}

/// Counts a connection for as long as it is there.
struct Held(Arc<Counters>);

/// What is left of a connection when HTTP is over.
pub(crate) struct Raw {
    pub socket: TcpStream,
    /// Bytes that came after the head.
    pub read: bytes::Bytes,
}

impl Upstream {
    /// Connects within [`CONNECT_TIMEOUT`].
    pub async fn connect(address: SocketAddr, counters: &Arc<Counters>) -> io::Result<Upstream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        let socket = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await??;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(UPSTREAM_BUFFER)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        counters.upstream_connections.add(1);
        let (idle_since, _held) = (Instant::now(), Held(counters.clone()));
        Ok(Upstream { address, sender, idle_since, connection, over: false, _held })
    }

    /// Reads, writes and hands over what there is. Errors reach the request that is under way.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.over && self.connection.poll_without_shutdown(cx).is_ready() {
            self.over = true;
        }
    }

    /// Whether another request can be sent now.
    pub fn is_reusable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.over && self.sender.is_ready()
    }

    /// Resolves when HTTP is over on it, for an upgrade.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx);
        if self.over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the socket out.
    pub fn into_raw(self) -> Raw {
        let parts = self.connection.into_parts();
        Raw { socket: parts.io.into_inner(), read: parts.read_buf }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.upstream_connections.sub(1);
    }
}
