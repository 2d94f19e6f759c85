use std::time::{Duration, Instant};

use anyhow::Result;
use beeway_testbed::RawClient;

use crate::scene::{API, Scene};

/// Longer than any limit here, and shorter than what would be waited for without one.
const LONG: Duration = Duration::from_secs(5);

fn rule(path: &str, more: &str) -> String {
    format!(
        "- match: [{{uri: {{prefix: {path}}}}}]\n  {more}\n  \
         route: [{{destination: {{host: web, subset: v1}}}}]\n  rewrite: {{uri: /}}\n"
    )
}

#[test]
fn a_timeout_ends_a_request_and_not_its_connection() -> Result<()> {
    let rules = [
        rule("/limited/", "timeout: 200ms"),
        rule(
            "/tries/",
            "timeout: 10s\n  retries: {attempts: 2, perTryTimeout: 200ms, retryOn: 5xx}",
        ),
        rule("/try/", "timeout: 10s\n  retries: {attempts: 2, perTryTimeout: 200ms}"),
        rule(
            "/both/",
            "timeout: 500ms\n  retries: {attempts: 9, perTryTimeout: 200ms, retryOn: reset}",
        ),
        rule("/", "timeout: 0s"),
    ];
    let scene = Scene::new("timeout", &rules.concat())?;
    let mut raw = scene.connect()?;
    for _ in 0..2 {
        let began = Instant::now();
        let answer = raw.get("web", "/limited/delay/60000/x", &[])?;
        assert_eq!((answer.status, answer.body.as_str()), (504, "upstream request timeout"));
        let took = began.elapsed();
        assert!(took > Duration::from_millis(190) && took < LONG, "{took:?}");
        assert_eq!(raw.get("web", "/limited/x", &[])?.status, 200);
    }
    // a body that comes slowly is not the endpoint's time (Envoy counts from the request's end)
    raw.send("POST /limited/echo HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\na")?;
    std::thread::sleep(Duration::from_millis(400));
    raw.send("b")?;
    assert_eq!(raw.response()?.body, "ab");
    // each try has its time, and when none is left the client is told
    let v1 = &scene.bed.v1;
    let began = Instant::now();
    let answer = raw.get("web", "/tries/first/9/tries/hang", &[])?;
    assert_eq!((answer.status, scene.count(v1, "tries")?), (504, 3));
    assert!(began.elapsed() < LONG);
    // a try that runs out of time may have been seen: no retry unless it is asked for
    let answer = raw.get("web", "/try/first/9/try/hang", &[])?;
    assert_eq!((answer.status, scene.count(v1, "try")?), (504, 1));
    // the first two tries hang, the third is answered
    assert_eq!(raw.get("web", "/tries/first/2/mended/hang", &[])?.status, 200);
    // the limit of all tries together
    let began = Instant::now();
    assert_eq!(raw.get("web", "/both/first/99/both/hang", &[])?.status, 504);
    assert!(began.elapsed() < LONG);
    assert!((2..=3).contains(&scene.count(v1, "both")?));
    // none
    assert_eq!(raw.get("web", "/delay/1000/x", &[])?.status, 200);
    Ok(())
}

#[test]
fn an_http_route_has_two_timeouts() -> Result<()> {
    let rules = "\
- matches: [{path: {type: PathPrefix, value: /delay/60000/request}}]
  timeouts: {request: 300ms}
  backendRefs: [{name: first, port: 80}]
- matches: [{path: {type: PathPrefix, value: /delay/60000/backend}}]
  timeouts: {request: 5s, backendRequest: 300ms}
  backendRefs: [{name: first, port: 80}]
- timeouts: {request: 0s}
  backendRefs: [{name: first, port: 80}]
";
    let scene = Scene::gateway_api("timeouts", rules)?;
    let mut raw = RawClient::connect(&scene.bed.client, API.parse()?)?;
    for path in ["/delay/60000/request", "/delay/60000/backend"] {
        let began = Instant::now();
        assert_eq!(raw.get("api", path, &[])?.status, 504, "{path}");
        assert!(began.elapsed() < LONG, "{path}");
    }
    assert_eq!(raw.get("api", "/delay/600/x", &[])?.status, 200);
    Ok(())
}
