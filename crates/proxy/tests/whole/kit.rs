//! A proxy that clients are led to as a whole, with a kernel that leads everybody there.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beeway_model::*;
use beeway_proxy::{Anchor, Kernel, Options, Proxy, Recorder, Stats, Turn, Worker};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::watch;

pub const SERVICE: &str = "10.0.0.1:70";
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Knows what everybody has asked for, unless told that it does not.
#[derive(Default)]
pub struct Guide {
    pub ignorant: AtomicBool,
}

impl Kernel for Guide {
    fn queued(&self, _: u64) -> Option<u64> {
        None
    }

    fn divert(&self, _: u64) {}

    fn turn(&self, _: u64) -> Option<Turn> {
        None
    }

    fn over(&self, _: u64) {}

    fn abort(&self, _: u64) {}

    fn asked_for(&self, client: SocketAddr, _: SocketAddr) -> Option<Anchor> {
        let anchor = || Anchor { service: SERVICE.parse().unwrap(), caller: client.ip() };
        (!self.ignorant.load(Ordering::Relaxed)).then(anchor)
    }

    fn leave_alone(&self, _: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn take_token(&self, _: &Bucket, _: SocketAddr, _: IpAddr) -> bool {
        true
    }
}

/// A running proxy of one worker, and what it leads to.
pub struct Kit {
    pub proxy: Option<Proxy>,
    pub guide: Arc<Guide>,
    pub mesh: watch::Sender<Arc<Mesh>>,
    pub address: SocketAddr,
    _sockets: [TcpStream; 2],
}

impl Kit {
    pub fn new(mesh: Mesh) -> Kit {
        Kit::with(Options::default(), mesh, None)
    }

    pub fn with(options: Options, mesh: Mesh, recorder: Option<Arc<dyn Recorder>>) -> Kit {
        let guide = Arc::new(Guide::default());
        let ((bus, bus_theirs), (injector, injector_theirs)) = (pair(), pair());
        let worker = Worker { bus: bus_theirs, injector: injector_theirs };
        let (sender, receiver) = watch::channel(Arc::new(mesh));
        let kernel = guide.clone();
        let mut proxy =
            Proxy::start_with(options, vec![worker], kernel, receiver, recorder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        proxy.listen(listener).unwrap();
        let proxy = Some(proxy);
        Kit { proxy, guide, mesh: sender, address, _sockets: [bus, injector] }
    }

    /// A client.
    pub fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    /// Looks at the counters until they are as they should be.
    pub fn eventually(&self, holds: impl Fn(Stats) -> bool) {
        let started = Instant::now();
        let stats = || self.proxy.as_ref().unwrap().stats();
        while !holds(stats()) {
            assert!(started.elapsed() < PATIENCE, "{:?}", stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// An endpoint.
pub struct Server(TcpListener);

impl Server {
    pub fn new() -> Server {
        Server(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub fn listener(&self) -> &TcpListener {
        &self.0
    }

    /// The next connection.
    pub fn accept(&self) -> TcpStream {
        patient(self.0.accept().unwrap().0)
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// So that a test that waits in vain ends.
fn patient(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Closes a socket with a reset.
pub fn reset(socket: TcpStream) {
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Writes, and says that no more will come.
pub fn say_all(mut socket: &TcpStream, text: &str) {
    socket.write_all(text.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
}

/// Reads as many bytes as the text that is expected has.
pub fn expect(mut socket: &TcpStream, text: &str) {
    let mut buffer = vec![0; text.len()];
    socket.read_exact(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer), text);
}

/// Reads to the end of the stream.
pub fn rest(mut socket: &TcpStream) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// Waits for a reset.
pub fn expect_reset(mut socket: &TcpStream) {
    let mut buffer = [0; 4096];
    let error = loop {
        match socket.read(&mut buffer) {
            Ok(0) => panic!("an end in order"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// A mesh of one service with a cluster for each of these endpoints.
pub fn mesh(protocol: Protocol, endpoints: &[SocketAddr], rules: Vec<StreamRule>) -> Mesh {
    let service: SocketAddr = SERVICE.parse().unwrap();
    let cluster = |(index, address): (usize, &SocketAddr)| Cluster {
        idle: Default::default(),
        protocol,
        name: format!("shop:70|{index}"),
        endpoints: [Endpoint { address: *address, weight: 1, workload: String::new(), node: None }]
            .into(),
    };
    let port = ServicePort {
        stream_rules: rules,
        name: String::new(),
        number: service.port(),
        transport: Transport::Tcp,
        protocol,
        cluster: ClusterId(0),
        rules: None,
    };
    Mesh {
        services: vec![Service {
            namespace: "default".into(),
            name: "shop".into(),
            hosts: vec!["shop".into()],
            addresses: vec![service.ip()],
            ports: vec![port],
        }],
        clusters: endpoints.iter().enumerate().map(cluster).collect(),
        workloads: vec![Arc::new(Workload {
            namespace: "default".into(),
            name: "buyer".into(),
            labels: [("app".to_owned(), "buyer".to_owned())].into(),
            addresses: vec![IpAddr::from([127, 0, 0, 1])],
            service_account: "default".into(),
            node: None,
            uid: None,
            cgroup: None,
        })],
        ..Mesh::default()
    }
}

/// A rule that leads to one cluster, or to one that is not there.
pub fn rule(condition: StreamMatch, cluster: Option<usize>) -> StreamRule {
    let cluster = cluster.map(ClusterId);
    StreamRule {
        name: String::new(),
        matches: vec![condition],
        backends: vec![Backend { cluster, weight: 1, policy: None }],
    }
}
