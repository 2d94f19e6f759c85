//! One request and what is noted of it until its answer has ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use beeway_model::action::retry::Failure;
use http::request::Parts;
use http::{Method, Version};

use crate::body::Source;
use crate::client::Client;
use crate::headers;
use crate::plain::{Begun, Handed};
use crate::record::{Flags, Record};
use crate::upstream::Slot;
use crate::view::View;
use crate::worker::Core;

/// What a request's head says of the answer that it wants.
struct Asked {
    grpc: bool,
    patience: Option<Duration>,
    bare: bool,
}

/// Counts a request as under way.
pub(crate) struct Active(Rc<Core>);

impl Active {
    pub fn new(core: &Rc<Core>) -> Active {
        core.active.set(core.active.get() + 1);
        Active(core.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// A request that is being answered.
pub(crate) struct Call {
    _active: Active,
    pub client: Rc<Client>,
    /// The connection to its endpoint.
    pub slot: Slot,
    /// Where its body comes from, if it has one.
    pub source: Option<Rc<Source>>,
    /// The client speaks gRPC: what is said to it must be gRPC too.
    pub grpc: bool,
    /// How long a gRPC client waits for the answer, if it says so.
    patience: Option<Duration>,
    /// A HEAD: its answer has no body, whatever it says.
    bare: bool,
    /// A copy for a mirror.
    pub aside: bool,
    /// Nobody will be told any more.
    finished: Cell<bool>,
    flags: Cell<Flags>,
    sent: Cell<u64>,
    /// Bytes of the body that came before the engine had it.
    received: Cell<u64>,
    started: Cell<Instant>,
    /// What plain forwarding has done of it.
    pub handed: RefCell<Option<Box<Handed>>>,
    /// Only where somebody wants it.
    record: RefCell<Option<Box<Record>>>,
}

impl Call {
    pub fn new(client: &Rc<Client>, parts: &Parts, source: Option<Rc<Source>>) -> Rc<Call> {
        let recorder = client.core.recorder.as_ref();
        let record =
            recorder.map(|recorder| Box::new(begin(client, parts, recorder.wants_detail())));
        let asked = Asked {
            grpc: crate::grpc::is_grpc(&parts.headers),
            patience: crate::grpc::timeout(&parts.headers),
            bare: parts.method == Method::HEAD,
        };
        Call::noted(client, client.slot(), source, asked, false, record)
    }

    /// A request beside a client's own, of which nothing is noted. It holds nothing of the client's:
    /// not its stream, nor the connection to the endpoint, which reads the body that is copied.
    pub fn aside(of: &Call) -> Rc<Call> {
        let client = Rc::new(of.client.aside());
        let asked = Asked { grpc: of.grpc, patience: None, bare: of.bare };
        Call::noted(&client, Slot::default(), None, asked, true, None)
    }

    /// A request that is not a client's own.
    pub fn beside(client: Client, grpc: bool, bare: bool) -> Rc<Call> {
        let asked = Asked { grpc, patience: None, bare };
        let call = Call::noted(&Rc::new(client), Slot::default(), None, asked, false, None);
        call.finished.set(true);
        call
    }

    fn noted(
        client: &Rc<Client>,
        slot: Slot,
        source: Option<Rc<Source>>,
        Asked { grpc, patience, bare }: Asked,
        aside: bool,
        record: Option<Box<Record>>,
    ) -> Rc<Call> {
        Rc::new(Call {
            _active: Active::new(&client.core),
            client: client.clone(),
            slot,
            source,
            grpc,
            patience: patience.filter(|_| grpc),
            bare,
            aside,
            finished: Cell::new(aside),
            flags: Cell::default(),
            sent: Cell::default(),
            received: Cell::default(),
            started: Cell::new(Instant::now()),
            handed: RefCell::default(),
            record: RefCell::new(record),
        })
    }

    /// The time for an answer: the rule's limit, and for gRPC what the client waits for if that is
    /// less (Istio gives Envoy the limit as `max_grpc_timeout`).
    pub fn limit(&self, rule: Option<Duration>) -> Option<Duration> {
        let given = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
        let limit = given(rule).into_iter().chain(given(self.patience)).min()?;
        let handed = self.handed.borrow();
        let spent = handed.as_ref().map_or(Duration::ZERO, |handed| handed.started.elapsed());
        // zero is no limit
        Some(limit.saturating_sub(spent).max(Duration::from_nanos(1)))
    }

    /// Notes that plain forwarding has begun with it.
    pub fn hand(&self, mut handed: Box<Handed>) {
        if let Some((told, started)) = handed.untold.take() {
            // Without a connection nothing was read of it.
            if !matches!(handed.begun, Begun::Failed(Failure::NoConnection)) {
                self.received.set(told.received);
            }
            self.note(|record| {
                record.start = told.start;
                // it has been judged
                record.policy = told.policy;
                record.audit = told.audit;
                record.dry_run = told.dry_run;
            });
            self.started.set(started);
        }
        *self.handed.borrow_mut() = Some(handed);
    }

    /// The mesh that it is routed by.
    pub fn view(&self) -> Rc<View> {
        let handed = self.handed.borrow().as_ref().map(|handed| handed.view.clone());
        handed.unwrap_or_else(|| self.client.core.view())
    }

    /// An identity for a request that has none: the one that it was sent with before, if it was.
    pub fn request_id(&self) -> [u8; 36] {
        let made_up = self.handed.borrow().as_ref().and_then(|handed| handed.made_up);
        made_up.unwrap_or_else(|| {
            let mut room = [0; 36];
            headers::request_id(&mut room);
            room
        })
    }

    /// Notes what went wrong.
    pub fn flag(&self, flags: Flags) {
        let mut all = self.flags.get();
        all.insert(flags);
        self.flags.set(all);
    }

    /// Notes something for the record, where there is one.
    pub fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.record.borrow_mut().as_mut() {
            change(record);
        }
    }

    /// Notes a text, where texts are wanted.
    pub fn detail(&self, change: impl FnOnce(&mut Record)) {
        self.note(|record| {
            if record.detailed {
                change(record);
            }
        });
    }

    /// Counts bytes of the answer's body.
    pub fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Whether the client has sent all of the request; wakes the caller when it has.
    pub fn poll_sent(&self, cx: &Context<'_>) -> bool {
        self.source.as_ref().is_none_or(|source| source.poll_ended(cx))
    }

    /// Whether the newest try has got as far as the request's body.
    pub fn is_taken(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_asked_for())
    }

    /// The answer has ended, `whole` or not.
    pub fn finish(&self, whole: bool) {
        if self.finished.replace(true) {
            return;
        }
        let core = &self.client.core;
        let delayed = [Flags::default(), Flags::DELAY_INJECTED];
        if !whole && !self.bare && delayed.contains(&self.flags.get()) {
            self.flag(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
        }
        let record = self.record.take().map(|mut record| {
            let read = self.source.as_ref().map_or(0, |source| source.received.get());
            record.received = read.max(self.received.get());
            (record, self.started.get())
        });
        conclude(core, record, self.flags.get(), self.sent.get());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The client went away before there was an answer.
        self.finish(false);
    }
}

/// Counts what went wrong with a request and, where somebody wants it, tells of it.
pub(crate) fn conclude(
    core: &Core,
    record: Option<(Box<Record>, Instant)>,
    flags: Flags,
    sent: u64,
) {
    core.counters.count_flags(flags);
    if let (Some(recorder), Some((mut record, started))) = (&core.recorder, record) {
        record.duration = started.elapsed();
        record.flags = flags;
        record.sent = sent;
        recorder.record(*record);
    }
}

fn begin(client: &Client, parts: &Parts, detailed: bool) -> Record {
    let begun = Record {
        detailed,
        grpc: crate::grpc::is_grpc(&parts.headers),
        protocol: protocol(parts.version),
        ..Record::begin(client.source, client.known_by, client.service)
    };
    if !detailed {
        return begun;
    }
    let field = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let text = |name| field(name).unwrap_or_default().to_owned();
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    Record {
        method: parts.method.to_string(),
        authority: authority.or(field("host")).unwrap_or_default().to_owned(),
        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        user_agent: text("user-agent"),
        forwarded_for: text("x-forwarded-for"),
        traceparent: text("traceparent"),
        ..begun
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
