//! `bw-peer server`: an HTTP/1.1 server whose answers can be recognised.
//!
//! Every answer has `x-served-by: NAME`, `x-connection: N` (the how-manieth connection it came
//! by) and `x-peer: ADDR:PORT` (the client, as the server sees it).
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N`, `/chunked/N` | N bytes of the pattern, with a content-length or chunked |
//! | `/status/CODE` | that status |
//! | `/delay/MS/...` | the rest of the path, after a while |
//! | `/headers` | the request's head: `method`, `path`, `version`, `headers` |
//! | `/stats` | `name`, `requests` (without those for /stats), `connections` |
//! | POST `/echo` | the body, as it comes |
//! | POST `/sum` | `bytes` and `sha256` of the body |
//! | any other | `NAME METHOD PATH\n`, and for a GET the bodies of the upstreams |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use beeway_testbed::pattern;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

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
    /// Print a line of JSON for each request
    #[arg(long)]
    log: bool,
}

struct Server {
    options: Options,
    upstreams: Upstreams,
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
                async move { Ok::<_, Infallible>(server.answer(request, peer, connection).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).half_close(true).pipeline_flush(true);
            let serving = http.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = serving.await {
                eprintln!("connection {connection} from {peer}: {error}");
            }
        });
    }
}

impl Server {
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        connection: u64,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/stats" {
            return self.stamp(self.stats(), peer, connection);
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
        if let Some((ms, after)) = rest.strip_prefix("/delay/").map(split_segment) {
            wait += ms.parse().unwrap_or(0);
            rest = after;
        }
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let response = match self.options.status.map(StatusCode::from_u16) {
            Some(Ok(status)) => self.plain(status, format!("{} {status}\n", self.options.name)),
            _ => self.route(rest, request).await,
        };
        self.stamp(response, peer, connection)
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
        match (request.method(), path) {
            (_, "/headers") => json_body(&head(&request)),
            (&Method::POST, "/echo") => Response::new(request.into_body().boxed()),
            (&Method::POST, "/sum") => sum(request.into_body()).await,
            _ => self.name_and_upstreams(request).await,
        }
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

/// The first path segment and the rest, which begins with a slash.
fn split_segment(path: &str) -> (&str, &str) {
    path.find('/').map_or((path, "/"), |slash| path.split_at(slash))
}

/// The request's head as it was received.
fn head<T>(request: &Request<T>) -> Value {
    let mut headers = Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values: Vec<_> = values.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        headers.insert(name.to_string(), values.join(", ").into());
    }
    json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    })
}

async fn sum(mut body: Incoming) -> Response<Body> {
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                bytes += data.len() as u64;
                hasher.update(&data);
            }
            Ok(Err(_trailers)) => {}
            Err(error) => {
                let mut response = json_body(&json!({ "error": error.to_string() }));
                *response.status_mut() = StatusCode::BAD_REQUEST;
                return response;
            }
        }
    }
    json_body(&json!({ "bytes": bytes, "sha256": pattern::hex(&hasher.finalize()) }))
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
