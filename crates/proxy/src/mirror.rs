//! Copies of requests that nobody waits for.

use std::rc::Rc;

use beeway_model::policy::Mirror;
use beeway_model::{Policy, Protocol, Retry};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::attempt::Tries;
use crate::body::RequestBody;
use crate::call::Call;
use crate::limits::{MIRROR_TIMEOUT, MIRRORS};
use crate::view::View;
use crate::worker::Core;

/// Sends a copy of a request, if the draw says so, to an endpoint of the mirror. The copy's body
/// follows what the request itself reads.
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
    let head = shadow(head.clone(), view.mesh.cluster(id).protocol);
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

/// The copy's head: Envoy marks the host, so that logs can tell it from the request itself.
fn shadow(mut head: Parts, protocol: Protocol) -> Parts {
    let marked = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{name}-shadow:{port}")
        }
        _ => format!("{host}-shadow"),
    };
    if let Some(host) = head.headers.get(header::HOST).and_then(|host| host.to_str().ok())
        && let Ok(host) = HeaderValue::try_from(marked(host))
    {
        head.headers.insert(header::HOST, host);
    }
    if let Some(authority) = head.uri.authority() {
        let mut uri = head.uri.clone().into_parts();
        uri.authority = Authority::try_from(marked(authority.as_str())).ok();
        head.uri = http::Uri::from_parts(uri).unwrap_or(head.uri);
    }
    let _ = protocol;
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
