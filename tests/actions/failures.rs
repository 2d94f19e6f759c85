//! What a client is told when there is nothing to hand on: Envoy's statuses and words.

use anyhow::Result;
use beeway_testbed::RawClient;

use crate::scene::{REFUSED, Scene};

const RULES: &str = "\
- match: [{uri: {prefix: /nobody}}]
  route: [{destination: {host: nobody}}]
  timeout: 10s
- match: [{uri: {prefix: /unknown}}]
  route: [{destination: {host: there-is-no-such-service}}]
  timeout: 10s
- match: [{uri: {prefix: /refused}}]
  retries: {attempts: 1}
  route: [{destination: {host: refused}}]
- match: [{uri: {prefix: /first}}]
  retries: {attempts: 0}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /ok}}]
  timeout: 10s
  route: [{destination: {host: web, subset: v1}}]
";

#[test]
fn failures_have_envoys_status() -> Result<()> {
    let scene = Scene::new("failures", RULES)?;
    scene.apply("refused.yaml", REFUSED)?;
    let mut raw = scene.connect()?;
    for (path, status, text) in [
        ("/nobody", 503, "no healthy upstream"),
        ("/refused", 503, "upstream connect error or disconnect/reset before headers"),
        ("/first/9/a/reset", 503, "upstream connect error or disconnect/reset before headers"),
        ("/nothing-holds", 404, ""),
    ] {
        let answer = raw.get("web", path, &[])?;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.starts_with(text), "{path}: {answer:?}");
        assert_eq!(answer.served_by(), None, "{path}");
        // who speaks gRPC is told in gRPC
        let answer = raw.get("web", path, &["content-type: application/grpc"])?;
        let told = answer.headers.get("grpc-status").map(String::as_str);
        if status == 503 {
            assert_eq!((answer.status, told), (200, Some("14")), "{path}: {answer:?}");
        }
    }
    // a service that is not there has no share of anything
    let answer = raw.get("web", "/unknown", &[])?;
    assert!([500, 503].contains(&answer.status), "{answer:?}");
    assert_eq!(raw.get("web", "/ok", &[])?.status, 200, "the connection goes on");
    Ok(())
}

#[test]
fn what_is_no_request_is_refused() -> Result<()> {
    let scene = Scene::new("refusals", RULES)?;
    let long = "x".repeat(100_000);
    for (status, text) in [
        (400, "GET /ok HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (400, "GET /ok HTTP/1.1\r\nHost: web\r\nBad Name: x\r\n\r\n".to_owned()),
        (400, "POST /ok HTTP/1.1\r\nHost: web\r\nContent-Length: x\r\n\r\n".to_owned()),
        (400, "BROKEN\r\n\r\n".to_owned()),
        (431, format!("GET /ok HTTP/1.1\r\nHost: web\r\nx-long: {long}\r\n\r\n")),
    ] {
        let mut raw: RawClient = scene.connect()?;
        let what = &text[..text.len().min(60)];
        raw.send(&text)?;
        assert_eq!(raw.response()?.status, status, "{what:?}");
    }
    Ok(())
}

/// An endpoint that answers with what is no HTTP.
#[test]
fn an_answer_that_is_none_is_a_bad_gateway() -> Result<()> {
    let mut scene = Scene::new("garbage", RULES)?;
    drop(scene.bed.servers.remove(0));
    let server = beeway_testbed::script_server(&scene.bed.v1, 8080)?;
    let _server = beeway_testbed::spawn_ready(server)?;
    // `???` and an empty line, and an answer that breaks off in its head
    let rules = "- timeout: 10s\n  route: [{destination: {host: web, subset: v1}}]\n";
    scene.rules(rules)?;
    for (script, status) in [("3f3f3f0d0a0d0a.close", 502), ("485454502f312e31.close", 503)] {
        let answer = scene.get(&format!("/script/{script}"), &[])?;
        assert_eq!(answer.status, status, "{script}: {answer:?}");
    }
    Ok(())
}
