//! What policies forbid on live connections: connections are reset, with a reason in the log, and
//! requests that were denied where they came in are answered.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};
use beeway_dataplane::tables;
use beeway_dataplane::{Dataplane, Forbidden, Namespaces, Purpose, WorkerSockets};
use beeway_model::access::{Call, Party, called_at, evaluate};
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
    mesh: watch::Receiver<Arc<Mesh>>,
    /// What a request that policies forbid is answered.
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
        let current = mesh.clone();
        std::thread::Builder::new()
            .name("resets".into())
            .spawn(move || carry_out(&current, &orders, &telemetry))?;
        let denied = tables::denied_answer();
        Ok(Enforcer { dataplane, mesh, denied, sockets: None, resets })
    }

    /// Resets a connection, some time soon.
    pub(super) fn reset(&self, forbidden: Forbidden) {
        if self.resets.try_send(forbidden).is_err() {
            let (local, remote) = (forbidden.local, forbidden.remote);
            tracing::warn!(%local, %remote, "too many forbidden connections: cut off, not reset");
        }
    }

    /// Answers a request that is not let in, by the socket that received it: policies forbid it, or a
    /// bucket has no token for it. A client that does not read what it is answered is reset: nothing waits
    /// for it.
    pub(super) fn answer(&mut self, on: Forbidden, bucket: Option<u64>) {
        let answer = bucket.map_or_else(|| Some(self.denied.clone()), |id| self.limited(id));
        let answered = answer.context("there is no answer").and_then(|a| self.send(&on, &a));
        if let Err(error) = answered {
            tracing::debug!(%error, "a request that is not let in gets no answer");
            self.reset(on);
        }
    }

    /// What the limit with this bucket answers; `None`: it has gone, or its answer is too long.
    fn limited(&self, bucket: u64) -> Option<Vec<u8>> {
        self.mesh.borrow().rate_limit_with(bucket).and_then(tables::limited_answer)
    }

    fn send(&mut self, on: &Forbidden, answer: &[u8]) -> Result<()> {
        if self.sockets.is_none() {
            let sockets = self.dataplane.open_injector(Purpose::Denials)?;
            sockets.injector.set_nonblocking(true)?;
            self.sockets = Some(sockets);
        }
        let mut injector = &self.sockets.as_ref().expect("it was opened").injector;
        let frame = Frame {
            length: answer.len() as u32,
            kind: KIND_DATA,
            flags: FLAG_OUT,
            cookie: on.cookie,
            ..Frame::default()
        };
        injector.write_all(&[frame.as_bytes(), answer].concat()).context("write the answer")
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
    let judge = |call: &Call<'_>| evaluate(mesh.access.iter().enumerate(), call);
    let mut access = judge(&call);
    // which service was meant is not told: it may be any that the endpoint stands behind
    if access.allowed {
        let services = mesh.names_at(called_at(forbidden.called(), Transport::Tcp));
        access = judge(&Call { services: &services, ..call });
    }
    let policy = access.by.as_ref().map(|by| mesh.access[by.policy].name.as_str());
    words(access.allowed, policy, access.by.as_ref().and_then(|by| by.rule))
}
