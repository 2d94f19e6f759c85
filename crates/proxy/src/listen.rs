//! Connections that the kernel leads here as a whole are accepted, and dealt out to the workers.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use nix::libc;
use nix::sys::socket::{self, setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::Anchor;
use crate::Kernel;
use crate::limits::{ACCEPT_PAUSE, KEEPALIVE, MAX_CONNECTIONS, SOCKET_BUFFER};
use crate::stats::{Counters, Held};
use crate::worker::Command;

/// A connection that a client was led here with.
pub(crate) struct Taken {
    pub socket: TcpStream,
    pub client: SocketAddr,
    pub anchor: Anchor,
    pub held: Held,
}

/// Where connections for a worker go.
pub(crate) struct Desk {
    pub commands: mpsc::UnboundedSender<Command>,
    pub counters: Arc<Counters>,
}

/// A listening socket and the thread that accepts. Dropping it ends both.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// `desks` must not be empty.
    pub fn start(
        socket: TcpListener,
        kernel: Arc<dyn Kernel>,
        desks: Vec<Desk>,
    ) -> io::Result<Listener> {
        socket.set_nonblocking(false)?;
        // what is accepted inherits it
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        let address = socket.local_addr()?;
        let socket = Arc::new(socket);
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor =
            Acceptor { socket: socket.clone(), stopping: stopping.clone(), kernel, desks };
        let family = if address.is_ipv4() { 4 } else { 6 };
        let thread = std::thread::Builder::new()
            .name(format!("accept-{family}"))
            .spawn(move || acceptor.run())?;
        Ok(Listener { socket, stopping, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // accept() returns at once on a socket that listens no more
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that accepts connections has panicked");
        }
    }
}

struct Acceptor {
    socket: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    kernel: Arc<dyn Kernel>,
    desks: Vec<Desk>,
}

impl Acceptor {
    fn run(&self) {
        loop {
            let accepted = self.socket.accept();
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            match accepted {
                Ok((socket, client)) => self.take(socket, client),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connections cannot be accepted");
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn take(&self, socket: TcpStream, client: SocketAddr) {
        let anchor = socket.local_addr().ok().and_then(|here| self.kernel.asked_for(client, here));
        let desk = self.desks.iter().min_by_key(|desk| desk.counters.open_connections.get());
        let Some(desk) = desk else { return };
        let Some(anchor) = anchor else {
            desk.counters.connections_unknown.add(1);
            tracing::debug!(%client, "a connection that the kernel did not lead here is closed");
            let _ = socket.shutdown(Shutdown::Both);
            return;
        };
        if let Err(error) = socket.set_nonblocking(true).and_then(|()| prepare(&socket)) {
            tracing::debug!(%client, %error, "a connection broke at once");
            return;
        }
        if desk.counters.open_connections.get() >= MAX_CONNECTIONS {
            desk.counters.connections_refused.add(1);
            tracing::debug!(%client, limit = MAX_CONNECTIONS, "too many connections");
            return;
        }
        desk.counters.connections.add(1);
        let held = Held::new(&desk.counters, |counters| &counters.open_connections);
        // A worker that has stopped resets it.
        let _ = desk.commands.send(Command::Serve(Taken { socket, client, anchor, held }));
    }
}

/// What a connection may die of before it is accepted (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted};
    matches!(error.kind(), ConnectionAborted | Interrupted)
        || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::EPERM))
}

/// Sets up one end of a connection that is carried as a whole. Until [`end_in_order`] says
/// otherwise closing it is a reset, also when this process dies: nobody takes what was cut off for
/// complete.
pub(crate) fn prepare(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE.idle)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE.interval)?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE.probes)?;
    Ok(())
}

/// Lets the kernel send what is left when the socket is closed.
pub(crate) fn end_in_order(socket: &impl AsFd) {
    // a socket that is dead already has nothing left
    let _ = setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
}

/// A socket that is [`prepare`]d, and ends in order when it is shut down.
pub(crate) struct Orderly(pub tokio::net::TcpStream);

impl AsyncRead for Orderly {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Orderly {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        end_in_order(&self.0);
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
