//! Network namespaces of processes.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use socket2::{Domain, Socket, Type};

use crate::divert::{namespace, option};

/// The file that stands for a network namespace. Its number is given to another one when it is
/// gone, so it says something only while a process is known to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceFile {
    device: u64,
    inode: u64,
}

impl NamespaceFile {
    /// That of a process.
    pub fn of_process(pid: u32) -> io::Result<NamespaceFile> {
        let file = std::fs::metadata(format!("/proc/{pid}/ns/net"))?;
        Ok(NamespaceFile { device: file.dev(), inode: file.ino() })
    }

    /// That of this process.
    pub fn own() -> io::Result<NamespaceFile> {
        NamespaceFile::of_process(std::process::id())
    }
}

/// Looks into the network namespace of a process: its number, which no other one ever has
/// (`SO_NETNS_COOKIE`), and, unless it is `known` by that, the addresses of its interfaces without
/// those of the loopback one. The thread is there for that time.
///
/// # Panics
/// When the thread cannot come back.
pub fn look_into(pid: u32, known: impl Fn(u64) -> bool) -> io::Result<(u64, Vec<IpAddr>)> {
    let _inside = namespace::Namespace::of_process(pid)?.enter()?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let cookie = option::get(socket.as_fd(), libc::SOL_SOCKET, option::SO_NETNS_COOKIE)?;
    if known(cookie) {
        return Ok((cookie, Vec::new()));
    }
    let address = |interface: InterfaceAddress| {
        let address = interface.address.filter(|_| interface.interface_name != "lo")?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok((cookie, getifaddrs()?.filter_map(address).collect()))
}
