//! A flow in which everything is known, for tests.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use beeway_telemetry::flow::TraceContext;
use beeway_telemetry::{Flow, Party, ServiceName, Verdict};

/// With `text` in everything that a client or a server decides.
pub(crate) fn flow(text: &str) -> Flow {
    let party = |name: &str| {
        let name = || name.to_owned();
        Arc::new(Party {
            namespace: "shop".to_owned(),
            workload: name(),
            app: name(),
            version: "v1".to_owned(),
            app_label: name(),
            version_label: "v1".to_owned(),
            service_account: "default".to_owned(),
        })
    };
    let service = ServiceName {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        host: "web.shop.svc.cluster.local".to_owned(),
        port: 80,
    };
    Flow {
        start: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        duration: Duration::from_micros(1_500),
        connection: false,
        inbound: false,
        source: party("client"),
        source_address: "10.0.0.1".parse().expect("an address"),
        service: Arc::new(service),
        service_address: "10.96.0.1:80".parse().expect("an address"),
        destination: party("server"),
        endpoint: Some("10.0.0.2:8080".parse().expect("an address")),
        lane: "detour",
        reason: "rule_action",
        verdict: Verdict::Forwarded,
        protocol: "http",
        version: "HTTP/1.1",
        method: text.to_owned(),
        authority: text.to_owned(),
        path: format!("/{text}?query"),
        user_agent: text.to_owned(),
        forwarded_for: text.to_owned(),
        request_id: text.to_owned(),
        trace: Some(TraceContext { trace: [1; 16], parent: [2; 8], sampled: true }),
        status: 200,
        grpc_status: Some(0),
        flags: "UF,URX".to_owned(),
        detail: text.to_owned(),
        rule: text.to_owned(),
        cluster: text.to_owned(),
        policy: text.to_owned(),
        audit: vec![text.to_owned()],
        dry_run: vec![text.to_owned(); 2],
        attempts: 2,
        received: 3,
        sent: 4,
    }
}
