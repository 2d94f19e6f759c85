//! From a request to its answer: routed, changed as its rule says, sent, answered.

use std::rc::Rc;

use beeway_model::action::cors::Fields;
use beeway_model::action::grpc::http_of_status;
use beeway_model::action::redirect;
use beeway_model::policy::{Abort, Fault};
use beeway_model::{
    Action, ClusterId, Decision, HeaderEdits, Outcome, Protocol, ServicePort, route,
};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Limited};

use crate::access::{Refusal, Standing};
use crate::answer::{self, AnswerBody};
use crate::attempt::{Answered, Asked, NoAnswer, Tries};
use crate::body::RequestBody;
use crate::call::Call;
use crate::chosen::Chosen;
use crate::client::Client;
use crate::headers::{self, ATTEMPT_COUNT, FORWARDED_PROTO, REQUEST_ID, edit};
use crate::incoming::Incoming;
use crate::limits::{DRAIN_BYTES, DRAIN_TIME, DRAIN_TIME_HTTP2, LEGACY_BODY};
use crate::plain::Handed;
use crate::record::Flags;
use crate::tunnel::Tunnel;
use crate::view::View;
use crate::{cors, grpc, mirror};

/// What goes back to the client.
pub(crate) type Answer = Response<AnswerBody>;

static NO_EDITS: HeaderEdits = HeaderEdits { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

/// Answers one request.
pub(crate) async fn handle(client: &Rc<Client>, request: Request<Incoming>) -> Answer {
    std::future::poll_fn(|cx| client.poll_answered(cx)).await;
    handle_begun(client, request, client.handed()).await
}

/// Answers one request, with which plain forwarding may have begun.
pub(crate) async fn handle_begun(
    client: &Rc<Client>,
    request: Request<Incoming>,
    handed: Option<Box<Handed>>,
) -> Answer {
    if handed.is_none() {
        client.core.counters.requests.add(1);
    }
    let drawn = client.draw();
    let draw = handed.as_ref().map_or(drawn, |handed| handed.draw);
    let (parts, body) = request.into_parts();
    let mut parts = Box::new(parts);
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }
    let http2 = parts.version == Version::HTTP_2;
    let (body, source) = RequestBody::of(body, parts.version);
    let call = Call::new(client, &parts, source);
    if let Some(handed) = handed {
        call.hand(handed);
    }
    let mut answer = answer(&call, Asked { parts, body }, draw).await;
    if !http2 && call.source.as_ref().is_some_and(|source| !source.has_ended()) {
        // The server ends a connection on which a request was answered before its end, as Envoy
        // does; a client that is not told sends another one in vain (RFC 9112 section 9.6).
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    call.note(|record| {
        record.status = answer.status().as_u16();
        record.grpc_status = grpc::status_of(answer.headers()).map(u32::from);
    });
    answer
}

async fn answer(call: &Rc<Call>, request: Asked, draw: u32) -> Answer {
    let authority = match authority(&request.parts) {
        Ok(authority) => authority,
        Err(why) => {
            call.flag(Flags::DOWNSTREAM_PROTOCOL_ERROR);
            return refuse(call, StatusCode::BAD_REQUEST, why, request).await;
        }
    };
    if request.parts.method == Method::CONNECT {
        return refuse(call, StatusCode::METHOD_NOT_ALLOWED, "", request).await;
    }
    if headers::has_transfer_coding(&request.parts.headers) {
        call.flag(Flags::DOWNSTREAM_PROTOCOL_ERROR);
        // Where such a body ends is not for us to say.
        let mut answer =
            refuse(call, StatusCode::NOT_IMPLEMENTED, "transfer coding", request).await;
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    }
    let view = call.view();
    let service = call.client.service;
    let Some(port) = view.frontend(service.ip(), service.port()) else {
        call.flag(Flags::NO_CLUSTER);
        return refuse(call, StatusCode::SERVICE_UNAVAILABLE, "no such service", request).await;
    };
    let decision = decide(&view, port, call, &request.parts, &authority, draw);
    let exchange = Exchange::new(call, &view, port, &decision, authority);
    exchange.note();
    exchange.run(request, decision.outcome).await
}

/// What is known of a request once it has been routed.
struct Exchange<'a> {
    call: &'a Rc<Call>,
    view: &'a Rc<View>,
    authority: String,
    chosen: Chosen<'a>,
}

/// What to remember of a request when its answer comes.
struct Expected {
    /// The request asked for one: its head as it was sent, and what the endpoint speaks.
    tunnel: Option<(Box<Parts>, Protocol)>,
    cors: Fields,
}

impl<'a> Exchange<'a> {
    fn new(
        call: &'a Rc<Call>,
        view: &'a Rc<View>,
        port: &'a ServicePort,
        decision: &Decision,
        authority: String,
    ) -> Exchange<'a> {
        let chosen = Chosen::of(port, decision);
        Exchange { call, view, authority, chosen }
    }

    /// For the record.
    fn note(&self) {
        let rule = self.chosen.rule.map_or("", |rule| &rule.name);
        self.call.detail(|record| rule.clone_into(&mut record.rule));
    }

    async fn run(self, asked: Asked, outcome: Outcome) -> Answer {
        if let Some(abort) = self.fault(&self.chosen.policy.fault).await {
            return self.abort(abort, asked).await;
        }
        let cors = match &self.chosen.policy.cors {
            Some(policy) if matches!(outcome, Outcome::Forward(_)) => {
                match cors::examine(policy, &asked.parts) {
                    cors::Verdict::Answer(fields) => {
                        let mut answer = refuse(self.call, StatusCode::OK, "", asked).await;
                        cors::allow(answer.headers_mut(), &fields);
                        return answer;
                    }
                    cors::Verdict::Forward(fields) => fields,
                }
            }
            _ => Fields::new(),
        };
        match outcome {
            Outcome::Forward(cluster) => self.forward(asked, cluster, cors).await,
            Outcome::Redirect => self.redirect(asked).await,
            Outcome::Respond { status, body } => {
                self.flag_response(status);
                let status = StatusCode::from_u16(status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let answer = refuse(self.call, status, body, asked).await;
                self.local(answer)
            }
        }
    }

    /// The status alone does not say why it was given.
    fn flag_response(&self, status: u16) {
        match self.chosen.rule.map(|rule| &rule.action) {
            None if status == 404 => self.call.flag(Flags::NO_ROUTE),
            Some(Action::Forward(_)) => self.call.flag(Flags::NO_CLUSTER),
            _ => {}
        }
    }

    /// Waits, if this request is one that shall; what it is aborted with, if it shall be.
    async fn fault(&self, fault: &Fault) -> Option<Abort> {
        if let Some((time, share)) = fault.delay
            && share.holds(fastrand::u32(..))
        {
            self.call.flag(Flags::DELAY_INJECTED);
            tokio::time::sleep(time).await;
        }
        let (abort, share) = fault.abort?;
        share.holds(fastrand::u32(..)).then_some(abort)
    }

    async fn abort(&self, abort: Abort, asked: Asked) -> Answer {
        self.call.flag(Flags::FAULT_INJECTED);
        const BODY: &str = "fault filter abort";
        match abort {
            Abort::Http(status) => {
                let status = StatusCode::from_u16(status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                refuse(self.call, status, BODY, asked).await
            }
            Abort::Grpc(code) if self.call.grpc => {
                let mut answer = refuse(self.call, StatusCode::OK, "", asked).await;
                grpc::tell(&mut answer, code, BODY);
                answer
            }
            Abort::Grpc(code) => {
                let status = StatusCode::from_u16(http_of_status(code));
                refuse(self.call, status.unwrap_or(StatusCode::BAD_GATEWAY), BODY, asked).await
            }
        }
    }

    /// An answer of our own that the rule asks for.
    fn local(&self, mut answer: Answer) -> Answer {
        edit(answer.headers_mut(), &self.chosen.policy.response_headers);
        answer
    }

    async fn redirect(&self, asked: Asked) -> Answer {
        let Some(Action::Redirect(redirect)) = self.chosen.rule.map(|rule| &rule.action) else {
            return refuse(self.call, StatusCode::INTERNAL_SERVER_ERROR, "", asked).await;
        };
        let of = redirect::Asked {
            scheme: "http",
            authority: &self.authority,
            target: target(&asked.parts),
            port: self.call.client.service.port(),
        };
        let location = redirect::location(redirect, self.chosen.held(), &of);
        let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
        let mut answer = refuse(self.call, status, "", asked).await;
        if let Ok(location) = HeaderValue::try_from(location) {
            answer.headers_mut().insert(header::LOCATION, location);
        }
        self.local(answer)
    }

    async fn forward(&self, asked: Asked, id: ClusterId, cors: Fields) -> Answer {
        let cluster = self.view.mesh.cluster(id);
        self.call.detail(|record| cluster.name.clone_into(&mut record.cluster));
        let Asked { mut parts, body } = asked;
        let one = parts.version != Version::HTTP_2 && self.call.client.slot.is_some();
        let upgrade = match parts.version {
            Version::HTTP_11
                if parts.method == Method::GET && one && matches!(body, RequestBody::Empty) =>
            {
                headers::websocket(&parts.headers)
            }
            _ => None,
        };
        let legacy = parts.version == Version::HTTP_10;
        let unread = Unread::of(&parts, &body);
        let tunnel = upgrade.is_some();
        self.prepare(&mut parts, upgrade, &body, cluster.protocol);
        for wanted in &self.chosen.policy.mirrors {
            let http2 = cluster.protocol == Protocol::Http2;
            mirror::send(self.call, self.view, wanted, (&parts, http2), self.chosen.policy);
        }
        let mut tries = Tries::new(self.call, self.view, cluster, self.chosen.policy);
        tries.sent = tunnel.then(|| parts.clone());
        match tries.send(Asked { parts, body }).await {
            Ok(Answered::Endpoint(response)) => {
                let tunnel = tries.sent.take().map(|head| (head, cluster.protocol));
                let deadline = tries.into_deadline();
                let http2 = response.version() == Version::HTTP_2;
                let body = |body| AnswerBody::endpoint(body, http2, deadline, self.call);
                let answer = self.answer_of(response.map(body), Expected { tunnel, cors });
                if legacy { Box::pin(self.in_whole(answer)).await } else { answer }
            }
            Ok(Answered::Refused(refusal, body)) => {
                unread.drain(body).await;
                self.answer_of(self.refused(*refusal), Expected { tunnel: None, cors })
            }
            Err(why) => self.failed(why, cluster.endpoints.is_empty()),
        }
    }

    /// Makes the request one from here to an endpoint.
    fn prepare(
        &self,
        parts: &mut Parts,
        upgrade: Option<HeaderValue>,
        body: &RequestBody,
        protocol: Protocol,
    ) {
        let was_legacy = parts.version == Version::HTTP_10;
        let http2 = protocol == Protocol::Http2;
        headers::for_endpoint(&mut parts.headers, upgrade, http2);
        headers::frame_request(&mut parts.headers, body, http2);
        let (authority, target) = self.chosen.rewritten(target(parts));
        let own = self.chosen.own();
        self.address(parts, authority, target, http2, was_legacy);
        self.introduce(&mut parts.headers);
        edit(&mut parts.headers, own.map_or(&NO_EDITS, |own| &own.request_headers));
        edit(&mut parts.headers, &self.chosen.policy.request_headers);
    }

    /// Says where the request goes, in the form that the endpoint's protocol has for it.
    fn address(
        &self,
        parts: &mut Parts,
        authority: Option<&str>,
        target: Option<String>,
        http2: bool,
        was_legacy: bool,
    ) {
        let kept = || parts.uri.path_and_query().cloned();
        let path = target.and_then(|target| PathAndQuery::try_from(target).ok()).or_else(kept);
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let named = parts.uri.authority().is_some() || authority.is_some();
        let authority = authority.unwrap_or(&self.authority);
        if http2 {
            parts.headers.remove(header::HOST);
            let named = [authority, &self.authority];
            let named = named.iter().find_map(|name| Authority::try_from(*name).ok());
            (parts.uri, parts.version) = http2_target(named, path);
            return;
        }
        if (named || (was_legacy && !parts.headers.contains_key(header::HOST)))
            && let Ok(host) = HeaderValue::try_from(authority)
        {
            parts.headers.insert(header::HOST, host);
        }
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
    }

    /// The fields that Envoy adds in a sidecar. `x-forwarded-for` and trace context stay as they
    /// are: there a sidecar that sends out only passes them on.
    fn introduce(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(REQUEST_ID)
            && let Ok(mut id) = HeaderValue::from_bytes(&self.call.request_id())
        {
            // It never comes again: it shall not take the place of others in HPACK's table.
            id.set_sensitive(true);
            headers.insert(REQUEST_ID, id);
        }
        if !headers.contains_key(FORWARDED_PROTO) {
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        headers.insert(ATTEMPT_COUNT, HeaderValue::from_static("1"));
        let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.call.detail(|record| id.clone_into(&mut record.request_id));
    }

    fn failed(&self, why: NoAnswer, empty: bool) -> Answer {
        let (status, text) = match why {
            NoAnswer::ClientBody => {
                self.call.flag(Flags::DOWNSTREAM_PROTOCOL_ERROR);
                let text = Bytes::from_static(b"malformed body");
                return answer::own(StatusCode::BAD_REQUEST, text, self.call);
            }
            NoAnswer::Timeout => (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout".into()),
            NoAnswer::NoEndpoint => {
                self.call.flag(Flags::NO_HEALTHY_UPSTREAM);
                (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream".to_owned())
            }
            NoAnswer::Reset(reason) => {
                let text = "upstream connect error or disconnect/reset before headers. \
                    reset reason: ";
                let protocol = reason == "protocol error";
                let status = if protocol { 502 } else { 503 };
                (
                    StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
                    format!("{text}{reason}"),
                )
            }
        };
        if !empty {
            self.call.client.core.counters.upstream_errors.add(1);
        }
        answer::own(status, text.into(), self.call)
    }

    /// The answer in the place of an endpoint that may not be asked.
    fn refused(&self, refusal: Refusal) -> Answer {
        self.call.flag(refusal.flags);
        self.call.note(|record| {
            record.denied = true;
            record.policy = refusal.denied.policy;
            record.detail = refusal.denied.detail;
        });
        let mut answer = answer::own(refusal.status, refusal.body, self.call);
        let mut headers = refusal.headers;
        if self.call.grpc {
            // These are about a body that a gRPC client does not get.
            headers.remove(header::CONTENT_TYPE);
            headers.remove(header::CONTENT_LENGTH);
        }
        answer.headers_mut().extend(headers);
        answer
    }

    fn answer_of(&self, response: Response<AnswerBody>, expected: Expected) -> Answer {
        let (mut parts, body) = response.into_parts();
        if headers::has_transfer_coding(&parts.headers) {
            drop(body.in_part());
            self.call.flag(Flags::UPSTREAM_PROTOCOL_ERROR);
            return self.failed(NoAnswer::Reset("protocol error"), false);
        }
        headers::frame_answer(&mut parts, &body);
        // That of the endpoint's hop; the library would take it for what the client wants.
        parts.version = Version::HTTP_11;
        let upgrade = parts.headers.get(header::UPGRADE).cloned();
        headers::strip(&mut parts.headers);
        if let Some(own) = self.chosen.own() {
            edit(&mut parts.headers, &own.response_headers);
        }
        edit(&mut parts.headers, &self.chosen.policy.response_headers);
        cors::allow(&mut parts.headers, &expected.cors);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let upstream = self.call.slot.take();
            if let (Some(asked), Some(upstream)) = (expected.tunnel, upstream) {
                let client = &self.call.client;
                let endpoint = upstream.address;
                let standing = Standing::tunnel(client.aside(), self.view, endpoint, asked);
                *client.tunnel.borrow_mut() = Some(Tunnel { upstream, standing });
                self.call.note(|record| record.status = parts.status.as_u16());
                self.call.finish(true);
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                let protocol = upgrade.unwrap_or(HeaderValue::from_static("websocket"));
                parts.headers.insert(header::UPGRADE, protocol);
                drop(body.in_part());
                return Response::from_parts(parts, AnswerBody::tunnel(self.call));
            }
            drop(body.in_part());
            self.call.flag(Flags::UPSTREAM_PROTOCOL_ERROR);
            return answer::own(StatusCode::BAD_GATEWAY, Bytes::new(), self.call);
        }
        Response::from_parts(parts, body)
    }

    /// The answer with a body of known length. An HTTP/1.0 client would take the end of the connection
    /// for the end of the body, and the connection cannot be ended from here.
    async fn in_whole(&self, answer: Answer) -> Answer {
        let (parts, body) = answer.into_parts();
        if http_body::Body::size_hint(&body).exact().is_some() {
            return Response::from_parts(parts, body);
        }
        match Limited::new(body.in_part(), LEGACY_BODY).collect().await {
            Ok(whole) => Response::from_parts(parts, AnswerBody::own(whole.to_bytes(), self.call)),
            Err(_) => answer::own(StatusCode::BAD_GATEWAY, Bytes::new(), self.call),
        }
    }
}

/// Whom the request is for: the absolute form goes before the Host field (RFC 9112 section 3.2.2),
/// and so does `:authority` (RFC 9113 section 8.3.1).
fn authority(parts: &Parts) -> Result<String, &'static str> {
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
        Some(host) => match host.to_str() {
            Ok(host) if is_host(host) => Ok(host.to_owned()),
            _ => Err("malformed Host"),
        },
        None if parts.version == Version::HTTP_10 => Ok(String::new()),
        None => Err("no Host"),
    }
}

/// Whether this is a value for Host (RFC 9112 section 3.2): a server must refuse any other.
fn is_host(host: &str) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return host.is_empty() };
    // the library lets any port be
    let port = host.strip_prefix(authority.host());
    port.is_some_and(|port| {
        port.is_empty()
            || port.strip_prefix(':').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// A target in the form of HTTP/2. One without an authority is for the library like a target of
/// HTTP/1.1.
pub(crate) fn http2_target(authority: Option<Authority>, path: PathAndQuery) -> (Uri, Version) {
    if authority.is_none() {
        return (Uri::from(path), Version::HTTP_11);
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = authority;
    uri.path_and_query = Some(path);
    (Uri::from_parts(uri).unwrap_or_default(), Version::HTTP_2)
}

/// Whether the target has a form that its method may have (RFC 9112 section 3.2): a name alone is
/// for CONNECT, `*` for OPTIONS.
fn has_target(parts: &Parts) -> bool {
    let name_alone = parts.uri.authority().is_some() && parts.uri.scheme().is_none();
    (!name_alone || parts.method == Method::CONNECT)
        && (parts.uri.path() != "*" || parts.method == Method::OPTIONS)
}

fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

fn decide(
    view: &View,
    port: &ServicePort,
    call: &Call,
    parts: &Parts,
    authority: &str,
    draw: u32,
) -> Decision {
    let fields: Vec<(&str, &[u8])> =
        parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = beeway_model::Request {
        method: parts.method.as_str(),
        scheme: "http",
        authority,
        target: target(parts),
        headers: &fields,
        source: view.workload_at(call.client.known_by),
    };
    route(port, &request, draw)
}

/// Answers without asking an endpoint. The request's body is read first, as far as that is
/// reasonable: a connection of HTTP/1 is good for further requests only after it.
fn refuse(
    call: &Rc<Call>,
    status: StatusCode,
    text: impl Into<Bytes>,
    asked: Asked,
) -> impl Future<Output = Answer> {
    let (unread, text) = (Unread::of(&asked.parts, &asked.body), text.into());
    let body = asked.body;
    async move {
        unread.drain(body).await;
        answer::own(status, text, call)
    }
}

/// What of a request's body is to be read when no endpoint reads it.
struct Unread {
    /// There is something.
    some: bool,
    /// The client waits until it is told to send it.
    waits: bool,
    /// It is of one request among others.
    http2: bool,
}

impl Unread {
    fn of(parts: &Parts, body: &RequestBody) -> Unread {
        Unread {
            some: !http_body::Body::is_end_stream(body),
            waits: parts.headers.contains_key(header::EXPECT),
            http2: parts.version == Version::HTTP_2,
        }
    }

    /// Reads it as far as that is reasonable. What is left then, the body's source knows.
    async fn drain(self, body: RequestBody) {
        if !self.some || self.waits {
            return;
        }
        let time = if self.http2 { DRAIN_TIME_HTTP2 } else { DRAIN_TIME };
        let rest = Limited::new(body, DRAIN_BYTES).collect();
        let _ = tokio::time::timeout(time, rest).await;
    }
}
