//! Judges what is about to be sent, and says no for the endpoint.

use std::net::SocketAddr;
use std::rc::Rc;

use beeway_model::Protocol;
use http::request::Parts;

use super::{Denied, Prospect, Refusal};
use crate::call::Call;
use crate::view::View;

/// Judges one try of a request. What an authorizer adds goes into its head.
pub(crate) async fn admit(
    call: &Rc<Call>,
    view: &View,
    endpoint: SocketAddr,
    protocol: Protocol,
    head: &mut Parts,
) -> Result<(), Refusal> {
    let client = &call.client;
    let Some(prospect) = view.prospect(client.source, endpoint, client.service) else {
        return Ok(());
    };
    let access = prospect.judge_head(head, protocol);
    let counters = &client.core.counters;
    prospect.count(&access, counters);
    call.note(|record| prospect.note(&access, record));
    let refusal = if !access.ask.is_empty() {
        Refusal::of(unasked(&prospect, &access))
    } else if access.allowed {
        return Ok(());
    } else {
        Refusal::of(prospect.denied(&access))
    };
    counters.denied.add(1);
    Err(refusal)
}

fn unasked(prospect: &Prospect<'_>, access: &beeway_model::access::Access) -> Denied {
    Denied::new(access.ask.first().map(|ask| (prospect.policy(*ask), ask.rule)))
}
