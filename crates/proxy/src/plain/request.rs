//! Requests that are plain: strictly read, and written as the HTTP library would.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use beeway_model::access::Access;
use beeway_model::action::grpc::is_grpc;
use beeway_model::{Policy, Request};
use httparse::Status;

use super::fields::{self, Fields};
use crate::access::Prospect;
use crate::chosen::Chosen;
use crate::headers::{self, FORWARDED_PROTO, REQUEST_ID};
use crate::record::Record;
use crate::stats::Counters;

/// Fields of a head; more are not plain.
pub(super) const FIELDS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// A request with all of its body.
pub(super) struct Asked<'a> {
    pub version: Version,

    pub method: &'a str,
    /// Origin form, without a fragment.
    pub target: &'a str,
    pub host: &'a str,
    pub fields: Fields<'a>,
    /// The client takes trailers, and has said so (`te`).
    pub trailers: bool,
    pub body: &'a [u8],
}

impl Asked<'_> {
    /// For records.
    pub fn protocol(&self) -> &'static str {
        match self.version {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }

    pub fn is_grpc(&self) -> bool {
        self.field("content-type").is_some_and(is_grpc)
    }

    /// The value of the first field of a name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        field.map(|(_, value)| *value)
    }

    /// The value of a field; empty: there is none, or it is no text.
    pub fn text(&self, name: &str) -> String {
        let value = self.field(name).and_then(|value| std::str::from_utf8(value).ok());
        value.unwrap_or_default().to_owned()
    }
}

/// The request that `data` is, if it is a plain one and nothing else.
pub(super) fn read(data: &[u8]) -> Option<Asked<'_>> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let Ok(Status::Complete(head)) = request.parse_with_uninit_headers(data, &mut room) else {
        return None;
    };
    let (method, target) = (request.method?, request.path?);
    if request.version != Some(1) || !is_plain_method(method) || !is_plain_target(target) {
        return None;
    }
    if !fields::has_strict_lines(&data[..head]) {
        return None;
    }
    let (mut host, mut length) = (None, None);
    for field in request.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            4 if is("host") => {
                let name =
                    std::str::from_utf8(field.value).ok().filter(|host| is_plain_host(host))?;
                host.replace(name).is_none().then_some(())?;
            }
            14 if is("content-length") => {
                let bytes = fields::length(field.value)?;
                length.replace(bytes).is_none().then_some(())?;
            }
            10 if is("connection") => {
                field.value.eq_ignore_ascii_case(b"keep-alive").then_some(())?
            }
            // The client's own time limit counts.
            12 if is("content-type") && is_grpc(field.value) => return None,
            2 if is("te") => return None,
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    let body = &data[head..];
    let whole = body.len() as u64 == length.unwrap_or(0);
    let fields = request.headers.iter().map(|field| (field.name, field.value)).collect();
    let (version, fields, trailers) = (Version::Http1, Fields(fields), false);
    whole.then_some(Asked { version, method, target, host: host?, fields, trailers, body })
}

/// Whether the answer to a method has a body like any other.
pub(super) fn is_plain_method(method: &str) -> bool {
    matches!(method, "GET" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS")
}

/// Whether a target is a path, and perhaps a query, of characters that RFC 3986 has for them.
pub(super) fn is_plain_target(target: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&b);
    target.starts_with('/') && target.bytes().all(plain)
}

/// Whether Host is a name or an IPv4 address, and perhaps a port.
pub(super) fn is_plain_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let number = matches!(port.len(), 1..=5) && port.bytes().all(|b| b.is_ascii_digit());
    !name.is_empty() && name.bytes().all(plain) && number
}

/// Whether the rule that was chosen asks for nothing but what is done here; and perhaps for a time
/// limit, which is another matter.
pub(super) fn is_plain_rule(chosen: &Chosen<'_>) -> bool {
    let Policy {
        request_headers,
        response_headers,
        rewrite: _,
        timeout: _,
        retry,
        fault,
        mirrors,
        cors,
    } = chosen.policy;
    retry.as_ref().is_none_or(|retry| retry.per_try_timeout.is_none())
        && (fault.delay.is_none() && fault.abort.is_none())
        && (mirrors.is_empty() && cors.is_none())
        && fields::are_plain(request_headers)
        && fields::are_plain(response_headers)
        && chosen.own().is_none_or(|own| {
            fields::are_plain(&own.request_headers) && fields::are_plain(&own.response_headers)
        })
}

/// A request as an endpoint gets it.
pub(super) struct Prepared<'b> {
    pub method: &'b str,
    pub target: Cow<'b, str>,
    pub authority: &'b str,
    pub fields: Fields<'b>,
    pub body: &'b [u8],
    /// Its identity, empty if that is no text.
    pub id: &'b str,
    /// What policies say.
    access: Option<Access>,
}

impl<'a> Asked<'a> {
    /// Makes the request one from here to an endpoint. `room` is for the identity of one that has
    /// none. `None`: what the request becomes is not plain, or somebody must be asked, or it is
    /// forbidden.
    pub fn prepare<'b>(
        mut self,
        chosen: &Chosen<'b>,
        prospect: Option<&Prospect<'_>>,
        room: &'b mut [u8; 36],
    ) -> Option<Prepared<'b>>
    where
        'a: 'b,
    {
        let (rewritten, target) = chosen.rewritten(self.target);
        let target = target.map_or(Cow::Borrowed(self.target), Cow::Owned);
        if !is_plain_target(&target) || !rewritten.is_none_or(is_plain_host) {
            return None;
        }
        self.fields.strip();
        let mut fields: Fields<'b> = self.fields;
        match rewritten {
            Some(host) if self.version == Version::Http1 => fields.set("host", host.as_bytes()),
            _ => {}
        }
        if self.trailers {
            fields.0.push(("te", b"trailers"));
        }
        let authority = rewritten.unwrap_or(self.host);
        let id = introduce(&mut fields, room);
        if let Some(own) = chosen.own() {
            fields.edit(&own.request_headers);
        }
        fields.edit(&chosen.policy.request_headers);
        let request = Request {
            method: self.method,
            scheme: "http",
            authority,
            target: &target,
            headers: &fields.0,
            source: None,
        };
        let access = prospect.map(|prospect| prospect.judge(None, Some(&request)));
        if access.as_ref().is_some_and(|access| !access.allowed || !access.ask.is_empty()) {
            return None;
        }
        Some(Prepared {
            method: self.method,
            target,
            authority,
            fields,
            body: self.body,
            id,
            access,
        })
    }
}

impl Prepared<'_> {
    /// Writes it to `out` as HTTP/1.1.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        for part in [self.method, " ", &self.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.fields.write(out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body);
    }

    /// Counts and notes what policies say, and notes who it is.
    pub fn note(
        &self,
        prospect: Option<&Prospect<'_>>,
        mut record: Option<&mut Record>,
        counters: &Counters,
    ) {
        if let Some(record) = record.as_deref_mut().filter(|record| record.detailed) {
            self.id.clone_into(&mut record.request_id);
        }
        if let (Some(prospect), Some(access)) = (prospect, &self.access) {
            prospect.count(access, counters);
            if let Some(record) = record {
                prospect.note(access, record);
            }
        }
    }
}

/// The fields that Envoy adds in a sidecar. Returns the request's identity, empty if it is no text.
fn introduce<'a>(fields: &mut Fields<'a>, room: &'a mut [u8; 36]) -> &'a str {
    let is_id = |name: &str| name.eq_ignore_ascii_case(REQUEST_ID.as_str());
    let found = fields.0.iter().find(|(name, _)| is_id(name)).map(|(_, value)| *value);
    let id = match found {
        Some(id) if fields::is_text(id) => std::str::from_utf8(id).unwrap_or_default(),
        Some(_) => "",
        None => {
            let id = headers::request_id(room);
            fields.0.push(("x-request-id", id.as_bytes()));
            id
        }
    };
    if !fields.contains(FORWARDED_PROTO.as_str()) {
        fields.0.push(("x-forwarded-proto", b"http"));
    }
    fields.set("x-envoy-attempt-count", b"1");
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(head: &str) -> bool {
        read(head.as_bytes()).is_some()
    }

    #[test]
    fn whole_requests_without_anything_special_are_plain() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%20b?c=d&e=/?@ HTTP/1.1\r\nhost: a.b:80\r\nX-Any: ä\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "POST /a HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert!(is_plain(head), "{head}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for line in [
            "HEAD / HTTP/1.1",
            "CONNECT a:80 HTTP/1.1",
            "get / HTTP/1.1",
            "GET / HTTP/1.0",
            "GET http://a/ HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /a\\b HTTP/1.1",
            "GET /\u{e4} HTTP/1.1",
        ] {
            assert!(!is_plain(&format!("{line}\r\nHost: a\r\n\r\n")), "{line}");
        }
        for rest in [
            "\r\n",
            "Host: a\r\n",
            "Host: a\r\n\r\nmore",
            "Host: a\r\nHost: a\r\n\r\n",
            "Host: \r\n\r\n",
            "Host: a@b\r\n\r\n",
            "Host: a b\r\n\r\n",
            "Host: :80\r\n\r\n",
            "Host: a:\r\n\r\n",
            "Host: a:123456\r\n\r\n",
            "Host: a\r\nConnection: close\r\n\r\n",
            "Host: a\r\nConnection: keep-alive, x\r\n\r\n",
            "Host: a\r\nConnection: \r\n\r\n",
            "Host: a\r\nContent-Type: application/grpc+x\r\n\r\n",
            "Host: a\r\nTE: trailers\r\n\r\n",
            "Host: a\r\nUpgrade: websocket\r\n\r\n",
            "Host: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Host: a\r\nContent-Length: 3\r\n\r\nhi",
            "Host: a\r\nContent-Length: 1\r\n\r\nhi",
            "Host: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            "Host: a\r\nContent-Length: +2\r\n\r\nhi",
            "Host: a\r\n x: folded\r\n\r\n",
            "Host : a\r\n\r\n",
        ] {
            assert!(!is_plain(&format!("POST / HTTP/1.1\r\n{rest}")), "{rest}");
        }
        for whole in [
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        ] {
            assert!(!is_plain(whole), "{whole:?}");
        }
        assert!(!is_plain(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:b\r\n".repeat(64))));
    }
}
