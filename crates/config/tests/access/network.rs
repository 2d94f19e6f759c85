//! NetworkPolicy: the recipes of Kubernetes' documentation, and each field.

use beeway_model::Transport;

use crate::kit::{Asked, CONNECT, errors, policy, with};

fn network(namespace: &str, spec: &str) -> beeway_config::Loaded {
    with(&policy("networking.k8s.io/v1", "NetworkPolicy", namespace, spec))
}

/// What a policy lets through.
fn allows(namespace: &str, spec: &str, asked: &Asked<'_>) -> bool {
    let loaded = network(namespace, spec);
    assert_eq!(errors(&loaded), [""; 0], "{spec}");
    asked.allowed(&loaded.mesh)
}

const BACK: Asked<'static> = Asked { from: "10.0.0.2", to: "10.0.0.1", ..CONNECT };
const CRON: Asked<'static> = Asked { from: "10.0.0.3", ..CONNECT };
const WORLD: Asked<'static> = Asked { from: "198.51.100.7", ..CONNECT };
const OUT: Asked<'static> = Asked { from: "10.0.0.2", to: "198.51.100.7", ..CONNECT };

#[test]
fn recipes() {
    // default deny all ingress, allow all ingress, and the same of egress and of both
    for (spec, ingress, egress) in [
        ("podSelector: {}\npolicyTypes: [Ingress]", false, true),
        ("podSelector: {}\ningress: [{}]\npolicyTypes: [Ingress]", true, true),
        ("podSelector: {}\npolicyTypes: [Egress]", true, false),
        ("podSelector: {}\negress: [{}]\npolicyTypes: [Egress]", true, true),
        ("podSelector: {}\npolicyTypes: [Ingress, Egress]", false, false),
        // what is not said: ingress always, egress with rules
        ("podSelector: {}", false, true),
        ("podSelector: {}\negress: []", false, true),
        ("podSelector: {}\negress: [{}]", false, true),
        ("podSelector: {}\negress: [{to: [{podSelector: {}}]}]\npolicyTypes: []", false, false),
        // rules of a direction that the policy is not about
        ("podSelector: {}\ningress: [{}]\npolicyTypes: [Egress]", true, false),
        ("podSelector: {matchLabels: {app: other}}", true, true),
        ("podSelector: null\ningress: null\negress: null", false, true),
    ] {
        assert_eq!(allows("data", spec, &CONNECT), ingress, "{spec}");
        assert_eq!(allows("data", spec, &BACK), egress, "{spec}");
        let other = Asked { from: "10.0.0.3", to: "10.0.0.1", ..CONNECT };
        assert!(allows("data", spec, &other), "another namespace");
    }
}

#[test]
fn peers() {
    for (peer, web, cron, world) in [
        ("{namespaceSelector: {matchLabels: {team: red}}}", true, false, false),
        ("{namespaceSelector: {}}", true, true, false),
        (
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}",
            false,
            true,
            false,
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}",
            false,
            true,
            false,
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red, x]}]}}",
            true,
            false,
            false,
        ),
        ("{podSelector: {}}", false, false, false),
        ("{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}", true, false, false),
        (
            "{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchExpressions: [{key: \
             tier, operator: NotIn, values: [front]}]}}",
            false,
            false,
            false,
        ),
        (
            "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}",
            true,
            false,
            false,
        ),
        ("{ipBlock: {cidr: 0.0.0.0/0}}", true, true, true),
        (
            "{ipBlock: {cidr: 0.0.0.0/0, except: [198.51.100.0/24, 10.0.0.3/32]}}",
            true,
            false,
            false,
        ),
        ("{ipBlock: {cidr: 198.51.100.0/24}}", false, false, true),
        ("{ipBlock: {cidr: '::/0'}}", false, false, false),
    ] {
        let spec =
            format!("podSelector: {{matchLabels: {{app: db}}}}\ningress: [{{from: [{peer}]}}]");
        for (asked, wanted) in [(CONNECT, web), (CRON, cron), (WORLD, world)] {
            assert_eq!(allows("data", &spec, &asked), wanted, "{peer} {}", asked.from);
        }
    }
    let own = "podSelector: {}\ningress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]";
    let loaded = with(
        &(policy("networking.k8s.io/v1", "NetworkPolicy", "data", own)
            + &pod("db-2", "10.0.0.9", 80)),
    );
    let from_another = Asked { from: "10.0.0.9", ..CONNECT };
    assert!(from_another.allowed(&loaded.mesh), "the policy's namespace");
    let two = "podSelector: {}\ningress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}, \
               {podSelector: {}}]}]";
    assert!(allows("data", two, &CONNECT) && !allows("data", two, &CRON), "peers are alternatives");
    let everybody = "podSelector: {}\ningress: [{from: [{namespaceSelector: {}}]}]";
    let from = |from| allows("data", everybody, &Asked { from, ..CONNECT });
    assert!(from("192.0.2.1"), "the node that the pod runs on always may");
    assert!(!from("192.0.2.2"), "another node is no pod of any namespace");
}

#[test]
fn egress() {
    for (peer, web, world) in [
        ("{namespaceSelector: {matchLabels: {team: red}}}", true, false),
        ("{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/32]}}", false, true),
        ("{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.7/32]}}", false, false),
    ] {
        let spec = format!("podSelector: {{}}\npolicyTypes: [Egress]\negress: [{{to: [{peer}]}}]");
        assert_eq!(allows("data", &spec, &BACK), web, "{peer}");
        assert_eq!(allows("data", &spec, &OUT), world, "{peer}");
        assert!(allows("data", &spec, &CRON), "from another namespace");
    }
}

/// "A Pod cannot block access to itself."
#[test]
fn a_pod_reaches_itself() {
    let own = Asked { from: "10.0.0.2", ..CONNECT };
    let closed = "podSelector: {}\npolicyTypes: [Ingress, Egress]";
    assert!(allows("data", closed, &own));
    let loaded = with(
        &(policy("networking.k8s.io/v1", "NetworkPolicy", "data", closed)
            + &pod("db-2", "10.0.0.9", 80)),
    );
    assert!(!Asked { from: "10.0.0.9", ..CONNECT }.allowed(&loaded.mesh));
    assert!(!Asked { to: "10.0.0.9", ..own }.allowed(&loaded.mesh));
}

#[test]
fn ports() {
    let udp = Asked { transport: Transport::Udp, port: 53, ..CONNECT };
    let raw = Asked { port: 90, ..CONNECT };
    for (ports, http, on_90, dns) in [
        ("[]", true, true, true),
        ("[{port: 80}]", true, false, false),
        ("[{port: 80, protocol: TCP}, {port: 53, protocol: UDP}]", true, false, true),
        ("[{port: 80, endPort: 90}]", true, true, false),
        ("[{protocol: TCP}]", true, true, false),
        ("[{}]", true, true, false),
        ("[{protocol: UDP}]", false, false, true),
        ("[{protocol: SCTP}]", false, false, false),
        ("[{protocol: SCTP, port: 80}, {port: 90}]", false, true, false),
        ("[{port: http}]", true, false, false),
        ("[{port: dns, protocol: UDP}]", false, false, true),
        ("[{port: dns}]", false, false, false),
        ("[{port: none}, {port: 90}]", false, true, false),
    ] {
        let spec = format!("podSelector: {{}}\ningress: [{{ports: {ports}}}]");
        for (asked, wanted) in [(&CONNECT, http), (&raw, on_90), (&udp, dns)] {
            assert_eq!(allows("data", &spec, asked), wanted, "{ports} {}", asked.port);
        }
    }
}

/// Nothing of SCTP passes: that is told of.
#[test]
fn sctp_is_told_of() {
    for (direction, outcome) in [
        ("ingress", "the workloads that it selects take no SCTP at all"),
        ("egress", "what the workloads that it selects send by SCTP is dropped"),
    ] {
        let spec = format!(
            "podSelector: {{}}\n{direction}:\n- ports:\n  - {{port: 80}}\n  - {{port: 9, protocol: SCTP}}"
        );
        let loaded = network("data", &spec);
        let [problem] = &loaded.problems[..] else { panic!("{:?}", loaded.problems) };
        let wanted = format!(
            "f.yaml:9: warning: NetworkPolicy data/p: SCTP is not judged by its ports: {outcome}"
        );
        assert_eq!(problem.to_string(), wanted);
    }
    let loaded = network("data", "podSelector: {}\ningress: [{ports: [{protocol: TCP}]}]");
    assert_eq!(loaded.problems, []);
}

/// A pod `data/name` with this address and a port `http`.
fn pod(name: &str, address: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: data, labels: {{app: \
         db}}}}\nspec: {{containers: [{{name: c, ports: [{{name: http, containerPort: {port}}}]}}]}}\n\
         status: {{podIP: {address}}}\n"
    )
}

/// The name of a port is another number on another pod, and nothing to those that have it not.
#[test]
fn named_ports() {
    let ingress = "podSelector: {}\ningress: [{ports: [{port: http}]}]";
    let egress = "podSelector: {}\npolicyTypes: [Egress]\negress: [{to: [{namespaceSelector: \
                  {matchLabels: {team: blue}}}], ports: [{port: http}]}]";
    let everybody = "podSelector: {}\npolicyTypes: [Egress]\negress: [{ports: [{port: http}]}]";
    let block = "podSelector: {}\npolicyTypes: [Egress]\negress: [{to: [{ipBlock: {cidr: \
                 10.0.0.0/24}}], ports: [{port: http}]}]";
    let nameless = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: c, namespace: data}\nstatus: \
                    {podIP: 10.0.0.5}\n";
    let more = [pod("b", "10.0.0.4", 8081).as_str(), nameless].concat();
    for (namespace, spec) in
        [("data", ingress), ("shop", egress), ("shop", everybody), ("shop", block)]
    {
        let of = |more: &str| {
            let text = policy("networking.k8s.io/v1", "NetworkPolicy", namespace, spec);
            let loaded = with(&(text + more));
            assert_eq!(errors(&loaded), [""; 0], "{spec}");
            loaded.mesh
        };
        let call = |to, port| Asked { to, port, ..CONNECT };
        for mesh in [of(""), of(&more)] {
            assert!(call("10.0.0.2", 80).allowed(&mesh), "{spec}");
            assert!(!call("10.0.0.2", 8081).allowed(&mesh), "{spec}");
        }
        let mesh = of(&more);
        assert!(call("10.0.0.4", 8081).allowed(&mesh), "{spec}");
        for (to, port) in [("10.0.0.4", 80), ("10.0.0.5", 80), ("10.0.0.5", 8081)] {
            assert!(!call(to, port).allowed(&mesh), "{spec} {to}:{port}");
        }
    }
    for spec in [everybody, block] {
        let loaded = network("shop", spec);
        let world = Asked { to: "198.51.100.7", port: 80, ..CONNECT };
        assert!(!world.allowed(&loaded.mesh), "who is no pod has no named ports: {spec}");
    }
}

/// As long as all pods agree, a pod that comes or goes changes no rule.
#[test]
fn rules_do_not_name_pods_that_are_alike() {
    let text = policy(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "data",
        "podSelector: {}\ningress: [{ports: [{port: http}]}]",
    );
    let one = with(&text).mesh.access;
    assert_eq!(with(&(text + &pod("b", "10.0.0.4", 80))).mesh.access, one);
}

#[test]
fn layers_and_policies_add_up() {
    let open = policy(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "data",
        "podSelector: {}\ningress: [{from: [{namespaceSelector: {}}]}]",
    );
    let closed = open.replace("name: p", "name: q").replace("{}}]}]", "{matchLabels: {a: b}}}]}]");
    let deny = policy("security.istio.io/v1", "AuthorizationPolicy", "data", "{}");
    let allows = |texts: &[&str]| CONNECT.allowed(&with(&texts.join("---\n")).mesh);
    assert!(allows(&[&open]) && !allows(&[&closed]) && allows(&[&open, &closed]));
    assert!(!allows(&[&open, &deny]), "of the same name, and another kind");
}

#[test]
fn in_the_root_namespace_it_is_not_the_mesh_s() {
    assert!(allows("istio-system", "podSelector: {}", &CONNECT));
}
