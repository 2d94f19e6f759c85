//! What the page asks for: JSON, below `/api`.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use beeway_config::Severity;
use beeway_model::Transport;
use beeway_telemetry::graph::Snapshot;
use beeway_telemetry::{FlowView, Verdict};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::super::{Agent, admin};
use crate::cli;
use crate::status::Status;

/// Most flows that are told of at once.
const FLOWS: usize = 1000;

/// Most bytes of a question for an explanation.
const QUESTION: usize = 16 * 1024;

type Asked = State<Arc<Answers>>;

struct Answers {
    agent: Arc<Agent>,
    /// Reads and compiles the whole configuration: one at a time.
    explaining: Mutex<()>,
}

/// What can be asked for.
pub(super) fn routes(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/snapshot", get(snapshot))
        .route("/flows", get(flows))
        .route("/configuration", get(configuration))
        .route("/status", get(status))
        .route("/names", get(names))
        .route("/explain", get(explain))
        .fallback(async || StatusCode::NOT_FOUND)
        .with_state(Arc::new(Answers { agent, explaining: Mutex::default() }))
}

#[derive(Deserialize)]
struct Window {
    /// Seconds to look back.
    seconds: Option<f64>,
}

/// `GET /api/snapshot?seconds=10`: the picture.
async fn snapshot(State(answers): Asked, Query(window): Query<Window>) -> Json<Snapshot> {
    let seconds = window.seconds.unwrap_or(10.0).clamp(1.0, 60.0);
    Json(answers.agent.telemetry.snapshot(seconds))
}

#[derive(Deserialize)]
struct Wanted {
    last: Option<usize>,
    verdict: Option<Verdict>,
}

/// The newest flows, oldest first.
#[derive(Serialize)]
struct Flows<'a> {
    flows: Vec<FlowView<'a>>,
    /// Records that there was no time for since the agent started.
    lost: u64,
}

/// `GET /api/flows?last=100&verdict=denied`.
async fn flows(State(answers): Asked, Query(wanted): Query<Wanted>) -> Response {
    let telemetry = &answers.agent.telemetry;
    let kept = telemetry.kept();
    let fitting = kept.iter().rev().filter(|f| wanted.verdict.is_none_or(|v| v == f.verdict));
    let last = wanted.last.unwrap_or(100).min(FLOWS);
    let mut flows: Vec<FlowView<'_>> = fitting.take(last).map(|f| FlowView::from(&**f)).collect();
    flows.reverse();
    Json(Flows { flows, lost: telemetry.lost() }).into_response()
}

/// What is wrong with the configuration, in numbers.
#[derive(Serialize)]
struct Configuration {
    errors: usize,
    warnings: usize,
    /// The files as last read are not in force.
    rejected: bool,
}

/// `GET /api/configuration`: asked for all the time, so it must cost little.
async fn configuration(State(answers): Asked) -> Json<Configuration> {
    let state = answers.agent.follower.state();
    let of = |severity| state.problems.iter().filter(|p| p.severity == severity).count();
    Json(Configuration {
        errors: of(Severity::Error),
        warnings: of(Severity::Warning),
        rejected: state.rejected.is_some(),
    })
}

/// `GET /api/status`: what `beeway status --json` shows. It counts what is in the kernel's maps, which
/// takes a while with many connections.
async fn status(State(answers): Asked) -> Json<Status> {
    Json(admin::status(&answers.agent))
}

/// What questions can be about.
#[derive(Serialize)]
struct Names {
    /// `NAMESPACE/NAME`.
    workloads: Vec<String>,
    /// `http://HOST:PORT/`.
    services: Vec<String>,
}

/// `GET /api/names`.
async fn names(State(answers): Asked) -> Json<Names> {
    let mesh = answers.agent.follower.mesh();
    let mesh = mesh.borrow();
    let workloads = mesh.workloads.iter().map(|w| format!("{}/{}", w.namespace, w.name));
    let services = mesh.all_services().flat_map(|service| {
        let host = service.hosts.first().unwrap_or(&service.name);
        let ports = service.ports.iter().filter(|port| port.transport == Transport::Tcp);
        ports.map(move |port| format!("http://{host}:{}/", port.number))
    });
    Json(Names { workloads: workloads.collect(), services: services.collect() })
}

#[derive(Deserialize)]
struct Question {
    from: String,
    method: String,
    url: String,
    /// Header fields, one a line.
    #[serde(default)]
    headers: String,
}

/// `GET /api/explain?from=NAMESPACE/WORKLOAD&method=GET&url=http://...&headers=...`: what
/// `beeway explain --json` shows; 422 and why when there is no answer.
async fn explain(State(answers): Asked, Query(question): Query<Question>) -> Response {
    let _one = answers.explaining.lock().await;
    let config = answers.agent.args.config.clone();
    let answer = tokio::task::spawn_blocking(move || {
        let asked = question.asked(config)?;
        crate::explain::document(&asked).map_err(|error| format!("{error:#}"))
    });
    match answer.await {
        Ok(Ok(document)) => {
            ([(header::CONTENT_TYPE, "application/json")], document).into_response()
        }
        Ok(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Question {
    /// As if it had been asked on the command line.
    fn asked(self, config: std::path::PathBuf) -> Result<cli::ExplainArgs, String> {
        if self.url.len() + self.headers.len() > QUESTION {
            return Err(format!("a question has at most {QUESTION} bytes"));
        }
        let lines = self.headers.lines().filter(|line| !line.trim().is_empty());
        let field = |line: &str| cli::header(line).map_err(|why| format!("{line:?}: {why}"));
        Ok(cli::ExplainArgs {
            config,
            from: self.from,
            method: cli::token(&self.method).map_err(|why| format!("the method is {why}"))?,
            url: self.url,
            headers: lines.map(field).collect::<Result<_, _>>()?,
            json: true,
        })
    }
}
