//! `bw-peer slurp` and `bw-peer upload`: long bodies, fast and slow.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use beeway_testbed::pattern;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use socket2::SockRef;

use crate::wire::{Head, Url, Wire, latin1};
use crate::{error_name, say};

/// How long to wait for the next byte.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Slurp {
    /// `http://ADDR:PORT/path`
    #[arg(long)]
    url: Url,
    /// Header line, `name: value`; may be repeated
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Read at most so many bytes a second
    #[arg(long)]
    rate: Option<u64>,
    /// Wait so long between the request and the first read
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Read edge-triggered, by a runtime that takes a short read for the last
    #[arg(long)]
    edge: bool,
    /// Wait for a line on standard input, or its end, between the request and the first read
    #[arg(long)]
    wait: bool,
    /// SO_RCVBUF, before connecting
    #[arg(long)]
    receive_buffer: Option<usize>,
    /// Close the connection after so many bytes of the body
    #[arg(long)]
    stop_after: Option<u64>,
}

#[derive(clap::Args)]
pub struct Upload {
    /// `http://ADDR:PORT/path`; /sum and /echo are of use
    #[arg(long)]
    url: Url,
    /// Header line, `name: value`; may be repeated
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// How many bytes of the pattern
    #[arg(long)]
    bytes: u64,
    /// In chunks, instead of with a content-length
    #[arg(long)]
    chunked: bool,
    /// Bytes a write
    #[arg(long, default_value_t = 64 << 10)]
    write_size: usize,
    /// Wait for `100 Continue` before the body
    #[arg(long)]
    expect: bool,
}

pub fn slurp(options: &Slurp) -> anyhow::Result<()> {
    let mut seen = Seen::default();
    let outcome = download(options, &mut seen);
    seen.tell(outcome, json!({}));
    Ok(())
}

pub fn upload(options: &Upload) -> anyhow::Result<()> {
    let mut seen = Seen { keep: true, ..Seen::default() };
    let mut sent = 0;
    let outcome = post(options, &mut seen, &mut sent);
    let expected = pattern::sha256(options.bytes);
    seen.tell(outcome, json!({ "sent": sent, "sent_sha256": expected }));
    Ok(())
}

fn download(options: &Slurp, seen: &mut Seen) -> io::Result<()> {
    let mut wire = connect(&options.url, options.receive_buffer)?;
    wire.request("GET", &options.url, &options.headers)?;
    std::thread::sleep(Duration::from_millis(options.pause_ms));
    if options.wait {
        io::stdin().read_line(&mut String::new())?;
    }
    if options.edge {
        wire.read_by_edges()?;
    }
    let head = wire.head()?;
    seen.head(&head);
    let begun = Instant::now();
    let stop = options.stop_after.unwrap_or(u64::MAX);
    let socket = wire.stream.try_clone()?;
    let outcome = wire.body(&head, "GET", |piece| {
        seen.take(piece);
        if let Some(rate) = options.rate {
            let due = Duration::from_secs_f64(seen.bytes as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        if seen.bytes >= stop {
            // The next read ends, which is what was asked for.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    });
    if seen.bytes >= stop { Ok(()) } else { outcome }
}

fn post(options: &Upload, seen: &mut Seen, sent: &mut u64) -> io::Result<()> {
    let mut wire = connect(&options.url, None)?;
    let mut headers = options.headers.clone();
    headers.push(match options.chunked {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {}", options.bytes),
    });
    if options.expect {
        headers.push("expect: 100-continue".to_owned());
    }
    wire.request("POST", &options.url, &headers)?;
    if options.expect {
        let head = wire.head()?;
        if head.status != 100 {
            seen.head(&head);
            return wire.body(&head, "POST", |piece| seen.take(piece));
        }
    }
    let writer = wire.stream.try_clone()?;
    std::thread::scope(|scope| {
        // Reads while it writes: an echo would else stop both sides with full buffers.
        let write = scope.spawn(|| write_body(options, writer, sent));
        let head = wire.head()?;
        seen.head(&head);
        let outcome = wire.body(&head, "POST", |piece| seen.take(piece));
        let written = write.join().map_err(|_| io::Error::other("the writer panicked"))?;
        outcome.and(written)
    })
}

fn write_body(options: &Upload, mut stream: TcpStream, sent: &mut u64) -> io::Result<()> {
    // Pieces of the block that begin anywhere in a period: one period more than a write.
    let block = pattern::bytes(options.write_size.max(1) + pattern::PERIOD);
    while *sent < options.bytes {
        let take = (options.bytes - *sent).min(options.write_size.max(1) as u64) as usize;
        let from = (*sent % pattern::PERIOD as u64) as usize;
        let piece = &block[from..from + take];
        if options.chunked {
            let mut chunk = format!("{take:x}\r\n").into_bytes();
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
            stream.write_all(&chunk)?;
        } else {
            stream.write_all(piece)?;
        }
        *sent += take as u64;
    }
    if options.chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

fn connect(url: &Url, receive_buffer: Option<usize>) -> io::Result<Wire> {
    use std::net::ToSocketAddrs;
    let to = url.authority.to_socket_addrs()?.next();
    let to = to.ok_or_else(|| io::Error::other("no address"))?;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(to),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if let Some(size) = receive_buffer {
        SockRef::from(&socket).set_recv_buffer_size(size)?;
    }
    socket.connect(&to.into())?;
    let wire = Wire::new(socket.into())?;
    wire.stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(wire)
}

/// What came back.
#[derive(Default)]
struct Seen {
    status: u16,
    served_by: Option<String>,
    bytes: u64,
    hasher: Sha256,
    keep: bool,
    kept: Vec<u8>,
    /// Where what came leaves the pattern.
    breaks: Vec<Value>,
    phase: u64,
    block: Vec<u8>,
}

/// How many breaks of the pattern are told.
const BREAKS: usize = 16;

impl Seen {
    fn head(&mut self, head: &Head) {
        self.status = head.status;
        self.served_by = head.header("x-served-by").map(str::to_owned);
    }

    fn take(&mut self, piece: &[u8]) {
        self.compare(piece);
        self.bytes += piece.len() as u64;
        self.hasher.update(piece);
        // The answer of /sum, not that of /echo.
        if self.keep && self.bytes < 4096 {
            self.kept.extend_from_slice(piece);
        }
    }

    /// Notes where the pattern breaks; what follows a break is held to the byte that came there.
    fn compare(&mut self, piece: &[u8]) {
        if self.block.is_empty() {
            self.block = pattern::block();
        }
        let (mut at, mut rest) = (self.bytes, piece);
        while !rest.is_empty() && self.breaks.len() < BREAKS {
            let from = ((at + self.phase) % pattern::PERIOD as u64) as usize;
            let n = rest.len().min(self.block.len() - from);
            let expected = &self.block[from..from + n];
            let same = match rest[..n] == *expected {
                true => n,
                false => rest.iter().zip(expected).take_while(|(a, b)| a == b).count(),
            };
            at += same as u64;
            if same < n {
                let (came, expected) = (rest[same], expected[same]);
                self.breaks.push(json!({ "at": at, "expected": expected, "came": came }));
                let period = pattern::PERIOD as u64;
                self.phase = u64::from(came) % period + period - at % period;
            }
            rest = &rest[same..];
        }
    }

    fn tell(self, outcome: io::Result<()>, more: Value) {
        let mut line = json!({
            "status": self.status,
            "served_by": self.served_by,
            "bytes": self.bytes,
            "sha256": pattern::hex(&self.hasher.finalize()),
        });
        if self.keep && self.bytes < 4096 {
            let text = latin1(&self.kept);
            line["reply"] = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            line[key] = value.clone();
        }
        if !self.breaks.is_empty() {
            line["breaks"] = self.breaks.into();
        }
        if let Err(error) = outcome {
            line["error"] = error_name(&error).into();
        }
        say(&line);
    }
}
