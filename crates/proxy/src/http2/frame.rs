//! Frames (RFC 9113 sections 4 and 6).

use h2::Reason;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;

/// Payload of a frame, unless the other side takes more: what is taken here, and sent from here.
pub(super) const PAYLOAD: usize = 16_384;

/// Bytes that may be sent before anybody has said anything of it.
pub(super) const WINDOW: u32 = 65_535;

/// The largest window.
pub(super) const WINDOW_MAX: i64 = (1 << 31) - 1;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITIZED: u8 = 0x20;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// A frame as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the frame that `input` begins with off its front; `None`: it is not there as a whole.
    pub fn take(input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Reason> {
        let Some((head, rest)) = input.split_at_checked(HEAD) else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if length > PAYLOAD {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let Some((payload, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        *input = rest;
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload }))
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of DATA and HEADERS without padding and priority.
    pub fn content(&self) -> Result<&'a [u8], Reason> {
        let mut content = self.payload;
        let mut padding = 0;
        if self.has(PADDED) {
            let (length, rest) = content.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
            (padding, content) = (usize::from(*length), rest);
        }
        if self.kind == HEADERS && self.has(PRIORITIZED) {
            content = content.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)?;
        }
        let end = content.len().checked_sub(padding).ok_or(Reason::PROTOCOL_ERROR)?;
        Ok(&content[..end])
    }

    /// The number that RST_STREAM and WINDOW_UPDATE are.
    pub fn number(&self) -> Result<u32, Reason> {
        let number = self.payload.try_into().map_err(|_| Reason::FRAME_SIZE_ERROR)?;
        Ok(u32::from_be_bytes(number))
    }

    /// The settings in one of them.
    pub fn settings(&self) -> Result<impl Iterator<Item = (u16, u32)> + use<'a>, Reason> {
        let (settings, rest) = self.payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let setting = |six: &[u8; 6]| {
            let [a, b, c, d, e, f] = *six;
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        };
        Ok(settings.iter().map(setting))
    }
}

/// What the other side has told of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Bytes that it takes of each stream before it says that it takes more.
    pub window: u32,
    /// Payload of a frame.
    pub payload: usize,
    /// Streams at once.
    pub streams: u32,
    /// Bytes of its table for heads.
    pub table: usize,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer { window: WINDOW, payload: PAYLOAD, streams: u32::MAX, table: super::hpack::TABLE }
    }
}

impl Peer {
    /// Takes what it says now.
    pub fn learn(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        for (setting, value) in frame.settings()? {
            match setting {
                HEADER_TABLE_SIZE => self.table = value as usize,
                ENABLE_PUSH if value > 1 => return Err(Reason::PROTOCOL_ERROR),
                MAX_CONCURRENT_STREAMS => self.streams = value,
                INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_MAX => {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
                INITIAL_WINDOW_SIZE => self.window = value,
                MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                // Larger ones are not worth the room.
                MAX_FRAME_SIZE => self.payload = PAYLOAD,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds what a WINDOW_UPDATE says to a window.
pub(super) fn widen(window: &mut i64, frame: &Frame<'_>) -> Result<(), Reason> {
    match frame.number()? & 0x7fff_ffff {
        0 => Err(Reason::PROTOCOL_ERROR),
        more => {
            *window += i64::from(more);
            if *window > WINDOW_MAX { Err(Reason::FLOW_CONTROL_ERROR) } else { Ok(()) }
        }
    }
}

/// Appends a frame's head.
pub(super) fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Appends a frame with one number.
pub(super) fn number(out: &mut Vec<u8>, kind: u8, stream: u32, number: u32) {
    head(out, 4, kind, 0, stream);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends RST_STREAM.
pub(super) fn reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    number(out, RST_STREAM, stream, reason.into());
}

/// Appends GOAWAY.
pub(super) fn go_away(out: &mut Vec<u8>, last: u32, reason: Reason) {
    head(out, 8, GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&u32::from(reason).to_be_bytes());
}

/// Appends PING, or the answer to one.
pub(super) fn ping(out: &mut Vec<u8>, flags: u8, payload: &[u8]) {
    head(out, payload.len(), PING, flags, 0);
    out.extend_from_slice(payload);
}

/// Appends SETTINGS.
pub(super) fn settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    head(out, settings.len() * 6, SETTINGS, 0, 0);
    for (setting, value) in settings {
        out.extend_from_slice(&setting.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends a head: HEADERS, and CONTINUATION as often as it takes. `write` appends the block.
pub(super) fn headers(
    out: &mut Vec<u8>,
    stream: u32,
    ends: bool,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    let end = if ends { END_STREAM } else { 0 };
    head(out, 0, HEADERS, end | END_HEADERS, stream);
    write(out);
    let length = out.len() - start - HEAD;
    if length <= PAYLOAD {
        let [_, a, b, c] = (length as u32).to_be_bytes();
        out[start..start + 3].copy_from_slice(&[a, b, c]);
        return;
    }
    let block = out.split_off(start + HEAD);
    out.truncate(start);
    let pieces = block.chunks(PAYLOAD);
    let last = pieces.len() - 1;
    for (at, piece) in pieces.enumerate() {
        let (kind, end) = if at == 0 { (HEADERS, end) } else { (CONTINUATION, 0) };
        let flags = if at == last { end | END_HEADERS } else { end };
        head(out, piece.len(), kind, flags, stream);
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_when_they_are_whole() {
        let mut bytes = Vec::new();
        ping(&mut bytes, ACK, &[7; 8]);
        number(&mut bytes, WINDOW_UPDATE, 3, 5);
        for cut in 0..bytes.len() {
            let mut input = &bytes[..cut];
            let first = Frame::take(&mut input).unwrap();
            assert_eq!(first.is_some(), cut >= 17);
            assert!(Frame::take(&mut input).unwrap().is_none() || cut < 17);
        }
        let mut input = &bytes[..];
        let frame = Frame::take(&mut input).unwrap().unwrap();
        assert_eq!((frame.kind, frame.payload, frame.has(ACK)), (PING, &[7; 8][..], true));
        let frame = Frame::take(&mut input).unwrap().unwrap();
        assert_eq!((frame.stream, frame.number()), (3, Ok(5)));
        assert!(matches!(
            Frame::take(&mut &[0, 64, 1, 0, 0, 0, 0, 0, 0][..]),
            Err(Reason::FRAME_SIZE_ERROR)
        ));
    }

    #[test]
    fn padding_and_priority_are_no_content() {
        let content = |kind, flags, payload| Frame { kind, flags, stream: 1, payload }.content();
        assert_eq!(content(DATA, PADDED, b"\x02data\0\0"), Ok(&b"data"[..]));
        assert_eq!(
            content(HEADERS, PADDED | PRIORITIZED, b"\x01\0\0\0\0\0head\0"),
            Ok(&b"head"[..])
        );
        assert_eq!(content(DATA, PADDED, b"\x05data"), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(content(DATA, PADDED, b""), Err(Reason::FRAME_SIZE_ERROR));
        assert_eq!(content(HEADERS, PRIORITIZED, b"\0\0"), Err(Reason::FRAME_SIZE_ERROR));
        assert_eq!(content(DATA, PRIORITIZED, b"data"), Ok(&b"data"[..]));
    }

    #[test]
    fn long_heads_take_several_frames() {
        for length in [0, 1, PAYLOAD, PAYLOAD + 1, 3 * PAYLOAD] {
            let mut out = vec![1, 2, 3];
            headers(&mut out, 5, true, |out| out.extend(vec![9; length]));
            let mut input = &out[3..];
            let first = Frame::take(&mut input).unwrap().unwrap();
            assert_eq!((first.kind, first.stream, first.has(END_STREAM)), (HEADERS, 5, true));
            let mut block = first.payload.to_vec();
            let mut whole = first.has(END_HEADERS);
            while let Some(frame) = Frame::take(&mut input).unwrap() {
                assert!(!whole);
                assert_eq!(frame.kind, CONTINUATION);
                block.extend_from_slice(frame.payload);
                whole = frame.has(END_HEADERS);
            }
            assert!(whole && block == vec![9; length]);
        }
    }
}
