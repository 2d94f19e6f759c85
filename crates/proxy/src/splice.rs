//! Two connections become one: bytes go both ways, and so do the end of each direction and resets.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::limits::{SPLICE_BYTES, SPLICE_TURNS};
use crate::stats::Counter;

thread_local! {
    /// Bytes on their way. They leave before anything else runs; what the other side does not take
    /// is kept by its connection, so that one with nothing under way holds nothing.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SPLICE_BYTES]);
}

/// Where bytes carried are counted.
pub(crate) struct Carried<'a> {
    /// From the client.
    pub up: &'a Counter,
    /// To the client.
    pub down: &'a Counter,
}

/// Why a direction has ended early.
enum Broken {
    /// Where the bytes come from is gone.
    From(io::Error),
    /// Where they go is gone. It may have said something before.
    To(io::Error),
}

impl Broken {
    fn into_error(self) -> io::Error {
        match self {
            Broken::From(error) | Broken::To(error) => error,
        }
    }
}

/// Carries bytes until both directions have ended. `first` was read from the client and goes ahead.
/// An error: one side is gone, and the other should see a reset.
pub(crate) async fn splice(
    client: &mut TcpStream,
    server: &mut TcpStream,
    first: Vec<u8>,
    carried: &Carried<'_>,
) -> io::Result<()> {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let mut up = pin!(pump(client_read, server_write, first, carried.up));
    let mut down = pin!(pump(server_read, client_write, Vec::new(), carried.down));
    let (ended, other) = tokio::select! {
        ended = &mut up => (ended, down),
        ended = &mut down => (ended, up),
    };
    let half = match ended {
        Ok(ended) => ended.pass_on().await,
        Err(Broken::From(error)) => return Err(error),
        Err(Broken::To(error)) => {
            // the end of that is none in order
            let _ = other.await;
            return Err(error);
        }
    };
    tokio::select! {
        rest = other => rest.map_err(Broken::into_error)?.pass_on().await,
        error = reset(&half) => return Err(error),
    };
    Ok(())
}

/// A direction in which all has been carried.
struct Ended<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
}

impl<'a> Ended<'a> {
    /// Tells where the bytes went that there will be no more.
    async fn pass_on(mut self) -> ReadHalf<'a> {
        // It has gone away meanwhile: whoever reads from it hears of that.
        let _ = self.to.shutdown().await;
        self.from
    }
}

/// Carries one direction to its end.
async fn pump<'a>(
    mut from: ReadHalf<'a>,
    mut to: WriteHalf<'a>,
    first: Vec<u8>,
    carried: &Counter,
) -> Result<Ended<'a>, Broken> {
    carried.add(first.len() as u64);
    let mut left = first;
    loop {
        to.write_all(&left).await.map_err(Broken::To)?;
        drop(left);
        let read = poll_fn(|cx| poll_carry(cx, &mut from, &mut to, carried)).await?;
        let Some(rest) = read else { return Ok(Ended { from, to }) };
        left = rest;
    }
}

/// Carries bytes until there are none. `Some`: bytes that could not be written; `None`: the end.
fn poll_carry(
    cx: &mut Context<'_>,
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    carried: &Counter,
) -> Poll<Result<Option<Vec<u8>>, Broken>> {
    SCRATCH.with_borrow_mut(|scratch| {
        for _ in 0..SPLICE_TURNS {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read)).map_err(Broken::From)?;
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(None));
            }
            carried.add(bytes.len() as u64);
            let written = match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(written) => written.map_err(Broken::To)?,
                Poll::Pending => 0,
            };
            if written < bytes.len() {
                return Poll::Ready(Ok(Some(bytes[written..].to_vec())));
            }
        }
        // the others' turn
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Resolves when the peer of a socket, which has no more to send, resets it.
async fn reset(half: &ReadHalf<'_>) -> io::Error {
    match half.ready(Interest::ERROR).await {
        Ok(_) => half.as_ref().take_error().ok().flatten(),
        Err(error) => Some(error),
    }
    .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}
