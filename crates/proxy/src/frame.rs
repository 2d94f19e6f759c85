//! The wire format between kernel and proxy: `struct frame` of `bpf/include/abi.h`, by hand.
//!
//! The dataplane crate asserts that the layout it generates from the header equals this one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a frame's header.
pub const FRAME_BYTES: usize = size_of::<Frame>();

/// `FRAME_DATA`: bytes of a connection.
pub const KIND_DATA: u16 = 1;
/// `FRAME_REQUEST`: the payload starts with a whole request head, for which `draw` was used.
pub const FLAG_REQUEST: u16 = 1;
/// `FRAME_STICKY`: all later bytes of the connection come this way.
pub const FLAG_STICKY: u16 = 2;
/// `FRAME_END`: the answer to the current request ends with this payload.
pub const FLAG_END: u16 = 4;
/// From the agent: the socket sends the bytes instead of receiving them.
pub const FLAG_OUT: u16 = 8;

/// `struct address`: an address and port, IPv4 as IPv4-mapped IPv6.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Address {
    /// Address bytes, network order.
    pub ip: [u8; 16],
    /// Port, host byte order.
    pub port: u16,
    /// 4 or 6: how the client named it.
    pub family: u16,
}

/// `struct frame`: stands in front of the bytes of each message.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Frame {
    /// Payload bytes that follow.
    pub length: u32,
    /// [`KIND_DATA`]; frames of other kinds are skipped.
    pub kind: u16,
    /// `FLAG_*`.
    pub flags: u16,
    /// The client's socket.
    pub cookie: u64,
    /// To the proxy: bytes of the connection handed over before these.
    pub offset: u64,
    /// To the proxy, with [`FLAG_REQUEST`]: the random number that the kernel chose a backend with.
    pub draw: u32,
    /// To the proxy, with [`FLAG_REQUEST`]: number of the request on its connection, from 1.
    /// From the proxy, with [`FLAG_END`]: number of the request that is answered, 0 if it had none.
    pub request: u32,
    /// The client.
    pub source: Address,
    /// What it connected to.
    pub service: Address,
    /// An address by which the client is known.
    pub caller: Address,
    /// Why the bytes were handed over (`enum reason`).
    pub reason: u32,
}

const _: () = {
    assert!(FRAME_BYTES == 96);
    assert!(std::mem::offset_of!(Frame, cookie) == 8);
    assert!(std::mem::offset_of!(Frame, offset) == 16);
    assert!(std::mem::offset_of!(Frame, draw) == 24);
    assert!(std::mem::offset_of!(Frame, source) == 32);
    assert!(std::mem::offset_of!(Frame, service) == 52);
    assert!(std::mem::offset_of!(Frame, caller) == 72);
};

impl Address {
    /// The IP address, IPv4 when it is IPv4-mapped.
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let (ip, family) = match address.ip() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 4),
            IpAddr::V6(v6) => (v6, 6),
        };
        Address { ip: ip.octets(), port: address.port(), family }
    }
}

/// What the kernel said of a request whose head it has judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The random number that chose its backend.
    pub draw: u32,
    /// Its number on the connection.
    pub request: u32,
}

impl Frame {
    /// Set when the payload begins with a judged head.
    pub(crate) fn judged(&self) -> Option<Judged> {
        let judged = Judged { draw: self.draw, request: self.request };
        (self.flags & FLAG_REQUEST != 0).then_some(judged)
    }
}

/// A run of payload bytes that belong together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// Header of the frame that they came in.
    pub frame: Frame,
    /// Whether the frame begins here.
    pub first: bool,
    /// Bytes of the connection handed over before these.
    pub offset: u64,
    /// May be empty when `first`.
    pub data: &'a [u8],
}

/// Takes frames out of a byte stream that may be cut anywhere.
///
/// Payload is handed on as it comes: only a header has to be complete.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    frame: Frame,
    left: usize,
}

impl Decoder {
    /// The next piece, taken off the front of `input`. `None`: more bytes are needed; what is left
    /// of `input` (less than a header) must be there again in front of them.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        loop {
            let first = self.left == 0;
            if first {
                let (frame, rest) = Frame::read_from_prefix(input).ok()?;
                *input = rest;
                self.frame = frame;
                self.left = frame.length as usize;
            } else if input.is_empty() {
                return None;
            }
            let (data, rest) = input.split_at(self.left.min(input.len()));
            *input = rest;
            let done = self.frame.length as usize - self.left;
            self.left -= data.len();
            if self.frame.kind != KIND_DATA {
                continue;
            }
            let offset = self.frame.offset.wrapping_add(done as u64);
            return Some(Piece { frame: self.frame, first, offset, data });
        }
    }
}

/// Writes a header into the room kept for it in front of a payload.
pub(crate) fn put_header(room: &mut [u8], cookie: u64, length: usize, flags: u16, request: u32) {
    let length = u32::try_from(length).expect("a frame is at most FRAME_PAYLOAD long");
    let frame = Frame { length, kind: KIND_DATA, flags, cookie, request, ..Frame::default() };
    room[..FRAME_BYTES].copy_from_slice(frame.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(cookie: u64, kind: u16, payload: &[u8]) -> Vec<u8> {
        let frame =
            Frame { length: payload.len() as u32, kind, cookie, offset: 100, ..Frame::default() };
        [frame.as_bytes(), payload].concat()
    }

    #[test]
    fn frames_cut_anywhere_give_the_same_bytes() {
        let bytes = [
            frame(1, KIND_DATA, b"hello"),
            frame(9, 77, b"of a kind to come"),
            frame(2, KIND_DATA, b""),
            frame(1, KIND_DATA, b"world"),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = [Vec::new(), Vec::new()];
            let mut firsts = 0;
            let mut held: Vec<u8> = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                held.extend_from_slice(part);
                let mut input = &held[..];
                while let Some(piece) = decoder.next(&mut input) {
                    firsts += usize::from(piece.first);
                    let into = &mut seen[piece.frame.cookie as usize - 1];
                    let done = if piece.frame.cookie == 1 { into.len() as u64 % 5 } else { 0 };
                    assert_eq!(piece.offset, 100 + done, "cut at {cut}");
                    into.extend_from_slice(piece.data);
                }
                held = input.to_vec();
            }
            assert_eq!(seen, [b"helloworld".to_vec(), Vec::new()], "cut at {cut}");
            assert_eq!(firsts, 3, "cut at {cut}");
        }
    }

    #[test]
    fn addresses_keep_their_family() {
        let v4: SocketAddr = "10.1.2.3:80".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:443".parse().unwrap();
        assert_eq!(Address::from(v4).ip(), v4.ip());
        assert_eq!(Address::from(v6).ip(), v6.ip());
        assert_eq!((Address::from(v4).family, Address::from(v6).family), (4, 6));
    }
}
