//! Tries to get an answer from an endpoint.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::LazyLock;

use beeway_model::action::retry::{self, Failure};
use beeway_model::{Cluster, Policy, Protocol, Retry};
use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response};
use hyper::client::conn::TrySendError;

use crate::access::{self, Refusal, Stop};
use crate::body::RequestBody;
use crate::call::Call;
use crate::deadline::Deadline;
use crate::grpc;
use crate::headers::ATTEMPT_COUNT;
use crate::incoming::Incoming;
use crate::limits::{RETRIES_ALWAYS, RETRY_SHARE};
use crate::plain::{Begun, Handed};
use crate::record::Flags;
use crate::upstream::{Upstream, Upstream2};
use crate::view::View;
use crate::worker::Core;

/// Of rules that say nothing of it.
pub(crate) static USUAL_RETRY: LazyLock<Retry> = LazyLock::new(Retry::default);

/// A request on its way. The head is in a box: futures that hold it are moved as a whole, again and
/// again.
pub(crate) struct Asked {
    pub parts: Box<Parts>,
    pub body: RequestBody,
}

impl From<Asked> for Request<RequestBody> {
    fn from(asked: Asked) -> Self {
        Request::from_parts(*asked.parts, asked.body)
    }
}

impl From<Request<RequestBody>> for Asked {
    fn from(request: Request<RequestBody>) -> Self {
        let (parts, body) = request.into_parts();
        Asked { parts: Box::new(parts), body }
    }
}

/// What came of sending, as the HTTP library says it.
type Sent = Result<Response<hyper::body::Incoming>, TrySendError<Request<RequestBody>>>;

/// Who has answered.
pub(crate) enum Answered {
    Endpoint(Response<Incoming>),
    /// The endpoint may not be asked. With what is left of the request.
    Refused(Box<Refusal>, RequestBody),
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    NoEndpoint,
    Timeout,
    /// The client's body is broken.
    ClientBody,
    /// The connection to the endpoint failed, and how.
    Reset(&'static str),
}

/// All tries of one request.
pub(crate) struct Tries<'a> {
    call: &'a Rc<Call>,
    view: &'a View,
    cluster: &'a Cluster,
    protocol: Protocol,
    retry: &'a Retry,
    /// Policies say whether an endpoint may be asked.
    judged: bool,
    deadline: Deadline,
    /// Endpoints that have failed.
    failed: Vec<SocketAddr>,
    /// The head that was sent, if it is wanted.
    pub sent: Option<Box<Parts>>,
}

/// What one try has led to.
enum Tried {
    Answer(Response<Incoming>),
    Refused(Box<Refusal>, RequestBody),
    Failed(Failure),
    /// The endpoint has reset the stream.
    Reset,
    /// What the endpoint said is not HTTP.
    Garbage,
    TimedOut,
    ClientBody,
}

/// Which time is up: that of the request or that of one try.
#[derive(Debug)]
enum Lapsed {
    Request,
    Try,
}

impl<'a> Tries<'a> {
    pub fn new(
        call: &'a Rc<Call>,
        view: &'a View,
        cluster: &'a Cluster,
        policy: &'a Policy,
    ) -> Tries<'a> {
        let retry = policy.retry.as_ref().unwrap_or(&USUAL_RETRY);
        let deadline = Deadline::new(call.limit(policy.timeout));
        let (protocol, failed) = (cluster.protocol, Vec::new());
        Tries { call, view, cluster, protocol, retry, judged: true, deadline, failed, sent: None }
    }

    /// For a request of the proxy's own, which no policy is about, in a protocol of its choice.
    pub fn of_ours(
        call: &'a Rc<Call>,
        view: &'a View,
        cluster: &'a Cluster,
        protocol: Protocol,
        policy: &'a Policy,
    ) -> Tries<'a> {
        Tries { protocol, judged: false, ..Tries::new(call, view, cluster, policy) }
    }

    /// What is left of the time for the answer.
    pub fn into_deadline(self) -> Deadline {
        self.deadline
    }

    /// Sends the request until there is an answer to give to the client.
    pub async fn send(
        &mut self,
        Asked { parts: mut head, mut body }: Asked,
    ) -> Result<Answered, NoAnswer> {
        if let (Some(source), true) = (&self.call.source, self.retry.attempts > 0) {
            source.keep();
        }
        for attempt in 1.. {
            let handed = self.call.handed.take();
            let Some(address) =
                handed.as_ref().map_or_else(|| self.endpoint(), |h| Some(h.address))
            else {
                return Err(NoAnswer::NoEndpoint);
            };
            self.call.note(|record| {
                record.endpoint = Some(address);
                record.attempts = attempt;
            });
            let last = attempt > self.retry.attempts;
            let parts = if last { std::mem::replace(&mut head, empty()) } else { head.clone() };
            let request = Asked { parts, body };
            let tried = match handed {
                Some(handed) => Box::pin(self.resume(*handed, request)).await,
                None => self.once(address, request).await,
            };
            let Some(again) = self.again(&tried, attempt, address) else {
                return self.settle(tried);
            };
            body = again;
            drop(tried);
            // With the rest of its answer, if there is one.
            self.call.slot.take();
            self.pause(attempt).await?;
            if let Ok(count) = HeaderValue::try_from((attempt + 1).to_string()) {
                head.headers.insert(ATTEMPT_COUNT, count);
            }
        }
        unreachable!("the loop ends with the last try")
    }

    /// One that has not failed yet, as long as there is one.
    fn endpoint(&self) -> Option<SocketAddr> {
        let called = self.call.client.service.ip();
        let endpoint = self.cluster.pick_other(called, &self.failed, fastrand::u32(..));
        endpoint.map(|endpoint| endpoint.address)
    }

    /// The body of another try, if there is to be one.
    fn again(&mut self, tried: &Tried, attempt: u32, address: SocketAddr) -> Option<RequestBody> {
        let failure = match tried {
            Tried::Answer(response) => {
                let status = response.status().as_u16();
                Failure::Answered { status, grpc_status: grpc::status_of(response.headers()) }
            }
            // as Envoy, for whom `x-envoy-ratelimited` says it
            Tried::Refused(refusal, _) if refusal.flags.contains(Flags::RATE_LIMITED) => {
                return None;
            }
            Tried::Refused(refusal, _) => refusal.as_failure(self.call.grpc),
            Tried::Failed(failure) => *failure,
            Tried::Reset | Tried::Garbage => Failure::Reset { sent: true },
            Tried::TimedOut | Tried::ClientBody => return None,
        };
        if !retry::should_retry(self.retry, failure) {
            return None;
        }
        if attempt > self.retry.attempts {
            if self.retry.attempts > 0 {
                self.call.flag(Flags::UPSTREAM_RETRY_LIMIT);
            }
            return None;
        }
        let core = &self.call.client.core;
        if core.retrying.get() >= (core.active.get() / RETRY_SHARE).max(RETRIES_ALWAYS) {
            self.call.flag(Flags::UPSTREAM_OVERFLOW);
            return None;
        }
        let again = match &self.call.source {
            None => RequestBody::Empty,
            Some(source) => source.again()?,
        };
        core.counters.retries.add(1);
        self.failed.push(address);
        Some(again)
    }

    /// Waits before the next try.
    async fn pause(&mut self, attempt: u32) -> Result<(), NoAnswer> {
        let core = &self.call.client.core;
        let time = retry::backoff(self.retry, attempt, fastrand::u32(..));
        let _retrying = Retrying::new(core);
        self.limited(&mut Deadline::default(), pin!(tokio::time::sleep(time)))
            .await
            .map_err(|_| self.timed_out())
    }

    fn settle(&self, tried: Tried) -> Result<Answered, NoAnswer> {
        if let Some(source) = &self.call.source {
            source.let_go();
        }
        match tried {
            Tried::Answer(response) => Ok(Answered::Endpoint(response)),
            Tried::Refused(refusal, body) => Ok(Answered::Refused(refusal, body)),
            Tried::TimedOut => Err(self.timed_out()),
            Tried::ClientBody => Err(NoAnswer::ClientBody),
            Tried::Reset => {
                self.call.flag(Flags::UPSTREAM_REMOTE_RESET);
                Err(NoAnswer::Reset("remote reset"))
            }
            Tried::Garbage => {
                self.call.flag(Flags::UPSTREAM_PROTOCOL_ERROR);
                Err(NoAnswer::Reset("protocol error"))
            }
            Tried::Failed(failure) => {
                let (flag, reason) = match failure {
                    Failure::NoConnection => {
                        (Flags::UPSTREAM_CONNECTION_FAILURE, "remote connection failure")
                    }
                    Failure::TimedOut { .. } => return Err(self.timed_out()),
                    Failure::RefusedStream => {
                        (Flags::UPSTREAM_REMOTE_RESET, "remote refused stream reset")
                    }
                    _ => (Flags::UPSTREAM_CONNECTION_TERMINATION, "connection termination"),
                };
                self.call.flag(flag);
                Err(NoAnswer::Reset(reason))
            }
        }
    }

    fn timed_out(&self) -> NoAnswer {
        self.call.flag(Flags::UPSTREAM_REQUEST_TIMEOUT);
        NoAnswer::Timeout
    }

    /// Waits for something as long as the time limits allow, and keeps the connection going.
    async fn limited<T>(
        &mut self,
        this_try: &mut Deadline,
        mut what: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Lapsed> {
        let (call, deadline) = (self.call, &mut self.deadline);
        std::future::poll_fn(|cx| {
            call.slot.drive(cx);
            if let std::task::Poll::Ready(done) = what.as_mut().poll(cx) {
                return std::task::Poll::Ready(Ok(done));
            }
            if deadline.poll(cx, call).is_ready() {
                return std::task::Poll::Ready(Err(Lapsed::Request));
            }
            this_try.poll(cx, call).map(|()| Err(Lapsed::Try))
        })
        .await
    }

    async fn once(&mut self, address: SocketAddr, request: Asked) -> Tried {
        let mut limit = Deadline::new(self.retry.per_try_timeout);
        let tried = self.judged(address, request, &mut limit).await;
        let broken = self.call.source.as_ref().is_some_and(|source| source.is_broken());
        match tried {
            // A connection of HTTP/2 fails in another way than for its own reasons.
            Ok(Tried::Failed(_) | Tried::Reset | Tried::Garbage) if broken => Tried::ClientBody,
            Ok(tried) => tried,
            Err(Lapsed::Request) => Tried::TimedOut,
            Err(Lapsed::Try) => Tried::Failed(Failure::TimedOut { sent: true }),
        }
    }

    /// Sends a request to an endpoint that may be asked.
    async fn judged(
        &mut self,
        address: SocketAddr,
        request: Asked,
        limit: &mut Deadline,
    ) -> Result<Tried, Lapsed> {
        if !self.judged {
            return self.unjudged(address, request, limit).await;
        }
        let (call, view, protocol) = (self.call, self.view, self.protocol);
        let Asked { mut parts, mut body } = request;
        let asked = (&mut *parts, protocol);
        let admitted = access::admit(call, view, address, asked, &mut body);
        let admitted = self.limited(limit, pin!(admitted)).await?;
        let changes = match admitted {
            Ok(changes) => changes,
            Err(Stop::Refused(refusal)) => return Ok(Tried::Refused(refusal, body)),
            Err(Stop::ClientBody) => return Ok(Tried::ClientBody),
        };
        if let Some(sent) = &mut self.sent {
            sent.clone_from(&parts);
        }
        let mut tried = self.unjudged(address, Asked { parts, body }, limit).await;
        if let Ok(Tried::Answer(answer)) = &mut tried {
            changes.apply(answer.headers_mut());
        }
        tried
    }

    async fn unjudged(
        &mut self,
        address: SocketAddr,
        request: Asked,
        limit: &mut Deadline,
    ) -> Result<Tried, Lapsed> {
        match self.protocol {
            Protocol::Http2 => self.once_http2(address, request, limit).await,
            _ => self.once_http1(address, request, limit).await,
        }
    }

    /// Goes on with a try that plain forwarding has made.
    async fn resume(&mut self, handed: Handed, request: Asked) -> Tried {
        let Handed { address, begun, .. } = handed;
        let wire = match begun {
            Begun::Sent(wire) => wire,
            Begun::Answer(answer) => return Tried::Answer(*answer),
            Begun::Failed(failure) => return Tried::Failed(failure),
            Begun::Reset => return Tried::Reset,
            Begun::Garbage => return Tried::Garbage,
            Begun::TimedOut => return Tried::TimedOut,
        };
        let upstream = match Upstream::over(address, wire, &self.call.client.core.counters).await {
            Ok(upstream) => upstream,
            Err(error) => return no_connection(address, &error),
        };
        match self.send_over(upstream, request, &mut Deadline::default()).await {
            Ok(Ok(response)) => Tried::Answer(response.map(Incoming::from)),
            Ok(Err(error)) => failed(address, error.error(), true),
            Err(_) => Tried::TimedOut,
        }
    }

    /// Sends a request over a connection of HTTP/1.1, which stays with the call if there is an answer.
    async fn send_over(
        &mut self,
        mut upstream: Upstream,
        request: Asked,
        limit: &mut Deadline,
    ) -> Result<Sent, Lapsed> {
        let response = pin!(upstream.sender.try_send_request(request.into()));
        self.call.slot.put(upstream);
        let sent = self.limited(limit, response).await;
        if !matches!(sent, Ok(Ok(_))) {
            self.call.slot.take();
        }
        sent
    }

    /// A request is sent once more without counting if nothing of it was sent: a connection from
    /// the pool may turn out to be closed.
    async fn once_http1(
        &mut self,
        address: SocketAddr,
        mut request: Asked,
        limit: &mut Deadline,
    ) -> Result<Tried, Lapsed> {
        let core = &self.call.client.core;
        loop {
            let pooled = core.pool.borrow_mut().take(address);
            let reused = pooled.is_some();
            let upstream = match pooled {
                Some(upstream) => upstream,
                None => {
                    let mut connected = Box::pin(Upstream::connect(address, &core.counters));
                    match self.limited(limit, connected.as_mut()).await? {
                        Ok(upstream) => upstream,
                        Err(error) => return Ok(no_connection(address, &error)),
                    }
                }
            };
            let mut error = match self.send_over(upstream, request, limit).await? {
                Ok(response) => return Ok(Tried::Answer(response.map(Incoming::from))),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) if reused => request = unsent.into(),
                unsent => return Ok(failed(address, error.error(), unsent.is_none())),
            }
        }
    }

    async fn once_http2(
        &mut self,
        address: SocketAddr,
        mut request: Asked,
        limit: &mut Deadline,
    ) -> Result<Tried, Lapsed> {
        let core = self.call.client.core.clone();
        loop {
            let shared = core.pool.borrow_mut().shared(address, self.call.aside);
            let reused = shared.is_some();
            let mut upstream = match shared {
                Some(upstream) => upstream,
                None => {
                    let mut connected = Box::pin(Upstream2::connect(address, &core.counters));
                    match self.limited(limit, connected.as_mut()).await? {
                        Ok(upstream) => {
                            core.pool.borrow_mut().share(address, self.call.aside, &upstream);
                            upstream
                        }
                        Err(error) => return Ok(no_connection(address, &error)),
                    }
                }
            };
            let response = pin!(upstream.sender.try_send_request(request.into()));
            let mut error = match self.limited(limit, response).await? {
                Ok(response) => return Ok(Tried::Answer(response.map(Incoming::from))),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) if reused => request = unsent.into(),
                unsent => return Ok(failed(address, error.error(), unsent.is_none())),
            }
        }
    }
}

/// Counts a retry from its back-off until it is made.
struct Retrying<'a>(&'a Core);

impl<'a> Retrying<'a> {
    fn new(core: &'a Core) -> Retrying<'a> {
        core.retrying.set(core.retrying.get() + 1);
        Retrying(core)
    }
}

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.0.retrying.set(self.0.retrying.get() - 1);
    }
}

fn no_connection(address: SocketAddr, error: &std::io::Error) -> Tried {
    tracing::debug!(%error, %address, "cannot connect");
    Tried::Failed(Failure::NoConnection)
}

fn failed(address: SocketAddr, error: &hyper::Error, sent: bool) -> Tried {
    tracing::debug!(%error, %address, "no answer");
    let h2 = h2_error(error);
    match h2.and_then(h2::Error::reason) {
        // Of streams above the last one that a GOAWAY names nothing was done (RFC 9113 section 6.8).
        _ if h2.is_some_and(|h2| h2.is_go_away() && h2.is_remote()) => {
            Tried::Failed(Failure::RefusedStream)
        }
        Some(h2::Reason::REFUSED_STREAM) => Tried::Failed(Failure::RefusedStream),
        _ if is_remote_reset(error) => Tried::Reset,
        Some(h2::Reason::PROTOCOL_ERROR) => Tried::Garbage,
        _ if error.is_parse() => Tried::Garbage,
        // The library still held it, for want of room, when the connection ended.
        _ if error.is_user() => Tried::Failed(Failure::NoConnection),
        _ => Tried::Failed(Failure::Reset { sent }),
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// Whether the endpoint has reset the stream, and the connection goes on.
pub(crate) fn is_remote_reset(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|h2| h2.is_reset() && h2.is_remote())
}

/// What stands where a head was.
fn empty() -> Box<Parts> {
    Box::new(Request::new(()).into_parts().0)
}
