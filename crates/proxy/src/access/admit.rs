//! Judges what is about to be sent, and says no for the endpoint.

use std::net::SocketAddr;
use std::rc::Rc;

use beeway_model::Protocol;
use http::request::Parts;

use super::check::{Asking, Changes, Stop};
use super::{Refusal, rate};
use crate::body::RequestBody;
use crate::call::Call;
use crate::view::View;

/// Judges one try of a request, and takes its tokens. What authorizers add goes into its head; what
/// they add to its answer is returned.
pub(crate) async fn admit(
    call: &Rc<Call>,
    view: &View,
    endpoint: SocketAddr,
    (head, protocol): (&mut Parts, Protocol),
    body: &mut RequestBody,
) -> Result<Changes, Stop> {
    let changes = judge(call, view, endpoint, (&mut *head, protocol), body).await?;
    rate::take(&call.client, view, endpoint, head, protocol)?;
    Ok(changes)
}

async fn judge(
    call: &Rc<Call>,
    view: &View,
    endpoint: SocketAddr,
    (head, protocol): (&mut Parts, Protocol),
    body: &mut RequestBody,
) -> Result<Changes, Stop> {
    let client = &*call.client;
    let Some(prospect) = view.prospect(client.caller(), endpoint, client.service) else {
        return Ok(Changes::default());
    };
    let counters = &client.core.counters;
    let mut access = prospect.judge_head(head, protocol);
    prospect.count(&access, counters);
    call.note(|record| prospect.note(&access, record));
    let mut changes = Changes::default();
    if !access.ask.is_empty() {
        let asking = Asking { client, view, prospect: &prospect, endpoint };
        let asked = Box::pin(asking.about_request(&access, (&mut *head, protocol), body)).await;
        changes = asked.inspect_err(|stop| {
            if let Stop::Refused(_) = stop {
                counters.denied.add(1);
            }
        })?;
        // the others see what they have made of it
        let again = prospect.judge_head(head, protocol);
        (access.allowed, access.by) = (again.allowed, again.by);
        call.note(|record| prospect.note(&access, record));
    }
    if access.allowed {
        return Ok(changes);
    }
    counters.denied.add(1);
    Err(Refusal::of(prospect.denied(&access)).into())
}
