//! What is refused, and what that costs: a VirtualService as a whole, a rule of a route its answer.

use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{Action, Rule};

const SERVICES: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}}
";

fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", SERVICES), file("f.yaml", more)], &Options::default())
}

/// A VirtualService with one rule, whose fields are in flow style.
fn virtual_service(rule: &str) -> Loaded {
    with(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec:\n  \
         hosts: [api]\n  http:\n  - {{{rule}}}\n"
    ))
}

/// An HTTPRoute with one rule.
fn http_route(rule: &str) -> Loaded {
    with(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: api, port: 80}}]\n  rules:\n  - {{{rule}}}\n"
    ))
}

fn reasons(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(|p| format!("{} {}", p.severity, p.reason)).collect()
}

/// The rule of `api`.
fn rule(loaded: &Loaded) -> &Rule {
    let api = loaded.mesh.services.iter().find(|s| s.name == "api").unwrap();
    &api.ports[0].rules.as_ref().unwrap()[0]
}

/// That a VirtualService with this rule is left out for that reason.
fn refused(rule: &str, said: &str) {
    let loaded = virtual_service(rule);
    let wanted = format!("error {said}");
    assert!(reasons(&loaded).contains(&wanted), "{wanted}\n{:#?}", reasons(&loaded));
    assert!(loaded.mesh.services.iter().all(|s| s.ports[0].rules.is_none()), "{rule}");
}

/// The same for a rule with a route to `api` and these fields.
fn refused_route(fields: &str, said: &str) {
    refused(&format!("route: [{{destination: {{host: api}}}}], {fields}"), said);
}

/// What Istio refuses costs the whole object, as one that has no errors could not have been made.
#[test]
fn headers_rewrites_and_retries() {
    for (fields, said) in [
        ("rewrite: {}", "rewrite has one of uri, uriRegexRewrite and authority"),
        (
            "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
            "only one of uri and uriRegexRewrite",
        ),
        (r"rewrite: {uriRegexRewrite: {match: a, rewrite: '\1'}}", "\"a\" has no group 1"),
        (
            "rewrite: {authority: a}, headers: {request: {set: {host: b}}}",
            "the authority is set more than once",
        ),
        ("headers: {request: {set: {':path': b}}}", "header :path cannot be changed here"),
        ("headers: {response: {remove: [Host]}}", "header host cannot be changed here"),
        ("headers: {response: {set: {'a b': c}}}", "`a b` is no header name"),
        ("headers: {response: {set: {a: 50%}}}", "header a: a single % must be doubled"),
        (
            "headers: {response: {set: {a: \"b\\r\\nc: d\"}}}",
            "header a: a value has no control characters",
        ),
        ("timeout: 1", "invalid type: integer `1`, expected a string; it is not applied"),
        ("timeout: 10us", "10us is less than 1ms"),
        ("timeout: soon", "`soon` is no duration"),
        (
            "timeout: soon, fault: {abort: {httpStatus: 500, percentage: {value: 100}}}",
            "`soon` is no duration",
        ),
        ("retries: {attempts: 0, retryOn: 5xx}", "retries are described, and attempts are 0"),
        ("retries: {attempts: 1, retryOn: sometimes}", "retryOn sometimes is not known"),
    ] {
        refused_route(fields, said);
    }
}

#[test]
fn faults_mirrors_and_cors() {
    for (fields, said) in [
        ("fault: {}", "a fault has an abort or a delay"),
        ("fault: {abort: {httpStatus: 99}}", "the status is not in 200..=599"),
        ("fault: {abort: {grpcStatus: BAD}}", "BAD is no gRPC status"),
        ("fault: {abort: {http2Error: x}}", "http2Error is not supported, as in Istio"),
        (
            "fault: {delay: {exponentialDelay: 1s}}",
            "exponentialDelay is not supported, as in Istio",
        ),
        (
            "fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}",
            "percentage 101 is neither 0 nor in 0.0001..=100",
        ),
        (
            "mirror: {host: b}, mirrors: [{destination: {host: b}}]",
            "a rule has not both mirror and mirrors",
        ),
        ("corsPolicy: {allowMethods: [get]}", "get is no method for CORS"),
        (
            "corsPolicy: {allowOrigins: [{exact: ''}]}",
            "an origin is exact, prefix or regex, and not empty",
        ),
        ("corsPolicy: {maxAge: 1500ms}", "maxAge 1500ms is not in whole seconds"),
    ] {
        refused_route(fields, said);
    }
}

#[test]
fn answers() {
    for (fields, said) in [
        ("redirect: {}", "a redirect has one of uri, authority, scheme and port"),
        ("redirect: {uri: /a, redirectCode: 304}", "304 is no code for a redirect"),
        ("redirect: {scheme: ftp}", "scheme ftp is neither http nor https"),
        ("redirect: {port: 1, derivePort: FROM_REQUEST_PORT}", "only one of port and derivePort"),
        ("redirect: {uri: /a}, rewrite: {uri: /b}", "a rule has not both rewrite and redirect"),
        (
            "directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}",
            "a rule has not both fault and directResponse",
        ),
        ("directResponse: {status: 200, body: {bytes: '*'}}", "bytes is not Base64"),
    ] {
        refused(fields, said);
    }
}

/// A rule whose filters cannot be read must not do the rest without them.
#[test]
fn filters_that_cannot_be_read_answer_500() {
    for (list, said) in [
        ("{type: URLRewrite}", "the URLRewrite says nothing"),
        ("{type: CORS, cors: {}}, {type: CORS, cors: {}}", "there is more than one CORS"),
        (
            "{type: RequestRedirect, requestRedirect: {statusCode: 200}}",
            "200 is no code for a redirect",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}",
            "RequestRedirect and URLRewrite exclude each other",
        ),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}",
            "ReplaceFullPath does not go with the rest of it",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, percent: 101}}",
            "a share is between none and all",
        ),
        ("{type: CORS, cors: {allowOrigins: [a.io]}}", "`a.io` is no origin"),
    ] {
        let loaded =
            http_route(&format!("backendRefs: [{{name: b, port: 80}}], filters: [{list}]"));
        let wanted = format!("error {said}");
        assert!(reasons(&loaded).contains(&wanted), "{wanted}\n{:#?}", reasons(&loaded));
        let rule = rule(&loaded);
        assert_eq!(rule.action, Action::Respond { status: 500, body: String::new() });
        assert_eq!((&rule.policy, &rule.detour), (&None, &None));
    }
    let prefix = "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, \
                  urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], \
                  backendRefs: [{name: b, port: 80}]";
    let loaded = http_route(prefix);
    let wanted =
        "error replacePrefixMatch goes with a path of type PathPrefix alone: requests get 500";
    assert_eq!(reasons(&loaded), [wanted]);
}
