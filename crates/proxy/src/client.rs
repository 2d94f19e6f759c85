//! Who sends requests, and over which connection.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::plain::Handed;
use crate::stream::Stream;
use crate::tunnel::Tunnel;
use crate::upstream::Slot;
use crate::worker::Core;

/// A client's connection, whichever way its bytes come.
pub(crate) struct Client {
    pub core: Rc<Core>,
    /// The client's address.
    pub source: IpAddr,
    /// And port.
    pub port: u16,
    /// What it connected to.
    pub service: SocketAddr,
    /// The connection by bus; `None`: it is a socket of ours.
    pub stream: Option<Rc<Stream>>,
    /// Requests follow one another (HTTP/1): the connection to an endpoint is driven with this one.
    pub slot: Option<Slot>,
    /// What the connection becomes after a 101.
    pub tunnel: RefCell<Option<Tunnel>>,
}

impl Client {
    /// The client behind a stream of the bus.
    pub fn of_stream(stream: &Rc<Stream>, one_by_one: bool) -> Client {
        Client {
            core: stream.core.clone(),
            source: stream.source.ip(),
            port: stream.source.port,
            service: SocketAddr::new(stream.service.ip(), stream.service.port),
            stream: Some(stream.clone()),
            slot: one_by_one.then(Slot::default),
            tunnel: RefCell::default(),
        }
    }

    /// The client at the other end of a socket.
    pub fn of_socket(core: &Rc<Core>, client: SocketAddr, service: SocketAddr) -> Client {
        Client {
            core: core.clone(),
            source: client.ip().to_canonical(),
            port: client.port(),
            service,
            stream: None,
            slot: None,
            tunnel: RefCell::default(),
        }
    }

    /// The same client, whose requests follow one another.
    pub fn one_by_one(self) -> Client {
        Client { slot: Some(Slot::default()), ..self }
    }

    /// Waits until the connection is to end after the request that is under way. By bus never: the
    /// next request may go to another proxy.
    pub async fn draining(&self) {
        match self.stream {
            Some(_) => std::future::pending().await,
            None => self.core.draining().await,
        }
    }

    /// The client's name without its connection.
    pub fn aside(&self) -> Client {
        Client {
            core: self.core.clone(),
            source: self.source,
            port: self.port,
            service: self.service,
            stream: None,
            slot: None,
            tunnel: RefCell::default(),
        }
    }

    /// Lets the connection to the endpoint make progress.
    pub fn drive(&self, cx: &mut Context<'_>) {
        if let Some(slot) = &self.slot {
            slot.drive(cx);
        }
    }

    /// Where the connection to the endpoint of the next request goes.
    pub fn slot(&self) -> Slot {
        self.slot.clone().unwrap_or_default()
    }

    /// Resolves when the answer before this request's has gone out.
    pub fn poll_answered(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.stream {
            Some(stream) if self.slot.is_some() => stream.poll_answered(cx),
            _ => Poll::Ready(()),
        }
    }

    /// The random number that the kernel has used for the request, or a new one.
    pub fn draw(&self) -> u32 {
        match &self.stream {
            Some(stream) if self.slot.is_some() => stream.draw(),
            _ => fastrand::u32(..),
        }
    }

    /// What plain forwarding has done of the next request.
    pub fn handed(&self) -> Option<Box<Handed>> {
        self.stream.as_ref()?.handed.take()
    }

    /// Notes that the server has been given all of an answer.
    pub fn answer_ends(&self) {
        if let (Some(stream), Some(_)) = (&self.stream, &self.slot) {
            stream.answer_ends();
        }
    }

    /// Notes that an answer has been cut off: nothing can follow it.
    pub fn answer_breaks(&self) {
        if let (Some(stream), Some(_)) = (&self.stream, &self.slot) {
            stream.broken.set(true);
        }
    }
}
