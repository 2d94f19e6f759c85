//! What policies forbid on live connections: connections are reset, with a reason in the log, and
//! requests that were denied where they came in are answered.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};
use beeway_dataplane::{Dataplane, Forbidden, Namespaces, Purpose, WorkerSockets};
use beeway_model::access::{Call, Party, evaluate};
use beeway_model::{Mesh, Transport};
use beeway_proxy::frame::{FLAG_OUT, Frame, KIND_DATA};
use tokio::sync::watch;
use zerocopy::IntoBytes;

use super::telemetry::Telemetry;
use crate::explain::access::words;

/// Connections that wait to be reset. Those beyond stay cut off: both ends see a time-out.
const WAITING: usize = 1024;

/// Does what policies ask for, as the kernel tells it.
pub(super) struct Enforcer {
    dataplane: Arc<Dataplane>,
    /// What a denied request is answered.
    denied: Vec<u8>,
    /// To answer by.
    sockets: Option<WorkerSockets>,
    /// To a thread of its own, which looks for network namespaces and is in them for moments.
    resets: SyncSender<Forbidden>,
}

impl Enforcer {
    /// Starts the thread; it ends with the enforcer.
    pub(super) fn start(
        dataplane: Arc<Dataplane>,
        mesh: watch::Receiver<Arc<Mesh>>,
        telemetry: Arc<Telemetry>,
    ) -> std::io::Result<Enforcer> {
        let (resets, orders) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("resets".into())
            .spawn(move || carry_out(&mesh, &orders, &telemetry))?;
        let denied = beeway_dataplane::tables::denied_answer();
        Ok(Enforcer { dataplane, denied, sockets: None, resets })
    }

    /// Resets a connection, some time soon.
    pub(super) fn reset(&self, forbidden: Forbidden) {
        if self.resets.try_send(forbidden).is_err() {
            let (local, remote) = (forbidden.local, forbidden.remote);
            tracing::warn!(%local, %remote, "too many forbidden connections: cut off, not reset");
        }
    }

    /// Answers a denied request by the socket that received it. A client that does not read what it is
    /// answered is reset: nothing waits for it.
    pub(super) fn answer(&mut self, denied: Forbidden) {
        if let Err(error) = self.try_answer(&denied) {
            tracing::debug!(%error, "a denied request gets no answer");
            self.reset(denied);
        }
    }

    fn try_answer(&mut self, denied: &Forbidden) -> Result<()> {
        if self.sockets.is_none() {
            let sockets = self.dataplane.open_injector(Purpose::Denials)?;
            sockets.injector.set_nonblocking(true)?;
            self.sockets = Some(sockets);
        }
        let mut injector = &self.sockets.as_ref().expect("it was opened").injector;
        let frame = Frame {
            length: self.denied.len() as u32,
            kind: KIND_DATA,
            flags: FLAG_OUT,
            cookie: denied.cookie,
            ..Frame::default()
        };
        injector.write_all(&[frame.as_bytes(), &self.denied].concat()).context("write the answer")
    }
}

fn carry_out(
    mesh: &watch::Receiver<Arc<Mesh>>,
    orders: &Receiver<Forbidden>,
    telemetry: &Telemetry,
) {
    while let Ok(first) = orders.recv() {
        // what is kept keeps namespaces alive: for the length of a burst only
        let mut namespaces = Namespaces::default();
        let mesh = mesh.borrow().clone();
        for forbidden in std::iter::once(first).chain(orders.try_iter().take(WAITING)) {
            reset(&mesh, &forbidden, &mut namespaces);
            telemetry.tell_forbidden(&forbidden);
        }
    }
}

fn reset(mesh: &Mesh, forbidden: &Forbidden, namespaces: &mut Namespaces) {
    let (local, remote) = (forbidden.local, forbidden.remote);
    match forbidden.reset(namespaces) {
        Ok(()) => {
            let reason = reason(mesh, forbidden);
            tracing::info!(%local, %remote, reason, "a connection was reset: it is forbidden");
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
