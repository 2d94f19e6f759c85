//! The network namespace of a client: going there, and its rule of routing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::owned;
use crate::netlink;

/// Mark of the packets that lead to the proxy, number of the table that leads them there, and
/// priority of the rule that looks it up. A rule for a mark that no socket has changes nothing.
pub(super) const MARK: u32 = 0xbee;

/// A network namespace.
pub(crate) struct Namespace(OwnedFd);

/// For as long as it is there, the thread is in another network namespace.
pub(crate) struct Inside {
    home: OwnedFd,
}

impl Namespace {
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Namespace> {
        // SAFETY: the request takes no argument and returns a descriptor.
        owned(|| unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS) }.into()).map(Namespace)
    }

    pub fn of_process(pid: u32) -> io::Result<Namespace> {
        File::open(format!("/proc/{pid}/ns/net")).map(|file| Namespace(file.into()))
    }

    pub fn enter(&self) -> io::Result<Inside> {
        let home = File::open("/proc/thread-self/ns/net")?.into();
        set(self.0.as_fd())?;
        Ok(Inside { home })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = set(self.home.as_fd()) {
            // all that this thread does next would be done at the wrong place
            panic!("cannot go back to the agent's network namespace: {error}");
        }
    }
}

fn set(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no pointers, and the descriptor is open.
    let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// rtnetlink (man 7 rtnetlink, include/uapi/linux/{rtnetlink,fib_rules}.h)
const LOOPBACK: u32 = 1;
const LOCAL_ROUTE: u8 = 2;
const HOST_SCOPE: u8 = 254;
const STATIC_ROUTE: u8 = 4;
const TO_TABLE: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;

/// Lets marked packets be delivered on this host, wherever they are for:
/// `ip rule add fwmark MARK lookup MARK` and `ip route add local default dev lo table MARK`.
pub(super) fn add_rule(v6: bool) -> io::Result<()> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
    // family, lengths of prefixes, type of service, table, protocol, scope, type, flags
    let route = [family, 0, 0, 0, 0, STATIC_ROUTE, HOST_SCOPE, LOCAL_ROUTE, 0, 0, 0, 0];
    request(libc::RTM_NEWROUTE, route, &[(RTA_OIF, LOOPBACK), (RTA_TABLE, MARK)])?;
    let rule = [family, 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let attributes =
        [(FRA_PRIORITY, MARK), (FRA_FWMARK, MARK), (FRA_FWMASK, u32::MAX), (FRA_TABLE, MARK)];
    request(libc::RTM_NEWRULE, rule, &attributes)
}

/// Makes a request; that something is there already is fine.
fn request(kind: u16, fixed: [u8; 12], attributes: &[(u16, u32)]) -> io::Result<()> {
    let mut body = fixed.to_vec();
    for (name, value) in attributes {
        body.extend(8u16.to_ne_bytes());
        body.extend(name.to_ne_bytes());
        body.extend(value.to_ne_bytes());
    }
    match netlink::ask(libc::NETLINK_ROUTE, kind, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        done => done,
    }
}
