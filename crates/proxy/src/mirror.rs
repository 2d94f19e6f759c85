//! Copies of requests that nobody waits for.

use std::rc::Rc;

use beeway_model::policy::Mirror;
use beeway_model::{Policy, Protocol, Retry};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Uri, Version};
use http_body_util::BodyExt;

use crate::attempt::{Answered, Asked, Tries};
use crate::body::RequestBody;
use crate::call::Call;
use crate::exchange::http2_target;
use crate::headers;
use crate::incoming::Incoming;
use crate::limits::{MIRROR_TIMEOUT, MIRRORS};
use crate::view::View;
use crate::worker::Core;

/// Sends a copy of a request, if the draw says so, to an endpoint of the mirror. The copy's body
/// follows what the request itself reads. Its head is the same (Istio has Envoy not mark the host
/// with `-shadow` since 1.28): as it is for the request's own endpoint, which speaks HTTP/2 or not.
pub(crate) fn send(
    call: &Rc<Call>,
    view: &Rc<View>,
    mirror: &Mirror,
    (head, http2): (&Parts, bool),
    policy: &Policy,
) {
    let core = &call.client.core;
    let Some(id) = mirror.cluster.filter(|_| mirror.share.holds(fastrand::u32(..))) else {
        return;
    };
    if core.mirroring.get() >= MIRRORS {
        return core.counters.mirrors_dropped.add(1);
    }
    let body = call.source.as_ref().map_or(RequestBody::Empty, |source| source.tee());
    let mut parts = Box::new(head.clone());
    match (http2, view.mesh.cluster(id).protocol == Protocol::Http2) {
        (false, true) => to_http2(&mut parts),
        (true, false) => to_http1(&mut parts, &body),
        _ => {}
    }
    let policy = Policy {
        timeout: policy.timeout.filter(|time| !time.is_zero()).or(Some(MIRROR_TIMEOUT)),
        retry: Some(Retry { attempts: 0, ..Retry::default() }),
        ..Policy::default()
    };
    let (copy, view) = (Call::aside(call), view.clone());
    core.counters.mirrored.add(1);
    let mirroring = Mirroring::new(core);
    tokio::task::spawn_local(async move {
        let mut tries = Tries::new(&copy, &view, view.mesh.cluster(id), &policy);
        match tries.send(Asked { parts, body }).await {
            Ok(Answered::Endpoint(answer)) => discard(&copy, answer.into_body()).await,
            Ok(Answered::Refused(..)) => {}
            Err(why) => tracing::debug!(?why, "a mirrored request has failed"),
        }
        drop(mirroring);
    });
}

/// Reads an answer so that the connection can be used again.
async fn discard(call: &Call, mut body: Incoming) {
    loop {
        let mut frame = std::pin::pin!(body.frame());
        let frame = std::future::poll_fn(|cx| {
            call.slot.drive(cx);
            frame.as_mut().poll(cx)
        });
        match tokio::time::timeout(MIRROR_TIMEOUT, frame).await {
            Ok(Some(Ok(_))) => {}
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return,
        }
    }
    drop(body);
    if let Some(upstream) = call.slot.take() {
        call.client.core.pool.borrow_mut().put(upstream);
    }
}

/// Puts a head for an endpoint of HTTP/1.1 into the form of HTTP/2.
fn to_http2(head: &mut Parts) {
    headers::for_endpoint(&mut head.headers, None, true);
    let host = head.headers.remove(header::HOST);
    let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let path = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    (head.uri, head.version) = http2_target(host, path);
}

/// The reverse.
fn to_http1(head: &mut Parts, body: &RequestBody) {
    let host = head.uri.authority().map_or("", Authority::as_str);
    if let Ok(host) = HeaderValue::try_from(host) {
        head.headers.insert(header::HOST, host);
    }
    let path = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    (head.uri, head.version) = (Uri::from(path), Version::HTTP_11);
    headers::for_endpoint(&mut head.headers, None, false);
    headers::frame_request(&mut head.headers, body, false);
}

/// Counts a copy under way.
struct Mirroring(Rc<Core>);

impl Mirroring {
    fn new(core: &Rc<Core>) -> Mirroring {
        core.mirroring.set(core.mirroring.get() + 1);
        Mirroring(core.clone())
    }
}

impl Drop for Mirroring {
    fn drop(&mut self) {
        self.0.mirroring.set(self.0.mirroring.get() - 1);
    }
}
