use anyhow::Result;
use serde_json::json;

use crate::scene::Scene;

const RULES: &str = "\
- match: [{uri: {prefix: /text}}]
  directResponse: {status: 503, body: {string: \"out of order\"}}
- match: [{uri: {prefix: /bytes}}]
  directResponse: {status: 200, body: {bytes: eyJhIjoxfQ==}}
- match: [{uri: {prefix: /bare}}]
  directResponse: {status: 204}
- match: [{uri: {prefix: /typed}}]
  headers: {response: {set: {content-type: application/json}}}
  directResponse: {status: 200, body: {string: '{}'}}
- route: [{destination: {host: web, subset: v1}}]
";

#[test]
fn direct_responses_are_given_and_the_connection_goes_on() -> Result<()> {
    let scene = Scene::new("direct", RULES)?;
    let mut raw = scene.connect()?;
    for _ in 0..2 {
        for (path, status, body) in
            [("/text", 503, "out of order"), ("/bytes", 200, "{\"a\":1}"), ("/typed/x", 200, "{}")]
        {
            let answer = raw.get("web", path, &[])?;
            assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
            assert_eq!(answer.served_by(), None, "{path}");
        }
        assert_eq!(raw.get("web", "/bare", &[])?.status, 204);
        let answer = raw.get("web", "/typed", &[])?;
        assert_eq!(answer.headers["content-type"], "application/json");
        raw.send("HEAD /text HTTP/1.1\r\nHost: web\r\n\r\n")?;
        let answer = raw.step(&json!({"recv_response": true, "method": "HEAD"}))?;
        assert_eq!(
            (&answer["status"], &answer["headers"]["content-length"]),
            (&json!(503), &json!("12"))
        );
        let text = "POST /text HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nabcde";
        assert_eq!(raw.request(text)?.status, 503);
        assert_eq!(raw.get("web", "/else", &[])?.served_by(), Some("v1"));
    }
    Ok(())
}
