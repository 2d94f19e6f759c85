//! HTTP responses that the kernel gives by itself.

use super::records::{Record, words_of};
use crate::abi;

const LIMIT: usize = abi::limits::ANSWER_BYTES.0 as usize;
const STEP: usize = abi::limits::ANSWER_STEP.0 as usize;

/// What a denied request is answered (Envoy's RBAC filter).
pub(super) const DENIED: &str = "RBAC: access denied";

/// Why the kernel cannot give an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Head and body together are larger than `ANSWER_BYTES`.
    Size(usize),
    /// Not a final status between 200 and 599.
    Status(u16),
    /// A body where the status allows none.
    Body(u16),
}

/// The `struct answer` record and bytes of a response, as the userspace proxy would write it.
pub(super) fn answer(status: u16, body: &str) -> Result<Vec<u32>, Unfit> {
    encode(status, body, "")
}

/// The bytes of the response to a denied request, for who gives it in the kernel's place.
pub fn denied_answer() -> Vec<u8> {
    text_of(&answer(403, DENIED).expect("a short answer fits"))
}

/// The bytes of a response.
pub(super) fn text_of(words: &[u32]) -> Vec<u8> {
    words[abi::answer::WORDS as usize..].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The same with more header fields.
pub(super) fn answer_with<'a>(
    status: u16,
    body: &str,
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<u32>, Unfit> {
    let fields = fields.into_iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    encode(status, body, &fields.collect::<String>())
}

/// What clients are told while no userspace proxy runs: the connection has lost its order.
pub(super) fn no_proxy() -> Vec<u32> {
    encode(503, "beeway: the userspace proxy is not running", "connection: close\r\n")
        .expect("a short answer fits")
}

fn encode(status: u16, body: &str, extra: &str) -> Result<Vec<u32>, Unfit> {
    if !(200..600).contains(&status) {
        return Err(Unfit::Status(status));
    }
    // RFC 9110 sections 8.6 and 15.4.5: no length where there is never a body
    let bodiless = matches!(status, 204 | 205 | 304);
    if bodiless && !body.is_empty() {
        return Err(Unfit::Body(status));
    }
    let kind = if body.is_empty() { "" } else { "content-type: text/plain\r\n" };
    let length = if bodiless && status != 205 {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let bytes = |spaces: usize| {
        format!(
            "HTTP/1.1 {status} {}\r\n{kind}{length}{extra}server:{:spaces$}beeway\r\n\r\n{body}",
            phrase(status),
            "",
        )
    };
    // The kernel writes whole steps: blanks before a value mean nothing (RFC 9112 section 5.1).
    let text = bytes(1 + bytes(1).len().next_multiple_of(STEP) - bytes(1).len());
    if text.len() > LIMIT {
        return Err(Unfit::Size(text.len()));
    }
    let mut words = abi::answer { status: u32::from(status), length: text.len() as u32 }.words();
    words.extend(words_of(text.as_bytes()));
    Ok(words)
}

/// Reason phrases of the IANA registry; clients do not look at them (RFC 9112 section 4).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &[u32]) -> String {
        let bytes: Vec<u8> = words[2..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes.len(), words[1] as usize, "no word is left over");
        assert_eq!(bytes.len() % STEP, 0, "whole steps");
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn answers_are_whole_steps_of_http() {
        for length in 0..STEP {
            let body = "x".repeat(length);
            let words = answer(403, &body).unwrap();
            let text = text(&words);
            assert_eq!(words[0], 403);
            assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{text}");
            assert!(text.contains(&format!("\r\ncontent-length: {length}\r\n")), "{text}");
            assert_eq!(text.contains("content-type"), length > 0);
            assert!(text.ends_with(&format!(" beeway\r\n\r\n{body}")), "{text}");
        }
        assert!(text(&no_proxy()).contains("\r\nconnection: close\r\n"));
    }

    #[test]
    fn what_is_not_an_ordinary_answer_is_left_to_userspace() {
        assert!(!text(&answer(204, "").unwrap()).contains("content-length"));
        assert!(!text(&answer(304, "").unwrap()).contains("content-length"));
        assert!(text(&answer(299, "").unwrap()).starts_with("HTTP/1.1 299 \r\n"));
        assert_eq!(answer(204, "x"), Err(Unfit::Body(204)));
        assert_eq!(answer(101, ""), Err(Unfit::Status(101)));
        assert_eq!(answer(600, ""), Err(Unfit::Status(600)));
        assert_eq!(answer(200, &"x".repeat(1024)), Err(Unfit::Size(1120)));
        assert_eq!(answer(200, &"x".repeat(940)).map(|words| words[1]), Ok(1024));
    }
}
