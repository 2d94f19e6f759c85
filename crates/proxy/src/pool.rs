//! Connections to endpoints that requests can use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::limits::{POOL_AGE, POOL_IDLE};
use crate::upstream::{Upstream, Upstream2};

/// One worker's connections: unused HTTP/1.1 ones, the most recently used first, and HTTP/2 ones,
/// one for each endpoint, and another for copies of requests: a copy waits for what the request
/// itself reads of its body, and must not take from that the room that an endpoint gives a connection.
#[derive(Default)]
pub(crate) struct Pool {
    idle: HashMap<SocketAddr, Vec<Upstream>>,
    shared: HashMap<(SocketAddr, bool), Shared>,
}

struct Shared {
    upstream: Upstream2,
    used: Instant,
}

impl Pool {
    /// A connection that can take a request now.
    pub fn take(&mut self, address: SocketAddr) -> Option<Upstream> {
        let idle = self.idle.get_mut(&address)?;
        while let Some(mut upstream) = idle.pop() {
            if upstream.is_reusable() {
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection for later, if it has one and there is room.
    pub fn put(&mut self, mut upstream: Upstream) {
        if !upstream.is_reusable() {
            return;
        }
        let idle = self.idle.entry(upstream.address).or_default();
        if idle.len() < POOL_IDLE {
            upstream.idle_since = Instant::now();
            idle.push(upstream);
        }
    }

    /// The HTTP/2 connection to an endpoint for requests, or for copies.
    pub fn shared(&mut self, address: SocketAddr, copies: bool) -> Option<Upstream2> {
        let shared = self.shared.get_mut(&(address, copies))?;
        if shared.upstream.sender.is_closed() {
            self.shared.remove(&(address, copies));
            return None;
        }
        shared.used = Instant::now();
        Some(shared.upstream.clone())
    }

    /// Lets others share a connection. One that is there already goes when it is done.
    pub fn share(&mut self, address: SocketAddr, copies: bool, upstream: &Upstream2) {
        let shared = Shared { upstream: upstream.clone(), used: Instant::now() };
        self.shared.insert((address, copies), shared);
    }

    /// Closes what the endpoint has closed and what has not been used for long. A shared
    /// connection stays until its last request is done.
    pub fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, idle| {
            idle.retain_mut(|u| now - u.idle_since < POOL_AGE && u.is_reusable());
            !idle.is_empty()
        });
        self.shared.retain(|_, s| now - s.used < POOL_AGE && !s.upstream.sender.is_closed());
    }
}
