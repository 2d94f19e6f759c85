//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

/// Listens on every address. IPv6 sockets take IPv6 only, so that an IPv4 client is seen as one.
pub fn tcp(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    addresses.iter().map(|address| Ok(bind(*address, Type::STREAM)?.into())).collect()
}

/// Binds a socket, and listens if it is a stream.
pub fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let stream = kind == Type::STREAM;
    let protocol = if stream { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if stream {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if stream {
        socket.listen(4096)?;
    }
    Ok(socket)
}

/// Says that the server is ready, and where: a port of 0 has become a real one.
pub fn announce(name: &str, addresses: &[SocketAddr]) {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    crate::say(&json!({ "event": "listening", "name": name, "addr": addresses }));
}
