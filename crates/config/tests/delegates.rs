//! VirtualServices that leave rules to others.

use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{Outcome, PathMatch, Policy, Request, Rule, route};

const SERVICES: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: api, namespace: root}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: a, namespace: root}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: a, namespace: sub}, spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}}
";

/// A VirtualService; its spec is in flow style.
fn virtual_service(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, \
         namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

/// A root with these rules, and a delegate `sub/d` with those.
fn with(root: &str, delegate: &str) -> Loaded {
    let text = virtual_service("root", "r", &format!("hosts: [api], http: [{root}]"))
        + &virtual_service("sub", "d", delegate);
    loaded(&text)
}

fn loaded(text: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", SERVICES), file("f.yaml", text)], &Options::default())
}

fn reasons(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(|p| format!("{} {}", p.severity, p.reason)).collect()
}

fn rules(loaded: &Loaded) -> &[Rule] {
    let service = loaded.mesh.services.iter().find(|s| s.name == "api").unwrap();
    service.ports[0].rules.as_deref().unwrap_or_default()
}

/// Which cluster a GET goes to, or with which status it is answered.
fn get(loaded: &Loaded, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: "api",
        target: path,
        headers: &headers,
        source: None,
    };
    let service = loaded.mesh.services.iter().find(|s| s.name == "api").unwrap();
    match route(&service.ports[0], &request, 0).outcome {
        Outcome::Forward(id) => {
            let name = &loaded.mesh.cluster(id).name;
            name.split('.').take(2).collect::<Vec<_>>().join(".")
        }
        Outcome::Respond { status, .. } => status.to_string(),
        other => panic!("{other:?}"),
    }
}

const DELEGATE: &str = "delegate: {name: d, namespace: sub}";
const TO_A: &str = "route: [{destination: {host: a}}]";

/// What is not said by the delegate, the root says; names are relative to who says them.
#[test]
fn rules_of_delegates_stand_where_they_are_named() {
    let loaded = with(
        &format!(
            "{{match: [{{uri: {{prefix: /a}}, headers: {{x: {{exact: '1'}}}}}}], timeout: 5s, \
             mirror: {{host: a}}, headers: {{request: {{set: {{h: root}}}}}}, {DELEGATE}}}, {{{TO_A}}}"
        ),
        &format!(
            "http: [{{match: [{{uri: {{exact: /a/b}}}}, {{uri: {{prefix: /ac}}, method: {{exact: \
             GET}}}}], timeout: 1s, {TO_A}}}, {{directResponse: {{status: 202}}}}]"
        ),
    );
    assert_eq!(reasons(&loaded), [] as [String; 0]);
    let names: Vec<&str> = rules(&loaded).iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "VirtualService root/r http[0], delegate sub/d http[0]",
            "VirtualService root/r http[0], delegate sub/d http[1]",
            "VirtualService root/r http[1]",
        ]
    );
    let first = &rules(&loaded)[0];
    assert_eq!(first.matches.len(), 2);
    assert_eq!(first.matches[0].path, Some(PathMatch::Exact("/a/b".into())));
    assert_eq!(first.matches[1].path, Some(PathMatch::Prefix("/ac".into())));
    assert!(first.matches.iter().all(|m| m.headers.len() == 1));
    assert_eq!(first.detour.as_deref(), Some("headers, timeout, mirror"));
    let policy: &Policy = first.policy.as_ref().unwrap();
    assert_eq!(policy.timeout.unwrap().as_secs(), 1);
    assert_eq!(policy.request_headers.set, [("h".to_owned(), "root".to_owned())]);
    let mirror = policy.mirrors[0].cluster.unwrap();
    assert!(loaded.mesh.cluster(mirror).name.starts_with("a.root."));
    let x = &[("x", "1")];
    for (path, headers, wanted) in [
        ("/a/b", &x[..], "a.sub"),
        ("/acx", x, "a.sub"),
        ("/a", x, "202"),
        ("/a/b", &[], "a.root"),
        ("/b", x, "a.root"),
    ] {
        assert_eq!(get(&loaded, path, headers), wanted, "{path}");
    }
}

/// A delegate's conditions must lie within one of the root's.
#[test]
fn conditions_that_conflict() {
    for (root, leaf, fits) in [
        ("uri: {prefix: /a}", "uri: {prefix: /a/b}", true),
        ("uri: {prefix: /a}", "uri: {exact: /ab}", true),
        ("uri: {prefix: /a}", "uri: {prefix: /}", false),
        ("uri: {exact: /a}", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {prefix: /a}", false),
        ("uri: {exact: /a}", "uri: {exact: /b}", false),
        ("uri: {regex: /a.*}", "uri: {exact: /ab}", false),
        ("uri: {prefix: /a}", "uri: {regex: /a.*}", false),
        ("uri: {regex: /a.*}", "method: {exact: GET}", true),
        ("method: {exact: GET}", "method: {exact: PUT}", false),
        ("headers: {a: {exact: b}}", "headers: {a: {exact: c}}", false),
        ("headers: {a: {exact: b}}", "headers: {c: {exact: d}}", true),
        ("withoutHeaders: {a: {exact: b}}", "withoutHeaders: {a: {exact: c}}", false),
        ("queryParams: {a: {prefix: b}}", "queryParams: {a: {exact: bc}}", true),
        ("port: 80", "port: 81", false),
        ("port: 80", "uri: {exact: /a}", true),
        ("uri: {prefix: /A}, ignoreUriCase: true", "uri: {prefix: /A}", false),
        ("sourceNamespace: x", "sourceNamespace: x", true),
        ("sourceNamespace: x", "uri: {exact: /a}", false),
        ("sourceLabels: {a: b}", "sourceLabels: {a: c}", false),
        ("sourceLabels: {a: b}", "sourceLabels: {c: d}", true),
        ("gateways: [mesh]", "gateways: [mesh, other]", false),
        ("uri: {prefix: /b}}, {uri: {prefix: /a}", "uri: {exact: /a}", true),
    ] {
        let loaded = with(
            &format!("{{match: [{{{root}}}], {DELEGATE}}}"),
            &format!("http: [{{match: [{{{leaf}}}], {TO_A}}}]"),
        );
        let found = rules(&loaded).iter().filter(|rule| rule.name.contains("delegate"));
        assert_eq!(found.count(), usize::from(fits), "{root} {leaf} {:?}", reasons(&loaded));
        let reason = "error not applied for VirtualService root/r http[0]: its match is not within \
                      that one's";
        assert_eq!(reasons(&loaded), if fits { vec![] } else { vec![reason.to_owned()] });
    }
}

#[test]
fn delegates_that_cannot_be_used() {
    let sound = format!("http: [{{{TO_A}}}]");
    for (root, delegate, said) in [
        (
            "delegate: {name: nope}",
            &*sound,
            &["error there is no VirtualService root/nope without hosts; the rule is not applied"]
                [..],
        ),
        (
            "delegate: {name: d}",
            &sound,
            &["error there is no VirtualService root/d without hosts; the rule is not applied"],
        ),
        (
            DELEGATE,
            &format!("exportTo: ['.', other], {sound}"),
            &["error delegate sub/d is not exported to root; the rule is not applied"],
        ),
        (
            DELEGATE,
            "http: [{delegate: {name: e}}]",
            &[
                "error delegate sub/d cannot be used; the rule is not applied",
                "error a delegate does not delegate",
                "error it is not applied as a whole, because of the errors in it",
            ],
        ),
        (
            DELEGATE,
            &format!("gateways: [mesh], {sound}"),
            &[
                "error delegate sub/d cannot be used; the rule is not applied",
                "error it is not applied as a whole, because of the errors in it",
                "error without hosts it has no gateways",
            ],
        ),
    ] {
        let loaded = with(&format!("{{{root}}}, {{directResponse: {{status: 203}}}}"), delegate);
        let mut found = reasons(&loaded);
        found.retain(|reason| !reason.starts_with("notice"));
        let mut wanted: Vec<String> = said.iter().map(|said| (*said).to_owned()).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        // What is left of the root stands.
        assert_eq!(get(&loaded, "/", &[]), "203");
    }
    let exported = with(&format!("{{{DELEGATE}}}"), &format!("exportTo: [root], {sound}"));
    assert_eq!(get(&exported, "/", &[]), "a.sub");
    let alone = loaded(&virtual_service("sub", "d", &sound));
    let wanted = "notice it has no hosts, and no other delegates to it; it is not applied";
    assert_eq!(reasons(&alone), [wanted]);
}

/// A rule that answers has no use for what the root says of sending requests on.
#[test]
fn answers_of_delegates() {
    let loaded = with(
        &format!(
            "{{rewrite: {{uri: /x}}, retries: {{attempts: 1}}, headers: {{response: {{set: {{a: \
             b}}}}}}, {DELEGATE}}}"
        ),
        "http: [{redirect: {uri: /y}}]",
    );
    assert_eq!(reasons(&loaded), [] as [String; 0]);
    let rule = &rules(&loaded)[0];
    assert_eq!(rule.detour.as_deref(), Some("headers, redirect"));
    let policy = rule.policy.as_ref().unwrap();
    assert_eq!((&policy.rewrite.path, &policy.retry), (&None, &None));
}
