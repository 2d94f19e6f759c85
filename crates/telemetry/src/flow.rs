//! One request or connection that is over, with the names of those who took part.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::names::{Party, ServiceName};

/// What became of a request or connection, in a word that people filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It went to an endpoint, whose answer came back.
    Forwarded,
    /// A rule answered it: a redirect, a direct response, an injected fault.
    Answered,
    /// A policy forbids it.
    Denied,
    /// No token was left for it.
    Limited,
    /// There was nowhere to send it, or no answer came of it.
    Failed,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 5] =
        [Verdict::Forwarded, Verdict::Answered, Verdict::Denied, Verdict::Limited, Verdict::Failed];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Forwarded => "forwarded",
            Verdict::Answered => "answered",
            Verdict::Denied => "denied",
            Verdict::Limited => "limited",
            Verdict::Failed => "failed",
        }
    }
}

/// W3C trace context (Trace Context, section 3.2) that a request bore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// `trace-id`.
    pub trace: [u8; 16],
    /// `parent-id`.
    pub parent: [u8; 8],
    /// Whether the `sampled` flag is set.
    pub sampled: bool,
}

/// One request, or one connection that is not judged by request.
#[derive(Debug, Clone)]
pub struct Flow {
    /// When its head was sent, or the connection made.
    pub start: SystemTime,
    /// From then until the last byte of the answer, or the connection's end.
    pub duration: Duration,
    /// It is a connection, and fields of requests are empty.
    pub connection: bool,
    /// It was seen where it came in, and not where it was sent.
    pub inbound: bool,
    /// Who called.
    pub source: Arc<Party>,
    /// The caller's address; where it is known the socket's.
    pub source_address: IpAddr,
    /// What was asked for.
    pub service: Arc<ServiceName>,
    /// The address that was asked for.
    pub service_address: SocketAddr,
    /// Who was called; [`Party::unknown`] when nobody was.
    pub destination: Arc<Party>,
    /// The endpoint that was called last.
    pub endpoint: Option<SocketAddr>,
    /// `native`, `shortcut`, `detour`, `answered` or `refused`.
    pub lane: &'static str,
    /// Why that lane, by the names of `beeway_requests_total`.
    pub reason: &'static str,
    /// What became of it.
    pub verdict: Verdict,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// `HTTP/1.1`, `HTTP/2`; empty for a connection.
    pub version: &'static str,
    /// Method as sent.
    pub method: String,
    /// Host or `:authority` as sent.
    pub authority: String,
    /// Path with query as sent.
    pub path: String,
    /// Value of `user-agent`.
    pub user_agent: String,
    /// Value of `x-forwarded-for`.
    pub forwarded_for: String,
    /// Value of `x-request-id`.
    pub request_id: String,
    /// Trace context of the application.
    pub trace: Option<TraceContext>,
    /// Status of the answer; 0: none came.
    pub status: u16,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u32>,
    /// Envoy's response flags with commas between them; `-`: none.
    pub flags: String,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`, where there is more to say than flags do.
    pub detail: String,
    /// Name of the rule that held; empty: none, or not known.
    pub rule: String,
    /// Name of the cluster; empty: none, or not known.
    pub cluster: String,
    /// Name of the policy that decided; empty: none, or not known.
    pub policy: String,
    /// AUDIT policies that match.
    pub audit: Vec<String>,
    /// Policies in dry run that match.
    pub dry_run: Vec<String>,
    /// Tries; 0: nobody was called.
    pub attempts: u32,
    /// Bytes of the request, as far as they are known: natively with its head, by detour its body.
    pub received: u64,
    /// Bytes of the answer, likewise.
    pub sent: u64,
}

impl Flow {
    /// The path without its query, which may hold secrets.
    pub fn bare_path(&self) -> &str {
        self.path.split(['?', '#']).next().unwrap_or_default()
    }
}
