//! Sends spans by OTLP (opentelemetry.io/docs/specs/otlp): protobuf by HTTP, or gRPC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::Target;
use super::proto::{self, ResourceSpans, Scope, ScopeSpans, Span};
use super::span::{Made, Service};

/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long one is left alone that did not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// At most so often it is told that spans cannot be sent.
const WARN: Duration = Duration::from_secs(60);

/// Bytes of an answer that are read.
const ANSWER: usize = 64 * 1024;

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What the names of attributes mean.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.27.0";

/// Sends.
pub(super) struct Exporter {
    runtime: Runtime,
    /// Those that did not answer, and when.
    away: BTreeMap<Target, Instant>,
    warned: Option<Instant>,
}

impl Exporter {
    pub(super) fn new() -> Result<Exporter> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Exporter { runtime, away: BTreeMap::new(), warned: None })
    }

    /// Sends spans together. How many the collector did not want; or it took none, which has been
    /// told, and whether it was asked.
    pub(super) fn send(&mut self, target: &Target, spans: Vec<Made>) -> Result<u64, bool> {
        if self.away.get(target).is_some_and(|since| since.elapsed() < PAUSE) {
            return Err(false);
        }
        let count = spans.len();
        let message = request(spans).encode_to_vec();
        let sent = self.runtime.block_on(async {
            let sent = tokio::time::timeout(TIMEOUT, send(target, message)).await;
            sent.unwrap_or_else(|_| bail!("no answer within {TIMEOUT:?}"))
        });
        match sent {
            Ok(refused) => {
                if self.away.remove(target).is_some() {
                    tracing::info!("spans are sent again");
                }
                if refused > 0 {
                    self.warn(&format!("{refused} of {count} spans were refused"));
                }
                Ok(refused)
            }
            Err(error) => {
                self.away.retain(|_, since| since.elapsed() < WARN);
                self.away.insert(target.clone(), Instant::now());
                self.warn(&format!("{count} spans could not be sent: {error:#}"));
                Err(true)
            }
        }
    }

    fn warn(&mut self, what: &str) {
        if self.warned.is_none_or(|then| then.elapsed() >= WARN) {
            self.warned = Some(Instant::now());
            tracing::warn!("{what}");
        }
    }
}

fn request(made: Vec<Made>) -> proto::Request {
    let mut by_service: BTreeMap<Service, Vec<Span>> = BTreeMap::new();
    for Made { service, span } in made {
        by_service.entry(service).or_default().push(span);
    }
    let resource_spans = by_service.into_iter().map(|(service, spans)| {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let scope = Some(Scope { name: "beeway".to_owned(), version });
        ResourceSpans {
            resource: Some(proto::Resource { attributes: service.attributes() }),
            scope_spans: vec![ScopeSpans { scope, spans }],
            schema_url: SCHEMA.to_owned(),
        }
    });
    proto::Request { resource_spans: resource_spans.collect() }
}

async fn send(target: &Target, message: Vec<u8>) -> Result<u64> {
    match target {
        Target::Told(endpoint) => {
            let what = || format!("connect to {}", endpoint.authority);
            let stream = TcpStream::connect(&endpoint.authority).await.with_context(what)?;
            by_http(stream, &endpoint.authority, &endpoint.path, message).await
        }
        Target::Service(addresses, path, authority) => {
            let stream =
                connect(addresses).await.with_context(|| format!("connect to {authority}"))?;
            match path {
                Some(path) => by_http(stream, authority, path, message).await,
                None => by_grpc(stream, authority, &message).await,
            }
        }
    }
}

/// To one of several, beginning anywhere.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream> {
    ensure!(!addresses.is_empty(), "it has no ready endpoint");
    let first = fastrand::usize(..addresses.len());
    let mut last = None;
    for address in addresses[first..].iter().chain(&addresses[..first]) {
        match tokio::time::timeout(TIMEOUT / 4, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(anyhow::Error::from(error)),
            Err(_) => last = Some(anyhow::anyhow!("{address} does not answer")),
        }
    }
    Err(last.context("none was tried")?)
}

async fn by_http(stream: TcpStream, authority: &str, path: &str, message: Vec<u8>) -> Result<u64> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("beeway/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(message)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER).collect().await;
    connection.abort();
    ensure!(status == StatusCode::OK, "the collector answered {status}");
    let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?.to_bytes();
    Ok(refused(&body))
}

async fn by_grpc(stream: TcpStream, authority: &str, message: &[u8]) -> Result<u64> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(u32::try_from(message.len()).context("too many spans at once")?);
    framed.put_slice(message);
    let request = Request::post(format!("http://{authority}{GRPC_PATH}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("beeway/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(framed.freeze()))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    ensure!(head.status == StatusCode::OK, "the collector answered {}", head.status);
    let body = Limited::new(body, ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
    connection.abort();
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    let text = |of: &HeaderMap, name: &str| {
        of.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let status = text(&trailers, "grpc-status");
    ensure!(
        status == "0",
        "the collector answered with gRPC's status `{status}` {:?}",
        text(&trailers, "grpc-message")
    );
    let body = body.to_bytes();
    Ok(refused(body.get(5..).unwrap_or_default()))
}

/// Spans that a collector says it did not take.
fn refused(answer: &[u8]) -> u64 {
    let read = proto::Response::decode(answer).ok();
    let rejected = read.and_then(|answer| answer.partial_success).map_or(0, |p| p.rejected_spans);
    u64::try_from(rejected).unwrap_or(0)
}
