//! Connections that are routed as a whole: by the address that the client asked for, by who calls,
//! and by the name in its TLS ClientHello.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;

use beeway_model::{Connection, Protocol, route_stream};
use tokio::net::{TcpSocket, TcpStream};

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
    let Taken { socket, client, service, held: _held } = taken;
    let carried = match TcpStream::from_std(socket) {
        Ok(socket) => carry(&core, socket, client, service).await,
        Err(error) => Err(error),
    };
    if let Err(error) = carried {
        tracing::debug!(%client, %service, %error, "a connection has broken");
    }
}

async fn carry(
    core: &Rc<Core>,
    mut socket: TcpStream,
    client: SocketAddr,
    service: SocketAddr,
) -> io::Result<()> {
    let hello = match protocol(core, service) {
        Some(Protocol::Http | Protocol::Http2) => {
            let client = Client::of_socket(core, client.ip().to_canonical(), service);
            return serve_socket(client, Orderly(socket)).await;
        }
        Some(Protocol::Tls) => hello::read(&mut socket).await?,
        Some(Protocol::Kafka | Protocol::Opaque) | None => Hello::default(),
    };
    let endpoint = route(core, client, service, hello.name.as_deref());
    let server = match endpoint {
        Some(endpoint) => connect(core, endpoint).await.map(|server| (endpoint, server)),
        None => Err(io::Error::other("there is no endpoint for it")),
    };
    let (broker, mut server) = server.inspect_err(|_| core.counters.connections_failed.add(1))?;
    if core.view().is_broker(broker) {
        let ends = kafka::Ends { client, service, broker };
        return kafka::carry(core, ends, &mut socket, &mut server, hello.bytes).await;
    }
    let carried = Carried { up: &core.counters.bytes_in, down: &core.counters.bytes_out };
    tokio::select! {
        carried = splice(&mut socket, &mut server, hello.bytes, &carried) => carried?,
        () = core.changed_until(|view| view.is_broker(broker)) => {
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

/// The endpoint for a connection by the rules of now; `None`: there is none.
fn route(
    core: &Core,
    client: SocketAddr,
    service: SocketAddr,
    sni: Option<&str>,
) -> Option<SocketAddr> {
    let view = core.view();
    let Some(port) = view.frontend(service.ip(), service.port()) else {
        // brokers are judged by their own addresses too
        return view.is_broker(service).then_some(service);
    };
    let source = view.workload_at(client.ip().to_canonical());
    let connection = Connection { destination: service.ip(), sni, source };
    let cluster = route_stream(port, &connection, fastrand::u32(..))?;
    Some(view.mesh.cluster(cluster).pick(fastrand::u32(..))?.address)
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
