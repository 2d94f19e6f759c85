//! The twin of `bpf/include/http.h`: which request heads the kernel understands, and what it reads
//! in them. Kept step by step like the C, so that a difference is a bug in one of the two.

use super::heap::hash_name;
use crate::abi;

pub use crate::abi::reason as Reason;

const HEAD_BYTES: usize = abi::limits::HEAD_BYTES.0 as usize;
const HEAD_LINES: usize = abi::limits::HEAD_LINES.0 as usize;
/// The kernel's buffer is a little longer than what it judges, so that words can be read anywhere.
const SLACK: usize = 8;

/// A request head that the kernel understands. Offsets are into the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the body, when it is not chunked.
    pub body: u64,
    /// Bytes of the head, its empty line included.
    pub length: u32,
    /// The path up to `?`.
    pub path: Vec<u8>,
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
        let name = self.buffer[at..colon].to_vec();
        let value = self.buffer[value..trimmed].to_vec();
        Ok((end + 2, Line { hash: hash_name(&name), name, value }))
    }

    /// The offset of the first control byte that is not a tab. Like the kernel it reads words and
    /// gives up after so many, which only a line of tabs can bring about.
    fn line_end(&self, mut at: usize) -> usize {
        for _ in 0..HEAD_BYTES / 8 + HEAD_LINES {
            let word = self.word(at);
            match word.iter().position(|byte| byte.is_ascii_control()) {
                None => {
                    at += 8;
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
            head.host = host_of(&line.value).to_vec();
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

/// A Host value without port and trailing dot.
fn host_of(value: &[u8]) -> &[u8] {
    let digits = value.iter().rev().take(6).take_while(|byte| byte.is_ascii_digit()).count();
    let name = value[..value.len() - digits].strip_suffix(b":").unwrap_or(value);
    name.strip_suffix(b".").unwrap_or(name)
}
