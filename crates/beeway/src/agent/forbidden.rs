//! Live connections that policies forbid since they changed: reset, with a reason in the log.

use std::net::IpAddr;

use beeway_dataplane::Forbidden;
use beeway_model::access::{Call, Party, evaluate};
use beeway_model::{Mesh, Transport};

use crate::explain::access::words;

/// Resets a connection. Where that cannot be, it stays cut off: both ends see a time-out.
pub(super) fn reset(mesh: &Mesh, forbidden: &Forbidden) {
    let (local, remote) = (forbidden.local, forbidden.remote);
    match forbidden.reset() {
        Ok(()) => {
            let reason = reason(mesh, forbidden);
            tracing::info!(%local, %remote, reason, "a connection was reset: it is forbidden now");
        }
        Err(error) => {
            tracing::warn!(%local, %remote, %error, "a forbidden connection is cut off, not reset");
        }
    }
}

/// What the policies of now say of it.
fn reason(mesh: &Mesh, forbidden: &Forbidden) -> String {
    let party = |address: IpAddr| Party { address, identity: mesh.identity_at(address) };
    let call = Call {
        caller: party(forbidden.caller),
        called: party(forbidden.called().ip()),
        port: forbidden.called().port(),
        transport: Transport::Tcp,
        services: &[],
        sni: None,
        request: None,
    };
    let access = evaluate(mesh.access.iter().enumerate(), &call);
    let policy = access.by.as_ref().map(|by| mesh.access[by.policy].name.as_str());
    words(access.allowed, policy, access.by.as_ref().and_then(|by| by.rule))
}
