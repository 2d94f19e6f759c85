//! HTTP/1.1 as bytes on a blocking socket: what a client library would hide.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tokio::io::AsyncReadExt;

/// The longest head or chunk line that is read.
const MAX_LINE: usize = 1 << 20;

/// A connection and what was read ahead of it.
pub struct Wire {
    pub stream: TcpStream,
    edge: Option<Edge>,
    ahead: Vec<u8>,
}

/// Reads as programs do that are told once of what has come: a read that does not fill its buffer
/// has taken everything, and the next waits until it is told of more.
struct Edge {
    runtime: tokio::runtime::Runtime,
    stream: tokio::net::TcpStream,
}

/// The head of an answer.
pub struct Head {
    pub version: String,
    pub status: u16,
    pub reason: String,
    /// In the order of their coming; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// `http://authority/path`, taken apart.
#[derive(Clone)]
pub struct Url {
    pub authority: String,
    pub path: String,
}

impl std::str::FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let uri: http::Uri = text.parse()?;
        let authority = uri.authority().ok_or_else(|| anyhow::anyhow!("no host in {text}"))?;
        let port = uri.port_u16().unwrap_or(80);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { authority: format!("{}:{port}", authority.host()), path: path.to_owned() })
    }
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, edge: None, ahead: Vec::new() })
    }

    /// From now on reads by a runtime, edge-triggered.
    pub fn read_by_edges(&mut self) -> io::Result<()> {
        let stream = self.stream.try_clone()?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stream = {
            let _inside = runtime.enter();
            tokio::net::TcpStream::from_std(stream)?
        };
        self.edge = Some(Edge { runtime, stream });
        Ok(())
    }

    /// Sends a request's head; the caller's header lines go behind `host`.
    pub fn request(&mut self, method: &str, url: &Url, headers: &[String]) -> io::Result<()> {
        let given_host = headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:"));
        let mut head = format!("{method} {} HTTP/1.1\r\n", url.path);
        if !given_host {
            head.push_str(&format!("host: {}\r\n", url.authority));
        }
        for line in headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes())
    }

    /// Some bytes, at most `limit`; none at the end.
    pub fn some(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            let mut buffer = vec![0; limit.clamp(1, 1 << 16)];
            let n = self.read(&mut buffer)?;
            buffer.truncate(n);
            return Ok(buffer);
        }
        let rest = self.ahead.split_off(limit.min(self.ahead.len()));
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    /// Reads, whatever wakes it: a blocking read of a socket in a sockmap ends with EAGAIN when the
    /// socket becomes writable meanwhile (tcp_msg_wait_data in net/ipv4/tcp_bpf.c).
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = self.stream.read_timeout()?;
        if let Some(Edge { runtime, stream }) = &mut self.edge {
            let limit = limit.unwrap_or(Duration::MAX);
            return runtime.block_on(async {
                tokio::time::timeout(limit, stream.read(buffer))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            });
        }
        let begun = std::time::Instant::now();
        loop {
            let read = self.stream.read(buffer);
            match &read {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && limit.is_none_or(|limit| begun.elapsed() < limit) => {}
                _ => return read,
            }
        }
    }

    /// Bytes up to and with `end`.
    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut seen = std::mem::take(&mut self.ahead);
        let mut from = 0;
        loop {
            let found = seen[from..].windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                self.ahead = seen.split_off(from + at + end.len());
                return Ok(seen);
            }
            from = seen.len().saturating_sub(end.len() - 1);
            let mut buffer = [0; 16384];
            let read = self.read(&mut buffer);
            let n = match read {
                Ok(n) if n > 0 && seen.len() <= MAX_LINE => n,
                other => {
                    // Kept, so that the caller can still look at what did come.
                    self.ahead = seen;
                    other?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            seen.extend_from_slice(&buffer[..n]);
        }
    }

    /// Reads a head, whatever is in it, up to its empty line.
    pub fn head_text(&mut self) -> io::Result<String> {
        Ok(latin1(&self.until(b"\r\n\r\n")?))
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> io::Result<Head> {
        let malformed = |what: &str| io::Error::other(format!("malformed answer: {what}"));
        let text = self.head_text()?;
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        if !version.starts_with("HTTP/1.") {
            return Err(malformed(first));
        }
        let status = words.next().and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| malformed(first))?;
        let reason = words.next().unwrap_or_default().to_owned();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(line))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Head { version, status, reason, headers: headers.collect::<io::Result<_>>()? })
    }

    /// Reads the body that belongs to a head, piece by piece.
    pub fn body(
        &mut self,
        head: &Head,
        method: &str,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let none = method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304);
        if none {
            return Ok(());
        }
        let coding = head.header("transfer-encoding").unwrap_or_default();
        if coding.to_ascii_lowercase().ends_with("chunked") {
            return self.chunks(take);
        }
        if let Some(length) = head.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            return self.exactly(length, &mut take);
        }
        loop {
            let piece = self.some(usize::MAX)?;
            if piece.is_empty() {
                return Ok(());
            }
            take(&piece);
        }
    }

    /// Reads `n` bytes, piece by piece.
    pub fn exactly(&mut self, n: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = n;
        while left > 0 {
            let piece = self.some(left.min(1 << 16) as usize)?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= piece.len() as u64;
            take(&piece);
        }
        Ok(())
    }

    fn chunks(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let line = latin1(&self.until(b"\r\n")?);
            let digits = line.trim_end().split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if size == 0 {
                // Trailers, up to the empty line.
                while self.until(b"\r\n")? != b"\r\n" {}
                return Ok(());
            }
            self.exactly(size, &mut take)?;
            if self.until(b"\r\n")? != b"\r\n" {
                return Err(io::Error::other("malformed answer: no line end behind a chunk"));
            }
        }
    }

    /// What was read and not yet asked for.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }
}

/// Bytes as text, one char a byte, nothing lost.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
