//! A flow → a span, in OpenTelemetry's words for HTTP and RPC (its semantic conventions, stable).

use std::time::{SystemTime, UNIX_EPOCH};

use beeway_model::telemetry::Tag;
use beeway_telemetry::{Flow, Party, Verdict, names};

use super::proto::{AnyValue, KeyValue, Span, Status, Value};
use crate::agent::access_log::header;

/// A span, and whose it is.
pub(super) struct Made {
    pub(super) service: Service,
    pub(super) span: Span,
}

/// What a resource says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) version: String,
    pub(super) workload: String,
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

/// Methods that are no more than names (RFC 9110, section 9.1, and PATCH); others are `_OTHER`.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The span of a request. It is sampled: whoever calls has seen to that.
pub(super) fn make(flow: &Flow, tags: &[(String, Tag)]) -> Made {
    let own = if flow.inbound { &flow.destination } else { &flow.source };
    let random = |_| fastrand::u8(..);
    let (trace, parent) = match flow.trace {
        Some(context) => (context.trace, context.parent.to_vec()),
        // not all of them are 0 but once in an age
        None => (std::array::from_fn(random), Vec::new()),
    };
    let id: [u8; 8] = std::array::from_fn(random);
    let start = nanoseconds(flow.start);
    let length = u64::try_from(flow.duration.as_nanos()).unwrap_or(u64::MAX);
    let span = Span {
        trace_id: trace.to_vec(),
        span_id: id.to_vec(),
        parent_span_id: parent,
        name: name(flow),
        kind: if flow.inbound { SERVER } else { CLIENT },
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(length),
        attributes: attributes(flow, tags),
        status: failed(flow).then_some(Status { code: ERROR }),
        flags: 1,
    };
    Made { service: service(own), span }
}

fn service(party: &Party) -> Service {
    Service {
        name: party.app.clone(),
        namespace: party.namespace.clone(),
        version: party.version.clone(),
        workload: party.workload.clone(),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The method alone: what else a request says has no end of values. For gRPC the method it calls.
fn name(flow: &Flow) -> String {
    if flow.protocol == "grpc" {
        return flow.bare_path().trim_start_matches('/').to_owned();
    }
    match method(flow) {
        "_OTHER" => "HTTP".to_owned(),
        method => method.to_owned(),
    }
}

fn method(flow: &Flow) -> &str {
    METHODS.iter().find(|known| **known == flow.method).map_or("_OTHER", |known| known)
}

/// A client has failed with a status of 400 and more, a server with one of 500 and more.
fn failed(flow: &Flow) -> bool {
    let bad = if flow.inbound { 500 } else { 400 };
    matches!(flow.verdict, Verdict::Failed)
        || flow.status == 0
        || flow.status >= bad
        || flow.grpc_status.is_some_and(|status| status != 0)
}

fn attributes(flow: &Flow, tags: &[(String, Tag)]) -> Vec<KeyValue> {
    let mut list = Vec::new();
    let mut text = |key: &str, value: &str| {
        if !value.is_empty() {
            list.push(text(key, value));
        }
    };
    text("http.request.method", method(flow));
    if method(flow) == "_OTHER" {
        text("http.request.method_original", &flow.method);
    }
    // what is behind `?` may be a secret
    text("url.full", &format!("http://{}{}", flow.authority, flow.bare_path()));
    text("url.path", flow.bare_path());
    text("url.scheme", "http");
    let (host, _) = flow.authority.rsplit_once(':').unwrap_or((&flow.authority, ""));
    text("server.address", if flow.authority.ends_with(']') { &flow.authority } else { host });
    text("network.protocol.name", "http");
    text("network.protocol.version", flow.version.trim_start_matches("HTTP/"));
    text("user_agent.original", &flow.user_agent);
    if let Some(endpoint) = flow.endpoint {
        text("network.peer.address", &endpoint.ip().to_string());
    }
    if flow.protocol == "grpc" {
        text("rpc.system", "grpc");
        let (service, method) =
            flow.bare_path().trim_start_matches('/').split_once('/').unwrap_or_default();
        text("rpc.service", service);
        text("rpc.method", method);
    }
    if failed(flow) {
        let status = flow.status.to_string();
        let why = if flow.status >= 400 { &status } else { flow.verdict.as_str() };
        text("error.type", why);
    }
    text("beeway.lane", flow.lane);
    text("beeway.reason", flow.reason);
    text("beeway.verdict", flow.verdict.as_str());
    text("beeway.route", &flow.rule);
    text("beeway.cluster", &flow.cluster);
    text("beeway.policy", &flow.policy);
    text("beeway.response_flags", if flow.flags == "-" { "" } else { &flow.flags });
    text("beeway.service", &flow.service.host);
    if !flow.destination.is_unknown() {
        text("beeway.destination.workload", &flow.destination.workload);
        text("beeway.destination.namespace", &flow.destination.namespace);
    }
    for (name, tag) in tags {
        text(name, tagged(flow, tag));
    }
    list.push(int("server.port", flow.service_address.port().into()));
    if flow.status != 0 {
        list.push(int("http.response.status_code", flow.status.into()));
    }
    if let Some(endpoint) = flow.endpoint {
        list.push(int("network.peer.port", endpoint.port().into()));
    }
    if let Some(status) = flow.grpc_status {
        list.push(int("rpc.grpc.status_code", status.into()));
    }
    if flow.attempts > 1 {
        list.push(int("http.request.resend_count", i64::from(flow.attempts) - 1));
    }
    list
}

fn tagged<'a>(flow: &'a Flow, tag: &'a Tag) -> &'a str {
    match tag {
        Tag::Literal(value) => value,
        Tag::Header { name, default } => {
            header(flow, name).filter(|value| !value.is_empty()).unwrap_or(default)
        }
    }
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::Text(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

fn int(key: &str, value: i64) -> KeyValue {
    let value = AnyValue { value: Some(Value::Int(value)) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

impl Service {
    /// Attributes of the resource.
    pub(super) fn attributes(&self) -> Vec<KeyValue> {
        let mut list = vec![text("service.name", &self.name)];
        for (key, value) in [
            ("service.namespace", &self.namespace),
            ("service.version", &self.version),
            ("k8s.namespace.name", &self.namespace),
            ("beeway.workload", &self.workload),
        ] {
            if value != names::UNKNOWN {
                list.push(text(key, value));
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sample;

    fn value(span: &Span, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
        }
    }

    #[test]
    fn calls_of_grpc_bear_their_method() {
        let mut flow = sample::flow("");
        flow.protocol = "grpc";
        "/shop.Orders/List".clone_into(&mut flow.path);
        flow.grpc_status = Some(5);
        let span = make(&flow, &[]).span;
        assert_eq!((span.name.as_str(), span.kind), ("shop.Orders/List", CLIENT));
        assert_eq!(value(&span, "rpc.service").as_deref(), Some("shop.Orders"));
        assert_eq!(value(&span, "rpc.method").as_deref(), Some("List"));
        assert_eq!(value(&span, "rpc.grpc.status_code").as_deref(), Some("5"));
        assert!(span.status.is_some());
    }

    #[test]
    fn what_comes_in_is_the_server_s() {
        let mut flow = sample::flow("GET");
        (flow.inbound, flow.status, flow.trace) = (true, 404, None);
        let made = make(&flow, &[]);
        assert_eq!((made.span.kind, made.service.name.as_str()), (SERVER, "server"));
        // the client was wrong
        assert!(made.span.status.is_none() && made.span.parent_span_id.is_empty());
        assert_eq!(value(&made.span, "url.path").as_deref(), Some("/GET"));
        assert_eq!(value(&made.span, "http.request.resend_count").as_deref(), Some("1"));
    }

    #[test]
    fn a_method_that_nobody_knows_is_no_name() {
        let span = make(&sample::flow("STEAL"), &[]).span;
        assert_eq!(span.name, "HTTP");
        assert_eq!(value(&span, "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(value(&span, "http.request.method_original").as_deref(), Some("STEAL"));
    }
}
