//! What rules do besides choosing a backend: inline YAML → actions, policies and detours.

use std::path::PathBuf;
use std::time::Duration;

use beeway_config::{Loaded, Options, load};
use beeway_model::policy::{Abort, Cors, Fault, Fraction, Mirror, Rewrite};
use beeway_model::{
    Action, BackendPolicy, ClusterId, HeaderEdits, PathMatch, PathRewrite, Policy, Redirect,
    RedirectPort, Retry, RetryOn, Rule, StringMatch,
};

const SERVICES: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: far, namespace: other}, spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}}
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

/// The same with a route to `api`.
fn route(fields: &str) -> Loaded {
    virtual_service(&format!("route: [{{destination: {{host: api}}}}], {fields}"))
}

/// An HTTPRoute with one rule.
fn http_route(rule: &str) -> Loaded {
    with(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: api, port: 80}}]\n  rules:\n  - {{{rule}}}\n"
    ))
}

/// The same with a backend, and filters.
fn filters(filters: &str) -> Loaded {
    http_route(&format!("backendRefs: [{{name: b, port: 80}}], filters: [{filters}]"))
}

fn reasons(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(|p| format!("{} {}", p.severity, p.reason)).collect()
}

/// The rule of `api`, of a configuration without problems.
fn rule(loaded: &Loaded) -> &Rule {
    assert_eq!(reasons(loaded), [] as [String; 0]);
    rule_in_spite(loaded)
}

fn rule_in_spite(loaded: &Loaded) -> &Rule {
    let api = loaded.mesh.services.iter().find(|s| s.name == "api").unwrap();
    &api.ports[0].rules.as_ref().unwrap_or_else(|| panic!("{:?}", loaded.problems))[0]
}

fn policy(rule: &Rule) -> Policy {
    rule.policy.as_deref().cloned().unwrap_or_default()
}

fn cluster(loaded: &Loaded, name: &str) -> Option<ClusterId> {
    let name = format!("{name}.svc.cluster.local:80");
    Some(ClusterId(loaded.mesh.clusters.iter().position(|c| c.name == name).unwrap()))
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn edits(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> HeaderEdits {
    let remove = remove.iter().map(|name| (*name).to_owned()).collect();
    HeaderEdits { remove, set: pairs(set), add: pairs(add) }
}

#[test]
fn plain_rules_ask_for_nothing() {
    for loaded in [
        route("timeout: 0s"),
        route("mirror: {host: b}, mirrorPercentage: {value: 0}"),
        route("headers: {request: {}}"),
        route(""),
        filters(""),
        http_route(
            "backendRefs: [{name: b, port: 80}], timeouts: {request: 0s, backendRequest: 0s}",
        ),
        filters(
            "{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, percent: 0}}",
        ),
    ] {
        let rule = rule(&loaded);
        assert_eq!((&rule.policy, &rule.detour), (&None, &None));
    }
}

#[test]
fn headers_of_virtual_services() {
    let loaded = route(
        "headers: {request: {set: {X-A: '100%%', Host: other.io}, add: {b: c}, remove: [X-C]}, \
         response: {set: {d: e}}}",
    );
    let rule = rule(&loaded);
    assert_eq!(rule.detour.as_deref(), Some("headers"));
    let wanted = Policy {
        request_headers: edits(&["x-c"], &[("x-a", "100%")], &[("b", "c")]),
        response_headers: edits(&[], &[("d", "e")], &[]),
        rewrite: Rewrite { path: None, authority: Some("other.io".into()) },
        ..Policy::default()
    };
    assert_eq!(policy(rule), wanted);
}

/// Envoy's commands cannot be carried out; the user is told what is sent instead.
#[test]
fn commands_in_headers_are_sent_as_written() {
    let loaded = route("headers: {response: {add: {x: '%REQ(a)% %%'}}}");
    assert_eq!(reasons(&loaded), ["warning header x: %REQ(a)% is sent as written"]);
    let wanted = edits(&[], &[], &[("x", "%REQ(a)% %")]);
    assert_eq!(policy(rule_in_spite(&loaded)).response_headers, wanted);
}

/// Those of the only destination are the rule's, as in Istio; among several they are each one's.
#[test]
fn headers_of_destinations() {
    let loaded = virtual_service(
        "headers: {request: {set: {a: rule, b: rule}}}, route: [{destination: {host: api}, \
         headers: {request: {set: {a: dest, host: x.io}}}}]",
    );
    let only = policy(rule(&loaded));
    assert_eq!(only.request_headers, edits(&[], &[("b", "rule"), ("a", "dest")], &[]));
    assert_eq!(only.rewrite.authority.as_deref(), Some("x.io"));
    let loaded = virtual_service(
        "route: [{destination: {host: api}, weight: 1, headers: {request: {set: {host: x.io}}, \
         response: {remove: [S]}}}, {destination: {host: b}, weight: 1}]",
    );
    let split = rule(&loaded);
    assert_eq!(
        (split.policy.as_ref(), split.detour.as_deref()),
        (None, Some("headers of a destination"))
    );
    let Action::Forward(backends) = &split.action else { panic!("{split:?}") };
    let wanted = BackendPolicy {
        response_headers: edits(&["s"], &[], &[]),
        rewrite: Rewrite { path: None, authority: Some("x.io".into()) },
        ..BackendPolicy::default()
    };
    assert_eq!(backends[0].policy.as_deref(), Some(&wanted));
    assert_eq!(backends[1].policy, None);
}

#[test]
fn rewrites_of_virtual_services() {
    let regex = PathRewrite::Regex { pattern: "/v(1|2)".into(), substitution: r"/\1".into() };
    for (fields, path, authority) in [
        ("uri: /b", Some(PathRewrite::Prefix("/b".into())), None),
        ("uri: /b, authority: x.io", Some(PathRewrite::Prefix("/b".into())), Some("x.io")),
        ("authority: x.io", None, Some("x.io")),
        (r"uriRegexRewrite: {match: /v(1|2), rewrite: '/\1'}", Some(regex), None),
    ] {
        let loaded = route(&format!("rewrite: {{{fields}}}"));
        let rule = rule(&loaded);
        assert_eq!(rule.detour.as_deref(), Some("rewrite"));
        let authority = authority.map(str::to_owned);
        // Without a match the prefix that is replaced is `/`.
        let prefix = matches!(path, Some(PathRewrite::Prefix(_)));
        assert_eq!(rule.matches.len(), usize::from(prefix));
        for m in &rule.matches {
            assert_eq!(m.path, Some(PathMatch::Prefix("/".into())));
        }
        assert_eq!(policy(rule).rewrite, Rewrite { path, authority });
    }
}

#[test]
fn redirects_of_virtual_services() {
    let path = |path: &str| Some(PathRewrite::Full(path.to_owned()));
    let moved = || Redirect { status: 301, ..Redirect::default() };
    for (fields, wanted) in [
        ("uri: /b", Redirect { path: path("/b"), ..moved() }),
        (
            "uri: '%PREFIX()%/b', redirectCode: 308",
            Redirect { path: Some(PathRewrite::Prefix("/b".into())), status: 308, ..moved() },
        ),
        (
            "authority: 'x.io:81', scheme: https",
            Redirect {
                host: Some("x.io".into()),
                port: RedirectPort::Number(81),
                scheme: Some("https".into()),
                ..moved()
            },
        ),
        ("port: 82", Redirect { port: RedirectPort::Number(82), ..moved() }),
        ("derivePort: FROM_REQUEST_PORT", Redirect { port: RedirectPort::Listener, ..moved() }),
        (
            "scheme: https, derivePort: FROM_PROTOCOL_DEFAULT",
            Redirect { scheme: Some("https".into()), port: RedirectPort::SchemeDefault, ..moved() },
        ),
    ] {
        let loaded = virtual_service(&format!("redirect: {{{fields}}}"));
        let rule = rule(&loaded);
        assert_eq!(rule.action, Action::Redirect(Box::new(wanted)));
        assert_eq!((rule.detour.as_deref(), &rule.policy), (Some("redirect"), &None));
    }
}

#[test]
fn direct_responses() {
    let loaded = virtual_service("directResponse: {status: 503, body: {bytes: aGkK}}");
    let plain = rule(&loaded);
    assert_eq!(plain.action, Action::Respond { status: 503, body: "hi\n".into() });
    assert_eq!((&plain.policy, &plain.detour), (&None, &None));
    let loaded = virtual_service(
        "directResponse: {status: 200, body: {string: a}}, headers: {response: {set: {b: c}}}",
    );
    let edited = rule(&loaded);
    assert_eq!(edited.detour.as_deref(), Some("headers"));
    assert_eq!(policy(edited).response_headers, edits(&[], &[("b", "c")], &[]));
    let loaded = virtual_service(
        "directResponse: {status: 200}, timeout: 1s, retries: {attempts: 1}, mirror: {host: b}, \
         headers: {request: {set: {b: c}}}",
    );
    assert_eq!(
        reasons(&loaded),
        [
            "notice headers.request has no effect beside directResponse",
            "notice mirror has no effect beside directResponse",
            "notice retries has no effect beside directResponse",
            "notice timeout has no effect beside directResponse",
        ]
    );
    let left = rule_in_spite(&loaded);
    assert_eq!((&left.policy, &left.detour), (&None, &None));
}

#[test]
fn timeouts_and_retries_of_virtual_services() {
    let loaded = route("timeout: 1.5s");
    assert_eq!(rule(&loaded).detour.as_deref(), Some("timeout"));
    assert_eq!(policy(rule(&loaded)).timeout, Some(Duration::from_millis(1500)));
    for (fields, detour, wanted) in [
        ("attempts: 0", None, Retry { attempts: 0, ..Retry::default() }),
        ("attempts: 3", Some("retries"), Retry { attempts: 3, ..Retry::default() }),
        (
            "attempts: 1, perTryTimeout: 2s, backoff: 40ms, retryOn: '5xx,reset, 409'",
            Some("retries"),
            Retry {
                attempts: 1,
                per_try_timeout: Some(Duration::from_secs(2)),
                on: vec![RetryOn::ServerError, RetryOn::Reset],
                statuses: vec![409],
                backoff: Duration::from_millis(40),
            },
        ),
    ] {
        let loaded = route(&format!("retries: {{{fields}}}"));
        let rule = rule(&loaded);
        assert_eq!(rule.detour.as_deref(), detour);
        assert_eq!(policy(rule).retry, Some(wanted));
    }
}

#[test]
fn faults() {
    let second = Duration::from_secs(1);
    let half = Fraction { numerator: 500_000, denominator: 1_000_000 };
    let all = Fraction { numerator: 1_000_000, denominator: 1_000_000 };
    let delayed = |share| Fault { delay: Some((second, share)), abort: None };
    let aborted = |abort, share| Fault { delay: None, abort: Some((abort, share)) };
    for (fields, detour, wanted) in [
        ("delay: {fixedDelay: 1s, percentage: {value: 50}}", "fault.delay", delayed(half)),
        ("delay: {fixedDelay: 1s, percent: 100}", "fault.delay", delayed(all)),
        (
            "abort: {httpStatus: 555, percentage: {value: 50}}",
            "fault.abort",
            aborted(Abort::Http(555), half),
        ),
        (
            "abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}",
            "fault.abort",
            aborted(Abort::Grpc(5), all),
        ),
        (
            "delay: {fixedDelay: 1s, percent: 50}, abort: {httpStatus: 500, percentage: {value: 100}}",
            "fault.delay, fault.abort",
            Fault { delay: Some((second, half)), abort: Some((Abort::Http(500), all)) },
        ),
    ] {
        let loaded = route(&format!("fault: {{{fields}}}"));
        let rule = rule(&loaded);
        assert_eq!((rule.detour.as_deref(), policy(rule).fault), (Some(detour), wanted));
        assert!(matches!(rule.action, Action::Forward(_)));
    }
    // Every request: an answer, which the kernel gives.
    let loaded = route("timeout: 1s, fault: {abort: {httpStatus: 555, percentage: {value: 100}}}");
    let answer = rule(&loaded);
    assert_eq!(answer.action, Action::Respond { status: 555, body: "fault filter abort".into() });
    assert_eq!((&answer.policy, &answer.detour), (&None, &None));
}

#[test]
fn mirrors_of_virtual_services() {
    for (fields, detour, share) in [
        ("mirror: {host: b}", "mirror", Fraction::ALL),
        ("mirror: {host: b}, mirrorPercent: 10", "mirror", Fraction::percent(10.0)),
        (
            "mirror: {host: b}, mirrorPercentage: {value: 0.5}, mirrorPercent: 10",
            "mirror",
            Fraction::percent(0.5),
        ),
        (
            "mirrors: [{destination: {host: b}, percentage: {value: 2}}, {destination: {host: api}, \
             percentage: {value: 0}}]",
            "mirrors",
            Fraction::percent(2.0),
        ),
    ] {
        let loaded = route(fields);
        let rule = rule(&loaded);
        assert_eq!(rule.detour.as_deref(), Some(detour));
        let cluster = cluster(&loaded, "b.default");
        assert_eq!(policy(rule).mirrors, [Mirror { cluster, share }]);
    }
    let loaded = route("mirror: {host: nope}");
    assert_eq!(
        reasons(&loaded),
        ["error nope.default.svc.cluster.local is no service of this mesh; no copies are sent"]
    );
    let nowhere = [Mirror { cluster: None, share: Fraction::ALL }];
    assert_eq!(policy(rule_in_spite(&loaded)).mirrors, nowhere);
}

#[test]
fn cors_of_virtual_services() {
    let loaded = route(
        "corsPolicy: {allowOrigins: [{exact: 'https://a.io'}, {regex: 'https://.*'}, {exact: '*'}], \
         allowMethods: [GET], allowHeaders: [x-a, '*'], exposeHeaders: [x-b], maxAge: 1m, \
         allowCredentials: true}",
    );
    assert_eq!(rule(&loaded).detour.as_deref(), Some("corsPolicy"));
    let wanted = Cors {
        origins: vec![
            StringMatch::Exact("https://a.io".into()),
            StringMatch::Regex("https://.*".into()),
            StringMatch::Present,
        ],
        methods: vec!["GET".into()],
        headers: vec!["x-a".into(), "*".into()],
        expose: vec!["x-b".into()],
        max_age: Some(Duration::from_secs(60)),
        credentials: true,
        forward_unmatched: true,
    };
    assert_eq!(policy(rule(&loaded)).cors, Some(wanted));
    let loaded = route("corsPolicy: {allowOrigin: [x], unmatchedPreflights: IGNORE}");
    let wanted = Cors { origins: vec![StringMatch::Exact("x".into())], ..Cors::default() };
    assert_eq!(policy(rule(&loaded)).cors, Some(wanted));
}

#[test]
fn header_filters_of_routes() {
    let loaded = filters(
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: '%x'}], \
         add: [{name: b, value: c}, {name: B, value: d}], remove: [E]}}, \
         {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: f, value: g}]}}",
    );
    let rule = rule(&loaded);
    assert_eq!(rule.detour.as_deref(), Some("RequestHeaderModifier, ResponseHeaderModifier"));
    let wanted = Policy {
        request_headers: edits(&["e"], &[("a", "%x")], &[("b", "c")]),
        response_headers: edits(&[], &[], &[("f", "g")]),
        ..Policy::default()
    };
    assert_eq!(policy(rule), wanted);
}

#[test]
fn redirect_and_rewrite_filters() {
    let found = || Redirect { status: 302, port: RedirectPort::Listener, ..Redirect::default() };
    for (fields, wanted) in [
        ("hostname: x.io", Redirect { host: Some("x.io".into()), ..found() }),
        (
            "scheme: https, statusCode: 301",
            Redirect {
                scheme: Some("https".into()),
                port: RedirectPort::SchemeDefault,
                status: 301,
                ..found()
            },
        ),
        (
            "scheme: https, port: 8443, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}",
            Redirect {
                scheme: Some("https".into()),
                port: RedirectPort::Number(8443),
                path: Some(PathRewrite::Prefix("/x".into())),
                ..found()
            },
        ),
    ] {
        let loaded = http_route(&format!(
            "filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]"
        ));
        let rule = rule(&loaded);
        assert_eq!(rule.detour.as_deref(), Some("RequestRedirect"));
        let prefix = wanted.path.as_ref().map(|_| PathMatch::Segments("/".into()));
        assert_eq!(rule.matches[0].path, prefix);
        assert_eq!(rule.action, Action::Redirect(Box::new(wanted)));
    }
    let loaded = filters(
        "{type: URLRewrite, urlRewrite: {hostname: x.io, path: {type: ReplaceFullPath, \
         replaceFullPath: /y}}}",
    );
    let (path, authority) = (Some(PathRewrite::Full("/y".into())), Some("x.io".into()));
    assert_eq!(policy(rule(&loaded)).rewrite, Rewrite { path, authority });
}

#[test]
fn mirror_and_cors_filters() {
    let loaded = filters(
        "{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}, \
         {type: RequestMirror, requestMirror: {backendRef: {name: api, port: 80}, percent: 7}}, \
         {type: RequestMirror, requestMirror: {backendRef: {name: api, port: 80}, fraction: \
         {numerator: 1, denominator: 3}}}, \
         {type: RequestMirror, requestMirror: {backendRef: {name: far, namespace: other, port: 80}}}",
    );
    assert_eq!(
        reasons(&loaded),
        ["error no ReferenceGrant in other lets it refer to Service other/far; no copies are sent"]
    );
    let (b, api) = (cluster(&loaded, "b.default"), cluster(&loaded, "api.default"));
    let share = |numerator, denominator| Fraction { numerator, denominator };
    assert_eq!(
        policy(rule_in_spite(&loaded)).mirrors,
        [
            Mirror { cluster: b, share: Fraction::ALL },
            Mirror { cluster: api, share: share(7, 100) },
            Mirror { cluster: api, share: share(1, 3) },
            Mirror { cluster: None, share: Fraction::ALL },
        ]
    );
    let loaded = filters(
        "{type: CORS, cors: {allowOrigins: ['https://*.a.io', 'https://b.io'], allowMethods: \
         ['*'], allowHeaders: [x], exposeHeaders: [y], allowCredentials: true}}",
    );
    let wanted = Cors {
        origins: vec![
            StringMatch::Regex(r"https://[^/:]+\.a\.io".into()),
            StringMatch::Exact("https://b.io".into()),
        ],
        methods: vec!["*".into()],
        headers: vec!["x".into()],
        expose: vec!["y".into()],
        max_age: Some(Duration::from_secs(5)),
        credentials: true,
        forward_unmatched: false,
    };
    assert_eq!(policy(rule(&loaded)).cors, Some(wanted));
}

#[test]
fn timeouts_and_retries_of_routes() {
    let loaded = http_route(
        "backendRefs: [{name: b, port: 80}], timeouts: {request: 1m, backendRequest: 500ms}",
    );
    let per_try_timeout = Some(Duration::from_millis(500));
    let wanted = Policy {
        timeout: Some(Duration::from_secs(60)),
        retry: Some(Retry { per_try_timeout, ..Retry::default() }),
        ..Policy::default()
    };
    assert_eq!(rule(&loaded).detour.as_deref(), Some("timeouts"));
    assert_eq!(policy(rule(&loaded)), wanted);
    let loaded = http_route(
        "backendRefs: [{name: b, port: 80}], retry: {codes: [500, 503], attempts: 4, backoff: 1s}, \
         timeouts: {backendRequest: 500ms}",
    );
    assert_eq!(rule(&loaded).detour.as_deref(), Some("retry, timeouts"));
    let wanted = Retry {
        attempts: 4,
        per_try_timeout,
        on: [Retry::default().on, vec![RetryOn::Reset]].concat(),
        statuses: vec![500, 503],
        backoff: Duration::from_secs(1),
    };
    assert_eq!(policy(rule(&loaded)).retry, Some(wanted));
}

#[test]
fn filters_of_backends() {
    let set = |value: &str| {
        format!(
            "{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x, value: \
             {value}}}]}}}}"
        )
    };
    let redirect = "{type: RequestRedirect, requestRedirect: {hostname: x.io}}";
    // Of the only one: the rule's.
    let loaded = http_route(&format!(
        "filters: [{}], backendRefs: [{{name: b, port: 80, filters: [{}]}}]",
        set("rule"),
        set("backend")
    ));
    assert_eq!(policy(rule(&loaded)).request_headers, edits(&[], &[("x", "backend")], &[]));
    let loaded =
        http_route(&format!("backendRefs: [{{name: b, port: 80, filters: [{redirect}]}}]"));
    assert!(matches!(rule(&loaded).action, Action::Redirect(_)));
    // Of one among several: its share's, when that can be.
    let loaded = http_route(&format!(
        "backendRefs: [{{name: b, port: 80, filters: [{}]}}, {{name: api, port: 80}}]",
        set("backend")
    ));
    let Action::Forward(backends) = &rule(&loaded).action else { panic!() };
    let request_headers = edits(&[], &[("x", "backend")], &[]);
    let wanted = BackendPolicy { request_headers, ..BackendPolicy::default() };
    assert_eq!(backends[0].policy.as_deref(), Some(&wanted));
    assert_eq!((&backends[1].policy, &rule(&loaded).policy), (&None, &None));
    let loaded = http_route(&format!(
        "backendRefs: [{{name: b, port: 80, filters: [{redirect}]}}, {{name: api, port: 80}}]"
    ));
    assert_eq!(
        reasons(&loaded),
        ["error RequestRedirect on one of several backendRefs is not supported: its share of the \
          requests gets 500"]
    );
    let Action::Forward(backends) = &rule_in_spite(&loaded).action else { panic!() };
    assert_eq!(backends[0].cluster, None);
}
