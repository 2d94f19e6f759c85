//! How lines look.

use anyhow::Result;
use beeway_testbed::{Place, RawClient, spawn_ready, tcp_echo, tcp_ping};
use regex::Regex;
use serde_json::{Value, json};

use crate::bed::WEB;
use crate::scene::{LANES, Scene};

/// Istio's keys (`EnvoyJSONLogFormatIstio`), all of which a line has.
const ISTIO: [&str; 24] = [
    "authority",
    "bytes_received",
    "bytes_sent",
    "connection_termination_details",
    "downstream_local_address",
    "downstream_remote_address",
    "duration",
    "method",
    "path",
    "protocol",
    "request_id",
    "requested_server_name",
    "response_code",
    "response_code_details",
    "response_flags",
    "route_name",
    "start_time",
    "upstream_cluster",
    "upstream_host",
    "upstream_local_address",
    "upstream_service_time",
    "upstream_transport_failure_reason",
    "user_agent",
    "x_forwarded_for",
];

#[test]
fn json_has_istio_s_keys_and_ours() -> Result<()> {
    let scene = Scene::new("json", &[], &["--access-log", "STATE/a.log"])?;
    let headers = ["user-agent: test/1", "x-forwarded-for: 192.0.2.7", "x-request-id: id-1"];
    for (_, prefix) in LANES {
        assert_eq!(scene.get(&format!("{prefix}/a?secret=1"), &headers)?.status, 200);
    }
    assert_eq!(scene.get("/forbidden/b", &headers)?.status, 403);
    assert_eq!(scene.get("/nobody", &headers)?.status, 503);
    let records = scene.records(&scene.state("a.log"), 4)?;
    let find = |path: &str| {
        let found = records.iter().find(|record| record["path"] == path);
        found.unwrap_or_else(|| panic!("{path}: {records:#?}"))
    };
    let time = Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")?;
    for record in &records {
        let object = record.as_object().expect("a line is an object");
        let missing: Vec<_> = ISTIO.iter().filter(|key| !object.contains_key(**key)).collect();
        assert!(missing.is_empty(), "{missing:?}: {record}");
        for (key, wanted) in [
            ("method", json!("GET")),
            ("protocol", json!("HTTP/1.1")),
            ("authority", json!("web")),
            ("user_agent", json!("test/1")),
            ("x_forwarded_for", json!("192.0.2.7")),
            ("request_id", json!("id-1")),
            ("downstream_local_address", json!(WEB)),
            ("downstream_remote_address", json!(scene.bed.client.ip4().to_string())),
            ("source_workload", json!("client")),
            ("source_namespace", json!("default")),
            ("destination_service", json!("web.default.svc.cluster.local")),
        ] {
            assert_eq!(record[key], wanted, "{key}: {record}");
        }
        assert!(record["duration"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 20_000.0));
        let start = record["start_time"].as_str().unwrap_or_default();
        assert!(time.is_match(start), "{start}");
    }
    for (path, lane, verdict, code, flags) in [
        ("/a", "native", "forwarded", 200, "-"),
        ("/detour/a", "detour", "forwarded", 200, "-"),
        ("/forbidden/b", "answered", "answered", 403, "-"),
        ("/nobody", "detour", "failed", 503, "UH"),
    ] {
        let record = find(path);
        let seen = json!([
            record["lane"],
            record["verdict"],
            record["response_code"],
            record["response_flags"]
        ]);
        assert_eq!(seen, json!([lane, verdict, code, flags]), "{record}");
        let called = code == 200;
        assert_eq!(record["destination_workload"] == "v1", called, "{record}");
        assert_eq!(record["upstream_host"].is_string(), called, "{record}");
    }
    assert!(find("/a")["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    Ok(())
}

/// Istio's default format, as a parser for Envoy's logs has it.
const ENVOY: &str = concat!(
    r#"^\[(?P<start>\S+)\] "(?P<method>\S+) (?P<path>\S+) (?P<protocol>\S+)" (?P<code>\d+) "#,
    r#"(?P<flags>\S+) (?P<details>\S+) (?P<termination>\S+) "(?P<transport>[^"]*)" "#,
    r#"(?P<received>\d+) (?P<sent>\d+) (?P<duration>\d+) (?P<service>\S+) "(?P<for>[^"]*)" "#,
    r#""(?P<agent>[^"]*)" "(?P<id>[^"]*)" "(?P<authority>[^"]*)" "(?P<upstream>[^"]*)" "#,
    r#"(?P<cluster>\S+) (?P<local>\S+) (?P<asked>\S+) (?P<remote>\S+) (?P<sni>\S+) (?P<route>\S+)$"#
);

#[test]
fn text_is_what_envoy_writes() -> Result<()> {
    let args = ["--access-log", "STATE/a.log", "--access-log-format", "text"];
    let scene = Scene::new("text", &[], &args)?;
    let envoy = Regex::new(ENVOY)?;
    for (_, prefix) in LANES {
        scene.get(&format!("{prefix}/a?b=c"), &["user-agent: Mozilla/5.0 (X11; \"quoted\")"])?;
    }
    let lines = scene.lines(&scene.state("a.log"), 2)?;
    for line in &lines {
        let found = envoy.captures(line).unwrap_or_else(|| panic!("{line}"));
        let path = if line.contains("/detour") { "/detour/a" } else { "/a" };
        for (name, wanted) in [
            ("method", "GET"),
            ("path", path),
            ("protocol", "HTTP/1.1"),
            ("code", "200"),
            ("flags", "-"),
            ("details", "via_upstream"),
            ("received", if path == "/a" { &found["received"] } else { "0" }),
            ("for", "-"),
            ("agent", r"Mozilla/5.0 (X11; \x22quoted\x22)"),
            ("authority", "web"),
            ("asked", WEB),
            ("remote", &scene.bed.client.ip4().to_string()),
        ] {
            assert_eq!(&found[name], wanted, "{name}: {line}");
        }
        assert!(found["route"].starts_with("VirtualService_default/web"), "{line}");
    }
    Ok(())
}

const PROVIDERS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: short
      envoyFileAccessLog:
        path: LOGS/short.log
        logFormat: {text: \"%RESPONSE_CODE% 100%% %REQ(:PATH):4% <%REQ(X-REQUEST-ID?USER-AGENT)%> %BEEWAY(LANE)%\\n\"}
    - name: labels
      envoyFileAccessLog:
        path: LOGS/labels.log
        logFormat: {labels: {code: '%RESPONSE_CODE%', text: '%REQ(:METHOD)% %RESPONSE_CODE%', sni: '%REQUESTED_SERVER_NAME%', ip: '%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}
    defaultProviders: {accessLogging: [short, labels]}
";

#[test]
fn formats_of_the_configuration_are_used() -> Result<()> {
    let scene = Scene::new("formats", &[("providers.yaml", PROVIDERS)], &[])?;
    for (_, prefix) in LANES {
        scene.get(&format!("{prefix}/abcdef"), &["user-agent: me"])?;
    }
    let path = |name: &str| scene.logs.join(name).display().to_string();
    let mut lines = scene.lines(&path("short.log"), 2)?;
    lines.sort();
    // by detour it has an identity
    let identified = Regex::new(r"^200 100% /det <[0-9a-f-]{36}> detour$")?;
    assert!(identified.is_match(&lines[1]), "{}", lines[1]);
    assert_eq!(lines[0], "200 100% /abc <me> native");
    let v1 = [scene.bed.v1.ip4().to_string(), scene.bed.v1.ip6().to_string()];
    for record in scene.records(&path("labels.log"), 2)? {
        assert_eq!(record["code"], 200, "{record}");
        assert_eq!(record["text"], "GET 200", "{record}");
        assert_eq!(record["sni"], Value::Null, "{record}");
        assert!(v1.iter().any(|ip| record["ip"] == ip.as_str()), "{record}");
    }
    Ok(())
}

#[test]
fn connections_have_a_line_too() -> Result<()> {
    let scene = Scene::new("tcp", &[], &["--access-log", "STATE/a.log"])?;
    let mut echoes = Vec::new();
    for pod in [&scene.bed.v1, &scene.bed.v2] {
        echoes.push(spawn_ready(tcp_echo(pod, 7007)?)?);
    }
    tcp_ping(&scene.bed.client, "10.96.0.12:7".parse()?, 3)?
        .output(crate::bed::LIMIT)?
        .success()?;
    let record = &scene.records(&scene.state("a.log"), 1)?[0];
    assert_eq!(record["downstream_local_address"], "10.96.0.12:7", "{record}");
    assert_eq!(record["method"], Value::Null, "{record}");
    assert_eq!(record["destination_service"], "raw.default.svc.cluster.local", "{record}");
    assert_eq!(record["source_workload"], "client", "{record}");
    Ok(())
}

#[test]
fn queries_are_logged_only_when_asked_for() -> Result<()> {
    let mut scene = Scene::new("query", &[], &["--access-log", "STATE/a.log"])?;
    for (_, prefix) in LANES {
        scene.get(&format!("{prefix}/a?token=secret"), &[])?;
    }
    for line in scene.lines(&scene.state("a.log"), 2)? {
        assert!(!line.contains("secret") && !line.contains("token"), "{line}");
    }
    scene.restart(&["--access-log", "STATE/b.log", "--log-queries"])?;
    let mut raw = RawClient::connect(&scene.bed.client, WEB.parse()?)?;
    raw.get("web", "/a?token=secret", &[])?;
    let record = &scene.records(&scene.state("b.log"), 1)?[0];
    assert_eq!(record["path"], "/a?token=secret", "{record}");
    Ok(())
}
