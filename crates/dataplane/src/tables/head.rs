//! The twin of `bpf/include/http.h`: which request heads the kernel understands, and what it reads
//! in them. Kept step by step like the C, so that a difference is a bug in one of the two.

use super::heap::hash_name;
use crate::abi;

pub use crate::abi::reason as Reason;

const HEAD_BYTES: usize = abi::limits::HEAD_BYTES.0 as usize;
const HEAD_LINES: usize = abi::limits::HEAD_LINES.0 as usize;
const HOST_BYTES: usize = abi::limits::HOST_BYTES.0 as usize;
/// `.:65535` behind a host; `PORT_BYTES` of `bpf/include/http.h`.
const PORT_BYTES: usize = 7;
/// The kernel's buffer is a little longer than what it judges, so that words can be read anywhere.
const SLACK: usize = 32;

/// A request head that the kernel understands. Offsets are into the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the body, when it is not chunked.
    pub body: u64,
    /// Bytes of the head, its empty line included.
    pub length: u32,
    /// The path up to `?`.
    pub path: Vec<u8>,
    /// What stands behind `?`.
    pub query: Vec<u8>,
    /// The host without port, as sent.
    pub host: Vec<u8>,
    /// `enum method`.
    pub method: u32,
    /// The body is chunked.
    pub chunked: bool,
    /// Path normalisation might change the path.
    pub needs_normalising: bool,
    /// Field lines in order.
    pub(super) lines: Vec<Line>,
}

/// One field line, its name in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub hash: u32,
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What has been seen of fields that may occur once.
#[derive(Debug, Default)]
struct Seen {
    host: bool,
    length: bool,
    connection: bool,
}

/// Reads the head at the beginning of `bytes`, of which the kernel sees the first `HEAD_BYTES`.
/// Fails with the reason why the kernel does not judge this request.
pub fn parse(bytes: &[u8]) -> Result<Head, Reason> {
    if bytes.is_empty() {
        return Err(Reason::REASON_HEAD_LIMIT);
    }
    let length = bytes.len().min(HEAD_BYTES);
    let mut buffer = bytes[..length].to_vec();
    buffer.resize(HEAD_BYTES + SLACK, 0);
    Parser { buffer, length }.head()
}

struct Parser {
    buffer: Vec<u8>,
    length: usize,
}

impl Parser {
    fn byte(&self, at: usize) -> u8 {
        self.buffer[at & (HEAD_BYTES - 1)]
    }

    fn word(&self, at: usize) -> [u8; 8] {
        let at = at & (HEAD_BYTES - 1);
        self.buffer[at..at + 8].try_into().expect("eight bytes")
    }

    /// The reason for a head that goes on behind the bytes that are there.
    fn cut_off(&self) -> Reason {
        if self.length >= HEAD_BYTES {
            Reason::REASON_HEAD_LIMIT
        } else {
            Reason::REASON_PARTIAL_HEAD
        }
    }

    fn head(mut self) -> Result<Head, Reason> {
        let mut head = Head::default();
        let Some(at) = self.method(&mut head) else {
            let partial = self.length < 8;
            return Err(if partial { Reason::REASON_PARTIAL_HEAD } else { Reason::REASON_UNUSUAL });
        };
        let mut at = self.target(at, &mut head)?;
        let mut seen = Seen::default();
        loop {
            if at + 2 > self.length {
                return Err(self.cut_off());
            }
            if self.byte(at) == b'\r' && self.byte(at + 1) == b'\n' {
                break;
            }
            if head.lines.len() >= HEAD_LINES {
                return Err(Reason::REASON_HEAD_LIMIT);
            }
            let line;
            (at, line) = self.field(at)?;
            special_field(&line, &mut head, &mut seen)?;
            head.lines.push(line);
        }
        head.length = at as u32 + 2;
        if !seen.host || head.chunked && seen.length {
            return Err(Reason::REASON_SYNTAX);
        }
        Ok(head)
    }

    /// The offset behind the method and its space; `None` when it is none that the kernel knows.
    fn method(&self, head: &mut Head) -> Option<usize> {
        use abi::method as known;
        let start = self.word(0);
        let (text, method) = [
            (&b"GET "[..], known::METHOD_GET),
            (b"POST ", known::METHOD_POST),
            (b"HEAD ", known::METHOD_HEAD),
            (b"PUT ", known::METHOD_PUT),
            (b"DELETE ", known::METHOD_DELETE),
            (b"PATCH ", known::METHOD_PATCH),
            (b"OPTIONS ", known::METHOD_OPTIONS),
        ]
        .into_iter()
        .find(|(text, _)| start.starts_with(text))?;
        head.method = method.0;
        Some(text.len())
    }

    fn target(&self, at: usize, head: &mut Head) -> Result<usize, Reason> {
        if self.byte(at) != b'/' {
            return Err(Reason::REASON_UNUSUAL);
        }
        let Some(end) = (at..HEAD_BYTES).find(|i| !self.byte(*i).is_ascii_graphic()) else {
            return Err(Reason::REASON_HEAD_LIMIT);
        };
        let target = &self.buffer[at..end];
        let query = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        head.path = target[..query].to_vec();
        head.query = target.get(query + 1..).unwrap_or_default().to_vec();
        head.needs_normalising = target.contains(&b'#')
            || head.path.iter().any(|byte| matches!(byte, b'%' | b'\\'))
            || head.path.windows(2).any(|pair| pair == b"/.");
        if end >= self.length {
            return Err(Reason::REASON_PARTIAL_HEAD);
        }
        if self.byte(end) != b' ' {
            return Err(Reason::REASON_SYNTAX);
        }
        if end + 11 > self.length {
            return Err(Reason::REASON_PARTIAL_HEAD);
        }
        if &self.word(end + 1) != b"HTTP/1.1" {
            return Err(Reason::REASON_UNUSUAL);
        }
        if self.byte(end + 9) != b'\r' || self.byte(end + 10) != b'\n' {
            return Err(Reason::REASON_SYNTAX);
        }
        Ok(end + 11)
    }

    /// Puts a field name into lower case where it stands, and finds its end: `None` when there is
    /// no name, or none that ends.
    fn name(&mut self, at: usize) -> Option<usize> {
        for i in at..at + 256 {
            let byte = self.byte(i);
            if !(byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
                return (i != at).then_some(i);
            }
            self.buffer[i & (HEAD_BYTES - 1)] = byte.to_ascii_lowercase();
        }
        None
    }

    fn field(&mut self, at: usize) -> Result<(usize, Line), Reason> {
        let colon = self.name(at).ok_or(Reason::REASON_SYNTAX)?;
        if self.byte(colon) != b':' {
            let partial = colon >= self.length;
            return Err(if partial { Reason::REASON_PARTIAL_HEAD } else { Reason::REASON_SYNTAX });
        }
        let blank = |byte: u8| matches!(byte, b' ' | b'\t');
        let start = colon + 1;
        let value = (start..start + 64).find(|i| !blank(self.byte(*i))).unwrap_or(start + 64);
        let end = self.line_end(value);
        if end + 2 > self.length {
            return Err(self.cut_off());
        }
        if self.byte(end) != b'\r' || self.byte(end + 1) != b'\n' {
            return Err(Reason::REASON_SYNTAX);
        }
        let mut trimmed = end;
        while end - trimmed < 64 && trimmed > value && blank(self.byte(trimmed - 1)) {
            trimmed -= 1;
        }
        // more white space than was looked at is not part of the value either
        if blank(self.byte(value)) || trimmed > value && blank(self.byte(trimmed - 1)) {
            return Err(Reason::REASON_UNUSUAL);
        }
        let name = self.buffer[at..colon].to_vec();
        let value = self.buffer[value..trimmed].to_vec();
        Ok((end + 2, Line { hash: hash_name(&name), name, value }))
    }

    /// The offset of the first control byte that is not a tab. Like the kernel it reads words and
    /// gives up after so many, which only a line of tabs can bring about.
    fn line_end(&self, mut at: usize) -> usize {
        for _ in 0..HEAD_BYTES / 32 + HEAD_LINES {
            let from = at & (HEAD_BYTES - 1);
            let words = &self.buffer[from..from + 32];
            match words.iter().position(|byte| byte.is_ascii_control()) {
                None => {
                    at += 32;
                    if at >= HEAD_BYTES {
                        break;
                    }
                }
                Some(hit) => {
                    at += hit;
                    if self.byte(at) != b'\t' {
                        break;
                    }
                    at += 1;
                }
            }
        }
        at
    }
}

/// Field names and values that change what the request is.
fn special_field(line: &Line, head: &mut Head, seen: &mut Seen) -> Result<(), Reason> {
    match line.name.as_slice() {
        b"host" => {
            if std::mem::replace(&mut seen.host, true) {
                return Err(Reason::REASON_SYNTAX);
            }
            head.host = host_of(&line.value)?.to_vec();
        }
        b"upgrade" => return Err(Reason::REASON_UNUSUAL),
        b"connection" => {
            let again = std::mem::replace(&mut seen.connection, true);
            let plain = line.value.eq_ignore_ascii_case(b"close")
                || line.value.eq_ignore_ascii_case(b"keep-alive");
            if again || !plain {
                return Err(Reason::REASON_UNUSUAL);
            }
        }
        b"content-length" => {
            let digits = (1..=18).contains(&line.value.len())
                && line.value.iter().all(|byte| byte.is_ascii_digit());
            if !digits || std::mem::replace(&mut seen.length, true) {
                return Err(Reason::REASON_SYNTAX);
            }
            head.body = line.value.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
        }
        b"transfer-encoding" => {
            let plain = line.value.eq_ignore_ascii_case(b"chunked");
            if !plain || std::mem::replace(&mut head.chunked, true) {
                return Err(Reason::REASON_UNUSUAL);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The name in a Host value: without port and trailing dot. One that has bytes of no host name, or
/// would need more than this to be what rules compare with, is left alone.
fn host_of(value: &[u8]) -> Result<&[u8], Reason> {
    let literal = value.starts_with(b"[");
    let usual = |byte: &u8| {
        byte.is_ascii_alphanumeric() || b"-._:".contains(byte) || literal && b"[]".contains(byte)
    };
    if value.len() > HOST_BYTES + PORT_BYTES || !value.iter().all(usual) {
        return Err(Reason::REASON_UNUSUAL);
    }
    let digits = value.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let name = value[..value.len() - digits].strip_suffix(b":").unwrap_or(value);
    let closed = if literal { name.ends_with(b"]") } else { !name.contains(&b':') };
    if !closed {
        return Err(Reason::REASON_UNUSUAL);
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.ends_with(b".") { Err(Reason::REASON_UNUSUAL) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\n";

    fn fields(fields: &str) -> Result<Head, Reason> {
        parse(format!("{GET}Host: a\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn a_head_is_taken_apart() {
        let bytes = b"POST /a/b?c=/./d HTTP/1.1\r\nX-Name:  \t one two \t\r\nHOST: A.b.:80\r\n\
            Content-Length: 12\r\nConnection: Close\r\n\r\nbody";
        let head = parse(bytes).unwrap();
        assert_eq!(head.path, b"/a/b");
        assert_eq!(head.query, b"c=/./d");
        assert_eq!(head.host, b"A.b");
        assert_eq!(head.method, abi::method::METHOD_POST.0);
        assert_eq!(head.length as usize, bytes.len() - 4);
        assert_eq!((head.body, head.chunked, head.needs_normalising), (12, false, false));
        assert_eq!(head.lines[0].name, b"x-name");
        assert_eq!(head.lines[0].value, b"one two");
        assert_eq!(head.lines[0].hash, hash_name(b"x-name"));
    }

    #[test]
    fn every_beginning_of_a_head_is_partial() {
        let bytes = b"DELETE /a?b HTTP/1.1\r\nHost: a:1\r\nX-Empty:\r\n\r\n";
        for length in 1..bytes.len() {
            let expected = if length == 7 {
                // the method is there and no path behind it
                Reason::REASON_UNUSUAL
            } else {
                Reason::REASON_PARTIAL_HEAD
            };
            assert_eq!(parse(&bytes[..length]), Err(expected), "{length}");
        }
        assert!(parse(bytes).is_ok());
    }

    #[test]
    fn what_is_not_plainly_well_formed_is_not_judged() {
        use Reason as R;
        for (text, reason) in [
            ("", R::REASON_HEAD_LIMIT),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_UNUSUAL),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_UNUSUAL),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_UNUSUAL),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_UNUSUAL),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", R::REASON_UNUSUAL),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_UNUSUAL),
            ("GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_SYNTAX),
            ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", R::REASON_SYNTAX),
            ("GET / HTTP/1.1 \nHost: a\r\n\r\n", R::REASON_SYNTAX),
            ("GET / HTTP/1.1\r\nX: a\r\n\r\n", R::REASON_SYNTAX),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(reason), "{text:?}");
        }
        for (text, reason) in [
            ("Host: a\r\n", R::REASON_SYNTAX),
            (" folded\r\n", R::REASON_SYNTAX),
            ("X : a\r\n", R::REASON_SYNTAX),
            (": a\r\n", R::REASON_SYNTAX),
            ("X: a\n", R::REASON_SYNTAX),
            ("X: a\0b\r\n", R::REASON_SYNTAX),
            ("X: a\x7f\r\n", R::REASON_SYNTAX),
            ("Content-Length: +1\r\n", R::REASON_SYNTAX),
            ("Content-Length: \r\n", R::REASON_SYNTAX),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", R::REASON_SYNTAX),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", R::REASON_SYNTAX),
            ("Transfer-Encoding: gzip, chunked\r\n", R::REASON_UNUSUAL),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", R::REASON_UNUSUAL),
            ("Connection: upgrade\r\n", R::REASON_UNUSUAL),
            ("Connection: close\r\nConnection: close\r\n", R::REASON_UNUSUAL),
            ("Upgrade: h2c\r\n", R::REASON_UNUSUAL),
        ] {
            assert_eq!(fields(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn limits_are_where_they_are() {
        let many = |count| fields(&"X: y\r\n".repeat(count));
        assert_eq!(many(63).unwrap().lines.len(), 64);
        assert_eq!(many(64), Err(Reason::REASON_HEAD_LIMIT));
        let long = |count| fields(&format!("X: {}\r\n", "y".repeat(count)));
        let frame = fields("X: \r\n").unwrap().length as usize;
        assert_eq!(long(HEAD_BYTES - frame).unwrap().length as usize, HEAD_BYTES);
        assert_eq!(long(HEAD_BYTES - frame + 1), Err(Reason::REASON_HEAD_LIMIT));
        let name = |count| fields(&format!("{}: y\r\n", "x".repeat(count)));
        assert!(name(255).is_ok());
        assert_eq!(name(256), Err(Reason::REASON_SYNTAX));
        let blanks = |count| fields(&format!("X: {}y\r\n", " ".repeat(count)));
        assert_eq!(blanks(63).unwrap().lines[1].value, b"y");
        assert_eq!(blanks(64), Err(Reason::REASON_UNUSUAL));
    }

    #[test]
    fn a_host_is_its_name() {
        for (value, name) in [
            ("a", "a"),
            ("a:80", "a"),
            ("a:", "a"),
            ("a.:80", "a"),
            ("a.", "a"),
            ("a:00000080", "a"),
            ("[fd00::1]", "[fd00::1]"),
            ("[fd00::1]:80", "[fd00::1]"),
            ("123", "123"),
            (":80", ""),
            ("", ""),
        ] {
            assert_eq!(host_of(value.as_bytes()), Ok(name.as_bytes()), "{value}");
        }
        for value in [
            "a..",
            "a..:80",
            "b\u{fc}cher",
            &"a".repeat(261),
            "a b",
            "a/b",
            "a@b",
            "a[b]",
            "a:b",
            "a:-1",
            "a:1:2",
            "[::1",
            "[::1]x",
            "[::1].",
        ] {
            assert_eq!(host_of(value.as_bytes()), Err(Reason::REASON_UNUSUAL), "{value}");
        }
    }
}
