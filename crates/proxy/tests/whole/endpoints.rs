//! Endpoints of HTTP/2 whose frames are put together by hand, and many clients' requests on one
//! connection to them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use beeway_model::{Action, Backend, ClusterId, Match, Mesh, Policy, Protocol, Rule};
use h2::Reason;
use nix::sys::socket::{Backlog, listen};

use crate::by_hand::*;
use crate::kit::{Kit, Server, mesh};

/// A mesh in which an answer must come in time, if there is one.
fn to(address: SocketAddr, timeout: Option<Duration>) -> Mesh {
    let mut mesh = mesh(Protocol::Http2, &[address], Vec::new());
    let backend = Backend { cluster: Some(ClusterId(0)), weight: 1, policy: None };
    mesh.services[0].ports[0].rules = Some(vec![Rule {
        name: String::new(),
        matches: vec![Match::default()],
        action: Action::Forward(vec![backend]),
        policy: Some(Policy { timeout, ..Policy::default() }.into()),
        detour: None,
    }]);
    mesh
}

/// A connection from the proxy, whose preface has been read.
fn accepted(server: &Server) -> TcpStream {
    let mut socket = server.accept();
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    socket
}

fn answer(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, b"\x88")
}

#[track_caller]
fn status(socket: &TcpStream, wanted: &[u8]) {
    let said = next(socket, HEADERS);
    assert!(said.payload.starts_with(wanted), "{said:?}");
}

#[test]
fn requests_of_several_clients_share_a_connection() {
    let server = Server::new();
    let kit = Kit::new(to(server.address(), None));
    let clients = [client(&kit, &[get(1)]), client(&kit, &[get(1)])];
    let mut endpoint = accepted(&server);
    endpoint.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    assert_eq!([next(&endpoint, HEADERS).stream, next(&endpoint, HEADERS).stream], [1, 3]);
    // One gives up, which is in nobody's way.
    (&clients[0]).write_all(&[reset(1), get(3)].concat()).unwrap();
    let said = next(&endpoint, RST_STREAM);
    assert_eq!(said.number(), Reason::CANCEL.into());
    assert_eq!(next(&endpoint, HEADERS).stream, 5);
    let other = 4 - said.stream;
    endpoint.write_all(&[answer(said.stream), answer(5), answer(other)].concat()).unwrap();
    for (client, stream) in clients.iter().zip([3, 1]) {
        let said = next(client, HEADERS);
        assert_eq!((said.stream, said.payload[0]), (stream, 0x88));
    }
    kit.eventually(|stats| stats.plain == 2 && stats.upstream_connections == 1);
}

#[test]
fn an_endpoint_that_goes_answers_what_it_has_begun() {
    let server = Server::new();
    let kit = Kit::new(to(server.address(), None));
    let client = client(&kit, &[get(1), get(3), get(5)]);
    let mut first = accepted(&server);
    first.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    (0..3).for_each(|_| drop(next(&first, HEADERS)));
    // As servers do that end in order: all are still welcome, then no more than these.
    let go_away = |last: u32| frame(GOAWAY, 0, 0, &[last, 0].map(u32::to_be_bytes).concat());
    first.write_all(&go_away(i32::MAX as u32)).unwrap();
    first.write_all(&go_away(3)).unwrap();
    // What is above goes elsewhere at once.
    let mut second = accepted(&server);
    let said = next(&second, HEADERS);
    second.write_all(&[frame(SETTINGS, 0, 0, &[]), answer(said.stream)].concat()).unwrap();
    assert_eq!(next(&client, HEADERS).stream, 5);
    first.write_all(&[answer(1), answer(3)].concat()).unwrap();
    assert_eq!([next(&client, HEADERS).stream, next(&client, HEADERS).stream], [1, 3]);
    assert!(Said::read(&first).is_none_or(|said| said.kind != HEADERS));
}

#[test]
fn an_endpoint_is_not_asked_for_more_than_it_takes() {
    let server = Server::new();
    let kit = Kit::new(to(server.address(), None));
    // Before it has said how many that are.
    let many: Vec<_> = (0..150).map(|at| get(2 * at + 1)).collect();
    let client = client(&kit, &many);
    let mut first = accepted(&server);
    first.write_all(&frame(PING, 0, 0, &[7; 8])).unwrap();
    let mut asked = 0;
    loop {
        let said = Said::read(&first).unwrap();
        asked += usize::from(said.kind == HEADERS);
        if said.kind == PING {
            break;
        }
    }
    assert_eq!(asked, 100);
    (0..100).for_each(|at| first.write_all(&answer(2 * at + 1)).unwrap());
    // The others are for the engine, which makes its own connections.
    let mut answered = 0;
    while answered < 50 {
        let mut other = accepted(&server);
        other.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        other.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut head = [0; 9];
        while let Ok(()) = other.read_exact(&mut head) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            other.read_exact(&mut vec![0; length as usize]).unwrap();
            if head[3] == HEADERS {
                let stream = u32::from_be_bytes(*head.last_chunk().unwrap());
                other.write_all(&answer(stream)).unwrap();
                answered += 1;
            }
        }
    }
    (0..150).for_each(|_| status(&client, b"\x88"));
}

/// An endpoint that does not accept connections, because others wait there.
fn full() -> (Server, Vec<TcpStream>) {
    let server = Server::new();
    listen(server.listener(), Backlog::new(0).unwrap()).unwrap();
    let mut others = Vec::new();
    let patience = Duration::from_millis(100);
    while let Ok(other) = TcpStream::connect_timeout(&server.address(), patience) {
        others.push(other);
    }
    (server, others)
}

#[test]
fn what_nobody_waits_for_any_more_is_not_sent() {
    let (server, others) = full();
    let kit = Kit::new(to(server.address(), Some(Duration::from_millis(400))));
    let started = Instant::now();
    let mut client = client(&kit, &[get(1), get(3), reset(3)]);
    status(&client, b"\x48\x03504");
    assert!(started.elapsed() < Duration::from_millis(900), "the limit is about connecting, too");
    client.write_all(&get(5)).unwrap();
    assert_eq!(next(&client, HEADERS).stream, 5);
    // There is room now, and the next SYN comes after a second.
    others.iter().for_each(|_| drop(server.accept()));
    while started.elapsed() < Duration::from_millis(900) {
        std::thread::sleep(Duration::from_millis(10));
    }
    client.write_all(&get(7)).unwrap();
    let mut endpoint = accepted(&server);
    endpoint.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    let said = next(&endpoint, HEADERS);
    assert_eq!(said.stream, 7);
    endpoint.write_all(&answer(7)).unwrap();
    status(&client, b"\x88");
}
