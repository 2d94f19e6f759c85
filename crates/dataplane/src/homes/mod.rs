//! Who runs where, as the kernel programs know it: the maps `homes` and `housed`; and what it takes
//! to find that out ([`Watch`], [`Namespace`], [`crate::cgroup`]).

mod namespace;
mod watch;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::error::{Context, Result};
use crate::{Dataplane, abi, run};

pub use namespace::{NamespaceFile, look_into};
pub use watch::{Stir, StirKind, Watch};

/// The most cgroups and network namespaces whose workload is known; one entry is for the rest.
pub const MAX_HOMES: usize = abi::limits::HOMES.0 as usize - 1;
/// The most addresses that are nobody's but those who are at home there.
pub const MAX_HOUSED: usize = abi::limits::HOUSED.0 as usize;

/// By what the kernel programs know a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Home {
    /// A cgroup, by its number; those below it too, unless they are homes themselves.
    Cgroup(u64),
    /// A network namespace, by its cookie (`SO_NETNS_COOKIE`).
    Namespace(u64),
}

/// The kernel's record of who is at home where, over restarts of the agent too.
pub struct Homes<'a> {
    homes: &'a MapHandle,
    housed: &'a MapHandle,
}

impl Dataplane {
    /// Who is at home where.
    pub fn homes(&self) -> Homes<'_> {
        Homes { homes: self.loaded.map("homes"), housed: self.loaded.map("housed") }
    }
}

impl Homes<'_> {
    /// Says that who runs there is the workload that owns an address. Connections that exist stay
    /// whose they are.
    pub fn settle(&self, home: Home, address: IpAddr) -> Result<()> {
        let address = run::address(SocketAddr::new(address, 0));
        let mut value = address.ip.to_vec();
        value.extend(address.port.to_ne_bytes());
        value.extend(address.family.to_ne_bytes());
        self.homes.update(&home_key(home), &value, MapFlags::ANY).context(|| {
            format!("say who runs in {home:?} (the map homes holds {MAX_HOMES}, HOMES in abi.h)")
        })
    }

    /// Says that nobody is known to run there.
    pub fn leave(&self, home: Home) -> Result<()> {
        delete(self.homes, &home_key(home))
    }

    /// Says whether who is in no known cgroup is nobody, because some homes did not fit, or whom the
    /// network namespace or the address says.
    pub fn close_rest(&self, closed: bool) -> Result<()> {
        let mut value = [0; 20];
        value[18] = if closed { 6 } else { 0 };
        self.homes
            .update(&rest_key(), &value, MapFlags::ANY)
            .context(|| "say who is in no known cgroup".into())
    }

    /// Keeps room for [`Homes::close_rest`]; what another agent has said there stays.
    pub fn keep_rest(&self) -> Result<()> {
        match self.homes.lookup(&rest_key(), MapFlags::ANY) {
            Ok(Some(_)) => Ok(()),
            _ => self.close_rest(false),
        }
    }

    /// All that is said.
    pub fn list(&self) -> Vec<(Home, IpAddr)> {
        let read = |key: Vec<u8>| {
            let value = self.homes.lookup(&key, MapFlags::ANY).ok()??;
            Some((parse_home(&key)?, parse_address(&value)?))
        };
        self.homes.keys().filter_map(read).collect()
    }

    /// Says that an address is nobody's for a process that is at home nowhere.
    pub fn house(&self, address: IpAddr) -> Result<()> {
        self.housed.update(&address_key(address), &[1], MapFlags::ANY).context(|| {
            format!("house {address} (the map housed holds {MAX_HOUSED}, HOUSED in abi.h)")
        })
    }

    /// Says that it is its owner's again.
    pub fn unhouse(&self, address: IpAddr) -> Result<()> {
        delete(self.housed, &address_key(address))
    }

    /// All addresses of [`Homes::house`].
    pub fn housed(&self) -> Vec<IpAddr> {
        self.housed.keys().filter_map(|key| parse_address(&key)).collect()
    }
}

/// Removes an entry; that there is none is fine.
fn delete(map: &MapHandle, key: &[u8]) -> Result<()> {
    match map.delete(key) {
        Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
            Err(error).context(|| "remove an entry".into())
        }
        _ => Ok(()),
    }
}

fn home_key(home: Home) -> Vec<u8> {
    let (id, kind) = match home {
        Home::Cgroup(id) => (id, abi::home_kind::HOME_CGROUP),
        Home::Namespace(cookie) => (cookie, abi::home_kind::HOME_NAMESPACE),
    };
    let mut key = id.to_ne_bytes().to_vec();
    key.extend(kind.0.to_ne_bytes());
    key.extend([0; 4]);
    key
}

fn rest_key() -> Vec<u8> {
    let mut key = vec![0; 8];
    key.extend(abi::home_kind::HOME_REST.0.to_ne_bytes());
    key.extend([0; 4]);
    key
}

fn parse_home(key: &[u8]) -> Option<Home> {
    let id = u64::from_ne_bytes(key.get(..8)?.try_into().ok()?);
    let kind = u32::from_ne_bytes(key.get(8..12)?.try_into().ok()?);
    match abi::home_kind(kind) {
        abi::home_kind::HOME_CGROUP => Some(Home::Cgroup(id)),
        abi::home_kind::HOME_NAMESPACE => Some(Home::Namespace(id)),
        _ => None,
    }
}

fn address_key(address: IpAddr) -> [u8; 16] {
    run::address(SocketAddr::new(address, 0)).ip
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let ip: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical())
}

const _: () = {
    assert!(size_of::<abi::home>() == 16);
    assert!(size_of::<abi::address>() == 20);
    assert!(size_of::<abi::stir>() == 24);
};
