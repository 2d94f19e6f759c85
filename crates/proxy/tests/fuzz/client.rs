//! Clients of HTTP/1.1, by bus or by a socket of their own.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use beeway_proxy::frame::{FLAG_REQUEST, FLAG_STICKY};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::bed::{Bed, Word, frame};
use crate::dice::Dice;
use crate::ledger::Shared;
use crate::request::{Rendered, Request};
use crate::scene::Scene;
use crate::strict::{Body, Fault, Framing, Head, Reader};

/// How a client's bytes reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By bus; the kernel has judged each head.
    Judged,
    /// By bus, all of it.
    Sticky,
    Socket,
}

/// What all clients of a try know.
#[derive(Clone)]
pub struct World {
    pub bed: Rc<Bed>,
    pub scene: Rc<Scene>,
    pub ledger: Shared,
}

/// The way there.
pub enum Sender {
    Bus { bed: Rc<Bed>, cookie: u64, offset: u64, asked: u32, sticky: bool },
    Socket(tokio::net::tcp::OwnedWriteHalf),
}

/// The way back.
pub enum Receiver {
    Bus { words: mpsc::UnboundedReceiver<Word>, held: Vec<u8>, got: u64, ends: Vec<u64> },
    Socket(tokio::net::tcp::OwnedReadHalf),
}

pub async fn connect(world: &World, way: Way) -> Option<(Sender, Receiver)> {
    if way == Way::Socket {
        let (read, write) = TcpStream::connect(world.bed.address).await.ok()?.into_split();
        return Some((Sender::Socket(write), Receiver::Socket(read)));
    }
    let (cookie, words) = world.bed.client();
    let (bed, sticky) = (world.bed.clone(), way == Way::Sticky);
    let sender = Sender::Bus { bed, cookie, offset: 0, asked: 0, sticky };
    Some((sender, Receiver::Bus { words, held: Vec::new(), got: 0, ends: Vec::new() }))
}

impl Sender {
    /// `head`: a request's head begins here. False: nobody takes it.
    pub async fn send(&mut self, dice: &mut Dice, bytes: &[u8], head: bool) -> bool {
        let most = dice.of(&[10, 1000, 60_000, 60_000]).max(bytes.len() / 20);
        let mut rest = bytes;
        let mut first = head;
        while !rest.is_empty() {
            // A head that the kernel has judged is in one frame.
            let whole =
                rest.windows(4).position(|w| w == b"\r\n\r\n").map_or(rest.len(), |at| at + 4);
            let n = if first { dice.between(whole, rest.len()) } else { dice.between(1, most) };
            let (piece, after) = rest.split_at(n.min(rest.len()));
            match self {
                Sender::Bus { bed, cookie, offset, asked, sticky } => {
                    *asked += u32::from(first);
                    let flags = match (*sticky, first) {
                        (true, _) => FLAG_STICKY,
                        (false, true) => FLAG_REQUEST,
                        _ => 0,
                    };
                    bed.put(frame(*cookie, *offset, *asked, flags, piece));
                    *offset += piece.len() as u64;
                }
                Sender::Socket(socket) => {
                    if socket.write_all(piece).await.is_err() {
                        return false;
                    }
                }
            }
            first = false;
            rest = after;
            if dice.one_in(8) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        true
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Sender::Bus { bed, cookie, .. } = self {
            bed.close(*cookie);
        }
    }
}

impl Receiver {
    /// Where the nth answer has ended, as far as is told; `None`: nobody tells.
    async fn end(&mut self, nth: usize) -> Option<Result<u64, String>> {
        let Receiver::Bus { words, held, got, ends } = self else { return None };
        if let Some(end) = ends.get(nth) {
            return Some(Ok(*end));
        }
        // It may come in a frame of its own.
        let word = tokio::time::timeout(Duration::from_secs(10), words.recv()).await;
        Some(match word {
            Ok(Some(Word::End(_))) if held.is_empty() => {
                ends.push(*got);
                Ok(*got)
            }
            word => Err(format!("{word:?} comes instead")),
        })
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (words, held, got, ends) = match &mut *self {
            Receiver::Socket(socket) => return Pin::new(socket).poll_read(cx, buf),
            Receiver::Bus { words, held, got, ends } => (words, held, got, ends),
        };
        while held.is_empty() {
            match ready!(words.poll_recv(cx)) {
                Some(Word::Bytes(bytes)) => {
                    *got += bytes.len() as u64;
                    *held = bytes;
                }
                Some(Word::End(_)) => ends.push(*got),
                Some(Word::Abort) | None => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        let some = held.len().min(buf.remaining());
        buf.put_slice(&held[..some]);
        held.drain(..some);
        // The end of an answer is known with its last byte.
        while held.is_empty()
            && let Ok(word) = words.try_recv()
        {
            match word {
                Word::End(_) => ends.push(*got),
                Word::Bytes(bytes) => {
                    *got += bytes.len() as u64;
                    *held = bytes;
                }
                Word::Abort => words.close(),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Both ways as one.
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
        match &mut self.sender {
            Sender::Socket(socket) => Pin::new(socket).poll_write(cx, buf),
            Sender::Bus { bed, cookie, offset, .. } => {
                let some = &buf[..buf.len().min(60_000)];
                bed.put(frame(*cookie, *offset, 0, FLAG_STICKY, some));
                *offset += some.len() as u64;
                Poll::Ready(Ok(some.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sender {
            Sender::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            Sender::Bus { .. } => Poll::Ready(Ok(())),
        }
    }
}

/// What both halves of a client know.
#[derive(Default)]
struct Progress {
    /// Requests under way, in order.
    asked: RefCell<Vec<(Request, Rendered)>>,
    answered: Cell<usize>,
    /// Nothing more is to come.
    over: Cell<bool>,
    changed: Notify,
}

/// A client that sends some requests and reads their answers.
pub async fn talk(world: World, mut dice: Dice) {
    let way = dice.of(&[Way::Judged, Way::Judged, Way::Sticky, Way::Socket]);
    let Some((mut sender, receiver)) = connect(&world, way).await else {
        return world.ledger.fault("the proxy does not take connections");
    };
    world.ledger.tell(|| format!("a client by {way:?}"));
    let progress = Progress::default();
    let cookie = match &sender {
        Sender::Bus { cookie, .. } => Some(*cookie),
        Sender::Socket(_) => None,
    };
    if let (Some(cookie), true) = (cookie, dice.one_in(6)) {
        let bed = world.bed.clone();
        bed.stall(cookie, 1 << 20);
        let time = Duration::from_millis(dice.below(30) as u64);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            bed.stall(cookie, 0);
        });
    }
    let patience = dice.one_in(10).then(|| Duration::from_millis(dice.below(40) as u64));
    let mut asker = Asker { world: &world, dice, way, progress: &progress };
    let both = async {
        tokio::join!(
            async {
                asker.run(&mut sender).await;
                progress.over.set(true);
                progress.changed.notify_waiters();
            },
            listen(&world, way, Reader::new(receiver), &progress)
        )
    };
    // Some lose patience.
    match patience {
        Some(patience) => drop(tokio::time::timeout(patience, both).await),
        None => drop(both.await),
    }
}

struct Asker<'a> {
    world: &'a World,
    dice: Dice,
    way: Way,
    progress: &'a Progress,
}

impl Asker<'_> {
    async fn run(&mut self, sender: &mut Sender) {
        let World { scene, ledger, .. } = self.world;
        let one_by_one = self.dice.one_in(2);
        for _ in 0..self.dice.between(1, 8) {
            if self.dice.one_in(12) && self.way != Way::Judged {
                let bytes = Request::wrong(&mut self.dice, scene, ledger);
                ledger.count("wrong requests");
                self.wait().await;
                if !self.progress.over.get() {
                    sender.send(&mut self.dice, &bytes, false).await;
                }
                return;
            }
            let mut request = Request::new(&mut self.dice);
            let rendered = request.render(&mut self.dice, scene, ledger);
            let bytes = [&rendered.head[..], &rendered.body[..]].concat();
            let last = rendered.last || rendered.upgrade;
            if self.progress.over.get() {
                return;
            }
            let size = rendered.body.len();
            ledger.tell(|| format!("{} by {:?} with {size} bytes", request.id, self.way));
            ledger.count("requests");
            self.progress.asked.borrow_mut().push((request, rendered));
            self.progress.changed.notify_waiters();
            if !sender.send(&mut self.dice, &bytes, true).await {
                return;
            }
            if one_by_one || last {
                self.wait().await;
            }
            if last && self.way != Way::Judged {
                return;
            }
        }
        self.wait().await;
    }

    /// Until all that was asked is answered.
    async fn wait(&self) {
        loop {
            let changed = self.progress.changed.notified();
            let asked = self.progress.asked.borrow().len();
            if self.progress.answered.get() >= asked || self.progress.over.get() {
                return;
            }
            changed.await;
        }
    }
}

/// Reads answers for as long as there are requests.
async fn listen(world: &World, way: Way, mut reader: Reader<Receiver>, progress: &Progress) {
    let mut nth = 0;
    loop {
        let changed = progress.changed.notified();
        let asked = progress.asked.borrow().get(nth).map(|(request, rendered)| {
            (request.id, request.method, rendered.last, rendered.upgrade)
        });
        let Some((id, method, last, upgrade)) = asked else {
            if progress.over.get() {
                break;
            }
            changed.await;
            continue;
        };
        let next = match answer(world, &mut reader, (id, method, upgrade)).await {
            Ok(next) => next,
            Err(Fault::Ended(kind)) => {
                world.ledger.tell(|| format!("{id} has no answer: {kind}"));
                world.ledger.count("requests without an answer");
                Next::Nothing
            }
            Err(Fault::Wrong(what)) => {
                world.ledger.fault(format!("the client of {id} {method} got {what}"));
                Next::Nothing
            }
        };
        if next != Next::Nothing
            && let Some(told) = reader.io().end(nth).await
            && told != Ok(reader.taken)
        {
            let at = reader.taken;
            world.ledger.fault(format!("the answer to {id} ends at {at}, told was {told:?}"));
        }
        nth += 1;
        progress.answered.set(nth);
        let pipelined = progress.asked.borrow().len() > nth;
        // What was sent before a server has closed is thrown away; what the kernel judges after it
        // is for another one.
        let closed = last || next == Next::Close;
        if next == Next::Nothing || (closed && (pipelined || way != Way::Judged)) {
            break;
        }
        progress.changed.notify_waiters();
    }
    progress.over.set(true);
    progress.changed.notify_waiters();
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Another,
    /// This server says nothing more.
    Close,
    /// The connection is over.
    Nothing,
}

/// Reads one answer.
async fn answer(
    world: &World,
    reader: &mut Reader<Receiver>,
    (id, method, upgrade): (u64, &str, bool),
) -> Result<Next, Fault> {
    let head = loop {
        let head = reader.answer().await?;
        match head.status() {
            100 => {}
            101 if upgrade => {
                world.ledger.count("tunnels");
                return Ok(Next::Nothing);
            }
            status if status < 200 => return Err(Fault::Wrong(format!("{:?}", head.first))),
            _ => break head,
        }
    };
    let framing = head.answer_framing(method)?;
    if framing == Framing::Close {
        return Err(Fault::Wrong(format!("an answer without end: {head:?}")));
    }
    let mut body = Body::default();
    reader.body(framing, &mut body).await?;
    judge(world, id, method == "HEAD", &head, &body);
    let closes = head.one("connection").is_some_and(|connection| connection == "close");
    Ok(if closes { Next::Close } else { Next::Another })
}

/// A whole answer has come.
fn judge(world: &World, id: u64, bodiless: bool, head: &Head, body: &Body) {
    let hops = ["keep-alive", "transfer-encoding, x", "x-hop", "x-early"];
    if hops.iter().any(|name| head.has(name)) || head.all("x-answer-to").count() > 1 {
        world.ledger.fault(format!("{id} was answered with {head:?}"));
    }
    match head.one("x-answer-to") {
        Some(tag) => world.ledger.answered(id, &tag, head.status(), bodiless, body),
        None => {
            world.ledger.tell(|| format!("{id} is answered by the proxy: {head:?}"));
            world.ledger.count("answers of the proxy");
        }
    }
}
