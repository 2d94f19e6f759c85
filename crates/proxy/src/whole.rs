//! Connections that are routed as a whole: by the address that the client asked for, by who calls,
//! and by the name in its TLS ClientHello.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;

use beeway_model::{Connection, Protocol, route_stream};
use tokio::net::{TcpSocket, TcpStream};

use crate::Anchor;
use crate::access::Standing;
use crate::client::Client;
use crate::hello::{self, Hello};
use crate::kafka;
use crate::limits::{CONNECT_TIMEOUT, SOCKET_BUFFER};
use crate::listen::{Orderly, Taken, end_in_order, prepare};
use crate::service::serve_socket;
use crate::splice::{Carried, splice};
use crate::worker::Core;

/// Serves a connection to its end. Whatever goes wrong is a reset for its client.
pub(crate) async fn serve(core: Rc<Core>, taken: Taken) {
    let Taken { socket, client, anchor, held: _held } = taken;
    let carried = match TcpStream::from_std(socket) {
        Ok(socket) => carry(&core, socket, client, anchor).await,
        Err(error) => Err(error),
    };
    if let Err(error) = carried {
        tracing::debug!(%client, service = %anchor.service, %error, "a connection has broken");
    }
}

async fn carry(
    core: &Rc<Core>,
    mut socket: TcpStream,
    client: SocketAddr,
    anchor: Anchor,
) -> io::Result<()> {
    let hello = match protocol(core, anchor.service) {
        Some(Protocol::Http | Protocol::Http2) => {
            let client = Client::of_socket(core, client, anchor);
            return serve_socket(client, Orderly(socket)).await;
        }
        Some(Protocol::Tls) => hello::read(&mut socket).await?,
        Some(Protocol::Kafka | Protocol::Opaque) | None => Hello::default(),
    };
    let counters = &core.counters;
    let endpoint = route(core, &anchor, hello.name.as_deref())
        .ok_or_else(|| io::Error::other("there is no endpoint for it"))
        .inspect_err(|_| counters.connections_failed.add(1))?;
    let whose = Client::of_socket(core, client, anchor);
    let mut standing = Standing::connection(whose, endpoint, hello.name);
    standing.admit().await.map_err(|denied| standing.reset(&denied))?;
    let mut server =
        connect(core, endpoint).await.inspect_err(|_| counters.connections_failed.add(1))?;
    if core.view().is_broker(endpoint) {
        let ends = kafka::Ends { client, anchor, broker: endpoint };
        tokio::select! {
            carried = kafka::carry(core, ends, &mut socket, &mut server, hello.bytes) => return carried,
            forbidden = standing.forbidden() => return Err(forbidden),
        }
    }
    let carried = Carried { up: &counters.bytes_in, down: &counters.bytes_out };
    tokio::select! {
        carried = splice(&mut socket, &mut server, hello.bytes, &carried) => carried?,
        forbidden = standing.forbidden() => return Err(forbidden),
        () = core.changed_until(|view| view.is_broker(endpoint)) => {
            return Err(io::Error::other("its requests are to be judged from now on"));
        }
    }
    end_in_order(&socket);
    end_in_order(&server);
    Ok(())
}

fn protocol(core: &Core, service: SocketAddr) -> Option<Protocol> {
    Some(core.view().frontend(service.ip(), service.port())?.protocol)
}

/// The endpoint for a connection by the rules of now; `None`: there is none. What is no service is
/// an endpoint itself.
fn route(core: &Core, anchor: &Anchor, sni: Option<&str>) -> Option<SocketAddr> {
    let view = core.view();
    let service = anchor.service;
    let Some(port) = view.frontend(service.ip(), service.port()) else {
        let known = view.is_broker(service) || view.workload_at(service.ip()).is_some();
        return known.then_some(service);
    };
    let source = view.workload_at(anchor.caller);
    let connection = Connection { destination: service.ip(), sni, source };
    let cluster = route_stream(port, &connection, fastrand::u32(..))?;
    Some(view.mesh.cluster(cluster).pick(service.ip(), fastrand::u32(..))?.address)
}

async fn connect(core: &Core, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_recv_buffer_size(SOCKET_BUFFER as u32)?;
    prepare(&socket)?;
    core.kernel.leave_alone(socket.as_fd())?;
    tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await?
}
