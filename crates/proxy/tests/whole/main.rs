//! Connections that are carried as a whole: real sockets on both sides.

mod access;
mod both;
mod by_hand;
#[path = "../detour/check.rs"]
#[allow(dead_code)] // the other tests need more of it
mod check;
mod endpoints;
mod frames;
mod http2;
mod kafka;
mod kit;
mod random;
#[path = "../detour/upstream.rs"]
#[allow(dead_code)]
mod upstream;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use beeway_model::{Protocol, SourceMatch, StreamMatch};
use kit::*;

#[test]
fn each_direction_ends_by_itself() {
    let server = Server::new();
    let kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));

    let client = kit.connect();
    let endpoint = server.accept();
    say_all(&client, "question");
    assert_eq!(rest(&endpoint), "question");
    std::thread::sleep(Duration::from_millis(20));
    say_all(&endpoint, "answer");
    assert_eq!(rest(&client), "answer");

    let client = kit.connect();
    let endpoint = server.accept();
    say_all(&endpoint, "greeting and goodbye");
    assert_eq!(rest(&client), "greeting and goodbye");
    say_all(&client, "more");
    assert_eq!(rest(&endpoint), "more");
    kit.eventually(|stats| stats.open_connections == 0 && stats.connections == 2);
    let stats = kit.proxy.as_ref().unwrap().stats();
    assert_eq!((stats.bytes_in, stats.bytes_out), (12, 26));
}

#[test]
fn who_speaks_first_does_not_matter() {
    let server = Server::new();
    let kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));
    let mut client = kit.connect();
    let mut endpoint = server.accept();
    for _ in 0..3 {
        endpoint.write_all(b"220 ready").unwrap();
        expect(&client, "220 ready");
        client.write_all(b"EHLO").unwrap();
        expect(&endpoint, "EHLO");
    }
}

#[test]
fn resets_are_passed_on() {
    let server = Server::new();
    let kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));
    let (mut client, mut endpoint) = (kit.connect(), server.accept());
    endpoint.write_all(b"half an ans").unwrap();
    expect(&client, "half an ans");
    reset(endpoint);
    expect_reset(&client);

    client = kit.connect();
    endpoint = server.accept();
    client.write_all(b"half a quest").unwrap();
    expect(&endpoint, "half a quest");
    reset(client);
    expect_reset(&endpoint);

    // nothing is read from the client any more, and nothing written to it
    client = kit.connect();
    endpoint = server.accept();
    say_all(&client, "whole");
    assert_eq!(rest(&endpoint), "whole");
    reset(client);
    expect_reset_on_write(endpoint);
    kit.eventually(|stats| stats.open_connections == 0);
}

/// After the end of what the peer says, a reset is seen by who writes.
fn expect_reset_on_write(mut socket: std::net::TcpStream) {
    let started = std::time::Instant::now();
    while started.elapsed() < PATIENCE {
        if let Err(error) = socket.write_all(b"x") {
            let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            return assert!(kinds.contains(&error.kind()), "{error}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("written in vain");
}

#[test]
fn what_was_said_before_a_reset_is_delivered() {
    let server = Server::new();
    let kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));
    let mut client = kit.connect();
    let endpoint = server.accept();
    client.write_all(&[1; 100_000]).unwrap();
    // closing with unread bytes resets
    (&endpoint).read_exact(&mut [0; 10]).unwrap();
    (&endpoint).write_all(b"421 go away").unwrap();
    drop(endpoint);
    expect(&client, "421 go away");
    expect_reset(&client);
}

#[test]
fn nobody_takes_what_the_end_of_the_proxy_cut_off_for_complete() {
    let server = Server::new();
    let mut kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));
    let client = kit.connect();
    let mut endpoint = server.accept();
    endpoint.write_all(b"half an ans").unwrap();
    expect(&client, "half an ans");
    drop(kit.proxy.take());
    expect_reset(&client);
    expect_reset(&endpoint);
    let refused = std::net::TcpStream::connect(kit.address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_side_that_does_not_read_holds_the_other_back() {
    let server = Server::new();
    let kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));
    let mut client = kit.connect();
    let endpoint = server.accept();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let piece: Vec<u8> = (0..=255).collect();
    let piece = piece.repeat(256);
    let mut sent = 0;
    let stopped = loop {
        match client.write(&piece) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "nothing holds it back");
    };
    assert_eq!(stopped.kind(), ErrorKind::WouldBlock);
    // it is not lost, and other connections go on
    let other = kit.connect();
    let other_endpoint = server.accept();
    say_all(&other, "other");
    assert_eq!(rest(&other_endpoint), "other");
    client.shutdown(Shutdown::Write).unwrap();
    let mut read = Vec::new();
    (&endpoint).read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), sent);
}

#[test]
fn who_comes_by_himself_is_turned_away() {
    let server = Server::new();
    let kit = Kit::new(mesh(Protocol::Opaque, &[server.address()], Vec::new()));
    kit.guide.ignorant.store(true, Ordering::Relaxed);
    let client = kit.connect();
    assert_eq!(rest(&client), "");
    kit.eventually(|stats| stats.connections_unknown == 1);
    assert_eq!(kit.proxy.as_ref().unwrap().stats().connections, 0);
}

#[test]
fn without_an_endpoint_there_is_a_reset() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let kit = Kit::new(mesh(Protocol::Opaque, &[gone], Vec::new()));
    expect_reset(&kit.connect());
    kit.eventually(|stats| stats.connections_failed == 1);

    let nowhere = vec![rule(StreamMatch::default(), None)];
    kit.mesh.send_replace(Arc::new(mesh(Protocol::Opaque, &[gone], nowhere)));
    expect_reset(&kit.connect());
    kit.eventually(|stats| stats.connections_failed == 2);

    kit.mesh.send_replace(Arc::default());
    expect_reset(&kit.connect());
    kit.eventually(|stats| stats.connections_failed == 3 && stats.open_connections == 0);
}

#[test]
fn rules_ask_who_calls_and_connections_outlive_them() {
    let (one, two) = (Server::new(), Server::new());
    let addresses = [one.address(), two.address()];
    let from = |app: &str| StreamMatch {
        sources: vec![SourceMatch {
            namespace: None,
            labels: [("app".to_owned(), app.to_owned())].into(),
        }],
        ..StreamMatch::default()
    };
    let rules = |app: &str| vec![rule(from(app), Some(1))];
    let kit = Kit::new(mesh(Protocol::Opaque, &addresses, rules("buyer")));
    let first = kit.connect();
    let first_endpoint = two.accept();
    kit.mesh.send_replace(Arc::new(mesh(Protocol::Opaque, &addresses, rules("seller"))));
    let second = kit.connect();
    let second_endpoint = one.accept();
    for (client, endpoint) in [(first, first_endpoint), (second, second_endpoint)] {
        say_all(&client, "hello");
        assert_eq!(rest(&endpoint), "hello");
    }
}

#[test]
fn what_is_not_tls_asks_for_no_name() {
    let (one, two) = (Server::new(), Server::new());
    let named = StreamMatch { sni: vec!["*.example.com".to_owned()], ..StreamMatch::default() };
    let rules = vec![rule(named, Some(1))];
    let kit = Kit::new(mesh(Protocol::Tls, &[one.address(), two.address()], rules));
    // the second begins as a ClientHello does, and goes on otherwise; the third is only the start
    for text in ["GET / HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0", "\u{16}\u{3}"]
    {
        let client = kit.connect();
        say_all(&client, text);
        let endpoint = one.accept();
        assert_eq!(rest(&endpoint), text);
    }
}
