//! The reference router, case by case.

use std::collections::BTreeMap;

use beeway_model::{
    Action, Backend, ClusterId, HeaderMatch, Match, Outcome, PathMatch, Protocol, QueryMatch,
    Request, Rule, ServicePort, SourceMatch, StringMatch, Transport, Workload, route,
};

const FALLBACK: ClusterId = ClusterId(0);

fn port(rules: Option<Vec<Rule>>) -> ServicePort {
    ServicePort {
        stream_rules: Vec::new(),
        name: "http".into(),
        number: 80,
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: FALLBACK,
        rules,
    }
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { name: String::new(), matches, action, policy: None, detour: None }
}

fn respond(status: u16) -> Action {
    Action::Respond { status, body: String::new() }
}

fn get<'a>(target: &'a str, headers: &'a [(&'a str, &'a [u8])]) -> Request<'a> {
    Request { method: "GET", scheme: "http", authority: "a.b:80", target, headers, source: None }
}

/// Whether a request meets a condition: the only rule answers 200, and 404 comes of no rule.
fn meets(m: &Match, request: &Request<'_>) -> bool {
    let decision = route(&port(Some(vec![rule(vec![m.clone()], respond(200))])), request, 0);
    let met = decision.outcome == Outcome::Respond { status: 200, body: String::new() };
    assert_eq!(decision.rule, met.then_some(0));
    met
}

#[test]
fn without_rules_the_ports_own_cluster_serves() {
    let decision = route(&port(None), &get("/", &[]), 0);
    assert_eq!((decision.rule, decision.outcome), (None, Outcome::Forward(FALLBACK)));
    let decision = route(&port(Some(Vec::new())), &get("/", &[]), 0);
    let not_found = Outcome::Respond { status: 404, body: String::new() };
    assert_eq!((decision.rule, decision.outcome), (None, not_found));
}

#[test]
fn the_first_rule_that_holds_wins() {
    let prefix =
        |path: &str| Match { path: Some(PathMatch::Prefix(path.into())), ..Match::default() };
    let rules = vec![
        rule(vec![prefix("/x"), prefix("/a")], respond(201)),
        rule(vec![prefix("/a/b")], respond(202)),
        rule(Vec::new(), respond(203)),
    ];
    for (target, wanted) in [("/a/b", 0), ("/x", 0), ("/b", 2)] {
        let decision = route(&port(Some(rules.clone())), &get(target, &[]), 0);
        assert_eq!(decision.rule, Some(wanted), "{target}");
    }
}

#[test]
fn paths() {
    use PathMatch::{Exact, Prefix, Regex, Segments};
    for (pattern, ignore_case, target, wanted) in [
        (Exact("/a".into()), false, "/a", true),
        (Exact("/a".into()), false, "/a?q=1", true),
        (Exact("/a".into()), false, "/a/", false),
        (Exact("/a".into()), false, "/A", false),
        (Exact("/a".into()), true, "/A", true),
        (Exact("/a".into()), false, "/x/../a", true),
        (Prefix("/foo".into()), false, "/foobar", true),
        (Prefix("/Foo".into()), true, "/fOObar", true),
        (Prefix("/foo".into()), false, "/fo", false),
        (Segments("/foo".into()), false, "/foo", true),
        (Segments("/foo".into()), false, "/foo/", true),
        (Segments("/foo".into()), false, "/foo/bar", true),
        (Segments("/foo".into()), false, "/foobar", false),
        (Segments("/foo/".into()), false, "/foo", true),
        (Segments("/".into()), false, "/anything", true),
        (Regex("/v[12]".into()), false, "/v1", true),
        (Regex("/v[12]".into()), false, "/v1/x", false),
        (Regex("/a|/b".into()), false, "/b", true),
        (Regex("/a|/b".into()), false, "/a/b", false),
        (Regex("(".into()), false, "/(", false),
    ] {
        let m = Match {
            path: Some(pattern.clone()),
            ignore_path_case: ignore_case,
            ..Match::default()
        };
        assert_eq!(meets(&m, &get(target, &[])), wanted, "{pattern:?} {target}");
    }
}

/// What a pattern means: the whole value, and nothing that another dialect would make of it.
#[test]
fn regexes() {
    for (pattern, value, wanted) in [
        ("a|b", "a", true),
        ("a|b", "ab", false),
        ("a", "xa", false),
        ("^a$", "a", true),
        ("", "", true),
        ("", "a", false),
        (".*", "", true),
        (".+", "", false),
        // the end of the text, not of a line; and no line feed for the dot
        ("a", "a\n", false),
        ("a$", "a\n", false),
        ("a.b", "a\nb", false),
        ("(?s)a.b", "a\nb", true),
        ("(?m)a$\nb", "a\nb", true),
        // flags count up to the end of their group
        ("(?i)ab", "AB", true),
        ("(?i:a)b", "AB", false),
        ("a(?i)b|c", "aB", true),
        ("ab", "AB", false),
        ("\\d+", "12", true),
        ("[^/]+", "a/b", false),
        ("ä.", "äö", true),
        ("a{2,3}", "aaaa", false),
        ("a{1001}", "a", false),
        // none at all: no look-around and no back-references in RE2; glob stars; brackets
        ("a(?=b)", "a", false),
        ("(a)\\1", "aa", false),
        ("*", "*", false),
        ("(", "(", false),
    ] {
        let headers = [("x", value.as_bytes())];
        let condition = HeaderMatch {
            name: "x".into(),
            value: StringMatch::Regex(pattern.into()),
            invert: false,
        };
        let m = Match { headers: vec![condition], ..Match::default() };
        // Twice: compiled, and kept.
        for _ in 0..2 {
            assert_eq!(meets(&m, &get("/", &headers)), wanted, "{pattern} {value:?}");
        }
    }
}

/// More patterns than are kept: each still means what it says, again and again.
#[test]
fn regexes_without_number() {
    let m =
        |n: usize| Match { path: Some(PathMatch::Regex(format!("/{n}[ab]"))), ..Match::default() };
    for _ in 0..2 {
        for n in 0..5000 {
            let target = format!("/{n}b");
            assert!(meets(&m(n), &get(&target, &[])), "{n}");
            assert!(!meets(&m(n + 1), &get(&target, &[])), "{n}");
        }
    }
}

#[test]
fn hosts() {
    for (pattern, authority, wanted) in [
        ("a.b", "a.b", true),
        ("a.b", "A.B.:8080", true),
        ("A.b", "a.b", true),
        ("*.b", "a.b", true),
        ("*.b", "x.a.b", true),
        ("*.b", "b", false),
        ("*.b", "ab", false),
        ("a.b", "x.a.b", false),
    ] {
        let m = Match { hosts: vec![pattern.into()], ..Match::default() };
        let request = Request { authority, ..get("/", &[]) };
        assert_eq!(meets(&m, &request), wanted, "{pattern} {authority}");
    }
}

#[test]
fn headers() {
    use StringMatch::{Exact, Prefix, Present, Regex};
    let sent: &[(&str, &[u8])] = &[
        ("X-A", b"1"),
        ("x-empty", b""),
        ("x-twice", b"a"),
        ("X-Twice", b"b"),
        ("x-raw", b"\xff"),
    ];
    for (name, value, invert, wanted) in [
        ("x-a", Exact("1".into()), false, true),
        ("x-a", Exact("2".into()), false, false),
        ("x-a", Exact("2".into()), true, true),
        ("x-a", Prefix(String::new()), false, true),
        ("x-a", Regex("[0-9]".into()), false, true),
        ("x-a", Regex("".into()), false, false),
        ("x-empty", Present, false, true),
        ("x-none", Present, false, false),
        ("x-none", Present, true, true),
        ("x-none", Exact("1".into()), true, true),
        ("x-twice", Exact("a,b".into()), false, true),
        ("x-twice", Exact("a".into()), false, false),
        ("x-raw", Present, false, true),
        ("x-raw", Regex(".*".into()), false, false),
        ("host", Exact("a.b:80".into()), false, true),
    ] {
        let header = HeaderMatch { name: name.into(), value, invert };
        let m = Match { headers: vec![header.clone()], ..Match::default() };
        assert_eq!(meets(&m, &get("/", sent)), wanted, "{header:?}");
    }
}

#[test]
fn query_parameters() {
    use StringMatch::{Exact, Prefix, Present};
    for (target, name, value, wanted) in [
        ("/?a=1", "a", Exact("1".into()), true),
        ("/?a=1&a=2", "a", Exact("2".into()), false),
        ("/?b=1&a=2#a=3", "a", Exact("2".into()), true),
        ("/?A=1", "a", Present, false),
        ("/?a", "a", Present, true),
        ("/?a=", "a", Exact(String::new()), true),
        ("/?a=12", "a", Prefix("1".into()), true),
        ("/", "a", Present, false),
    ] {
        let m = Match { query: vec![QueryMatch { name: name.into(), value }], ..Match::default() };
        assert_eq!(meets(&m, &get(target, &[])), wanted, "{target} {name}");
    }
}

#[test]
fn methods_and_schemes() {
    let m = |method: &str, scheme: &str| Match {
        method: Some(StringMatch::Exact(method.into())),
        scheme: Some(StringMatch::Exact(scheme.into())),
        ..Match::default()
    };
    assert!(meets(&m("GET", "http"), &get("/", &[])));
    assert!(!meets(&m("get", "http"), &get("/", &[])));
    assert!(!meets(&m("GET", "https"), &get("/", &[])));
}

#[test]
fn sources() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let caller = Workload {
        namespace: "shop".into(),
        name: "w".into(),
        labels: labels(&[("app", "x"), ("v", "1")]),
        addresses: Vec::new(),
        service_account: "default".into(),
        node: None,
        uid: None,
        cgroup: None,
    };
    let source = |namespace: Option<&str>, pairs| SourceMatch {
        namespace: namespace.map(str::to_owned),
        labels: labels(pairs),
    };
    for (sources, wanted) in [
        (vec![], true),
        (vec![source(Some("shop"), &[])], true),
        (vec![source(Some("web"), &[])], false),
        (vec![source(None, &[("app", "x")])], true),
        (vec![source(None, &[("app", "x"), ("v", "2")])], false),
        (vec![source(Some("web"), &[]), source(None, &[("v", "1")])], true),
    ] {
        let m = Match { sources, ..Match::default() };
        let known = Request { source: Some(&caller), ..get("/", &[]) };
        assert_eq!(meets(&m, &known), wanted, "{m:?}");
        // An unknown caller is nobody in particular.
        assert_eq!(meets(&m, &get("/", &[])), m.sources.is_empty());
    }
}

#[test]
fn backends_are_drawn_by_weight() {
    let backends = |weights: &[(Option<usize>, u32)]| {
        let backend = |(id, weight): &(Option<usize>, u32)| Backend {
            cluster: id.map(ClusterId),
            weight: *weight,
            policy: None,
        };
        Action::Forward(weights.iter().map(backend).collect())
    };
    let draw = |action: &Action, draw| {
        route(&port(Some(vec![rule(Vec::new(), action.clone())])), &get("/", &[]), draw).outcome
    };
    let failed = Outcome::Respond { status: 500, body: String::new() };
    let split = backends(&[(Some(1), 90), (Some(2), 0), (Some(3), 10)]);
    let boundary = (u64::from(u32::MAX) + 1) * 9 / 10;
    let below = u32::try_from(boundary).unwrap();
    assert_eq!(draw(&split, 0), Outcome::Forward(ClusterId(1)));
    assert_eq!(draw(&split, below), Outcome::Forward(ClusterId(1)));
    assert_eq!(draw(&split, below + 1), Outcome::Forward(ClusterId(3)));
    assert_eq!(draw(&split, u32::MAX), Outcome::Forward(ClusterId(3)));
    let half_missing = backends(&[(None, 1), (Some(1), 1)]);
    assert_eq!(draw(&half_missing, 0), failed);
    assert_eq!(draw(&half_missing, u32::MAX), Outcome::Forward(ClusterId(1)));
    for nothing in [backends(&[]), backends(&[(Some(1), 0)])] {
        assert_eq!(draw(&nothing, 0), failed);
        assert_eq!(draw(&nothing, u32::MAX), failed);
    }
}
