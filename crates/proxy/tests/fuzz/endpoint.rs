//! Endpoints of HTTP/1.1. What they are sent must be right; what they answer need not be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::dice::Dice;
use crate::ledger::{Sent, Shared};
use crate::plan::{Plan, Reads, Then};
use crate::strict::{Body, Fault, Framing, Head, Reader};

/// A kind of endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Honest,
    Hostile,
    Honest2,
    Hostile2,
    /// Speaks HTTP/2 until it feels like something else.
    Garbage2,
    /// Nobody listens.
    Absent,
}

/// What an endpoint knows.
#[derive(Clone)]
pub struct Place {
    pub seed: u64,
    /// Which endpoint.
    pub index: usize,
    pub kind: Kind,
    pub ledger: Shared,
}

impl Place {
    /// Random numbers for a request, the same whenever it comes as this try.
    pub fn dice(&self, id: &str, attempt: &str) -> Dice {
        let mut hash = DefaultHasher::new();
        (self.seed, self.index, id, attempt).hash(&mut hash);
        Dice(hash.finish())
    }

    pub fn tag(&self, id: &str, attempt: &str) -> String {
        format!("{id}-{attempt}-{}", self.index)
    }
}

/// Starts an endpoint as tasks of the caller's `LocalSet`.
pub async fn start(place: Place) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    if place.kind == Kind::Absent {
        return address;
    }
    tokio::task::spawn_local(async move {
        let mut nth = 0;
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            nth += 1;
            let place = place.clone();
            match place.kind {
                Kind::Honest | Kind::Hostile => {
                    tokio::task::spawn_local(serve(socket, place));
                }
                _ => {
                    tokio::task::spawn_local(crate::endpoint2::serve(socket, place, nth));
                }
            }
        }
    });
    address
}

/// One connection.
async fn serve(socket: TcpStream, place: Place) {
    let mut reader = Reader::new(socket);
    loop {
        let head = match reader.request().await {
            Ok(Some(head)) => head,
            Ok(None) | Err(Fault::Ended(_)) => return,
            Err(Fault::Wrong(what)) => {
                return place.ledger.fault(format!("an endpoint got {what}"));
            }
        };
        place.ledger.count("requests at endpoints");
        let Some(sent) = examine(&place, &head) else { return };
        let id = head.one("x-id").unwrap_or_default();
        let attempt = head.one("x-envoy-attempt-count").unwrap_or_default();
        let framing = match head.request_framing() {
            Ok(framing) => framing,
            Err(fault) => return place.ledger.fault(format!("{id} came with {fault:?}")),
        };
        let tag = place.tag(&id, &attempt);
        let mut dice = place.dice(&id, &attempt);
        let plan = Plan::new(&mut dice, &tag, &head.first[0], place.kind == Kind::Honest);
        place.ledger.answer(tag, plan.shown.clone());
        let request = Request { place: &place, id: &id, sent: &sent, framing };
        if !request.carry_out(&mut reader, &plan).await {
            return;
        }
    }
}

/// Looks at a head that has come.
fn examine(place: &Place, head: &Head) -> Option<Sent> {
    let id = head.one("x-id").unwrap_or_default();
    let host = head.one("host").unwrap_or_default();
    let hops = ["keep-alive", "proxy-connection", "expect", "x-hop"];
    let stayed = hops.iter().find(|name| head.has(name));
    let connection = head.one("connection");
    let known = matches!(connection.as_deref(), None | Some("te" | "upgrade"));
    // The proxy adds two fields to what it takes for a request.
    let added = head.has("x-envoy-attempt-count") && head.has("x-forwarded-proto");
    if !known || stayed.is_some() || !added || head.all("cookie").count() > 1 {
        place.ledger.fault(format!("{id} came with {head:?}"));
    }
    place.ledger.arrived(&id, &head.first[0], (&head.first[1], &host))
}

struct Request<'a> {
    place: &'a Place,
    id: &'a str,
    sent: &'a Sent,
    framing: Framing,
}

impl Request<'_> {
    /// Whether the body was whole.
    async fn read(&self, reader: &mut Reader<TcpStream>) -> bool {
        let mut body = Body::default();
        match reader.body(self.framing, &mut body).await {
            Ok(()) => self.place.ledger.body(self.id, self.sent, &body),
            Err(Fault::Ended(_)) => return false,
            Err(Fault::Wrong(what)) => {
                self.place.ledger.fault(format!("{} came with {what}", self.id));
                return false;
            }
        }
        true
    }

    /// Whether there may be a next request.
    async fn carry_out(&self, reader: &mut Reader<TcpStream>, plan: &Plan) -> bool {
        if plan.reads == Reads::First && !self.read(reader).await {
            return false;
        }
        tokio::time::sleep(plan.delay).await;
        if !plan.write(reader.io()).await {
            return false;
        }
        if plan.reads == Reads::Later && !self.read(reader).await {
            return false;
        }
        match plan.then {
            Then::Next => true,
            Then::Close => false,
            Then::Reset => {
                let _ = reader.io().set_zero_linger();
                false
            }
            Then::Wait => {
                // A proxy that has given up closes.
                while reader.fill().await.is_ok() {}
                false
            }
        }
    }
}

impl Plan {
    async fn write(&self, socket: &mut TcpStream) -> bool {
        for piece in self.answer.chunks(self.piece) {
            if socket.write_all(piece).await.is_err() {
                return false;
            }
            if self.pause > Duration::ZERO {
                tokio::time::sleep(self.pause).await;
            }
        }
        true
    }
}
