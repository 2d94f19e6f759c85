//! `bw-peer grpc`: a gRPC server whose every unary method answers with the message that it got.
//!
//! It is made to be fast, for measuring what is in front of it. Answers have `x-served-by: NAME`,
//! and `x-canary` as the request has it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::listen;
use crate::server::Local;

#[derive(clap::Args)]
pub struct Options {
    /// Address and port; may be repeated; port 0 takes any
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// What to call itself: header x-served-by
    #[arg(long)]
    name: String,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let name = HeaderValue::from_str(&options.name)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let mut addresses = Vec::new();
    for listener in listen::tcp(&options.listen)? {
        listener.set_nonblocking(true)?;
        addresses.push(listener.local_addr()?);
        let _entered = runtime.enter();
        local.spawn_local(accept(TcpListener::from_std(listener)?, name.clone()));
    }
    listen::announce(&options.name, &addresses);
    runtime.block_on(local);
    Ok(())
}

async fn accept(listener: TcpListener, name: HeaderValue) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let name = Rc::new(name.clone());
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(request, Rc::clone(&name)));
            let http = http2::Builder::new(Local);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("connection: {error}");
            }
        });
    }
}

/// An error resets the stream.
async fn answer(
    request: Request<Incoming>,
    name: Rc<HeaderValue>,
) -> Result<Response<Echo>, hyper::Error> {
    let (parts, mut body) = request.into_parts();
    // A message of this size comes in one frame; a longer one is put together.
    let mut message = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        message = if message.is_empty() {
            data
        } else {
            BytesMut::from_iter(message.into_iter().chain(data)).freeze()
        };
    }
    let mut response = Response::new(Echo(Rest::Message(message)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("x-served-by", (*name).clone());
    if let Some(canary) = parts.headers.get("x-canary") {
        headers.insert("x-canary", canary.clone());
    }
    Ok(response)
}

/// A message as it came, with its prefix of five bytes, then the status OK.
struct Echo(Rest);

enum Rest {
    Message(Bytes),
    Status,
    Nothing,
}

impl Body for Echo {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (frame, rest) = match std::mem::replace(&mut self.0, Rest::Nothing) {
            Rest::Message(message) => (Frame::data(message), Rest::Status),
            Rest::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                (Frame::trailers(trailers), Rest::Nothing)
            }
            Rest::Nothing => return Poll::Ready(None),
        };
        self.0 = rest;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Rest::Nothing)
    }
}
