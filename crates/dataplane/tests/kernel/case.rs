//! A request on a connection: bytes for the kernel, and the same read for the reference router.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use beeway_dataplane::DecisionQuery;
use beeway_model::access::{Access, Call, Party, evaluate};
use beeway_model::{Decision, Mesh, Request, Transport, route};

use crate::world::{ENDPOINT, SOURCES};

/// A request to be put to all three.
#[derive(Clone, PartialEq)]
pub struct Case {
    /// A well-formed head, and perhaps a beginning of a body.
    pub bytes: Vec<u8>,
    pub endpoint: SocketAddr,
    pub source: IpAddr,
    pub draw: u32,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { bytes, endpoint, source, draw } = self;
        let runs = bytes.chunk_by(|a, b| a == b).map(|run| match run.len() {
            0..40 => run.escape_ascii().to_string(),
            length => format!("[{} x {length}]", run[..1].escape_ascii()),
        });
        let text: String = runs.collect();
        write!(f, "\"{text}\"\nfrom {source} to {endpoint}, draw {draw}")
    }
}

/// A head before it is written.
#[derive(Debug, Clone)]
pub struct Draft {
    pub method: String,
    pub target: String,
    pub lines: Vec<Line>,
}

/// A field line.
#[derive(Debug, Clone)]
pub struct Line {
    pub name: String,
    pub value: Vec<u8>,
    /// White space before and after the value.
    pub blanks: (String, String),
}

impl Line {
    pub fn new(name: &str, value: &[u8]) -> Line {
        let blanks = (" ".to_owned(), String::new());
        Line { name: name.to_owned(), value: value.to_vec(), blanks }
    }
}

impl Draft {
    /// The simplest request.
    pub fn get(target: &str) -> Draft {
        let (method, target) = ("GET".to_owned(), target.to_owned());
        Draft { method, target, lines: vec![Line::new("Host", b"shop")] }
    }

    pub fn host(mut self, host: &str) -> Draft {
        self.lines[0] = Line::new("Host", host.as_bytes());
        self
    }

    pub fn field(mut self, name: &str, value: &str) -> Draft {
        self.lines.push(Line::new(name, value.as_bytes()));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for Line { name, value, blanks: (before, after) } in &self.lines {
            bytes.extend_from_slice(format!("{name}:{before}").as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(format!("{after}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// Sent by the first caller to [`ENDPOINT`], with the draw 0.
    pub fn case(&self) -> Case {
        Case::new(self.bytes())
    }
}

/// What a well-formed head says.
pub struct Message<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub authority: &'a str,
    /// In order; white space around a value is not part of it (RFC 9110 section 5.5).
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// Bytes of the head.
    pub length: usize,
}

impl Message<'_> {
    pub fn request<'a>(&'a self, mesh: &'a Mesh, source: IpAddr) -> Request<'a> {
        Request {
            method: self.method,
            scheme: "http",
            authority: self.authority,
            target: self.target,
            headers: &self.headers,
            source: mesh.workload_at(source),
        }
    }
}

impl Case {
    pub fn new(bytes: Vec<u8>) -> Case {
        let (endpoint, source) = (ENDPOINT.parse().unwrap(), SOURCES[0].parse().unwrap());
        Case { bytes, endpoint, source, draw: 0 }
    }

    /// The same for the kernel's program.
    pub fn query(&self, service: SocketAddr) -> DecisionQuery<'_> {
        let Case { bytes: head, endpoint, source, draw } = self;
        let (endpoint, source, draw) = (*endpoint, *source, *draw);
        DecisionQuery { service, endpoint, source, draw, visit: false, head }
    }

    /// Reads the head in the plainest way, which is good enough for the heads of tests.
    pub fn message(&self) -> Message<'_> {
        let length = find(&self.bytes, b"\r\n\r\n").expect("a head") + 4;
        let mut lines = lines(&self.bytes[..length - 4]);
        let start = std::str::from_utf8(lines.next().unwrap_or_default()).expect("ASCII");
        let [method, target, "HTTP/1.1"] = start.split(' ').collect::<Vec<_>>()[..] else {
            panic!("no request: {start}");
        };
        let headers: Vec<(&str, &[u8])> = lines.map(field).collect();
        let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = std::str::from_utf8(host.expect("a host").1).expect("UTF-8");
        Message { method, target, authority, headers, length }
    }

    pub fn by_router(&self, mesh: &Mesh) -> Decision {
        let message = self.message();
        route(&mesh.services[0].ports[0], &message.request(mesh, self.source), self.draw)
    }

    /// The ids of the buckets that the request needs a token of.
    pub fn by_limits(&self, mesh: &Mesh) -> Vec<u64> {
        let message = self.message();
        let called = mesh.workload_at(self.endpoint.ip());
        let limits = called.into_iter().flat_map(|w| mesh.rate_limits(w, self.endpoint.port()));
        let request = message.request(mesh, self.source);
        limits.flat_map(|(_, limit)| limit.buckets(&request)).map(|bucket| bucket.id).collect()
    }

    /// What policies say, by the reference evaluator.
    pub fn by_evaluator(&self, mesh: &Mesh) -> Access {
        let message = self.message();
        let party = |address: IpAddr| Party { address, identity: mesh.identity_at(address) };
        let call = Call {
            caller: party(self.source),
            called: party(self.endpoint.ip()),
            port: self.endpoint.port(),
            transport: Transport::Tcp,
            services: &[("default", "shop")],
            sni: None,
            request: Some(&message.request(mesh, self.source)),
        };
        evaluate(mesh.access.iter().enumerate(), &call)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = find(bytes, b"\r\n").unwrap_or(bytes.len());
        let line = &bytes[..end];
        bytes = bytes.get(end + 2..).unwrap_or_default();
        (!line.is_empty()).then_some(line)
    })
}

fn field(line: &[u8]) -> (&str, &[u8]) {
    let colon = line.iter().position(|byte| *byte == b':').expect("a field");
    let (name, mut value) = (&line[..colon], &line[colon + 1..]);
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    (std::str::from_utf8(name).expect("ASCII"), value)
}
