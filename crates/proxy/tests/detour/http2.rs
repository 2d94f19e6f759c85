//! Endpoints of HTTP/2 that do not answer, each in its own way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use beeway_model::{Mesh, Protocol};
use beeway_proxy::frame::FLAG_STICKY;
use h2::Reason;

use crate::kit::{Kit, mesh};
use crate::upstream::raw;

fn to(endpoint: SocketAddr) -> Mesh {
    let mut mesh = mesh(&[endpoint], None);
    mesh.clusters[0].protocol = Protocol::Http2;
    mesh
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GOAWAY before the first stream.
fn go_away(reason: Reason) -> Vec<u8> {
    frame(7, 0, 0, &[0, u32::from(reason)].map(u32::to_be_bytes).concat())
}

fn reset(reason: Reason) -> Vec<u8> {
    frame(3, 0, 1, &u32::from(reason).to_be_bytes())
}

/// The head of a 200, perhaps all of it.
fn answer(ends: bool) -> Vec<u8> {
    frame(1, if ends { 5 } else { 4 }, 1, &[0x88])
}

/// Reads as far as the head of a request.
fn read_head(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.read_exact(&mut [0; 24])?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        socket.read_exact(&mut vec![0; length as usize])?;
        if head[3] == 1 {
            return Ok(());
        }
    }
}

/// An endpoint that says this to the first request of each connection.
fn saying(said: Vec<Vec<u8>>) -> SocketAddr {
    let mut said = said.into_iter();
    raw(move |mut socket| {
        let Some(said) = said.next() else { return };
        socket.write_all(&frame(4, 0, 0, &[])).unwrap();
        read_head(&mut socket).unwrap();
        socket.write_all(&said).unwrap();
        // the next connection comes while this one may still be there
        std::thread::spawn(move || std::io::copy(&mut socket, &mut std::io::sink()));
    })
}

#[test]
fn what_an_endpoint_has_not_looked_at_is_tried_again() {
    for said in [
        go_away(Reason::NO_ERROR),
        go_away(Reason::PROTOCOL_ERROR),
        go_away(Reason::ENHANCE_YOUR_CALM),
    ] {
        let (mut kit, records) = Kit::recording(to(saying(vec![said, answer(true)])));
        assert_eq!(kit.get(1, "/").status, 200);
        let record = records.recv().unwrap();
        assert_eq!((record.flags.to_string().as_str(), record.attempts), ("-", 2));
    }
}

#[test]
fn an_endpoint_that_resets_is_told_from_one_that_goes() {
    let text = "upstream connect error or disconnect/reset before headers. reset reason: ";
    for reason in [Reason::PROTOCOL_ERROR, Reason::INTERNAL_ERROR, Reason::CANCEL] {
        let (mut kit, records) = Kit::recording(to(saying(vec![reset(reason)])));
        let answer = kit.get(1, "/");
        assert_eq!((answer.status, answer.text()), (503, &*format!("{text}remote reset")));
        let record = records.recv().unwrap();
        assert_eq!((record.flags.to_string().as_str(), record.attempts), ("UR", 1));
    }
    for reason in [Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let said = [answer(false), frame(0, 0, 1, b"some"), reset(reason)].concat();
        let (mut kit, records) = Kit::recording(to(saying(vec![said])));
        kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
        let record = records.recv_timeout(Duration::from_secs(8)).unwrap();
        assert_eq!((record.flags.to_string().as_str(), record.status), ("UR", 200));
    }
}

#[test]
fn a_request_that_waits_for_room_goes_elsewhere_when_the_connection_ends() {
    let (held, holds) = channel();
    let (end, ends) = channel();
    let mut ends = Some(ends);
    let address = raw(move |mut socket| {
        let first = ends.take();
        // one request at once
        socket.write_all(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 1])).unwrap();
        read_head(&mut socket).unwrap();
        let Some(ends) = first else {
            return socket.write_all(&answer(true)).unwrap();
        };
        held.send(()).unwrap();
        ends.recv().unwrap();
    });
    let mut kit = Kit::new(to(address));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    holds.recv().unwrap();
    kit.request(2, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.eventually(|stats| stats.requests == 2);
    std::thread::sleep(Duration::from_millis(100));
    end.send(()).unwrap();
    assert_eq!(kit.answer(2).status, 200);
    assert_eq!(kit.answer(1).status, 503);
}

#[test]
fn a_client_by_bus_is_told_that_its_connection_will_end() {
    let (mut kit, _records) = Kit::recording(to(saying(vec![answer(true)])));
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    let get = frame(1, 5, 1, b"\x82\x86\x84\x01\x04shop");
    kit.send(1, FLAG_STICKY, [preface, get].concat());
    kit.eventually(|stats| stats.plain == 1);
    kit.proxy.drain();
    let last = go_away(Reason::NO_ERROR);
    let told = |said: &[u8]| said.windows(9).any(|head| head[..4] == last[..4]);
    while !told(kit.injected(1)) {
        kit.take();
    }
}
