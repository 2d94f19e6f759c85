use anyhow::Result;

use crate::scene::{Scene, field};

/// Each request is drawn anew, and what is done to it is what its destination asks for.
#[test]
fn destinations_are_drawn_per_request_with_their_own_fields() -> Result<()> {
    let rules = "\
- headers: {request: {set: {x-route: all}}, response: {set: {x-route: all}}}
  route:
  - destination: {host: web, subset: v1}
    weight: 75
    headers:
      request: {set: {x-share: one}, remove: [x-gone]}
      response: {add: {x-from: one}}
  - destination: {host: web, subset: v2}
    weight: 25
    headers:
      request: {add: {x-share: two}}
      response: {set: {x-from: two}, remove: [x-gone]}
";
    let scene = Scene::new("weights", rules)?;
    let mut raw = scene.connect()?;
    let mut second = 0;
    for _ in 0..400 {
        let sent = ["x-share: zero", "x-gone: 1", "x-echo-set-header: x-from:zero, x-gone:1"];
        let answer = raw.get("web", "/", &sent)?;
        let share = field(&answer, "x-share").unwrap_or_default();
        let gone = (field(&answer, "x-gone").is_none(), !answer.headers.contains_key("x-gone"));
        let seen = (answer.served_by().unwrap_or_default(), share.as_str(), gone);
        let from = answer.headers["x-from"].as_str();
        match seen {
            ("v1", "one", (true, false)) if from == "zero, one" => {}
            ("v2", "zero,two", (false, true)) if from == "two" => second += 1,
            _ => panic!("{seen:?} {from}"),
        }
        assert_eq!(field(&answer, "x-route").as_deref(), Some("all"));
        assert_eq!(answer.headers["x-route"], "all");
    }
    // five standard deviations
    assert!((57..=143).contains(&second), "{second} of 400 requests went to v2");
    Ok(())
}

#[test]
fn backends_of_an_http_route_have_their_own_filters() -> Result<()> {
    let rules = "\
- backendRefs:
  - name: first
    port: 80
    weight: 1
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Share, value: one}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-From, value: one}]}}
  - name: second
    port: 80
    weight: 1
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Share, value: two}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-From, value: two}]}}
";
    let scene = Scene::gateway_api("backends", rules)?;
    let mut seen = [0, 0];
    for _ in 0..40 {
        let answer = scene.get_api("/", &[])?;
        let share = field(&answer, "x-share").unwrap_or_default();
        assert_eq!(answer.headers["x-from"], share);
        match (answer.served_by(), share.as_str()) {
            (Some("v1"), "one") => seen[0] += 1,
            (Some("v2"), "two") => seen[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    // a fair coin is this far off once in a million times
    assert!(seen.iter().all(|count| *count >= 5), "{seen:?}");
    Ok(())
}
