//! The access log: a JSON object a line for each request by detour, with the keys of Istio's.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use anyhow::{Context, Result};
use beeway_telemetry::Flow;
use jiff::Timestamp;
use serde::Serialize;

/// Records that wait to be written. One more is lost, and counted.
const QUEUE: usize = 16 * 1024;

/// Hands records to a thread that writes them.
pub(crate) struct AccessLog {
    queue: SyncSender<Arc<Flow>>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Appends to a file, which must not be given away to others: paths may hold secrets. `-` is
    /// the standard output.
    pub(crate) fn open(path: &Path) -> Result<Arc<AccessLog>> {
        let output: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(append(path).with_context(|| format!("open {}", path.display()))?)
        };
        let (queue, records) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            if let Err(error) = write(&records, output) {
                tracing::error!(%error, "the access log cannot be written any more");
            }
        })?;
        Ok(Arc::new(AccessLog { queue, lost: AtomicU64::new(0) }))
    }

    /// Has a line written; never blocks.
    pub(crate) fn write(&self, flow: Arc<Flow>) {
        match self.queue.try_send(flow) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Records that were not written because there were too many, or no room for them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Writes until nobody records any more. What there is goes out together, and none is held back.
fn write(records: &Receiver<Arc<Flow>>, output: Box<dyn Write + Send>) -> io::Result<()> {
    let mut output = BufWriter::new(output);
    while let Ok(record) = records.recv() {
        line(&mut output, &record)?;
        for record in records.try_iter().take(QUEUE) {
            line(&mut output, &record)?;
        }
        output.flush()?;
    }
    Ok(())
}

fn line(output: &mut impl Write, record: &Flow) -> io::Result<()> {
    // JSON escapes what could begin another line.
    serde_json::to_writer(&mut *output, &Line::from(record))?;
    output.write_all(b"\n")
}

/// Keys of Istio's default format that apply, `attempts` and `lane`, and where policies have
/// something to say which ones.
#[derive(Serialize)]
struct Line<'a> {
    start_time: String,
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    protocol: &'a str,
    response_code: u16,
    response_flags: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    response_code_details: &'a str,
    bytes_received: u64,
    bytes_sent: u64,
    /// Milliseconds.
    duration: f64,
    request_id: &'a str,
    route_name: &'a str,
    upstream_cluster: &'a str,
    upstream_host: Option<String>,
    downstream_remote_address: String,
    downstream_local_address: String,
    attempts: u32,
    lane: &'a str,
    /// The policy that decided.
    #[serde(skip_serializing_if = "str::is_empty")]
    policy: &'a str,
    /// AUDIT policies that match.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    audit: &'a [String],
    /// Policies in dry run that match.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    dry_run: &'a [String],
}

impl<'a> From<&'a Flow> for Line<'a> {
    fn from(record: &'a Flow) -> Line<'a> {
        let start = Timestamp::try_from(record.start).unwrap_or_default();
        Line {
            start_time: format!("{start:.3}"),
            method: &record.method,
            authority: &record.authority,
            path: &record.path,
            protocol: record.version,
            response_code: record.status,
            response_flags: &record.flags,
            response_code_details: &record.detail,
            bytes_received: record.received,
            bytes_sent: record.sent,
            duration: record.duration.as_micros() as f64 / 1000.0,
            request_id: &record.request_id,
            route_name: &record.rule,
            upstream_cluster: &record.cluster,
            upstream_host: record.endpoint.map(|endpoint| endpoint.to_string()),
            downstream_remote_address: record.source_address.to_string(),
            downstream_local_address: record.service_address.to_string(),
            attempts: record.attempts,
            lane: record.lane,
            policy: &record.policy,
            audit: &record.audit,
            dry_run: &record.dry_run,
        }
    }
}
