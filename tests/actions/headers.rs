use anyhow::Result;

use crate::scene::{Scene, asked, field};

const RULES: &str = "\
- match: [{uri: {prefix: /direct}}]
  headers: {response: {set: {x-answer: direct}}}
  directResponse: {status: 200, body: {string: direct}}
- match: [{uri: {prefix: /authority}}]
  headers: {request: {set: {\":authority\": other.example}}}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /host}}]
  headers: {request: {set: {Host: \"other.example:81\"}}}
  route: [{destination: {host: web, subset: v1}}]
- headers:
    request:
      set: {X-Set: new, x-empty: \"\"}
      add: {x-add: more}
      remove: [X-Gone]
    response:
      set: {x-set: new}
      add: {X-Add: more}
      remove: [x-gone]
  route: [{destination: {host: web, subset: v1}}]
";

/// The fields of [`RULES`], whichever API asks for them.
fn check(answer: &beeway_testbed::Response) {
    assert_eq!(field(answer, "x-set").as_deref(), Some("new"));
    assert_eq!(field(answer, "x-add").as_deref(), Some("a,b,more"));
    assert_eq!(field(answer, "x-gone"), None);
    assert_eq!(field(answer, "x-kept").as_deref(), Some("kept"));
    assert_eq!(answer.headers["x-set"], "new");
    assert_eq!(answer.headers["x-add"], "a, more");
    assert!(!answer.headers.contains_key("x-gone"), "{answer:?}");
    assert_eq!(answer.headers["x-kept"], "kept");
}

const SENT: [&str; 7] = [
    "X-SET: old",
    "x-set: older",
    "x-add: a",
    "x-add: b",
    "X-gone: 1",
    "x-kept: kept",
    "x-echo-set-header: x-set:old, x-add:a, x-gone:1, x-gone:2, x-kept:kept",
];

#[test]
fn fields_are_set_added_and_removed_both_ways() -> Result<()> {
    let scene = Scene::new("fields", RULES)?;
    let answer = scene.get("/", &SENT)?;
    check(&answer);
    assert_eq!(field(&answer, "x-empty").as_deref(), Some(""));
    // without the fields there is nothing to replace or remove
    let answer = scene.get("/", &[])?;
    assert_eq!(field(&answer, "x-add").as_deref(), Some("more"));
    assert_eq!(
        (answer.headers["x-set"].as_str(), answer.headers["x-add"].as_str()),
        ("new", "more")
    );
    // answers that no endpoint gives are changed too
    let answer = scene.get("/direct", &[])?;
    assert_eq!((answer.body.as_str(), answer.headers["x-answer"].as_str()), ("direct", "direct"));
    // the authority is a field like others here
    let answer = scene.get("/authority", &[])?;
    assert_eq!(asked(&answer)["headers"]["host"], "other.example");
    let answer = scene.get("/host", &[])?;
    assert_eq!(asked(&answer)["headers"]["host"], "other.example:81");
    Ok(())
}

#[test]
fn filters_of_an_http_route_change_fields_both_ways() -> Result<()> {
    let rules = "\
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: X-Set, value: new}]
      add: [{name: x-add, value: more}]
      remove: [X-Gone]
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      set: [{name: x-set, value: new}]
      add: [{name: X-Add, value: more}]
      remove: [x-gone]
  backendRefs: [{name: first, port: 80}]
";
    let scene = Scene::gateway_api("filters", rules)?;
    check(&scene.get_api("/", &SENT)?);
    Ok(())
}
