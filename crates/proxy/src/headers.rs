//! Which header fields go on to the next hop (RFC 9110 section 7.6.1).

use beeway_model::HeaderEdits;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

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

/// Changes fields as a rule says. Names and values that HTTP does not allow are left out; the
/// configuration is checked for them.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        headers.remove(name.as_str());
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
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
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
