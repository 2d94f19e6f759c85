//! The sockets between the kernel programs and the userspace proxy.
//!
//! A pair of connected loopback sockets serves a worker: frames of requests appear in the receive
//! queue of one (the bus), frames of answers are written to the other (the injector) and never
//! arrive at its peer, because the program there sends them elsewhere.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::abi;
use crate::error::{Context, Result};

/// The sockets of one proxy worker.
#[derive(Debug)]
pub struct WorkerSockets {
    /// Frames of requests arrive here.
    pub bus: TcpStream,
    /// Frames of answers leave here.
    pub injector: TcpStream,
}

/// Makes the pair of a worker and puts it into the maps.
pub(crate) fn open_worker(
    buses: &MapHandle,
    injectors: &MapHandle,
    index: usize,
) -> Result<WorkerSockets> {
    let sockets = open_injector(injectors, index)?;
    put(buses, index, &sockets.bus)?;
    Ok(sockets)
}

/// Makes a pair whose injector is put into the map.
pub(crate) fn open_injector(injectors: &MapHandle, index: usize) -> Result<WorkerSockets> {
    let (bus, injector) = pair()?;
    put(injectors, index, &injector)?;
    Ok(WorkerSockets { bus, injector })
}

/// Makes the socket to which the kernel sends what must fail. Both ends must be kept.
pub(crate) fn open_dead_end(map: &MapHandle) -> Result<(TcpStream, TcpStream)> {
    let (shut, other) = pair()?;
    put(map, 0, &shut)?;
    // only an established socket can be put into the map
    shut.shutdown(Shutdown::Write).context(|| "shut a socket for sending".into())?;
    Ok((shut, other))
}

/// Puts a listener into the map, at the place of its address family.
pub(crate) fn open_listener(map: &MapHandle, listener: &TcpListener) -> Result<()> {
    let address = listener.local_addr().context(|| "ask for a listener's address".into())?;
    let index =
        if address.is_ipv4() { abi::listener::LISTENER_V4.0 } else { abi::listener::LISTENER_V6.0 };
    put(map, index as usize, listener)
}

/// Takes all listeners out of the map.
pub(crate) fn close_listeners(map: &MapHandle) {
    for index in 0..abi::listener::LISTENERS.0 {
        // most likely there is none of this family
        let _ = map.delete(&index.to_ne_bytes());
    }
}

fn put(map: &MapHandle, index: usize, socket: &impl AsFd) -> Result<()> {
    let descriptor = socket.as_fd().as_raw_fd() as u64;
    map.update(&(index as u32).to_ne_bytes(), &descriptor.to_ne_bytes(), MapFlags::ANY)
        .context(|| format!("put socket {index} into the map {}", map.name().to_string_lossy()))
}

/// Two connected TCP sockets. The accepted one is checked to be ours: anybody may connect to a
/// listening port.
fn pair() -> Result<(TcpStream, TcpStream)> {
    connect_pair().context(|| "connect a pair of sockets on 127.0.0.1 (is `lo` up?)".into())
}

fn connect_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (theirs, from) = listener.accept()?;
        if from == ours.local_addr()? {
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
}
