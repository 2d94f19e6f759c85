//! `bw-peer load`: as many requests as a number of connections can carry, one after another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use crate::say;
use crate::wire::Url;

/// How long a request may take before it counts as an error.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many different errors are told.
const MAX_MESSAGES: usize = 5;

#[derive(clap::Args)]
pub struct Options {
    /// `http://ADDR:PORT/path`
    #[arg(long)]
    url: Url,
    /// Header line, `name: value`; may be repeated
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Connections at once
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Requests altogether
    #[arg(long, required_unless_present = "duration")]
    requests: Option<u64>,
    /// Seconds, if no number of requests is given
    #[arg(long)]
    duration: Option<f64>,
    /// Wait so long between an answer and the next request of its connection
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Open a connection for each request
    #[arg(long)]
    close: bool,
    /// Speak HTTP/2, without asking first
    #[arg(long)]
    http2: bool,
    /// The method, with an empty body
    #[arg(long, default_value = "GET")]
    method: http::Method,
}

struct Tally {
    latency: Histogram<u64>,
    requests: u64,
    errors: u64,
    connections: u64,
    status: BTreeMap<String, u64>,
    served_by: BTreeMap<String, u64>,
    messages: Vec<String>,
    /// How many requests may still be started.
    left: u64,
}

pub fn run(options: Options) -> Result<()> {
    let tally = Rc::new(RefCell::new(Tally {
        latency: crate::histogram()?,
        requests: 0,
        errors: 0,
        connections: 0,
        status: BTreeMap::new(),
        served_by: BTreeMap::new(),
        messages: Vec::new(),
        left: options.requests.unwrap_or(u64::MAX),
    }));
    let started = Instant::now();
    let end = match (options.requests, options.duration) {
        (None, Some(seconds)) => Some(started + Duration::try_from_secs_f64(seconds)?),
        _ => None,
    };
    let connections = options.connections;
    let options = Rc::new(options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    for _ in 0..connections {
        local.spawn_local(one_connection(Rc::clone(&options), Rc::clone(&tally), end));
    }
    runtime.block_on(local);
    report(&tally.borrow(), started.elapsed());
    Ok(())
}

impl Tally {
    fn note(&mut self, outcome: Result<(u16, Option<String>)>, took: Duration) {
        match outcome {
            Ok((status, served_by)) => {
                self.requests += 1;
                self.latency.saturating_record(took.as_nanos() as u64);
                *self.status.entry(status.to_string()).or_default() += 1;
                if let Some(name) = served_by {
                    *self.served_by.entry(name).or_default() += 1;
                }
            }
            Err(error) => {
                self.errors += 1;
                let message = format!("{error:#}");
                if self.messages.len() < MAX_MESSAGES && !self.messages.contains(&message) {
                    self.messages.push(message);
                }
            }
        }
    }
}

/// Sends requests one after another until there are none left.
async fn one_connection(options: Rc<Options>, tally: Rc<RefCell<Tally>>, end: Option<Instant>) {
    let mut sender = None;
    while tally.borrow().left > 0 && end.is_none_or(|end| Instant::now() < end) {
        tally.borrow_mut().left -= 1;
        let begun = Instant::now();
        let asked = tokio::time::timeout(TIMEOUT, ask(&options, &tally, &mut sender)).await;
        let outcome = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("timeout")));
        let failed = outcome.is_err();
        tally.borrow_mut().note(outcome, begun.elapsed());
        if options.close || failed {
            sender = None;
        }
        if options.pause_ms > 0 {
            tokio::time::sleep(Duration::from_millis(options.pause_ms)).await;
        }
    }
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(sender) => sender.ready().await,
        }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}

async fn ask(
    options: &Options,
    tally: &RefCell<Tally>,
    kept: &mut Option<Sender>,
) -> Result<(u16, Option<String>)> {
    // Taken out for the time of the request: a time-out leaves none that is half way through.
    let mut sender = match kept.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => {
            tally.borrow_mut().connections += 1;
            connect(options).await?
        }
    };
    if sender.ready().await.is_err() {
        // The server closed it between two requests, which is its right.
        tally.borrow_mut().connections += 1;
        sender = connect(options).await?;
    }
    let response = sender.send(request(options)?).await?;
    let status = response.status().as_u16();
    let served_by = response.headers().get("x-served-by");
    let served_by = served_by.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    *kept = Some(sender);
    Ok((status, served_by))
}

async fn connect(options: &Options) -> Result<Sender> {
    let authority = &options.url.authority;
    let stream = tokio::net::TcpStream::connect(authority).await.context("connect")?;
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(stream);
    // Errors of a connection reach the one that waits for the answer.
    if options.http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::task::spawn_local(connection);
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(stream).await?;
    tokio::task::spawn_local(connection);
    Ok(Sender::Http1(sender))
}

fn request(options: &Options) -> Result<Request<Empty<Bytes>>> {
    let given_host = |line: &String| line.to_ascii_lowercase().starts_with("host:");
    let host = options.headers.iter().find(|line| given_host(line));
    let host = host.and_then(|line| line.split_once(':')).map(|(_, host)| host.trim());
    let host = host.unwrap_or(&options.url.authority);
    let mut request = match options.http2 {
        // It has no Host field, but an authority.
        true => Request::builder().uri(format!("http://{host}{}", options.url.path)),
        false => Request::builder().uri(&options.url.path).header("host", host),
    }
    .method(&options.method);
    for line in options.headers.iter().filter(|line| !given_host(line)) {
        let (name, value) = line.split_once(':').with_context(|| format!("header {line:?}"))?;
        request = request.header(name.trim(), value.trim());
    }
    if options.close {
        request = request.header("connection", "close");
    }
    Ok(request.body(Empty::new())?)
}

fn report(tally: &Tally, elapsed: Duration) {
    let latency = |percent: f64| tally.latency.value_at_percentile(percent) / 1000;
    say(&json!({
        "requests": tally.requests,
        "errors": tally.errors,
        "connections": tally.connections,
        "status": tally.status,
        "served_by": tally.served_by,
        "p50_us": latency(50.0),
        "p90_us": latency(90.0),
        "p99_us": latency(99.0),
        "max_us": tally.latency.max() / 1000,
        "seconds": elapsed.as_secs_f64(),
        "rps": tally.requests as f64 / elapsed.as_secs_f64().max(1e-9),
        "messages": tally.messages,
    }));
}
