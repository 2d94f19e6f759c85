use anyhow::Result;
use beeway_testbed::{RawClient, curl};

use crate::bed::WEB;
use crate::scene::{API, Scene};

const RULES: &str = "\
- match: [{uri: {exact: /all}}]
  redirect: {uri: /new, authority: new.example, scheme: https, port: 8443, redirectCode: 308}
- match: [{uri: {prefix: /uri}}]
  redirect: {uri: /new}
- match: [{uri: {prefix: /query}}]
  redirect: {uri: \"/new?own=1\", redirectCode: 302}
- match: [{uri: {prefix: /authority}}]
  redirect: {authority: new.example, redirectCode: 303}
- match: [{uri: {prefix: /scheme}}]
  redirect: {scheme: https, redirectCode: 307}
- match: [{uri: {prefix: /port}}]
  redirect: {port: 8081}
- match: [{uri: {prefix: /default-port}}]
  redirect: {port: 80}
- match: [{uri: {prefix: /request-port}}]
  redirect: {derivePort: FROM_REQUEST_PORT, scheme: https}
- match: [{uri: {prefix: /protocol-port}}]
  redirect: {derivePort: FROM_PROTOCOL_DEFAULT, authority: new.example}
- route: [{destination: {host: web, subset: v1}}]
";

#[test]
fn a_virtual_service_redirects() -> Result<()> {
    let scene = Scene::new("redirect", RULES)?;
    let mut raw = scene.connect()?;
    for (host, path, status, location) in [
        ("web", "/all?q=1", 308, "https://new.example:8443/new?q=1"),
        ("web", "/uri/rest?q", 301, "http://web/new?q"),
        ("web:80", "/uri", 301, "http://web:80/new"),
        ("web", "/query?q", 302, "http://web/new?own=1"),
        ("web:80", "/authority/path?q", 303, "http://new.example/authority/path?q"),
        ("web", "/scheme", 307, "https://web/scheme"),
        // Envoy drops the port that is the old scheme's default
        ("web:80", "/scheme", 307, "https://web/scheme"),
        ("web", "/port", 301, "http://web:8081/port"),
        ("web:80", "/port", 301, "http://web:8081/port"),
        ("web", "/default-port", 301, "http://web/default-port"),
        ("web", "/request-port", 301, "https://web:80/request-port"),
        ("web", "/protocol-port", 301, "http://new.example/protocol-port"),
    ] {
        let answer = raw.get(host, path, &[])?;
        let seen = (answer.status, answer.headers["location"].as_str());
        assert_eq!(seen, (status, location), "{host} {path}");
        assert_eq!(answer.body_len, 0, "{answer:?}");
    }
    assert_eq!(raw.get("web", "/else", &[])?.served_by(), Some("v1"), "the connection goes on");
    // a body that nobody wants is taken away
    let text = "POST /uri HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nabcde";
    assert_eq!(raw.request(text)?.status, 301);
    assert_eq!(raw.get("web", "/else", &[])?.served_by(), Some("v1"));
    // and a client of another maker follows
    let url = format!("http://{WEB}/uri");
    let rules = format!(
        "- match: [{{uri: {{exact: /uri}}}}]\n  redirect: {{uri: /new, authority: \"{WEB}\"}}\n\
         - route: [{{destination: {{host: web, subset: v1}}}}]\n"
    );
    scene.rules(&rules)?;
    let output = curl(&scene.bed.client, &["-sSL", "-w", "%{num_redirects}", &url])?.success()?;
    assert!(output.stdout.contains("\"path\":\"/new\""), "{}", output.stdout);
    assert!(output.stdout.ends_with("\n1\n"), "{}", output.stdout);
    Ok(())
}

fn rule(path: &str, redirect: &str) -> String {
    format!(
        "- matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n  \
         filters: [{{type: RequestRedirect, requestRedirect: {redirect}}}]\n"
    )
}

#[test]
fn an_http_route_redirects() -> Result<()> {
    let rules = [
        rule("/bare", "{hostname: new.example}"),
        rule("/code", "{hostname: new.example, statusCode: 301}"),
        rule("/scheme", "{scheme: https}"),
        rule("/port", "{port: 8083}"),
        rule("/known", "{scheme: https, port: 443}"),
        rule("/full", "{path: {type: ReplaceFullPath, replaceFullPath: /new}}"),
        rule("/prefix", "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}"),
    ];
    let scene = Scene::gateway_api("reroute", &rules.concat())?;
    let mut raw = RawClient::connect(&scene.bed.client, API.parse()?)?;
    for (path, status, location) in [
        ("/bare/x?q", 302, "http://new.example/bare/x?q"),
        ("/code", 301, "http://new.example/code"),
        ("/scheme", 302, "https://api/scheme"),
        ("/port", 302, "http://api:8083/port"),
        ("/known", 302, "https://api/known"),
        ("/full/x?q", 302, "http://api/new?q"),
        ("/prefix/x/y?q", 302, "http://api/new/x/y?q"),
        ("/prefix", 302, "http://api/new"),
    ] {
        let answer = raw.get("api", path, &[])?;
        let seen = (answer.status, answer.headers["location"].as_str());
        assert_eq!(seen, (status, location), "{path}");
    }
    // the port that the client connected to counts, not what it writes into Host
    let answer = raw.get("api:9999", "/bare", &[])?;
    assert_eq!(answer.headers["location"], "http://new.example/bare");
    Ok(())
}
