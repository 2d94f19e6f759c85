//! What the agent tells by HTTP on `STATE/api.sock`, mode 0600: pictures of the traffic and flows.
//! `beeway top` and `beeway flows` ask here.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use beeway_telemetry::graph::Snapshot;

use super::Agent;
use super::socket;
use crate::status::api_socket;

/// Serves until the process ends.
pub(crate) fn serve(agent: Arc<Agent>) -> Result<()> {
    let listener = socket::listen(&api_socket(&agent.args.state))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let routes = routes(agent);
    let run = move || {
        runtime.block_on(async move {
            let served =
                async { axum::serve(tokio::net::UnixListener::from_std(listener)?, routes).await };
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
    Router::new().route("/snapshot", get(snapshot)).with_state(agent)
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
