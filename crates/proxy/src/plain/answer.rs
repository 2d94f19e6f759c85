//! Answers that are plain: strictly read, written as the HTTP library would.

use std::mem::MaybeUninit;

use httparse::Status;

use super::body::Body;
use super::fields::{self, Fields};
use super::request::FIELDS;
use crate::chosen::Chosen;

/// The head of an answer.
pub(super) struct Head<'a> {
    pub status: u16,
    /// Bytes of the head.
    pub length: usize,
    pub body: Body,
    /// The connection can be used again.
    pub keep_alive: bool,
    /// `grpc-status`.
    pub grpc_status: Option<u8>,
    reason: &'a str,
    /// Transfer-Encoding, as it is written there.
    coding: Option<&'a str>,
    fields: Fields<'a>,
}

/// The head that `data` begins with, if it is a whole and plain one.
pub(super) fn read(data: &[u8]) -> Option<Head<'_>> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut answer, data, &mut room);
    let Ok(Status::Complete(head)) = parsed else {
        return None;
    };
    let (status, reason) = (answer.code?, answer.reason?);
    if answer.version != Some(1) || !(200..600).contains(&status) {
        return None;
    }
    if !fields::has_strict_lines(&data[..head]) {
        return None;
    }
    let (mut length, mut coding, mut keep_alive, mut grpc_status) = (None, None, true, None);
    for field in answer.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            14 if is("content-length") => {
                let bytes = fields::length(field.value)?;
                length.replace(bytes).is_none().then_some(())?;
            }
            17 if is("transfer-encoding") => {
                let known = field.value.eq_ignore_ascii_case(b"chunked");
                (known && coding.replace(field.name).is_none()).then_some(())?;
            }
            10 if is("connection") => keep_alive &= is_kept(field.value)?,
            11 if is("grpc-status") => grpc_status = grpc_status.or(Some(field.value)),
            // Says which trailers go on.
            7 if is("trailer") => return None,
            _ => {}
        }
    }
    let body = match (status, length, coding.is_some()) {
        (204 | 304, None, false) => Body::length(0),
        (204 | 304, ..) | (_, None, false) | (_, Some(_), true) => return None,
        (_, Some(length), false) => Body::length(length),
        (_, None, true) => Body::chunked(),
    };
    let fields = answer.headers.iter().map(|field| (field.name, field.value)).collect();
    let grpc_status = grpc_status.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    Some(Head {
        status,
        length: head,
        body,
        keep_alive,
        grpc_status,
        reason,
        coding,
        fields: Fields(fields),
    })
}

/// Whether a Connection field leaves the connection as it is; `None`: it names other fields.
fn is_kept(value: &[u8]) -> Option<bool> {
    let mut kept = true;
    for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        match token {
            token if token.eq_ignore_ascii_case(b"close") => kept = false,
            token if token.eq_ignore_ascii_case(b"keep-alive") => {}
            // Says what the endpoint could speak instead, and is not passed on.
            token if token.eq_ignore_ascii_case(b"upgrade") => {}
            _ => return None,
        }
    }
    Some(kept)
}

impl<'a> Head<'a> {
    /// Writes the head that the client gets to `out`. Returns the body that follows.
    pub fn write<'b>(self, chosen: &Chosen<'b>, out: &mut Vec<u8>) -> Body
    where
        'a: 'b,
    {
        let mut fields: Fields<'b> = self.fields;
        fields.strip();
        if let Some(own) = chosen.own() {
            fields.edit(&own.response_headers);
        }
        fields.edit(&chosen.policy.response_headers);
        out.clear();
        out.extend_from_slice(b"HTTP/1.1 ");
        let digit = |unit: u16| b'0' + (self.status / unit % 10) as u8;
        out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        fields.write(out);
        if let Some(name) = self.coding {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": chunked\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_heads_that_are_whole_and_plain_are_taken() {
        for (head, plain) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true),
            ("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 404 Not There\r\nTransfer-Encoding: Chunked\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\nConnection: Upgrade, Keep-Alive\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.1 100 Continue\r\n\r\n", false),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", false),
            ("HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-hop\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\n", false),
            ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false),
            ("HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\rb\r\n\r\n", false),
            ("HTTP/2 200\r\nContent-Length: 2\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
        ] {
            assert_eq!(read(head.as_bytes()).is_some(), plain, "{head}");
        }
    }

    #[test]
    fn a_connection_is_kept_unless_told_otherwise() {
        for (value, wanted) in [
            ("keep-alive", Some(true)),
            ("Close", Some(false)),
            ("keep-alive, close", Some(false)),
            ("upgrade, keep-alive", Some(true)),
            ("x-mine", None),
            ("", None),
        ] {
            assert_eq!(is_kept(value.as_bytes()), wanted, "{value}");
        }
    }
}
