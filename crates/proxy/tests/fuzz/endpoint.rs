//! Endpoints of HTTP/1.1. What they are sent must be right; what they answer need not be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::ledger::{Sent, Shared};
use crate::plan::{Plan, Reads, Then};
use crate::strict::{Body, Fault, Framing, Head, Reader};
use beeway_model::testing::Dice;

/// Longest that an endpoint says nothing: not all rules have a time limit.
pub const SILENCE: Duration = Duration::from_millis(300);

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
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("an address");
    if place.kind == Kind::Absent {
        // The port stays taken, or somebody else would answer there.
        tokio::task::spawn_local(async move {
            std::future::pending::<()>().await;
            drop(socket);
        });
        return address;
    }
    let listener = socket.listen(1024).expect("a listener");
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
        let (honest, usual) = (place.kind == Kind::Honest, !place.seed.is_multiple_of(4));
        let plan = Plan::new(&mut dice, &tag, &head.first[0], honest, usual);
        place.ledger.answer(tag, plan.shown.clone());
        let sent = (id.as_str(), &sent);
        if plan.reads == Reads::First && !read(&place, sent, &mut reader, framing).await {
            return;
        }
        tokio::time::sleep(plan.delay).await;
        if !plan.write(reader.io()).await {
            return;
        }
        if plan.reads == Reads::Later && !read(&place, sent, &mut reader, framing).await {
            return;
        }
        match plan.then {
            Then::Next => {}
            Then::Close => return,
            Then::Reset => return drop(reader.io().set_zero_linger()),
            Then::Wait => {
                // A proxy that gives up closes.
                let silence = async { while reader.fill().await.is_ok() {} };
                return drop(tokio::time::timeout(SILENCE, silence).await);
            }
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

/// Whether the body was whole.
async fn read(
    place: &Place,
    (id, sent): (&str, &Sent),
    reader: &mut Reader<TcpStream>,
    framing: Framing,
) -> bool {
    let mut body = Body::default();
    match reader.body(framing, &mut body).await {
        Ok(()) => place.ledger.body(id, sent, &body),
        Err(Fault::Ended(_)) => return false,
        Err(Fault::Wrong(what)) => {
            place.ledger.fault(format!("{id} came with {what}"));
            return false;
        }
    }
    true
}

impl Plan {
    async fn write(&self, socket: &mut TcpStream) -> bool {
        for piece in self.answer.chunks(self.piece) {
            if socket.write_all(piece).await.is_err() {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }
}
