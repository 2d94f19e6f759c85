//! Where gRPC and HTTP meet: statuses, deadlines, and text in a header field.
//!
//! Sources: gRPC's "gRPC over HTTP2" and "HTTP to gRPC Status Code Mapping".

use std::time::Duration;

/// The caller gave up.
pub const CANCELLED: u8 = 1;
/// Nobody knows.
pub const UNKNOWN: u8 = 2;
/// The deadline passed.
pub const DEADLINE_EXCEEDED: u8 = 4;
/// Not allowed.
pub const PERMISSION_DENIED: u8 = 7;
/// Out of quota or memory.
pub const RESOURCE_EXHAUSTED: u8 = 8;
/// No such method.
pub const UNIMPLEMENTED: u8 = 12;
/// Something is broken.
pub const INTERNAL: u8 = 13;
/// Not now; try again.
pub const UNAVAILABLE: u8 = 14;
/// Nobody knows who asks.
pub const UNAUTHENTICATED: u8 = 16;

/// Whether a `content-type` makes a request one of gRPC, whose errors are then told by
/// `grpc-status`. gRPC-Web is not.
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The gRPC status of an answer that has an HTTP status alone. A 200 has none to derive one from
/// and is [`UNKNOWN`] too.
pub fn status_of_http(status: u16) -> u8 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The HTTP status for a gRPC status, where the client does not speak gRPC: that of
/// google/rpc/code.proto, as in Envoy.
pub fn http_of_status(status: u8) -> u16 {
    match status {
        0 => 200,
        CANCELLED => 499,
        // invalid argument, failed precondition, out of range
        3 | 9 | 11 => 400,
        DEADLINE_EXCEEDED => 504,
        // not found
        5 => 404,
        // already exists, aborted
        6 | 10 => 409,
        PERMISSION_DENIED => 403,
        RESOURCE_EXHAUSTED => 429,
        UNIMPLEMENTED => 501,
        UNAVAILABLE => 503,
        UNAUTHENTICATED => 401,
        _ => 500,
    }
}

/// The value of `grpc-timeout`: one to eight digits and a unit; `None` if it is not of that form.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Text as the value of `grpc-message`: everything but printable ASCII, and `%`, as `%XX`.
pub fn encode_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..b' ' | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(byte.into()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(value.as_bytes()), wanted, "{value}");
        }
    }

    #[test]
    fn http_statuses_have_a_grpc_status() {
        for (http, grpc) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (431, 2),
            (500, 2),
            (502, 14),
            (503, 14),
            (504, 14),
            (200, 2),
        ] {
            assert_eq!(status_of_http(http), grpc, "{http}");
        }
    }

    #[test]
    fn grpc_statuses_have_an_http_status() {
        let wanted =
            [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        for (grpc, http) in (0..).zip(wanted) {
            assert_eq!(http_of_status(grpc), http, "{grpc}");
        }
        assert_eq!(http_of_status(17), 500);
    }

    #[test]
    fn timeouts_have_at_most_eight_digits_and_a_unit() {
        for (value, nanos) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("4m", Some(4_000_000)),
            ("5u", Some(5_000)),
            ("0n", Some(0)),
            ("99999999n", Some(99_999_999)),
            ("99999999H", Some(359_999_996_400_000_000_000)),
            ("100000000n", None),
            ("", None),
            ("1", None),
            ("S", None),
            ("+1S", None),
            ("-1S", None),
            (" 1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1S ", None),
        ] {
            let got = parse_timeout(value.as_bytes()).map(|timeout| timeout.as_nanos());
            assert_eq!(got, nanos, "{value:?}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        for (text, wanted) in [
            ("fault filter abort", "fault filter abort"),
            ("100%\r\n", "100%25%0D%0A"),
            ("~\u{7f}ä", "~%7F%C3%A4"),
            ("", ""),
        ] {
            assert_eq!(encode_message(text), wanted);
        }
    }
}
