//! The fields by which a sidecar of Envoy introduces a request to its endpoint.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::scene::{Scene, field};

/// Makes every request a detour.
const DETOUR: &str = "- timeout: 10s\n  route: [{destination: {host: web, subset: v1}}]\n";

#[test]
fn a_request_has_an_id_and_keeps_the_one_it_has() -> Result<()> {
    let scene = Scene::new("id", DETOUR)?;
    let mut raw = scene.connect()?;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let answer = raw.get("web", "/", &[])?;
        let id = field(&answer, "x-request-id").expect("an id");
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
        assert!(id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{id}");
        assert_eq!(id.as_bytes()[14], b'4', "a random UUID (RFC 9562): {id}");
        assert!(seen.insert(id), "no two requests have the same");
        assert!(!answer.headers.contains_key("x-request-id"), "the client is not told");
    }
    let answer = raw.get("web", "/", &["x-request-id: mine"])?;
    assert_eq!(field(&answer, "x-request-id").as_deref(), Some("mine"));
    Ok(())
}

/// A sidecar that sends out neither appends to x-forwarded-for nor begins a trace of its own.
#[test]
fn what_others_said_of_a_request_is_handed_on() -> Result<()> {
    let scene = Scene::new("handed", DETOUR)?;
    let mut raw = scene.connect()?;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = [
        ("traceparent", trace),
        ("tracestate", "vendor=1,other=2"),
        ("baggage", "user=1"),
        ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.9"),
        ("via", "1.1 someone"),
        ("user-agent", "test"),
    ];
    let lines = sent.map(|(name, value)| format!("{name}: {value}"));
    let answer = raw.get("web", "/", &lines.each_ref().map(String::as_str))?;
    for (name, value) in sent {
        let seen = field(&answer, name).unwrap_or_default();
        match name {
            // a proxy that takes part in a trace is a span of it
            "traceparent" => assert_eq!(seen[..36], value[..36], "{name}"),
            _ => assert_eq!(seen, value, "{name}"),
        }
    }
    let answer = raw.get("web", "/", &[])?;
    assert_eq!(field(&answer, "x-forwarded-proto").as_deref(), Some("http"));
    for name in ["x-forwarded-for", "via", "forwarded", "user-agent"] {
        assert_eq!(field(&answer, name), None, "{name}");
    }
    Ok(())
}

#[test]
fn fields_of_one_connection_stay_on_it() -> Result<()> {
    let scene = Scene::new("hop", DETOUR)?;
    let sent = ["connection: keep-alive, x-mine", "keep-alive: 5", "x-mine: 1", "te: gzip"];
    let answer = scene.get("/", &sent)?;
    for name in ["connection", "keep-alive", "x-mine", "te"] {
        assert_eq!(field(&answer, name), None, "{name}");
    }
    Ok(())
}
