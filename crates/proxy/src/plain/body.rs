//! Where a plain answer's body ends.

/// Bytes of all chunk extensions of a body, which are thrown away. More: broken.
const EXTENSIONS: usize = 16 * 1024;

/// Bytes of trailers, which are thrown away. More: broken.
const TRAILERS: usize = 16 * 1024;

/// Fields in trailers. More: broken.
const TRAILER_FIELDS: usize = 100;

/// What is still to come of a body.
pub(super) enum Body {
    /// Bytes.
    Length(u64),
    Chunked(Chunked),
}

/// The chunked coding (RFC 9112 section 7.1), as strict as the HTTP library.
#[derive(Default)]
pub(super) struct Chunked {
    state: State,
    /// Bytes left of the chunk.
    left: u64,
    extensions: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Size,
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A trailer begins, or the end.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// The framing is not one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// A run of bytes: how many were looked at, and which of them are content.
pub(super) struct Run<'a> {
    pub used: usize,
    pub content: &'a [u8],
}

impl Body {
    pub fn length(length: u64) -> Body {
        Body::Length(length)
    }

    pub fn chunked() -> Body {
        Body::Chunked(Chunked::default())
    }

    pub fn is_chunked(&self) -> bool {
        matches!(self, Body::Chunked(_))
    }

    pub fn has_ended(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunked) => chunked.state == State::End,
        }
    }

    /// Takes what comes next of the body off the front of `data`, which is not empty. The body has
    /// not ended.
    pub fn next<'a>(&mut self, data: &'a [u8]) -> Result<Run<'a>, Broken> {
        match self {
            Body::Length(left) => {
                let used = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= used as u64;
                Ok(Run { used, content: &data[..used] })
            }
            Body::Chunked(chunked) => chunked.next(data),
        }
    }
}

impl Chunked {
    fn next<'a>(&mut self, data: &'a [u8]) -> Result<Run<'a>, Broken> {
        let mut used = 0;
        while used < data.len() && !matches!(self.state, State::Data | State::End) {
            self.state = self.step(data[used])?;
            used += 1;
        }
        let rest = &data[used..];
        if self.state != State::Data || rest.is_empty() {
            return Ok(Run { used, content: &[] });
        }
        let taken = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        Ok(Run { used: used + taken, content: &rest[..taken] })
    }

    fn step(&mut self, byte: u8) -> Result<State, Broken> {
        Ok(match (self.state, byte) {
            (State::Start, b) => self.digit(b)?,
            (State::Size | State::SizeSpace, b'\r') => State::SizeLf,
            (State::Size | State::SizeSpace, b';') => State::Extension,
            (State::Size | State::SizeSpace, b' ' | b'\t') => State::SizeSpace,
            (State::Size, b) => self.digit(b)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b) if b != b'\n' && self.extensions + 1 < EXTENSIONS => {
                self.extensions += 1;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left == 0 => State::Line,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            (State::Line, b'\r') => State::EndLf,
            (State::Line | State::Trailer, b) => {
                let state = if b == b'\r' { State::TrailerLf } else { State::Trailer };
                self.keep(b, state)?
            }
            (State::TrailerLf, b'\n') => self.keep(b'\n', State::Line)?,
            (State::EndLf, b'\n') => self.end()?,
            _ => return Err(Broken),
        })
    }

    fn digit(&mut self, byte: u8) -> Result<State, Broken> {
        let digit = char::from(byte).to_digit(16).ok_or(Broken)?;
        let size = self.left.checked_mul(16).ok_or(Broken)?;
        self.left = size + u64::from(digit);
        Ok(State::Size)
    }

    fn keep(&mut self, byte: u8, state: State) -> Result<State, Broken> {
        self.trailers.push(byte);
        if self.trailers.len() < TRAILERS { Ok(state) } else { Err(Broken) }
    }

    /// Trailers must be fields although nobody gets them.
    fn end(&mut self) -> Result<State, Broken> {
        if self.trailers.is_empty() {
            return Ok(State::End);
        }
        self.trailers.extend_from_slice(b"\r\n");
        let mut room = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
        match httparse::parse_headers(&self.trailers, &mut room) {
            Ok(httparse::Status::Complete(_)) => Ok(State::End),
            _ => Err(Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, and what follows the body; `None`: it has not ended.
    fn read(coded: &[u8], piece: usize) -> Result<(Vec<u8>, Option<Vec<u8>>), Broken> {
        let mut body = Body::chunked();
        let (mut content, mut rest) = (Vec::new(), coded);
        while !rest.is_empty() && !body.has_ended() {
            let run = body.next(&rest[..piece.min(rest.len())])?;
            assert_ne!(run.used, 0);
            content.extend_from_slice(run.content);
            rest = &rest[run.used..];
        }
        Ok((content, body.has_ended().then(|| rest.to_vec())))
    }

    #[test]
    fn chunks_are_followed_wherever_they_are_cut() {
        for (coded, content, rest) in [
            ("0\r\n\r\n", "", Some("")),
            ("5\r\nhello\r\n0\r\n\r\nmore", "hello", Some("more")),
            (
                "05 \t;a=b\r\nhello\r\nA;\r\n0123456789\r\n000;x\r\n\r\n",
                "hello0123456789",
                Some(""),
            ),
            ("1\r\na\r\n0\r\nx: y\r\nz:\r\n\r\nmore", "a", Some("more")),
            ("5\r\nhell", "hell", None),
            ("5\r\nhello\r\n0\r\n\r", "hello", None),
        ] {
            for piece in 1..=coded.len() {
                let wanted = (content.as_bytes().to_vec(), rest.map(|r| r.as_bytes().to_vec()));
                assert_eq!(read(coded.as_bytes(), piece), Ok(wanted), "{coded} by {piece}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_broken() {
        let long = format!("0;{}\r\n\r\n", "x".repeat(EXTENSIONS));
        let trailers = format!("0\r\nx: {}\r\n\r\n", "x".repeat(TRAILERS));
        for coded in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "5\nhello",
            "5 5\r\n",
            "5;\nhello",
            "5\r\nhello5\r\n",
            "5\r\nhello\n",
            "10000000000000000\r\n",
            "0\r\nx\r\n\r\n",
            "0\r\n x: y\r\n\r\n",
            "0\r\n\rx",
            &long,
            &trailers,
        ] {
            for piece in [1, 3, coded.len()] {
                assert_eq!(read(coded.as_bytes(), piece), Err(Broken), "{coded} by {piece}");
            }
        }
    }
}
