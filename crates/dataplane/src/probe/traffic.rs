//! A few bytes on the loopback interface. Nothing here waits longer than [`PATIENCE`].

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);

/// The port that clients ask for where a program is to change it (`PROBE_PORT`).
pub(super) const ASKED: u16 = 9;

/// A server that accepts on any free port.
pub(super) fn listen(ip: IpAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((ip, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(super) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    wait_readable(listener)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Both ends of a connection: the connecting one, the accepting one.
pub(super) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = listen(std::net::Ipv4Addr::LOCALHOST.into())?;
    let client = connect(listener.local_addr()?)?;
    Ok((client, accept(&listener)?))
}

/// Sends bytes and reads as many.
pub(super) fn pass(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    from.write_all(bytes)?;
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got)?;
    match got == bytes {
        true => Ok(()),
        false => Err(io::Error::other("other bytes arrived than were sent")),
    }
}

pub(super) fn datagrams(ip: IpAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let (a, b) = (UdpSocket::bind((ip, 0))?, UdpSocket::bind((ip, 0))?);
    a.set_read_timeout(Some(PATIENCE))?;
    b.set_read_timeout(Some(PATIENCE))?;
    Ok((a, b))
}

pub(super) fn wait_readable(socket: &impl AsFd) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one pollfd, writable for the call.
    match unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32) } {
        0 => Err(io::ErrorKind::TimedOut.into()),
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel says is there to be read.
pub(super) fn readable_bytes(socket: &TcpStream) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) } {
        0 => Ok(bytes as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that a socket has received by TCP.
pub(super) fn received_by_tcp(socket: &TcpStream) -> io::Result<u64> {
    // bytes_received is at this place since Linux 4.1 (include/uapi/linux/tcp.h, struct tcp_info)
    const PLACE: usize = 128;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = info[PLACE..PLACE + 8].try_into().expect("eight bytes");
    Ok(u64::from_ne_bytes(bytes))
}
