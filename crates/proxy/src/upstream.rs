//! Connections to endpoints.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use crate::body::RequestBody;
use crate::gather::Gather;
use crate::limits::{
    CONNECT_TIMEOUT, HTTP2_ENDPOINT_WINDOW, HTTP2_SILENCE, HTTP2_STREAM_WINDOW, RECEIVE_BUFFER,
    UPSTREAM_BUFFER,
};
use crate::local::LocalExecutor;
use crate::stats::{Counters, Held};
use crate::wire::Wire;

/// An HTTP/1.1 connection to an endpoint.
///
/// There is no task behind it: whoever waits for its answer polls [`Upstream::drive`], which saves
/// two task switches a request. Idle in the pool it is not polled at all; what happened meanwhile
/// is looked at when it is taken out.
pub(crate) struct Upstream {
    pub address: SocketAddr,
    pub sender: http1::SendRequest<RequestBody>,
    /// When it was last put away.
    pub idle_since: Instant,
    connection: Box<http1::Connection<TokioIo<Wire>, RequestBody>>,
    over: bool,
    /// Can take another request after this one.
    whole: bool,
    _held: Held,
}

/// Where the connection of a request is while its answer is awaited or read: whoever serves the
/// client drives it from there.
#[derive(Clone, Default)]
pub(crate) struct Slot(Rc<RefCell<Option<Upstream>>>);

/// An HTTP/2 connection to an endpoint, which any number of requests share. A task drives it.
#[derive(Clone)]
pub(crate) struct Upstream2 {
    pub sender: http2::SendRequest<RequestBody>,
}

/// What is left of a connection when HTTP is over.
pub(crate) struct Raw {
    pub socket: TcpStream,
    /// Bytes that came after the head.
    pub read: bytes::Bytes,
}

/// Connects within [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let socket = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await??;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl Upstream {
    /// Connects within [`CONNECT_TIMEOUT`].
    pub async fn connect(address: SocketAddr, counters: &Arc<Counters>) -> io::Result<Upstream> {
        Upstream::over(address, Wire::new(connect(address).await?), counters).await
    }

    /// Speaks HTTP over a connection.
    pub async fn over(
        address: SocketAddr,
        wire: Wire,
        counters: &Arc<Counters>,
    ) -> io::Result<Upstream> {
        let whole = wire.is_whole();
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(UPSTREAM_BUFFER)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(io::Error::other)?;
        let (idle_since, _held) =
            (Instant::now(), Held::new(counters, |counters| &counters.upstream_connections));
        let connection = Box::new(connection);
        Ok(Upstream { address, sender, idle_since, connection, over: false, whole, _held })
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
        self.whole && !self.over && self.sender.is_ready()
    }

    /// Resolves when HTTP is over on it, for an upgrade.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx);
        if self.over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the socket out.
    pub fn into_raw(self) -> Raw {
        let parts = self.connection.into_parts();
        Raw { socket: parts.io.into_inner().into_inner(), read: parts.read_buf }
    }
}

impl Upstream2 {
    /// Connects within [`CONNECT_TIMEOUT`].
    pub async fn connect(address: SocketAddr, counters: &Arc<Counters>) -> io::Result<Upstream2> {
        let socket = connect(address).await?;
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(hyper_util::rt::TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_ENDPOINT_WINDOW)
            .max_send_buf_size(HTTP2_STREAM_WINDOW as usize)
            // An endpoint that vanished without a word is found out.
            .keep_alive_interval(HTTP2_SILENCE)
            .keep_alive_timeout(CONNECT_TIMEOUT)
            .handshake(TokioIo::new(Gather::new(socket)))
            .await
            .map_err(io::Error::other)?;
        let held = Held::new(counters, |counters| &counters.upstream_connections);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "a connection to an endpoint has failed");
            }
            drop(held);
        });
        Ok(Upstream2 { sender })
    }
}

impl Slot {
    /// Puts a connection in.
    pub fn put(&self, upstream: Upstream) {
        *self.0.borrow_mut() = Some(upstream);
    }

    /// Takes the connection out.
    pub fn take(&self) -> Option<Upstream> {
        self.0.borrow_mut().take()
    }

    /// Lets the connection make progress.
    pub fn drive(&self, cx: &mut Context<'_>) {
        if let Some(upstream) = self.0.borrow_mut().as_mut() {
            upstream.drive(cx);
        }
    }
}
