//! Frames of HTTP/2, put together and taken apart by hand (RFC 9113 section 4.1).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use h2::Reason;

use crate::kit::Kit;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// GET / and POST /, for `shop`.
pub const GET: &[u8] = b"\x82\x86\x84\x01\x04shop";
pub const POST: &[u8] = b"\x83\x86\x84\x01\x04shop";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

pub fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, POST)
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

pub fn setting(setting: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&setting.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// A frame that has come back.
#[derive(Debug)]
pub struct Said {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Said {
    pub fn read(mut socket: &TcpStream) -> Option<Said> {
        let mut head = [0; 9];
        if let Err(error) = socket.read_exact(&mut head) {
            let over = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(over.contains(&error.kind()), "{error}");
            return None;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Said { kind: head[3], flags: head[4], stream, payload })
    }

    pub fn number(&self) -> u32 {
        u32::from_be_bytes(*self.payload.last_chunk().unwrap())
    }
}

/// A client that has said so much.
pub fn client(kit: &Kit, frames: &[Vec<u8>]) -> TcpStream {
    let mut socket = kit.connect();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    socket.write_all(&frames.concat()).unwrap();
    socket
}

/// The next frame of a kind, whatever comes before it.
pub fn next(socket: &TcpStream, kind: u8) -> Said {
    loop {
        let said = Said::read(socket).unwrap_or_else(|| panic!("the end before a frame {kind}"));
        if said.kind == kind {
            return said;
        }
    }
}

/// Reads to the end of the connection; the reason that it had.
pub fn failure(socket: &TcpStream) -> Reason {
    let reason = next(socket, GOAWAY).number().into();
    while Said::read(socket).is_some() {}
    reason
}
