//! What is spoken on ports and to endpoints, and routes of gRPC.

use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{
    Action, HeaderMatch, Outcome, PathMatch, Protocol, Request, Rule, ServicePort, StringMatch,
    route,
};

const SERVICES: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {clusterIP: 10.96.0.1, ports: [{name: grpc, port: 70}, {name: http, port: 80}, {name: x, port: 90}]}}
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.2, ports: [{port: 70}]}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.3, ports: [{port: 70, appProtocol: http}]}}
";

fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", SERVICES), file("f.yaml", more)], &Options::default())
}

fn reasons(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(|p| format!("{} {}", p.severity, p.reason)).collect()
}

fn port<'a>(loaded: &'a Loaded, service: &str, number: u16) -> &'a ServicePort {
    let service = loaded.mesh.services.iter().find(|s| s.name == service).unwrap();
    service.ports.iter().find(|p| p.number == number).unwrap()
}

fn spoken(loaded: &Loaded, cluster: &str) -> Protocol {
    let name = cluster.replace(':', ".default.svc.cluster.local:");
    loaded.mesh.clusters.iter().find(|c| c.name == name).unwrap().protocol
}

/// A GRPCRoute for a port of `echo`; the rest of its spec is in flow style.
fn grpc_route(name: &str, port: u16, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: echo, port: {port}}}], {rest}}}\n"
    )
}

/// The cluster that a call goes to, or the status.
fn call(loaded: &Loaded, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
    let request = Request {
        method: "POST",
        scheme: "http",
        authority: "echo:70",
        target: path,
        headers: &headers,
        source: None,
    };
    match route(port(loaded, "echo", 70), &request, 0).outcome {
        Outcome::Forward(id) => loaded.mesh.cluster(id).name.split('.').next().unwrap().to_owned(),
        Outcome::Respond { status, .. } => status.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn clusters_speak_what_their_ports_say() {
    let ports = "[{name: grpc, port: 1}, {name: http2-x, port: 2}, {name: h, port: 3, appProtocol: \
                 kubernetes.io/h2c}, {name: https, port: 4}, {name: tls-x, port: 5}, {name: tcp, \
                 port: 6}, {name: http, port: 7}, {name: other, port: 8}, {name: dns, port: 9, \
                 protocol: UDP}, {name: w, port: 10, appProtocol: kubernetes.io/wss}]";
    let loaded = with(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{clusterIP: 10.96.1.1, ports: \
         {ports}}}\n"
    ));
    assert_eq!(reasons(&loaded), [] as [String; 0]);
    use Protocol::{Http, Http2, Opaque, Tls};
    let clusters = loaded.mesh.clusters.iter().filter(|c| c.name.starts_with("s."));
    let spoken: Vec<Protocol> = clusters.map(|c| c.protocol).collect();
    assert_eq!(spoken, [Http2, Http2, Http2, Tls, Tls, Opaque, Http, Http, Opaque, Tls]);
    let service = loaded.mesh.services.iter().find(|s| s.name == "s").unwrap();
    let ports: Vec<Protocol> = service.ports.iter().map(|p| p.protocol).collect();
    // A port that says nothing, and that nothing routes, is not looked into.
    assert_eq!(ports, [Http2, Http2, Http2, Tls, Tls, Opaque, Http, Opaque, Opaque, Tls]);
}

#[test]
fn methods_of_grpc_are_paths() {
    for (method, path) in [
        ("{service: p.S, method: M}", PathMatch::Exact("/p.S/M".into())),
        ("{service: p.S}", PathMatch::Prefix("/p.S/".into())),
        ("{method: M.x}", PathMatch::Regex(r"/[^/]+/M\.x".into())),
        (
            "{type: RegularExpression, service: 'p.*', method: 'A|B'}",
            PathMatch::Regex("/(?:p.*)/(?:A|B)".into()),
        ),
        ("{type: RegularExpression, method: 'A|B'}", PathMatch::Regex("/(?:[^/]+)/(?:A|B)".into())),
    ] {
        let loaded = with(&grpc_route(
            "r",
            70,
            &format!(
                "rules: [{{matches: [{{method: {method}, headers: [{{name: H, value: v}}]}}], \
                 backendRefs: [{{name: a, port: 70}}]}}]"
            ),
        ));
        assert_eq!(reasons(&loaded), [] as [String; 0]);
        let rule = &port(&loaded, "echo", 70).rules.as_ref().unwrap()[0];
        assert_eq!(rule.name, "GRPCRoute default/r rules[0].matches[0]");
        assert_eq!((&rule.policy, &rule.detour), (&None, &None));
        let only = &rule.matches[0];
        assert_eq!(only.path, Some(path));
        assert_eq!(only.method, Some(StringMatch::Exact("POST".into())));
        let value = StringMatch::Exact("v".into());
        assert_eq!(only.headers, [HeaderMatch { name: "h".into(), value, invert: false }]);
        // It says nothing of itself, and is called by gRPC.
        assert_eq!(spoken(&loaded, "a:70"), Protocol::Http2);
    }
}

/// Longer hosts, services and methods first, then more headers.
#[test]
fn grpc_routes_are_ordered_by_precedence() {
    let matches = "[{method: {service: s}}, {method: {service: s, method: Long}}, \
                   {method: {service: s, method: L}, headers: [{name: a, value: b}]}, \
                   {headers: [{name: c, value: d}]}]";
    let loaded = with(
        &(grpc_route(
            "one",
            70,
            &format!("rules: [{{matches: {matches}, backendRefs: [{{name: a, port: 70}}]}}]"),
        ) + &grpc_route(
            "two",
            70,
            "rules: [{backendRefs: [{name: b, port: 70}]}, {matches: [{method: {service: s, method: \
         L}}], backendRefs: [{name: b, port: 70}]}]",
        )),
    );
    assert_eq!(reasons(&loaded), [] as [String; 0]);
    let name = |rule: &Rule| rule.name.replace("GRPCRoute default/", "").replace("rules", "");
    let names: Vec<String> =
        port(&loaded, "echo", 70).rules.as_ref().unwrap().iter().map(name).collect();
    assert_eq!(
        names,
        [
            "one [0].matches[1]",
            "one [0].matches[2]",
            "two [1].matches[0]",
            "one [0].matches[0]",
            "one [0].matches[3]",
            "two [0].matches[0]",
        ]
    );
    for (path, headers, wanted) in [
        ("/s/Long", &[][..], "a"),
        ("/s/L", &[("a", "b")], "a"),
        ("/s/L", &[], "b"),
        ("/s/Other", &[], "a"),
        ("/t/L", &[("c", "d")], "a"),
        ("/t/L", &[], "b"),
    ] {
        assert_eq!(call(&loaded, path, headers), wanted, "{path} {headers:?}");
    }
}

#[test]
fn what_a_grpc_route_cannot_have() {
    for (rule, said) in [
        ("matches: [{method: {}}]", "a method match has a service or a method"),
        ("matches: [{method: {type: Fuzzy, service: s}}]", "match type Fuzzy is not known"),
        (
            "matches: [{method: {type: RegularExpression, service: '('}}]",
            "regex `(`: unclosed group",
        ),
        (
            "matches: [{method: {service: s, verb: x}}]",
            "spec.rules.0.matches.0.method.verb is not known: a condition cannot be ignored; not applied",
        ),
    ] {
        let loaded = with(&grpc_route("r", 70, &format!("rules: [{{{rule}}}]")));
        let wanted = format!("error {said}");
        assert!(reasons(&loaded).contains(&wanted), "{wanted}\n{:#?}", reasons(&loaded));
        assert_eq!(port(&loaded, "echo", 70).rules, None);
    }
    let loaded = with(&grpc_route(
        "r",
        70,
        "rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: x}}], backendRefs: [{name: a, \
         port: 70}]}]",
    ));
    let wanted = ["error filter URLRewrite is not supported: its requests get 500"];
    assert_eq!(reasons(&loaded), wanted);
    assert_eq!(call(&loaded, "/s/m", &[]), "500");
}

#[test]
fn filters_of_grpc_routes() {
    let loaded = with(&grpc_route(
        "r",
        70,
        "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, \
         value: y}]}}, {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 70}}}], \
         backendRefs: [{name: a, port: 70}]}]",
    ));
    let rule = &port(&loaded, "echo", 70).rules.as_ref().unwrap()[0];
    assert_eq!(rule.detour.as_deref(), Some("RequestHeaderModifier, RequestMirror"));
    let policy = rule.policy.as_ref().unwrap();
    assert_eq!(policy.request_headers.set, [("x".to_owned(), "y".to_owned())]);
    assert_eq!(policy.mirrors.len(), 1);
    // `b` says that it speaks HTTP/1.
    assert_eq!(spoken(&loaded, "b:70"), Protocol::Http);
}

/// The more specific kind of route decides on a port.
#[test]
fn grpc_routes_stand_before_http_routes() {
    let http = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: h}\n\
                spec:\n  parentRefs: [{group: '', kind: Service, name: echo}]\n  rules: \
                [{backendRefs: [{name: b, port: 70}]}]\n";
    let backend = "rules: [{backendRefs: [{name: a, port: 70}]}]";
    let loaded = with(&(http.to_owned() + &grpc_route("g", 90, backend)));
    assert_eq!(
        reasons(&loaded),
        [
            "notice port 90 does not say its protocol; taken as gRPC for GRPCRoute default/g's sake",
            "warning not applied to port 90: GRPCRoute default/g decides there",
        ]
    );
    let first = |number| &port(&loaded, "echo", number).rules.as_ref().unwrap()[0].name;
    assert!(first(90).starts_with("GRPCRoute"));
    assert!(first(80).starts_with("HTTPRoute"));
    assert_eq!(port(&loaded, "echo", 90).protocol, Protocol::Http2);
    assert_eq!(port(&loaded, "echo", 80).protocol, Protocol::Http);
}

#[test]
fn destination_rules_upgrade_endpoints() {
    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\n\
             spec: {{host: echo, {policy}}}\n"
        )
    };
    let pool = |policy: &str| format!("connectionPool: {{http: {{h2UpgradePolicy: {policy}}}}}");
    let (up, down) = (pool("UPGRADE"), pool("DO_NOT_UPGRADE"));
    use Protocol::{Http, Http2};
    for (policy, [grpc, http, subset]) in [
        (String::new(), [Http2, Http, Http]),
        (format!("trafficPolicy: {{{up}}}, "), [Http2, Http2, Http2]),
        (format!("trafficPolicy: {{{down}}}, "), [Http2, Http, Http]),
        (
            format!("trafficPolicy: {{{up}, portLevelSettings: [{{port: {{number: 80}}}}]}}, "),
            [Http2, Http, Http],
        ),
        (
            format!("trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {up}}}]}}, "),
            [Http2, Http2, Http2],
        ),
    ] {
        let loaded = with(&rule(&format!("{policy}subsets: [{{name: v1}}]")));
        assert_eq!(reasons(&loaded), [] as [String; 0]);
        let found = ["echo:70", "echo:80", "echo:80|v1"].map(|name| spoken(&loaded, name));
        assert_eq!(found, [grpc, http, subset], "{policy}");
    }
    let of_subset = format!("subsets: [{{name: v1, trafficPolicy: {{{up}}}}}]");
    let loaded = with(&rule(&of_subset));
    assert_eq!(spoken(&loaded, "echo:80|v1"), Http2);
    assert_eq!(spoken(&loaded, "echo:80"), Http);
    let loaded = with(&rule(
        "trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 1}, \
         http: {h2UpgradePolicy: MAYBE, maxRetries: 1}}}",
    ));
    assert_eq!(
        reasons(&loaded),
        [
            "error h2UpgradePolicy MAYBE is not known",
            "warning connectionPool.http.maxRetries is not supported yet; it is not carried out",
            "warning connectionPool.tcp is not supported yet; it is not carried out",
            "warning trafficPolicy.loadBalancer is not supported yet; it is not carried out",
        ]
    );
}

/// A client of HTTP/1 cannot talk to them on its own connection.
#[test]
fn endpoints_of_http2_take_the_detour() {
    let upgraded = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\n\
                    spec: {host: echo, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: \
                    UPGRADE}}}}\n";
    let loaded = with(upgraded);
    let rules = port(&loaded, "echo", 80).rules.as_ref().unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].detour.as_deref(), Some("endpoints speak HTTP/2"));
    assert!(matches!(rules[0].action, Action::Forward(_)));
    assert_eq!(port(&loaded, "echo", 70).rules, None);
    let to = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: \
              {hosts: [b], http: [{timeout: 1s, match: [{uri: {exact: /g}}], route: [{destination: \
              {host: echo, port: {number: 70}}}]}, {route: [{destination: {host: b}}]}]}\n";
    let loaded = with(to);
    let rules = port(&loaded, "b", 70).rules.as_ref().unwrap();
    let detours: Vec<Option<&str>> = rules.iter().map(|rule| rule.detour.as_deref()).collect();
    assert_eq!(detours, [Some("timeout, endpoints speak HTTP/2"), None]);
}
