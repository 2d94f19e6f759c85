//! `GET /flows`: one JSON object a line, as [`FlowQuery`] asks for. A flow is a [`FlowView`]; with
//! `follow=1` there is `{"lost":N}` in between where N requests or connections, wanted or not, went by
//! untold: whoever listens was too slow, or there were more than are told of one by one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use beeway_telemetry::{Filter, Flow, FlowQuery, FlowView};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::agent::Agent;
use crate::agent::telemetry::Telemetry;

/// Who may be told of flows at the same time.
const LISTENERS: usize = 32;

/// How often it is looked whether there were more than are told of.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes of lines that go out together, where there are as many.
const PIECE: usize = 16 * 1024;

#[derive(Clone)]
struct Flows {
    telemetry: Arc<Telemetry>,
    seats: Arc<Semaphore>,
}

/// What is below `/flows`.
pub(super) fn routes(agent: Arc<Agent>) -> Router {
    let telemetry = agent.telemetry.clone();
    let seats = Arc::new(Semaphore::new(LISTENERS));
    Router::new().route("/", get(flows)).with_state(Flows { telemetry, seats })
}

async fn flows(
    State(flows): State<Flows>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Response {
    let bad = |why| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response();
    let query = match query {
        Ok(Query(query)) => query,
        Err(why) => return bad(why.body_text()),
    };
    let filter = match Filter::parse(&query) {
        Ok(filter) => filter,
        Err(why) => return bad(why),
    };
    let Ok(seat) = flows.seats.try_acquire_owned() else {
        let why = format!("{LISTENERS} are told of flows already: end one of them\n");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    // who asks after a request has come back expects to find it
    flows.telemetry.catch_up().await;
    let listener = Listener::new(flows.telemetry, filter, &query, seat);
    let lines = stream::unfold(listener, async |mut listener| {
        let lines = listener.next().await?;
        Some((Ok::<Bytes, Infallible>(lines), listener))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// One who is told of flows.
struct Listener {
    telemetry: Arc<Telemetry>,
    filter: Filter,
    queries: bool,
    /// Flows that there were, oldest first.
    past: VecDeque<Arc<Flow>>,
    /// Those that come; `None`: they are not asked for.
    coming: Option<Receiver<Arc<Flow>>>,
    /// What there was untold at the last look.
    untold: u64,
    /// The next one.
    look: Instant,
    _seat: OwnedSemaphorePermit,
}

/// A flow as a line.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    flow: FlowView<'a>,
    /// What is after the `?` of the path, where that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
}

/// What is not told of, as a line.
#[derive(Serialize)]
struct Lost {
    lost: u64,
}

impl Listener {
    fn new(
        telemetry: Arc<Telemetry>,
        filter: Filter,
        query: &FlowQuery,
        seat: OwnedSemaphorePermit,
    ) -> Listener {
        let untold = telemetry.untold().unwrap_or(0);
        let (kept, coming) = telemetry.watch();
        let wanted = kept.into_iter().rev().filter(|flow| filter.holds(flow));
        let mut past: VecDeque<_> = wanted.take(query.last.unwrap_or(usize::MAX)).collect();
        past.make_contiguous().reverse();
        let coming = (query.follow == Some(1)).then_some(coming);
        let queries = query.queries == Some(1);
        let look = Instant::now() + LOOK;
        Listener { telemetry, filter, queries, past, coming, untold, look, _seat: seat }
    }

    /// The next lines, as many as there are and fit in a piece; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut piece = Vec::new();
        while let Some(flow) = self.past.pop_front() {
            self.flow(&mut piece, &flow);
            if piece.len() >= PIECE {
                break;
            }
        }
        while piece.is_empty() {
            match timeout_at(self.look, self.coming.as_mut()?.recv()).await {
                Ok(Ok(flow)) => self.heard(&mut piece, &flow),
                Ok(Err(RecvError::Lagged(missed))) => lost(&mut piece, missed),
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => {}
            }
            self.look(&mut piece);
        }
        while piece.len() < PIECE {
            let Some(coming) = self.coming.as_mut() else { break };
            match coming.try_recv() {
                Ok(flow) => self.heard(&mut piece, &flow),
                Err(TryRecvError::Lagged(missed)) => lost(&mut piece, missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some(Bytes::from(piece))
    }

    fn heard(&self, piece: &mut Vec<u8>, flow: &Flow) {
        if self.filter.holds(flow) {
            self.flow(piece, flow);
        }
    }

    /// Tells what was not told of one by one, when it is time to look.
    fn look(&mut self, piece: &mut Vec<u8>) {
        if Instant::now() < self.look {
            return;
        }
        self.look = Instant::now() + LOOK;
        let untold = self.telemetry.untold().unwrap_or(self.untold);
        let more = untold.saturating_sub(self.untold);
        if more > 0 {
            lost(piece, more);
        }
        self.untold = untold;
    }

    fn flow(&self, piece: &mut Vec<u8>, flow: &Flow) {
        let query = flow.path.split_once('?').map(|(_, query)| query);
        line(piece, &Told { flow: flow.into(), query: query.filter(|_| self.queries) });
    }
}

fn lost(piece: &mut Vec<u8>, lost: u64) {
    line(piece, &Lost { lost });
}

fn line(piece: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *piece, line).expect("text and numbers become JSON");
    piece.push(b'\n');
}
