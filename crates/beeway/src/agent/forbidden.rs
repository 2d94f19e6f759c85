//! What policies forbid on live connections: connections are reset, with a reason in the log, and
//! requests that were denied where they came in are answered.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use beeway_dataplane::{Dataplane, Forbidden, Purpose, WorkerSockets};
use beeway_model::access::{Call, Party, evaluate};
use beeway_model::{Mesh, Transport};
use beeway_proxy::frame::{FLAG_OUT, Frame, KIND_DATA};
use zerocopy::IntoBytes;

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

/// What a denied request is answered, as by the kernel (`ANSWER_DENIED`).
const DENIED: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\n\
    content-length: 19\r\nserver: beeway\r\n\r\nRBAC: access denied";

/// Answers requests by the sockets that received them.
pub(super) struct Denials {
    dataplane: Arc<Dataplane>,
    sockets: Option<WorkerSockets>,
}

impl Denials {
    pub(super) fn new(dataplane: Arc<Dataplane>) -> Denials {
        Denials { dataplane, sockets: None }
    }

    /// Fails for who does not read what it is answered: nothing waits for it.
    pub(super) fn answer(&mut self, denied: &Forbidden) -> Result<()> {
        if self.sockets.is_none() {
            let sockets = self.dataplane.open_injector(Purpose::Denials)?;
            sockets.injector.set_nonblocking(true)?;
            self.sockets = Some(sockets);
        }
        let mut injector = &self.sockets.as_ref().expect("it was opened").injector;
        let frame = Frame {
            length: DENIED.len() as u32,
            kind: KIND_DATA,
            flags: FLAG_OUT,
            cookie: denied.cookie,
            ..Frame::default()
        };
        injector.write_all(&[frame.as_bytes(), DENIED].concat()).context("write the answer")
    }
}
