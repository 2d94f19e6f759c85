//! What cannot be read closes what it selects, and says so with file and line.

use beeway_config::Loaded;
use serde_json::{Value, json};

use crate::kit::{Asked, CONNECT, GET, authorization, errors, policy, with};

/// Which of the pods `web`, `db` and `cron` can be called by nobody else.
fn closed(text: &str) -> (Vec<&'static str>, Vec<String>) {
    let loaded = with(text);
    let closed = [("web", "10.0.0.1"), ("db", "10.0.0.2"), ("cron", "10.0.0.3")]
        .into_iter()
        .filter(|(_, to)| {
            let from = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "198.51.100.7", "192.0.2.1"];
            let mut others = from.iter().filter(|from| *from != to);
            !others.any(|from| Asked { from, to, ..GET }.allowed(&loaded.mesh))
        });
    (closed.map(|(name, _)| name).collect(), errors(&loaded))
}

const ALL: &[&str] = &["web", "db", "cron"];

#[test]
fn a_policy_that_cannot_be_read_denies_what_it_selects() {
    for (spec, line, reason, pods, whom) in [
        (
            "action: PERMIT\nrules: [{}]",
            5,
            "action PERMIT is none of ALLOW, DENY, AUDIT and CUSTOM",
            &["db"][..],
            "all workloads of namespace data",
        ),
        (
            "selector: {matchLabels: {app: db}}\naction: 7",
            6,
            "invalid type: integer `7`, expected a string",
            &["db"],
            "workloads of namespace data with app=db",
        ),
        (
            "selector: {matchLabels: {app: none}}\nrules: {}",
            6,
            "spec.rules is no list",
            &[],
            "workloads of namespace data with app=none",
        ),
        (
            "selector:\n  matchExpressions: []\nrules: [{}]",
            6,
            "spec.selector.matchExpressions is not known",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "selector: {matchLabels: {app: 'd*'}}",
            5,
            "a selector has no wildcards and no empty keys",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "selector: null",
            5,
            "invalid type: unit value, expected struct Selector",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "selector: {}\ntargetRef: {kind: Service, name: api}",
            6,
            "only one of selector and targetRef",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "targetRefs:\n- {kind: Service, name: api, namespace: shop}",
            6,
            "a policy is for targets of its own namespace alone",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "targetRefs:\n- {kind: Pod, name: api}",
            6,
            "a target is no Pod of group ``",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "targetRefs:\n- {kind: Service, name: api, sectionName: http}",
            6,
            "spec.targetRefs.0.sectionName is not known",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "rules: [{}]\nprovider: {name: x}",
            6,
            "a provider needs the action CUSTOM",
            &["db"],
            "all workloads of namespace data",
        ),
        (
            "rules: [{}]\nnovelty: 1",
            6,
            "spec.novelty is not known",
            &["db"],
            "all workloads of namespace data",
        ),
        ("- rules", 4, "spec is no mapping", &["db"], "all workloads of namespace data"),
        (
            "targetRef: {kind: Service, name: api}\nrules: 1",
            6,
            "spec.rules is no list",
            &["db"],
            "service data/api",
        ),
    ] {
        let text = policy("security.istio.io/v1", "AuthorizationPolicy", "data", spec);
        let (found, said) = closed(&text);
        assert_eq!(found, pods, "{spec}");
        let wanted = format!(
            "f.yaml:{line}: error: AuthorizationPolicy data/p: {reason}; AuthorizationPolicy cannot \
             be read, therefore CLOSED: every call to {whom} is denied"
        );
        assert_eq!(said, [wanted], "{spec}");
    }
}

#[test]
fn heads_that_cannot_be_read() {
    let whole =
        "AuthorizationPolicy cannot be read, therefore CLOSED: every call to all workloads of";
    for (head, pods, wanted) in [
        (
            "apiVersion: security.istio.io/v2\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: data}\nspec: {}\n",
            &["db"][..],
            format!(
                "1: error: AuthorizationPolicy data/p: version v2 of AuthorizationPolicy is not supported; {whole} namespace data is denied"
            ),
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: 7}\nspec: {action: AUDIT}\n",
            ALL,
            format!(
                "3: error: AuthorizationPolicy ?/p: invalid type: integer `7`, expected a string; {whole} all namespaces is denied"
            ),
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: data}\nspec: {action: AUDIT}\n",
            &["db"],
            format!(
                "3: error: AuthorizationPolicy data/: no metadata.name; {whole} namespace data is denied"
            ),
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: data}\nspecs: {}\n",
            &["db"],
            format!(
                "4: error: AuthorizationPolicy data/p: specs is not known; {whole} namespace data is denied"
            ),
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: istio-system}\nspec: {action: NO}\n",
            ALL,
            format!(
                "4: error: AuthorizationPolicy istio-system/p: action NO is none of ALLOW, DENY, AUDIT and CUSTOM; {whole} all namespaces is denied"
            ),
        ),
    ] {
        let (found, said) = closed(head);
        assert_eq!(found, pods, "{head}");
        assert_eq!(said, [format!("f.yaml:{wanted}")], "{head}");
    }
}

/// Documents that are no YAML: their head may still tell what they were to be.
#[test]
fn what_is_no_yaml_closes_too() {
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
    let network = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
    for (text, pods, label) in [
        (
            format!("{head}metadata:\n  name: p\n  namespace: data\nspec:\n  rules: [\n"),
            &["db"][..],
            Some("AuthorizationPolicy data/p"),
        ),
        (
            format!(
                "{head}metadata:\n  name: p\n  namespace: data\nspec:\n  rules:\n  - from: x\n   to: y\n"
            ),
            &["db"],
            Some("AuthorizationPolicy data/p"),
        ),
        (
            format!("# c\n{head}metadata: {{name: p, namespace: data\nspec: {{}}\n"),
            ALL,
            Some("AuthorizationPolicy ?/"),
        ),
        (
            format!("{head}spec:\n  action: ]\nmetadata: {{name: p, namespace: data}}\n"),
            &["db"],
            Some("AuthorizationPolicy data/p"),
        ),
        (
            format!("{network}metadata: {{name: p, namespace: data}}\nspec:\n  podSelector: {{\n"),
            &["db"],
            Some("NetworkPolicy data/p"),
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: [\n".to_owned(), &[], None),
        ("kind: [AuthorizationPolicy\n".to_owned(), &[], None),
    ] {
        let (found, said) = closed(&text);
        assert_eq!(found, pods, "{text}");
        assert_eq!(said.len(), 1, "{text} {said:?}");
        let object = label.map_or(String::new(), |label| format!(" error: {label}: "));
        assert!(said[0].contains(&object), "{said:?}");
        assert_eq!(said[0].contains("CLOSED"), label.is_some(), "{said:?}");
    }
}

#[test]
fn a_bad_rule_closes_alone() {
    for (rule, line, reason) in [
        (
            "{from: [{source: {principal: [x]}}]}",
            7,
            "spec.rules.1.from.0.source.principal is not known",
        ),
        ("{from: [{}]}", 7, "missing field `source`"),
        ("{from: [{source: {}}]}", 7, "nothing is asked for, which Istio refuses"),
        ("{from: [{source: {principals: []}}]}", 7, "nothing is asked for, which Istio refuses"),
        ("{from: []}", 7, "`from` is empty"),
        ("{from: null}", 7, "invalid type: unit value, expected a sequence"),
        ("{from: [{source: [[a]]}]}", 7, "invalid type: sequence, expected struct Source"),
        ("[]", 7, "spec.rules.1 is no mapping"),
        ("null", 7, "spec.rules.1 is no mapping"),
        ("{form: []}", 7, "spec.rules.1.form is not known"),
        ("{from: [{source: {principals: ['']}}]}", 7, "principals: an empty value"),
        ("{from: [{source: {principals: ['spiffe://']}}]}", 7, "principals: an empty value"),
        (
            "{from: [{source: {principals: x}}]}",
            7,
            "invalid type: string \"x\", expected a sequence",
        ),
        (
            "{from: [{source: {namespaces: [a*b]}}]}",
            7,
            "namespaces: `a*b`: a `*` stands at one end",
        ),
        (
            "{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}",
            7,
            "ipBlocks: `10.0.0.0/33` is no address or network",
        ),
        (
            "{from: [{source: {notIpBlocks: [10.0.0]}}]}",
            7,
            "notIpBlocks: `10.0.0` is no address or network",
        ),
        (
            "{from: [{source: {serviceAccounts: ['a/*']}}]}",
            7,
            "serviceAccounts: `a/*` is no service account: namespace/name or name, no `*`",
        ),
        (
            "{from: [{source: {serviceAccounts: [a/b/c]}}]}",
            7,
            "serviceAccounts: `a/b/c` is no service account: namespace/name or name, no `*`",
        ),
        ("{to: []}", 7, "`to` is empty"),
        ("{to: [{operation: {}}]}", 7, "nothing is asked for, which Istio refuses"),
        ("{to: [{operation: {ports: [80]}}]}", 7, "invalid type: integer `80`, expected a string"),
        ("{to: [{operation: {ports: ['65536']}}]}", 7, "ports: `65536` is no port number"),
        ("{to: [{operation: {ports: ['+80']}}]}", 7, "ports: `+80` is no port number"),
        (
            "{to: [{operation: {paths: ['/{**}/{*}']}}]}",
            7,
            "paths: `/{**}/{*}` is no path template",
        ),
        ("{when: [{key: source.ip}]}", 7, "nothing is asked for, which Istio refuses"),
        ("{when: [{values: [a]}]}", 7, "missing field `key`"),
        ("{when: [{key: source.mood, values: [a]}]}", 7, "key `source.mood` is not known"),
        (
            "{when: [{key: 'request.headers[a b]', values: [a]}]}",
            7,
            "key `request.headers[a b]` is not known",
        ),
        (
            "{when: [{key: 'request.headers', values: [a]}]}",
            7,
            "key `request.headers` is not known",
        ),
        (
            "{when: [{key: destination.labels, values: [a]}]}",
            7,
            "key `destination.labels` is not known",
        ),
        (
            "{when: [{key: experimental.envoy.filters.a, values: [a]}]}",
            7,
            "key `experimental.envoy.filters.a` is not known",
        ),
        (
            "{when: [{key: source.ip, operator: In, values: [10.0.0.1]}]}",
            7,
            "spec.rules.1.when.0.operator is not known",
        ),
        (
            "{when: [{key: source.entity, values: [moon]}]}",
            7,
            "values: `moon` is none of world, cluster, host and remote-node",
        ),
    ] {
        let good = "{from: [{source: {namespaces: [shop]}}]}";
        let cron = Asked { from: "10.0.0.3", ..GET };
        let load = |action: &str| {
            let loaded = authorization(&format!("action: {action}\nrules:\n- {rule}"));
            let both = authorization(&format!("action: {action}\nrules: [{good},\n{rule}]"));
            assert_eq!(errors(&loaded).len(), 1, "{rule}");
            (loaded, both)
        };
        let (allow, both) = load("ALLOW");
        assert!(!GET.allowed(&allow.mesh) && !cron.allowed(&allow.mesh), "{rule}");
        assert!(GET.allowed(&both.mesh) && !cron.allowed(&both.mesh), "the other rule stands");
        let wanted = format!(
            "f.yaml:{line}: error: AuthorizationPolicy data/p: {reason}; the rule cannot be read, \
             therefore CLOSED: it allows nothing"
        );
        assert_eq!(errors(&both), [wanted], "{rule}");
        let (deny, both) = load("DENY");
        assert!(!GET.allowed(&deny.mesh) && !cron.allowed(&both.mesh), "{rule}");
        assert!(errors(&both)[0].ends_with("CLOSED: it denies everything"));
        let (audit, _) = load("AUDIT");
        assert!(GET.allowed(&audit.mesh));
    }
}

#[test]
fn a_policy_in_dry_run_closes_nothing() {
    let text = policy("security.istio.io/v1", "AuthorizationPolicy", "data", "action: NO")
        .replace("namespace: data}", "namespace: data, annotations: {istio.io/dry-run: 'true'}}");
    let (found, said) = closed(&text);
    assert_eq!(found, [""; 0]);
    assert!(said[0].ends_with("as it is in dry run, nothing is closed"), "{said:?}");
}

#[test]
fn a_network_policy_that_cannot_be_read_allows_nothing() {
    for (spec, line, reason, ingress, egress, what) in [
        (
            "podSelector: {matchLabels: {app: 1}}",
            5,
            "invalid type: integer `1`, expected a string",
            true,
            false,
            "to all workloads of namespace data",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}",
            5,
            "operator Like of a is none of In, NotIn, Exists and DoesNotExist",
            true,
            false,
            "to all workloads of namespace data",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: In}]}",
            5,
            "In of a needs values",
            true,
            false,
            "to all workloads of namespace data",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            5,
            "Exists of a takes no values",
            true,
            false,
            "to all workloads of namespace data",
        ),
        (
            "podSelector: {matchLabel: {app: x}}",
            5,
            "spec.podSelector.matchLabel is not known",
            true,
            false,
            "to all workloads of namespace data",
        ),
        (
            "podSelector: {matchLabels: {app: db}}\npolicyTypes: [Ingres]",
            6,
            "policyTypes: `Ingres` is neither Ingress nor Egress",
            true,
            true,
            "to and from workloads of namespace data with app=db",
        ),
        (
            "podSelector: {}\npolicyTypes: [Egress]\ningres: []",
            7,
            "spec.ingres is not known",
            false,
            true,
            "from all workloads of namespace data",
        ),
        (
            "podSelector: {}\negress: [{}]\nodd: 1",
            7,
            "spec.odd is not known",
            true,
            true,
            "to and from all workloads of namespace data",
        ),
    ] {
        let text = policy("networking.k8s.io/v1", "NetworkPolicy", "data", spec);
        let loaded = with(&text);
        let back = Asked { from: "10.0.0.2", to: "10.0.0.1", ..CONNECT };
        assert_eq!(!CONNECT.allowed(&loaded.mesh), ingress, "{spec}");
        assert_eq!(!back.allowed(&loaded.mesh), egress, "{spec}");
        assert!(loaded.mesh.access[0].name.ends_with("(unreadable)"));
        let wanted = format!(
            "f.yaml:{line}: error: NetworkPolicy data/p: {reason}; NetworkPolicy cannot be read, \
             therefore CLOSED: no connection {what} is allowed by it"
        );
        assert_eq!(errors(&loaded), [wanted], "{spec}");
    }
}

#[test]
fn a_bad_rule_of_a_network_policy_allows_nothing() {
    for (rule, reason) in [
        ("{from: [{}]}", "a peer names pods, namespaces or an ipBlock"),
        (
            "{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
            "ipBlock stands alone in a peer",
        ),
        ("{from: [{ipBlock: {cidr: 10.0.0.0/64}}]}", "`10.0.0.0/64` is no address or network"),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}",
            "except: not all of it is within 10.0.0.0/8",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}",
            "except: not all of it is within 10.0.0.0/8",
        ),
        (
            "{from: [{namespaceSelector: {matchLabels: [a]}}]}",
            "invalid type: sequence, expected a map",
        ),
        ("{from: [{serviceSelector: {}}]}", "spec.ingress.1.from.0.serviceSelector is not known"),
        ("{to: [{podSelector: {}}]}", "spec.ingress.1.to is not known"),
        ("{ports: [{port: 0}]}", "0 is no port number"),
        (
            "{ports: [{port: 90, endPort: 80}]}",
            "endPort 80 needs a port with a number not above it",
        ),
        (
            "{ports: [{port: http, endPort: 80}]}",
            "endPort 80 needs a port with a number not above it",
        ),
        ("{ports: [{protocol: ICMP}]}", "protocol ICMP is none of TCP, UDP and SCTP"),
        ("{ports: [{port: 70000}]}", "70000 is no port number"),
        ("7", "invalid type: integer `7`, expected NetworkPolicyIngressRule"),
    ] {
        let spec = format!("podSelector: {{}}\ningress:\n- {{ports: [{{port: 81}}]}}\n- {rule}");
        let loaded = with(&policy("networking.k8s.io/v1", "NetworkPolicy", "data", &spec));
        assert!(!CONNECT.allowed(&loaded.mesh), "{rule}");
        assert!(Asked { port: 81, ..CONNECT }.allowed(&loaded.mesh), "the other rule stands");
        let wanted = format!(
            "f.yaml:8: error: NetworkPolicy data/p: {reason}; the rule cannot be read, therefore \
             CLOSED: it allows nothing"
        );
        assert_eq!(errors(&loaded), [wanted], "{rule}");
    }
    let loaded = with(&policy("networking.k8s.io/v1", "NetworkPolicy", "data", "ingress: 7"));
    assert!(!CONNECT.allowed(&loaded.mesh));
    assert_eq!(
        errors(&loaded),
        [
            "f.yaml:5: error: NetworkPolicy data/p: spec.ingress is no list; CLOSED: ingress allows nothing"
        ]
    );
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                places(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Which of many calls go through.
fn let_through(loaded: &Loaded) -> Vec<bool> {
    let mut allowed = Vec::new();
    for from in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "198.51.100.7", "192.0.2.1"] {
        for to in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "198.51.100.7"] {
            for (port, request) in
                [(80, Some(("GET", "/a"))), (80, Some(("POST", "/b"))), (90, None)]
            {
                allowed.push(Asked { from, to, port, request, ..GET }.allowed(&loaded.mesh));
            }
        }
    }
    allowed
}

/// Whatever is of the wrong type, or one field too many, is an error and opens nothing.
#[test]
fn no_mistake_opens_a_door() {
    let istio = |spec: Value| json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "data"}, "spec": spec});
    let policies = [
        istio(json!({"selector": {"matchLabels": {"app": "db"}}, "rules": [
            {"from": [{"source": {"namespaces": ["shop"], "notIpBlocks": ["10.9.0.0/16"]}}], "to": [{"operation": {"methods": ["GET"]}}]},
            {"when": [{"key": "source.ip", "values": ["10.0.0.3"]}]}]})),
        istio(
            json!({"targetRefs": [{"kind": "Service", "name": "api"}], "action": "DENY", "rules": [
            {"to": [{"operation": {"notPaths": ["/a"], "ports": ["80"]}}], "when": [{"key": "source.entity", "notValues": ["host"]}]}]}),
        ),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "data"}, "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}}], "ports": [{"port": 80, "protocol": "TCP"}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.9/32"]}}]}]}}),
    ];
    let mut tried = 0;
    for policy in &policies {
        let sound = with(&policy.to_string());
        assert_eq!(errors(&sound), [""; 0]);
        let sound = let_through(&sound);
        let mut found = Vec::new();
        places(policy, "", &mut found);
        for at in found.iter().filter(|at| at.starts_with("/spec") || at.starts_with("/metadata")) {
            let was = policy.pointer(at).unwrap();
            let mut wrong: Vec<Value> = [json!(7.5), json!([[7]]), json!({"odd": 7}), json!(true)]
                .into_iter()
                .filter(|value| std::mem::discriminant(value) != std::mem::discriminant(was))
                .collect();
            if let (Value::Object(map), true) =
                (was, at.starts_with("/spec") && !at.ends_with("/matchLabels"))
            {
                let mut more = map.clone();
                more.insert("odd".to_owned(), json!("x"));
                wrong.push(Value::Object(more));
            }
            for value in wrong {
                let mut broken = policy.clone();
                *broken.pointer_mut(at).unwrap() = value.clone();
                let loaded = with(&broken.to_string());
                assert!(!errors(&loaded).is_empty(), "{at}: {value}");
                let opened = sound.iter().zip(let_through(&loaded)).any(|(was, is)| is && !was);
                assert!(!opened, "{at}: {value}");
                tried += 1;
            }
        }
    }
    assert!(tried > 250, "{tried}");
}
