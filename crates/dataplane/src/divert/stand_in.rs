//! A TCP socket that begins in the middle of a connection, by TCP_REPAIR: the kernel's own way to
//! move connections from one host to another (Documentation: `man 7 tcp`, CRIU).

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Ends, option};
use crate::abi;

/// SO_RCVBUF. The kernel counts twice this, for its own overhead, and fills all of it with payload
/// where segments are large: what a stalled upload holds here is at most twice this.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// What the answers that a client does not read hold here.
const SEND_BUFFER: usize = 128 * 1024;

const REPAIR_ON: i32 = 1;
const REPAIR_OFF: i32 = 0;
const RECEIVE_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;

// Kinds of TCP options (RFC 9293 section 3.1, RFC 7323, RFC 2018).
const KIND_MSS: u32 = 2;
const KIND_WINDOW_SCALE: u32 = 3;
const KIND_SACK_PERMITTED: u32 = 4;
const KIND_TIMESTAMPS: u32 = 8;

// TCPI_OPT_* of include/uapi/linux/tcp.h.
const HAS_TIMESTAMPS: u8 = 1;
const HAS_SACK: u8 = 2;
const HAS_WINDOW_SCALE: u8 = 4;

/// `struct tcp_repair_opt`.
#[repr(C)]
struct RepairOption {
    kind: u32,
    value: u32,
}

/// `struct tcp_repair_window`.
#[repr(C)]
struct RepairWindow {
    snd_wl1: u32,
    snd_wnd: u32,
    max_window: u32,
    rcv_wnd: u32,
    rcv_wup: u32,
}

/// The other end of `client`, which is as `held` says, still unable to send or receive.
pub(super) fn repaired(
    ends: &Ends,
    held: &abi::connection_query,
    client: BorrowedFd<'_>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(ends.client), Type::STREAM, Some(Protocol::TCP))?;
    let (level, transparent) = match ends.is_v6() {
        false => (libc::SOL_IP, libc::IP_TRANSPARENT),
        true => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    option::set(socket.as_fd(), level, transparent, &1i32)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    tcp(&socket, libc::TCP_REPAIR, &REPAIR_ON)?;
    socket.bind(&SockAddr::from(ends.endpoint))?;
    for (queue, sequence) in [(SEND_QUEUE, held.rcv_nxt), (RECEIVE_QUEUE, held.snd_una)] {
        tcp(&socket, libc::TCP_REPAIR_QUEUE, &queue)?;
        tcp(&socket, libc::TCP_QUEUE_SEQ, &sequence)?;
    }
    socket.connect(&SockAddr::from(ends.client))?;
    let info: libc::tcp_info = option::get(client, libc::SOL_TCP, libc::TCP_INFO)?;
    option::set_list(socket.as_fd(), libc::SOL_TCP, libc::TCP_REPAIR_OPTIONS, &negotiated(&info))?;
    let room = held.rcv_wup.wrapping_add(held.rcv_wnd).wrapping_sub(held.rcv_nxt);
    let window = RepairWindow {
        snd_wl1: held.snd_una.wrapping_sub(1),
        snd_wnd: room,
        max_window: room,
        rcv_wnd: held.snd_wnd,
        rcv_wup: held.snd_una,
    };
    tcp(&socket, libc::TCP_REPAIR_WINDOW, &window)?;
    if info.tcpi_options & HAS_TIMESTAMPS != 0 {
        // Later than any that the client has seen; an odd one would be counted in microseconds.
        let later = held.ts_recent.wrapping_add(2) & !1;
        tcp(&socket, libc::TCP_TIMESTAMP, &later)?;
    }
    Ok(socket)
}

/// Lets it send and receive.
pub(super) fn begin(socket: Socket) -> io::Result<TcpStream> {
    tcp(&socket, libc::TCP_REPAIR, &REPAIR_OFF)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn tcp<T>(socket: &Socket, name: libc::c_int, value: &T) -> io::Result<()> {
    option::set(socket.as_fd(), libc::SOL_TCP, name, value)
}

/// What the client and its endpoint agreed on, from the endpoint's point of view.
fn negotiated(client: &libc::tcp_info) -> Vec<RepairOption> {
    let of = |kind, value| RepairOption { kind, value };
    let mut options = vec![of(KIND_MSS, client.tcpi_advmss)];
    if client.tcpi_options & HAS_WINDOW_SCALE != 0 {
        let (theirs, ours) = (client.tcpi_snd_rcv_wscale & 15, client.tcpi_snd_rcv_wscale >> 4);
        // the scale of what it sends, then of what it receives
        options.push(of(KIND_WINDOW_SCALE, u32::from(ours) | u32::from(theirs) << 16));
    }
    if client.tcpi_options & HAS_SACK != 0 {
        options.push(of(KIND_SACK_PERMITTED, 0));
    }
    if client.tcpi_options & HAS_TIMESTAMPS != 0 {
        options.push(of(KIND_TIMESTAMPS, 0));
    }
    options
}
