//! A flow as a line for people. It is read as a value, so that agent and command may be of different
//! versions.
//!
//! Whatever a request brought is escaped, blanks too: no path looks like the rest of a line, begins
//! another one, or says something to the terminal.

use serde_json::Value;

use crate::output::printable;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const PLAIN: &str = "\x1b[0m";

/// The line, without its end: time, source, service and who was called, what was asked for, status,
/// duration, lane, verdict and why.
pub(super) fn of(flow: &Value, colour: bool) -> String {
    if let Some(lost) = flow["lost"].as_u64() {
        return format!("-- {lost} not told of: too many at once, or read too slowly --");
    }
    let painted = |colour_of: &str, text: &str| match colour && !colour_of.is_empty() {
        true => format!("{colour_of}{text}{PLAIN}"),
        false => text.to_owned(),
    };
    let verdict = word(&flow["verdict"]);
    let verdict_colour = match &*verdict {
        "forwarded" => GREEN,
        "answered" => BLUE,
        "limited" => YELLOW,
        _ => RED,
    };
    let bad = flow["status"].as_u64().is_none_or(|status| status >= 500);
    let mut parts = vec![time(&flow["time"]), source(flow), "->".into(), service(flow)];
    parts.extend(destination(flow));
    if flow["kind"] == "connection" {
        parts.push(word(&flow["protocol"]));
    } else {
        parts.extend([word(&flow["method"]), path(flow)]);
        parts.push(painted(if bad { RED } else { "" }, &status(flow)));
    }
    parts.push(duration(flow["duration_us"].as_f64().unwrap_or_default()));
    if flow["direction"] == "inbound" {
        parts.push("inbound".into());
    }
    parts.push(word(&flow["lane"]));
    parts.extend(text(&flow["reason"]).map(|_| format!("({})", word(&flow["reason"]))));
    parts.push(painted(verdict_colour, &verdict));
    parts.extend(why(flow, &verdict));
    parts.join(" ")
}

/// To the millisecond.
fn time(time: &Value) -> String {
    let text = word(time);
    match text.split_once('.') {
        Some((seconds, parts)) => {
            let parts: String = parts.chars().take(3).filter(char::is_ascii_digit).collect();
            format!("{seconds}.{parts}Z")
        }
        None => text,
    }
}

fn source(flow: &Value) -> String {
    let source = &flow["source"];
    match text(&source["workload"]) {
        Some(name) if name != "unknown" => {
            format!("{}/{}", word(&source["namespace"]), word(&source["workload"]))
        }
        _ => word(&source["address"]),
    }
}

fn service(flow: &Value) -> String {
    let service = &flow["service"];
    let port = service["port"].as_u64().unwrap_or_default();
    let name = match text(&service["namespace"]) {
        Some("unknown") | None => word(&service["name"]),
        Some(_) => format!("{}/{}", word(&service["namespace"]), word(&service["name"])),
    };
    match name.contains(':') {
        true => format!("[{name}]:{port}"),
        false => format!("{name}:{port}"),
    }
}

/// Who was called; the namespace is told where it is not the service's.
fn destination(flow: &Value) -> Option<String> {
    let called = flow.get("destination").filter(|called| called.is_object())?;
    let same = called["namespace"] == flow["service"]["namespace"];
    Some(match text(&called["workload"]) {
        Some("unknown") | None => format!("({})", word(&called["address"])),
        Some(_) if same => format!("({})", word(&called["workload"])),
        Some(_) => format!("({}/{})", word(&called["namespace"]), word(&called["workload"])),
    })
}

fn path(flow: &Value) -> String {
    match text(&flow["query"]) {
        Some(_) => format!("{}?{}", word(&flow["path"]), word(&flow["query"])),
        None => word(&flow["path"]),
    }
}

fn status(flow: &Value) -> String {
    let status = flow["status"].as_u64().map_or("-".to_owned(), |status| status.to_string());
    match flow["grpc_status"].as_u64() {
        Some(grpc) => format!("{status}/grpc={grpc}"),
        None => status,
    }
}

/// Three digits or so.
fn duration(us: f64) -> String {
    match us {
        ..100.0 => format!("{us:.1}us"),
        ..10_000.0 => format!("{:.2}ms", us / 1e3),
        ..1_000_000.0 => format!("{:.0}ms", us / 1e3),
        _ => format!("{:.2}s", us / 1e6),
    }
}

/// What decided, and what went wrong.
fn why(flow: &Value, verdict: &str) -> Vec<String> {
    let mut why = Vec::new();
    let by = match verdict {
        "denied" => text(&flow["policy"]),
        "answered" | "limited" => text(&flow["policy"]).or(text(&flow["rule"])),
        _ => None,
    };
    why.extend(by.map(|by| format!("by {}", printable(by))));
    why.extend(text(&flow["flags"]).filter(|flags| *flags != "-").map(printable));
    why.extend(text(&flow["detail"]).map(printable));
    for (what, names) in [("audited by", &flow["audit"]), ("dry run of", &flow["dry_run"])] {
        let names: Vec<_> =
            names.as_array().into_iter().flatten().filter_map(text).map(printable).collect();
        if !names.is_empty() {
            why.push(format!("{what} {}", names.join(", ")));
        }
    }
    why
}

/// Text that says something.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A word of the line; `-`: nothing is known.
fn word(value: &Value) -> String {
    text(value).map_or("-".into(), |text| printable(text).replace(' ', "\\x20"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flow() -> Value {
        json!({
            "time": "2026-11-21T20:33:20.123456Z", "kind": "request",
            "source": { "namespace": "shop", "workload": "orders-v1", "address": "10.0.1.7" },
            "service": { "namespace": "shop", "name": "web", "port": 80 },
            "destination": { "namespace": "shop", "workload": "web-v2", "address": "10.0.2.9:80" },
            "protocol": "http", "method": "GET", "path": "/a", "status": 200,
            "lane": "detour", "reason": "", "verdict": "forwarded", "policy": "", "rule": "",
            "flags": "-", "detail": "", "audit": [], "dry_run": [], "duration_us": 1240.4,
        })
    }

    #[test]
    fn a_flow_is_a_line() {
        let line = "2026-11-21T20:33:20.123Z shop/orders-v1 -> shop/web:80 (web-v2) GET /a 200 \
                    1.24ms detour forwarded";
        assert_eq!(of(&flow(), false), line);
        let painted = of(&flow(), true);
        assert!(painted.ends_with("detour \x1b[32mforwarded\x1b[0m"), "{painted:?}");
        assert_eq!(
            of(&json!({ "lost": 7 }), true),
            "-- 7 not told of: too many at once, or read too slowly --"
        );
        // whatever is missing
        assert!(of(&json!({}), false).starts_with("- "));
    }

    #[test]
    fn a_line_says_why() {
        let mut denied = flow();
        denied["verdict"] = "denied".into();
        denied["policy"] = "AuthorizationPolicy shop/web".into();
        (denied["status"], denied["destination"]) = (403.into(), Value::Null);
        (denied["lane"], denied["reason"]) = ("answered".into(), "denied".into());
        denied["dry_run"] = json!(["AuthorizationPolicy shop/next"]);
        let line = "-> shop/web:80 GET /a 403 1.24ms answered (denied) denied \
                    by AuthorizationPolicy shop/web dry run of AuthorizationPolicy shop/next";
        assert!(of(&denied, false).ends_with(line), "{}", of(&denied, false));
        let mut failed = flow();
        (failed["verdict"], failed["flags"]) = ("failed".into(), "UH".into());
        (failed["source"]["workload"], failed["query"]) = ("unknown".into(), "b=1".into());
        failed["service"] = json!({ "namespace": "unknown", "name": "fd00::1", "port": 80 });
        failed["destination"]["namespace"] = "front".into();
        let line = "10.0.1.7 -> [fd00::1]:80 (front/web-v2) GET /a?b=1 200 1.24ms detour failed UH";
        assert!(of(&failed, false).ends_with(line), "{}", of(&failed, false));
    }

    #[test]
    fn nothing_that_a_request_brings_leaves_its_word() {
        let evil = "/\x1b[2J\r\n2026 x \u{9b}31m\u{202e}\u{200b}\x7f\"'\\ 200 forwarded";
        let mut flow = flow();
        for name in ["method", "path", "query", "detail", "policy", "flags", "rule"] {
            flow[name] = evil.into();
        }
        flow["audit"] = json!([evil]);
        for verdict in ["denied", "answered", "failed"] {
            flow["verdict"] = verdict.into();
            let line = of(&flow, false);
            assert!(line.chars().all(|c| (' '..='~').contains(&c)), "{line:?}");
        }
        let path = "/\\u{1b}[2J\\r\\n2026\\x20x\\x20\\u{9b}31m\\u{202e}\\u{200b}\\u{7f}\"'\\\\\
                    \\x20200\\x20forwarded";
        flow["query"] = Value::Null;
        assert!(of(&flow, false).contains(&format!(" {path} ")), "{}", of(&flow, false));
    }
}
