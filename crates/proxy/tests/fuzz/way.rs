//! How a client's bytes get to the proxy, and its answers back.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use beeway_proxy::frame::{FLAG_REQUEST, FLAG_STICKY};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::bed::{Bed, Line, Word, hear};
use beeway_model::testing::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By bus; the kernel has judged each head.
    Judged,
    /// By bus, all of it.
    Sticky,
    Socket,
}

/// The way there. Dropping it closes the client's socket.
pub struct Sender {
    bed: Rc<Bed>,
    line: Option<Rc<Line>>,
    /// A socket of its own, or the connection when it leads to the proxy.
    socket: Option<OwnedWriteHalf>,
    asked: u32,
    sticky: bool,
}

/// The way back.
pub struct Receiver {
    words: mpsc::UnboundedReceiver<Word>,
    held: Vec<u8>,
    got: u64,
    /// Ends of answers that were told.
    ends: Vec<u64>,
    /// No more ends are told.
    pub turned: bool,
    over: bool,
}

pub async fn connect(bed: &Rc<Bed>, way: Way) -> io::Result<(Sender, Receiver)> {
    let (line, socket, words) = if way == Way::Socket {
        let (read, write) = TcpStream::connect(bed.address).await?.into_split();
        let (sender, words) = mpsc::unbounded_channel();
        let hand = sender.clone();
        let hand = move |word| drop(hand.send(word));
        tokio::task::spawn_local(hear(read, sender, hand));
        (None, Some(write), words)
    } else {
        let (line, words) = bed.client();
        (Some(line), None, words)
    };
    let turned = line.is_none();
    let sender = Sender { bed: bed.clone(), line, socket, asked: 0, sticky: way == Way::Sticky };
    let (held, got, ends, over) = Default::default();
    Ok((sender, Receiver { words, held, got, ends, turned, over }))
}

impl Sender {
    pub fn cookie(&self) -> Option<u64> {
        self.line.as_ref().map(|line| line.cookie)
    }

    /// The socket to send by, or the line.
    fn way(&mut self) -> Result<&mut OwnedWriteHalf, (&Bed, &Line)> {
        if let (None, Some(line)) = (&self.socket, &self.line) {
            self.socket = self.bed.turned(line);
        }
        match (&mut self.socket, &self.line) {
            (Some(socket), _) => Ok(socket),
            (None, line) => Err((&self.bed, line.as_deref().expect("one of both"))),
        }
    }

    /// `head`: a request's head begins here. False: nobody takes it.
    pub async fn send(&mut self, dice: &mut Dice, bytes: &[u8], head: bool) -> bool {
        let most = dice.of(&[10, 1000, 60_000, 60_000]).max(bytes.len() / 20);
        let at_once = !dice.one_in(4);
        let (mut rest, mut first) = (bytes, head);
        self.asked += u32::from(head);
        let (asked, sticky) = (self.asked, self.sticky);
        while !rest.is_empty() {
            // A head that the kernel has judged is in one frame.
            let whole =
                rest.windows(4).position(|w| w == b"\r\n\r\n").map_or(rest.len(), |at| at + 4);
            let n = match first {
                true if at_once => rest.len().min(60_000).max(whole),
                true => dice.between(whole, rest.len()),
                false => dice.between(1, most),
            };
            let (piece, after) = rest.split_at(n.min(rest.len()));
            match self.way() {
                Err((bed, line)) => {
                    let judged = if first { FLAG_REQUEST } else { 0 };
                    bed.send(line, asked, if sticky { FLAG_STICKY } else { judged }, piece);
                }
                Ok(socket) => {
                    if socket.write_all(piece).await.is_err() {
                        return false;
                    }
                }
            }
            (rest, first) = (after, false);
            if dice.one_in(8) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        true
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(cookie) = self.cookie() {
            // One that is not told of is found within a second.
            let tell = cookie % 32 != 1;
            self.bed.close(cookie, tell);
        }
    }
}

impl Receiver {
    /// Where the nth answer has ended, as far as is told; `None`: nobody tells.
    pub async fn end(&mut self, nth: usize) -> Option<Result<u64, String>> {
        if let Some(end) = self.ends.get(nth) {
            return Some(Ok(*end));
        }
        if self.turned {
            return None;
        }
        // It may come in a frame of its own.
        match tokio::time::timeout(Duration::from_secs(10), self.words.recv()).await {
            Ok(Some(Word::End(_))) if self.held.is_empty() => {
                self.ends.push(self.got);
                Some(Ok(self.got))
            }
            Ok(Some(Word::Turned)) => {
                self.turned = true;
                None
            }
            word => Some(Err(format!("{word:?} comes instead"))),
        }
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.held.is_empty() && !this.over {
            match ready!(this.words.poll_recv(cx)) {
                Some(Word::Bytes(bytes)) => {
                    this.got += bytes.len() as u64;
                    this.held = bytes;
                }
                Some(Word::End(_)) => this.ends.push(this.got),
                Some(Word::Turned) => this.turned = true,
                Some(Word::Fin) => this.over = true,
                Some(Word::Abort) | None => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        let some = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..some]);
        this.held.drain(..some);
        Poll::Ready(Ok(()))
    }
}

/// Both ways as one, for HTTP/2.
pub struct Joined {
    pub receiver: Receiver,
    pub sender: Sender,
}

impl AsyncRead for Joined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receiver).poll_read(cx, buf)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.sender.way() {
            Ok(socket) => Pin::new(socket).poll_write(cx, buf),
            Err((bed, line)) => {
                let some = &buf[..buf.len().min(60_000)];
                bed.send(line, 0, FLAG_STICKY, some);
                Poll::Ready(Ok(some.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.sender.way() {
            Ok(socket) => Pin::new(socket).poll_shutdown(cx),
            Err(_) => Poll::Ready(Ok(())),
        }
    }
}
