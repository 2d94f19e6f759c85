//! What a connection costs to make: a loop of connect() and close().

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::summary::median;

/// Medians over one loop, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// connect() alone.
    pub connect_us: f64,
    /// socket(), connect() and close().
    pub cycle_us: f64,
}

/// Connects `count` times. Connections end with a reset, so that none stays in TIME_WAIT.
pub fn measure(to: SocketAddr, count: u32) -> Result<Cost> {
    let (mut connects, mut cycles) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let start = Instant::now();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        let before = Instant::now();
        socket.connect(&to.into()).with_context(|| format!("connect to {to}"))?;
        connects.push(microseconds(before.elapsed()));
        socket.set_linger(Some(Duration::ZERO))?;
        drop(socket);
        cycles.push(microseconds(start.elapsed()));
    }
    let nothing = "no connection was made";
    Ok(Cost {
        connect_us: median(&connects).context(nothing)?,
        cycle_us: median(&cycles).context(nothing)?,
    })
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_holds_its_connect() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = listener.local_addr().expect("an address");
        let cost = measure(to, 20).expect("a cost");
        assert!(cost.connect_us > 0.0 && cost.cycle_us > cost.connect_us, "{cost:?}");
        assert!(measure(to, 0).is_err());
    }
}
