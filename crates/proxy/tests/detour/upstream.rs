//! Real servers for the proxy to call.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

pub type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// A hyper server on a thread of its own, for as long as the test process runs.
///
/// - `/echo` sends the body back, `/length/N` N bytes, `/chunked` two pieces of unknown length,
///   `/trailers` trailers, `/empty` 204, `/same` 304; anything else its name and the request head.
pub fn http(name: &'static str) -> SocketAddr {
    start(name, false)
}

/// The same with HTTP/2.
pub fn http2(name: &'static str) -> SocketAddr {
    start(name, true)
}

fn start(name: &'static str, http2: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let service = service_fn(move |request| answer(name, request));
                if http2 {
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service);
                    tokio::spawn(connection);
                    continue;
                }
                let connection = hyper::server::conn::http1::Builder::new()
                    .preserve_header_case(true)
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
    });
    address
}

/// An HTTP/2 server that does with its nth request what the test says, and lets bodies come in
/// `window` bytes at a time.
pub fn scripted<F>(
    window: u32,
    script: impl Fn(usize, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Answer> + Send + 'static,
{
    narrow(window, u32::MAX, script)
}

/// The same, with at most so many requests at once on a connection.
pub fn narrow<F>(
    window: u32,
    streams: u32,
    script: impl Fn(usize, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (script, asked) = (script.clone(), asked.clone());
                let service = service_fn(move |request| {
                    let answer = script(asked.fetch_add(1, Ordering::Relaxed), request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(window)
                    .max_concurrent_streams(streams)
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
    });
    address
}

async fn answer(name: &str, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/echo" => Response::new(request.into_body().boxed()),
        "/chunked" => pieces([Frame::data("hello, ".into()), Frame::data("world".into())]),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let mut response = pieces([Frame::data("data".into()), Frame::trailers(trailers)]);
            response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            response
        }
        "/empty" => status(204),
        "/same" => status(304),
        "/fields" => {
            let mut response = full(Bytes::from("fields"));
            for (field, value) in [("connection", "X-Hop"), ("x-hop", "1"), ("keep-alive", "x")] {
                response.headers_mut().append(field, value.parse().unwrap());
            }
            response
        }
        _ => match path.strip_prefix("/length/") {
            Some(length) => full(pattern(length.parse().unwrap())),
            None => full(format!("{name} {:?}", request).into()),
        },
    })
}

pub fn status(status: u16) -> Answer {
    let mut response = full(Bytes::new());
    *response.status_mut() = status.try_into().unwrap();
    response
}

pub fn full(body: Bytes) -> Answer {
    Response::new(Full::new(body).map_err(|never| match never {}).boxed())
}

fn pieces(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Answer {
    Response::new(Pieces(frames.into_iter().collect()).boxed())
}

/// A body of unknown length.
struct Pieces(VecDeque<Frame<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// Bytes that tell when one is missing or out of place.
pub fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A server that does with each connection what the test says, one after the other.
pub fn raw(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            serve(socket.unwrap());
        }
    });
    address
}

/// Reads a request head.
pub fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A server that answers every request with these bytes, then closes.
pub fn canned(answer: &'static str) -> SocketAddr {
    raw(move |mut socket| {
        head(&mut socket);
        let _ = socket.write_all(answer.as_bytes());
    })
}
