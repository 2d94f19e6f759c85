//! Which header fields go on to the next hop (RFC 9110 section 7.6.1).

use beeway_model::HeaderEdits;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http_body::Body;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Fields that are about one connection only.
pub(crate) const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Writes a new value for [`REQUEST_ID`].
pub(crate) fn request_id(room: &mut [u8; 36]) -> &str {
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
    id.hyphenated().encode_lower(room)
}

/// Removes fields that are about this connection only. Framing is put back by the HTTP library
/// according to the body, so Content-Length and Transfer-Encoding never go on together.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            // Naming these would change what the message means to the next hop.
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Prepares a request's fields; `upgrade` is the protocol that it may switch to. `http2`: the
/// endpoint speaks that, which has no Connection field (RFC 9113 section 8.2.2).
pub(crate) fn for_endpoint(headers: &mut HeaderMap, upgrade: Option<HeaderValue>, http2: bool) {
    let trailers = has_token(headers, header::TE, b"trailers");
    strip(headers);
    // Our server has said `100 Continue` by the time the body goes on.
    headers.remove(header::EXPECT);
    match upgrade {
        _ if http2 && trailers => {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        _ if http2 => {}
        Some(protocol) => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol);
        }
        None if trailers => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        None => {}
    }
}

/// The protocol that a request asks to switch to, if it is one that is let through.
///
/// Only WebSocket: after a switch to HTTP/2 (`h2c`), requests would pass by the rules unseen. Any
/// other Upgrade is ignored, as RFC 9110 section 7.8 allows.
pub(crate) fn websocket(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let wanted = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    (wanted && has_token(headers, header::CONNECTION, b"upgrade")).then(|| protocol.clone())
}

/// Whether a field says where a message begins, ends or goes, or is about one connection: rules do
/// not change those (Envoy refuses Host and pseudo fields; the rest would break its framing).
pub(crate) fn is_of_message(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || *name == header::CONTENT_LENGTH || *name == header::HOST
}

/// Removes from trailers what may only stand in a head (RFC 9110 section 6.5.1): in HTTP/2 it would
/// make the message malformed.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in HOP_BY_HOP.iter().chain(&[header::CONTENT_LENGTH, header::HOST]) {
        trailers.remove(name);
    }
}

/// Whether [`strip_trailers`] lets a field be.
pub(crate) fn is_of_trailers(name: &[u8]) -> bool {
    let hop = HOP_BY_HOP.iter().any(|hop| hop.as_str().as_bytes() == name);
    !hop && name != b"content-length" && name != b"host"
}

/// What rules that set Host mean: the authority (as Istio translates it for Envoy).
pub(crate) fn host_of(edits: &HeaderEdits) -> Option<&str> {
    let names = ["host", ":authority"];
    let set = edits.set.iter().rfind(|(name, _)| names.contains(&name.as_str()));
    set.map(|(_, value)| value.as_str())
}

/// Leaves no doubt about the length of a request's body: one Content-Length, or for an endpoint
/// that speaks HTTP/1.1 the chunked coding, and never both (RFC 9112 section 6). The HTTP library
/// believes what it finds here, and leaves out the body of a GET of unknown length otherwise.
pub(crate) fn frame_request(headers: &mut HeaderMap, body: &impl Body, http2: bool) {
    match body.size_hint().exact() {
        Some(length) if headers.contains_key(header::CONTENT_LENGTH) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(_) => {}
        None => {
            headers.remove(header::CONTENT_LENGTH);
            if !http2 {
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
    }
}

/// The same for an answer, where Content-Length may also tell of a body that is not there (HEAD,
/// 304), but not after 204 (RFC 9110 section 8.6).
pub(crate) fn frame_answer(parts: &mut Parts, body: &impl Body) {
    let headers = &mut parts.headers;
    let Some(first) = headers.get(header::CONTENT_LENGTH) else {
        return;
    };
    let length = match body.size_hint().exact() {
        _ if parts.status == StatusCode::NO_CONTENT => None,
        _ if body.is_end_stream() => is_number(first).then(|| first.clone()),
        length => length.map(HeaderValue::from),
    };
    match length {
        Some(length) => headers.insert(header::CONTENT_LENGTH, length),
        None => headers.remove(header::CONTENT_LENGTH),
    };
}

fn is_number(value: &HeaderValue) -> bool {
    let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
    digits && value.to_str().is_ok_and(|value| value.parse::<u64>().is_ok())
}

/// Whether a body has a transfer coding besides `chunked`. Nobody behind us would be told of it.
pub(crate) fn has_transfer_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next();
    codings.next().is_some()
        || first.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Puts the pieces of a cookie into one field, as it is outside of HTTP/2 (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (pieces.next(), pieces.next()) else {
        return;
    };
    let pieces: Vec<&[u8]> =
        [first, second].into_iter().chain(pieces).map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Changes fields as a rule says. Names and values that HTTP does not allow are left out; the
/// configuration is checked for them.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            && !is_of_message(&name)
        {
            headers.remove(name);
        }
    }
    for (name, value) in &edits.set {
        if let Some((name, value)) = field(name, value) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &edits.add {
        if let Some((name, value)) = field(name, value) {
            headers.append(name, value);
        }
    }
}

fn field(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !is_of_message(name))?;
    Some((name, HeaderValue::from_str(value).ok()?))
}

fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &[u8]) -> bool {
    tokens(headers, name).any(|token| {
        // A weight (`trailers;q=0.5`) does not change the answer here.
        let token = token.split(|b| *b == b';').next().unwrap_or_default();
        token.trim_ascii().eq_ignore_ascii_case(wanted)
    })
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|token| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn fields_of_this_hop_stay_here() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Mine"),
            ("connection", "host"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
        ]);
        assert_eq!(websocket(&headers), None);
        for_endpoint(&mut headers, None, false);
        assert_eq!(headers, map(&[("host", "a"), ("x-other", "2")]));
    }

    #[test]
    fn websocket_and_trailers_are_asked_for_again() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]);
        let upgrade = websocket(&headers);
        assert!(upgrade.is_some());
        for_endpoint(&mut headers, upgrade, false);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "WebSocket")]));
        let mut headers = map(&[("te", "gzip, Trailers;q=0.5")]);
        for_endpoint(&mut headers, None, false);
        assert_eq!(headers, map(&[("connection", "te"), ("te", "trailers")]));
    }
}
