//! A flow → a line.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::LazyLock;

use beeway_model::telemetry::Format;
use beeway_model::telemetry::format::{Operator, Piece};
use beeway_telemetry::{Flow, Verdict, names};
use jiff::Timestamp;

use super::escape;

/// What an operator says of a flow.
enum Shown<'a> {
    /// There is nothing to say.
    Nothing,
    Text(Cow<'a, str>),
    Number(u64),
    /// Milliseconds.
    Milliseconds(f64),
    List(&'a [String]),
}

/// Appends a line, without its end.
pub(super) fn write(out: &mut String, format: &Format, flow: &Flow, queries: bool) {
    match format {
        Format::Text(pieces) => text(out, pieces, flow, queries),
        Format::Json(labels) => {
            out.push('{');
            for (at, (key, pieces)) in labels.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                escape::json(out, key);
                out.push(':');
                value(out, pieces, flow, queries);
            }
            out.push('}');
        }
    }
}

fn text(out: &mut String, pieces: &[Piece], flow: &Flow, queries: bool) {
    for piece in pieces {
        let (operator, limit, quoted) = match piece {
            Piece::Literal(text) => {
                out.push_str(text);
                continue;
            }
            Piece::Field { operator, limit, quoted } => (operator, *limit, *quoted),
        };
        let shown = match show(operator, flow, queries) {
            Shown::Nothing => "-".into(),
            Shown::Text(text) if !quoted && is_prose(operator) => text.replace(' ', "_").into(),
            Shown::Text(text) => text,
            Shown::Number(number) => number.to_string().into(),
            Shown::Milliseconds(time) => (time as u64).to_string().into(),
            Shown::List(names) => names.join(",").replace(' ', "_").into(),
        };
        escape::text(out, first(&shown, limit), quoted);
    }
}

/// Texts of the configuration, which have spaces where Envoy's have none.
fn is_prose(operator: &Operator) -> bool {
    matches!(operator, Operator::Route | Operator::CodeDetails | Operator::Policy)
}

fn first(text: &str, limit: Option<usize>) -> &str {
    let end = limit.and_then(|limit| text.char_indices().nth(limit));
    end.map_or(text, |(end, _)| &text[..end])
}

/// A value of a JSON object: that of one operator keeps its type, all else is text.
fn value(out: &mut String, pieces: &[Piece], flow: &Flow, queries: bool) {
    let [Piece::Field { operator, limit, .. }] = pieces else {
        let mut all = String::new();
        for piece in pieces {
            match piece {
                Piece::Literal(text) => all.push_str(text),
                Piece::Field { operator, limit, .. } => {
                    all.push_str(first(&plain(show(operator, flow, queries)), *limit));
                }
            }
        }
        return escape::json(out, &all);
    };
    match show(operator, flow, queries) {
        Shown::Nothing => out.push_str("null"),
        Shown::Text(text) => escape::json(out, first(&text, *limit)),
        Shown::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Shown::Milliseconds(time) => {
            let _ = write!(out, "{time}");
        }
        Shown::List(names) => {
            out.push('[');
            for (at, name) in names.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                escape::json(out, name);
            }
            out.push(']');
        }
    }
}

fn plain(shown: Shown<'_>) -> Cow<'_, str> {
    match shown {
        Shown::Nothing => "-".into(),
        Shown::Text(text) => text,
        Shown::Number(number) => number.to_string().into(),
        Shown::Milliseconds(time) => (time as u64).to_string().into(),
        Shown::List(names) => names.join(",").into(),
    }
}

/// This machine's name.
static HOST_NAME: LazyLock<String> = LazyLock::new(|| {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok()).unwrap_or_default()
});

fn show<'a>(operator: &Operator, flow: &'a Flow, queries: bool) -> Shown<'a> {
    match operator {
        Operator::Request(names) => {
            let found = names.iter().find_map(|name| {
                header(flow, name).filter(|value| !value.is_empty()).map(|value| (name, value))
            });
            match found {
                Some((name, _)) if name == ":path" && !queries => some(flow.bare_path()),
                Some((_, value)) => some(value),
                None if names.iter().any(|name| name == "traceparent") => trace_parent(flow),
                None => Shown::Nothing,
            }
        }
        Operator::StartTime => {
            let start = Timestamp::try_from(flow.start).unwrap_or_default();
            Shown::Text(format!("{start:.3}").into())
        }
        Operator::Protocol => some(flow.version),
        Operator::Code => Shown::Number(flow.status.into()),
        Operator::CodeDetails if flow.detail.is_empty() => some(usual_details(flow)),
        Operator::CodeDetails => some(&flow.detail),
        Operator::Flags => some(&flow.flags),
        Operator::GrpcStatus => flow.grpc_status.map_or(Shown::Nothing, grpc_name),
        Operator::GrpcStatusNumber => {
            flow.grpc_status.map_or(Shown::Nothing, |status| Shown::Number(status.into()))
        }
        Operator::Route => some(&flow.rule),
        Operator::Received => Shown::Number(flow.received),
        Operator::Sent => Shown::Number(flow.sent),
        Operator::Duration => Shown::Milliseconds(flow.duration.as_micros() as f64 / 1000.0),
        Operator::UpstreamCluster | Operator::UpstreamClusterRaw => some(&flow.cluster),
        Operator::Attempts => Shown::Number(flow.attempts.into()),
        Operator::HostName => some(&HOST_NAME),
        Operator::TraceId => flow.trace.map_or(Shown::Nothing, |trace| {
            Shown::Text(trace.trace.iter().map(|byte| format!("{byte:02x}")).collect())
        }),
        Operator::Lane => some(flow.lane),
        Operator::Reason => some(flow.reason),
        Operator::Verdict => some(flow.verdict.as_str()),
        Operator::Policy => some(&flow.policy),
        Operator::Audit => list(&flow.audit),
        Operator::DryRun => list(&flow.dry_run),
        Operator::Source => known(&flow.source.workload),
        Operator::SourceNamespace => known(&flow.source.namespace),
        Operator::Destination => known(&flow.destination.workload),
        Operator::DestinationNamespace => known(&flow.destination.namespace),
        Operator::Service => some(&flow.service.host),
        other => address(other, flow),
    }
}

/// What asks for an address; all else is not known here.
fn address<'a>(operator: &Operator, flow: &Flow) -> Shown<'a> {
    let (asked, caller) = (flow.service_address, flow.source_address.to_canonical());
    let text = |text: String| Shown::Text(text.into());
    match (operator, flow.endpoint) {
        (Operator::UpstreamHost | Operator::UpstreamRemote, Some(at)) => text(at.to_string()),
        (Operator::UpstreamRemoteIp, Some(at)) => text(at.ip().to_string()),
        (Operator::UpstreamRemotePort, Some(at)) => Shown::Number(at.port().into()),
        (Operator::DownstreamLocal, _) => text(asked.to_string()),
        (Operator::DownstreamLocalIp, _) => text(asked.ip().to_string()),
        (Operator::DownstreamLocalPort, _) => Shown::Number(asked.port().into()),
        (
            Operator::DownstreamRemote
            | Operator::DownstreamRemoteIp
            | Operator::DownstreamDirect
            | Operator::DownstreamDirectIp,
            _,
        ) => text(caller.to_string()),
        _ => Shown::Nothing,
    }
}

/// A field of the request that is kept.
pub(in crate::agent) fn header<'a>(flow: &'a Flow, name: &str) -> Option<&'a str> {
    match name {
        ":method" => Some(&flow.method),
        ":path" => Some(&flow.path),
        ":authority" | "host" => Some(&flow.authority),
        "user-agent" => Some(&flow.user_agent),
        "x-forwarded-for" => Some(&flow.forwarded_for),
        "x-request-id" => Some(&flow.request_id),
        _ => None,
    }
}

fn trace_parent(flow: &Flow) -> Shown<'_> {
    let Some(trace) = flow.trace else { return Shown::Nothing };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let flags = u8::from(trace.sampled);
    Shown::Text(format!("00-{}-{}-{flags:02x}", hex(&trace.trace), hex(&trace.parent)).into())
}

fn some(text: &str) -> Shown<'_> {
    if text.is_empty() { Shown::Nothing } else { Shown::Text(text.into()) }
}

fn known(name: &str) -> Shown<'_> {
    if name == names::UNKNOWN { Shown::Nothing } else { some(name) }
}

fn list(names: &[String]) -> Shown<'_> {
    if names.is_empty() { Shown::Nothing } else { Shown::List(names) }
}

/// What Envoy says where nothing else is to be said (`%RESPONSE_CODE_DETAILS%`).
fn usual_details(flow: &Flow) -> &'static str {
    match flow.verdict {
        _ if flow.connection => "",
        Verdict::Forwarded => "via_upstream",
        Verdict::Answered => "direct_response",
        _ => "",
    }
}

/// gRPC's name of a status (its "Status codes and their use"), as Envoy writes it.
fn grpc_name<'a>(status: u32) -> Shown<'a> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(status as usize).map_or(Shown::Number(status.into()), |name| some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sample;

    fn line(format: &Format, text: &str) -> String {
        let mut out = String::new();
        write(&mut out, format, &sample::flow(text), false);
        out
    }

    #[test]
    fn envoy_s_text_is_this() {
        assert_eq!(
            line(&Format::default_text(), "x"),
            "[2023-11-14T22:13:20.123Z] \"x /x HTTP/1.1\" 200 UF,URX x - \"-\" 3 4 1 - \"x\" \"x\" \
             \"x\" \"x\" \"10.0.0.2:8080\" x - 10.96.0.1:80 10.0.0.1 - x"
        );
    }

    #[test]
    fn whatever_is_in_a_flow_it_is_one_line_of_as_many_fields() {
        let plain = line(&Format::default_text(), "x");
        let count = |line: &str, what: char| line.matches(what).count();
        for text in [
            "a\r\nb",
            "\" 200 \"",
            "a b\tc",
            "\\\"",
            "\u{1b}[2J\u{7f}\0",
            "\u{85}\u{2028}\u{2029}\u{202e}\u{feff}",
            "\u{fffd}\u{fffd}",
            "}\n{\"forged\": true}",
            &"long".repeat(5000),
        ] {
            let json = line(&Format::default_json(), text);
            let read: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
            let object = read.as_object().expect("it is an object");
            assert_eq!(object.len(), beeway_model::telemetry::format::DEFAULT_JSON.len());
            if text.len() < escape::LONGEST {
                assert_eq!(read["user_agent"], text);
                assert_eq!(read["dry_run"], serde_json::json!([text, text]));
            }
            let line = line(&Format::default_text(), text);
            assert_eq!(count(&line, '"'), count(&plain, '"'), "{line}");
            for line in [&json, &line] {
                let odd =
                    |c: char| c.is_control() || "\u{2028}\u{2029}\u{202e}\u{feff}".contains(c);
                assert!(!line.contains(odd), "{line}");
                assert!(line.chars().count() < 20 * escape::LONGEST);
            }
            // outside of quotation marks nothing has a space
            let bare = |line: &str| -> String { line.split('"').step_by(2).collect() };
            assert_eq!(count(&bare(&line), ' '), count(&bare(&plain), ' '), "{line}");
        }
    }

    #[test]
    fn the_query_is_written_when_it_is_asked_for() {
        let format = Format::text("%REQ(:PATH)% %REQ(TRACEPARENT)% %GRPC_STATUS%").expect("known");
        let trace = "00-01010101010101010101010101010101-0202020202020202-01";
        assert_eq!(line(&format, "x"), format!("/x {trace} OK"));
        let mut out = String::new();
        write(&mut out, &format, &sample::flow("x"), true);
        assert_eq!(out, format!("/x?query {trace} OK"));
    }
}
