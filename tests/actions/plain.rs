//! Requests that need nothing special are forwarded without an HTTP library, and nobody can tell.

use anyhow::{Context, Result};

use crate::scene::{Scene, asked, field};

const RULES: &str = "\
- match: [{uri: {prefix: /limited}}]
  timeout: 9s
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /changed}}]
  rewrite: {uri: /new}
  headers: {request: {set: {x-set: new}}, response: {set: {x-set: new}}}
  route: [{destination: {host: web, subset: v2}}]
- retries: {attempts: 0}
  timeout: 0s
  headers: {request: {add: {x-add: more}}}
  route: [{destination: {host: web, subset: v1}}]
";

#[test]
fn one_connection_goes_both_ways_by_turns() -> Result<()> {
    let scene = Scene::new("plain", RULES)?;
    let proxy = |counter: &str| {
        let status = scene.bed.status()?;
        status["proxy"][counter].as_u64().with_context(|| format!("no counter {counter}"))
    };
    let mut raw = scene.connect()?;
    let chunked = "POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\nhi\r\n0\r\n\r\n";
    let sized = "POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi";
    for _ in 0..3 {
        let answer = raw.get("web", "/changed/a", &["x-mine: 1"])?;
        assert_eq!((answer.status, answer.served_by()), (200, Some("v2")));
        assert_eq!(answer.headers["x-set"], "new");
        assert_eq!(asked(&answer)["path"], "/new/a");
        assert_eq!(field(&answer, "x-set").as_deref(), Some("new"));
        assert_eq!(field(&answer, "x-mine").as_deref(), Some("1"));
        assert_eq!(field(&answer, "x-envoy-attempt-count").as_deref(), Some("1"));
        assert_eq!(raw.request(sized)?.body, "hi");
        assert_eq!(raw.request(chunked)?.body, "hi");
        let answer = raw.get("web", "/limited", &[])?;
        assert_eq!((answer.status, field(&answer, "x-add")), (200, None));
        let answer = raw.get("web", "/", &[])?;
        assert_eq!(field(&answer, "x-add").as_deref(), Some("more"));
    }
    // not those with chunks or a time limit
    assert_eq!((proxy("requests")?, proxy("plain")?), (15, 9));
    Ok(())
}
