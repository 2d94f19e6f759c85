//! Clients of HTTP/2: some that mean well, and some that do not.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Joined, Way, World, connect};
use crate::dice::Dice;
use crate::endpoint2::send;
use crate::request::{Framed, Request};
use crate::strict::Body;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sends some requests, side by side.
pub async fn talk(world: World, mut dice: Dice) {
    let Some((sender, receiver)) = connect(&world, dice.of(&[Way::Sticky, Way::Socket])).await
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
        calls.spawn_local(call(world.clone(), h2.clone(), Dice(dice.next())));
        if dice.one_in(5) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    drop(h2);
    let patience = dice.one_in(10).then(|| Duration::from_millis(dice.below(40) as u64));
    let all = async { while calls.join_next().await.is_some() {} };
    match patience {
        Some(patience) => drop(tokio::time::timeout(patience, all).await),
        None => all.await,
    }
    driver.abort();
}

fn head_of(request: &Request, dice: &mut Dice) -> Option<http::Request<()>> {
    let uri = format!("http://{}{}", request.host, request.target);
    let mut head = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in &request.fields {
        if name == "cookie" {
            // A cookie may come in pieces.
            for piece in value.split("; ") {
                head = head.header(name, piece);
            }
            continue;
        }
        head = head.header(name, value);
    }
    if request.framed == Framed::Length {
        head = head.header("content-length", request.body.data.len());
    }
    if dice.one_in(6) {
        head = head.header("te", "trailers");
    }
    head.header("x-id", request.id).body(()).ok()
}

/// One request.
async fn call(world: World, h2: SendRequest<Bytes>, mut dice: Dice) {
    let mut request = Request::new(&mut dice);
    let Some(head) = head_of(&request, &mut dice) else { return };
    // What the library makes of the target is what is sent.
    request.target = head.uri().path_and_query().map_or("/".into(), ToString::to_string);
    let trailers = request.framed == Framed::Chunked && dice.one_in(3);
    if trailers {
        request.body.trailers.push(("x-sum".into(), b"42".to_vec()));
    }
    request.announce(&world.scene, &world.ledger);
    world
        .ledger
        .tell(|| format!("{} by HTTP/2 with {} bytes", request.id, request.body.data.len()));
    world.ledger.count("requests");
    let Ok(mut h2) = h2.ready().await else {
        return world.ledger.count("requests without an answer");
    };
    let bare = request.framed == Framed::Bare;
    let Ok((answer, mut stream)) = h2.send_request(head, bare) else {
        return world.ledger.count("requests without an answer");
    };
    drop(h2);
    let resets = dice.one_in(10);
    let mut other = Dice(dice.next());
    let body = async {
        if bare {
            return;
        }
        let some = if resets { other.below(request.body.data.len() + 1) } else { usize::MAX };
        let data = &request.body.data[..some.min(request.body.data.len())];
        if !send(&mut stream, data, !trailers && !resets, &mut other).await {
            return;
        }
        if resets {
            stream.send_reset(other.of(&[
                Reason::CANCEL,
                Reason::NO_ERROR,
                Reason::INTERNAL_ERROR,
            ]));
        } else if trailers {
            let sum = (HeaderName::from_static("x-sum"), HeaderValue::from_static("42"));
            let _ = stream.send_trailers(HeaderMap::from_iter([sum]));
        }
    };
    // Not everybody reads what they asked for.
    let reads = !dice.one_in(12);
    let (answered, ()) = tokio::join!(
        async {
            let Ok(answer) = answer.await else { return false };
            !reads || read(&world, &request, answer).await
        },
        body
    );
    if !answered {
        world.ledger.tell(|| format!("{} has no answer", request.id));
        world.ledger.count("requests without an answer");
    }
}

/// Reads an answer and compares it. False: it was cut off.
async fn read(world: &World, request: &Request, answer: http::Response<h2::RecvStream>) -> bool {
    let (head, mut body) = answer.into_parts();
    let mut whole = Body::default();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return false };
        let _ = body.flow_control().release_capacity(data.len());
        whole.data.extend(&data[..]);
    }
    let Ok(trailers) = body.trailers().await else { return false };
    for (name, value) in trailers.iter().flatten() {
        whole.trailers.push((name.to_string(), value.as_bytes().to_vec()));
    }
    let tags: Vec<&HeaderValue> = head.headers.get_all("x-answer-to").iter().collect();
    let bodiless = request.method == "HEAD";
    let status = head.status.as_u16();
    match tags[..] {
        [] => {
            world.ledger.tell(|| format!("{} is answered by the proxy: {head:?}", request.id));
            world.ledger.count("answers of the proxy");
        }
        [tag] => {
            let tag = String::from_utf8_lossy(tag.as_bytes()).into_owned();
            world.ledger.answered(request.id, &tag, status, bodiless, &whole);
        }
        _ => world.ledger.fault(format!("{} was answered with {head:?}", request.id)),
    }
    true
}

/// Says what no client should, and then goes.
pub async fn attack(world: World, mut dice: Dice) {
    let Some((sender, receiver)) = connect(&world, dice.of(&[Way::Sticky, Way::Socket])).await
    else {
        return world.ledger.fault("the proxy does not take connections");
    };
    world.ledger.count("attacks");
    let mut bytes = PREFACE.to_vec();
    if dice.one_in(8) {
        bytes.truncate(dice.below(bytes.len()));
    }
    bytes.extend(frames(&mut dice, true));
    let (mut read, mut write) = tokio::io::split(Joined { receiver, sender });
    let reads = dice.one_in(2);
    let speak = async {
        for piece in bytes.chunks(dice.between(1, 50_000)) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(30) as u64)).await;
    };
    let swallow = async {
        let mut buffer = vec![0; 65_536];
        while reads && let Ok(1..) = read.read(&mut buffer).await {}
        std::future::pending().await
    };
    tokio::select! {
        () = speak => {}
        () = swallow => {}
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HPACK without compression, of a request to `/r0/` or of an answer.
fn head(asks: bool, more: usize) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let mut bytes = vec![0, name.len() as u8];
        bytes.extend(name.bytes());
        // Up to 127 + 127 * 128 bytes: an integer with one or two more octets.
        match value.len() {
            n @ 0..127 => bytes.push(n as u8),
            n => bytes.extend([127, ((n - 127) % 128) as u8 | 128, ((n - 127) / 128) as u8]),
        }
        bytes.extend(value.bytes());
        bytes
    };
    let known: &[(&str, &str)] = match asks {
        true => &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/nowhere"),
            (":authority", "shop"),
        ],
        false => &[(":status", "200")],
    };
    let mut bytes: Vec<u8> = known.iter().flat_map(|(name, value)| literal(name, value)).collect();
    for _ in 0..more {
        bytes.extend(literal("x-more", &"m".repeat(1000)));
    }
    bytes
}

/// Frames that are legal, too many, or none at all.
pub fn frames(dice: &mut Dice, asks: bool) -> Vec<u8> {
    let times = dice.of(&[1, 10, 300, 1500]);
    let mut bytes = Vec::new();
    let mut next = 1;
    if dice.one_in(10) {
        return (0..dice.below(5000)).map(|_| dice.below(256) as u8).collect();
    }
    for _ in 0..dice.between(1, 6) {
        let kind = dice.below(14);
        for _ in 0..times {
            let stream = next;
            let block = || head(asks, 0);
            bytes.extend(match kind {
                0 => frame(4, 0, 0, &[0, 3, 0, 0, 0, 1, 0, 4, 0, 0, 255, 255]),
                1 => frame(6, 0, 0, &[7; 8]),
                // A request, and taken back at once.
                2 => [frame(1, 5, stream, &block()), frame(3, 0, stream, &[0, 0, 0, 8])].concat(),
                3 => frame(1, 5, stream, &block()),
                // A head without end.
                4 => frame(1, 0, stream, &block()),
                5 => frame(9, 0, next.max(3) - 2, &head(asks, 3)),
                6 => frame(8, 0, 0, &0x7fff_ffffu32.to_be_bytes()),
                7 => frame(8, 0, stream, &[0; 4]),
                8 => frame(0, 0, stream, &[b'd'; 10_000]),
                9 => frame(2, 0, stream, &[0, 0, 0, 0, 1]),
                10 => frame(1, 5, stream, &head(asks, 12)),
                11 => frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, dice.below(14) as u8]),
                12 => frame(4, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
                _ => {
                    let payload: Vec<u8> =
                        (0..dice.below(50)).map(|_| dice.below(256) as u8).collect();
                    frame(
                        dice.below(12) as u8,
                        dice.below(256) as u8,
                        dice.below(9) as u32,
                        &payload,
                    )
                }
            });
            if matches!(kind, 2..=4 | 10) {
                next += 2;
            }
        }
    }
    bytes
}
