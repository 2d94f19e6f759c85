//! The kernel's side of bus and injector, held by the test.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use beeway_model::*;
use beeway_proxy::frame::{FLAG_END, FLAG_REQUEST, Frame, KIND_DATA};
use beeway_proxy::{Anchor, FRAME_BYTES, Kernel, Options, Proxy, Record, Recorder, Turn, Worker};
use tokio::sync::watch;
use zerocopy::{FromBytes, IntoBytes};

/// Where the one service of the mesh is.
pub const SERVICE: &str = "10.0.0.1:80";
/// Where requests come from, unless the test says otherwise: the workload `buyer`.
const SOURCE: &str = "10.9.9.9:4000";
const PATIENCE: Duration = Duration::from_secs(8);

/// Both ends of a TCP connection.
pub fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    for socket in [&one, &other] {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (one, other)
}

/// A kernel that says what the test wants it to.
#[derive(Default)]
pub struct Pretence {
    state: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
pub struct Said {
    pub queued: HashMap<u64, u64>,
    pub gone: HashSet<u64>,
    pub asked: usize,
    pub aborted: Vec<u64>,
    pub diverted: Vec<u64>,
    pub turns: HashMap<u64, Turn>,
    pub over: Vec<u64>,
}

impl Pretence {
    /// Changes what is said from now on.
    pub fn say(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.state.lock().unwrap());
    }

    /// Waits until something has been asked.
    pub fn wait(&self, until: impl Fn(&Said) -> bool) {
        let state = self.state.lock().unwrap();
        let (state, _) =
            self.changed.wait_timeout_while(state, PATIENCE, |state| !until(state)).unwrap();
        assert!(until(&state), "waited in vain");
    }

    fn note<T>(&self, change: impl FnOnce(&mut Said) -> T) -> T {
        let said = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        said
    }
}

impl Kernel for Pretence {
    fn queued(&self, cookie: u64) -> Option<u64> {
        self.note(|said| {
            said.asked += 1;
            let queued = said.queued.get(&cookie).copied().unwrap_or(0);
            (!said.gone.contains(&cookie)).then_some(queued)
        })
    }

    fn abort(&self, cookie: u64) {
        self.note(|said| said.aborted.push(cookie));
    }

    fn divert(&self, cookie: u64) {
        self.note(|said| said.diverted.push(cookie));
    }

    fn turn(&self, cookie: u64) -> Option<Turn> {
        self.note(|said| said.turns.get(&cookie).copied())
    }

    fn over(&self, cookie: u64) {
        self.note(|said| said.over.push(cookie));
    }

    fn asked_for(&self, _: SocketAddr, _: SocketAddr) -> Option<Anchor> {
        None
    }

    fn leave_alone(&self, _: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn take_token(&self, _: &Bucket, _: SocketAddr, _: IpAddr) -> bool {
        true
    }
}

/// What has arrived for one client.
#[derive(Default)]
pub struct Received {
    pub bytes: Vec<u8>,
    /// Lengths of `bytes` at which a frame said that an answer ends.
    pub ends: Vec<usize>,
    pub frames: usize,
}

/// A running proxy of one worker.
pub struct Kit {
    pub proxy: Proxy,
    pub kernel: Arc<Pretence>,
    pub bus: TcpStream,
    pub injector: TcpStream,
    /// The proxy's end of the injector.
    pub injector_theirs: TcpStream,
    pub mesh: watch::Sender<Arc<Mesh>>,
    pub received: HashMap<u64, Received>,
    /// Who sends the next request, and what it was that he connected to.
    pub source: SocketAddr,
    pub service: SocketAddr,
    sent: HashMap<u64, u64>,
}

/// Hands records to the test.
struct Recording(Mutex<std::sync::mpsc::Sender<Record>>);

impl Recorder for Recording {
    fn record(&self, record: Record) {
        // The test may have seen enough.
        let _ = self.0.lock().unwrap().send(record);
    }
}

impl Kit {
    pub fn new(mesh: Mesh) -> Kit {
        Kit::with(Options::default(), mesh, None)
    }

    /// With what is told of each request.
    pub fn recording(mesh: Mesh) -> (Kit, std::sync::mpsc::Receiver<Record>) {
        let (sender, records) = std::sync::mpsc::channel();
        let recorder = Arc::new(Recording(Mutex::new(sender)));
        (Kit::with(Options::default(), mesh, Some(recorder)), records)
    }

    pub fn with(options: Options, mesh: Mesh, recorder: Option<Arc<dyn Recorder>>) -> Kit {
        let kernel = Arc::new(Pretence::default());
        let (bus, bus_theirs) = pair();
        let (injector, injector_theirs) = pair();
        let theirs = injector_theirs.try_clone().unwrap();
        let worker = Worker { bus: bus_theirs, injector: injector_theirs };
        let (sender, receiver) = watch::channel(Arc::new(mesh));
        let proxy =
            Proxy::start_with(options, vec![worker], kernel.clone(), receiver, recorder).unwrap();
        let (received, sent) = Default::default();
        let (source, service) = (SOURCE.parse().unwrap(), SERVICE.parse().unwrap());
        let (injector_theirs, mesh) = (theirs, sender);
        Kit { proxy, kernel, bus, injector, injector_theirs, mesh, received, source, service, sent }
    }

    /// A frame, in the order of the connection's bytes.
    pub fn frame(&mut self, cookie: u64, flags: u16, draw: u32, payload: &[u8]) -> Vec<u8> {
        let offset = self.sent.entry(cookie).or_default();
        let frame = Frame {
            length: payload.len() as u32,
            kind: KIND_DATA,
            flags,
            cookie,
            offset: *offset,
            draw,
            source: self.source.into(),
            caller: self.source.into(),
            service: self.service.into(),
            ..Frame::default()
        };
        *offset += payload.len() as u64;
        [frame.as_bytes(), payload].concat()
    }

    pub fn send(&mut self, cookie: u64, flags: u16, payload: impl AsRef<[u8]>) {
        let frame = self.frame(cookie, flags, 0, payload.as_ref());
        self.bus.write_all(&frame).unwrap();
    }

    pub fn request(&mut self, cookie: u64, payload: impl AsRef<[u8]>) {
        self.send(cookie, FLAG_REQUEST, payload);
    }

    /// Lets a client's connection lead to the proxy, from the next byte on; returns the client's end.
    /// `stray` are bytes that were for its endpoint.
    pub fn divert(&mut self, cookie: u64, stray: &[u8]) -> TcpStream {
        const SEQUENCE: u32 = u32::MAX - 1;
        let (mut client, ours) = pair();
        client.write_all(stray).unwrap();
        let by_bus = self.sent.get(&cookie).copied().unwrap_or_default();
        let first = Some(SEQUENCE.wrapping_add(stray.len() as u32));
        self.kernel.say(|said| {
            said.turns.insert(cookie, Turn { by_bus, first });
        });
        ours.set_nonblocking(true).unwrap();
        self.proxy.diverted(0, cookie, ours, SEQUENCE);
        client
    }

    /// Takes the next frame from the injector.
    pub fn take(&mut self) -> Frame {
        let mut header = [0; FRAME_BYTES];
        self.injector.read_exact(&mut header).expect("a frame's header");
        let frame = Frame::read_from_bytes(&header).unwrap();
        assert_eq!(frame.kind, KIND_DATA);
        assert!(frame.length <= 32 * 1024);
        let mut payload = vec![0; frame.length as usize];
        self.injector.read_exact(&mut payload).expect("a frame's payload");
        let received = self.received.entry(frame.cookie).or_default();
        received.bytes.extend_from_slice(&payload);
        received.frames += 1;
        if frame.flags & FLAG_END != 0 {
            received.ends.push(received.bytes.len());
        }
        frame
    }

    /// What has been taken for a client that is no whole answer.
    pub fn injected(&self, cookie: u64) -> &[u8] {
        self.received.get(&cookie).map_or(&[], |received| &received.bytes)
    }

    /// Takes frames until the client has got the end of an answer, and returns the answer.
    pub fn answer(&mut self, cookie: u64) -> Answer {
        while self.received.get(&cookie).is_none_or(|r| r.ends.is_empty()) {
            self.take();
        }
        let received = self.received.get_mut(&cookie).unwrap();
        let end = received.ends.remove(0);
        let rest = received.bytes.split_off(end);
        received.ends.iter_mut().for_each(|at| *at -= end);
        let whole = std::mem::replace(&mut received.bytes, rest);
        let frames = std::mem::take(&mut received.frames);
        Answer::parse(&whole, frames)
    }

    pub fn get(&mut self, cookie: u64, path: &str) -> Answer {
        self.request(cookie, format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        self.answer(cookie)
    }

    /// Looks at the counters until they are as they should be.
    pub fn eventually(&self, holds: impl Fn(beeway_proxy::Stats) -> bool) {
        let started = Instant::now();
        while !holds(self.proxy.stats()) {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.proxy.stats());
            std::thread::yield_now();
        }
    }
}

/// An HTTP answer, taken apart by hand.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub frames: usize,
}

impl Answer {
    /// Reads one from a connection: its head by bytes, for the next answer may follow.
    pub fn read(from: &mut impl Read) -> Answer {
        let mut whole = Vec::new();
        let mut byte = [0];
        while !whole.ends_with(b"\r\n\r\n") {
            from.read_exact(&mut byte).expect("a head");
            whole.push(byte[0]);
        }
        let mut answer = Answer::parse(&whole, 0);
        match answer.field("content-length").map(|n| n.parse().unwrap()) {
            Some(length) => {
                answer.body = vec![0; length];
                from.read_exact(&mut answer.body).expect("a body");
            }
            None if answer.field("transfer-encoding").is_some() => {
                while !answer.body.ends_with(b"\r\n0\r\n\r\n") {
                    from.read_exact(&mut byte).expect("a chunk");
                    answer.body.push(byte[0]);
                }
            }
            None => {}
        }
        answer
    }

    pub fn parse(whole: &[u8], frames: usize) -> Answer {
        let end = whole.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(whole[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: whole[end..].to_vec(), frames }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The body, however it is framed.
    pub fn unchunked_or_plain(&self) -> Vec<u8> {
        match self.field("transfer-encoding") {
            Some(_) => self.unchunked().0,
            None => self.body.clone(),
        }
    }

    /// The body without chunk framing, and the trailers.
    pub fn unchunked(&self) -> (Vec<u8>, String) {
        let (mut data, mut rest) = (Vec::new(), &self.body[..]);
        loop {
            let line = rest.windows(2).position(|w| w == b"\r\n").expect("a size line");
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            rest = &rest[line + 2..];
            if size == 0 {
                return (data, String::from_utf8(rest.to_vec()).unwrap());
            }
            data.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
    }
}

/// A mesh of one service with these endpoints, a cluster each, and these rules.
pub fn mesh(endpoints: &[SocketAddr], rules: Option<Vec<Rule>>) -> Mesh {
    let service: SocketAddr = SERVICE.parse().unwrap();
    let cluster = |(index, address): (usize, &SocketAddr)| Cluster {
        idle: Default::default(),
        protocol: Protocol::Http,
        name: format!("shop:80|{index}"),
        endpoints: [Endpoint { address: *address, weight: 1, workload: String::new(), node: None }]
            .into(),
    };
    let mut clusters: Vec<Cluster> = endpoints.iter().enumerate().map(cluster).collect();
    clusters.push(Cluster {
        idle: Default::default(),
        protocol: Protocol::Http,
        name: "empty:80".into(),
        endpoints: [].into(),
    });
    let port = ServicePort {
        stream_rules: Vec::new(),
        name: "http".into(),
        number: service.port(),
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules,
    };
    Mesh {
        services: vec![Service {
            namespace: "default".into(),
            name: "shop".into(),
            hosts: vec!["shop".into()],
            addresses: vec![service.ip()],
            ports: vec![port],
        }],
        clusters,
        workloads: vec![Arc::new(Workload {
            namespace: "default".into(),
            name: "buyer".into(),
            labels: [("app".to_owned(), "buyer".to_owned())].into(),
            addresses: vec![IpAddr::from([10, 9, 9, 9])],
            service_account: "default".into(),
            node: None,
            uid: None,
            cgroup: None,
        })],
        ..Mesh::default()
    }
}

/// A rule for a path.
pub fn rule(path: &str, action: Action) -> Rule {
    let path = Some(PathMatch::Prefix(path.into()));
    let matches = vec![Match { path, ..Match::default() }];
    Rule { name: String::new(), matches, action, policy: None, detour: None }
}

/// To clusters by weight.
pub fn forward(backends: &[(usize, u32)]) -> Action {
    let backend = |(cluster, weight): &(usize, u32)| Backend {
        cluster: Some(ClusterId(*cluster)),
        weight: *weight,
        policy: None,
    };
    Action::Forward(backends.iter().map(backend).collect())
}
