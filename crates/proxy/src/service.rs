//! From a request to its answer.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;

use beeway_model::{ClusterId, Outcome, ServicePort, route};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use crate::answer::{self, AnswerBody};
use crate::headers;
use crate::limits::{DRAIN_BYTES, LEGACY_BODY, REQUEST_HEAD, SERVER_BUFFER};
use crate::stream::{Io, State, Stream};
use crate::tunnel::Tunnel;
use crate::upstream::Upstream;
use crate::view::View;

type Answer = Response<AnswerBody>;

/// The answer to what is no request, when the server gives none.
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves a stream until its client is gone or the server has nothing more to say to it.
pub(crate) async fn serve(stream: Rc<Stream>) {
    let handler = {
        let stream = stream.clone();
        service_fn(move |request| {
            let stream = stream.clone();
            async move { Ok::<_, Infallible>(handle(&stream, request).await) }
        })
    };
    let mut connection = http1::Builder::new()
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_buf_size(SERVER_BUFFER)
        .max_header_size(REQUEST_HEAD)
        .serve_connection(TokioIo::new(Io(stream.clone())), handler);
    let served = std::future::poll_fn(|cx| {
        let served = Pin::new(&mut connection).poll(cx);
        // An upload goes on although nobody reads the answer yet.
        stream.drive(cx);
        served
    })
    .await;
    // There still if the server has failed before the answer came.
    stream.upstream.borrow_mut().take();
    let tunnel = stream.tunnel.borrow_mut().take();
    if let (Some(tunnel), Ok(())) = (tunnel, &served) {
        let parts = connection.into_parts();
        if let Err(error) = tunnel.run(&stream, parts.read_buf).await {
            tracing::debug!(%error, "a tunnel has failed");
        }
        // The client waits for an end that only the kernel can give it.
        return stream.core.abort(&stream);
    }
    let connection_failed = served.is_err();
    let answered = match served {
        Ok(()) => true,
        // A 400 or 431 has been written.
        Err(error) => error.is_parse() || error.is_parse_too_large(),
    };
    // Of what begins like HTTP/2 the server says nothing at all.
    if answered && connection_failed && !stream.is_answering() && !stream.refused.get() {
        let _ = Io(stream.clone()).write_all(BAD_REQUEST).await;
    }
    if answered && !stream.broken.get() && Io(stream.clone()).shutdown().await.is_ok() {
        stream.end();
    } else if stream.state.get() == State::Gone {
        stream.core.close(stream.cookie);
    } else {
        stream.core.abort(&stream);
    }
}

async fn handle(stream: &Rc<Stream>, request: Request<Incoming>) -> Answer {
    std::future::poll_fn(|cx| stream.poll_answered(cx)).await;
    stream.core.counters.requests.add(1);
    let draw = stream.draw();
    let (mut parts, body) = request.into_parts();
    let authority = match authority(&parts) {
        Ok(authority) => authority,
        Err(why) => return refuse(stream, StatusCode::BAD_REQUEST, why, parts, body).await,
    };
    if parts.method == Method::CONNECT {
        return refuse(stream, StatusCode::METHOD_NOT_ALLOWED, "", parts, body).await;
    }
    let view = stream.core.view();
    let service = &stream.service;
    let Some(port) = view.frontend(service.ip(), service.port) else {
        let why = "no such service";
        return refuse(stream, StatusCode::SERVICE_UNAVAILABLE, why, parts, body).await;
    };
    let cluster = match decide(&view, port, stream, &parts, &authority, draw) {
        Outcome::Forward(cluster) => cluster,
        Outcome::Respond { status, body: text } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return refuse(stream, status, text, parts, body).await;
        }
        Outcome::Redirect => {
            return refuse(stream, StatusCode::NOT_IMPLEMENTED, "", parts, body).await;
        }
    };
    let Some(address) = endpoint(&view, cluster) else {
        let why = "no healthy upstream";
        return refuse(stream, StatusCode::SERVICE_UNAVAILABLE, why, parts, body).await;
    };
    drop(view);
    let upgrade = if parts.method == Method::GET && parts.version == Version::HTTP_11 {
        headers::websocket(&parts.headers)
    } else {
        None
    };
    let asked = Asked { legacy: parts.version == Version::HTTP_10, upgrade: upgrade.is_some() };
    prepare(&mut parts, authority, upgrade, &body);
    match exchange(stream, Request::from_parts(parts, body), address).await {
        Ok(response) => answer_of(stream, response, asked).await,
        Err(NoAnswer::Body) => {
            // Where the next request would begin is not known either.
            let why = Bytes::from_static(b"malformed body");
            let mut answer = answer::own(StatusCode::BAD_REQUEST, why, stream);
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        }
        Err(NoAnswer::Endpoint) => {
            stream.core.counters.upstream_errors.add(1);
            let why = "upstream connect error or disconnect/reset before headers";
            answer::own(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(why.as_bytes()), stream)
        }
    }
}

/// What to remember of a request when its answer comes.
struct Asked {
    legacy: bool,
    upgrade: bool,
}

/// Whom the request is for: the absolute form goes before the Host field (RFC 9112 section 3.2.2).
fn authority(parts: &http::request::Parts) -> Result<String, &'static str> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one Host");
    }
    if !has_target(parts) {
        return Err("malformed target");
    }
    if let Some(authority) = parts.uri.authority() {
        let named = !authority.as_str().contains('@');
        return named.then(|| authority.to_string()).ok_or("user information in the target");
    }
    match host {
        Some(host) => host.to_str().map(str::to_owned).map_err(|_| "malformed Host"),
        None if parts.version == Version::HTTP_11 => Err("no Host"),
        None => Ok(String::new()),
    }
}

/// Whether the target has a form that its method may have (RFC 9112 section 3.2): a name alone is
/// for CONNECT, `*` for OPTIONS.
fn has_target(parts: &http::request::Parts) -> bool {
    let name_alone = parts.uri.authority().is_some() && parts.uri.scheme().is_none();
    (!name_alone || parts.method == Method::CONNECT)
        && (parts.uri.path() != "*" || parts.method == Method::OPTIONS)
}

fn decide(
    view: &View,
    port: &ServicePort,
    stream: &Stream,
    parts: &http::request::Parts,
    authority: &str,
    draw: u32,
) -> Outcome {
    if port.rules.is_none() {
        return Outcome::Forward(port.cluster);
    }
    let fields: Vec<(&str, &[u8])> =
        parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = beeway_model::Request {
        method: parts.method.as_str(),
        scheme: "http",
        authority,
        target: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
        headers: &fields,
        source: view.workload_at(stream.source.ip()),
    };
    route(port, &request, draw).outcome
}

fn endpoint(view: &View, cluster: ClusterId) -> Option<std::net::SocketAddr> {
    let endpoint = view.mesh.cluster(cluster).pick(fastrand::u32(..))?;
    Some(endpoint.address)
}

/// Makes the request one from here to an endpoint.
fn prepare(
    parts: &mut http::request::Parts,
    authority: String,
    upgrade: Option<HeaderValue>,
    body: &Incoming,
) {
    headers::for_endpoint(&mut parts.headers, upgrade);
    if body.size_hint().exact().is_none() {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    if parts.uri.authority().is_some() {
        let target = parts.uri.path_and_query().cloned();
        parts.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
        if let Ok(host) = HeaderValue::try_from(authority) {
            parts.headers.insert(header::HOST, host);
        }
    } else if parts.version == Version::HTTP_10 && !parts.headers.contains_key(header::HOST) {
        parts.headers.insert(header::HOST, HeaderValue::from_static(""));
    }
    parts.version = Version::HTTP_11;
}

/// Why a request that went to an endpoint has no answer.
enum NoAnswer {
    Endpoint,
    /// The client's body is broken.
    Body,
}

/// Sends the request and waits for the head of its answer. A request is sent again only if nothing
/// of it was: a connection from the pool may turn out to be closed.
async fn exchange(
    stream: &Rc<Stream>,
    mut request: Request<Incoming>,
    address: std::net::SocketAddr,
) -> Result<Response<Incoming>, NoAnswer> {
    let core = &stream.core;
    loop {
        let pooled = core.pool.borrow_mut().take(address);
        let reused = pooled.is_some();
        let mut upstream = match pooled {
            Some(upstream) => upstream,
            None => Upstream::connect(address, &core.counters)
                .await
                .inspect_err(|error| tracing::debug!(%error, %address, "cannot connect"))
                .map_err(|_| NoAnswer::Endpoint)?,
        };
        let mut response = pin!(upstream.sender.try_send_request(request));
        *stream.upstream.borrow_mut() = Some(upstream);
        let answer = std::future::poll_fn(|cx| {
            stream.drive(cx);
            response.as_mut().poll(cx)
        })
        .await;
        let mut error = match answer {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        stream.upstream.borrow_mut().take();
        tracing::debug!(error = %error.error(), %address, "no answer");
        if error.error().is_user() {
            return Err(NoAnswer::Body);
        }
        request = error.take_message().filter(|_| reused).ok_or(NoAnswer::Endpoint)?;
    }
}

async fn answer_of(stream: &Rc<Stream>, response: Response<Incoming>, asked: Asked) -> Answer {
    let (mut parts, body) = response.into_parts();
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    headers::strip(&mut parts.headers);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = stream.upstream.borrow_mut().take();
        if let (true, Some(upstream)) = (asked.upgrade, upstream) {
            *stream.tunnel.borrow_mut() = Some(Tunnel(upstream));
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            let protocol = upgrade.unwrap_or(HeaderValue::from_static("websocket"));
            parts.headers.insert(header::UPGRADE, protocol);
            return Response::from_parts(parts, AnswerBody::tunnel(stream));
        }
        return answer::own(StatusCode::BAD_GATEWAY, Bytes::new(), stream);
    }
    if asked.legacy && body.size_hint().exact().is_none() {
        // An HTTP/1.0 client would take the end of the connection for the end of the body, and the
        // connection cannot be ended from here.
        let body = AnswerBody::in_part(body, stream);
        return match Limited::new(body, LEGACY_BODY).collect().await {
            Ok(whole) => Response::from_parts(parts, AnswerBody::own(whole.to_bytes(), stream)),
            Err(_) => answer::own(StatusCode::BAD_GATEWAY, Bytes::new(), stream),
        };
    }
    Response::from_parts(parts, AnswerBody::endpoint(body, stream))
}

/// Answers without asking an endpoint. The request's body is read first, as far as that is
/// reasonable: the connection is good for further requests only after it.
async fn refuse(
    stream: &Rc<Stream>,
    status: StatusCode,
    text: impl Into<Bytes>,
    parts: http::request::Parts,
    body: Incoming,
) -> Answer {
    let unread = !body.is_end_stream();
    let continues = parts.headers.contains_key(header::EXPECT);
    let drained = !continues && unread && Limited::new(body, DRAIN_BYTES).collect().await.is_ok();
    let mut answer = answer::own(status, text.into(), stream);
    if unread && !drained {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
