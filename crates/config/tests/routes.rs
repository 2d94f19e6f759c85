//! Inline YAML → services, clusters, rules.

use std::path::PathBuf;

use beeway_config::{Loaded, Options, Severity, load};
use beeway_model::{
    Action, Backend, ClusterId, HeaderMatch, Match, PathMatch, Protocol, Rule, SourceMatch,
    StringMatch,
};

/// Two namespaces and three services; `api` has a hint, `raw` speaks TCP, `plain` says nothing.
const BASE: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: api}, ports: [{name: http, port: 80, targetPort: web}, {name: grpc-x, port: 81}]}}
- {apiVersion: v1, kind: Service, metadata: {name: raw, namespace: shop}, spec: {clusterIP: 10.96.0.2, selector: {app: raw}, ports: [{name: tcp, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: plain, namespace: shop}, spec: {clusterIP: 10.96.0.3, selector: {app: api}, ports: [{port: 90}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: api-1, namespace: shop, labels: {app: api, v: '1'}}, spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}, status: {podIP: 10.0.0.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: api-2, namespace: shop, labels: {app: api, v: '2'}}, spec: {containers: [{name: c, ports: [{name: web, containerPort: 8081}]}]}, status: {podIP: 10.0.0.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: api-3, namespace: shop, labels: {app: api, v: '2'}}, spec: {containers: []}, status: {podIP: 10.0.0.3, conditions: [{type: Ready, status: 'False'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: api-4, namespace: shop, labels: {app: api}}, spec: {containers: []}, status: {phase: Succeeded, podIP: 10.0.0.4}}
";

fn loaded(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", BASE), file("more.yaml", more)], &Options::default())
}

/// Problems of the second file, as `line severity reason`.
fn problems(loaded: &Loaded) -> Vec<String> {
    let here = loaded.problems.iter().filter(|p| *p.file == *"more.yaml");
    here.map(|p| format!("{} {} {}", p.line.unwrap(), p.severity, p.reason)).collect()
}

fn virtual_service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: vs\n  \
         namespace: shop\nspec:\n{spec}"
    )
}

fn rules<'a>(loaded: &'a Loaded, service: &str, port: u16) -> Option<&'a Vec<Rule>> {
    let service = loaded.mesh.services.iter().find(|s| s.name == service).unwrap();
    service.ports.iter().find(|p| p.number == port).unwrap().rules.as_ref()
}

fn cluster_of(loaded: &Loaded, name: &str) -> ClusterId {
    let at = loaded.mesh.clusters.iter().position(|c| c.name == name);
    ClusterId(at.unwrap_or_else(|| panic!("no cluster {name}: {:?}", loaded.mesh.clusters)))
}

fn endpoints(loaded: &Loaded, name: &str) -> Vec<String> {
    let cluster = loaded.mesh.cluster(cluster_of(loaded, name));
    cluster.endpoints.iter().map(|e| e.address.to_string()).collect()
}

#[test]
fn endpoints_follow_from_pods() {
    let loaded = loaded("");
    assert_eq!(loaded.problems, []);
    let web = endpoints(&loaded, "api.shop.svc.cluster.local:80");
    assert_eq!(web, ["10.0.0.1:8080", "10.0.0.2:8081"]);
    assert_eq!(
        endpoints(&loaded, "plain.shop.svc.cluster.local:90"),
        ["10.0.0.1:90", "10.0.0.2:90"]
    );
    let protocols: Vec<Protocol> =
        loaded.mesh.services.iter().flat_map(|s| s.ports.iter().map(|p| p.protocol)).collect();
    use Protocol::{Http, Http2, Opaque};
    assert_eq!(protocols, [Http, Http2, Opaque, Opaque]);
    let names: Vec<&str> = loaded.mesh.workloads.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["api-1", "api-2", "api-3"]);
}

#[test]
fn slices_come_before_pods_and_unready_endpoints_do_not_count() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: http, port: 7000}]
endpoints:
- {addresses: [10.0.0.2], nodeName: n2, targetRef: {kind: Pod, name: api-2}}
- {addresses: [10.0.0.9], conditions: {ready: false}}
- {addresses: [10.0.0.8], conditions: {}}
- {addresses: [oops]}
";
    let loaded = loaded(slice);
    let web = endpoints(&loaded, "api.shop.svc.cluster.local:80");
    assert_eq!(web, ["10.0.0.2:7000", "10.0.0.8:7000"]);
    let first =
        &loaded.mesh.cluster(cluster_of(&loaded, "api.shop.svc.cluster.local:80")).endpoints[0];
    assert_eq!((first.workload.as_str(), first.node.as_deref()), ("api-2", Some("n2")));
    assert_eq!(problems(&loaded), ["11 error `oops` is not an IP address; it is ignored"]);
}

#[test]
fn local_services_keep_the_endpoints_of_this_node() {
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.10, internalTrafficPolicy: Local, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]
endpoints: [{addresses: [10.0.0.1], nodeName: a}, {addresses: [10.0.0.2], nodeName: b}]
";
    let files = [(PathBuf::from("f"), yaml.to_owned())];
    for (node, count) in [(None, 2), (Some("a"), 1), (Some("c"), 0)] {
        let loaded = load(&files, &Options { node: node.map(str::to_owned) });
        assert_eq!(loaded.problems, []);
        let names: Vec<&str> = loaded.mesh.clusters.iter().map(|c| c.name.as_str()).collect();
        let host = "dns.default.svc.cluster.local";
        assert_eq!(names, [format!("{host}:53/udp"), format!("{host}:53")]);
        assert!(loaded.mesh.clusters.iter().all(|c| c.endpoints.len() == count), "{node:?}");
    }
}

#[test]
fn virtual_services_become_rules() {
    let loaded = loaded(&format!(
        "{}---\n{}",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: \
         shop}\nspec: {host: api, subsets: [{name: two, labels: {v: '2'}}]}\n",
        virtual_service(
            "  hosts: [api]
  http:
  - match:
    - {uri: {prefix: /A}, ignoreUriCase: true, port: 80, method: {exact: GET}, headers: {X-A: {}, y: {regex: '*'}}, authority: {exact: 'api:80'}}
    - {withoutHeaders: {z: {exact: q}, w: {regex: '.*'}}, sourceNamespace: web, sourceLabels: {app: x}, queryParams: {k: {prefix: v}}}
    route:
    - {destination: {host: api, subset: two}, weight: 20}
    - {destination: {host: raw}, weight: 80}
  - match: [{port: 81}]
    directResponse: {status: 418}
  - route: [{destination: {host: api.shop.svc.cluster.local, port: {number: 81}}}]
"
        )
    ));
    assert_eq!(problems(&loaded), [] as [String; 0]);
    let header = |name: &str, value: StringMatch, invert: bool| HeaderMatch {
        name: name.to_owned(),
        value,
        invert,
    };
    let rules_80 = rules(&loaded, "api", 80).unwrap();
    assert_eq!(
        rules_80[0].matches,
        [
            Match {
                path: Some(PathMatch::Prefix("/A".into())),
                ignore_path_case: true,
                method: Some(StringMatch::Exact("GET".into())),
                headers: vec![
                    header("host", StringMatch::Exact("api:80".into()), false),
                    header("x-a", StringMatch::Present, false),
                    header("y", StringMatch::Present, false),
                ],
                ..Match::default()
            },
            Match {
                headers: vec![
                    // `.*` holds for the empty value too, so the header has to be there (and
                    // then the condition fails).
                    header("w", StringMatch::Present, false),
                    header("w", StringMatch::Regex(".*".into()), true),
                    header("z", StringMatch::Exact("q".into()), true),
                ],
                query: vec![beeway_model::QueryMatch {
                    name: "k".into(),
                    value: StringMatch::Prefix("v".into())
                }],
                sources: vec![SourceMatch {
                    namespace: Some("web".into()),
                    labels: [("app".to_owned(), "x".to_owned())].into()
                }],
                ..Match::default()
            },
        ]
    );
    let backend = |name: &str, weight| Backend {
        cluster: Some(cluster_of(&loaded, name)),
        weight,
        policy: None,
    };
    let split = [
        backend("api.shop.svc.cluster.local:80|two", 20),
        backend("raw.shop.svc.cluster.local:80", 80),
    ];
    assert_eq!(rules_80[0].action, Action::Forward(split.to_vec()));
    let last = vec![backend("api.shop.svc.cluster.local:81", 100)];
    assert_eq!(rules_80[1].action, Action::Forward(last));
    assert_eq!(rules_80[1].name, "VirtualService shop/vs http[2]");
    // On port 81 the first alternative is not there, and the destination's port is the listener's.
    let rules_81 = rules(&loaded, "api", 81).unwrap();
    assert_eq!(rules_81.len(), 3);
    assert_eq!(rules_81[0].matches.len(), 1);
    assert_eq!(rules_81[1].action, Action::Respond { status: 418, body: String::new() });
    assert_eq!(endpoints(&loaded, "api.shop.svc.cluster.local:80|two"), ["10.0.0.2:8081"]);
}

#[test]
fn a_route_makes_a_silent_port_http_and_leaves_tcp_alone() {
    let all = virtual_service(
        "  hosts: ['*.shop.svc.cluster.local']\n  http: [{directResponse: {status: 204}}]\n",
    );
    let loaded = loaded(&all);
    assert!(rules(&loaded, "plain", 90).is_some());
    assert!(rules(&loaded, "raw", 80).is_none());
    let notices: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        ["base.yaml:7: notice: Service shop/plain: port 90 does not say its protocol; taken as \
          HTTP for VirtualService shop/vs's sake"]
    );
}

/// A caller that no rule is meant for has no route; one that some rule is meant for gets 404 when
/// none holds. That is what Istio's sidecars do, each with its own list.
#[test]
fn callers_outside_every_rule_keep_the_default() {
    let loaded = loaded(&virtual_service(
        "  hosts: [api]
  exportTo: ['.', web]
  http:
  - match: [{sourceLabels: {app: x}, uri: {exact: /x}}]
    directResponse: {status: 403}
",
    ));
    let source = |namespace: &str| SourceMatch {
        namespace: Some(namespace.to_owned()),
        labels: [("app".to_owned(), "x".to_owned())].into(),
    };
    let sources = vec![source("shop"), source("web")];
    let rules = rules(&loaded, "api", 80).unwrap();
    assert_eq!(rules[0].matches[0].sources, sources);
    assert_eq!(rules[1].matches, [Match { sources, ..Match::default() }]);
    assert_eq!(rules[1].action, Action::Respond { status: 404, body: String::new() });
    let default = cluster_of(&loaded, "api.shop.svc.cluster.local:80");
    let backends = vec![Backend { cluster: Some(default), weight: 1, policy: None }];
    assert_eq!((rules.len(), &rules[2].action), (3, &Action::Forward(backends)));
    assert!(rules[2].matches.is_empty());
}

#[test]
fn http_routes_are_ordered_by_precedence() {
    let route = |name: &str, namespace: &str, rest: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: \
             {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{{group: '', kind: Service, \
             name: api, namespace: shop, port: 80}}], {rest}}}\n"
        )
    };
    let to = "backendRefs: [{name: api, namespace: shop, port: 80}]";
    let text = route(
        "b",
        "shop",
        &format!(
            "rules: [{{matches: [{{}}, {{path: {{type: RegularExpression, value: /long/regex}}}}, {{path: {{value: /a}}, method: GET}}, {{path: {{value: /a}}, headers: [{{name: H, value: '1'}}, {{name: h, value: '2'}}]}}], {to}}}]"
        ),
    ) + &route(
        "a",
        "shop",
        &format!(
            "rules: [{{matches: [{{path: {{value: /a}}, queryParams: [{{name: q, value: '1'}}]}}, {{path: {{type: Exact, value: /}}}}, {{path: {{value: /ab}}}}], {to}}}]"
        ),
    ) + &route(
        "c",
        "shop",
        &format!("hostnames: ['*.x.io', y.x.io], rules: [{{{to}}}]"),
    ) + &route(
        "own",
        "web",
        &format!("rules: [{{matches: [{{path: {{value: /own}}}}], {to}}}]"),
    );
    let loaded = loaded(&text);
    assert_eq!(problems(&loaded), [] as [String; 0]);
    let names: Vec<String> = rules(&loaded, "api", 80)
        .unwrap()
        .iter()
        .map(|rule| format!("{} {:?}", rule.name.replace("HTTPRoute ", ""), rule.matches[0].hosts))
        .collect();
    assert_eq!(
        names,
        [
            "web/own rules[0].matches[0] []",
            "HTTPRoutes of web: no rule holds []".replace("HTTPRoute ", "").as_str(),
            "shop/c rules[0].matches[0] [\"y.x.io\"]",
            "shop/c rules[0].matches[0] [\"*.x.io\"]",
            "shop/a rules[0].matches[1] []",
            "shop/a rules[0].matches[2] []",
            "shop/b rules[0].matches[2] []",
            "shop/b rules[0].matches[3] []",
            "shop/a rules[0].matches[0] []",
            "shop/b rules[0].matches[0] []",
            "shop/b rules[0].matches[1] []",
        ]
    );
    let first = &rules(&loaded, "api", 80).unwrap()[0].matches[0];
    assert_eq!(first.path, Some(PathMatch::Segments("/own".into())));
    assert_eq!(first.sources[0].namespace.as_deref(), Some("web"));
}

#[test]
fn service_entries_are_services() {
    let loaded = loaded(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm, namespace: shop}
spec:
  hosts: [VM.example.com, db.example.com]
  addresses: [10.1.0.1, 10.1.0.2/32, 10.2.0.0/16]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8000}, {number: 5432, name: pg, protocol: TCP}]
  endpoints:
  - {address: 10.3.0.1, weight: 3, labels: {v: a}, ports: {http: 8888}}
  - {address: 10.3.0.2}
  - {address: vm.example.com}
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: picked, namespace: shop}
spec: {hosts: [picked.io], resolution: STATIC, ports: [{number: 1, name: http, protocol: HTTP}], workloadSelector: {labels: {on: 'yes'}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w, namespace: shop}
spec: {address: 'fd00::7', labels: {on: 'yes'}, serviceAccount: sa, ports: {http: 2}}
",
    );
    assert_eq!(endpoints(&loaded, "vm.example.com:80"), ["10.3.0.1:8888", "10.3.0.2:8000"]);
    assert_eq!(endpoints(&loaded, "vm.example.com:5432"), ["10.3.0.1:5432", "10.3.0.2:5432"]);
    assert_eq!(endpoints(&loaded, "picked.io:1"), ["[fd00::7]:2"]);
    let vm = loaded.mesh.service_by_host("db.example.com", "").unwrap();
    assert_eq!(vm.addresses.len(), 2);
    assert_eq!(loaded.mesh.cluster(vm.ports[0].cluster).endpoints[0].weight, 3);
    let entry = loaded.mesh.workloads.iter().find(|w| w.name == "w").unwrap();
    assert_eq!(entry.service_account, "sa");
    assert_eq!(
        problems(&loaded),
        [
            "6 warning `10.2.0.0/16`: only single addresses are supported yet; left out",
            "12 warning `vm.example.com` is not an IP address: names are not looked up yet; the \
             endpoint is left out",
        ]
    );
    assert!(loaded.problems.iter().all(|p| p.severity == Severity::Warning));
}
