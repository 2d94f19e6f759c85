//! Connections that stay: they are judged again when the configuration changes.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use beeway_model::access::{Access, AccessPolicy};
use beeway_model::{Mesh, Protocol};
use http::request::Parts;
use tokio::sync::watch;

use super::check::{Asking, Stop};
use super::{Denied, Prospect};
use crate::body::RequestBody;
use crate::client::Client;
use crate::view::View;

/// A connection as a whole, or one that a request has made a tunnel.
pub(crate) struct Standing {
    client: Box<Client>,
    mesh: watch::Receiver<Arc<Mesh>>,
    endpoint: SocketAddr,
    sni: Option<String>,
    /// The request that asked for it, as it was sent, and what the endpoint speaks.
    asked: Option<(Box<Parts>, Protocol)>,
    /// CUSTOM policies whose authorizers have said yes.
    consented: Vec<AccessPolicy>,
}

impl Standing {
    /// A connection to be carried as a whole.
    pub fn connection(client: Client, endpoint: SocketAddr, sni: Option<String>) -> Standing {
        let mesh = client.core.changes();
        let client = Box::new(client);
        Standing { client, mesh, endpoint, sni, asked: None, consented: Vec::new() }
    }

    /// A tunnel that a request has asked for, and got by the policies of a `view`.
    pub fn tunnel(
        client: Client,
        view: &Rc<View>,
        endpoint: SocketAddr,
        asked: (Box<Parts>, Protocol),
    ) -> Standing {
        let mut standing = Standing::connection(client, endpoint, None);
        standing.asked = Some(asked);
        if !Rc::ptr_eq(view, &standing.client.core.view()) {
            standing.mesh.mark_changed();
        }
        if let Some(prospect) = standing.prospect(view) {
            let access = standing.judge(&prospect);
            let asked = access.ask.iter().map(|ask| prospect.policy(*ask).clone());
            standing.consented = asked.collect();
        }
        standing
    }

    fn prospect<'a>(&self, view: &'a View) -> Option<Prospect<'a>> {
        view.prospect(self.client.caller(), self.endpoint, self.client.service)
    }

    fn judge(&self, prospect: &Prospect<'_>) -> Access {
        match &self.asked {
            Some((head, protocol)) => prospect.judge_head(head, *protocol),
            None => prospect.judge(self.sni.as_deref(), None),
        }
    }

    /// Judges by the policies of now. Authorizers are asked once for each of theirs.
    pub async fn admit(&mut self) -> Result<(), Denied> {
        let view = self.client.core.view();
        let Some(prospect) = self.prospect(&view) else { return Ok(()) };
        let mut access = self.judge(&prospect);
        let counters = &self.client.core.counters;
        prospect.count(&access, counters);
        access.ask.retain(|ask| !self.consented.contains(prospect.policy(*ask)));
        let asked = self.ask(&view, &prospect, &access).await;
        let denied = match asked {
            Err(denied) => denied,
            Ok(()) if !access.allowed => prospect.denied(&access),
            Ok(()) => {
                self.consented.extend(access.ask.iter().map(|ask| prospect.policy(*ask).clone()));
                return Ok(());
            }
        };
        counters.connections_denied.add(1);
        Err(denied)
    }

    async fn ask(
        &self,
        view: &View,
        prospect: &Prospect<'_>,
        access: &Access,
    ) -> Result<(), Denied> {
        let asking = Asking { client: &self.client, view, prospect, endpoint: self.endpoint };
        let Some((head, protocol)) = &self.asked else {
            return asking.about_connection(access, self.sni.as_deref()).await;
        };
        // nothing more can be added to a request that was sent
        let asked = (&mut (**head).clone(), *protocol);
        match asking.about_request(access, asked, &mut RequestBody::Empty).await {
            Ok(_) | Err(Stop::ClientBody) => Ok(()),
            Err(Stop::Refused(refusal)) => Err(refusal.denied),
        }
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
            client = %self.client.source,
            service = %self.client.service,
            endpoint = %self.endpoint,
            policy = denied.policy,
            "a connection is forbidden, and reset"
        );
        io::Error::new(io::ErrorKind::PermissionDenied, format!("forbidden by {}", denied.policy))
    }
}
