//! The sockets between the kernel programs and the userspace proxy.
//!
//! A pair of connected loopback sockets serves a worker: frames of requests appear in the receive
//! queue of one (the bus), frames of answers are written to the other (the injector) and never
//! arrive at its peer, because the program there sends them elsewhere. A relay is a further pair:
//! what the kernel sends through one end is read at the other, with TCP's back-pressure.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::error::{Context, Result};

/// Buffer of a relay in either direction: what a stalled upload holds in the kernel is about
/// twice that.
const RELAY_BUFFER: i32 = 128 * 1024;

/// The sockets of one proxy worker.
#[derive(Debug)]
pub struct WorkerSockets {
    /// Frames of requests arrive here.
    pub bus: TcpStream,
    /// Frames of answers leave here.
    pub injector: TcpStream,
    /// Frames of large uploads arrive here; the number names the relay.
    pub relays: Vec<(usize, TcpStream)>,
}

/// The kernel's ends of all relays. An entry of the map goes when its socket is closed.
#[derive(Debug)]
pub(crate) struct Relays {
    sockets: MapHandle,
    free: MapHandle,
    kernel_ends: Vec<Option<TcpStream>>,
}

impl Relays {
    /// Forgets the relays of an earlier agent.
    pub(crate) fn new(sockets: MapHandle, free: MapHandle) -> Result<Relays> {
        while free.lookup_and_delete(&[]).context(|| "empty the pool of relays".into())?.is_some() {
        }
        Ok(Relays { sockets, free, kernel_ends: Vec::new() })
    }

    /// Makes relay number `index`, or makes it anew, and offers it to the kernel.
    pub(crate) fn make(&mut self, index: usize) -> Result<TcpStream> {
        let (kernel, proxy) = pair()?;
        for socket in [&kernel, &proxy] {
            for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
                set_option(socket, option, RELAY_BUFFER)
                    .context(|| "size a relay's buffers".into())?;
            }
        }
        if self.kernel_ends.len() <= index {
            self.kernel_ends.resize_with(index + 1, || None);
        }
        // the old one leaves the map before the new one takes its place
        self.kernel_ends[index] = None;
        put(&self.sockets, index, &kernel)?;
        self.kernel_ends[index] = Some(kernel);
        self.free
            .update(&[], &(index as u32).to_ne_bytes(), MapFlags::ANY)
            .context(|| format!("offer relay {index}"))?;
        Ok(proxy)
    }
}

/// Makes the pair of a worker and puts it into the maps.
pub(crate) fn open_worker(
    buses: &MapHandle,
    injectors: &MapHandle,
    index: usize,
) -> Result<(TcpStream, TcpStream)> {
    let (bus, injector) = pair()?;
    put(injectors, index, &injector)?;
    put(buses, index, &bus)?;
    Ok((bus, injector))
}

fn put(map: &MapHandle, index: usize, socket: &TcpStream) -> Result<()> {
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

fn set_option(socket: &TcpStream, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer is to an int of the length given, valid for the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
