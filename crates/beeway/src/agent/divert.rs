//! Diverting and resetting of clients' connections, on a thread of its own: it waits for system
//! calls, and is in the network namespaces of clients for moments.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use beeway_dataplane::{Dataplane, Token, TokenQuery};
use beeway_model::Bucket;
use beeway_proxy::{Anchor, Kernel, Proxy, Turn};

/// What is to be done with a client's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// It shall lead to the proxy.
    Divert(u64),
    /// It shall be reset.
    Reset(u64),
    /// There are no more orders.
    End,
}

/// The kernel as the proxy sees it.
pub(crate) struct KernelSide {
    dataplane: Arc<Dataplane>,
    orders: Sender<Order>,
}

/// Makes the kernel side of a proxy, and what it wants done.
pub(crate) fn kernel_side(dataplane: &Arc<Dataplane>) -> (KernelSide, Receiver<Order>) {
    let (orders, receiver) = mpsc::channel();
    (KernelSide { dataplane: dataplane.clone(), orders }, receiver)
}

impl KernelSide {
    /// Another way to order.
    pub(crate) fn orders(&self) -> Sender<Order> {
        self.orders.clone()
    }
}

impl Kernel for KernelSide {
    fn queued(&self, cookie: u64) -> Option<u64> {
        self.dataplane.queued(cookie)
    }

    fn abort(&self, cookie: u64) {
        // without a receiver the agent is ending, and the next one resets what is left half-way
        let _ = self.orders.send(Order::Reset(cookie));
    }

    fn divert(&self, cookie: u64) {
        let _ = self.orders.send(Order::Divert(cookie));
    }

    fn turn(&self, cookie: u64) -> Option<Turn> {
        let turn = self.dataplane.turn(cookie)?;
        Some(Turn { by_bus: turn.by_bus, first: turn.first })
    }

    fn over(&self, cookie: u64) {
        self.dataplane.forget(cookie);
    }

    fn asked_for(&self, client: SocketAddr, listener: SocketAddr) -> Option<Anchor> {
        let (service, caller) = self.dataplane.take_anchor(client, listener)?;
        Some(Anchor { service, caller })
    }

    fn leave_alone(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.dataplane.leave_alone(socket).map_err(io::Error::other)
    }

    fn take_token(&self, bucket: &Bucket, endpoint: SocketAddr, caller: IpAddr) -> bool {
        let query = TokenQuery { bucket, endpoint, caller, now: None };
        match self.dataplane.take_token(&query) {
            Ok(token) => token == Token::Taken,
            Err(error) => {
                tracing::warn!(%error, "a request is refused: its token bucket cannot be asked");
                false
            }
        }
    }
}

/// Carries out orders until [`Order::End`].
pub(crate) fn spawn(
    dataplane: Arc<Dataplane>,
    proxy: Arc<Mutex<Option<Proxy>>>,
    orders: Receiver<Order>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("divert".into()).spawn(move || {
        for order in orders {
            match order {
                Order::Divert(cookie) => divert(&dataplane, &proxy, cookie),
                Order::Reset(cookie) => reset(&dataplane, cookie),
                Order::End => return,
            }
        }
    })
}

fn divert(dataplane: &Dataplane, proxy: &Mutex<Option<Proxy>>, cookie: u64) {
    let diverted = dataplane.divert(cookie);
    if let Err(error) = &diverted {
        tracing::debug!(cookie, %error, "a connection cannot be diverted");
        reset(dataplane, cookie);
    }
    let proxy = proxy.lock().expect("no panic while locked");
    match (proxy.as_ref(), diverted) {
        (Some(proxy), Ok(Some(diverted))) => {
            proxy.diverted(diverted.worker, cookie, diverted.socket, diverted.first);
        }
        (Some(proxy), Err(_)) => {
            dataplane.forget(cookie);
            proxy.client_closed(cookie);
        }
        _ => {}
    }
}

fn reset(dataplane: &Dataplane, cookie: u64) {
    match dataplane.reset(cookie) {
        Ok(()) => tracing::debug!(cookie, "a client's connection was reset"),
        Err(error) => tracing::warn!(cookie, %error, "a client is left waiting"),
    }
}
