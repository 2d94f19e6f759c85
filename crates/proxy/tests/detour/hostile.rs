//! What a client, an endpoint or a rule says must not change where messages begin and end.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};

use beeway_model::policy::HeaderEdits;
use beeway_model::{Mesh, Policy, Protocol};

use crate::kit::{Kit, forward, mesh, rule};
use crate::upstream;

/// An endpoint that hands over what it reads until the client pauses, and answers 200.
fn listening() -> (SocketAddr, Receiver<String>) {
    let (seen, requests) = channel();
    let address = upstream::raw(move |mut socket| {
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let mut bytes = upstream::head(&mut socket).into_bytes();
        let mut rest = [0; 4096];
        while let Ok(n @ 1..) = socket.read(&mut rest) {
            bytes.extend_from_slice(&rest[..n]);
        }
        seen.send(String::from_utf8(bytes).unwrap()).unwrap();
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    (address, requests)
}

fn set(fields: &[(&str, &str)]) -> HeaderEdits {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    HeaderEdits { set: fields.iter().map(owned).collect(), ..HeaderEdits::default() }
}

/// A mesh with one rule for all, which has this policy.
fn with_policy(endpoint: SocketAddr, policy: Policy) -> Mesh {
    let mut rule = rule("/", forward(&[(0, 1)]));
    rule.policy = Some(policy.into());
    mesh(&[endpoint], Some(vec![rule]))
}

fn speaking_http2(mut mesh: Mesh) -> Mesh {
    mesh.clusters[0].protocol = Protocol::Http2;
    mesh
}

#[test]
fn a_get_keeps_its_body() {
    let (address, requests) = listening();
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(
        1,
        "GET / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    );
    let request = requests.recv().unwrap();
    assert!(request.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "{request}");
    assert!(request.contains("Transfer-Encoding: chunked\r\n"), "{request}");
    assert_eq!(kit.answer(1).status, 200);
}

#[test]
fn rules_do_not_change_framing() {
    let (address, requests) = listening();
    let edits = set(&[
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("connection", "close, x-other"),
        ("upgrade", "websocket"),
        ("x-mine", "yes"),
    ]);
    let policy = Policy {
        request_headers: HeaderEdits {
            remove: vec!["content-length".into(), "host".into()],
            add: vec![("content-length".into(), "4".into())],
            ..edits.clone()
        },
        response_headers: edits,
        ..Policy::default()
    };
    let mut kit = Kit::new(with_policy(address, policy));
    kit.request(1, "PUT / HTTP/1.1\r\nHost: shop\r\ncontent-length: 5\r\n\r\nabcde");
    let request = requests.recv().unwrap();
    assert!(
        request.starts_with("PUT / HTTP/1.1\r\nHost: shop\r\ncontent-length: 5\r\n"),
        "{request}"
    );
    assert!(request.ends_with("x-mine: yes\r\n\r\nabcde"), "{request}");
    assert_eq!(request.matches("content-length").count(), 1, "{request}");
    let answer = kit.answer(1);
    assert_eq!(answer.head, "HTTP/1.1 200 OK\r\nx-mine: yes\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn a_rule_that_sets_host_sets_the_authority() {
    let policy = Policy { request_headers: set(&[("host", "other")]), ..Policy::default() };
    let (address, requests) = listening();
    let mut kit = Kit::new(with_policy(address, policy.clone()));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    let request = requests.recv().unwrap();
    assert!(request.starts_with("GET / HTTP/1.1\r\nHost: other\r\n"), "{request}");
    assert_eq!(kit.answer(1).status, 200);
    let mut kit = Kit::new(speaking_http2(with_policy(upstream::http2("two"), policy)));
    let answer = kit.get(1, "/a");
    assert!(answer.text().contains("uri: http://other/a"), "{}", answer.text());
    assert!(!answer.text().contains("\"host\""), "{}", answer.text());
}

#[test]
fn the_path_stays_whatever_the_host() {
    let mut kit = Kit::new(speaking_http2(mesh(&[upstream::http2("two")], None)));
    kit.request(1, "GET /a/path?q HTTP/1.1\r\nHost:\r\n\r\n");
    assert!(kit.answer(1).text().contains("/a/path?q"));
    kit.request(2, "GET /old HTTP/1.0\r\n\r\n");
    assert!(kit.answer(2).text().contains("/old"));
    for host in ["a b", "a/b", "user@shop", "shop:80:80", "[::1", "a,b#c"] {
        kit.request(1, format!("GET /a/path HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(kit.answer(1).status, 400, "{host}");
    }
}

#[test]
fn an_unknown_transfer_coding_is_refused() {
    let mut kit = Kit::new(mesh(&[upstream::http("one")], None));
    for coding in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "chunked, chunked"] {
        let body = "3\r\nabc\r\n0\r\n\r\n";
        kit.request(
            1,
            format!(
                "POST /echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: {coding}\r\n\r\n{body}"
            ),
        );
        assert_eq!(kit.answer(1).status, 501, "{coding}");
    }
    // Content-Length has no say beside it.
    kit.request(1, "POST /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: 99\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(kit.answer(1).unchunked_or_plain(), b"abc");
}

#[test]
fn an_answer_has_one_length() {
    for (head, status, length, body) in [
        ("transfer-encoding: chunked\r\ncontent-length: 2", 200, None, "abc"),
        ("content-length: 2\r\ntransfer-encoding: chunked", 200, None, "abc"),
        ("transfer-encoding: gzip, chunked", 502, Some("87"), ""),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", 502, Some("87"), ""),
        ("content-length: 14, 14", 200, Some("14"), "3\r\nabc\r\n0\r\n\r\n+"),
        ("content-length: 14\r\nContent-Length: 14", 200, Some("14"), "3\r\nabc\r\n0\r\n\r\n+"),
        ("content-length: 14\r\ncontent-length: 15", 502, Some("87"), ""),
    ] {
        for version in ["1.1", "1.0"] {
            let address = upstream::raw(move |mut socket| {
                upstream::head(&mut socket);
                let body = if head.contains("chunked") { "3\r\nabc\r\n0\r\n\r\n" } else { body };
                let _ = write!(socket, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
                let _ = socket.read(&mut [0]);
            });
            let mut kit = Kit::new(mesh(&[address], None));
            kit.request(1, format!("GET / HTTP/{version}\r\nHost: shop\r\n\r\n"));
            let answer = kit.answer(1);
            assert_eq!(answer.status, status, "{head}");
            if length.is_some() || version == "1.0" {
                let wanted = length.unwrap_or("3");
                assert_eq!(answer.field("content-length"), Some(wanted), "{head}");
                assert_eq!(answer.body.len().to_string(), wanted, "{head}");
            } else {
                assert_eq!(answer.field("content-length"), None, "{head}");
            }
            if status == 200 {
                assert_eq!(answer.unchunked_or_plain(), body.as_bytes(), "{head}");
            }
        }
    }
}

#[test]
fn a_head_is_answered_with_one_length() {
    for (status, field, wanted) in [
        (200, "content-length: 7", Some("7")),
        (200, "content-length: 7\r\ncontent-length: 7", Some("7")),
        (200, "content-length: 7, 8", None),
        (200, "content-length: 18446744073709551616", None),
        (200, "content-length: 7\r\ntransfer-encoding: chunked", Some("7")),
        (304, "content-length: 7", Some("7")),
        (204, "content-length: 0", None),
    ] {
        let address = upstream::raw(move |mut socket| {
            upstream::head(&mut socket);
            let _ = write!(socket, "HTTP/1.1 {status} OK\r\n{field}\r\n\r\n");
        });
        let mut kit = Kit::new(mesh(&[address], None));
        kit.request(1, "HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n");
        let answer = kit.answer(1);
        assert_eq!((answer.status, answer.field("content-length")), (status, wanted), "{field}");
    }
}
