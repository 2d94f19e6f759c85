//! What the kernel tells.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use beeway_dataplane::traffic::{LATENCY_BUCKETS, LatencyKey, Told, TrafficKind};
use beeway_dataplane::{Dataplane, Forbidden};
use beeway_model::access::{Call, Party as Caller, evaluate};
use beeway_model::{Mesh, Request, Transport};
use beeway_telemetry::graph::{Durations, Tick};
use beeway_telemetry::latency::BUCKETS;
use beeway_telemetry::{Flow, Names, Party, Verdict};
use rustc_hash::FxHashMap;

use super::ledger::{flags, service_of_kind, verdict};
use super::recorder::trace_context;

const _: () = assert!(LATENCY_BUCKETS == BUCKETS);
const _: () = assert!(beeway_dataplane::traffic::BOUNDS == beeway_telemetry::totals::BOUNDED);

/// Histograms of durations as they were collected last.
#[derive(Default)]
pub(super) struct Latencies(FxHashMap<LatencyKey, Vec<u64>>);

impl Latencies {
    /// What has come since the last time.
    pub fn collect(&mut self, dataplane: &Dataplane, names: &Names, tick: &mut Tick) -> Result<()> {
        let all = dataplane.latencies()?;
        let full = all.len() * 4 > dataplane.traffic_limits().1 * 3;
        for (key, counts) in all {
            let before = self.0.get(&key);
            let grown = counts.iter().enumerate().filter_map(|(at, count)| {
                let more = count.saturating_sub(before.map_or(0, |before| before[at]));
                (more > 0).then_some((at as u16, more))
            });
            let grown: Vec<(u16, u64)> = grown.collect();
            if !grown.is_empty() {
                let source = names.party(key.source);
                let service = service_of_kind(key.kind, key.service, names);
                tick.latencies.push(Durations { source, service, buckets: grown });
                self.0.insert(key, counts);
            } else if full && self.0.remove(&key).is_some() {
                dataplane.forget_latency(&key);
            }
        }
        Ok(())
    }
}

/// The wall clock less CLOCK_MONOTONIC.
pub(super) fn clock() -> SystemTime {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    SystemTime::now() - now.map(Duration::from).unwrap_or_default()
}

/// A head, as far as it is known.
#[derive(Default)]
struct Head {
    method: String,
    path: String,
    fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    fn read(bytes: &[u8]) -> Head {
        // what there was no room for may have cut a line
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = [&bytes[..end], b"\r\n"].concat();
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        if !request.parse(&whole).is_ok_and(|status| status.is_complete()) {
            return Head::default();
        }
        let fields = request.headers.iter();
        Head {
            method: request.method.unwrap_or_default().to_owned(),
            path: request.path.unwrap_or_default().to_owned(),
            fields: fields.map(|f| (f.name.to_ascii_lowercase(), f.value.to_vec())).collect(),
        }
    }

    fn text(&self, name: &str) -> String {
        let found = self.fields.iter().find(|(found, _)| found == name);
        let text = found.and_then(|(_, value)| std::str::from_utf8(value).ok());
        text.unwrap_or_default().to_owned()
    }
}

/// A record with names. `since` is the wall clock's time of the kernel's clock's beginning.
pub(super) fn flow_of(told: Told, since: SystemTime, names: &Names, mesh: &Mesh) -> Flow {
    let connection = told.kind == TrafficKind::Connection;
    let head = Head::read(&told.head);
    let verdict = verdict(told.lane, told.reason, told.status, connection);
    let policy = match verdict {
        Verdict::Denied => denying_policy(&told, &head, mesh),
        _ => String::new(),
    };
    let rule = told.rule.map_or("", |rule| names.rule(told.service, rule));
    Flow {
        start: since + told.at,
        duration: told.duration,
        connection,
        inbound: told.kind == TrafficKind::Visit,
        source: names.party(told.caller),
        source_address: told.source.map_or(told.caller, |source| source.ip()),
        service: service_of_kind(told.kind, told.service, names),
        service_address: told.service,
        destination: told.endpoint.map_or_else(Party::unknown, |at| names.party(at.ip())),
        endpoint: told.endpoint,
        lane: told.lane,
        reason: told.reason,
        verdict,
        protocol: if connection { "tcp" } else { "http" },
        version: if connection { "" } else { "HTTP/1.1" },
        trace: trace_context(&head.text("traceparent")),
        authority: head.text("host"),
        user_agent: head.text("user-agent"),
        forwarded_for: head.text("x-forwarded-for"),
        request_id: head.text("x-request-id"),
        method: head.method,
        path: head.path,
        status: told.status,
        grpc_status: None,
        flags: flags(told.reason).to_owned(),
        detail: String::new(),
        rule: rule.to_owned(),
        cluster: String::new(),
        policy,
        audit: Vec::new(),
        dry_run: Vec::new(),
        attempts: u32::from(matches!(told.lane, "native" | "shortcut")),
        received: told.request_bytes,
        sent: told.response_bytes,
    }
}

/// A live connection that policies forbid, and that is reset.
pub(super) fn flow_of_forbidden(forbidden: &Forbidden, names: &Names, mesh: &Mesh) -> Flow {
    let caller = if forbidden.accepted { forbidden.remote } else { forbidden.local };
    let told = Told {
        at: Duration::ZERO,
        duration: Duration::ZERO,
        request_bytes: 0,
        response_bytes: 0,
        source: Some(caller),
        caller: forbidden.caller,
        service: forbidden.called(),
        endpoint: Some(forbidden.called()),
        rule: None,
        status: 0,
        lane: "refused",
        reason: "denied",
        kind: TrafficKind::Connection,
        judged: Duration::ZERO,
        head: Vec::new(),
    };
    let flow = flow_of(told, SystemTime::now(), names, mesh);
    Flow { inbound: forbidden.accepted, detail: "connection_reset_by_policy".into(), ..flow }
}

/// The policy that denies it, by what the policies say now; empty: none does any more.
fn denying_policy(told: &Told, head: &Head, mesh: &Mesh) -> String {
    let Some(endpoint) = told.endpoint else { return String::new() };
    let fields: Vec<(&str, &[u8])> =
        head.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let authority = head.text("host");
    let request = Request {
        method: &head.method,
        scheme: "http",
        authority: &authority,
        target: &head.path,
        headers: &fields,
        source: None,
    };
    let party = |address: IpAddr| Caller { address, identity: mesh.identity_at(address) };
    let asked = service_of(mesh, told.service);
    let services: Vec<(&str, &str)> = asked.into_iter().collect();
    let call = Call {
        caller: party(told.caller),
        called: party(endpoint.ip()),
        port: endpoint.port(),
        transport: Transport::Tcp,
        services: &services,
        sni: None,
        request: (told.kind != TrafficKind::Connection).then_some(&request),
    };
    let access = evaluate(mesh.access.iter().enumerate(), &call);
    let by = access.by.filter(|_| !access.allowed);
    by.map(|by| mesh.access[by.policy].name.clone()).unwrap_or_default()
}

fn service_of(mesh: &Mesh, address: SocketAddr) -> Option<(&str, &str)> {
    let (service, _) = mesh.frontend(address.ip(), address.port(), Transport::Tcp)?;
    Some((service.namespace.as_str(), service.name.as_str()))
}
