//! What the agent tells by HTTP on `STATE/api.sock`: pictures of the traffic, flows, and what
//! `STATE/admin.sock` tells. `beeway top` and `beeway flows` ask here.
//!
//! Only root and the agent's own user are answered: the file's mode is 0600, and should somebody
//! else have come by a connection all the same, its credentials tell.

mod flows;

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;

use beeway_telemetry::graph::Snapshot;

use super::Agent;
use super::{admin, socket};
use crate::status::{Status, api_socket};

/// Serves until the process ends.
pub(crate) fn serve(agent: Arc<Agent>) -> Result<()> {
    let listener = socket::listen(&api_socket(&agent.args.state))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let routes = routes(agent).into_make_service_with_connect_info::<Peer>();
    let run = move || {
        runtime.block_on(async move {
            let served = async { axum::serve(UnixListener::from_std(listener)?, routes).await };
            if let Err(error) = served.await {
                tracing::error!(%error, "nobody is told of traffic any more");
            }
        });
    };
    std::thread::Builder::new().name("api".into()).spawn(run).context("start a thread")?;
    Ok(())
}

/// What can be asked for.
fn routes(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/snapshot", get(snapshot))
        .route("/status", get(status))
        .with_state(agent.clone())
        .nest("/flows", flows::routes(agent))
        .layer(from_fn(only_who_may))
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
struct Peer {
    /// As SO_PEERCRED has it; `None`: it could not be found out.
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        Peer { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl Peer {
    fn may_ask(self) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        self.uid.is_some_and(|uid| uid == 0 || uid == own)
    }
}

async fn only_who_may(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if !peer.may_ask() {
        return (StatusCode::FORBIDDEN, "only root may ask the agent\n").into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Window {
    /// Seconds to look back.
    seconds: Option<f64>,
}

/// `GET /snapshot?seconds=10`.
async fn snapshot(State(agent): State<Arc<Agent>>, Query(window): Query<Window>) -> Json<Snapshot> {
    Json(agent.telemetry.snapshot(window.seconds.unwrap_or(10.0).clamp(1.0, 60.0)))
}

/// `GET /status`.
async fn status(State(agent): State<Arc<Agent>>) -> Json<Status> {
    Json(admin::status(&agent))
}
