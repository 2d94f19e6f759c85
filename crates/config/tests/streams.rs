//! Rules for connections: `tls` and `tcp` of VirtualServices.

use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::{Connection, Protocol, ServicePort, Workload, route_stream};

const SERVICES: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 10.96.0.1, ports: [{name: tcp, port: 70}, {name: tls, port: 71}, {name: http, port: 80}, {name: x, port: 90}]}}
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.2, ports: [{name: tcp, port: 7}]}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.3, ports: [{name: tls, port: 7}]}}
";

fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", SERVICES), file("f.yaml", more)], &Options::default())
}

/// A VirtualService for `db`; the rest of its spec is in flow style.
fn virtual_service(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: [db, '*.db.io'], {rest}}}\n"
    )
}

/// The problems, without that of a host of TLS that is no service.
fn reasons(loaded: &Loaded) -> Vec<String> {
    let reasons = loaded.problems.iter().map(|p| format!("{} {}", p.severity, p.reason));
    reasons.filter(|reason| !reason.contains("host *.db.io is no service")).collect()
}

fn port(loaded: &Loaded, number: u16) -> &ServicePort {
    let service = loaded.mesh.services.iter().find(|s| s.name == "db").unwrap();
    service.ports.iter().find(|p| p.number == number).unwrap()
}

/// Where a connection goes: to whose cluster.
fn connect(loaded: &Loaded, number: u16, sni: Option<&str>, to: &str, from: &str) -> String {
    let source = Workload {
        namespace: from.to_owned(),
        name: "client".to_owned(),
        labels: [("app".to_owned(), "client".to_owned())].into(),
        addresses: Vec::new(),
        service_account: "default".to_owned(),
        node: None,
        uid: None,
        cgroup: None,
    };
    let destination = to.parse().unwrap();
    let connection = Connection { destination, sni, source: Some(&source) };
    let cluster = route_stream(port(loaded, number), &connection, 0);
    let name = cluster.map(|id| loaded.mesh.cluster(id).name.as_str());
    name.map_or("closed", |name| name.split('.').next().unwrap()).to_owned()
}

const TO_A: &str = "route: [{destination: {host: a}}]";
const TO_B: &str = "route: [{destination: {host: b}}]";

#[test]
fn tcp_rules_look_at_addresses_and_callers() {
    let loaded = with(&virtual_service(
        "vs",
        &format!(
            "tcp: [{{match: [{{destinationSubnets: [10.1.0.0/16], sourceNamespace: web}}, {{port: \
             71}}], {TO_A}}}, {{match: [{{sourceLabels: {{app: client}}, destinationSubnets: \
             ['10.2.0.1']}}, {{gateways: [ingress]}}], {TO_B}}}]"
        ),
    ));
    assert_eq!(
        reasons(&loaded),
        [
            "notice port 90 does not say its protocol; taken as TCP for VirtualService default/vs's sake"
        ]
    );
    for (number, to, from, wanted) in [
        (70, "10.1.2.3", "web", "a"),
        (70, "10.1.2.3", "default", "db"),
        (70, "10.2.0.1", "default", "b"),
        (70, "10.2.0.2", "default", "db"),
        (71, "10.2.0.1", "default", "a"),
        (90, "10.1.2.3", "web", "a"),
    ] {
        assert_eq!(connect(&loaded, number, None, to, from), wanted, "{number} {to} {from}");
    }
    let names: Vec<&str> = port(&loaded, 70).stream_rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["VirtualService default/vs tcp[0]", "VirtualService default/vs tcp[1]"]);
    // An HTTP port has rules of another kind.
    assert!(port(&loaded, 80).stream_rules.is_empty());
    let protocols = [70, 71, 80, 90].map(|number| port(&loaded, number).protocol);
    use Protocol::{Http, Opaque, Tls};
    assert_eq!(protocols, [Opaque, Tls, Http, Opaque]);
}

#[test]
fn tls_rules_look_at_names() {
    let loaded = with(&virtual_service(
        "vs",
        &format!(
            "tcp: [{{{TO_B}}}], tls: [{{match: [{{sniHosts: [X.db.io], port: 70}}], {TO_A}}}, \
             {{match: [{{sniHosts: ['*.db.io'], port: 70}}], route: [{{destination: {{host: db, \
             port: {{number: 71}}}}}}]}}]"
        ),
    ));
    for (sni, wanted) in
        [(Some("x.db.io"), "a"), (Some("y.db.io"), "db"), (Some("db.io"), "b"), (None, "b")]
    {
        assert_eq!(connect(&loaded, 70, sni, "10.96.0.1", "default"), wanted, "{sni:?}");
        assert_eq!(connect(&loaded, 71, sni, "10.96.0.1", "default"), "b");
    }
    // Names are looked for where the port alone would not have them looked for.
    assert_eq!(port(&loaded, 70).protocol, Protocol::Tls);
    assert_eq!(port(&loaded, 90).protocol, Protocol::Opaque);
}

/// Unlike HTTP's, rules for connections of all objects count; and those by name come first.
#[test]
fn rules_of_several_objects_follow_one_another() {
    let loaded = with(
        &(virtual_service("a", &format!("tcp: [{{match: [{{port: 70}}], {TO_B}}}]"))
            + &virtual_service(
                "b",
                &format!("exportTo: [web], tls: [{{match: [{{sniHosts: [db]}}], {TO_A}}}]"),
            )),
    );
    for (sni, from, wanted) in
        [(Some("db"), "web", "a"), (Some("db"), "default", "b"), (None, "web", "b")]
    {
        assert_eq!(connect(&loaded, 70, sni, "10.96.0.1", from), wanted, "{sni:?} {from}");
    }
    assert_eq!(connect(&loaded, 71, None, "10.96.0.1", "web"), "db");
}

#[test]
fn a_share_that_goes_nowhere_is_closed() {
    let loaded = with(&virtual_service(
        "vs",
        "tcp: [{match: [{port: 70}], route: [{destination: {host: nope}, weight: 1}, {destination: \
         {host: a}, weight: 1}]}]",
    ));
    assert_eq!(
        reasons(&loaded),
        [
            "error nope.default.svc.cluster.local is no service of this mesh; connections sent there \
          are closed"
        ]
    );
    assert_eq!(connect(&loaded, 70, None, "10.96.0.1", "default"), "closed");
    let weights: Vec<u32> =
        port(&loaded, 70).stream_rules[0].backends.iter().map(|b| b.weight).collect();
    assert_eq!(weights, [1, 1]);
}

#[test]
fn refused_rules_for_connections() {
    for (rest, said) in [
        ("tcp: [{}]", "a rule for connections has a route"),
        (
            "tcp: [{route: [{destination: {host: a}}, {destination: {host: a}}]}]",
            "the weights of several destinations add up to 0",
        ),
        (
            "tcp: [{match: [{destinationSubnets: [10.0.0.0/99]}], route: [{destination: {host: a}}]}]",
            "`10.0.0.0/99` is no address or network",
        ),
        (
            "tcp: [{match: [{sniHosts: [db]}], route: [{destination: {host: a}}]}]",
            "spec.tcp.0.match.0.sniHosts is not known: a condition cannot be ignored; not applied",
        ),
        ("tls: [{route: [{destination: {host: a}}]}]", "a tls rule has a match"),
        (
            "tls: [{match: [{port: 70}], route: [{destination: {host: a}}]}]",
            "a match of a tls rule has sniHosts",
        ),
        (
            "tls: [{match: [{sniHosts: [other.io]}], route: [{destination: {host: a}}]}]",
            "other.io is not within the hosts of the object",
        ),
        ("http: []", "it has no rules: neither http nor tls nor tcp"),
    ] {
        let loaded = with(&virtual_service("vs", rest));
        let wanted = format!("error {said}");
        assert!(reasons(&loaded).contains(&wanted), "{wanted}\n{:#?}", reasons(&loaded));
        assert!(port(&loaded, 70).stream_rules.is_empty());
    }
    let loaded = with(&virtual_service("vs", &format!("tcp: [{{match: [{{port: 80}}], {TO_A}}}]")));
    let wanted = "warning its tls and tcp rules are for no port of TCP or TLS of its hosts";
    assert_eq!(reasons(&loaded), [wanted]);
}
