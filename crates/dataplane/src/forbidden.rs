//! Live connections that policies forbid since they changed: ended at our end, with a reset for both
//! (`SOCK_DESTROY` of man 7 sock_diag; the application here gets ECONNABORTED, its peer ECONNRESET).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use crate::abi;
use crate::divert::namespace::Namespace;
use crate::error::{Context, Result};
use crate::netlink;

/// include/uapi/linux/sock_diag.h
const SOCK_DESTROY: u16 = 21;

/// A live connection that policies forbid. No packet of it passes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forbidden {
    /// Of the socket.
    pub cookie: u64,
    /// Number of its network namespace, as in `/proc/PID/ns/net`.
    pub namespace: u32,
    /// The socket's own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// An address by which the caller is known.
    pub caller: IpAddr,
    /// The socket was accepted: it is the one that is called.
    pub accepted: bool,
}

impl Forbidden {
    pub(crate) fn of(event: &abi::event) -> Forbidden {
        Forbidden {
            cookie: event.cookie,
            namespace: event.namespace,
            local: event.local.socket(),
            remote: event.remote.socket(),
            caller: event.caller.socket().ip(),
            accepted: event.kind != abi::event_kind::EVENT_LEFT.0,
        }
    }

    /// Who is called.
    pub fn called(&self) -> SocketAddr {
        if self.accepted { self.local } else { self.remote }
    }

    /// Resets the connection; that it is gone already is fine. The thread is in another network
    /// namespace for a moment.
    pub fn reset(&self, namespaces: &mut Namespaces) -> Result<()> {
        let _inside = namespaces
            .of(self.namespace)
            .and_then(|namespace| namespace.enter())
            .context(|| "enter the socket's network namespace".into())?;
        match netlink::ask(libc::NETLINK_SOCK_DIAG, SOCK_DESTROY, 0, &self.request()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.context(|| "end the connection".into()),
        }
    }

    /// A `struct inet_diag_req_v2` (include/uapi/linux/inet_diag.h).
    fn request(&self) -> Vec<u8> {
        let family = if self.local.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let mut request = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
        let every_state = u32::MAX;
        request.extend(every_state.to_ne_bytes());
        request.extend(self.local.port().to_be_bytes());
        request.extend(self.remote.port().to_be_bytes());
        for end in [self.local, self.remote] {
            let mut ip = [0; 16];
            match end.ip() {
                IpAddr::V4(v4) => ip[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => ip.copy_from_slice(&v6.octets()),
            }
            request.extend(ip);
        }
        let any_interface = 0u32;
        request.extend(any_interface.to_ne_bytes());
        request.extend((self.cookie as u32).to_ne_bytes());
        request.extend(((self.cookie >> 32) as u32).to_ne_bytes());
        request
    }
}

/// Network namespaces that were looked for; they stay for as long as this does.
#[derive(Default)]
pub struct Namespaces(HashMap<u32, Namespace>);

impl Namespaces {
    fn of(&mut self, number: u32) -> io::Result<&Namespace> {
        match self.0.entry(number) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(find(number)?)),
        }
    }
}

/// That of any process that is there: the socket's own may have no descriptor any more.
fn find(number: u32) -> io::Result<Namespace> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let file = fs::metadata(entry.path().join("ns/net"));
        if file.is_ok_and(|file| file.ino() == u64::from(number)) {
            return Namespace::of_process(pid);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no process is in it"))
}
