//! A client with one connection, which reads every answer before it asks again. It times each
//! request by itself, because wrk counts latency in whole microseconds, of which a request takes
//! ten, and it looks at who answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beeway_testbed::WrkReport;
use serde::{Deserialize, Serialize};

use super::list::{Request, Server};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests answered.
    pub requests: u64,
    /// Requests per second.
    pub rps: f64,
    /// Latency in microseconds: median, 90th and 99th percentile.
    pub percentiles_us: [f64; 3],
    /// Answers that were not 200 by the right server.
    pub wrong: u64,
    /// The first of these.
    pub first_wrong: Option<String>,
}

impl Report {
    /// Without what a load generator does not know.
    pub fn as_wrk(&self) -> WrkReport {
        let [p50_us, p90_us, p99_us] = self.percentiles_us;
        let (requests, rps, errors) = (self.requests, self.rps, self.wrong);
        WrkReport { requests, rps, errors, non2xx: 0, p50_us, p90_us, p99_us }
    }
}

/// Sends a file of requests: again and again for some seconds, or once.
pub fn run(to: SocketAddr, requests: &Path, seconds: Option<u32>) -> Result<Report> {
    let requests: Vec<Request> = serde_json::from_str(&std::fs::read_to_string(requests)?)?;
    ensure!(!requests.is_empty(), "no requests");
    let mut connection = Connection::open(to)?;
    let (mut times, mut wrong, mut first_wrong) = (Vec::new(), 0, None);
    let start = Instant::now();
    let end = seconds.map(|seconds| start + Duration::from_secs(seconds.into()));
    let mut before = start;
    for n in 0.. {
        let request = &requests[n % requests.len()];
        let answer = connection.ask(&request.head)?;
        let now = Instant::now();
        times.push(now - before);
        if answer != (200, Some(request.server)) {
            wrong += 1;
            first_wrong.get_or_insert_with(|| format!("{:?} answered {answer:?}", request.head));
        }
        // Looking at the answer counts for the next request: nothing is left out.
        before = now;
        if end.map_or(n + 1 == requests.len(), |end| now >= end) {
            break;
        }
    }
    let rps = times.len() as f64 / start.elapsed().as_secs_f64();
    let requests = times.len() as u64;
    Ok(Report { requests, rps, percentiles_us: percentiles(times), wrong, first_wrong })
}

fn percentiles(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    [50, 90, 99].map(|percent| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6)
}

/// A keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)
            .with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::with_capacity(4096) })
    }

    /// Sends a head and reads the whole answer: its status, and who gave it.
    pub fn ask(&mut self, head: &str) -> Result<(u16, Option<Server>)> {
        self.stream.write_all(head.as_bytes()).context("send a request")?;
        self.received.clear();
        loop {
            let mut buffer = [0; 4096];
            let length = self.stream.read(&mut buffer).context("read an answer")?;
            if length == 0 {
                bail!("the connection was closed before the answer to {head:?}");
            }
            self.received.extend_from_slice(&buffer[..length]);
            if let Some(answer) = parse(&self.received)? {
                return Ok(answer);
            }
        }
    }
}

/// Status and server of an answer; nothing until it is whole.
fn parse(received: &[u8]) -> Result<Option<(u16, Option<Server>)>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end])?;
    let (mut length, mut server) = (0, None);
    for (name, value) in head.split("\r\n").filter_map(|line| line.split_once(": ")) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse()?;
        } else if name.eq_ignore_ascii_case("x-served-by") {
            server = [Server::V1, Server::V2].into_iter().find(|server| server.name() == value);
        }
    }
    let status = head.get(9..12).context("no status")?.parse()?;
    Ok((received.len() >= end + 4 + length).then_some((status, server)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let answer = b"HTTP/1.1 200 OK\r\nX-Served-By: v2\r\ncontent-length: 3\r\n\r\nv2\n";
        for end in 0..answer.len() {
            assert_eq!(parse(&answer[..end]).expect("a part"), None, "{end}");
        }
        assert_eq!(parse(answer).expect("an answer"), Some((200, Some(Server::V2))));
        let bare = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(parse(bare).expect("an answer"), Some((403, None)));
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(percentiles(times), [50.0, 90.0, 99.0]);
        assert_eq!(percentiles(vec![Duration::from_nanos(1500)]), [1.5; 3]);
    }
}
