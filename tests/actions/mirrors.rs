use std::time::{Duration, Instant};

use anyhow::Result;
use beeway_testbed::{RawClient, pattern, upload};
use serde_json::Value;

use crate::bed::{LIMIT, WEB};
use crate::scene::{API, Scene, asked};

const RULES: &str = "\
- match: [{uri: {prefix: /first/0/all/}}, {uri: {prefix: /sum}}, {uri: {prefix: /rewritten}}]
  rewrite: {uriRegexRewrite: {match: ^/rewritten, rewrite: /first/0/all}}
  headers: {request: {set: {x-route: both}}}
  route: [{destination: {host: web, subset: v1}}]
  mirror: {host: web, subset: v2}
- match: [{uri: {prefix: /first/0/quarter/}}]
  route: [{destination: {host: web, subset: v1}}]
  mirror: {host: web, subset: v2}
  mirrorPercentage: {value: 25}
- match: [{uri: {prefix: /first/0/twice/}}]
  route: [{destination: {host: web, subset: v1}}]
  mirrors:
  - {destination: {host: web, subset: v2}}
  - {destination: {host: second}, percentage: {value: 100}}
- match: [{uri: {prefix: /first/0/h2/}}]
  route: [{destination: {host: web, subset: v1}}]
  mirror: {host: h2}
- match: [{uri: {prefix: /first/0/h1/}}]
  route: [{destination: {host: h2}}]
  mirror: {host: web, subset: v1}
- match: [{uri: {prefix: /first/0/nobody/}}]
  route: [{destination: {host: web, subset: v1}}]
  mirror: {host: nobody}
- route: [{destination: {host: web, subset: v1}}]
";

/// The second version again, by HTTP/2.
const H2: &str = "\
apiVersion: v1
kind: Service
metadata: {name: h2, namespace: default}
spec:
  clusterIP: 10.96.0.30
  selector: {app: web, version: v2}
  ports: [{name: http2, port: 80, targetPort: 8080}]
";

#[test]
fn a_mirror_may_speak_another_protocol() -> Result<()> {
    let scene = Scene::new("protocols", RULES)?;
    scene.apply("h2.yaml", H2)?;
    let mut raw = scene.connect()?;
    for (key, served_by, mirror, version) in
        [("h2", "v1", 1, "HTTP/2.0"), ("h1", "v2", 0, "HTTP/1.1")]
    {
        let answer = raw.get("web", &format!("/first/0/{key}/x?q"), &["x-mine: kept"])?;
        assert_eq!((answer.status, answer.served_by()), (200, Some(served_by)), "{answer:?}");
        let log = scene.bed.servers[mirror].wait_for_line(&format!("/first/0/{key}/x?q"), LIMIT)?;
        let copy: Value = serde_json::from_str(&log)?;
        let seen = (&copy["version"], &copy["headers"]["host"], &copy["headers"]["x-mine"]);
        assert_eq!(seen, (&version.into(), &"web".into(), &"kept".into()), "{copy}");
    }
    Ok(())
}

#[test]
fn copies_go_to_mirrors_and_their_answers_nowhere() -> Result<()> {
    let scene = Scene::new("mirror", RULES)?;
    let (v1, v2) = (&scene.bed.v1, &scene.bed.v2);
    let mut raw = scene.connect()?;
    for _ in 0..20 {
        let answer = raw.get("web", "/first/0/all/x", &["x-mine: kept"])?;
        assert_eq!((answer.status, answer.served_by()), (200, Some("v1")));
    }
    scene.wait_for_count(v2, "all", 20)?;
    // the copy is of what goes to the endpoint
    let answer = raw.get("web", "/rewritten/a/b?q=1", &["x-mine: kept"])?;
    assert_eq!(asked(&answer)["path"], "/first/0/all/a/b?q=1");
    scene.wait_for_count(v2, "all", 21)?;
    let log = scene.bed.servers[1].wait_for_line("/first/0/all/a/b?q=1", LIMIT)?;
    let copy: Value = serde_json::from_str(&log)?;
    for (name, wanted) in [("x-mine", "kept"), ("x-route", "both"), ("host", "web")] {
        assert_eq!(copy["headers"][name], wanted, "{copy}");
    }
    for _ in 0..5 {
        assert_eq!(raw.get("web", "/first/0/twice/x", &[])?.served_by(), Some("v1"));
        assert_eq!(raw.get("web", "/first/0/nobody/x", &[])?.served_by(), Some("v1"));
    }
    scene.wait_for_count(v2, "twice", 10)?;
    for _ in 0..400 {
        assert_eq!(raw.get("web", "/first/0/quarter/x", &[])?.served_by(), Some("v1"));
    }
    // five standard deviations
    scene.wait_for_count(v2, "quarter", 57)?;
    // the last copies are on their way, or were never sent: nothing tells when
    std::thread::sleep(Duration::from_millis(300));
    let copies = scene.count(v2, "quarter")?;
    assert!((57..=143).contains(&copies), "{copies} of 400 requests were mirrored");
    for (key, wanted) in [("all", 21), ("twice", 5), ("quarter", 400), ("nobody", 5)] {
        assert_eq!(scene.count(v1, key)?, wanted, "{key}: each request is answered once");
    }
    assert_eq!((scene.count(v2, "all")?, scene.count(v2, "twice")?), (21, 10));
    Ok(())
}

#[test]
fn a_copy_has_the_whole_body() -> Result<()> {
    let scene = Scene::new("copies", RULES)?;
    for (bytes, chunked) in [(10, false), (100_000, false), (100_000, true)] {
        let path = format!("/sum?{bytes}{chunked}");
        let url = format!("http://{WEB}{path}");
        let mut command = upload(&scene.bed.client, &url, bytes)?.args(["-H", "Host: web"]);
        if chunked {
            command = command.arg("--chunked");
        }
        let report = command.output(LIMIT)?.success()?.json().pop().unwrap_or_default();
        assert_eq!(report["status"], 200, "{report}");
        // what the servers say when they have read a body
        let line = format!("\"path\":\"{path}\",\"sha256\":\"{}\"", pattern::sha256(bytes));
        for server in &scene.bed.servers {
            server.wait_for_line(&line, LIMIT)?;
        }
    }
    Ok(())
}

/// A mirror that neither reads nor answers holds up nobody.
#[test]
fn a_mirror_that_hangs_delays_nothing() -> Result<()> {
    let scene = Scene::new("hang", RULES)?;
    scene.bed.servers[1].signal(nix::sys::signal::Signal::SIGSTOP);
    let began = Instant::now();
    let mut raw = scene.connect()?;
    for _ in 0..20 {
        assert_eq!(raw.get("web", "/first/0/all/x", &[])?.served_by(), Some("v1"));
    }
    for _ in 0..3 {
        let command = upload(&scene.bed.client, &format!("http://{WEB}/sum"), 5_000_000)?;
        let command = command.args(["-H", "Host: web"]);
        let report = command.output(LIMIT)?.success()?.json().pop().unwrap_or_default();
        assert_eq!(report["reply"]["sha256"], pattern::sha256(5_000_000), "{report}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn an_http_route_mirrors_shares() -> Result<()> {
    let filter = |more: &str| {
        format!(
            "  - type: RequestMirror\n    \
             requestMirror: {{backendRef: {{name: second, port: 80}}{more}}}\n"
        )
    };
    let rule = |key: &str, filters: &str| {
        format!(
            "- matches: [{{path: {{type: PathPrefix, value: /first/0/{key}}}}}]\n  \
             backendRefs: [{{name: first, port: 80}}]\n  filters:\n{filters}"
        )
    };
    let rules = [
        rule("all", &filter("")),
        rule("twice", &(filter("") + &filter(", percent: 100"))),
        rule("half", &filter(", percent: 50")),
        rule("third", &filter(", fraction: {numerator: 1, denominator: 3}")),
        rule("none", &filter(", percent: 0")),
    ];
    let scene = Scene::gateway_api("shares", &rules.concat())?;
    let (v1, v2) = (&scene.bed.v1, &scene.bed.v2);
    let mut raw = RawClient::connect(&scene.bed.client, API.parse()?)?;
    for key in ["none", "half", "third", "twice", "all"] {
        for _ in 0..200 {
            let answer = raw.get("api", &format!("/first/0/{key}/x"), &[])?;
            assert_eq!(answer.served_by(), Some("v1"));
        }
    }
    // five standard deviations
    for (key, least, most) in
        [("all", 200, 200), ("twice", 400, 400), ("half", 65, 135), ("third", 34, 100)]
    {
        scene.wait_for_count(v2, key, least)?;
        let copies = scene.count(v2, key)?;
        assert!((least..=most).contains(&copies), "{key}: {copies} of 200 were mirrored");
        assert_eq!(scene.count(v1, key)?, 200, "{key}");
    }
    assert_eq!(scene.count(v2, "none")?, 0);
    Ok(())
}
