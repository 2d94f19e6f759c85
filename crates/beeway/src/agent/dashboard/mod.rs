//! The dashboard: a page that shows the node's traffic to people, and what that page asks for.
//!
//! Nothing can be changed by it, and nothing of it is loaded from elsewhere. [`door`] says who may
//! enter.

mod answers;
mod door;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::Agent;
use super::limited::{Limited, Room};
use crate::status::dashboard_url;
use door::Door;

/// Sent with every answer. Only what comes from here is loaded, and no other page may frame it.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Where to, media type, content.
const ASSETS: [(&str, &str, &str); 8] = [
    ("/style.css", CSS, include_str!("assets/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("/main.js", JS, include_str!("assets/main.js")),
    ("/graph.js", JS, include_str!("assets/graph.js")),
    ("/layout.js", JS, include_str!("assets/layout.js")),
    ("/panels.js", JS, include_str!("assets/panels.js")),
    ("/explain.js", JS, include_str!("assets/explain.js")),
    ("/dom.js", JS, include_str!("assets/dom.js")),
];
const PAGE: &str = include_str!("assets/index.html");
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

const NO_TOKEN: &str = "This page needs the token that the agent made when it started.\n\
                        Open the address that `beeway dashboard` prints.\n";

/// The page asks more often.
const SILENCE: Duration = Duration::from_secs(10);

/// The places for connections to the dashboard.
pub(super) fn room() -> Arc<Room> {
    Room::new("dashboard", SILENCE)
}

/// Serves the dashboard until it is dropped.
pub(crate) struct Server {
    url: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.url);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves the dashboard on a thread of its own; `None`: it was not asked for.
pub(crate) fn serve(agent: Arc<Agent>) -> Result<Option<Server>> {
    let Some(address) = agent.args.dashboard else { return Ok(None) };
    let listener = std::net::TcpListener::bind(address).with_context(|| {
        format!("serve the dashboard on {address} (choose another with --dashboard)")
    })?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let door = Arc::new(Door::new(bound)?);
    let url = dashboard_url(&agent.args.state);
    door.write_url(&url)?;
    announce(bound, &url);
    let room = agent.rooms.dashboard.clone();
    let routes = routes(agent, door);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("dashboard".into()).spawn(move || {
        runtime.block_on(async move {
            let served = async { axum::serve(Limited::new(listener, room)?, routes).await };
            tokio::select! {
                Err(error) = served => {
                    tracing::error!(%error, "the dashboard is not served any more");
                }
                _ = stopped => {}
            }
        });
    })?;
    Ok(Some(Server { url, stop: Some(stop), thread: Some(thread) }))
}

fn announce(bound: SocketAddr, url: &std::path::Path) {
    tracing::info!(
        address = %bound,
        "dashboard: `beeway dashboard` prints its address with the token, from {}",
        url.display()
    );
    if !bound.ip().is_loopback() {
        tracing::warn!(
            "THE DASHBOARD IS ON {bound}, WHICH OTHER HOSTS MAY REACH: they need the token, but it \
             goes over the network in clear text, with all that the page shows. A tunnel to \
             127.0.0.1 (ssh -L) is safer"
        );
    }
}

fn routes(agent: Arc<Agent>, door: Arc<Door>) -> Router {
    let mut routes = Router::new().route("/", get(page));
    for (path, kind, content) in ASSETS {
        routes = routes.route(path, get(async move || typed(kind, content)));
    }
    let guard = from_fn_with_state(door.clone(), guard);
    routes.with_state(door).nest("/api", answers::routes(agent)).layer(guard)
}

/// Everything passes here, also what does not exist.
async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    // the page looks at the token in its address itself
    let shows_token = request.uri().path() == "/"
        && request.uri().query().is_some_and(|query| query.starts_with("token="));
    let mut response = if !door.is_host(request.headers()) {
        (StatusCode::MISDIRECTED_REQUEST, "This is not the host that was asked for.\n")
            .into_response()
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]).into_response()
    } else if shows_token || door.lets_in(request.headers()) {
        next.run(request).await
    } else {
        unauthorized()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, NO_TOKEN).into_response()
}

#[derive(Deserialize)]
struct Shown {
    token: Option<String>,
}

/// The page; who shows the token gets the cookie, and an address without it.
async fn page(State(door): State<Arc<Door>>, Query(shown): Query<Shown>) -> Response {
    match shown.token {
        None => typed(HTML, PAGE),
        Some(token) if door.is_token(&token) => {
            ([(header::SET_COOKIE, door.cookie())], Redirect::to("/")).into_response()
        }
        Some(_) => unauthorized(),
    }
}

fn typed(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_light_and_loads_nothing_from_elsewhere() {
        let all = ASSETS.iter().map(|(_, _, content)| *content).chain([PAGE]);
        assert!(all.clone().map(str::len).sum::<usize>() < 100_000);
        for text in all {
            let known = text.replace("http://www.w3.org/", "").replace("http://HOST", "");
            assert!(!known.contains("https:") && !known.contains("//cdn"), "{known}");
        }
    }
}
