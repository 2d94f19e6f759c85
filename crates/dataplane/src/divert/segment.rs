//! A segment that says: this connection is reset (RFC 9293 section 3.5.2).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::option;

const TCP_HEADER: usize = 20;
const RST: u8 = 4;

/// Sends a reset from one end of a connection to the other, from the network namespace of this
/// thread. `sequence` must be the number that the other end expects next.
pub(super) fn reset(from: SocketAddr, to: SocketAddr, sequence: u32) -> io::Result<()> {
    let socket =
        Socket::new(Domain::for_address(to), Type::from(libc::SOCK_RAW), Some(Protocol::TCP))?;
    // the address that it speaks for may be another host's
    let (level, name) = match to {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    option::set(socket.as_fd(), level, name, &1i32)?;
    // raw sockets have protocols where others have ports
    socket.bind(&SockAddr::from(SocketAddr::new(from.ip(), 0)))?;
    let segment = segment(from, to, sequence);
    let to = SockAddr::from(SocketAddr::new(to.ip(), 0));
    // SAFETY: segment and address are live for the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            segment.as_ptr().cast(),
            segment.len(),
            0,
            to.as_ptr().cast(),
            to.len(),
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn segment(from: SocketAddr, to: SocketAddr, sequence: u32) -> [u8; TCP_HEADER] {
    let mut header = [0; TCP_HEADER];
    header[0..2].copy_from_slice(&from.port().to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[12] = (TCP_HEADER as u8 / 4) << 4;
    header[13] = RST;
    let sum = checksum(from.ip(), to.ip(), &header);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The Internet checksum with TCP's pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8; TCP_HEADER]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = |bytes: &[u8]| {
        let pairs = bytes.chunks_exact(2);
        pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>()
    };
    let mut sum = words(&octets(from)) + words(&octets(to)) + words(segment);
    sum += libc::IPPROTO_TCP as u32 + TCP_HEADER as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_its_checksum_sums_to_nothing() {
        for (from, to) in [("10.1.2.3:80", "10.9.8.7:40000"), ("[fd00::1]:80", "[fd00::2]:40000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mut segment = segment(from, to, 0xdead_beef);
            assert_eq!(checksum(from.ip(), to.ip(), &segment), 0);
            segment[4] ^= 1;
            assert_ne!(checksum(from.ip(), to.ip(), &segment), 0);
        }
    }
}
