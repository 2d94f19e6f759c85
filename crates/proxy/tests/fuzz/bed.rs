//! A running proxy with the kernel's side of it: bus, injector, and what it asks the kernel.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard};

use beeway_model::Mesh;
use beeway_proxy::frame::{FLAG_END, Frame, KIND_DATA};
use beeway_proxy::{Anchor, FRAME_BYTES, Kernel, Proxy, Record, Recorder, Stats, Turn, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use zerocopy::{FromBytes, IntoBytes};

use crate::ledger::Shared;

/// Where the one service of the mesh is.
pub const SERVICE: &str = "10.0.0.1:80";

/// Cookies from here on are of clients that the bed does not serve.
pub const STRANGE: u64 = 1 << 40;

/// Sequence number of the first byte of a diverted connection: they wrap.
const SEQUENCE: u32 = u32::MAX - 1;

/// What comes to one client.
#[derive(Debug)]
pub enum Word {
    Bytes(Vec<u8>),
    /// An answer ends here, with the number of its request.
    End(u32),
    /// The connection leads to the proxy: ends are not told any more.
    Turned,
    /// The proxy says nothing more.
    Fin,
    Abort,
}

/// What the kernel's side hears of.
enum Event {
    Abort(u64),
    Divert(u64),
    /// By a diverted connection.
    Came(u64, Word),
}

/// What the proxy asks.
struct Node {
    events: mpsc::UnboundedSender<Event>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    gone: HashSet<u64>,
    /// Bytes that clients have not read.
    unread: HashMap<u64, u64>,
    turns: HashMap<u64, Turn>,
    over: HashSet<u64>,
    records: u64,
}

impl Node {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while locked")
    }
}

impl Kernel for Node {
    fn queued(&self, cookie: u64) -> Option<u64> {
        let known = self.known();
        let unread = known.unread.get(&cookie).copied().unwrap_or_default();
        (!known.gone.contains(&cookie)).then_some(unread)
    }

    fn abort(&self, cookie: u64) {
        // Nobody listens once the try is over; the same below.
        let _ = self.events.send(Event::Abort(cookie));
    }

    fn divert(&self, cookie: u64) {
        let _ = self.events.send(Event::Divert(cookie));
    }

    fn turn(&self, cookie: u64) -> Option<Turn> {
        self.known().turns.get(&cookie).copied()
    }

    fn over(&self, cookie: u64) {
        self.known().over.insert(cookie);
    }

    fn asked_for(&self, client: SocketAddr, _: SocketAddr) -> Option<Anchor> {
        Some(Anchor { service: SERVICE.parse().ok()?, caller: client.ip() })
    }

    fn leave_alone(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn take_token(&self, _: &beeway_model::Bucket, _: SocketAddr, _: std::net::IpAddr) -> bool {
        true
    }
}

impl Recorder for Node {
    fn record(&self, _: Record) {
        self.known().records += 1;
    }
}

/// A client on the bus, as the kernel's side knows it.
pub struct Line {
    pub cookie: u64,
    words: mpsc::UnboundedSender<Word>,
    /// Bytes put on the bus.
    sent: Cell<u64>,
    /// The client's end of its diverted connection, until it sends by it.
    direct: RefCell<Option<OwnedWriteHalf>>,
    /// Bytes that were for the endpoint, at the front of that.
    stray: u32,
}

/// See the module.
pub struct Bed {
    proxy: Rc<Proxy>,
    node: Arc<Node>,
    _mesh: watch::Sender<Arc<Mesh>>,
    bus: mpsc::UnboundedSender<Vec<u8>>,
    lines: Rc<RefCell<HashMap<u64, Rc<Line>>>>,
    /// Where the proxy takes connections as a whole.
    pub address: SocketAddr,
    cookies: Cell<u64>,
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("a peer");
    let (other, _) = listener.accept().expect("a peer");
    for socket in [&one, &other] {
        socket.set_nodelay(true).expect("an option");
        socket.set_nonblocking(true).expect("a flag");
    }
    (one, other)
}

/// Both ways of one of our ends.
fn split(socket: TcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    tokio::net::TcpStream::from_std(socket).expect("a runtime").into_split()
}

impl Bed {
    /// Must be called in a `LocalSet`.
    pub fn new(mesh: Mesh, ledger: &Shared) -> Bed {
        let (events, heard) = mpsc::unbounded_channel();
        let node = Arc::new(Node { events, known: Mutex::default() });
        let ((bus, bus_theirs), (injector, injector_theirs)) = (pair(), pair());
        let theirs = injector_theirs.try_clone().expect("a descriptor");
        let worker = Worker { bus: bus_theirs, injector: injector_theirs };
        let (mesh, receiver) = watch::channel(Arc::new(mesh));
        let mut proxy = Proxy::start(vec![worker], node.clone(), receiver, Some(node.clone()))
            .expect("the proxy starts");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        proxy.listen(listener).expect("the proxy listens");
        let proxy = Rc::new(proxy);
        let (bus_sender, frames) = mpsc::unbounded_channel();
        let lines = Rc::default();
        let ours = injector.try_clone().expect("a descriptor");
        // The halves that are not used keep the sockets open.
        let ((bus_read, bus), (injector, injector_write)) = (split(bus), split(injector));
        tokio::task::spawn_local(async move {
            feed(bus, frames).await;
            drop(bus_read);
        });
        let delivery = Delivery {
            proxy: Rc::downgrade(&proxy),
            node: node.clone(),
            lines: Rc::clone(&lines),
            ledger: ledger.clone(),
            injector,
            ours,
            theirs,
            held: Vec::new(),
        };
        tokio::task::spawn_local(async move {
            delivery.run(heard).await;
            drop(injector_write);
        });
        Bed { proxy, node, _mesh: mesh, bus: bus_sender, lines, address, cookies: Cell::new(0) }
    }

    /// A new client on the bus, and what comes to it.
    pub fn client(&self) -> (Rc<Line>, mpsc::UnboundedReceiver<Word>) {
        let cookie = self.cookies.get() + 1;
        self.cookies.set(cookie);
        let (words, received) = mpsc::unbounded_channel();
        let (sent, direct) = Default::default();
        let line = Rc::new(Line { cookie, words, sent, direct, stray: cookie as u32 % 3 * 7 });
        self.lines.borrow_mut().insert(cookie, line.clone());
        (line, received)
    }

    /// Puts bytes on the bus.
    pub fn put(&self, bytes: Vec<u8>) {
        // A bus that has ended shows in other ways.
        let _ = self.bus.send(bytes);
    }

    /// Puts the next bytes of a client on the bus.
    pub fn send(&self, line: &Line, request: u32, flags: u16, payload: &[u8]) {
        self.put(line.frame(request, flags, payload));
    }

    /// The way of a client's next bytes, if they do not go by bus any more.
    pub fn turned(&self, line: &Line) -> Option<OwnedWriteHalf> {
        let direct = line.direct.take()?;
        if let Some(turn) = self.node.known().turns.get_mut(&line.cookie) {
            turn.first = Some(SEQUENCE.wrapping_add(line.stray));
        }
        Some(direct)
    }

    /// Asks for a client's connection to lead to the proxy, as the kernel does by itself.
    pub fn divert(&self, cookie: u64) {
        let _ = self.node.events.send(Event::Divert(cookie));
    }

    /// A socket that leads to the proxy, for a client that may not be known to it.
    pub fn divert_stranger(&self, cookie: u64, turn: Option<Turn>) -> TcpStream {
        let (ours, theirs) = pair();
        if let Some(turn) = turn {
            self.node.known().turns.insert(cookie, turn);
        }
        self.proxy.diverted(0, cookie, theirs, SEQUENCE);
        ours
    }

    /// From now on a client has so many bytes unread.
    pub fn stall(&self, cookie: u64, unread: u64) {
        self.node.known().unread.insert(cookie, unread);
    }

    /// The client's socket has closed. The kernel need not say so: the proxy looks for such clients.
    pub fn close(&self, cookie: u64, tell: bool) {
        self.lines.borrow_mut().remove(&cookie);
        self.node.known().gone.insert(cookie);
        if tell {
            self.proxy.client_closed(cookie);
        }
    }

    pub fn stats(&self) -> Stats {
        self.proxy.stats()
    }

    /// `None` when nothing is held for any client, and all is told that must be; or what is left.
    /// `Err`: it stays so.
    pub fn left(&self) -> Result<Option<String>, String> {
        let (stats, known) = (self.stats(), self.node.known());
        let held = stats.open_streams + stats.direct_streams + stats.open_connections;
        let served = known.turns.keys().filter(|cookie| **cookie < STRANGE);
        let unfinished = served.filter(|cookie| !known.over.contains(cookie)).count();
        let left = format!("{} records, {unfinished} diverted, {stats:?}", known.records);
        if !self.proxy.is_healthy() {
            return Err(format!("the proxy has stopped: {left}"));
        }
        let over = held + stats.slow_readers == 0 && known.records == stats.requests;
        Ok((!over || unfinished > 0).then_some(left))
    }
}

impl Line {
    /// The frame of the next bytes.
    pub fn frame(&self, request: u32, flags: u16, payload: &[u8]) -> Vec<u8> {
        let offset = self.sent.replace(self.sent.get() + payload.len() as u64);
        frame(self.cookie, offset, request, flags, payload)
    }
}

/// A frame to the proxy.
pub fn frame(cookie: u64, offset: u64, request: u32, flags: u16, payload: &[u8]) -> Vec<u8> {
    let frame = Frame {
        length: payload.len() as u32,
        kind: KIND_DATA,
        flags,
        cookie,
        offset,
        request,
        draw: (cookie as u32).wrapping_mul(0x9E37_79B9).wrapping_add(request << 20),
        source: SocketAddr::from(([10, 9, 9, 9], 4000)).into(),
        caller: SocketAddr::from(([10, 9, 9, 9], 4000)).into(),
        service: SERVICE.parse::<SocketAddr>().expect("an address").into(),
        ..Frame::default()
    };
    [frame.as_bytes(), payload].concat()
}

/// Writes to the bus until the bed is gone.
async fn feed(mut bus: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = frames.recv().await {
        if bus.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Takes what the proxy says to whom it is for.
struct Delivery {
    proxy: Weak<Proxy>,
    node: Arc<Node>,
    lines: Rc<RefCell<HashMap<u64, Rc<Line>>>>,
    ledger: Shared,
    injector: OwnedReadHalf,
    /// The same, without the runtime, which reads nothing before it has heard that there is something.
    ours: TcpStream,
    /// The proxy's end of it.
    theirs: TcpStream,
    held: Vec<u8>,
}

impl Delivery {
    async fn run(mut self, mut heard: mpsc::UnboundedReceiver<Event>) {
        loop {
            tokio::select! {
                read = self.injector.read_buf(&mut self.held) => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                    self.deliver();
                }
                Some(event) = heard.recv() => {
                    self.catch_up().await;
                    match event {
                        Event::Abort(cookie) => self.tell(cookie, Word::Abort),
                        Event::Came(cookie, word) => self.tell(cookie, word),
                        Event::Divert(cookie) => self.divert(cookie),
                    }
                }
            }
        }
    }

    /// Reads all that the proxy has injected until now.
    async fn catch_up(&mut self) {
        loop {
            let mut bytes: nix::libc::c_int = 0;
            // SAFETY: the call writes an int to where one is (man 7 tcp, SIOCOUTQ).
            let asked = unsafe {
                nix::libc::ioctl(self.theirs.as_raw_fd(), nix::libc::TIOCOUTQ, &mut bytes)
            };
            assert_eq!(asked, 0, "SIOCOUTQ");
            // Ends with an error (EAGAIN) after all that there is.
            let _ = self.ours.read_to_end(&mut self.held);
            self.deliver();
            if bytes == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn tell(&self, cookie: u64, word: Word) {
        self.ledger.tell(|| format!("to client {cookie}: {:.50}", format!("{word:?}")));
        if let Some(line) = self.lines.borrow().get(&cookie) {
            // A client that has ended does not mind.
            let _ = line.words.send(word);
        } else if cookie < STRANGE && !self.node.known().gone.contains(&cookie) {
            self.ledger.fault(format!("the proxy knows a client {cookie}"));
        }
    }

    fn divert(&self, cookie: u64) {
        let Some(proxy) = self.proxy.upgrade() else { return };
        let line = self.lines.borrow().get(&cookie).cloned();
        let mut known = self.node.known();
        if known.turns.contains_key(&cookie) {
            return;
        }
        // Some cannot be diverted.
        let Some(line) = line.filter(|line| line.cookie % 8 != 0) else {
            known.gone.insert(cookie);
            drop(known);
            self.tell(cookie, Word::Abort);
            return proxy.client_closed(cookie);
        };
        self.ledger.count("diverted connections");
        self.ledger.tell(|| format!("{cookie} is diverted after {} bytes", line.sent.get()));
        let (mut ours, theirs) = pair();
        ours.write_all(&vec![b'?'; line.stray as usize]).expect("room");
        let (read, write) = split(ours);
        known.turns.insert(cookie, Turn { by_bus: line.sent.get(), first: None });
        *line.direct.borrow_mut() = Some(write);
        let _ = line.words.send(Word::Turned);
        proxy.diverted(0, cookie, theirs, SEQUENCE);
        let events = self.node.events.clone();
        let hand = move |word| drop(events.send(Event::Came(cookie, word)));
        tokio::task::spawn_local(hear(read, line.words.clone(), hand));
    }

    /// All whole frames.
    fn deliver(&mut self) {
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Ok((frame, after)) = Frame::read_from_prefix(rest) {
            let length = frame.length as usize;
            let right = frame.kind == KIND_DATA && frame.flags & !FLAG_END == 0;
            if !right || length > 32 * 1024 || (length == 0 && frame.flags == 0) {
                return self.ledger.fault(format!("the proxy injects {frame:?}"));
            }
            if after.len() < length {
                break;
            }
            let (payload, after) = after.split_at(length);
            if length > 0 {
                self.tell(frame.cookie, Word::Bytes(payload.to_vec()));
            }
            if frame.flags & FLAG_END != 0 {
                self.tell(frame.cookie, Word::End(frame.request));
            }
            rest = after;
        }
        self.held = rest.to_vec();
        assert!(self.held.len() < FRAME_BYTES + 32 * 1024);
    }
}

/// Hands on what comes by a socket until its client does not listen any more.
pub async fn hear(
    mut socket: OwnedReadHalf,
    words: mpsc::UnboundedSender<Word>,
    hand: impl Fn(Word),
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let word = tokio::select! {
            () = words.closed() => return,
            read = socket.read(&mut buffer) => match read {
                Ok(0) => Word::Fin,
                Ok(n) => Word::Bytes(buffer[..n].to_vec()),
                Err(_) => Word::Abort,
            },
        };
        let last = !matches!(word, Word::Bytes(_));
        hand(word);
        if last {
            return;
        }
    }
}
