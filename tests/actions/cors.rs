use anyhow::Result;
use beeway_testbed::{RawClient, Response};

use crate::scene::{API, Scene};

fn field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers.get(&format!("access-control-{name}")).map(String::as_str)
}

fn preflight(path: &str, origin: &str, method: &str) -> String {
    format!(
        "OPTIONS {path} HTTP/1.1\r\nHost: web\r\nOrigin: {origin}\r\n\
         Access-Control-Request-Method: {method}\r\n\
         Access-Control-Request-Headers: x-one, x-two\r\n\r\n"
    )
}

const RULES: &str = r#"
- match: [{uri: {prefix: /first/0/closed}}]
  corsPolicy:
    allowOrigins: [{exact: "https://a.example"}]
    unmatchedPreflights: IGNORE
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /first/0/any}}]
  corsPolicy: {allowOrigins: [{regex: ".*"}], allowMethods: ["*"], allowHeaders: ["*"]}
  route: [{destination: {host: web, subset: v1}}]
- corsPolicy:
    allowOrigins: [{exact: "https://a.example"}, {prefix: "https://b."}, {regex: "https://[cd]\\.example"}]
    allowMethods: [GET, POST]
    allowHeaders: [x-one, x-two]
    exposeHeaders: [x-three, x-four]
    maxAge: 10m
    allowCredentials: true
  route: [{destination: {host: web, subset: v1}}]
"#;

#[test]
fn preflights_are_answered_for_who_may() -> Result<()> {
    let scene = Scene::new("cors", RULES.trim_start())?;
    let mut raw = scene.connect()?;
    let count = |key| scene.count(&scene.bed.v1, key);
    for origin in ["https://a.example", "https://b.example:8443", "https://c.example"] {
        let answer = raw.request(&preflight("/first/0/open/x", origin, "POST"))?;
        assert_eq!((answer.status, answer.body_len), (200, 0), "{origin}");
        for (name, wanted) in [
            ("allow-origin", origin),
            ("allow-methods", "GET,POST"),
            ("allow-headers", "x-one,x-two"),
            ("allow-credentials", "true"),
            ("max-age", "600"),
        ] {
            let seen = field(&answer, name).map(|value| value.replace(' ', ""));
            assert_eq!(seen.as_deref(), Some(wanted), "{origin} {name}");
        }
    }
    assert_eq!(count("open")?, 0, "no endpoint was asked");
    // what others ask for is the endpoint's business, or nobody's
    for origin in ["https://a.example.evil", "https://e.example", "http://a.example", "null"] {
        let answer = raw.request(&preflight("/first/0/asked/x", origin, "POST"))?;
        assert_eq!((answer.served_by(), field(&answer, "allow-origin")), (Some("v1"), None));
        let answer = raw.request(&preflight("/first/0/closed/x", origin, "POST"))?;
        let seen = (answer.status, answer.served_by(), field(&answer, "allow-origin"));
        assert_eq!(seen, (200, None, None), "{origin}");
    }
    assert_eq!((count("asked")?, count("closed")?), (4, 0));
    // a star stands for what is asked for
    let answer = raw.request(&preflight("/first/0/any/x", "http://any:81", "PURGE"))?;
    let names = ["allow-origin", "allow-methods", "allow-headers", "allow-credentials", "max-age"];
    assert_eq!(
        names.map(|name| field(&answer, name)),
        [Some("http://any:81"), Some("PURGE"), Some("x-one, x-two"), None, None]
    );
    // an OPTIONS that asks for no method is like any other request
    let text = "OPTIONS /x HTTP/1.1\r\nHost: web\r\nOrigin: https://a.example\r\n\r\n";
    assert_eq!(raw.request(text)?.served_by(), Some("v1"));
    Ok(())
}

#[test]
fn answers_say_who_may_read_them() -> Result<()> {
    let scene = Scene::new("origin", RULES.trim_start())?;
    let mut raw = scene.connect()?;
    let set = "x-echo-set-header: access-control-allow-origin:*, access-control-max-age:1";
    let mut get = |headers: &[&str]| raw.get("web", "/x", headers);
    let answer = get(&["origin: https://b.x", set])?;
    assert_eq!(answer.served_by(), Some("v1"));
    let names = ["allow-origin", "allow-credentials", "expose-headers", "allow-methods", "max-age"];
    let seen = names.map(|name| field(&answer, name));
    assert_eq!(seen, [Some("https://b.x"), Some("true"), Some("x-three,x-four"), None, Some("1")]);
    // the endpoint's own word stands where the rule has none
    for headers in [&["origin: https://e.example", set][..], &[set], &["origin:", set]] {
        let answer = get(headers)?;
        let seen = names.map(|name| field(&answer, name));
        assert_eq!(seen, [Some("*"), None, None, None, Some("1")], "{headers:?}");
    }
    // also when the endpoint fails
    let answer = raw.get("web", "/status/500", &["origin: https://a.example"])?;
    assert_eq!((answer.status, field(&answer, "allow-origin")), (500, Some("https://a.example")));
    Ok(())
}

#[test]
fn an_http_route_has_wildcards_in_origins() -> Result<()> {
    let rules = "\
- filters:
  - type: CORS
    cors:
      allowOrigins: [\"https://www.foo.com\", \"https://*.bar.com\"]
      allowMethods: [GET, PUT]
      allowHeaders: [x-one]
      maxAge: 3600
  backendRefs: [{name: first, port: 80}]
";
    let scene = Scene::gateway_api("wildcard", rules)?;
    let mut raw = RawClient::connect(&scene.bed.client, API.parse()?)?;
    for (origin, allowed) in [
        ("https://www.foo.com", true),
        ("https://a.bar.com", true),
        ("https://a.b.bar.com", true),
        ("https://bar.com", false),
        ("https://abar.com", false),
        ("https://a.bar.com.evil", false),
        ("http://a.bar.com", false),
        ("https://wwwxfoo.com", false),
    ] {
        let wanted = allowed.then_some(origin);
        let answer = raw.request(&preflight("/", origin, "PUT").replace("web", "api"))?;
        assert_eq!(field(&answer, "allow-origin"), wanted, "preflight of {origin}: {answer:?}");
        let answer = raw.get("api", "/", &[&format!("origin: {origin}")])?;
        assert_eq!((answer.served_by(), field(&answer, "allow-origin")), (Some("v1"), wanted));
    }
    Ok(())
}
