//! Clients of HTTP/2: some that mean well, and some that do not.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{World, answered_by_proxy};
use crate::request::{Framed, Request};
use crate::strict::Body;
use crate::way::{Joined, Way, connect};
use beeway_model::testing::Dice;

/// Sends some requests, side by side.
pub async fn talk(world: World, mut dice: Dice) {
    let Ok((sender, receiver)) = connect(&world.bed, dice.of(&[Way::Sticky, Way::Socket])).await
    else {
        return world.ledger.fault("the proxy does not take connections");
    };
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(dice.of(&[65_535, 100_000, 1 << 20]));
    let Ok((h2, connection)) = builder.handshake::<_, Bytes>(Joined { receiver, sender }).await
    else {
        return world.ledger.fault("no handshake of HTTP/2");
    };
    let driver = tokio::task::spawn_local(async move { drop(connection.await) });
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..dice.between(1, 10) {
        calls.spawn_local(call(world.clone(), h2.clone(), Dice(dice.bits())));
    }
    drop(h2);
    let limit = if dice.one_in(10) { dice.below(40) as u64 } else { 60_000 };
    let all = async { while calls.join_next().await.is_some() {} };
    drop(tokio::time::timeout(Duration::from_millis(limit), all).await);
    driver.abort();
}

fn head_of(request: &Request, dice: &mut Dice) -> Option<http::Request<()>> {
    let uri = format!("http://{}{}", request.host, request.target);
    let mut head = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in &request.fields {
        // A cookie may come in pieces.
        let pieces = if name == "cookie" { "; " } else { "\0" };
        head = value.split(pieces).fold(head, |head, piece| head.header(name, piece));
    }
    if request.framed == Framed::Length {
        head = head.header("content-length", request.body.data.len());
    }
    if dice.one_in(6) {
        head = head.header("te", "trailers");
    }
    head.header("x-id", request.id).body(()).ok()
}

/// One request. Some take it back, some do not read the answer.
async fn call(world: World, h2: SendRequest<Bytes>, mut dice: Dice) {
    let mut request = Request::new(&mut dice, false);
    let Some(head) = head_of(&request, &mut dice) else { return };
    // What the library makes of the target is what is sent.
    request.target = head.uri().path_and_query().map_or("/".into(), ToString::to_string);
    let mut trailers = None;
    if request.framed == Framed::Chunked && dice.one_in(3) {
        request.body.trailers.push(("x-sum".into(), b"42".to_vec()));
        trailers = Some(fields(&[("x-sum", "42")]));
    }
    request.announce(&world.scene, &world.ledger);
    world.ledger.tell(|| format!("{} by HTTP/2", request.id));
    world.ledger.count("requests");
    let (bare, reset) = (request.framed == Framed::Bare, dice.one_in(10));
    let kept = if reset { dice.below(request.body.data.len() + 1) } else { usize::MAX };
    let reads = !dice.one_in(12);
    let exchange = async {
        let (answer, mut stream) = h2.ready().await.ok()?.send_request(head, bare).ok()?;
        let data = &request.body.data[..kept.min(request.body.data.len())];
        let body = async {
            if !bare && send(&mut stream, data, trailers, !reset, &mut dice).await && reset {
                stream.send_reset(dice.of(&[Reason::CANCEL, Reason::NO_ERROR]));
            }
        };
        let answered = async {
            let (head, mut body) = answer.await.ok()?.into_parts();
            let whole = if reads { Some(collect(&mut body).await?) } else { None };
            Some((head, whole))
        };
        tokio::join!(answered, body).0
    };
    match exchange.await {
        Some((head, Some(whole))) => judge(&world, &request, &head, &whole),
        Some((_, None)) => {}
        None => {
            world.ledger.tell(|| format!("{} has no answer", request.id));
            world.ledger.count("requests without an answer");
        }
    }
}

/// A whole answer has come.
fn judge(world: &World, request: &Request, head: &http::response::Parts, whole: &Body) {
    let tags: Vec<&HeaderValue> = head.headers.get_all("x-answer-to").iter().collect();
    let status = head.status.as_u16();
    match tags[..] {
        [] => answered_by_proxy(world, request.id, status, &whole.data),
        [tag] => {
            let tag = String::from_utf8_lossy(tag.as_bytes());
            world.ledger.answered(request.id, &tag, status, request.method == "HEAD", whole);
        }
        _ => world.ledger.fault(format!("{} was answered with {head:?}", request.id)),
    }
}

/// Fields of a head, or trailers.
pub fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(field).collect()
}

/// All of a body; `None` when it is cut off.
pub async fn collect(body: &mut RecvStream) -> Option<Body> {
    let mut whole = Body::default();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        let _ = body.flow_control().release_capacity(data.len());
        whole.data.extend(&data[..]);
    }
    for (name, value) in body.trailers().await.ok()?.iter().flatten() {
        whole.trailers.push((name.to_string(), value.as_bytes().to_vec()));
    }
    body.is_end_stream().then_some(whole)
}

/// Sends a body as the other side lets it. False: the other side does not want it.
pub async fn send(
    stream: &mut SendStream<Bytes>,
    data: &[u8],
    trailers: Option<HeaderMap>,
    ends: bool,
    dice: &mut Dice,
) -> bool {
    let mut rest = data;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(dice.of(&[1, 100, 100_000])));
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return false;
        };
        let (piece, after) = rest.split_at(room.min(rest.len()));
        if stream.send_data(Bytes::copy_from_slice(piece), false).is_err() {
            return false;
        }
        rest = after;
    }
    match trailers {
        Some(trailers) if ends => stream.send_trailers(trailers).is_ok(),
        _ => !ends || stream.send_data(Bytes::new(), true).is_ok(),
    }
}

/// Says what no client should, and then goes.
pub async fn attack(world: World, mut dice: Dice) {
    let Ok((sender, receiver)) = connect(&world.bed, dice.of(&[Way::Sticky, Way::Socket])).await
    else {
        return world.ledger.fault("the proxy does not take connections");
    };
    world.ledger.count("attacks");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.truncate(if dice.one_in(8) { dice.below(24) } else { 24 });
    bytes.extend(frames(&mut dice));
    babble(Joined { receiver, sender }, &bytes, &mut dice).await;
}

/// Says something in pieces, and closes after a while, whatever the other side says.
pub async fn babble<S>(socket: S, bytes: &[u8], dice: &mut Dice)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let (mut read, mut write) = tokio::io::split(socket);
    let speak = async {
        for piece in bytes.chunks(dice.between(1, 50_000)) {
            if write.write_all(piece).await.is_err() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(40) as u64)).await;
    };
    let swallow = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(1..) = read.read(&mut buffer).await {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = speak => {}
        () = swallow => {}
    }
}

/// Frames that are legal, too many, or none at all; settings come first.
pub fn frames(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (times, mut stream) = (dice.of(&[1, 10, 1500]), 1_u32);
    // By static table and literals: GET, http, /, shop.
    let head = [&[0x82, 0x86, 0x84, 0x41, 4][..], b"shop"].concat();
    for _ in 0..dice.between(1, 6) {
        let noise: Vec<u8> = (0..dice.below(60)).map(|_| dice.below(256) as u8).collect();
        // Kind, flags and payload: a request, one without end, data, priority, reset, settings,
        // ping, GOAWAY, window, continuation, and what there is not.
        let (kind, flags, payload): (u8, u8, &[u8]) = match dice.below(14) {
            0 | 1 => (1, 5, &head),
            2 => (1, 0, &head),
            3 => (0, 0, &[b'd'; 10_000]),
            4 => (2, 0, &[0, 0, 0, 0, 1]),
            5 => (3, 0, &[0, 0, 0, 8]),
            6 => (4, 0, &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
            7 => (6, 0, &[7; 8]),
            8 => (7, 0, &[0; 8]),
            9 => (8, 0, &[0x7f, 0xff, 0xff, 0xff]),
            10 => (9, 0, &head),
            _ => (dice.below(12) as u8, dice.below(256) as u8, &noise),
        };
        for _ in 0..times {
            let length = (payload.len() as u32).to_be_bytes();
            bytes.extend([length[1], length[2], length[3], kind, flags]);
            let of_connection = matches!(kind, 4 | 6 | 7) || (kind == 8 && stream % 4 == 1);
            bytes.extend(if of_connection { [0; 4] } else { stream.to_be_bytes() });
            bytes.extend(payload);
            stream += if kind == 1 { 2 } else { 0 };
        }
    }
    bytes
}
