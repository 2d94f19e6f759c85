//! `bw-peer raw`: a TCP client that does what it is told, step by step.
//!
//! Steps, one JSON object a line, and beside them what the answer holds apart from `step`
//! (and `error`, if the step failed; the connection is then left as it is):
//!
//! | step | answer |
//! |---|---|
//! | (start), `{"connect":true}` or `{"connect":"ADDR:PORT"}` | `peer`, `local` |
//! | `{"send":"latin-1"}` or `{"send_base64":".."}`, with `split`, `delay_ms` | `bytes`, `writes` |
//! | `{"send_nonblocking":"latin-1"}`: what fits | `bytes` |
//! | `{"recv_response":true}`, with `method` (HEAD has no body), `timeout_ms` | `version`, `status`, `reason`, `headers`, `body`, `body_len`, `sha256` |
//! | `{"recv":N}`, with `timeout_ms` | `data`, `bytes` |
//! | `{"recv_until_close":true}`, with `timeout_ms` | `data`, `bytes`, `sha256`, `end` |
//! | `{"shutdown_write":true}`, `{"close":true}`, `{"reset":true}`, `{"sleep_ms":N}` | |
//! | `{"peername":true}`, `{"sockname":true}` | `addr` |
//!
//! `split` is a number (pieces of that many bytes) or a list of sizes (the rest goes last).

use std::io::{self, BufRead, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;
use beeway_testbed::pattern;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use socket2::SockRef;

use crate::wire::{Wire, latin1};
use crate::{error_name, say};

/// The longest body that is printed; of a longer one there is the digest.
const MAX_PRINTED: usize = 64 << 10;

/// How long a step waits for bytes unless it says otherwise.
const TIMEOUT_MS: u64 = 10_000;

#[derive(clap::Args)]
pub struct Options {
    /// Where to connect to
    #[arg(long)]
    connect: SocketAddr,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut wire = None;
    let steps = io::stdin().lock().lines();
    let start = Ok(json!({ "connect": true }).to_string());
    for line in std::iter::once(start).chain(steps) {
        let step: Value = match serde_json::from_str(&line?) {
            Ok(step) => step,
            Err(error) => {
                say(&json!({ "step": "unknown", "error": error.to_string() }));
                continue;
            }
        };
        let (name, mut answer) = run_step(&step, &mut wire, options.connect);
        answer.insert("step".to_owned(), name.into());
        say(&Value::Object(answer));
    }
    Ok(())
}

type Answer = Map<String, Value>;

const STEPS: [&str; 13] = [
    "connect",
    "send",
    "send_base64",
    "send_nonblocking",
    "recv_response",
    "recv_until_close",
    "recv",
    "shutdown_write",
    "close",
    "reset",
    "sleep_ms",
    "peername",
    "sockname",
];

fn run_step(step: &Value, wire: &mut Option<Wire>, to: SocketAddr) -> (&'static str, Answer) {
    let Some(name) = STEPS.into_iter().find(|name| step.get(name).is_some()) else {
        return ("unknown", object(json!({ "error": format!("no such step: {step}") })));
    };
    let mut answer = Answer::new();
    let outcome = match name {
        "connect" => {
            // The old connection goes first: its port may be wanted.
            *wire = None;
            let to = step[name].as_str().map_or(Ok(to), str::parse);
            to.map_err(io::Error::other).and_then(|to| connect(to, wire, &mut answer))
        }
        "sleep_ms" => {
            std::thread::sleep(Duration::from_millis(step[name].as_u64().unwrap_or(0)));
            Ok(())
        }
        "close" => {
            *wire = None;
            Ok(())
        }
        "reset" => wire.take().map_or_else(not_connected, |wire| {
            SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO))
        }),
        _ => match wire {
            Some(wire) => on_wire(name, step, wire, &mut answer),
            None => not_connected(),
        },
    };
    if let Err(error) = outcome {
        answer.insert("error".to_owned(), error_name(&error).into());
    }
    (name, answer)
}

fn not_connected() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOTCONN))
}

fn connect(to: SocketAddr, wire: &mut Option<Wire>, answer: &mut Answer) -> io::Result<()> {
    let stream = TcpStream::connect(to)?;
    let local = stream.local_addr()?.to_string();
    answer.insert("local".to_owned(), local.into());
    // What the mesh chose to show as the peer; a failure is for the step `peername` to tell.
    let peer = stream.peer_addr().map(|peer| peer.to_string()).ok();
    answer.insert("peer".to_owned(), peer.into());
    *wire = Some(Wire::new(stream)?);
    Ok(())
}

fn on_wire(name: &str, step: &Value, wire: &mut Wire, answer: &mut Answer) -> io::Result<()> {
    let timeout = Duration::from_millis(step["timeout_ms"].as_u64().unwrap_or(TIMEOUT_MS));
    wire.stream.set_read_timeout(Some(timeout))?;
    let address = |address: io::Result<SocketAddr>| address.map(|a| json!({ "addr": a }));
    match name {
        "send" | "send_base64" => send(step, &mut wire.stream, answer),
        "send_nonblocking" => {
            let data = latin1_bytes(step[name].as_str().unwrap_or_default())?;
            let sent = what_fits(&data, &mut wire.stream);
            answer.insert("bytes".to_owned(), sent?.into());
            Ok(())
        }
        "recv_response" => response(step, wire, answer),
        "recv_until_close" => {
            until_close(wire, answer);
            Ok(())
        }
        "recv" => {
            let mut data = Vec::new();
            let n = step[name].as_u64().unwrap_or(1);
            let outcome = wire.exactly(n, &mut |piece| data.extend_from_slice(piece));
            answer.insert("bytes".to_owned(), data.len().into());
            answer.insert("data".to_owned(), latin1(&data).into());
            outcome
        }
        "shutdown_write" => wire.stream.shutdown(Shutdown::Write),
        "peername" => {
            answer.append(&mut object(address(wire.stream.peer_addr())?));
            Ok(())
        }
        _ => {
            answer.append(&mut object(address(wire.stream.local_addr())?));
            Ok(())
        }
    }
}

fn send(step: &Value, stream: &mut TcpStream, answer: &mut Answer) -> io::Result<()> {
    let data = match step["send"].as_str() {
        Some(text) => latin1_bytes(text)?,
        None => {
            let text = step["send_base64"].as_str().unwrap_or_default();
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            decoded.map_err(io::Error::other)?
        }
    };
    let pause = Duration::from_millis(step["delay_ms"].as_u64().unwrap_or(0));
    let (mut sent, mut writes) = (0, 0);
    let mut outcome = Ok(());
    for piece in pieces(&data, &step["split"]) {
        if writes > 0 && !pause.is_zero() {
            std::thread::sleep(pause);
        }
        outcome = stream.write_all(piece);
        if outcome.is_err() {
            break;
        }
        sent += piece.len();
        writes += 1;
    }
    answer.insert("bytes".to_owned(), sent.into());
    answer.insert("writes".to_owned(), writes.into());
    outcome
}

/// Text as bytes, each char one.
fn latin1_bytes(text: &str) -> io::Result<Vec<u8>> {
    let bytes: Result<_, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
    bytes.map_err(|_| io::Error::other("a char above U+00FF"))
}

/// Writes until the send buffer is full; how much it took.
fn what_fits(data: &[u8], stream: &mut TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let mut sent = 0;
    let outcome = loop {
        match stream.write(&data[sent..]) {
            Ok(0) => break Ok(sent),
            Ok(n) => sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(sent),
            Err(error) => break Err(error),
        }
    };
    stream.set_nonblocking(false)?;
    outcome
}

/// The pieces to write: all in one, of one size, or of the sizes in a list.
fn pieces<'a>(data: &'a [u8], split: &Value) -> Vec<&'a [u8]> {
    if let Some(size) = split.as_u64() {
        return data.chunks((size as usize).max(1)).collect();
    }
    let mut rest = data;
    let mut pieces = Vec::new();
    for size in split.as_array().into_iter().flatten().filter_map(Value::as_u64) {
        let (piece, after) = rest.split_at(rest.len().min(size as usize));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn response(step: &Value, wire: &mut Wire, answer: &mut Answer) -> io::Result<()> {
    let head = match wire.head() {
        Ok(head) => head,
        Err(error) => {
            answer.insert("received".to_owned(), latin1(wire.ahead()).into());
            return Err(error);
        }
    };
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        let joined = match headers.get(name).and_then(Value::as_str) {
            Some(earlier) => format!("{earlier}, {value}"),
            None => value.clone(),
        };
        headers.insert(name.clone(), joined.into());
    }
    answer.append(&mut object(json!({
        "version": head.version, "status": head.status, "reason": head.reason, "headers": headers,
    })));
    let mut body = Received::default();
    let method = step["method"].as_str().unwrap_or("GET");
    let outcome = wire.body(&head, method, |piece| body.take(piece));
    body.tell("body", "body_len", answer);
    outcome
}

fn until_close(wire: &mut Wire, answer: &mut Answer) {
    let mut data = Received::default();
    let end = loop {
        match wire.some(usize::MAX) {
            Ok(piece) if piece.is_empty() => break "eof".to_owned(),
            Ok(piece) => data.take(&piece),
            Err(error) => break error_name(&error),
        }
    };
    data.tell("data", "bytes", answer);
    answer.insert("end".to_owned(), end.into());
}

/// Bytes that came: their number, their digest, and themselves if they are few.
#[derive(Default)]
struct Received {
    bytes: usize,
    hasher: Sha256,
    kept: Vec<u8>,
}

impl Received {
    fn take(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        self.hasher.update(piece);
        if self.bytes <= MAX_PRINTED {
            self.kept.extend_from_slice(piece);
        }
    }

    fn tell(self, data: &str, length: &str, answer: &mut Answer) {
        let printed = if self.bytes <= MAX_PRINTED { latin1(&self.kept) } else { String::new() };
        answer.insert(data.to_owned(), printed.into());
        answer.insert(length.to_owned(), self.bytes.into());
        answer.insert("sha256".to_owned(), pattern::hex(&self.hasher.finalize()).into());
    }
}

fn object(value: Value) -> Answer {
    match value {
        Value::Object(object) => object,
        _ => Answer::new(),
    }
}
