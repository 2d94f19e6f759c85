//! What is reported, with the exact line, and what it costs.

use std::path::PathBuf;

use beeway_config::{Loaded, Options, Severity, load};
use beeway_model::Action;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: api}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: http-b, port: 81}]}
";

fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", SERVICE), file("f.yaml", more)], &Options::default())
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

/// A VirtualService `default/vs` for `api`; its rules begin on line 7.
fn rules(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec:\n  \
         hosts: [api]\n  http:\n{http}"
    )
}

#[test]
fn documents_fail_alone() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\nkind: [\n---\nfoo: 1\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports:\n  - port: http\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: t}\nspec: {ports: [{port: 1, prot: x}]}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: t}\n";
    let loaded = with(text);
    let found = lines(&loaded);
    assert!(found[0].starts_with("f.yaml:5: error: "), "{}", found[0]);
    assert_eq!(
        found[1..],
        [
            "f.yaml:7: error: not a Kubernetes object: no apiVersion or no kind",
            "f.yaml:14: error: Service default/s: invalid type: string \"http\", expected i32; it \
             is not applied",
            "f.yaml:19: warning: Service default/t: spec.ports.0.prot is not known; it is ignored",
            "f.yaml:21: error: Service default/t: defined before at f.yaml:16; that one stands, \
             this one is ignored",
        ]
    );
    assert_eq!(loaded.mesh.services.len(), 2);
}

#[test]
fn kinds_that_are_not_read_are_reported() {
    for (version, kind, said) in [
        (
            "security.istio.io/v1",
            "RequestAuthentication",
            "2: error: RequestAuthentication default/x: this version does NOT enforce it: what it forbids is allowed",
        ),
        (
            "security.istio.io/v1",
            "PeerAuthentication",
            "2: error: PeerAuthentication default/x: this version does NOT enforce it: what it forbids is allowed",
        ),
        (
            "cilium.io/v2",
            "CiliumNetworkPolicy",
            "2: error: CiliumNetworkPolicy default/x: this version does NOT enforce it: what it forbids is allowed",
        ),
        (
            "example.com/v1",
            "Widget",
            "2: warning: Widget default/x: this kind is not supported yet; it is not applied",
        ),
        (
            "example.com/v1",
            "Service",
            "2: warning: Service default/x: this kind is not supported yet; it is not applied",
        ),
        (
            "apps/v1",
            "Deployment",
            "2: notice: Deployment default/x: this kind says nothing about traffic; it is not read",
        ),
        (
            "networking.istio.io/v2",
            "VirtualService",
            "1: error: VirtualService default/x: version v2 of VirtualService is not supported; it is not applied",
        ),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        assert_eq!(lines(&with(&text)), [format!("f.yaml:{said}")]);
    }
}

/// A condition that is not understood, or an object that Istio refuses, leaves the object out.
#[test]
fn unsafe_objects_are_not_applied() {
    for (http, line, said) in [
        (
            "  - match:\n    - uri: {exact: /a}\n      sourcePrincipal: x\n    directResponse: {status: 200}\n",
            9,
            "spec.http.0.match.0.sourcePrincipal is not known: a condition cannot be ignored; not applied",
        ),
        (
            "  - match:\n    - headers:\n        a: {suffix: x}\n    directResponse: {status: 200}\n",
            9,
            "spec.http.0.match.0.headers.a.suffix is not known: a condition cannot be ignored; not applied",
        ),
        (
            "  - match:\n    - headers:\n        a: {regex: '('}\n    directResponse: {status: 200}\n",
            9,
            "regex `(`: unclosed group",
        ),
        (
            "  - match:\n    - headers:\n        '@request.auth.claims.x': {exact: x}\n    directResponse: {status: 200}\n",
            9,
            "headers: matching on @request.auth.claims.x is not supported yet",
        ),
        (
            "  - match:\n    - uri:\n        exact: /a\n        prefix: /\n    directResponse: {status: 200}\n",
            8,
            "uri: only one of exact, prefix and regex",
        ),
        ("  - name: x\n", 7, "a rule has one of route, redirect and directResponse"),
        (
            "  - delegate: {name: x}\n    redirect: {uri: /}\n",
            8,
            "a rule has not both delegate and redirect",
        ),
        ("  - directResponse:\n      status: 99\n", 8, "the status is not in 200..=599"),
        (
            "  - route:\n    - destination: {host: api}\n    - destination: {host: api}\n",
            7,
            "the weights of several destinations add up to 0",
        ),
        (
            "  - route:\n    - destination: {host: api}\n      weight: -1\n",
            9,
            "invalid value: integer `-1`, expected u32; it is not applied",
        ),
    ] {
        let loaded = with(&rules(http));
        let wanted = format!("f.yaml:{line}: error: VirtualService default/vs: {said}");
        assert!(lines(&loaded).contains(&wanted), "{wanted}\n{:#?}", lines(&loaded));
        assert!(loaded.problems.iter().all(|p| p.severity == Severity::Error));
        assert!(loaded.mesh.services[0].ports.iter().all(|p| p.rules.is_none()), "{http}");
    }
}

#[test]
fn what_is_not_carried_out_is_reported_once() {
    for (rest, line, said) in [
        (
            "    fault: {abort: {httpStatus: 500}}\n",
            9,
            "notice: VirtualService default/vs: abort without a percentage aborts nothing, as in Istio",
        ),
        (
            "    fault: {delay: {fixedDelay: 1s}}\n",
            9,
            "notice: VirtualService default/vs: delay without a percentage delays nothing, as in Istio",
        ),
        (
            "    retries:\n      attempts: 0\n      retryIgnorePreviousHosts: false\n",
            11,
            "warning: VirtualService default/vs: retryIgnorePreviousHosts: false is not carried out: another endpoint is preferred",
        ),
        (
            "    headers:\n      response:\n        add:\n          a: '%PROTOCOL%'\n",
            12,
            "warning: VirtualService default/vs: header a: %PROTOCOL% is sent as written",
        ),
        (
            "    novelty: 1\n",
            9,
            "warning: VirtualService default/vs: spec.http.0.novelty is not known; it is ignored",
        ),
    ] {
        let loaded = with(&rules(&format!("  - route:\n    - destination: {{host: api}}\n{rest}")));
        assert_eq!(lines(&loaded), [format!("f.yaml:{line}: {said}")]);
        for port in &loaded.mesh.services[0].ports {
            let rule = &port.rules.as_ref().unwrap()[0];
            assert!(matches!(rule.action, Action::Forward(_)));
        }
    }
}

#[test]
fn answers_in_place_of_a_route() {
    for (http, status, body) in [
        (
            "  - route: [{destination: {host: api}}]\n    fault: {abort: {httpStatus: 555, percentage: {value: 100}}}\n",
            555,
            "fault filter abort",
        ),
        ("  - directResponse: {status: 403, body: {string: nope}}\n", 403, "nope"),
    ] {
        let loaded = with(&rules(http));
        let rule = &loaded.mesh.services[0].ports[0].rules.as_ref().unwrap()[0];
        assert_eq!(rule.action, Action::Respond { status, body: body.to_owned() });
    }
}

#[test]
fn what_is_not_there_is_reported_and_answers_503() {
    for (destination, said) in [
        ("{host: api, subset: v9}", "api.default.svc.cluster.local has no subset v9"),
        ("{host: api, port: {number: 9}}", "api.default.svc.cluster.local has no port 9"),
        ("{host: nope}", "nope.default.svc.cluster.local is no service of this mesh"),
        (
            "{host: api.default}",
            "api.default is no service; the full name is api.default.svc.cluster.local",
        ),
    ] {
        let loaded = with(&rules(&format!(
            "  - match: [{{port: 80}}]\n    route:\n    - destination: {destination}\n"
        )));
        let wanted = format!(
            "f.yaml:9: error: VirtualService default/vs: {said}; requests sent there get 503"
        );
        assert_eq!(lines(&loaded), [wanted]);
        let Action::Forward(backends) =
            &loaded.mesh.services[0].ports[0].rules.as_ref().unwrap()[0].action
        else {
            panic!()
        };
        assert!(loaded.mesh.cluster(backends[0].cluster.unwrap()).endpoints.is_empty());
    }
}

#[test]
fn the_older_virtual_service_stands() {
    let vs = |name: &str, created: &str, status: u16| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, creationTimestamp: {created}}}\nspec: {{hosts: [api], http: [{{match: [{{port: 80}}], directResponse: {{status: {status}}}}}]}}\n"
        )
    };
    let loaded = with(&format!(
        "{}---\n{}",
        vs("a", "'2021-01-01T00:00:00Z'", 201),
        vs("b", "'2020-01-01T00:00:00Z'", 202)
    ));
    let port = &loaded.mesh.services[0].ports[0];
    assert_eq!(
        port.rules.as_ref().unwrap()[0].action,
        Action::Respond { status: 202, body: String::new() }
    );
    assert_eq!(
        lines(&loaded),
        [
            "f.yaml:4: warning: VirtualService default/a: not applied to api.default.svc.cluster.local:80: VirtualService default/b is older or closer"
        ]
    );
}

#[test]
fn http_routes_report_what_they_cannot_do() {
    for (spec, said) in [
        (
            "parentRefs: [{name: gw}]",
            "5: notice: HTTPRoute default/r: parent Gateway gw: only Services are the mesh's",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: nope}]",
            "5: error: HTTPRoute default/r: there is no Service default/nope",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: api, port: 9}]",
            "5: error: HTTPRoute default/r: Service default/api: no such port",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: api}]\n  rules: [{backendRefs: [{name: nope, port: 1}]}]",
            "6: error: HTTPRoute default/r: there is no Service default/nope; its share of the requests gets 500",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: api}]\n  rules: [{backendRefs: [{name: api, namespace: other, port: 1}]}]",
            "6: error: HTTPRoute default/r: no ReferenceGrant in other lets it refer to Service other/api; its share of the requests gets 500",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: api}]\n  rules: [{backendRefs: [{name: api, port: 80}], sessionPersistence: {}}]",
            "6: warning: HTTPRoute default/r: sessionPersistence: not carried out yet",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: api}]\n  rules: [{backendRefs: [{name: api, port: 80}], filters: [{type: ExternalAuth}]}]",
            "6: error: HTTPRoute default/r: filter ExternalAuth is not supported: its requests get 500",
        ),
    ] {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  {spec}\n"
        );
        assert_eq!(lines(&with(&text)), [format!("f.yaml:{said}")]);
    }
}

#[test]
fn a_virtual_service_decides_before_an_http_route() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: '', kind: Service, name: api}]\n  rules: [{backendRefs: [{name: api, port: 80}]}]\n";
    let loaded =
        with(&(rules("  - match: [{port: 80}]\n    directResponse: {status: 204}\n") + route));
    assert_eq!(
        lines(&loaded),
        [
            "f.yaml:14: warning: HTTPRoute default/r: not applied to port 80: VirtualService default/vs decides there"
        ]
    );
    let ports = &loaded.mesh.services[0].ports;
    assert!(ports[0].rules.as_ref().unwrap()[0].name.starts_with("VirtualService"));
    assert!(ports[1].rules.as_ref().unwrap()[0].name.starts_with("HTTPRoute"));
}

#[test]
fn problems_serialize() {
    let loaded = with("apiVersion: v1\nkind: Endpoints\nmetadata: {name: x}\n");
    let json = serde_json::to_value(&loaded.problems[0]).unwrap();
    assert_eq!(json["severity"], "warning");
    assert_eq!(json["line"], 2);
    assert_eq!(json["object"], "Endpoints default/x");
}
