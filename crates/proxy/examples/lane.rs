//! What a request costs in the detour, without a kernel: `lane [connections] [requests] [bytes]
//! [engine] [policies] [concerned]`. With `engine` nothing is forwarded the short way. With `policies`
//! there are 1,000 of them that are not about the service's endpoint, with `concerned` ten more that
//! are, and look at the path.
//!
//! Frames go over loopback TCP. The driver and the server share core 1, the proxy has core 0; what
//! counts is the processor time of the proxy's thread for each request, and with one connection the
//! round trip.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use beeway_model::access::{
    AccessRule, Clause, Direction, Effect, Field, LabelSelector, Layer, PathTest, Scope,
};
use beeway_model::*;
use beeway_proxy::frame::{FLAG_END, FLAG_REQUEST, Frame, KIND_DATA};
use beeway_proxy::{Anchor, FRAME_BYTES, Kernel, Options, Proxy, Turn, Worker};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use zerocopy::{FromBytes, IntoBytes};

const HEAD: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: shop.default.svc\r\n\
User-Agent: lane\r\nAccept: */*\r\nx-request-id: 0123456789abcdef\r\n\r\n";

/// A kernel whose clients read at once.
struct Empty;

impl Kernel for Empty {
    fn queued(&self, _: u64) -> Option<u64> {
        Some(0)
    }

    fn abort(&self, _: u64) {}

    fn divert(&self, _: u64) {}

    fn turn(&self, _: u64) -> Option<Turn> {
        None
    }

    fn over(&self, _: u64) {}

    fn asked_for(&self, _: SocketAddr, _: SocketAddr) -> Option<Anchor> {
        None
    }

    fn leave_alone(&self, _: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn take_token(&self, _: &Bucket, _: SocketAddr, _: std::net::IpAddr) -> bool {
        true
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (words, numbers): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.parse::<usize>().is_err());
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    let options = Options { plain: !has("engine") };
    let mut numbers = numbers.iter().map(|n| n.parse::<usize>());
    let connections = numbers.next().transpose()?.unwrap_or(1);
    let requests = numbers.next().transpose()?.unwrap_or(100_000);
    let length = numbers.next().transpose()?.unwrap_or(128);
    let service: SocketAddr = "10.0.0.1:80".parse()?;
    pin(1)?;
    let mut mesh = mesh(service, serve(length)?);
    if has("policies") {
        mesh.access.extend((0..1000).map(|n| policy(n, "elsewhere").into()));
    }
    if has("concerned") {
        mesh.access.extend((0..10).map(|n| policy(n, "default").into()));
    }
    let ((bus, bus_theirs), (injector, injector_theirs)) = (pair()?, pair()?);
    let worker = Worker { bus: bus_theirs, injector: injector_theirs };
    let (_keep, mesh) = tokio::sync::watch::channel(Arc::new(mesh));
    pin(0)?;
    let proxy = Proxy::start_with(options, vec![worker], Arc::new(Empty), mesh, None)?;
    pin(1)?;

    let mut driver = Driver {
        bus,
        reader: BufReader::with_capacity(1 << 18, injector),
        offsets: vec![0; connections],
        service,
    };
    driver.run(connections * 50)?;
    let (cpu, start) = (proxy_time()?, Instant::now());
    driver.run(requests)?;
    let (cpu, wall) = (proxy_time()? - cpu, start.elapsed().as_secs_f64());
    let each = 1e6 / requests as f64;
    let rate = requests as f64 / wall;
    println!("{connections} connections, {length} B: {rate:.0} requests/s");
    println!("{:.1} us each, of the proxy {:.1} us each", wall * each, cpu * each);
    println!("{:?}", proxy.stats());
    Ok(())
}

/// Keeps one request under way on each connection.
struct Driver {
    bus: TcpStream,
    reader: BufReader<TcpStream>,
    offsets: Vec<u64>,
    service: SocketAddr,
}

impl Driver {
    fn request(&mut self, index: usize, out: &mut Vec<u8>) {
        let frame = Frame {
            length: HEAD.len() as u32,
            kind: KIND_DATA,
            flags: FLAG_REQUEST,
            cookie: index as u64,
            offset: self.offsets[index],
            source: self.service.into(),
            caller: self.service.into(),
            service: self.service.into(),
            ..Frame::default()
        };
        self.offsets[index] += HEAD.len() as u64;
        out.extend_from_slice(frame.as_bytes());
        out.extend_from_slice(HEAD);
    }

    fn run(&mut self, count: usize) -> std::io::Result<()> {
        let mut out = Vec::new();
        let connections = self.offsets.len();
        (0..connections).for_each(|index| self.request(index, &mut out));
        let (mut sent, mut done) = (connections, 0);
        while done < count {
            self.bus.write_all(&out)?;
            out.clear();
            loop {
                let mut header = [0; FRAME_BYTES];
                self.reader.read_exact(&mut header)?;
                let Ok(frame) = Frame::read_from_bytes(&header) else { continue };
                let mut payload = (&mut self.reader).take(frame.length.into());
                std::io::copy(&mut payload, &mut std::io::sink())?;
                if frame.flags & FLAG_END != 0 {
                    done += 1;
                    if sent < count {
                        sent += 1;
                        self.request(frame.cookie as usize, &mut out);
                    }
                }
                if self.reader.buffer().is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Seconds that the proxy's thread has run.
fn proxy_time() -> std::io::Result<f64> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm"))?.starts_with("detour") {
            let run = std::fs::read_to_string(path.join("schedstat"))?;
            let nanoseconds = run.split(' ').next().and_then(|n| n.parse::<f64>().ok());
            return Ok(nanoseconds.unwrap_or_default() / 1e9);
        }
    }
    Ok(0.0)
}

fn pin(core: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

fn pair() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    Ok((one, other))
}

/// As little of a server as there can be: what is to be measured is the proxy.
fn serve(length: usize) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: lane\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + length, b'x');
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut socket = socket;
                let _ = socket.set_nodelay(true);
                let mut buffer = [0; 4096];
                while socket.read(&mut buffer).is_ok_and(|n| n > 0) {
                    if socket.write_all(&answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

fn mesh(service: SocketAddr, address: SocketAddr) -> Mesh {
    let endpoint = Endpoint { address, weight: 1, workload: String::new(), node: None };
    let canary = Match { path: Some(PathMatch::Prefix("/canary".into())), ..Match::default() };
    let to =
        Action::Forward(vec![Backend { cluster: Some(ClusterId(0)), weight: 1, policy: None }]);
    let rule = |matches| Rule {
        name: String::new(),
        matches,
        action: to.clone(),
        policy: None,
        detour: None,
    };
    let port = ServicePort {
        stream_rules: Vec::new(),
        name: "http".into(),
        number: service.port(),
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules: Some(vec![rule(vec![canary]), rule(Vec::new())]),
    };
    Mesh {
        services: vec![Service {
            namespace: "default".into(),
            name: "shop".into(),
            hosts: Vec::new(),
            addresses: vec![service.ip()],
            ports: vec![port],
        }],
        clusters: vec![Cluster {
            idle: Default::default(),
            protocol: Protocol::Http,
            name: "shop:80".into(),
            endpoints: [endpoint].into(),
        }],
        workloads: vec![Arc::new(Workload {
            namespace: "default".into(),
            name: "shop".into(),
            labels: Default::default(),
            addresses: vec![address.ip()],
            service_account: "default".into(),
            node: None,
            uid: None,
            cgroup: None,
        })],
        ..Mesh::default()
    }
}

/// A policy that denies what nobody asks for.
fn policy(n: usize, namespace: &str) -> AccessPolicy {
    let path = Field::Path(vec![PathTest::parse(&format!("/admin/{n}/*"))]);
    let conditions = vec![Clause { field: path, negated: false }];
    AccessPolicy {
        name: format!("AuthorizationPolicy {namespace}/{n}"),
        layer: Layer::Authorization,
        direction: Direction::Ingress,
        scope: Scope::Workloads(Some(namespace.to_owned()), LabelSelector::default()),
        effect: Effect::Deny,
        dry_run: false,
        rules: vec![AccessRule { conditions, ..AccessRule::default() }],
    }
}
