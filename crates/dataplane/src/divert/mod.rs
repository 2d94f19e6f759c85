//! Lets a client's connection lead to the proxy, in the middle of it.
//!
//! The connection was made to an endpoint, and the client's socket keeps saying so. What changes is
//! who answers its packets: a socket of ours in the client's network namespace that has the
//! endpoint's address and the sequence numbers of this connection ([`stand_in`]). A mark on the
//! client's socket makes a rule of routing hold that leads its packets there ([`namespace`]), and the
//! endpoint is told that the connection is over ([`segment`]). From then on it is plain TCP between
//! client and proxy: back-pressure, half-close, an orderly end, a reset.
//!
//! While this is done the connection is held: bpf/packet.bpf.c lets no packet of it pass.

pub(crate) mod namespace;
pub(crate) mod option;
mod segment;
mod stand_in;

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use crate::abi;
use crate::error::{Context, Result};
use crate::run;
use namespace::Namespace;

/// TCP_ESTABLISHED (include/net/tcp_states.h).
const ESTABLISHED: u32 = 1;

/// The proxy's end of a connection that leads to it now.
#[derive(Debug)]
pub struct Diverted {
    /// Connected to the client; not blocking.
    pub socket: TcpStream,
    /// Sequence number of the first byte that can be read from it.
    pub first: u32,
    /// Index of the worker whose bus the connection used.
    pub worker: usize,
}

/// Where the bytes of a diverted connection begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Bytes that went by bus before.
    pub by_bus: u64,
    /// Sequence number of the first byte that did not, if there was one yet.
    pub first: Option<u32>,
}

/// What is needed to divert connections.
pub(crate) struct Diverter {
    /// `query_connection` and `find_descriptor` of bpf/syscall.bpf.c.
    query: OwnedFd,
    find: OwnedFd,
    /// Cookies of network namespaces that have the rule, with the address family.
    prepared: Mutex<HashSet<(u64, bool)>>,
}

impl Diverter {
    pub fn new(query: OwnedFd, find: OwnedFd) -> Diverter {
        Diverter { query, find, prepared: Mutex::default() }
    }

    /// Gives a client's connection to us; `None`: it is ours already. Blocks for some 0.3 ms and needs
    /// a thread whose network namespace may be another for that time.
    pub fn divert(&self, cookie: u64, first_bus: u32) -> Result<Option<Diverted>> {
        let found = self.ask(cookie, abi::way::WAY_BUS)?;
        if found.way == abi::way::WAY_DIRECT.0 {
            return Ok(None);
        }
        if found.open == 0 || found.state != ESTABLISHED {
            return Err(gone()).context(|| format!("divert connection {cookie}"));
        }
        let held = self.ask(cookie, abi::way::WAY_HELD)?;
        let ends = Ends::of(&held);
        let client = self.socket_of(cookie).context(|| "get at the client's socket".into())?;
        let _inside = Namespace::of_socket(client.as_fd())
            .and_then(|namespace| namespace.enter())
            .context(|| "enter the client's network namespace".into())?;
        self.prepare(client.as_fd(), ends.is_v6())
            .context(|| "add a routing rule to the client's network namespace".into())?;
        ends.reset_endpoint(&held).context(|| "end the connection to the endpoint".into())?;
        let socket = stand_in::repaired(&ends, &held, client.as_fd())
            .context(|| "take the endpoint's place".into())?;
        option::set(client.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, &namespace::MARK)
            .context(|| "mark the client's socket".into())?;
        let now = self.ask(cookie, abi::way::WAY_DIRECT)?;
        if now.open == 0 || now.rcv_nxt != held.rcv_nxt {
            return Err(gone()).context(|| format!("divert connection {cookie}"));
        }
        // Its first segment makes the client's socket send what was held.
        let socket = stand_in::begin(socket).context(|| "begin in the endpoint's place".into())?;
        Ok(Some(Diverted {
            socket,
            first: held.snd_una,
            worker: held.bus.wrapping_sub(first_bus) as usize,
        }))
    }

    /// Where the bytes of a diverted connection begin; `None`: there is no such connection.
    pub fn turn(&self, cookie: u64) -> Option<Turn> {
        let found = self.ask(cookie, abi::way::WAY_BUS).ok()?;
        Some(Turn { by_bus: found.by_bus, first: (found.direct != 0).then_some(found.first) })
    }

    /// Resets a connection at both ends; the client reads what it has not read, then ECONNRESET. As
    /// for [`Diverter::divert`], the thread's network namespace may change for a moment.
    pub fn reset(&self, cookie: u64) -> Result<()> {
        let found = self.ask(cookie, abi::way::WAY_DIRECT)?;
        if found.open == 0 {
            return Ok(());
        }
        let namespace = match self.socket_of(cookie) {
            Ok(client) => Namespace::of_socket(client.as_fd()),
            // io_uring knows sockets without descriptors
            Err(_) => Namespace::of_process(found.pid),
        };
        let _inside = namespace
            .and_then(|namespace| namespace.enter())
            .context(|| "enter the client's network namespace".into())?;
        let ends = Ends::of(&found);
        ends.reset_client(&found).context(|| "reset the client's connection".into())?;
        ends.reset_endpoint(&found).context(|| "reset the endpoint's connection".into())
    }

    fn ask(&self, cookie: u64, way: abi::way) -> Result<abi::connection_query> {
        let mut query = abi::connection_query { cookie, way: way.0, ..Default::default() };
        run::run(self.query.as_fd(), &mut query).context(|| "ask about a connection".into())?;
        if query.found == 0 {
            return Err(gone()).context(|| format!("find connection {cookie}"));
        }
        Ok(query)
    }

    /// A descriptor of ours for the client's very socket.
    fn socket_of(&self, cookie: u64) -> io::Result<OwnedFd> {
        let mut query = abi::descriptor_query { cookie, ..Default::default() };
        run::run(self.find.as_fd(), &mut query)?;
        if query.descriptor < 0 {
            return Err(io::Error::other(format!("process {} does not have it open", query.pid)));
        }
        let process = owned(|| {
            // SAFETY: the call takes no pointers.
            unsafe { libc::syscall(libc::SYS_pidfd_open, query.pid, 0) }
        })?;
        let socket = owned(|| {
            let process = std::os::fd::AsRawFd::as_raw_fd(&process);
            // SAFETY: the call takes no pointers; the descriptor is open.
            unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, query.descriptor, 0) }
        })?;
        // the process may have closed it since, and opened another file
        let found: u64 = option::get(socket.as_fd(), libc::SOL_SOCKET, libc::SO_COOKIE)?;
        if found == cookie { Ok(socket) } else { Err(gone()) }
    }

    fn prepare(&self, client: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
        let cookie: u64 = option::get(client, libc::SOL_SOCKET, option::SO_NETNS_COOKIE)?;
        let mut prepared = self.prepared.lock().expect("no panic while locked");
        if !prepared.contains(&(cookie, v6)) {
            namespace::add_rule(v6)?;
            prepared.insert((cookie, v6));
        }
        Ok(())
    }
}

/// The addresses of a connection.
struct Ends {
    client: SocketAddr,
    endpoint: SocketAddr,
}

impl Ends {
    fn of(query: &abi::connection_query) -> Ends {
        Ends { client: query.local.socket(), endpoint: query.remote.socket() }
    }

    fn is_v6(&self) -> bool {
        self.client.is_ipv6()
    }

    fn reset_endpoint(&self, query: &abi::connection_query) -> io::Result<()> {
        segment::reset(self.client, self.endpoint, query.snd_nxt)
    }

    fn reset_client(&self, query: &abi::connection_query) -> io::Result<()> {
        segment::reset(self.endpoint, self.client, query.rcv_nxt)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "its client is gone")
}

/// Takes the descriptor that a system call returns.
fn owned(call: impl FnOnce() -> libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = call();
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}
