//! Unused connections to endpoints, the most recently used first.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::limits::{POOL_AGE, POOL_IDLE};
use crate::upstream::Upstream;

/// One worker's unused connections.
#[derive(Default)]
pub(crate) struct Pool {
    idle: HashMap<SocketAddr, Vec<Upstream>>,
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

    /// Closes what the endpoint has closed and what has not been used for long.
    pub fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, idle| {
            idle.retain_mut(|u| now - u.idle_since < POOL_AGE && u.is_reusable());
            !idle.is_empty()
        });
    }
}
