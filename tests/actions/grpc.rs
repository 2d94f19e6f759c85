//! What rules do to calls of gRPC, whose failures are told by `grpc-status`.

use std::time::{Duration, Instant};

use anyhow::Result;
use beeway_testbed::Load;

use crate::bed::WEB;
use crate::calls::{Called, call};
use crate::scene::Scene;

/// Longer than any limit here, and shorter than what would be waited for without one.
const LONG: Duration = Duration::from_secs(5);

/// The two versions, as servers of gRPC.
const SERVERS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: calls1, namespace: default}
spec:
  clusterIP: 10.96.0.31
  selector: {app: web, version: v1}
  ports: [{name: grpc, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: calls2, namespace: default}
spec:
  clusterIP: 10.96.0.32
  selector: {app: web, version: v2}
  ports: [{name: grpc, port: 80, targetPort: 8080}]
";

impl Scene {
    fn calls(label: &str, rules: &str) -> Result<Scene> {
        let scene = Scene::new(label, rules)?;
        scene.apply("calls.yaml", SERVERS)?;
        Ok(scene)
    }

    fn call(&self, path: &str, metadata: &[(&str, &str)]) -> Result<Called> {
        call(&self.bed.client, WEB.parse()?, path, metadata)
    }
}

fn rule(path: &str, more: &str) -> String {
    format!(
        "- match: [{{uri: {{prefix: {path}}}}}]\n  {more}\n  \
         route: [{{destination: {{host: calls1}}}}]\n"
    )
}

#[test]
fn calls_are_ruled_like_requests() -> Result<()> {
    let abort = |abort: &str| format!("fault: {{abort: {{{abort}, percentage: {{value: 100}}}}}}");
    let rules = [
        rule("/first/0/aborted/", &abort("grpcStatus: RESOURCE_EXHAUSTED")),
        rule("/first/0/refused/", &abort("httpStatus: 403")),
        rule("/old.Service/", "rewrite: {uri: /new.Service/}"),
        rule("/first/9/limited/", "timeout: 300ms"),
        rule("/first/0/mirrored/", "mirror: {host: calls2}"),
        rule("/first/9/never/", "retries: {attempts: 0}"),
        rule("/first/", "retries: {attempts: 2, retryOn: \"unavailable,internal\", backoff: 1ms}"),
        "- match: [{uri: {prefix: /direct}}]\n  directResponse: {status: 404, body: {string: no}}\n"
            .to_owned(),
        "- headers: {response: {set: {x-route: last}}}\n  \
         route: [{destination: {host: calls1}}]\n"
            .to_owned(),
    ];
    let scene = Scene::calls("calls", &rules.concat())?;
    let v1 = &scene.bed.v1;
    let called = scene.call("/any.Service/Method", &[("x-kept", "1")])?;
    assert_eq!(called.statuses(), (200, "0"), "{called:?}");
    assert_eq!((called.field("x-route"), called.field("x-served-by")), ("last", "v1"));
    let called = scene.call("/old.Service/Method", &[])?;
    assert_eq!(called.field("x-path"), "/new.Service/Method", "{called:?}");
    for (path, status, message, key) in [
        ("/first/0/aborted/x", "8", "fault filter abort", "aborted"),
        ("/first/0/refused/x", "7", "fault filter abort", "refused"),
        ("/direct", "12", "no", "-"),
    ] {
        let called = scene.call(path, &[])?;
        assert_eq!(called.statuses(), (200, status), "{path}: {called:?}");
        assert_eq!(called.field("grpc-message"), message, "{path}: {called:?}");
        assert_eq!(called.field("content-type"), "application/grpc", "{path}: {called:?}");
        assert_eq!(scene.count(v1, key)?, 0, "{path}");
    }
    for (failure, failures, status, tries) in
        [("grpc14", 2, "0", 3), ("grpc13", 3, "13", 3), ("grpc8", 1, "8", 1), ("503", 1, "", 1)]
    {
        let key = format!("{failure}x{failures}");
        let called = scene.call(&format!("/first/{failures}/{key}/{failure}/a.B/C"), &[])?;
        assert_eq!(called.field("grpc-status"), status, "{key}: {called:?}");
        assert_eq!(scene.count(v1, &key)?, tries, "{key}");
    }
    let began = Instant::now();
    let called = scene.call("/first/9/limited/hang", &[])?;
    assert_eq!(called.statuses(), (200, "14"), "{called:?}");
    assert_eq!(called.field("grpc-message"), "upstream request timeout");
    assert!(began.elapsed() < LONG);
    let called = scene.call("/first/9/never/reset", &[])?;
    assert_eq!(called.statuses(), (200, "14"), "{called:?}");
    for _ in 0..3 {
        let called = scene.call("/first/0/mirrored/a.B/C", &[])?;
        assert_eq!((called.statuses(), called.field("x-served-by")), ((200, "0"), "v1"));
    }
    scene.wait_for_count(&scene.bed.v2, "mirrored", 3)
}

/// A call that nobody waits for any more is given up, whatever the rule would allow.
#[test]
fn the_client_says_how_long_it_waits() -> Result<()> {
    let rules = [
        rule("/first/9/loose/", "timeout: 60s"),
        rule("/first/9/tight/", "timeout: 200ms"),
        rule("/", "timeout: 0s"),
    ];
    let scene = Scene::calls("patience", &rules.concat())?;
    for (path, timeout) in [("loose", "200m"), ("tight", "60S"), ("none", "200000u")] {
        let began = Instant::now();
        let called = scene.call(&format!("/first/9/{path}/hang"), &[("grpc-timeout", timeout)])?;
        assert_eq!(called.statuses(), (200, "14"), "{path}: {called:?}");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(190) && took < LONG, "{path}: {took:?}");
    }
    // what is no timeout is none
    let called = scene.call("/delay/600/a.B/C", &[("grpc-timeout", "200 ms")])?;
    assert_eq!(called.statuses(), (200, "0"), "{called:?}");
    Ok(())
}

/// Calls of one connection are drawn one by one.
#[test]
fn calls_of_one_connection_are_balanced() -> Result<()> {
    let rules = "- route:\n  - {destination: {host: calls1}, weight: 60}\n  \
                 - {destination: {host: calls2}, weight: 40}\n";
    let scene = Scene::calls("calling", rules)?;
    let report = Load::new(format!("http://{WEB}/a.B/C"), 400)
        .header("content-type: application/grpc")
        .method("POST")
        .http2()
        .run(&scene.bed.client)?;
    assert_eq!((report.errors, report.connections), (0, 1), "{report:?}");
    // five standard deviations
    let second = report.served_by["v2"];
    assert!((111..=209).contains(&second), "{second} of 400 calls went to v2");
    Ok(())
}
