use anyhow::Result;

use crate::scene::{Scene, asked};

const RULES: &str = r#"
- match: [{uri: {prefix: /ratings/}}, {uri: {prefix: /marks}}]
  rewrite: {uri: /v1/}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {exact: /one}}]
  rewrite: {uri: /two, authority: two.example}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {regex: "/r/.*"}}]
  rewrite: {uri: /whole}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /service/}}]
  rewrite: {uriRegexRewrite: {match: "^/service/([^/]+)(/.*)$", rewrite: '\2/instance/\1'}}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /Any}, ignoreUriCase: true}]
  rewrite: {uri: /case}
  route: [{destination: {host: web, subset: v1}}]
- match: [{headers: {x-any: {exact: path}}}]
  rewrite: {uri: /base/}
  route: [{destination: {host: web, subset: v1}}]
- rewrite: {authority: "three.example:8080"}
  route: [{destination: {host: web, subset: v1}}]
"#;

#[test]
fn a_virtual_service_rewrites_paths_and_authorities() -> Result<()> {
    let scene = Scene::new("rewrite", RULES.trim_start())?;
    let mut raw = scene.connect()?;
    for (path, headers, wanted, host) in [
        ("/ratings/5/stars?a=/ratings/&b", &[][..], "/v1/5/stars?a=/ratings/&b", "web"),
        ("/ratings/", &[], "/v1/", "web"),
        // which of the alternatives held decides what its prefix is
        ("/marks/5", &[], "/v1//5", "web"),
        ("/marks5", &[], "/v1/5", "web"),
        ("/one?q=1", &[], "/two?q=1", "two.example"),
        ("/one/more", &[], "/one/more", "three.example:8080"),
        ("/r/s/t?u", &[], "/whole?u", "web"),
        ("/service/foo/v1/api?x=/service/", &[], "/v1/api/instance/foo?x=/service/", "web"),
        ("/service/foo", &[], "/service/foo", "web"),
        ("/aNY/thing", &[], "/case/thing", "web"),
        ("/some/path", &["x-any: path"], "/base/some/path", "web"),
        ("/", &[], "/", "three.example:8080"),
        // what is matched is what is rewritten
        ("/x/../ratings/%35", &[], "/v1/5", "web"),
    ] {
        let answer = raw.get("web", path, headers)?;
        let seen = asked(&answer);
        let seen = (seen["path"].as_str(), seen["headers"]["host"].as_str());
        assert_eq!(seen, (Some(wanted), Some(host)), "{path}");
    }
    Ok(())
}

fn url_rewrite(path: &str, filter: &str) -> String {
    format!(
        "- matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n  \
         filters: [{{type: URLRewrite, urlRewrite: {filter}}}]\n  \
         backendRefs: [{{name: first, port: 80}}]\n"
    )
}

#[test]
fn an_http_route_rewrites_by_segments() -> Result<()> {
    let mut rules = String::new();
    for (at, new) in ["/xyz", "/xyz/", "", "/"].iter().enumerate() {
        for (end, path) in [("", format!("/p{at}")), ("s", format!("/s{at}/"))] {
            let filter =
                format!("{{path: {{type: ReplacePrefixMatch, replacePrefixMatch: \"{new}\"}}}}");
            rules += &url_rewrite(&path, &filter);
            assert!(path.ends_with('/') == (end == "s"));
        }
    }
    rules += &url_rewrite("/full", "{path: {type: ReplaceFullPath, replaceFullPath: /new}}");
    rules += &url_rewrite("/named", "{hostname: new.example}");
    rules += "- filters:\n  - type: URLRewrite\n    \
              urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /base}}\n  \
              backendRefs: [{name: first, port: 80}]\n";
    let scene = Scene::gateway_api("segments", &rules)?;
    for (path, wanted, host) in [
        // the table in the documentation of replacePrefixMatch
        ("/p0/bar", "/xyz/bar", "api"),
        ("/p1/bar", "/xyz/bar", "api"),
        ("/s0/bar", "/xyz/bar", "api"),
        ("/s1/bar", "/xyz/bar", "api"),
        ("/p0", "/xyz", "api"),
        ("/p0/", "/xyz/", "api"),
        ("/p2/bar", "/bar", "api"),
        ("/p2/", "/", "api"),
        ("/p2", "/", "api"),
        ("/p3/", "/", "api"),
        ("/p3", "/", "api"),
        // and more
        ("/p0/bar?q=/p0", "/xyz/bar?q=/p0", "api"),
        ("/full/path?q", "/new?q", "api"),
        ("/named/x", "/named/x", "new.example"),
        // without a match, the prefix is that of all paths
        ("/p0bar", "/base/p0bar", "api"),
        ("/", "/base/", "api"),
    ] {
        let answer = scene.get_api(path, &[])?;
        let seen = asked(&answer);
        let seen = (seen["path"].as_str(), seen["headers"]["host"].as_str());
        assert_eq!(seen, (Some(wanted), Some(host)), "{path}");
    }
    Ok(())
}

#[test]
fn a_backend_rewrites_its_share() -> Result<()> {
    let rules = "\
- matches: [{path: {type: PathPrefix, value: /old}}]
  backendRefs:
  - name: first
    port: 80
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}
  - name: second
    port: 80
";
    let scene = Scene::gateway_api("share", rules)?;
    let mut seen = [0, 0];
    for _ in 0..40 {
        let answer = scene.get_api("/old/path", &[])?;
        match (answer.served_by(), asked(&answer)["path"].as_str()) {
            (Some("v1"), Some("/one/path")) => seen[0] += 1,
            (Some("v2"), Some("/old/path")) => seen[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.iter().all(|count| *count >= 5), "{seen:?}");
    Ok(())
}
