//! HTTP/1.1 as RFC 9112 has it, with no leniency: what the proxy sends must be that.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a message could not be read.
#[derive(Debug)]
pub enum Fault {
    /// The connection ended, in order or not.
    Ended(io::ErrorKind),
    /// What was read is no HTTP/1.1.
    Wrong(String),
}

/// A message's head.
#[derive(Debug, Clone)]
pub struct Head {
    /// The three words of its first line.
    pub first: [String; 3],
    pub fields: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// An answer that ends with the connection.
    Close,
}

/// A message's body.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

/// Reads messages from a connection.
pub struct Reader<R> {
    io: R,
    buffer: Vec<u8>,
    /// Bytes that belong to messages which have been read.
    pub taken: u64,
}

const HEAD_LIMIT: usize = 256 << 10;

fn wrong<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Wrong(what.into()))
}

fn is_token(name: &[u8]) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || special.contains(b))
}

impl Head {
    /// Values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |(n, _): &&(String, Vec<u8>)| n.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|(_, value)| value.as_slice())
    }

    /// The value of a field that is there once.
    pub fn one(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        let first = all.next()?;
        all.next().is_none().then(|| String::from_utf8_lossy(first).into_owned())
    }

    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    fn lengths(&self) -> Result<Option<Framing>, Fault> {
        let coded = self.has("transfer-encoding");
        match (coded, self.all("content-length").count()) {
            (true, 0) if self.one("transfer-encoding").as_deref() == Some("chunked") => {
                Ok(Some(Framing::Chunked))
            }
            (false, 0) => Ok(None),
            (false, 1) => {
                let length = self.one("content-length").unwrap_or_default();
                match length.bytes().all(|b| b.is_ascii_digit()).then(|| length.parse()) {
                    Some(Ok(length)) => Ok(Some(Framing::Length(length))),
                    _ => wrong(format!("Content-Length {length:?}")),
                }
            }
            _ => wrong(format!("framing of {:?}", self.fields)),
        }
    }

    /// How a request's body ends.
    pub fn request_framing(&self) -> Result<Framing, Fault> {
        Ok(self.lengths()?.unwrap_or(Framing::Length(0)))
    }

    pub fn status(&self) -> u16 {
        self.first[1].parse().unwrap_or_default()
    }

    /// How an answer's body ends.
    pub fn answer_framing(&self, method: &str) -> Result<Framing, Fault> {
        let status = self.status();
        let framing = self.lengths()?;
        if status / 100 == 1 || status == 204 {
            return match framing {
                None => Ok(Framing::Length(0)),
                Some(framing) => wrong(format!("{status} with {framing:?}")),
            };
        }
        if method == "HEAD" || status == 304 {
            return Ok(Framing::Length(0));
        }
        Ok(framing.unwrap_or(Framing::Close))
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Reader<R> {
        Reader { io, buffer: Vec::new(), taken: 0 }
    }

    pub fn io(&mut self) -> &mut R {
        &mut self.io
    }

    /// Reads some more.
    pub async fn fill(&mut self) -> Result<(), Fault> {
        match self.io.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Fault::Ended(io::ErrorKind::UnexpectedEof)),
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::Ended(error.kind())),
        }
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        self.taken += n as u64;
        self.buffer.drain(..n).collect()
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].iter().position(|b| *b == b'\n') {
                let mut line = self.take(from + at + 1);
                line.pop();
                if line.pop() != Some(b'\r') || line.contains(&b'\r') {
                    return wrong(format!("a line {:?}", String::from_utf8_lossy(&line)));
                }
                return Ok(line);
            }
            from = self.buffer.len();
            if from > HEAD_LIMIT {
                return wrong("an endless line");
            }
            self.fill().await?;
        }
    }

    async fn fields(&mut self) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let Some(colon) = line.iter().position(|b| *b == b':') else {
                return wrong(format!("a field {:?}", String::from_utf8_lossy(&line)));
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let clean = value.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 127));
            if !is_token(name) || !clean || fields.len() > 300 {
                return wrong(format!("a field {:?}", String::from_utf8_lossy(&line)));
            }
            fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
        }
    }

    /// The next head; `None`: the connection ended in order before it.
    pub async fn head(&mut self) -> Result<Option<Head>, Fault> {
        if self.buffer.is_empty() {
            match self.fill().await {
                Ok(()) => {}
                Err(Fault::Ended(io::ErrorKind::UnexpectedEof)) => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
        let line = String::from_utf8_lossy(&self.line().await?).into_owned();
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let Ok(first) = <[&str; 3]>::try_from(words) else {
            return wrong(format!("a first line {line:?}"));
        };
        let first = first.map(str::to_owned);
        Ok(Some(Head { first, fields: self.fields().await? }))
    }

    /// A request's head, with all that a server must look at.
    pub async fn request(&mut self) -> Result<Option<Head>, Fault> {
        let Some(head) = self.head().await? else { return Ok(None) };
        let [method, target, version] = &head.first;
        let plain = |b: u8| b > b' ' && b != 127 && b != b'#';
        if !is_token(method.as_bytes()) || target.is_empty() || !target.bytes().all(plain) {
            return wrong(format!("a request line {:?}", head.first));
        }
        if version != "HTTP/1.1" || head.all("host").count() != 1 {
            return wrong(format!("a request {head:?}"));
        }
        Ok(Some(head))
    }

    /// An answer's head.
    pub async fn answer(&mut self) -> Result<Head, Fault> {
        let Some(head) = self.head().await? else {
            return Err(Fault::Ended(io::ErrorKind::UnexpectedEof));
        };
        let [version, status, reason] = &head.first;
        let known = version == "HTTP/1.1" || version == "HTTP/1.0";
        let numbered = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
        if !known || !numbered || head.status() < 100 || reason.contains('\0') {
            return wrong(format!("a status line {:?}", head.first));
        }
        Ok(head)
    }

    /// `n` bytes of a body, added to `data`.
    async fn bytes(&mut self, mut n: usize, data: &mut Vec<u8>) -> Result<(), Fault> {
        while n > 0 {
            if self.buffer.is_empty() {
                self.fill().await?;
            }
            let some = n.min(self.buffer.len());
            data.extend(self.take(some));
            n -= some;
        }
        Ok(())
    }

    /// The body of a message; what there was of it stands in `body` whatever comes of it.
    pub async fn body(&mut self, framing: Framing, body: &mut Body) -> Result<(), Fault> {
        match framing {
            Framing::Length(length) => self.bytes(length, &mut body.data).await,
            Framing::Close => loop {
                let n = self.buffer.len();
                body.data.extend(self.take(n));
                match self.fill().await {
                    Ok(()) => {}
                    Err(Fault::Ended(io::ErrorKind::UnexpectedEof)) => return Ok(()),
                    Err(fault) => return Err(fault),
                }
            },
            Framing::Chunked => loop {
                let line = String::from_utf8_lossy(&self.line().await?).into_owned();
                let digits = !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit());
                let Some(Ok(size)) = digits.then(|| usize::from_str_radix(&line, 16)) else {
                    return wrong(format!("a chunk of {line:?}"));
                };
                if size == 0 {
                    body.trailers = self.fields().await?;
                    return Ok(());
                }
                self.bytes(size, &mut body.data).await?;
                if !self.line().await?.is_empty() {
                    return wrong("a chunk that goes on");
                }
            },
        }
    }
}
