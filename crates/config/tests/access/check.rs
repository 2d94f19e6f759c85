//! What is said of policies that can be read: rules that can never match, and fields that ports
//! ignore which do not speak HTTP.

use beeway_config::{Loaded, Options, check};

use crate::kit::{CLUSTER, policy};

fn checked(more: &str) -> Vec<String> {
    let file = |name: &str, text: &str| (name.into(), text.to_owned());
    let files = [file("cluster.yaml", CLUSTER), file("f.yaml", more)];
    let Loaded { problems, .. } = check(&files, &Options::default());
    problems.iter().map(ToString::to_string).collect()
}

/// What is said of an AuthorizationPolicy `NAMESPACE/p`, whose `spec` begins on line 5.
fn said(namespace: &str, spec: &str) -> Vec<String> {
    let text = policy("security.istio.io/v1", "AuthorizationPolicy", namespace, spec);
    let mark = format!("AuthorizationPolicy {namespace}/p: ");
    checked(&text)
        .iter()
        .map(|line| line.replacen("f.yaml:", "", 1).replacen(&mark, "", 1))
        .collect()
}

fn network(spec: &str) -> Vec<String> {
    let text = policy("networking.k8s.io/v1", "NetworkPolicy", "data", spec);
    let mark = "NetworkPolicy data/p: ";
    checked(&text)
        .iter()
        .map(|line| line.replacen("f.yaml:", "", 1).replacen(mark, "", 1))
        .collect()
}

#[test]
fn nothing_is_said_of_what_is_in_order() {
    for (namespace, spec) in [
        ("data", "{}"),
        ("istio-system", "rules: [{}]"),
        (
            "data",
            "selector: {matchLabels: {app: db}}\nrules: [{from: [{source: {namespaces: [shop], principals: ['*/sa/web-sa'], notPrincipals: ['*/sa/x']}}]}]",
        ),
        (
            "data",
            "rules: [{to: [{operation: {ports: ['80'], methods: [GET, HEAD], paths: ['/a*', '*.html', '/{*}']}}]}]",
        ),
        (
            "data",
            "action: DENY\nrules: [{to: [{operation: {ports: ['80'], notPaths: [/a]}}], when: [{key: source.ip, notValues: [10.0.0.0/8]}]}]",
        ),
        (
            "data",
            "targetRefs: [{kind: Service, name: api}]\nrules: [{to: [{operation: {hosts: ['*.data'], notHosts: [x.data], ports: ['80']}}]}]",
        ),
        (
            "data",
            "rules: [{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}}]}]",
        ),
        (
            "data",
            "rules: [{when: [{key: 'request.headers[a]', values: ['x*'], notValues: [xy]}, {key: destination.port, values: ['80']}]}]",
        ),
    ] {
        assert_eq!(said(namespace, spec), [""; 0], "{spec}");
    }
    let spec = "podSelector: {}\ningress: [{from: [{podSelector: {}}], ports: [{port: http}]}]\negress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]";
    assert_eq!(network(spec), [""; 0]);
}

#[test]
fn policies_that_are_about_nothing() {
    for (spec, found) in [
        (
            "selector:\n  matchLabels: {app: cache}",
            "5: warning: there are no workloads of namespace data with app=cache",
        ),
        (
            "targetRefs:\n- {kind: Service, name: api}\n- {kind: Service, name: cache}",
            "5: warning: there is no service data/cache",
        ),
        ("action: DENY", "4: warning: no rules: it never matches (a rule `{}` matches everything)"),
    ] {
        assert_eq!(said("data", spec), [found], "{spec}");
    }
    assert_eq!(said("empty", "{}"), ["5: warning: there are no workloads of namespace empty"]);
    assert_eq!(
        network("podSelector: {matchLabels: {app: x}}"),
        ["5: warning: there are no workloads of namespace data with app=x"]
    );
}

#[test]
fn what_a_closed_namespace_makes_useless() {
    let of = |name: &str, namespace: &str, spec: &str| {
        policy("security.istio.io/v1", "AuthorizationPolicy", namespace, spec)
            .replace("name: p", &format!("name: {name}"))
    };
    let allow = of("a", "data", "selector: {matchLabels: {app: db}}\nrules: [{}]");
    let found = "f.yaml:1: warning: AuthorizationPolicy data/a: AuthorizationPolicy data/deny denies all that this policy is about; it has no effect";
    for (spec, useless) in [
        ("action: DENY\nrules: [{}]", true),
        ("selector: {matchLabels: {app: db}}\naction: DENY\nrules: [{}]", true),
        ("selector: {matchLabels: {app: db, tier: x}}\naction: DENY\nrules: [{}]", false),
        ("action: DENY\nrules: [{to: [{operation: {ports: ['80']}}]}]", false),
        ("action: AUDIT\nrules: [{}]", false),
    ] {
        let lines = checked(&[allow.clone(), of("deny", "data", spec)].join("---\n"));
        assert_eq!(lines.contains(&found.to_owned()), useless, "{spec} {lines:?}");
    }
    let mesh = of("deny", "istio-system", "action: DENY\nrules: [{}]");
    assert_eq!(
        checked(&[allow, mesh].join("---\n")),
        [found.replace("data/deny", "istio-system/deny")]
    );
}

#[test]
fn contradictions() {
    let nobody =
        |who: &str| format!("this can never match: nobody of {who} is what else is asked for");
    for (source, found) in [
        ("namespaces: [a], principals: [cluster.local/ns/b/sa/c]", nobody("account b/c")),
        ("namespaces: ['a*'], principals: ['cluster.local/ns/b/*']", nobody("namespace b")),
        ("namespaces: [a], serviceAccounts: [b/c]", nobody("account b/c")),
        ("namespaces: [a], notNamespaces: ['a*']", nobody("namespace a")),
        ("principals: [cluster.local/ns/b/sa/c], notPrincipals: ['*/sa/c']", nobody("account b/c")),
        (
            "principals: [td/ns/b/sa/c]",
            "this can never match: td is not the trust domain of the mesh, cluster.local"
                .to_owned(),
        ),
        (
            "trustDomains: [td]",
            "this can never match: td is not the trust domain of the mesh, cluster.local"
                .to_owned(),
        ),
        (
            "ipBlocks: [10.0.0.0/8], notIpBlocks: [10.0.0.0/7]",
            "this can never match: no address of 10.0.0.0/8 is what else is asked for".to_owned(),
        ),
    ] {
        let spec = format!(
            "rules:\n- from:\n  - source: {{namespaces: [shop]}}\n  - source: {{{source}}}"
        );
        assert_eq!(said("data", &spec), [format!("8: warning: {found}")], "{source}");
    }
    for source in [
        "namespaces: [a, b], principals: [cluster.local/ns/b/sa/c]",
        "namespaces: [b], principals: ['cluster.local/ns/b*']",
        "principals: ['*/sa/c'], namespaces: [a]",
        "principals: [cluster.local/ns/b/sa/c], notNamespaces: [a]",
        "namespaces: [a], notPrincipals: ['*']",
        "ipBlocks: [10.0.0.0/8, 11.0.0.0/8], notIpBlocks: [10.0.0.0/8]",
    ] {
        assert_eq!(
            said("data", &format!("rules: [{{from: [{{source: {{{source}}}}}]}}]")),
            [""; 0],
            "{source}"
        );
    }
    for (operation, when, found) in [
        (
            "methods: [GET], notMethods: ['G*']",
            "",
            "this can never match: no method is all that is asked for",
        ),
        (
            "paths: ['/a*', /ab], notPaths: ['/a*']",
            "",
            "this can never match: no path is all that is asked for",
        ),
        (
            "hosts: [A.b], notHosts: [a.B]",
            "",
            "this can never match: no host is all that is asked for",
        ),
        (
            "ports: ['80'], notPorts: ['80']",
            "",
            "this can never match: no port is all that is asked for",
        ),
        (
            "ports: ['80']",
            "{key: destination.port, values: ['90']}",
            "this can never match: no port is all that is asked for",
        ),
    ] {
        let spec = format!("rules:\n- to:\n  - operation: {{{operation}}}\n  when: [{when}]");
        let said = said("data", &spec);
        assert!(said.contains(&format!("7: warning: {found}")), "{operation} {said:?}");
    }
    for (when, found) in [
        (
            "{key: 'request.headers[a]', values: [x], notValues: [x]}",
            "no header a is all that is asked for",
        ),
        (
            "{key: source.ip, values: [10.0.0.1]}, {key: source.ip, values: [10.0.0.2]}",
            "no address of 10.0.0.1 is what else is asked for",
        ),
        (
            "{key: source.entity, values: [world]}, {key: source.namespace, values: ['*']}",
            "who is no workload has no namespace, account or principal",
        ),
    ] {
        let said = said("data", &format!("rules:\n- when: [{when}]"));
        assert!(
            said.contains(&format!("6: warning: the rule can never match: {found}")),
            "{when} {said:?}"
        );
    }
    let spec = "podSelector: {}\ningress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/9]}";
    assert_eq!(network(spec), [""; 0], "two halves are not seen through");
}

#[test]
fn values_that_no_request_has() {
    for (operation, found) in [
        ("methods: [GET, get]", "methods have their case: get is not GET"),
        ("notMethods: [HEAD, FETCH]", "FETCH is no method that is known"),
        ("paths: [/a, b]", "no path begins with `b`: it begins with /"),
        ("paths: [/a, 'b*']", "no path begins with `b`: it begins with /"),
        ("notPaths: [/a, '/b?c=1']", "`/b?c=1`: paths are compared without query and fragment"),
        (
            "paths: [/a, '/b/*/c']",
            "`/b/*/c`: a `*` is a wildcard at one end alone, and a letter elsewhere",
        ),
    ] {
        let (key, values) = operation.split_once(": ").unwrap();
        let values = values.trim_matches(['[', ']']).replace(", ", "\n      - ");
        let spec = format!(
            "rules:\n- to:\n  - operation:\n      ports: ['80']\n      {key}:\n      - {values}"
        );
        assert_eq!(said("data", &spec), [format!("11: warning: {found}")], "{operation}");
    }
}

/// `db` serves HTTP at 80 and TCP at 90 (and says that it has a port 53, UDP).
#[test]
fn fields_that_other_ports_ignore() {
    let fields = "to: [{operation: {methods: [POST], paths: [/a]}}]";
    let at = |port: &str| format!("to: [{{operation: {{methods: [POST], ports: ['{port}']}}}}]");
    for (action, rule, found) in [
        ("DENY", fields.to_owned(), "warning: port 90 does not speak HTTP: methods, paths are ignored there, and the rule denies every connection that the rest of it matches"),
        ("AUDIT", fields.to_owned(), "warning: port 90 does not speak HTTP: methods, paths are ignored there, and the rule reports every connection that the rest of it matches"),
        ("ALLOW", fields.to_owned(), "notice: port 90 does not speak HTTP: the rule, which asks for methods, paths, is not for there"),
        ("ALLOW", at("90"), "warning: the rule can never match: it asks for methods, and port 90 does not speak HTTP"),
        ("DENY", "when: [{key: 'request.headers[a]', values: [b]}]".to_owned(), "warning: port 90 does not speak HTTP: header a are ignored there, and the rule denies every connection that the rest of it matches"),
        ("ALLOW", at("443"), "notice: none of all workloads of namespace data is known to serve a port of the rule"),
        ("ALLOW", "when: [{key: connection.sni, values: [a]}, {key: destination.port, values: ['80', '90']}]".to_owned(), "warning: connection.sni: no port of the rule speaks TLS"),
    ] {
        let spec = format!("action: {action}\nrules:\n- {rule}");
        assert_eq!(said("data", &spec), [format!("7: {found}")], "{spec}");
    }
    assert_eq!(said("data", &format!("action: DENY\nrules:\n- {}", at("80"))), [""; 0]);
    let service =
        format!("targetRef: {{kind: Service, name: api}}\naction: DENY\nrules:\n- {fields}");
    assert!(said("data", &service)[0].starts_with("8: warning: port 90 does not speak HTTP"));
}

#[test]
fn tokens_and_useless_rules() {
    let rule = "from: [{source: {requestPrincipals: ['*']}}]\n  to: [{operation: {ports: ['80']}}]";
    assert_eq!(
        said("data", &format!("rules:\n- {rule}")),
        [
            "6: warning: it asks for what a token says, which nobody verifies: the rule never matches"
        ]
    );
    assert_eq!(
        said("data", &format!("action: DENY\nrules:\n- {rule}")),
        [
            "7: warning: it asks for what a token says, which nobody verifies: that is taken as met, and the rule matches more than it says"
        ]
    );
    assert_eq!(
        said("data", "rules:\n- {}\n- from: [{source: {namespaces: [a]}}]"),
        ["7: notice: an earlier rule matches everything"]
    );
}

#[test]
fn network_policies() {
    for (rule, found) in [
        (
            "{ports: [{port: 443}]}",
            "6: notice: none of all workloads of namespace data is known to serve a port of the rule",
        ),
        (
            "{ports: [{port: 80, protocol: UDP}]}",
            "6: notice: none of all workloads of namespace data is known to serve a port of the rule",
        ),
    ] {
        assert_eq!(network(&format!("podSelector: {{}}\ningress: [{rule}]")), [found], "{rule}");
    }
    assert_eq!(network("podSelector: {}\negress: [{ports: [{port: 443}]}]"), [""; 0], "of anybody");
}

/// Rules that cannot be read are errors already.
#[test]
fn what_cannot_be_read_is_said_once() {
    for spec in ["rules: [{from: []}]", "rules: 7", "action: DENY\nrules: [{to: [7]}]"] {
        let said = said("data", spec);
        assert!(said.len() == 1 && said[0].contains("CLOSED"), "{said:?}");
    }
}
