//! A running proxy with the kernel's side of it: bus, injector, and what it asks the kernel.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use beeway_model::Mesh;
use beeway_proxy::frame::{FLAG_END, Frame, KIND_DATA};
use beeway_proxy::{FRAME_BYTES, Kernel, Proxy, Record, Recorder, Stats, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use zerocopy::{FromBytes, IntoBytes};

use crate::ledger::Shared;

/// Where the one service of the mesh is.
pub const SERVICE: &str = "10.0.0.1:80";

/// What the proxy says to one client on the bus.
#[derive(Debug)]
pub enum Word {
    Bytes(Vec<u8>),
    /// An answer ends here: how many bytes there were, and the number of the request.
    End(u32),
    Abort,
}

/// What the proxy asks.
pub struct Node {
    aborts: mpsc::UnboundedSender<u64>,
    gone: Mutex<HashSet<u64>>,
    /// Clients that do not read, and how much they have not read.
    stalled: Mutex<HashMap<u64, u64>>,
    records: AtomicUsize,
    strangers: AtomicU64,
}

impl Kernel for Node {
    fn queued(&self, cookie: u64) -> Option<u64> {
        let gone = self.gone.lock().unwrap().contains(&cookie);
        let stalled = self.stalled.lock().unwrap().get(&cookie).copied();
        (!gone).then_some(stalled.unwrap_or_default())
    }

    fn relay_done(&self, _: usize) -> Option<TcpStream> {
        None
    }

    fn abort(&self, cookie: u64) {
        // Nobody listens once the try is over.
        let _ = self.aborts.send(cookie);
    }

    fn asked_for(&self, _: SocketAddr, _: SocketAddr) -> Option<SocketAddr> {
        SERVICE.parse().ok()
    }
}

impl Recorder for Node {
    fn record(&self, _: Record) {
        self.records.fetch_add(1, Ordering::Relaxed);
    }
}

type Clients = Rc<RefCell<HashMap<u64, mpsc::UnboundedSender<Word>>>>;

/// See the module.
pub struct Bed {
    proxy: Proxy,
    node: Arc<Node>,
    _mesh: watch::Sender<Arc<Mesh>>,
    bus: mpsc::UnboundedSender<Vec<u8>>,
    clients: Clients,
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
    }
    (one, other)
}

/// Both ways of one of our ends.
fn split(socket: TcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    socket.set_nonblocking(true).expect("a flag");
    tokio::net::TcpStream::from_std(socket).expect("a runtime").into_split()
}

impl Bed {
    /// Must be called in a `LocalSet`.
    pub fn new(mesh: Mesh, ledger: &Shared) -> Bed {
        let (aborts, aborted) = mpsc::unbounded_channel();
        let (gone, stalled, records) = Default::default();
        let strangers = AtomicU64::new(u64::MAX);
        let node = Arc::new(Node { aborts, gone, stalled, records, strangers });
        let ((bus, bus_theirs), (injector, injector_theirs)) = (pair(), pair());
        let worker = Worker { bus: bus_theirs, injector: injector_theirs, relays: Vec::new() };
        let (sender, receiver) = watch::channel(Arc::new(mesh));
        let mut proxy = Proxy::start(vec![worker], node.clone(), receiver, Some(node.clone()))
            .expect("the proxy starts");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        proxy.listen(listener).expect("the proxy listens");
        let (bus_sender, frames) = mpsc::unbounded_channel();
        let clients = Clients::default();
        // The halves that are not used keep the sockets open.
        let ((bus_read, bus), (injector, injector_write)) = (split(bus), split(injector));
        tokio::task::spawn_local(async move {
            feed(bus, frames).await;
            drop(bus_read);
        });
        let deliver = Delivery {
            clients: clients.clone(),
            node: node.clone(),
            ledger: ledger.clone(),
            held: Vec::new(),
        };
        tokio::task::spawn_local(async move {
            deliver.run(injector, aborted).await;
            drop(injector_write);
        });
        let cookies = Cell::new(0);
        Bed { proxy, node, _mesh: sender, bus: bus_sender, clients, address, cookies }
    }

    /// A new client on the bus, and what it is told.
    pub fn client(&self) -> (u64, mpsc::UnboundedReceiver<Word>) {
        self.cookies.set(self.cookies.get() + 1);
        let (sender, words) = mpsc::unbounded_channel();
        self.clients.borrow_mut().insert(self.cookies.get(), sender);
        (self.cookies.get(), words)
    }

    /// Clients of these cookies and above are known to nobody.
    pub fn expect_strangers(&self, first: u64) {
        self.node.strangers.store(first, Ordering::Relaxed);
    }

    /// Puts bytes on the bus: whole frames, unless the caller wants it otherwise.
    pub fn put(&self, bytes: Vec<u8>) {
        // A bus that has ended shows in other ways.
        let _ = self.bus.send(bytes);
    }

    /// From now on a client has so many bytes unread.
    pub fn stall(&self, cookie: u64, unread: u64) {
        self.node.stalled.lock().unwrap().insert(cookie, unread);
    }

    /// The client's socket has closed.
    pub fn close(&self, cookie: u64) {
        self.clients.borrow_mut().remove(&cookie);
        self.node.gone.lock().unwrap().insert(cookie);
        self.proxy.client_closed(cookie);
    }

    pub fn stats(&self) -> Stats {
        self.proxy.stats()
    }

    pub fn is_healthy(&self) -> bool {
        self.proxy.is_healthy()
    }

    /// Requests of which a record was given.
    pub fn records(&self) -> usize {
        self.node.records.load(Ordering::Relaxed)
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

/// Takes what the proxy injects to whom it is for.
struct Delivery {
    clients: Clients,
    node: Arc<Node>,
    ledger: Shared,
    held: Vec<u8>,
}

impl Delivery {
    async fn run(mut self, mut injector: OwnedReadHalf, mut aborted: mpsc::UnboundedReceiver<u64>) {
        loop {
            tokio::select! {
                read = injector.read_buf(&mut self.held) => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                    self.deliver();
                }
                Some(cookie) = aborted.recv() => {
                    // What was injected before it comes before it.
                    while let Ok(1..) = injector.try_read_buf(&mut self.held) {}
                    self.deliver();
                    self.tell(cookie, Word::Abort);
                }
            }
        }
    }

    fn tell(&self, cookie: u64, word: Word) {
        if let Some(client) = self.clients.borrow().get(&cookie) {
            // A client that has ended does not mind.
            let _ = client.send(word);
        } else if cookie < self.node.strangers.load(Ordering::Relaxed)
            && !self.node.gone.lock().unwrap().contains(&cookie)
        {
            self.ledger.fault(format!("the proxy knows a client {cookie}"));
        }
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
