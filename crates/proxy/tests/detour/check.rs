//! The messages of an external authorizer that speaks gRPC, written and read by hand
//! (protobuf.dev/programming-guides/encoding).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Frame;

use crate::upstream;

/// A field of wire type 2: bytes, text or a message.
pub fn field(number: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [varint(u64::from(number << 3 | 2)), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A field of wire type 0.
pub fn number(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number << 3)), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return value;
        }
    }
}

/// What is in a message: fields of wire type 0 as their number's digits.
#[derive(Debug, Clone, Default)]
pub struct Message(BTreeMap<u32, Vec<Vec<u8>>>);

impl Message {
    pub fn read(mut bytes: &[u8]) -> Message {
        let mut message = Message::default();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let value = match key & 7 {
                0 => (take_varint(&mut bytes) as i64).to_string().into_bytes(),
                2 => {
                    let length = take_varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    value.to_vec()
                }
                other => panic!("wire type {other}"),
            };
            message.0.entry((key >> 3) as u32).or_default().push(value);
        }
        message
    }

    /// What is at the end of a path of field numbers; empty: nothing.
    pub fn at(&self, path: &[u32]) -> Vec<u8> {
        let (first, rest) = path.split_first().expect("a path");
        let value = self.0.get(first).map(|values| values[0].clone()).unwrap_or_default();
        if rest.is_empty() { value } else { Message::read(&value).at(rest) }
    }

    pub fn text(&self, path: &[u32]) -> String {
        String::from_utf8(self.at(path)).expect("text")
    }

    /// The header fields of the request that is asked about.
    pub fn headers(&self) -> BTreeMap<String, String> {
        let http = Message::read(&self.at(&[1, 4, 2]));
        let entries = http.0.get(&3).cloned().unwrap_or_default();
        let pair = |entry: Vec<u8>| {
            let entry = Message::read(&entry);
            (entry.text(&[1]), entry.text(&[2]))
        };
        entries.into_iter().map(pair).collect()
    }
}

/// `HeaderValueOption`.
pub fn option(name: &str, value: &str) -> Vec<u8> {
    field(1, [field(1, name), field(2, value)].concat())
}

/// `CheckResponse` with status 0.
pub fn allow(ok: &[u8]) -> Vec<u8> {
    [field(1, []), field(3, ok)].concat()
}

/// `CheckResponse` with PERMISSION_DENIED.
pub fn deny(status: u64, headers: &[Vec<u8>], body: &str) -> Vec<u8> {
    let headers: Vec<u8> = headers.iter().flat_map(|header| field(2, header)).collect();
    let denied = [field(1, number(1, status)), headers, field(3, body)].concat();
    [field(1, number(1, 7)), field(2, denied)].concat()
}

/// An authorizer; what it was asked comes out of the channel.
pub fn authorizer(
    says: impl Fn(&Message) -> Vec<u8> + Clone + Send + Sync + 'static,
) -> (SocketAddr, Receiver<Message>) {
    let (asked, questions) = channel();
    let address = upstream::scripted(1 << 20, move |_, request| {
        let (says, asked) = (says.clone(), asked.clone());
        async move {
            let (head, body) = request.into_parts();
            assert_eq!(head.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
            assert_eq!(head.headers["content-type"], "application/grpc");
            assert_eq!(head.headers["te"], "trailers");
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(body[..5], [&[0][..], &(body.len() as u32 - 5).to_be_bytes()].concat());
            let question = Message::read(&body[5..]);
            let message = says(&question);
            let _ = asked.send(question);
            let mut framed = vec![0];
            framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
            framed.extend_from_slice(&message);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let mut answer =
                upstream::pieces([Frame::data(Bytes::from(framed)), Frame::trailers(trailers)]);
            answer.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            answer
        }
    });
    (address, questions)
}
