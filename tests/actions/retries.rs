use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_testbed::{Load, RawClient, pattern, upload};

use crate::bed::{LIMIT, WEB};
use crate::scene::{API, Scene};

/// A rule for paths below `/NAME/`, which goes off.
fn rule(name: &str, retries: &str) -> String {
    format!(
        "- match: [{{uri: {{prefix: /{name}/}}}}]\n  rewrite: {{uri: /}}\n  retries: {retries}\n  \
         route: [{{destination: {{host: web, subset: v1}}}}]\n"
    )
}

#[test]
fn what_a_rule_calls_a_failure_is_tried_again() -> Result<()> {
    let rules = [
        rule("server", "{attempts: 2, retryOn: 5xx, backoff: 1ms}"),
        rule("gateway", "{attempts: 2, retryOn: gateway-error}"),
        rule("reset", "{attempts: 2, retryOn: reset}"),
        rule("conflict", "{attempts: 2, retryOn: retriable-4xx}"),
        rule("codes", "{attempts: 2, retryOn: \"404,retriable-status-codes,429\"}"),
        rule("grpc", "{attempts: 2, retryOn: \"deadline-exceeded,unavailable\"}"),
        rule("never", "{attempts: 0}"),
        "- rewrite: {uri: /}\n  route: [{destination: {host: web, subset: v1}}]\n".to_owned(),
    ];
    let scene = Scene::new("retries", &rules.concat())?;
    let mut raw = scene.connect()?;
    for (at, (path, failure, failures, status, tries)) in [
        // mended in time, or not
        ("server", "500", 1, 200, 2),
        ("server", "503", 2, 200, 3),
        ("server", "503", 3, 503, 3),
        ("server", "404", 1, 404, 1),
        ("server", "reset", 1, 200, 2),
        ("gateway", "502", 2, 200, 3),
        ("gateway", "500", 1, 500, 1),
        ("gateway", "reset", 1, 200, 2),
        ("reset", "reset", 2, 200, 3),
        ("reset", "reset", 9, 503, 3),
        ("reset", "503", 1, 503, 1),
        ("conflict", "409", 1, 200, 2),
        ("conflict", "404", 1, 404, 1),
        ("codes", "404", 1, 200, 2),
        ("codes", "429", 1, 200, 2),
        ("codes", "503", 1, 503, 1),
        ("grpc", "grpc14", 1, 200, 2),
        ("grpc", "grpc4", 1, 200, 2),
        ("grpc", "grpc13", 1, 200, 1),
        ("never", "503", 1, 503, 1),
        // what Istio gives every route is safe: nothing that an endpoint may have seen
        ("else", "503", 1, 503, 1),
        ("else", "reset", 1, 503, 1),
        ("else", "grpc14", 2, 200, 3),
        ("else", "grpc1", 1, 200, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("key{at}");
        let prefix = if path == "else" { String::new() } else { format!("/{path}") };
        let answer = raw.get("web", &format!("{prefix}/first/{failures}/{key}/{failure}"), &[])?;
        let what = format!("{path} {failure} {failures} times: {answer:?}");
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(scene.count(&scene.bed.v1, &key)?, tries, "{what}");
        if status != 200 && failure != "reset" {
            assert_eq!(answer.served_by(), Some("v1"), "the last failure is the answer: {what}");
        }
    }
    Ok(())
}

/// Envoy looks at the rule and not at the method: who asks for retries of 5xx gets them.
#[test]
fn a_body_is_sent_again_if_it_is_not_too_long() -> Result<()> {
    let scene = Scene::new("replay", &rule("server", "{attempts: 2, retryOn: \"5xx,reset\"}"))?;
    for (at, (bytes, chunked, failure, status, tries)) in [
        (0, false, "503", 200, 2),
        (20_000, false, "503", 200, 2),
        (20_000, true, "503", 200, 2),
        (20_000, false, "reset", 200, 2),
        // longer than anybody keeps, before the failure comes
        (1_000_000, false, "503?delay=500ms", 503, 1),
        (1_000_000, true, "503?delay=500ms", 503, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("body{at}");
        let url = format!("http://{WEB}/server/first/1/{key}/{failure}");
        let url = match url.split_once('?') {
            Some((path, query)) => format!("{path}/sum?{query}"),
            None => url + "/sum",
        };
        let mut command = upload(&scene.bed.client, &url, bytes)?.args(["-H", "Host: web"]);
        if chunked {
            command = command.arg("--chunked");
        }
        let what = format!("{bytes} bytes, chunked: {chunked}, {failure}");
        let output = command.output(LIMIT).with_context(|| what.clone())?;
        let report = output.json().pop().unwrap_or_default();
        let what = format!("{what}: {report}");
        assert_eq!(report["status"], status, "{what}");
        assert_eq!(scene.count(&scene.bed.v1, &key)?, tries, "{what}");
        if status == 200 {
            assert_eq!(report["reply"]["bytes"], bytes, "{what}");
            assert_eq!(report["reply"]["sha256"], pattern::sha256(bytes), "{what}");
        }
    }
    Ok(())
}

/// An endpoint that fails early may go on reading. What it reads is not lost for the next try.
#[test]
fn a_body_is_whole_whatever_the_first_try_has_read() -> Result<()> {
    const HTTP2: &str = "\
apiVersion: v1
kind: Service
metadata: {name: h2, namespace: default}
spec:
  clusterIP: 10.96.0.30
  selector: {app: web, version: v1}
  ports: [{name: http2, port: 80, targetPort: 8080}]
";
    let by_http1 = rule("one", "{attempts: 2, retryOn: 5xx, backoff: 100ms}");
    let by_http2 = by_http1.replace("one", "two").replace("host: web, subset: v1", "host: h2");
    let scene = Scene::new("early", &(by_http1 + &by_http2))?;
    scene.apply("h2.yaml", HTTP2)?;
    for path in ["one", "two"] {
        for (at, bytes) in [10_000, 100_000, 1_000_000, 20_000_000].into_iter().enumerate() {
            let url = format!("http://{WEB}/{path}/first/1/{path}{at}/503+/sum");
            let command = upload(&scene.bed.client, &url, bytes)?.args(["-H", "Host: web"]);
            let what = format!("{path} {bytes} bytes");
            let output = command.output(LIMIT).with_context(|| what.clone())?;
            let report = output.json().pop().unwrap_or_default();
            let tries = scene.count(&scene.bed.v1, &format!("{path}{at}"))?;
            // too much of it may have been read before the failure came
            if report["status"] != 503 || tries != 1 {
                assert_eq!((&report["status"], tries), (&200.into(), 2), "{what}: {report}");
                assert_eq!(report["reply"]["sha256"], pattern::sha256(bytes), "{what}: {report}");
            }
        }
    }
    Ok(())
}

/// When everything fails, retries do not multiply what the endpoints have to bear.
#[test]
fn retries_have_a_budget() -> Result<()> {
    const REQUESTS: u64 = 200;
    let scene = Scene::new("budget", &rule("all", "{attempts: 5, retryOn: 5xx, backoff: 200ms}"))?;
    let path = "/all/first/99999/all/503";
    let report = Load::new(format!("http://{WEB}{path}"), REQUESTS)
        .header("Host: web")
        .connections(REQUESTS as u32)
        .run(&scene.bed.client)?;
    assert_eq!(report.status.get("503"), Some(&REQUESTS), "{report:?}");
    let tries = scene.count(&scene.bed.v1, "all")?;
    // five retries each would make it six times as many
    assert!((REQUESTS + 10..REQUESTS * 3).contains(&tries), "{tries} tries of {REQUESTS} requests");
    let records = std::fs::read_to_string(scene.bed.state.path().join("access.log"))?;
    assert!(records.contains("\"response_flags\":\"UO\""), "who was left out is told");
    Ok(())
}

/// Of two endpoints one does not listen: the other one is tried, without being asked to.
#[test]
fn an_endpoint_that_cannot_be_reached_is_not_tried_twice() -> Result<()> {
    // a rewrite makes each request a detour
    let rules = "- rewrite: {uri: /}\n  route: [{destination: {host: web}}]\n";
    let mut scene = Scene::new("refused", rules)?;
    drop(scene.bed.servers.pop());
    // a connection leads to an endpoint, and may be refused there
    let connected = (0..50).find_map(|_| scene.connect().ok());
    let mut raw = connected.context("50 times in a row the same of two endpoints")?;
    for _ in 0..30 {
        let answer = raw.get("web", "/", &[])?;
        assert_eq!((answer.status, answer.served_by()), (200, Some("v1")), "{answer:?}");
    }
    Ok(())
}

/// The waits before retries grow, and are counted in the route's time.
#[test]
fn retries_wait_longer_and_longer() -> Result<()> {
    let rules = [
        rule("slow", "{attempts: 3, retryOn: 5xx, backoff: 200ms}"),
        "- timeout: 300ms\n  rewrite: {uri: /}\n  \
         retries: {attempts: 50, retryOn: 5xx, backoff: 100ms}\n  \
         route: [{destination: {host: web, subset: v1}}]\n"
            .to_owned(),
    ];
    let scene = Scene::new("backoff", &rules.concat())?;
    let mut longest = Duration::ZERO;
    for round in 0..8 {
        let began = Instant::now();
        let path = format!("/slow/first/3/slow{round}/503");
        assert_eq!(scene.get(&path, &[])?.status, 200);
        longest = longest.max(began.elapsed());
    }
    // up to 200, 600 and 1400 ms: none of eight rounds over 200 ms is one in 10^8
    assert!(longest > Duration::from_millis(200), "{longest:?}");
    let began = Instant::now();
    assert_eq!(scene.get("/first/99/fast/503", &[])?.status, 504);
    assert!(began.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[test]
fn an_http_route_retries_the_codes_that_it_names() -> Result<()> {
    let rules = "\
- retry: {codes: [500, 503], attempts: 2, backoff: 10ms}
  backendRefs: [{name: first, port: 80}]
";
    let scene = Scene::gateway_api("codes", rules)?;
    let mut raw = RawClient::connect(&scene.bed.client, API.parse()?)?;
    for (failure, failures, status, tries) in
        [("500", 1, 200, 2), ("503", 2, 200, 3), ("503", 3, 503, 3), ("502", 1, 502, 1)]
    {
        let key = format!("k{failure}x{failures}");
        let answer = raw.get("api", &format!("/first/{failures}/{key}/{failure}"), &[])?;
        let seen = (answer.status, scene.count(&scene.bed.v1, &key)?);
        assert_eq!(seen, (status, tries), "{failure} {failures} times");
    }
    Ok(())
}
