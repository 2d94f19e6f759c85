//! Bodies that are sent more than once, or to more than one endpoint, and requests that end early.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::channel;
use std::time::Duration;

use beeway_model::policy::{Fraction, Mirror, Retry};
use beeway_model::{ClusterId, Endpoint, Mesh, Policy, Protocol, Rule};
use http_body_util::BodyExt;

use crate::kit::{Kit, forward, mesh, rule};
use crate::upstream::{self, full, pattern, status};

/// A mesh of two clusters with one rule for all to the first, which has this policy.
fn two(endpoints: [SocketAddr; 2], protocols: [Protocol; 2], policy: Policy) -> Mesh {
    let mut rule = rule("/", forward(&[(0, 1)]));
    rule.policy = Some(policy.into());
    let mut mesh = mesh(&endpoints, Some(vec![rule]));
    mesh.clusters[0].protocol = protocols[0];
    mesh.clusters[1].protocol = protocols[1];
    mesh
}

fn http2(endpoint: SocketAddr, policy: Policy) -> Mesh {
    two([endpoint, endpoint], [Protocol::Http2, Protocol::Http2], policy)
}

fn again_after_503() -> Policy {
    let retry =
        Retry { statuses: vec![503], backoff: Duration::from_millis(1), ..Retry::default() };
    Policy { retry: Some(retry), ..Policy::default() }
}

fn mirroring(to: usize) -> Policy {
    let mirror = Mirror { cluster: Some(ClusterId(to)), share: Fraction::ALL };
    // Zero: no limit.
    Policy { mirrors: vec![mirror], timeout: Some(Duration::ZERO), ..Policy::default() }
}

/// Sends a body in pieces of a kilobyte, each of which is read by itself.
fn upload(kit: &mut Kit, cookie: u64, data: &[u8]) {
    let head = format!("PUT / HTTP/1.1\r\nHost: shop\r\ncontent-length: {}\r\n\r\n", data.len());
    let mut sent = kit.proxy.stats().bytes_in + head.len() as u64;
    kit.request(cookie, head);
    for piece in data.chunks(1000) {
        kit.eventually(|stats| stats.bytes_in == sent);
        sent += piece.len() as u64;
        kit.send(cookie, 0, piece);
    }
}

#[test]
fn a_body_is_whole_although_the_answer_begins_before_it_has_been_sent_again() {
    let address = upstream::scripted(1000, |nth, request| async move {
        match nth {
            0 => status(204),
            1 => {
                request.into_body().collect().await.unwrap();
                status(503)
            }
            _ => upstream::Answer::new(request.into_body().boxed()),
        }
    });
    let mut kit = Kit::new(http2(address, again_after_503()));
    // The small window of the endpoint is known from now on.
    assert_eq!(kit.get(1, "/").status, 204);
    let data = pattern(20_000);
    upload(&mut kit, 1, &data);
    let answer = kit.answer(1);
    assert_eq!(answer.status, 200);
    assert!(answer.unchunked_or_plain() == data);
    assert_eq!(kit.proxy.stats().retries, 1);
}

#[test]
fn a_try_that_was_answered_reads_no_more_of_the_body() {
    let (ended, end) = channel();
    let address = upstream::scripted(1000, move |nth, request| {
        let ended = ended.clone();
        async move {
            let body = request.into_body();
            match nth {
                0 => status(204),
                1 => {
                    tokio::spawn(async move { ended.send(body.collect().await.is_ok()).unwrap() });
                    status(503)
                }
                _ => full(body.collect().await.unwrap().to_bytes()),
            }
        }
    });
    let mut kit = Kit::new(http2(address, again_after_503()));
    assert_eq!(kit.get(1, "/").status, 204);
    let data = pattern(30_000);
    upload(&mut kit, 1, &data);
    let answer = kit.answer(1);
    assert_eq!(answer.status, 200);
    assert!(answer.unchunked_or_plain() == data);
    assert!(!end.recv_timeout(Duration::from_secs(8)).unwrap(), "the first try was reset");
}

#[test]
fn a_body_in_tiny_chunks_is_not_kept() {
    let address = upstream::scripted(1 << 20, |_, request| async move {
        request.into_body().collect().await.unwrap();
        status(503)
    });
    let mut kit = Kit::new(http2(address, again_after_503()));
    kit.request(1, "PUT / HTTP/1.1\r\nHost: shop\r\ntransfer-encoding: chunked\r\n\r\n");
    kit.send(1, 0, "1\r\nx\r\n".repeat(2000));
    kit.send(1, 0, "0\r\n\r\n");
    assert_eq!(kit.answer(1).status, 503);
    assert_eq!(kit.proxy.stats().retries, 0);
}

#[test]
fn time_runs_out_although_somebody_else_has_read_the_body() {
    let address = upstream::scripted(1 << 20, |_, request| async move {
        request.into_body().collect().await.unwrap();
        std::future::pending().await
    });
    let policy = Policy { timeout: Some(Duration::from_millis(100)), ..Policy::default() };
    let (mut kit, records) = Kit::recording(http2(address, policy));
    upload(&mut kit, 1, &pattern(3000));
    assert_eq!(kit.answer(1).status, 504);
    assert_eq!(records.recv().unwrap().flags.to_string(), "UT");
}

#[test]
fn a_broken_body_is_the_clients_fault() {
    let (ended, end) = channel();
    let address = upstream::scripted(1 << 20, move |_, request| {
        let ended = ended.clone();
        async move {
            ended.send(request.into_body().collect().await.is_ok()).unwrap();
            status(200)
        }
    });
    let policy = Policy {
        retry: Some(Retry { on: vec![beeway_model::policy::RetryOn::Reset], ..Retry::default() }),
        ..Policy::default()
    };
    let (mut kit, records) = Kit::recording(http2(address, policy));
    kit.request(1, "PUT / HTTP/1.1\r\nHost: shop\r\ntransfer-encoding: chunked\r\n\r\n");
    // The request is under way before its body turns out to be none.
    kit.eventually(|stats| stats.upstream_connections == 1);
    kit.send(1, 0, "not a chunk\r\n\r\n");
    assert_eq!(kit.answer(1).status, 400);
    let record = records.recv().unwrap();
    assert_eq!((record.flags.to_string().as_str(), record.attempts), ("DPE", 1));
    assert!(!end.recv_timeout(Duration::from_secs(8)).unwrap(), "it has no end");
}

#[test]
fn a_mirror_ends_with_the_request_that_it_copies() {
    let (ended, end) = channel();
    let shadow = upstream::raw(move |mut socket| {
        let head = upstream::head(&mut socket);
        let mut body = Vec::new();
        let _ = socket.read_to_end(&mut body);
        ended.send((head, body)).unwrap();
    });
    let [one, two_] = [upstream::http("one"), shadow];
    let mut kit = Kit::new(two([one, two_], [Protocol::Http; 2], mirroring(1)));
    kit.request(1, "PUT /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: 10\r\n\r\nhalf");
    kit.eventually(|stats| stats.upstream_connections == 2);
    kit.proxy.client_closed(1);
    let (head, body) = end.recv_timeout(Duration::from_secs(8)).expect("the copy was broken off");
    assert!(head.contains("Host: shop\r\n"), "{head}");
    assert_eq!(body, b"half");
    kit.eventually(|stats| stats.upstream_connections == 0);
}

#[test]
fn mirrors_may_speak_another_version() {
    let (seen, copy) = channel();
    let copied = seen.clone();
    let two_ = upstream::scripted(1 << 20, move |_, request| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            seen.send((format!("{} {:?}", parts.uri, parts.headers), body.to_vec())).unwrap();
            full("two".into())
        }
    });
    let one = upstream::raw(move |mut socket| {
        let head = upstream::head(&mut socket);
        let mut body = [0; 14];
        socket.read_exact(&mut body).unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none").unwrap();
        copied.send((head, body.to_vec())).unwrap();
    });
    let request = "PUT /a?b HTTP/1.1\r\nHost: shop\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    for main in [0, 1] {
        let mut protocols = [Protocol::Http; 2];
        protocols[1 - main] = Protocol::Http2;
        let endpoints = if main == 0 { [one, two_] } else { [two_, one] };
        let mut kit = Kit::new(two(endpoints, protocols, mirroring(1)));
        kit.request(1, request);
        assert_eq!(kit.answer(1).text(), ["one", "two"][main]);
        for _ in 0..2 {
            let (head, body) = copy.recv_timeout(Duration::from_secs(8)).unwrap();
            if head.starts_with("http://shop/a?b ") {
                assert!(!head.contains("\"host\"") && !head.contains("transfer"), "{head}");
                assert_eq!(body, b"body");
            } else {
                assert!(head.starts_with("PUT /a?b HTTP/1.1\r\n"), "{head}");
                assert!(head.to_lowercase().contains("\r\nhost: shop\r\n"), "{head}");
                assert!(
                    head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n"),
                    "{head}"
                );
                assert_eq!(body, b"4\r\nbody\r\n0\r\n\r\n");
            }
        }
    }
}

#[test]
fn what_went_well_is_not_flagged() {
    let (mut kit, records) = Kit::recording(mesh(&[upstream::http("one")], None));
    kit.request(1, "GET /trailers HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\n\r\n");
    assert_eq!(kit.answer(1).status, 200);
    let record = records.recv().unwrap();
    assert_eq!((record.flags.to_string().as_str(), record.sent), ("-", 4));

    let address = upstream::raw(|mut socket| {
        upstream::head(&mut socket);
        let accept =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        socket.write_all(accept.as_bytes()).unwrap();
    });
    let (mut kit, records) = Kit::recording(mesh(&[address], None));
    kit.request(
        1,
        "GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let record = records.recv_timeout(Duration::from_secs(8)).unwrap();
    assert_eq!((record.flags.to_string().as_str(), record.status), ("-", 101));
}

#[test]
fn clients_that_go_are_counted_with_or_without_records() {
    let address = upstream::raw(|mut socket| {
        upstream::head(&mut socket);
        let _ = socket.read(&mut [0]);
    });
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.eventually(|stats| stats.upstream_connections == 1);
    kit.proxy.client_closed(1);
    let gone = beeway_proxy::Flags::ALL.iter().position(|(_, letters)| *letters == "DC").unwrap();
    kit.eventually(|stats| stats.flags[gone] == 1);
}

/// An endpoint that nobody listens at.
fn absent() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

#[test]
fn a_copy_does_not_take_the_place_of_its_request() {
    // The copy comes first, since the request tries another endpoint before, and waits for what
    // the request reads.
    let address = upstream::narrow(65_535, 1, |_, request| async move {
        full(request.into_body().collect().await.unwrap().to_bytes())
    });
    let retry = Retry { backoff: Duration::from_millis(1), ..Retry::default() };
    let policy = Policy { retry: Some(retry), ..mirroring(1) };
    let mut mesh = http2(address, policy);
    let there = mesh.clusters[0].endpoints[0].clone();
    let absent = Endpoint { weight: 1 << 20, address: self::absent(), ..there.clone() };
    mesh.clusters[0].endpoints = [there, absent].into();
    let mut kit = Kit::new(mesh);
    for cookie in 1..=3 {
        kit.request(cookie, "PUT / HTTP/1.1\r\nHost: shop\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(kit.answer(cookie).body, b"hello");
    }
}

#[test]
fn time_runs_while_an_endpoint_has_no_room_for_a_request() {
    let (held, holds) = channel();
    let address = upstream::narrow(65_535, 1, move |nth, _| {
        let held = held.clone();
        async move {
            if nth == 1 {
                held.send(()).unwrap();
                std::future::pending().await
            }
            status(204)
        }
    });
    let mut mesh = http2(address, Policy::default());
    let timeout = Some(Duration::from_millis(50));
    let hurried = Policy { timeout, ..Policy::default() };
    let hurried = Rule { policy: Some(hurried.into()), ..rule("/hurried", forward(&[(0, 1)])) };
    mesh.services[0].ports[0].rules.as_mut().unwrap().insert(0, hurried);
    let mut kit = Kit::new(mesh);
    // Now it is known that there is room for one.
    assert_eq!(kit.get(1, "/").status, 204);
    kit.request(2, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    holds.recv().unwrap();
    kit.request(1, "PUT /hurried HTTP/1.1\r\nHost: shop\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(kit.answer(1).status, 504);
}
