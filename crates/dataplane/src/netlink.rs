//! Requests to the kernel by netlink (man 7 netlink).

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Makes a request of one message, in the network namespace of this thread, and waits for the
/// kernel's word.
pub(crate) fn ask(protocol: i32, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
    let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    // sequence number and port
    message.extend([0; 8]);
    message.extend(body);
    let family = Domain::from(libc::AF_NETLINK);
    let socket = Socket::new(family, Type::from(libc::SOCK_RAW), Some(Protocol::from(protocol)))?;
    socket.send(&message)?;
    let mut answer = [0; 256];
    // SAFETY: `answer` has room for the length given.
    let n = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    // the error stands behind the header
    match n {
        20.. => match i32::from_ne_bytes(answer[16..20].try_into().expect("4 bytes")) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        _ => Err(io::Error::from_raw_os_error(libc::EPROTO)),
    }
}
