use anyhow::Result;

use crate::scene::{Scene, asked};

const DELEGATES: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  http:
  - match: [{uri: {prefix: /ratings/new}, method: {exact: GET}}]
    rewrite: {uri: /fresh}
    route: [{destination: {host: web, subset: v2}}]
  - match: [{uri: {prefix: /elsewhere}}]
    directResponse: {status: 418}
  - route: [{destination: {host: web, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gone, namespace: other}
spec:
  http:
  - redirect: {uri: /moved, redirectCode: 302}
";

const RULES: &str = "\
- match: [{uri: {prefix: /ratings}}]
  headers: {request: {set: {x-root: yes}}}
  delegate: {name: ratings}
- match: [{uri: {prefix: /gone}}]
  delegate: {name: gone, namespace: other}
- match: [{uri: {prefix: /missing}}]
  delegate: {name: missing}
- directResponse: {status: 404, body: {string: root}}
";

#[test]
fn delegates_rule_what_their_root_hands_them() -> Result<()> {
    let scene = Scene::new("delegate", RULES)?;
    scene.apply("delegates.yaml", DELEGATES)?;
    let mut raw = scene.connect()?;
    let answer = raw.get("web", "/ratings/new/5", &[])?;
    assert_eq!((answer.served_by(), &asked(&answer)["path"]), (Some("v2"), &"/fresh/5".into()));
    let answer = raw.get("web", "/ratings/old", &[])?;
    assert_eq!(answer.served_by(), Some("v1"));
    assert_eq!(asked(&answer)["headers"]["x-root"], "yes", "what the root does is done too");
    // conditions of both must hold
    let text = "POST /ratings/new HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(raw.request(text)?.served_by(), Some("v1"));
    // a path that the root does not hand over is never seen by the delegate
    for path in ["/elsewhere", "/fresh", "/missing/x"] {
        let answer = raw.get("web", path, &[])?;
        assert_eq!((answer.status, answer.body.as_str()), (404, "root"), "{path}");
    }
    let answer = raw.get("web", "/gone/x", &[])?;
    assert_eq!((answer.status, answer.headers["location"].as_str()), (302, "http://web/moved"));
    Ok(())
}
