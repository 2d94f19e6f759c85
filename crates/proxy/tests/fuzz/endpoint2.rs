//! Endpoints of HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client2::frames;
use crate::dice::Dice;
use crate::endpoint::{Kind, Place};
use crate::ledger::{Sent, Shown};
use crate::plan::Reads;
use crate::strict::Body;

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
        return babble(socket, dice).await;
    }
    let hostile = place.kind == Kind::Hostile2;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(dice.of(&[65_535, 1 << 20]));
    builder.max_concurrent_streams(dice.of(&[1, 2, 100]));
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    let mut left = if hostile { dice.between(1, 20) } else { usize::MAX };
    while let Some(Ok((request, respond))) = connection.accept().await {
        place.ledger.count("requests at endpoints");
        tokio::task::spawn_local(answer(request, respond, place.clone()));
        left -= 1;
        if left == 0 {
            match dice.below(3) {
                0 => return,
                1 => connection.abrupt_shutdown(dice.of(&REASONS)),
                _ => connection.graceful_shutdown(),
            }
        }
    }
}

/// Frames that make sense, or none.
async fn babble(mut socket: TcpStream, mut dice: Dice) {
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    bytes.extend(frames(&mut dice, false));
    let (mut read, mut write) = socket.split();
    // Otherwise what the proxy has not been asked for would reset the connection.
    let mut buffer = vec![0; 65_536];
    let swallow = async { while let Ok(1..) = read.read(&mut buffer).await {} };
    let speak = async {
        for piece in bytes.chunks(dice.between(1, 5000)) {
            if write.write_all(piece).await.is_err() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(50) as u64)).await;
    };
    tokio::select! {
        () = swallow => {}
        () = speak => {}
    }
}

/// What an endpoint says, and where it stops.
struct Plan2 {
    reads: Reads,
    head: HeaderMap,
    status: u16,
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    stop: Option<Stop>,
    shown: Shown,
}

/// Something else instead of the end.
#[derive(Clone, Copy)]
enum Stop {
    BeforeHead(Reason),
    /// After so many bytes.
    After(usize, Reason),
    Silence,
}

fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(field).collect()
}

impl Plan2 {
    fn new(dice: &mut Dice, tag: &str, head: bool, honest: bool) -> Plan2 {
        let status = dice.of(&[200, 200, 200, 200, 204, 304, 404, 503, 599]);
        let bodiless = head || matches!(status, 204 | 304);
        let length = if bodiless { 0 } else { dice.of(&[0, 10, 300, 20_000, 150_000]) };
        let data: Vec<u8> = tag.bytes().chain(*b" and so on ").cycle().take(length).collect();
        let mut answer = fields(&[("x-answer-to", tag), ("server", "stranger")]);
        let mut trailers = None;
        match dice.below(4) {
            0 if !bodiless => {
                let given = fields(&[("x-sum", "42"), ("grpc-status", "0"), ("x-more", "1")]);
                trailers = Some(given);
            }
            1 => {
                answer.insert("content-length", data.len().into());
            }
            2 => {
                answer.insert("grpc-status", dice.of(&[0, 1, 14]).into());
            }
            _ => {}
        }
        let named = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.as_bytes().to_vec())
        };
        let body =
            Body { data: data.clone(), trailers: trailers.iter().flatten().map(named).collect() };
        let shown = Shown::Whole(status, body);
        let reads = Reads::First;
        let mut plan = Plan2 { reads, head: answer, status, data, trailers, stop: None, shown };
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
                self.shown = Shown::Part;
            }
            4 => self.status = 101,
            _ => return,
        }
        if self.stop.is_some() || self.status == 101 {
            self.shown = Shown::Part;
        }
        // With its head alone such an answer may be whole.
        if bodiless {
            self.shown = Shown::Any;
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
    let reads = Reading { place: &place, id: &id, sent: &sent };
    if plan.reads == Reads::First && !reads.all(&mut body).await {
        return;
    }
    let spoken = plan.speak(respond, &mut dice);
    if plan.reads == Reads::Later {
        // The proxy sends on while it is answered.
        let (_, ()) = tokio::join!(reads.all(&mut body), spoken);
    } else {
        spoken.await;
    }
}

struct Reading<'a> {
    place: &'a Place,
    id: &'a str,
    sent: &'a Sent,
}

impl Reading<'_> {
    async fn all(&self, body: &mut RecvStream) -> bool {
        let mut whole = Body::default();
        while let Some(data) = body.data().await {
            let Ok(data) = data else { return false };
            let _ = body.flow_control().release_capacity(data.len());
            whole.data.extend(&data[..]);
        }
        let Ok(trailers) = body.trailers().await else { return false };
        if !body.is_end_stream() {
            return false;
        }
        for (name, value) in trailers.iter().flatten() {
            whole.trailers.push((name.to_string(), value.as_bytes().to_vec()));
        }
        self.place.ledger.body(self.id, self.sent, &whole);
        true
    }
}

impl Plan2 {
    async fn speak(&self, mut respond: SendResponse<Bytes>, dice: &mut Dice) {
        match self.stop {
            Some(Stop::BeforeHead(reason)) => return respond.send_reset(reason),
            Some(Stop::Silence) => {
                // Time limits begin when the client has sent everything, which it cannot as long
                // as the endpoint does not read.
                let time =
                    Duration::from_millis(if self.reads == Reads::Never { 300 } else { 60_000 });
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx));
                let _ = tokio::time::timeout(time, reset).await;
                return respond.send_reset(Reason::CANCEL);
            }
            _ => {}
        }
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(self.status).expect("a status");
        head.headers_mut().clone_from(&self.head);
        let bare = self.data.is_empty() && self.trailers.is_none() && self.stop.is_none();
        let Ok(mut stream) = respond.send_response(head, bare) else { return };
        if bare {
            return;
        }
        let (most, reason) = match self.stop {
            Some(Stop::After(most, reason)) => (most, Some(reason)),
            _ => (self.data.len(), None),
        };
        let last = self.trailers.is_none() && reason.is_none();
        if !send(&mut stream, &self.data[..most], last, dice).await {
            return;
        }
        match (reason, &self.trailers) {
            (Some(reason), _) => stream.send_reset(reason),
            (None, Some(trailers)) => drop(stream.send_trailers(trailers.clone())),
            (None, None) => {}
        }
    }
}

/// Sends a body as the other side lets it. False: the other side does not want it.
pub async fn send(
    stream: &mut SendStream<Bytes>,
    data: &[u8],
    last: bool,
    dice: &mut Dice,
) -> bool {
    let mut rest = data;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(dice.of(&[1, 100, 100_000])));
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return false;
        };
        let (piece, after) = rest.split_at(room.min(rest.len()));
        let ends = last && after.is_empty();
        if stream.send_data(Bytes::copy_from_slice(piece), ends).is_err() {
            return false;
        }
        rest = after;
    }
    !(last && data.is_empty()) || stream.send_data(Bytes::new(), true).is_ok()
}
