//! AuthorizationPolicy: each field, each operator, each key.

use std::net::IpAddr;

use beeway_model::Transport;
use beeway_model::access::{Effect, LabelSelector, Scope};

use crate::kit::{Asked, CONNECT, GET, authorization, errors, policy, with};

/// Whether an ALLOW policy with one rule lets a call through, and a DENY policy with the same rule
/// stops it: the rule matches.
fn matches(rule: &str, asked: &Asked<'_>) -> bool {
    let allow = authorization(&format!("rules:\n- {rule}"));
    assert_eq!(errors(&allow), [""; 0], "{rule}");
    let deny = authorization(&format!("action: DENY\nrules:\n- {rule}"));
    let (allowed, denied) = (asked.allowed(&allow.mesh), !asked.allowed(&deny.mesh));
    assert_eq!(allowed, denied, "{rule}");
    allowed
}

#[test]
fn rules_that_say_nothing() {
    for (spec, allowed) in [
        ("{}", false),
        ("rules: []", false),
        ("rules: [{}]", true),
        ("action: ALLOW\nrules: [{}]", true),
        ("action: DENY", true),
        ("action: DENY\nrules: [{}]", false),
        ("action: AUDIT\nrules: [{}]", true),
    ] {
        let loaded = authorization(spec);
        assert_eq!(errors(&loaded), [""; 0], "{spec}");
        assert_eq!(GET.allowed(&loaded.mesh), allowed, "{spec}");
        assert_eq!(CONNECT.allowed(&loaded.mesh), allowed, "{spec}");
    }
    let none = with(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: data}\n",
    );
    assert!(!GET.allowed(&none.mesh), "no spec is an empty one");
}

#[test]
fn who_calls() {
    let from = |address| Asked { from: address, ..GET };
    let (web, cron, world) = (from("10.0.0.1"), from("10.0.0.3"), from("198.51.100.7"));
    for (source, of_web, of_cron, of_world) in [
        ("principals: [cluster.local/ns/shop/sa/web-sa]", true, false, false),
        ("principals: ['spiffe://cluster.local/ns/shop/sa/web-sa']", true, false, false),
        ("principals: ['cluster.local/ns/shop/*']", true, false, false),
        ("principals: ['*/sa/web-sa', nobody]", true, false, false),
        ("principals: ['*']", true, true, false),
        ("notPrincipals: ['*/sa/web-sa']", false, true, true),
        ("namespaces: [shop]", true, false, false),
        ("namespaces: ['sh*']", true, false, false),
        ("namespaces: ['*ps']", false, true, false),
        ("notNamespaces: [shop]", false, true, true),
        ("serviceAccounts: [shop/web-sa]", true, false, false),
        ("serviceAccounts: [web-sa]", false, false, false),
        ("serviceAccounts: [ops/default]", false, true, false),
        ("notServiceAccounts: [shop/web-sa]", false, true, true),
        ("trustDomains: [cluster.local]", true, true, false),
        ("trustDomains: [other]", false, false, false),
        ("notTrustDomains: [cluster.local]", false, false, true),
        ("ipBlocks: [10.0.0.1, 198.51.100.0/24]", true, false, true),
        ("notIpBlocks: [10.0.0.0/30]", false, false, true),
        ("remoteIpBlocks: ['::ffff:10.0.0.1']", true, false, false),
        ("notRemoteIpBlocks: [10.0.0.0/8]", false, false, true),
        ("namespaces: [shop, ops], notPrincipals: ['*/default']", true, false, false),
    ] {
        let rule = format!("{{from: [{{source: {{{source}}}}}]}}");
        for (asked, wanted) in [(&web, of_web), (&cron, of_cron), (&world, of_world)] {
            assert_eq!(matches(&rule, asked), wanted, "{source} {}", asked.from);
        }
    }
    let either = "from: [{source: {namespaces: [shop]}}, {source: {ipBlocks: [10.0.0.3]}}]";
    assert!(matches(&format!("{{{either}}}"), &web) && matches(&format!("{{{either}}}"), &cron));
    assert!(!matches(&format!("{{{either}}}"), &world));
}

#[test]
fn an_account_without_a_namespace_is_of_the_policy_s() {
    let db = Asked { from: "10.0.0.2", ..GET };
    assert!(matches("{from: [{source: {serviceAccounts: [db-sa]}}]}", &db));
    assert!(!matches("{from: [{source: {serviceAccounts: [db-sa]}}]}", &GET));
}

#[test]
fn what_is_asked() {
    let post = Asked { request: Some(("POST", "/shop/42?q=/admin")), ..GET };
    let raw = Asked { port: 90, ..GET };
    for (operation, of_get, of_post, of_raw) in [
        ("hosts: [API.data]", true, true, true),
        ("hosts: ['*.data']", true, true, true),
        ("hosts: [other, 'api*']", true, true, true),
        ("notHosts: [api.data]", false, false, false),
        ("ports: ['80']", true, true, false),
        ("ports: ['81', '90']", false, false, true),
        ("notPorts: ['90']", true, true, false),
        ("methods: [GET]", true, false, true),
        ("methods: ['*']", true, true, true),
        ("methods: ['P*']", false, true, false),
        ("notMethods: [GET, HEAD]", false, true, false),
        ("paths: [/]", true, false, true),
        ("paths: ['/shop*']", false, true, false),
        ("paths: ['*/42']", false, true, false),
        ("paths: ['/shop/{*}']", false, true, false),
        ("paths: ['/{**}']", true, true, true),
        ("notPaths: ['*admin*', '/shop/*']", true, false, true),
        ("methods: [GET], ports: ['80']", true, false, false),
    ] {
        let rule = format!("{{to: [{{operation: {{{operation}}}}}]}}");
        for (asked, wanted) in [(&GET, of_get), (&post, of_post), (&raw, of_raw)] {
            let of = (asked.request, asked.port);
            assert_eq!(matches(&rule, asked), wanted, "{operation} {of:?}");
        }
    }
}

#[test]
fn under_which_conditions() {
    let headers: &[(&str, &[u8])] = &[("X-Team", b"red"), ("x-forwarded-for", b"203.0.113.9")];
    let asked = Asked { headers, sni: Some("db.example"), ..GET };
    for (key, holding, failing) in [
        ("request.headers[x-TEAM]", "[red, blue]", "[green]"),
        ("request.headers[X-Team]", "['*']", "['*e']"),
        ("source.ip", "[10.0.0.0/8]", "[203.0.113.9]"),
        ("remote.ip", "[203.0.113.0/24]", "[10.0.0.1]"),
        ("source.namespace", "[shop]", "[data]"),
        ("source.serviceAccount", "[shop/web-sa]", "[web-sa]"),
        ("source.principal", "['cluster.local/ns/shop/*']", "['*/db-sa']"),
        ("source.trustDomain", "['cluster.*']", "[other]"),
        ("source.entity", "[cluster]", "[world, host, remote-node]"),
        ("destination.ip", "[10.0.0.2]", "[10.0.0.1, 10.96.0.1]"),
        ("destination.port", "['80']", "['443']"),
        ("connection.sni", "['*.EXAMPLE']", "['*.org']"),
    ] {
        let rule = |field: &str, values: &str| {
            matches(&format!("{{when: [{{key: '{key}', {field}: {values}}}]}}"), &asked)
        };
        assert!(rule("values", holding), "{key}");
        assert!(!rule("values", failing), "{key}");
        assert!(!rule("notValues", holding), "{key}");
        assert!(rule("notValues", failing), "{key}");
        let both = format!("{{when: [{{key: '{key}', values: {holding}, notValues: {holding}}}]}}");
        assert!(!matches(&both, &asked), "{key}");
    }
}

#[test]
fn entities() {
    for (entity, from) in [
        ("world", "198.51.100.7"),
        ("cluster", "10.0.0.3"),
        ("host", "192.0.2.1"),
        ("host", "127.0.0.1"),
        ("remote-node", "2001:db8::2"),
    ] {
        let rule = format!("{{when: [{{key: source.entity, values: [{entity}]}}]}}");
        assert!(matches(&rule, &Asked { from, ..CONNECT }), "{entity} {from}");
        let other = format!("{{when: [{{key: source.entity, notValues: [{entity}]}}]}}");
        assert!(!matches(&other, &Asked { from, ..CONNECT }), "{entity} {from}");
    }
}

/// Nobody verifies tokens yet: a rule that asks for one allows nothing, and denies.
#[test]
fn what_tokens_say_closes() {
    for rule in [
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {notRequestPrincipals: ['*']}}]}",
        "{when: [{key: request.auth.principal, values: [a]}]}",
        "{when: [{key: request.auth.audiences, notValues: [a]}]}",
        "{when: [{key: request.auth.presenter, values: [a]}]}",
        "{when: [{key: 'request.auth.claims[iss]', values: [a]}]}",
        "{when: [{key: 'request.auth.claims[a][b]', notValues: [a]}]}",
    ] {
        for action in ["ALLOW", "DENY"] {
            let loaded = authorization(&format!("action: {action}\nrules: [{rule}]"));
            assert_eq!(errors(&loaded), [""; 0], "{rule}");
            assert!(!GET.allowed(&loaded.mesh), "{action} {rule}");
        }
    }
}

#[test]
fn whom_it_is_about() {
    let scope = |namespace: &str, spec: &str| {
        let spec = format!("{spec}\naction: DENY\nrules: [{{}}]");
        let loaded =
            with(&policy("security.istio.io/v1beta1", "AuthorizationPolicy", namespace, &spec));
        assert_eq!(errors(&loaded), [""; 0], "{spec}");
        let to = |to| !Asked { to, ..CONNECT }.allowed(&loaded.mesh);
        (to("10.0.0.1"), to("10.0.0.2"), to("10.0.0.3"))
    };
    assert_eq!(scope("data", ""), (false, true, false));
    assert_eq!(scope("istio-system", ""), (true, true, true));
    assert_eq!(
        scope("istio-system", "selector: {matchLabels: {tier: front}}"),
        (true, false, false)
    );
    assert_eq!(scope("shop", "selector: {}"), (true, false, false));
    assert_eq!(
        scope("shop", "selector: {matchLabels: {app: web, tier: front}}"),
        (true, false, false)
    );
    assert_eq!(
        scope("shop", "selector: {matchLabels: {app: web, tier: back}}"),
        (false, false, false)
    );
    for reference in [
        "targetRef: {kind: Service, group: '', name: api}",
        "targetRefs: [{kind: Service, name: other}, {kind: Service, group: core, name: api}]",
        "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: api}]",
        "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}, {kind: Service, group: '', name: api}]",
    ] {
        assert_eq!(scope("data", reference), (false, true, false), "{reference}");
        assert_eq!(scope("shop", reference), (false, false, false), "{reference}");
    }
    assert_eq!(scope("data", "targetRefs: []"), (false, true, false));
}

/// Services of the pod `db`, as is `api` (TCP 80 and 90); and two of `two`, of one address each.
const MORE_SERVICES: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: api-v1, namespace: data}
  spec: {clusterIP: 10.96.0.2, selector: {app: db}, ports: [{name: http, port: 8000, targetPort: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: other, namespace: data}
  spec: {clusterIP: 10.96.0.3, selector: {app: db}, ports: [{name: http, port: 80, targetPort: 70}]}
- apiVersion: v1
  kind: Service
  metadata: {name: names, namespace: data}
  spec: {clusterIP: 10.96.0.4, selector: {app: db}, ports: [{name: udp, port: 90, protocol: UDP}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: two, namespace: data}
  status: {podIP: 10.0.0.4, podIPs: [{ip: 10.0.0.4}, {ip: 'fd00::4'}]}
- apiVersion: v1
  kind: Service
  metadata: {name: v4, namespace: data}
  spec: {clusterIP: 10.96.0.5, ports: [{name: http, port: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: v6, namespace: data}
  spec: {clusterIP: 10.96.0.6, ports: [{name: http, port: 80}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: v4, namespace: data, labels: {kubernetes.io/service-name: v4}}
  addressType: IPv4
  ports: [{name: http, port: 80}]
  endpoints: [{addresses: [10.0.0.4]}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: v6, namespace: data, labels: {kubernetes.io/service-name: v6}}
  addressType: IPv6
  ports: [{name: http, port: 80}]
  endpoints: [{addresses: ['fd00::4']}]
---
";

/// A call straight to an endpoint is one to all services behind which it stands, by address and port,
/// and to no others.
#[test]
fn whom_a_call_straight_to_an_endpoint_is_to() {
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    let ends = [
        ("10.0.0.2", 80, tcp, &["api", "api-v1"][..]),
        ("10.0.0.2", 90, tcp, &["api"]),
        ("10.0.0.2", 70, tcp, &["other"]),
        ("10.0.0.2", 90, udp, &["names"]),
        ("10.0.0.4", 80, tcp, &["v4"]),
        ("fd00::4", 80, tcp, &["v6"]),
    ];
    let names = ["api", "api-v1", "other", "names", "v4", "v6"];
    for denied in names {
        // all have a policy, so that each end is one that may be called straight
        let of = |name| {
            let action = if name == denied { "DENY" } else { "AUDIT" };
            let spec = format!(
                "targetRef: {{kind: Service, name: {name}}}\naction: {action}\nrules: [{{}}]"
            );
            let text = policy("security.istio.io/v1", "AuthorizationPolicy", "data", &spec);
            text.replace("{name: p,", &format!("{{name: {name},")) + "---\n"
        };
        let policies: String = names.into_iter().map(of).collect();
        let loaded = with(&(MORE_SERVICES.to_owned() + &policies));
        assert_eq!(errors(&loaded), [""; 0]);
        for (to, port, transport, services) in ends {
            let mesh = &loaded.mesh;
            let address: IpAddr = to.parse().unwrap();
            assert!(mesh.frontend(address, port, transport).is_some(), "it can be called straight");
            let called = mesh.names_at((address, port, transport));
            let access = Asked { to, port, transport, ..CONNECT }.as_to(&called, mesh);
            let told = format!("{denied}: {called:?}");
            assert_eq!(access.allowed, !services.contains(&denied), "{told}");
            let others = services.iter().filter(|name| **name != denied).count();
            assert_eq!(access.audit.len(), others, "{told}");
        }
    }
    // with one policy alone, too
    let deny = "targetRef: {kind: Service, name: api-v1}\naction: DENY\nrules: [{}]";
    let deny = policy("security.istio.io/v1", "AuthorizationPolicy", "data", deny);
    let mesh = with(&(MORE_SERVICES.to_owned() + &deny)).mesh;
    let pod: IpAddr = "10.0.0.2".parse().unwrap();
    assert!(mesh.frontend(pod, 80, tcp).is_some() && mesh.frontend(pod, 90, tcp).is_none());
    assert!(!CONNECT.as_to(&mesh.names_at((pod, 80, tcp)), &mesh).allowed);
    // of the services behind which it stands one is named
    let naming = &mesh.named_policies()[&(pod, 80, tcp)];
    assert_eq!((naming.policies.as_slice(), naming.every), (&[0][..], false));
}

/// Nobody is led to who is not ready, but it can be called.
#[test]
fn policies_on_a_service_hold_for_who_is_not_ready() {
    let deny = "targetRef: {kind: Service, name: late}\naction: DENY\nrules: [{}]";
    let deny = policy("security.istio.io/v1", "AuthorizationPolicy", "data", deny);
    let service = |more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: late, namespace: data}}\n\
             spec:\n  clusterIP: 10.96.0.9\n  ports: [{{name: http, port: 80}}]\n{more}\n---\n"
        )
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: late, namespace: data, labels: {app: late}}\n\
               status: {podIP: 10.0.0.8, conditions: [{type: Ready, status: \"False\"}]}\n---\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {name: late, namespace: data, labels: {kubernetes.io/service-name: late}}\n\
                 addressType: IPv4\nports: [{name: http, port: 80}]\n\
                 endpoints: [{addresses: [10.0.0.8], conditions: {ready: false}}]\n---\n";
    for text in [
        service("  selector: {app: late}") + pod,
        service("") + slice,
        service("  selector: {app: late}") + pod + slice,
    ] {
        let loaded = with(&(text + &deny));
        assert_eq!(errors(&loaded), [""; 0]);
        let (mesh, pod) = (loaded.mesh, "10.0.0.8".parse().unwrap());
        let (_, port) = mesh.frontend(pod, 80, Transport::Tcp).expect("it can be called straight");
        assert_eq!(mesh.endpoints(port.cluster).len(), 1);
        let (_, port) = mesh.frontend("10.96.0.9".parse().unwrap(), 80, Transport::Tcp).unwrap();
        assert_eq!(mesh.endpoints(port.cluster), []);
        let called = mesh.names_at((pod, 80, Transport::Tcp));
        assert_eq!(called, [("data", "late")]);
        assert!(!Asked { to: "10.0.0.8", port: 80, ..CONNECT }.as_to(&called, &mesh).allowed);
        assert!(mesh.named_policies()[&(pod, 80, Transport::Tcp)].every);
    }
}

#[test]
fn gateways_are_not_the_mesh_s() {
    let loaded = authorization(
        "targetRefs:\n- {kind: Gateway, group: gateway.networking.k8s.io, name: g}\naction: DENY\nrules: [{}]",
    );
    assert_eq!(loaded.mesh.access, []);
    assert_eq!(
        loaded.problems[0].to_string(),
        "f.yaml:6: notice: AuthorizationPolicy data/p: Gateway g: gateways are not the mesh's; the \
         policy is not applied to it"
    );
}

#[test]
fn a_policy_in_dry_run_does_nothing() {
    for (value, runs) in [("'true'", true), ("'1'", true), ("'false'", false), ("'yes'", false)] {
        let loaded = with(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  \
             namespace: data\n  annotations:\n    istio.io/dry-run: {value}\nspec: {{}}\n"
        ));
        assert_eq!(GET.allowed(&loaded.mesh), runs, "{value}");
        let warned = loaded.problems.iter().any(|p| p.reason.contains("no boolean"));
        assert_eq!(warned, value == "'yes'");
    }
}

#[test]
fn policies_stand_in_order_and_the_root_s_are_the_mesh_s() {
    let of =
        |namespace, spec| policy("security.istio.io/v1", "AuthorizationPolicy", namespace, spec);
    let text = [of("shop", "{}"), of("istio-system", "action: AUDIT"), of("data", "action: DENY")];
    let loaded = with(&text.join("---\n"));
    let names: Vec<&str> = loaded.mesh.access.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "AuthorizationPolicy data/p",
            "AuthorizationPolicy istio-system/p",
            "AuthorizationPolicy shop/p"
        ]
    );
    let policy = &loaded.mesh.access[1];
    assert_eq!(policy.scope, Scope::Workloads(None, LabelSelector::default()));
    assert_eq!(policy.effect, Effect::Audit);
}

#[test]
fn on_connections_rules_on_requests_do_not_allow() {
    let loaded = authorization("rules: [{to: [{operation: {methods: [GET]}}]}]");
    assert!(GET.allowed(&loaded.mesh) && !CONNECT.allowed(&loaded.mesh));
    let loaded = authorization("action: DENY\nrules: [{to: [{operation: {methods: [POST]}}]}]");
    assert!(GET.allowed(&loaded.mesh) && !CONNECT.allowed(&loaded.mesh));
    let udp = Asked { transport: Transport::Udp, ..CONNECT };
    assert!(!udp.allowed(&loaded.mesh));
}

#[test]
fn nodes_are_known_by_their_addresses() {
    let nodes = with("").mesh.nodes;
    let seen: Vec<String> = nodes
        .iter()
        .map(|node| format!("{} {:?} {}", node.name, node.addresses, node.local))
        .collect();
    assert_eq!(seen, ["here [192.0.2.1] true", "there [192.0.2.2, 2001:db8::2] false"]);
}
