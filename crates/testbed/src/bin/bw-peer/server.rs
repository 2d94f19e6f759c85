//! `bw-peer server`: an HTTP server whose answers can be recognised. It speaks HTTP/1.1, and
//! HTTP/2 to those who begin with its preface.
//!
//! Every answer has `x-served-by: NAME`, `x-connection: N` (the how-manieth connection it came
//! by) and `x-peer: ADDR:PORT` (the client, as the server sees it), and what the request asks for
//! by `x-echo-set-header: NAME:VALUE, NAME:VALUE`.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N`, `/chunked/N` | N bytes of the pattern, with a content-length or chunked |
//! | `/status/CODE` | that status |
//! | `/delay/MS/...` | the rest of the path, after a while |
//! | `/first/N/KEY/FAILURE/...` | for the first N requests with this key a failure: a status (`503+`: at once, and the body is read nevertheless), `grpcCODE` (200 with `grpc-status`), `reset` (the connection ends) or `hang` (nothing comes); then the rest of the path |
//! | `/count/KEY` | how many requests had this key |
//! | `/headers` | the request's head: `method`, `path`, `version`, `headers` |
//! | `/stats` | `name`, `requests` (without those for /stats), `connections` |
//! | POST `/echo` | the body, as it comes |
//! | POST `/sum` | `bytes`, `sha256` and `trailers` of the request |
//! | `/trailers` | a body in chunks, and the trailer fields `x-trailer: NAME` |
//! | any, with `x-first: N/KEY/FAILURE` | as `/first/N/KEY/FAILURE` in front of it |
//! | any, with `delay=500ms` or `delay=1s` in its query | the same, after a while |
//! | any other, from a gRPC client | the message, `grpc-status: 0`, and `x-path` among the fields |
//! | any other | `NAME METHOD PATH\n`, and for a GET the bodies of the upstreams; with `--echo` the request's head |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use beeway_testbed::pattern;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::flaky::{Failure, Flaky};
use crate::upstream::Upstreams;
use crate::{listen, say};

type Body = BoxBody<Bytes, hyper::Error>;

#[derive(clap::Args)]
pub struct Options {
    /// Address and port; may be repeated; port 0 takes any
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// What to call itself: header x-served-by, and first word of the body
    #[arg(long)]
    name: String,
    /// Threads that accept and serve
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// For GET, ask this server too and append its answer; may be repeated
    #[arg(long)]
    upstream: Vec<String>,
    /// Answer everything but /stats with this status
    #[arg(long)]
    status: Option<u16>,
    /// Wait this long before each answer
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Print a line of JSON for each request, and for each body that /sum has read
    #[arg(long)]
    log: bool,
    /// Answer with the request's head where nothing else is asked for
    #[arg(long)]
    echo: bool,
}

struct Server {
    options: Options,
    upstreams: Upstreams,
    flaky: Flaky,
    block: Bytes,
    requests: AtomicU64,
    connections: AtomicU64,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let listeners = listen::tcp(&options.listen)?;
    let mut addresses = Vec::new();
    for listener in &listeners {
        listener.set_nonblocking(true)?;
        addresses.push(listener.local_addr()?);
    }
    let server = Arc::new(Server {
        upstreams: Upstreams::new(&options.upstream)?,
        options,
        flaky: Flaky::default(),
        block: pattern::block().into(),
        requests: AtomicU64::new(0),
        connections: AtomicU64::new(0),
    });
    listen::announce(&server.options.name, &addresses);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..server.options.count.max(1) {
            let mine: Result<Vec<_>, _> = listeners.iter().map(|l| l.try_clone()).collect();
            let (mine, server) = (mine?, Arc::clone(&server));
            scope.spawn(move || worker(mine, &server).expect("a runtime and listeners"));
        }
        Ok(())
    })
}

fn worker(listeners: Vec<std::net::TcpListener>, server: &Arc<Server>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    for listener in listeners {
        let server = Arc::clone(server);
        let _entered = runtime.enter();
        local.spawn_local(accept(tokio::net::TcpListener::from_std(listener)?, server));
    }
    runtime.block_on(local);
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, server: Arc<Server>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, say: the connections that end will free some.
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let connection = server.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let server = Arc::clone(&server);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let server = Arc::clone(&server);
                async move { server.answer(request, peer, connection).await }
            });
            let mut http = auto::Builder::new(Local);
            http.http1().timer(TokioTimer::new()).half_close(true).pipeline_flush(true);
            let serving = http.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = serving.await {
                eprintln!("connection {connection} from {peer}: {error:?}");
            }
        });
    }
}

/// Runs the streams of HTTP/2 on the thread of their connection.
#[derive(Clone)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stream);
    }
}

impl Server {
    /// An error ends the connection without an answer.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        connection: u64,
    ) -> io::Result<Response<Body>> {
        let path = request.uri().path().to_owned();
        if path == "/stats" {
            return Ok(self.stamp(self.stats(), peer, connection));
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.options.log {
            let mut line = head(&request);
            line["event"] = "request".into();
            line["peer"] = peer.to_string().into();
            line["connection"] = connection.into();
            say(&line);
        }
        let mut wait = self.options.delay_ms;
        let mut rest = path.as_str();
        let wanted = set_headers(request.headers());
        wait += delay(request.uri().query().unwrap_or_default());
        let mut by_field = request.headers().get("x-first").and_then(|v| v.to_str().ok());
        let failure = match &mut by_field {
            Some(text) => self.flaky.meet(text),
            None => rest.strip_prefix("/first/").and_then(|mut text| {
                let failure = self.flaky.meet(&mut text);
                rest = text;
                failure
            }),
        };
        if let Some((ms, after)) = rest.strip_prefix("/delay/").map(split_segment) {
            wait += ms.parse().unwrap_or(0);
            rest = after;
        }
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let mut request = request;
        let fails = failure.is_some_and(|failure| !matches!(failure, Failure::Early(_)));
        if is_grpc(request.headers()) && fails {
            // A server of gRPC has read the message; curl takes an earlier answer for a failure.
            while let Some(Ok(_)) = request.body_mut().frame().await {}
        }
        let mut response = match (failure, self.options.status.map(StatusCode::from_u16)) {
            (Some(Failure::Status(status)), _) | (None, Some(Ok(status))) => {
                self.plain(status, format!("{} {status}\n", self.options.name))
            }
            (Some(Failure::Early(status)), _) => {
                let mut body = request.into_body();
                tokio::task::spawn_local(
                    async move { while let Some(Ok(_)) = body.frame().await {} },
                );
                self.plain(status, String::new())
            }
            (Some(Failure::Grpc(code)), _) => grpc_failure(code),
            (Some(Failure::Reset), _) => return Err(io::ErrorKind::ConnectionReset.into()),
            (Some(Failure::Hang), _) => std::future::pending().await,
            (None, _) => self.route(rest, request).await,
        };
        for (name, value) in wanted {
            response.headers_mut().append(name, value);
        }
        Ok(self.stamp(response, peer, connection))
    }

    async fn route(&self, path: &str, request: Request<Incoming>) -> Response<Body> {
        let number = |prefix: &str| path.strip_prefix(prefix)?.parse::<u64>().ok();
        if let Some(n) = number("/bytes/") {
            let mut response = Response::new(self.pattern(n));
            // Set by hand for HEAD, whose body hyper leaves out.
            response.headers_mut().insert("content-length", n.into());
            return response;
        }
        if let Some(n) = number("/chunked/") {
            return Response::new(Unsized(self.pattern(n)).boxed());
        }
        if let Some(Ok(status)) = number("/status/").map(|n| StatusCode::from_u16(n as u16)) {
            return self.plain(status, format!("{} {status}\n", self.options.name));
        }
        if let Some(key) = path.strip_prefix("/count/") {
            return self.plain(StatusCode::OK, self.flaky.count(key).to_string());
        }
        match (request.method(), path) {
            (_, "/trailers") => self.trailers(),
            (_, "/headers") => json_body(&head(&request)),
            (&Method::POST, "/echo") => Response::new(request.into_body().boxed()),
            (&Method::POST, "/sum") => {
                let path = request.uri().to_string();
                let (response, mut line) = sum(request.into_body()).await;
                if self.options.log {
                    line["event"] = "sum".into();
                    line["path"] = path.into();
                    say(&line);
                }
                response
            }
            _ if is_grpc(request.headers()) => grpc_echo(request).await,
            _ if self.options.echo => json_body(&head(&request)),
            _ => self.name_and_upstreams(request).await,
        }
    }

    /// A body in two chunks and trailers (which HTTP/1.1 sends to who says that it takes them).
    fn trailers(&self) -> Response<Body> {
        let mut trailers = HeaderMap::new();
        if let Ok(name) = HeaderValue::from_str(&self.options.name) {
            trailers.insert("x-trailer", name);
        }
        let frames =
            [Frame::data("one,".into()), Frame::data("two\n".into()), Frame::trailers(trailers)];
        let mut response = Response::new(frames_body(frames));
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-trailer"));
        response
    }

    /// `NAME METHOD PATH`, and for a GET what the upstreams answer.
    async fn name_and_upstreams(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut text = format!("{} {} {path}\n", self.options.name, head.method);
        while let Some(Ok(_)) = body.frame().await {}
        let mut status = StatusCode::OK;
        if head.method == Method::GET {
            for (worst, answer) in self.upstreams.get(&head.headers).await {
                text.push_str(&answer);
                status = status.max(worst);
            }
        }
        self.plain(status, text)
    }

    fn plain(&self, status: StatusCode, text: String) -> Response<Body> {
        let body = match status.as_u16() {
            204 | 304 => String::new(),
            _ => text,
        };
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        response
    }

    fn stats(&self) -> Response<Body> {
        json_body(&json!({
            "name": self.options.name,
            "requests": self.requests.load(Ordering::Relaxed),
            "connections": self.connections.load(Ordering::Relaxed),
        }))
    }

    /// Marks an answer: who gave it, on which of its connections, and to whom.
    fn stamp(&self, mut response: Response<Body>, peer: SocketAddr, n: u64) -> Response<Body> {
        let headers = response.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text);
        if let (Ok(name), Ok(peer)) = (value(&self.options.name), value(&peer.to_string())) {
            headers.insert("x-served-by", name);
            headers.insert("x-peer", peer);
        }
        headers.insert("x-connection", n.into());
        response
    }

    /// A body of the first `n` bytes of the pattern, made piece by piece.
    fn pattern(&self, n: u64) -> Body {
        Pattern { block: self.block.clone(), left: n }.map_err(|never| match never {}).boxed()
    }
}

/// The milliseconds that a query asks to wait.
fn delay(query: &str) -> u64 {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("delay=")).unwrap_or_default();
    let number = asked.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = if asked.ends_with("ms") { 1 } else { 1000 };
    number.parse::<u64>().map_or(0, |number| number * unit)
}

/// The first path segment and the rest, which begins with a slash.
fn split_segment(path: &str) -> (&str, &str) {
    path.find('/').map_or((path, "/"), |slash| path.split_at(slash))
}

/// The request's head as it was received.
fn head<T>(request: &Request<T>) -> Value {
    let uri = request.uri();
    let mut headers = fields_json(request.headers());
    // HTTP/2 has it in `:authority`.
    if let (None, Some(authority)) = (headers.get("host"), uri.authority()) {
        headers.insert("host".to_owned(), authority.as_str().into());
    }
    let path = match uri.path_and_query() {
        Some(path) if request.version() == Version::HTTP_2 => path.to_string(),
        _ => uri.to_string(),
    };
    json!({
        "method": request.method().as_str(),
        "path": path,
        "version": format!("{:?}", request.version()),
        "headers": headers,
    })
}

fn fields_json(fields: &HeaderMap) -> Map<String, Value> {
    let mut object = Map::new();
    for name in fields.keys() {
        let values = fields.get_all(name).iter();
        let values: Vec<_> = values.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        object.insert(name.to_string(), values.join(", ").into());
    }
    object
}

/// The fields that a request wants to see in its answer.
fn set_headers(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let wanted = headers.get_all("x-echo-set-header").iter().filter_map(|v| v.to_str().ok());
    let pairs = wanted.flat_map(|value| value.split(',')).filter_map(|pair| pair.split_once(':'));
    let fields = pairs.filter_map(|(name, value)| {
        Some((name.trim().parse().ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    fields.collect()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|value| value.as_bytes().starts_with(GRPC.as_bytes()))
}

const GRPC: &str = "application/grpc";

/// A failed call: nothing but a head ("Trailers-Only").
fn grpc_failure(code: u16) -> Response<Body> {
    let mut response = Response::new(full(""));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(GRPC));
    headers.insert("grpc-status", code.into());
    headers.insert("grpc-message", HeaderValue::from_static("as asked for"));
    response
}

/// A call whose answer is its message.
async fn grpc_echo(request: Request<Incoming>) -> Response<Body> {
    let path = HeaderValue::from_str(request.uri().path());
    let message = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return grpc_failure(13),
    };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), 0.into())]);
    // Clients end a connection that has had too many frames with nothing in them.
    let message = Some(message).filter(|message| !message.is_empty()).map(Frame::data);
    let frames = message.into_iter().chain([Frame::trailers(trailers)]);
    let mut response = Response::new(frames_body(frames));
    response.headers_mut().insert("content-type", HeaderValue::from_static(GRPC));
    response.headers_mut().extend(path.ok().map(|path| (HeaderName::from_static("x-path"), path)));
    response
}

/// A body of these frames.
fn frames_body(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Body {
    Frames(frames.into_iter().collect()).map_err(|never| match never {}).boxed()
}

struct Frames(VecDeque<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// The answer to /sum, and what it says.
async fn sum(mut body: Incoming) -> (Response<Body>, Value) {
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut trailers = Map::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                bytes += data.len() as u64;
                hasher.update(&data);
            }
            Ok(Err(frame)) => {
                if let Ok(fields) = frame.into_trailers() {
                    trailers = fields_json(&fields);
                }
            }
            Err(error) => {
                let text = json!({ "error": error.to_string() });
                let mut response = json_body(&text);
                *response.status_mut() = StatusCode::BAD_REQUEST;
                return (response, text);
            }
        }
    }
    let digest = pattern::hex(&hasher.finalize());
    let text = json!({ "bytes": bytes, "sha256": digest, "trailers": trailers });
    (json_body(&text), text)
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn json_body(value: &Value) -> Response<Body> {
    let mut response = Response::new(full(format!("{value}\n")));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

struct Pattern {
    block: Bytes,
    left: u64,
}

impl http_body::Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let take = self.left.min(self.block.len() as u64);
        self.left -= take;
        let piece = self.block.slice(..take as usize);
        std::task::Poll::Ready((take > 0).then_some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

/// A body that does not tell its length, which makes hyper send it in chunks.
struct Unsized(Body);

impl http_body::Body for Unsized {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(context)
    }
}
