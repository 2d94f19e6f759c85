//! Where every single request is told of, besides those who ask: the access log, and traces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use beeway_model::Mesh;
use beeway_telemetry::Flow;
use tokio::sync::watch;

use super::access_log::{AccessLog, LogSettings};
use super::traces::{TraceSettings, Traces};

/// Both of them.
#[derive(Clone)]
pub(crate) struct Outlets {
    pub(crate) access_log: Arc<AccessLog>,
    pub(crate) traces: Arc<Traces>,
}

/// Whether an outlet wants to be told of all requests, now.
#[derive(Clone)]
pub(crate) struct Appetite([Arc<AtomicBool>; 2]);

impl Outlets {
    /// Opens them. `tell` hears whether all requests are to be logged, whenever that changes.
    pub(crate) fn open(
        log: LogSettings,
        traces: TraceSettings,
        mesh: &watch::Receiver<Arc<Mesh>>,
        tell: impl Fn(bool) + Send + 'static,
    ) -> Result<Outlets> {
        let access_log = AccessLog::start(log, mesh.clone(), tell)?;
        Ok(Outlets { access_log, traces: Traces::start(traces, mesh.clone())? })
    }

    /// Tells of a flow; never blocks.
    pub(crate) fn write(&self, flow: &Arc<Flow>) {
        self.access_log.write(flow);
        self.traces.write(flow);
    }

    /// Writes and sends what there is, and ends.
    pub(crate) fn stop(&self) {
        self.access_log.stop();
        self.traces.stop();
    }

    /// Whether they want all flows.
    pub(crate) fn appetite(&self) -> Appetite {
        Appetite([self.access_log.wanted(), self.traces.wanted()])
    }
}

impl Appetite {
    /// Whether one of them does.
    pub(crate) fn all(&self) -> bool {
        self.0.iter().any(|wanted| wanted.load(Ordering::Relaxed))
    }
}
