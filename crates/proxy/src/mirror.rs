//! Copies of requests that nobody waits for.

use std::rc::Rc;

use beeway_model::policy::Mirror;
use beeway_model::{Policy, Protocol, Retry};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::attempt::Tries;
use crate::body::RequestBody;
use crate::call::Call;
use crate::headers;
use crate::limits::{MIRROR_TIMEOUT, MIRRORS};
use crate::view::View;
use crate::worker::Core;

/// Sends a copy of a request, if the draw says so, to an endpoint of the mirror. The copy's body
/// follows what the request itself reads. Its head is the same: Istio has Envoy not mark the host
/// (`-shadow`) since 1.28.
pub(crate) fn send(
    call: &Rc<Call>,
    view: &Rc<View>,
    mirror: &Mirror,
    head: &Parts,
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
    let head = addressed(head.clone(), view.mesh.cluster(id).protocol);
    let policy = Policy {
        timeout: Some(policy.timeout.unwrap_or(MIRROR_TIMEOUT)),
        retry: Some(Retry { attempts: 0, ..Retry::default() }),
        ..Policy::default()
    };
    let (copy, view) = (Call::aside(call), view.clone());
    core.counters.mirrored.add(1);
    let mirroring = Mirroring::new(core);
    tokio::task::spawn_local(async move {
        let mut tries = Tries::new(&copy, view.mesh.cluster(id), &policy);
        match tries.send(head, body).await {
            Ok(answer) => discard(&copy, answer.into_body()).await,
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

/// A head in the form that the mirror's protocol has for it: it was made for that of the request's
/// own endpoint.
fn addressed(mut head: Parts, protocol: Protocol) -> Parts {
    let http2 = protocol == Protocol::Http2;
    if http2 == (head.version == Version::HTTP_2) {
        return head;
    }
    let path = head.uri.path_and_query().cloned();
    if http2 {
        let host = head.headers.remove(header::HOST);
        headers::strip(&mut head.headers);
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        uri.path_and_query = path;
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        head.version = Version::HTTP_2;
        return head;
    }
    let authority = head.uri.authority().map(|authority| authority.as_str());
    if let Some(Ok(host)) = authority.map(HeaderValue::try_from) {
        head.headers.insert(header::HOST, host);
    }
    head.uri = path.map(Uri::from).unwrap_or_default();
    head.version = Version::HTTP_11;
    head
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
