//! What comes in, cut into frames and heads.

use h2::Reason;

use super::frame::{CONTINUATION, END_HEADERS, END_STREAM, Frame, HEADERS};

/// Keeps what has not come as a whole.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The beginning of a frame.
    held: Vec<u8>,
    block: Option<Block>,
}

/// Something that has come.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// HEADERS and what continues them, without padding and priority.
    Head { stream: u32, ends: bool, block: &'a [u8] },
    /// Any other frame.
    Frame(Frame<'a>),
}

impl Reader {
    /// Hands on what is whole with `data`.
    pub fn read(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(Piece<'_>) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        let mut held = std::mem::take(&mut self.held);
        let mut input = data;
        if !held.is_empty() {
            held.extend_from_slice(data);
            input = &held;
        }
        while let Some(frame) = Frame::take(&mut input)? {
            match self.block.take() {
                Some(mut block) => {
                    if block.add(&frame)? {
                        let Block { stream, ends, bytes, .. } = &block;
                        each(Piece::Head { stream: *stream, ends: *ends, block: bytes })?;
                    } else {
                        self.block = Some(block);
                    }
                }
                None if frame.kind == HEADERS => {
                    let (stream, ends) = (frame.stream, frame.has(END_STREAM));
                    let block = frame.content()?;
                    if frame.has(END_HEADERS) {
                        each(Piece::Head { stream, ends, block })?;
                    } else {
                        self.block = Some(Block::new(stream, ends, block));
                    }
                }
                None => each(Piece::Frame(frame))?,
            }
        }
        self.held = input.to_vec();
        Ok(())
    }
}

/// A head that is on its way, in one or more frames.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
    frames: usize,
}

/// Bytes of a head as it is sent, which is less than what it stands for.
const BLOCK: usize = crate::limits::REQUEST_HEAD * 2;

/// Frames of a head.
const BLOCK_FRAMES: usize = 32;

impl Block {
    fn new(stream: u32, ends: bool, first: &[u8]) -> Block {
        Block { stream, ends, bytes: first.to_vec(), frames: 1 }
    }

    /// Adds the next frame. Whether that was the last.
    fn add(&mut self, frame: &Frame<'_>) -> Result<bool, Reason> {
        if frame.kind != CONTINUATION || frame.stream != self.stream {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.frames += 1;
        if self.frames > BLOCK_FRAMES || self.bytes.len() + frame.payload.len() > BLOCK {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.bytes.extend_from_slice(frame.payload);
        Ok(frame.has(END_HEADERS))
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{PAYLOAD, PING, head, headers, ping};
    use super::*;

    fn names(reader: &mut Reader, data: &[u8]) -> Vec<(u32, usize)> {
        let mut read = Vec::new();
        let each = |piece: Piece<'_>| {
            read.push(match piece {
                Piece::Head { stream, block, .. } => (stream, block.len()),
                Piece::Frame(frame) => (frame.stream, frame.payload.len()),
            });
            Ok(())
        };
        reader.read(data, each).unwrap();
        read
    }

    #[test]
    fn frames_and_heads_are_read_wherever_they_are_cut() {
        let mut bytes = Vec::new();
        ping(&mut bytes, 0, &[7; 8]);
        headers(&mut bytes, 5, true, |out| out.extend(vec![9; 2 * PAYLOAD + 1]));
        headers(&mut bytes, 7, true, |out| out.push(9));
        for size in [1, 2, 9, 10, 100, 16_384, 40_000] {
            let mut reader = Reader::default();
            let read: Vec<_> =
                bytes.chunks(size).flat_map(|piece| names(&mut reader, piece)).collect();
            assert_eq!(read, [(0, 8), (5, 2 * PAYLOAD + 1), (7, 1)], "by {size}");
            assert!(reader.held.is_empty() && reader.block.is_none());
        }
    }

    #[test]
    fn nothing_comes_within_a_head() {
        let mut bytes = Vec::new();
        head(&mut bytes, 0, HEADERS, 0, 1);
        head(&mut bytes, 0, PING, 0, 0);
        let read = Reader::default().read(&bytes, |_| Ok(()));
        assert_eq!(read, Err(Reason::PROTOCOL_ERROR));
    }

    #[test]
    fn heads_have_an_end() {
        let more = |stream, payload| Frame { kind: CONTINUATION, flags: 0, stream, payload };
        let mut block = Block::new(1, false, b"");
        assert_eq!(block.add(&more(3, b"")), Err(Reason::PROTOCOL_ERROR));
        let mut added = (0..).map(|_| block.add(&more(1, b"")));
        assert_eq!(added.find_map(Result::err), Some(Reason::ENHANCE_YOUR_CALM));
        let mut block = Block::new(1, false, b"");
        let payload = [0; PAYLOAD];
        let mut added = (0..8).map(|_| block.add(&more(1, &payload)));
        assert_eq!(added.find_map(Result::err), Some(Reason::ENHANCE_YOUR_CALM));
    }
}
