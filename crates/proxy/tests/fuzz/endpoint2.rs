//! Endpoints of HTTP/2.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::client2::{babble, collect, fields, frames, send};
use crate::endpoint::{Kind, Place, SILENCE};
use crate::ledger::{Sent, Shown};
use crate::plan::{Reads, filler};
use crate::strict::Body;
use beeway_model::testing::Dice;

const REASONS: [Reason; 8] = [
    Reason::NO_ERROR,
    Reason::PROTOCOL_ERROR,
    Reason::INTERNAL_ERROR,
    Reason::FLOW_CONTROL_ERROR,
    Reason::REFUSED_STREAM,
    Reason::CANCEL,
    Reason::ENHANCE_YOUR_CALM,
    Reason::HTTP_1_1_REQUIRED,
];

/// One connection, the nth of its endpoint.
pub async fn serve(socket: TcpStream, place: Place, nth: u64) {
    let mut dice = place.dice(&nth.to_string(), "connection");
    if place.kind == Kind::Garbage2 {
        let bytes = frames(&mut dice);
        return babble(socket, &bytes, &mut dice).await;
    }
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(dice.of(&[65_535, 1 << 20]));
    // Heads much larger than 16 KiB, and bodies in tiny pieces, end a connection otherwise.
    builder.max_header_list_size(1 << 20).data_frame_budget(1 << 30);
    let mut most = usize::MAX;
    if place.kind == Kind::Hostile2 {
        // Until the proxy knows, it may send more, which are refused.
        builder.max_concurrent_streams(dice.of(&[1, 2, 100]));
        most = dice.between(1, 20);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    let mut count = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        place.ledger.count("requests at endpoints");
        tokio::task::spawn_local(answer(request, respond, place.clone()));
        count += 1;
        if count == most {
            match dice.below(3) {
                0 => return,
                1 => connection.abrupt_shutdown(dice.of(&REASONS)),
                _ => connection.graceful_shutdown(),
            }
        }
    }
}

/// What an endpoint says, and where it stops.
#[derive(Debug)]
struct Plan2 {
    reads: Reads,
    status: u16,
    head: HeaderMap,
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    stop: Option<Stop>,
    shown: Shown,
}

/// Something else instead of the end.
#[derive(Debug, Clone, Copy)]
enum Stop {
    BeforeHead(Reason),
    /// After so many bytes.
    After(usize, Reason),
    Silence,
}

impl Plan2 {
    fn new(dice: &mut Dice, tag: &str, head: bool, honest: bool) -> Plan2 {
        let status = dice.of(&[200, 200, 200, 200, 204, 304, 404, 503, 599]);
        let bodiless = head || matches!(status, 204 | 304);
        let data = if bodiless { Vec::new() } else { filler(dice, tag) };
        let mut answer = fields(&[("x-answer-to", tag), ("server", "stranger")]);
        let mut body = Body { data: data.clone(), trailers: Vec::new() };
        let mut trailers = None;
        match dice.below(4) {
            0 if !bodiless => {
                trailers = Some(fields(&[("x-sum", "42"), ("grpc-status", "0")]));
                let named = |(name, value): (&str, &str)| (name.into(), value.into());
                body.trailers = [("x-sum", "42"), ("grpc-status", "0")].map(named).into();
            }
            1 => drop(answer.insert("content-length", data.len().into())),
            2 => drop(answer.insert("grpc-status", dice.of(&[0, 1, 14]).into())),
            _ => {}
        }
        let (head, shown) = (answer, Shown::Whole(status, body));
        let reads = Reads::First;
        let mut plan = Plan2 { reads, status, head, data, trailers, stop: None, shown };
        if !honest {
            plan.spoil(dice, bodiless);
        }
        plan
    }

    fn spoil(&mut self, dice: &mut Dice, bodiless: bool) {
        self.reads = dice.of(&[Reads::First, Reads::First, Reads::Later, Reads::Never]);
        let reason = dice.of(&REASONS);
        match dice.below(8) {
            0 => self.stop = Some(Stop::BeforeHead(reason)),
            1 => self.stop = Some(Stop::After(dice.below(self.data.len() + 1), reason)),
            2 => self.stop = Some(Stop::Silence),
            3 if !bodiless => {
                self.head.insert("content-length", (self.data.len() + 1).into());
            }
            4 => self.status = 101,
            _ => return,
        }
        // With its head alone such an answer may be whole.
        self.shown = if bodiless { Shown::Any } else { Shown::Part };
    }

    async fn speak(self, mut respond: SendResponse<Bytes>, dice: &mut Dice) {
        let (most, reason) = match self.stop {
            Some(Stop::BeforeHead(reason)) => return respond.send_reset(reason),
            Some(Stop::Silence) => {
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx));
                let _ = tokio::time::timeout(SILENCE, reset).await;
                return respond.send_reset(Reason::CANCEL);
            }
            Some(Stop::After(most, reason)) => (most, Some(reason)),
            None => (self.data.len(), None),
        };
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(self.status).expect("a status");
        *head.headers_mut() = self.head;
        let bare = self.data.is_empty() && self.trailers.is_none() && reason.is_none();
        let Ok(mut stream) = respond.send_response(head, bare) else { return };
        let (data, ends) = (&self.data[..most], reason.is_none());
        if !bare
            && send(&mut stream, data, self.trailers, ends, dice).await
            && let Some(reason) = reason
        {
            stream.send_reset(reason);
        }
    }
}

/// Answers one request.
async fn answer(request: Request<RecvStream>, respond: SendResponse<Bytes>, place: Place) {
    let (parts, mut body) = request.into_parts();
    let text = |name: &str| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (id, attempt) = (text("x-id"), text("x-envoy-attempt-count"));
    let host = parts.uri.authority().map_or("", |authority| authority.as_str());
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let forbidden = ["host", "connection", "keep-alive", "x-hop", "expect", "transfer-encoding"];
    let stayed = forbidden.iter().any(|name| parts.headers.contains_key(*name));
    if stayed || attempt.is_empty() || parts.uri.scheme_str() != Some("http") {
        place.ledger.fault(format!("{id} came with {parts:?}"));
    }
    let Some(sent) = place.ledger.arrived(&id, parts.method.as_str(), (target, host)) else {
        return;
    };
    let mut dice = place.dice(&id, &attempt);
    let tag = place.tag(&id, &attempt);
    let head = parts.method == http::Method::HEAD;
    let plan = Plan2::new(&mut dice, &tag, head, place.kind == Kind::Honest2);
    place.ledger.answer(tag, plan.shown.clone());
    let reads = plan.reads;
    if reads == Reads::First && !read(&place, &id, &sent, &mut body).await {
        return;
    }
    let spoken = plan.speak(respond, &mut dice);
    if reads == Reads::Later {
        // The proxy sends on while it is answered.
        tokio::join!(read(&place, &id, &sent, &mut body), spoken);
    } else {
        spoken.await;
    }
}

/// Whether the body was whole.
async fn read(place: &Place, id: &str, sent: &Sent, body: &mut RecvStream) -> bool {
    let whole = collect(body).await;
    if let Some(whole) = &whole {
        place.ledger.body(id, sent, whole);
    }
    whole.is_some()
}
