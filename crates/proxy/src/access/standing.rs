//! Connections that stay: they are judged again when the configuration changes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use beeway_model::{Mesh, Protocol};
use http::request::Parts;
use tokio::sync::watch;

use super::Denied;
use crate::worker::Core;

/// A connection as a whole, or one that a request has made a tunnel.
pub(crate) struct Standing {
    core: Rc<Core>,
    mesh: watch::Receiver<Arc<Mesh>>,
    caller: IpAddr,
    endpoint: SocketAddr,
    service: SocketAddr,
    sni: Option<String>,
    /// The request that asked for it, as it was sent, and what the endpoint speaks.
    asked: Option<(Parts, Protocol)>,
}

impl Standing {
    /// A connection to be carried as a whole.
    pub fn connection(
        core: &Rc<Core>,
        caller: IpAddr,
        endpoint: SocketAddr,
        service: SocketAddr,
        sni: Option<String>,
    ) -> Standing {
        let mesh = core.changes();
        Standing { core: core.clone(), mesh, caller, endpoint, service, sni, asked: None }
    }

    /// A tunnel that a request has asked for.
    pub fn tunnel(
        core: &Rc<Core>,
        caller: IpAddr,
        endpoint: SocketAddr,
        service: SocketAddr,
        asked: (Parts, Protocol),
    ) -> Standing {
        let asked = Some(asked);
        Standing { asked, ..Standing::connection(core, caller, endpoint, service, None) }
    }

    /// Judges by the policies of now.
    pub async fn admit(&mut self) -> Result<(), Denied> {
        let view = self.core.view();
        let Some(prospect) = view.prospect(self.caller, self.endpoint, self.service) else {
            return Ok(());
        };
        let access = match &self.asked {
            Some((head, protocol)) => prospect.judge_head(head, *protocol),
            None => prospect.judge(self.sni.as_deref(), None),
        };
        prospect.count(&access, &self.core.counters);
        if access.allowed {
            return Ok(());
        }
        self.core.counters.connections_denied.add(1);
        Err(prospect.denied(&access))
    }

    /// Resolves when the connection is forbidden.
    pub async fn forbidden(mut self) -> io::Error {
        loop {
            if self.mesh.changed().await.is_err() {
                // there will be no other configuration
                std::future::pending::<()>().await;
            }
            if let Err(denied) = self.admit().await {
                return self.reset(&denied);
            }
        }
    }

    /// Says why a connection is not carried, or no longer.
    pub fn reset(&self, denied: &Denied) -> io::Error {
        tracing::info!(
            client = %self.caller,
            service = %self.service,
            endpoint = %self.endpoint,
            policy = denied.policy,
            "a connection is forbidden, and reset"
        );
        io::Error::new(io::ErrorKind::PermissionDenied, format!("forbidden by {}", denied.policy))
    }
}
