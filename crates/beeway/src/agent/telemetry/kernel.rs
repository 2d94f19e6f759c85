//! What the kernel tells.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use beeway_dataplane::traffic::{LATENCY_BUCKETS, LatencyKey, Told, TrafficKind};
use beeway_dataplane::{Dataplane, Forbidden};
use beeway_model::access::{
    Access, AccessPolicy, Call, Decider, Identity, Party as Caller, called_at, evaluate,
};
use beeway_model::{Mesh, Request, Transport};
use beeway_telemetry::graph::{Durations, Tick};
use beeway_telemetry::latency::BUCKETS;
use beeway_telemetry::{Flow, Names, Party, Verdict};
use rustc_hash::FxHashMap;

use super::ledger::{flags, service_of_kind, verdict};
use super::recorder::trace_context;
use super::reports::Reports;

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

/// A record with names. `since` is the wall clock's time of the kernel's clock's beginning; `reports`
/// follows the same mesh.
pub(super) fn flow_of(
    told: Told,
    since: SystemTime,
    names: &Names,
    mesh: &Mesh,
    reports: &mut Reports,
) -> Flow {
    let connection = told.kind == TrafficKind::Connection;
    let head = Head::read(&told.head);
    let verdict = verdict(told.lane, told.reason, told.status, connection);
    let access = judge(&told, &head, verdict, mesh, reports);
    let named = |decider: &Decider| mesh.access[decider.policy].name.clone();
    let policy = access.by.filter(|_| !access.allowed);
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
        policy: policy.as_ref().map(named).unwrap_or_default(),
        audit: access.audit.iter().map(named).collect(),
        dry_run: access.dry_run.iter().map(named).collect(),
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
    // of what is denied all policies are asked
    let flow = flow_of(told, SystemTime::now(), names, mesh, &mut Reports::default());
    Flow { inbound: forbidden.accepted, detail: "connection_reset_by_policy".into(), ..flow }
}

/// What the policies of now say of a call: all of them if it was denied (none may deny it any more),
/// else those that only report. Which requests these match that are judged where they are sent, the
/// proxy tells.
fn judge(told: &Told, head: &Head, verdict: Verdict, mesh: &Mesh, reports: &mut Reports) -> Access {
    let Some(endpoint) = told.endpoint else { return Access::default() };
    if verdict == Verdict::Denied {
        let identity = |address| mesh.identity_at(address);
        return ask(told, head, endpoint, mesh, mesh.access.iter().enumerate(), identity);
    }
    let is_known = match told.kind {
        TrafficKind::Request => false,
        TrafficKind::Connection => true,
        TrafficKind::Visit => !head.method.is_empty(),
    };
    let about = if is_known { reports.about(endpoint.ip()) } else { Arc::default() };
    if about.is_empty() {
        return Access::default();
    }
    let policies = about.iter().map(|index| (*index, &mesh.access[*index]));
    ask(told, head, endpoint, mesh, policies, |address| reports.identity_at(address))
}

/// What policies say of a call, as far as it is told of.
fn ask<'a>(
    told: &Told,
    head: &Head,
    endpoint: SocketAddr,
    mesh: &'a Mesh,
    policies: impl Iterator<Item = (usize, &'a Arc<AccessPolicy>)>,
    identity: impl Fn(IpAddr) -> Identity<'a>,
) -> Access {
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
    let address = told.source.map_or(told.caller, |source| source.ip());
    // who comes straight to an endpoint calls all that it stands behind
    let services = match told.service == endpoint {
        true => mesh.names_at(called_at(endpoint, Transport::Tcp)),
        false => service_of(mesh, told.service).into_iter().collect(),
    };
    let call = Call {
        caller: Caller { address, identity: identity(told.caller) },
        called: Caller { address: endpoint.ip(), identity: identity(endpoint.ip()) },
        port: endpoint.port(),
        transport: Transport::Tcp,
        services: &services,
        sni: None,
        request: (told.kind != TrafficKind::Connection).then_some(&request),
    };
    evaluate(policies, &call)
}

fn service_of(mesh: &Mesh, address: SocketAddr) -> Option<(&str, &str)> {
    let (service, _) = mesh.frontend(address.ip(), address.port(), Transport::Tcp)?;
    Some((service.namespace.as_str(), service.name.as_str()))
}

#[cfg(test)]
mod tests {
    use beeway_model::testing::{Dice, Stage};
    use beeway_model::{ClusterId, Protocol, Service, ServicePort};

    use super::*;

    fn service(number: u8, (namespace, name): &(String, String)) -> Service {
        let port = ServicePort {
            name: String::new(),
            number: 80,
            transport: Transport::Tcp,
            protocol: Protocol::Opaque,
            cluster: ClusterId(0),
            rules: None,
            stream_rules: Vec::new(),
        };
        let addresses = vec![IpAddr::from([10, 96, 0, number])];
        let (namespace, name) = (namespace.clone(), name.clone());
        Service { namespace, name, hosts: Vec::new(), addresses, ports: vec![port] }
    }

    fn told(caller: IpAddr, endpoint: SocketAddr, service: SocketAddr) -> Told {
        Told {
            at: Duration::ZERO,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            source: Some(SocketAddr::new(caller, 4711)),
            caller,
            service,
            endpoint: Some(endpoint),
            rule: None,
            status: 0,
            lane: "native",
            reason: "opaque",
            kind: TrafficKind::Connection,
            judged: Duration::ZERO,
            head: Vec::new(),
        }
    }

    /// The policies that are asked are those that may be about a call.
    #[test]
    fn what_is_reported_is_what_all_policies_say() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let stage = Stage {
            callers: ["10.1.0.1", "10.1.0.2", "fd00::3", "127.0.0.1"].map(ip).to_vec(),
            endpoints: ["10.1.0.2", "10.1.0.9", "fd00::9"]
                .map(|text| SocketAddr::new(ip(text), 8080))
                .to_vec(),
            services: vec![("shop".into(), "web".into()), ("data".into(), "db".into())],
            providers: Vec::new(),
            connections: true,
        };
        let (mut reports, mut reported) = (Reports::default(), 0);
        for seed in 0..300 {
            let mut mesh = Mesh::default();
            stage.set(&mut Dice(seed), &mut mesh);
            mesh.services = (1..).zip(&stage.services).map(|(n, name)| service(n, name)).collect();
            let mesh = Arc::new(mesh);
            reports.follow(&mesh);
            for (caller, endpoint) in stage
                .callers
                .iter()
                .flat_map(|caller| stage.endpoints.iter().map(move |endpoint| (*caller, *endpoint)))
            {
                for number in 0..3 {
                    let service = SocketAddr::new(IpAddr::from([10, 96, 0, number]), 80);
                    let told = told(caller, endpoint, service);
                    let mut judged =
                        |verdict| judge(&told, &Head::default(), verdict, &mesh, &mut reports);
                    let all = judged(Verdict::Denied);
                    let found = judged(Verdict::Forwarded);
                    if all.allowed {
                        assert_eq!((&found.audit, &found.dry_run), (&all.audit, &all.dry_run));
                        reported += usize::from(!(all.audit.is_empty() && all.dry_run.is_empty()));
                    }
                }
            }
        }
        assert!(reported > 100, "{reported}");
    }
}
