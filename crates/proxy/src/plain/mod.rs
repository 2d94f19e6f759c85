//! Plain forwarding: the short way for requests that need nothing special.
//!
//! A request that came whole, in one frame, to a client's connection on which nothing else is under
//! way, under a rule that asks for no more than changes of its head, is written to an endpoint's
//! connection at once, and a task of that connection passes the answer on. No HTTP library and no
//! task of the client's are involved.
//!
//! Requests over HTTP/2 to endpoints that speak it go the same way ([`http2`]), any number of them at
//! once on a connection.
//!
//! Whatever is not plain goes to the engine ([`crate::service`]), which can do everything. That
//! may turn out when the request has been sent: the answer is one to be tried again or of an unusual
//! form, or there is none. Then the engine gets request and connection as they are ([`Handed`]) and
//! goes on as if it had sent the request itself. So this way knows nothing of failures.

mod answer;
mod body;
mod connection;
mod fields;
mod http2;
mod job;
mod request;

use std::cell::{RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use beeway_model::action::retry::Failure;
use beeway_model::{Cluster, Decision, Outcome, Protocol, route};
use http::Response;

use rustc_hash::FxHashMap;

use crate::access::Prospect;
use crate::call::{Active, conclude};
use crate::chosen::Chosen;
use crate::frame::{FLAG_REQUEST, Piece};
use crate::http2::endpoint::Endpoint;
use crate::incoming::Incoming;
use crate::limits::{
    PLAIN_AVOID_MAX, PLAIN_AVOID_MIN, PLAIN_READ, PLAIN_REQUEST, PLAIN_UNUSUAL, POOL_AGE,
    POOL_IDLE, SWEEP,
};
use crate::record::{Flags, Record};
use crate::stream::Stream;
use crate::view::{Caller, Place, View};
use crate::wire::Wire;
use crate::worker::Core;

use connection::Connection;
pub(crate) use http2::{Call, Next, take as take_http2};
use job::Job;
use request::Asked;

/// What plain forwarding has in one worker.
pub(crate) struct Plain {
    on: bool,
    /// Unused connections, the most recently used last.
    idle: RefCell<FxHashMap<SocketAddr, Vec<Rc<Connection>>>>,
    /// Connections of HTTP/2, one for each endpoint, the last; others still have requests.
    shared: RefCell<FxHashMap<SocketAddr, Vec<Rc<Endpoint>>>>,
    /// Endpoints that have answered in an unusual way.
    unusual: RefCell<FxHashMap<SocketAddr, Unusual>>,
    /// Room for what is read, and for what is written.
    read: RefCell<Vec<u8>>,
    out: RefCell<Vec<u8>>,
}

/// How often an endpoint is not tried, since each try that goes to the engine after all costs a
/// connection.
struct Unusual {
    /// Requests that are still for the engine.
    left: u32,
    /// As many as that were to be when it last answered so.
    step: u32,
}

/// A request that the engine shall bring to its end.
pub(crate) struct Handed {
    /// The mesh by which it was routed.
    pub view: Rc<View>,
    /// The endpoint that was tried.
    pub address: SocketAddr,
    /// The identity that it was sent with, if it had none.
    pub made_up: Option<[u8; 36]>,
    /// What is known of it, for the engine to go on with.
    pub untold: Untold,
    /// What has come of it.
    pub begun: Begun,
    /// The random number that it was routed with.
    pub draw: u32,
    /// When the time for its answer began.
    pub started: Instant,
    /// Until the engine counts it.
    pub _active: Option<Active>,
}

/// What plain forwarding has made of a request.
pub(crate) enum Begun {
    /// It was sent over this connection of HTTP/1.1, or some of it.
    Sent(Wire),
    /// There is an answer, which may be one to be tried again.
    Answer(Box<Response<Incoming>>),
    Failed(Failure),
    /// The endpoint has reset the stream.
    Reset,
    /// What the endpoint said is not HTTP.
    Garbage,
    TimedOut,
}

/// The record of a request. Dropped before it was taken, the client has gone in between.
pub(crate) struct Untold {
    core: Rc<Core>,
    record: Option<(Box<Record>, Instant)>,
    taken: bool,
}

impl Untold {
    fn new(core: &Rc<Core>, record: Option<(Box<Record>, Instant)>) -> Untold {
        Untold { core: core.clone(), record, taken: false }
    }

    /// The record, if there is one, and when it began. The caller tells of it.
    pub fn take(&mut self) -> Option<(Box<Record>, Instant)> {
        self.taken = true;
        self.record.take()
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        if !self.taken {
            let flags = Flags::DOWNSTREAM_CONNECTION_TERMINATION;
            conclude(&self.core, self.record.take(), flags, 0);
        }
    }
}

impl Plain {
    pub fn new(on: bool) -> Plain {
        Plain {
            on,
            idle: RefCell::default(),
            shared: RefCell::default(),
            unusual: RefCell::default(),
            read: RefCell::new(vec![0; PLAIN_READ]),
            out: RefCell::default(),
        }
    }

    /// Room for what is read, for one turn.
    pub fn room(&self) -> RefMut<'_, Vec<u8>> {
        self.read.borrow_mut()
    }

    /// The connection of HTTP/2 to an endpoint, a new one if there is none; `None`: it has no room for
    /// another request.
    fn shared(&self, core: &Rc<Core>, address: SocketAddr, body: usize) -> Option<Rc<Endpoint>> {
        let mut shared = self.shared.borrow_mut();
        let all = shared.entry(address).or_default();
        if let Some(endpoint) = all.last().filter(|endpoint| !endpoint.is_closed()) {
            return endpoint.has_room(body).then(|| endpoint.clone());
        }
        let endpoint = Endpoint::open(core, address);
        all.push(endpoint.clone());
        Some(endpoint)
    }

    /// Lets go of the connections that refer to the worker.
    pub fn close(&self) {
        drop(self.shared.take());
    }

    /// Closes connections that have not been used for long. Called at intervals of [`SWEEP`].
    pub fn sweep(&self, now: u64) {
        const AGE: u64 = POOL_AGE.as_secs() / SWEEP.as_secs();
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|connection| {
                let fresh = now - connection.idle_since.get() < AGE && connection.is_usable();
                if !fresh {
                    connection.close();
                }
                fresh
            });
            !idle.is_empty()
        });
        self.shared.borrow_mut().retain(|_, all| {
            all.retain(|endpoint| endpoint.sweep());
            !all.is_empty()
        });
    }

    fn take(&self, address: SocketAddr) -> Option<Rc<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(&address)?;
        while let Some(connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
            connection.close();
        }
        None
    }

    /// Whether requests to an endpoint are for the engine this time.
    fn avoids(&self, address: SocketAddr) -> bool {
        let mut unusual = self.unusual.borrow_mut();
        let Some(unusual) = unusual.get_mut(&address) else { return false };
        let avoided = unusual.left > 0;
        unusual.left = unusual.left.saturating_sub(1);
        avoided
    }

    /// Notes that an endpoint has answered in an unusual way: the next requests are not tried,
    /// twice as many each time.
    fn was_unusual(&self, address: SocketAddr) {
        let mut all = self.unusual.borrow_mut();
        if all.len() >= PLAIN_UNUSUAL {
            all.clear();
        }
        let unusual = all.entry(address).or_insert(Unusual { left: 0, step: PLAIN_AVOID_MIN / 2 });
        unusual.step = (unusual.step * 2).min(PLAIN_AVOID_MAX);
        unusual.left = unusual.step;
    }

    /// Notes that one has not.
    fn was_usual(&self, address: SocketAddr) {
        let mut all = self.unusual.borrow_mut();
        if !all.is_empty() {
            all.remove(&address);
        }
    }

    /// Keeps a connection for later, if there is room.
    fn put(&self, connection: &Rc<Connection>, now: u64) -> bool {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(connection.address).or_default();
        let room = idle.len() < POOL_IDLE;
        if room {
            connection.idle_since.set(now);
            idle.push(connection.clone());
        }
        room
    }
}

/// Who asks, and what for.
#[derive(Clone, Copy)]
struct Who {
    caller: Caller,
    service: SocketAddr,
}

impl Who {
    fn of_stream(stream: &Stream) -> Who {
        Who {
            caller: Caller { address: stream.source.ip(), known_by: stream.caller.ip() },
            service: SocketAddr::new(stream.service.ip(), stream.service.port),
        }
    }

    /// The record of a request that has come now.
    fn record(self) -> Record {
        Record::begin(self.caller.address, self.caller.known_by, self.service)
    }
}

/// A request and where it goes.
struct Routed {
    view: Rc<View>,
    place: Place,
    decision: Decision,
    address: SocketAddr,
}

impl Routed {
    /// `None`: not to an endpoint that plain forwarding can use.
    fn new(
        core: &Core,
        who: Who,
        asked: &Asked<'_>,
        draw: u32,
        protocol: Protocol,
    ) -> Option<Routed> {
        let view = core.view();
        let place = view.place(who.service.ip(), who.service.port())?;
        let request = beeway_model::Request {
            method: asked.method,
            scheme: "http",
            authority: asked.host,
            target: asked.target,
            headers: &asked.fields.0,
            source: view.workload_at(who.caller.known_by),
        };
        let decision = route(view.port(place), &request, draw);
        let cluster = cluster(&view, &decision).filter(|c| c.protocol == protocol)?;
        let address = cluster.pick(who.service.ip(), fastrand::u32(..))?.address;
        let limited = view.rate_limits(address).next().is_some();
        (!limited).then_some(Routed { view, place, decision, address })
    }

    /// The policies that are about it, if there are any.
    fn prospect(&self, who: Who) -> Option<Prospect<'_>> {
        self.view.prospect(who.caller, self.address, who.service)
    }

    fn chosen(&self) -> Chosen<'_> {
        Chosen::of(self.view.port(self.place), &self.decision)
    }

    fn record(&self, who: Who, asked: &Asked<'_>, detailed: bool) -> Box<Record> {
        let begun = Record {
            detailed,
            protocol: asked.protocol(),
            grpc: asked.is_grpc(),
            endpoint: Some(self.address),
            attempts: 1,
            received: asked.body.len() as u64,
            ..who.record()
        };
        if !detailed {
            return Box::new(begun);
        }
        let rule = self.chosen().rule.map_or("", |rule| &rule.name);
        let cluster = cluster(&self.view, &self.decision).map_or("", |cluster| &cluster.name);
        Box::new(Record {
            method: asked.method.to_owned(),
            authority: asked.host.to_owned(),
            path: asked.target.to_owned(),
            user_agent: asked.text("user-agent"),
            forwarded_for: asked.text("x-forwarded-for"),
            traceparent: asked.text("traceparent"),
            rule: rule.to_owned(),
            cluster: cluster.to_owned(),
            ..begun
        })
    }
}

fn cluster<'a>(view: &'a View, decision: &Decision) -> Option<&'a Cluster> {
    match decision.outcome {
        Outcome::Forward(id) => Some(view.mesh.cluster(id)),
        _ => None,
    }
}

/// Takes a request if it is plain; otherwise nothing has happened.
pub(crate) fn take(core: &Rc<Core>, stream: &Rc<Stream>, piece: &Piece<'_>) -> bool {
    let plain = &core.plain;
    let whole = piece.first && piece.data.len() == piece.frame.length as usize;
    let may = plain.on && whole && piece.frame.flags == FLAG_REQUEST;
    if !may || piece.data.len() > PLAIN_REQUEST || !stream.is_idle_at(piece.offset) {
        return false;
    }
    let Some(judged) = piece.frame.judged() else { return false };
    let Some(asked) = request::read(piece.data) else { return false };
    let who = Who::of_stream(stream);
    let Some(routed) = Routed::new(core, who, &asked, judged.draw, Protocol::Http) else {
        return false;
    };
    let chosen = routed.chosen();
    let timed = chosen.policy.timeout.is_some_and(|timeout| !timeout.is_zero());
    if !request::is_plain_rule(&chosen) || timed || plain.avoids(routed.address) {
        return false;
    }
    let recorder = core.recorder.as_ref();
    let mut record = recorder.map(|r| routed.record(who, &asked, r.wants_detail()));
    let mut out = plain.out.borrow_mut();
    let mut room = [0; 36];
    let prospect = routed.prospect(who);
    let Some(prepared) = asked.prepare(&chosen, prospect.as_ref(), &mut room) else {
        return false;
    };
    prepared.write(&mut out);
    prepared.note(prospect.as_ref(), record.as_deref_mut(), &core.counters);
    core.counters.requests.add(1);
    core.counters.bytes_in.add(piece.data.len() as u64);
    stream.begin_plain(piece.data.len(), judged);
    let address = routed.address;
    // Written to if the request has no identity.
    let made_up = (room != [0; 36]).then_some(room);
    let job = Job::new(stream, routed, judged, made_up, record);
    let connection = plain.take(address);
    let connection = connection.unwrap_or_else(|| Connection::open(core, address));
    connection.send(job, piece.data, &out);
    true
}
