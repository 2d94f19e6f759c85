//! One request or connection that is over, with the names of those who took part.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
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

/// A [`Flow`] as JSON, for whoever watches traffic: `beeway flows --json` and the dashboard. It bears
/// no query and no header field.
#[derive(Debug, Clone, Serialize)]
pub struct FlowView<'a> {
    /// When it began, by RFC 3339 in UTC, to the microsecond.
    pub time: String,
    /// `request` or `connection`.
    pub kind: &'static str,
    /// `outbound`: seen where it was sent; `inbound`: seen where it came in.
    pub direction: &'static str,
    /// Who called.
    pub source: PartyView<'a>,
    /// What was asked for.
    pub service: ServiceView<'a>,
    /// Who was called; `null`: nobody was.
    pub destination: Option<PartyView<'a>>,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'a str,
    /// `HTTP/1.1`, `HTTP/2`; empty for a connection.
    pub version: &'a str,
    /// Method; empty for a connection, or where it is not known.
    pub method: &'a str,
    /// Path without its query, likewise.
    pub path: &'a str,
    /// Status of the answer; `null`: none came.
    pub status: Option<u16>,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u32>,
    /// `native`, `shortcut`, `detour`, `answered` or `refused`.
    pub lane: &'a str,
    /// Why that lane; empty: not known.
    pub reason: &'a str,
    /// What became of it.
    pub verdict: Verdict,
    /// Name of the policy that decided; empty: none, or not known.
    pub policy: &'a str,
    /// AUDIT policies that match.
    pub audit: &'a [String],
    /// Policies in dry run that match.
    pub dry_run: &'a [String],
    /// Name of the rule that held; empty: none, or not known.
    pub rule: &'a str,
    /// Name of the cluster; empty: none, or not known.
    pub cluster: &'a str,
    /// Envoy's response flags; `-`: none.
    pub flags: &'a str,
    /// What there is to say beyond flags.
    pub detail: &'a str,
    /// Tries; 0: nobody was called.
    pub attempts: u32,
    /// Microseconds from its beginning to its end.
    pub duration_us: f64,
    /// Bytes from the caller, as far as they are known.
    pub request_bytes: u64,
    /// Bytes to the caller, likewise.
    pub response_bytes: u64,
    /// W3C trace id that the application sent.
    pub trace_id: Option<String>,
}

/// A [`Party`] as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct PartyView<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Workload.
    pub workload: &'a str,
    /// Canonical service.
    pub service: &'a str,
    /// Canonical revision.
    pub version: &'a str,
    /// Address, with the port where it was called.
    pub address: String,
}

/// A [`ServiceName`] as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceView<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Object name.
    pub name: &'a str,
    /// Fully qualified DNS name.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// The address that was asked for.
    pub address: String,
}

impl<'a> PartyView<'a> {
    fn of(party: &'a Party, address: String) -> PartyView<'a> {
        PartyView {
            namespace: &party.namespace,
            workload: &party.workload,
            service: &party.app,
            version: &party.version,
            address,
        }
    }
}

impl<'a> From<&'a Flow> for FlowView<'a> {
    fn from(flow: &'a Flow) -> FlowView<'a> {
        let start = Timestamp::try_from(flow.start).unwrap_or_default();
        let service = &flow.service;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        FlowView {
            time: format!("{start:.6}"),
            kind: if flow.connection { "connection" } else { "request" },
            direction: if flow.inbound { "inbound" } else { "outbound" },
            source: PartyView::of(&flow.source, flow.source_address.to_string()),
            service: ServiceView {
                namespace: &service.namespace,
                name: &service.name,
                host: &service.host,
                port: service.port,
                address: flow.service_address.to_string(),
            },
            destination: flow.endpoint.map(|at| PartyView::of(&flow.destination, at.to_string())),
            protocol: flow.protocol,
            version: flow.version,
            method: &flow.method,
            path: flow.bare_path(),
            status: Some(flow.status).filter(|status| *status != 0),
            grpc_status: flow.grpc_status,
            lane: flow.lane,
            reason: flow.reason,
            verdict: flow.verdict,
            policy: &flow.policy,
            audit: &flow.audit,
            dry_run: &flow.dry_run,
            rule: &flow.rule,
            cluster: &flow.cluster,
            flags: &flow.flags,
            detail: &flow.detail,
            attempts: flow.attempts,
            duration_us: flow.duration.as_nanos() as f64 / 1000.0,
            request_bytes: flow.received,
            response_bytes: flow.sent,
            trace_id: flow.trace.as_ref().map(|context| hex(&context.trace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_bears_no_query_and_no_header() {
        let flow = Flow {
            start: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042),
            duration: Duration::from_nanos(12_500),
            connection: false,
            inbound: false,
            source: Party::unknown(),
            source_address: [10, 0, 0, 1].into(),
            service: Arc::new(ServiceName {
                namespace: "shop".into(),
                name: "web".into(),
                host: "web.shop.svc.cluster.local".into(),
                port: 80,
            }),
            service_address: ([10, 96, 0, 1], 80).into(),
            destination: Party::unknown(),
            endpoint: None,
            lane: "detour",
            reason: "policy",
            verdict: Verdict::Denied,
            protocol: "http",
            version: "HTTP/1.1",
            method: "GET".into(),
            authority: "secret-host".into(),
            path: "/a?token=secret-query".into(),
            user_agent: "secret-agent".into(),
            forwarded_for: "secret-address".into(),
            request_id: "secret-id".into(),
            trace: None,
            status: 0,
            grpc_status: None,
            flags: "-".into(),
            detail: String::new(),
            rule: String::new(),
            cluster: String::new(),
            policy: "shop/nobody".into(),
            audit: Vec::new(),
            dry_run: Vec::new(),
            attempts: 0,
            received: 1,
            sent: 2,
        };
        let view = serde_json::to_value(FlowView::from(&flow)).expect("it is data");
        assert!(!view.to_string().contains("secret"), "{view}");
        assert_eq!(view["time"], "2023-11-14T22:13:20.000042Z");
        assert_eq!((&view["path"], &view["duration_us"]), (&"/a".into(), &12.5.into()));
        assert_eq!((&view["verdict"], &view["policy"]), (&"denied".into(), &"shop/nobody".into()));
        assert!(view["status"].is_null() && view["destination"].is_null());
    }
}
