//! HTTPRoutes from YAML to the decision: what a match holds for, which of several wins, and whom
//! a route is for.

mod asked;

use asked::{Ask, Mesh, ask, gets};

const ONE: &str = "one.shop.svc.cluster.local:80";
const TWO: &str = "two.shop.svc.cluster.local:80";
const THREE: &str = "three.web.svc.cluster.local:80";
const API: &str = "api.shop.svc.cluster.local:80";
const PARENT: &str = "{group: '', kind: Service, name: api, namespace: shop}";

/// An HTTPRoute; `metadata` and `spec` are what goes behind its name and before its rules.
fn route(metadata: &str, spec: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: \
         {{{metadata}}}\nspec:\n  {spec}\n  rules:\n{rules}"
    )
}

/// A rule with these matches to a service of namespace shop.
fn to(backend: &str, matches: &str) -> String {
    format!(
        "  - {{matches: {matches}, backendRefs: [{{name: {backend}, namespace: shop, port: 80}}]}}\n"
    )
}

/// A route of the service's own namespace.
fn producer(name: &str, spec: &str, rules: &str) -> String {
    let metadata = format!("name: {name}, namespace: shop");
    route(&metadata, &format!("parentRefs: [{PARENT}]\n  {spec}"), rules)
}

fn load(text: &str) -> Mesh {
    let mesh = Mesh::load(text);
    assert_eq!(mesh.problems(), [] as [String; 0], "{text}");
    mesh
}

/// For each match of the only rule, whom it holds for, and whom not.
fn holds(table: &[(&str, &[Ask<'_>], &[Ask<'_>])]) {
    for (matches, met, missed) in table {
        let mesh = load(&producer("r", "", &to("one", matches)));
        for (asks, wanted) in [(met, ONE), (missed, "404")] {
            for ask in *asks {
                assert_eq!(mesh.decide(ask), wanted, "{matches}: {ask:?}");
            }
        }
    }
}

#[test]
fn paths_and_methods() {
    holds(&[
        (
            "[{path: {type: Exact, value: /a}}]",
            &gets(["/a", "/a?b", "/x/../a"]),
            &gets(["/", "/a/", "/A", "/a/b", "/ab"]),
        ),
        (
            "[{path: {type: PathPrefix, value: /foo}}]",
            &gets(["/foo", "/foo/", "/foo/bar", "/foo?x", "/foo//"]),
            &gets(["/foobar", "/Foo", "/fo", "/", "/x/foo"]),
        ),
        // slashes at the end of a prefix do not count
        (
            "[{path: {type: PathPrefix, value: /foo/}}]",
            &gets(["/foo", "/foo/", "/foo/bar"]),
            &gets(["/foobar", "/fo"]),
        ),
        ("[{path: {value: /foo}}]", &gets(["/foo/bar"]), &gets(["/foobar"])),
        ("[{path: {type: PathPrefix}}]", &gets(["/", "/a"]), &[]),
        ("[{path: {type: PathPrefix, value: /}}]", &gets(["/", "/a", "//"]), &[]),
        (
            "[{path: {type: RegularExpression, value: '/v[12]'}}]",
            &gets(["/v1", "/v2?x"]),
            &gets(["/v3", "/v1/", "/x/v1"]),
        ),
        (
            "[{method: GET}]",
            &[ask("GET", "/")],
            &[ask("get", "/"), ask("HEAD", "/"), ask("POST", "/")],
        ),
        ("[{}]", &[ask("GET", "/"), ask("BREW", "/a")], &[]),
        ("[]", &[ask("GET", "/")], &[]),
        (
            "[{path: {value: /a}, method: GET}, {path: {value: /b}}]",
            &[ask("GET", "/a"), ask("PUT", "/b")],
            &[ask("PUT", "/a"), ask("GET", "/c")],
        ),
    ]);
}

#[test]
fn headers_and_query_params() {
    let a = |value| ask("GET", "/").headers(value);
    holds(&[
        (
            "[{headers: [{name: Version, value: one}]}]",
            &[a(&[("version", "one")]), a(&[("VERSION", "one")])],
            &[ask("GET", "/"), a(&[("version", "One")]), a(&[("version", "one1")])],
        ),
        (
            "[{headers: [{type: RegularExpression, name: v, value: '[0-9]+'}]}]",
            &[a(&[("v", "12")])],
            &[ask("GET", "/"), a(&[("v", "a1")]), a(&[("v", "")])],
        ),
        // of a repeated name the first match counts, and the rest do not
        (
            "[{headers: [{name: V, value: '1'}, {name: v, value: '2'}]}]",
            &[a(&[("v", "1")])],
            &[a(&[("v", "2")]), a(&[("v", "1"), ("v", "2")])],
        ),
        (
            "[{headers: [{name: v, value: '1,2'}]}]",
            &[a(&[("v", "1"), ("V", "2")])],
            &[a(&[("v", "1")])],
        ),
        (
            "[{headers: [{name: v, value: '1'}, {name: w, value: '2'}]}]",
            &[a(&[("w", "2"), ("v", "1")])],
            &[a(&[("v", "1")]), a(&[("w", "2")])],
        ),
        (
            "[{queryParams: [{name: k, value: v}]}]",
            &gets(["/?k=v", "/a?b&k=v", "/?k=v&k=w"]),
            &gets(["/", "/?k", "/?K=v", "/?k=V", "/?k=w&k=v", "/?k=%76"]),
        ),
        (
            "[{queryParams: [{type: RegularExpression, name: k, value: 'v+'}]}]",
            &gets(["/?k=vv"]),
            &gets(["/?k=", "/?k=vw"]),
        ),
        // names of parameters have a case, so these are two; of one name the first match counts
        (
            "[{queryParams: [{name: k, value: '1'}, {name: K, value: '2'}, {name: k, value: '3'}]}]",
            &gets(["/?k=1&K=2"]),
            &gets(["/?k=1", "/?k=3&K=2"]),
        ),
    ]);
}

#[test]
fn hostnames() {
    for (names, met, missed) in [
        ("[a.io]", &["a.io", "A.io:8080", "a.io."][..], &["b.a.io", "a.iox", "xa.io"][..]),
        ("[A.io]", &["a.io"], &["b.io"]),
        ("['*.a.io']", &["b.a.io", "c.b.a.io", "B.A.IO:80"], &["a.io", "ba.io", ".a.io.b"]),
        ("[a.io, '*.b.io']", &["a.io", "x.b.io"], &["b.io", "x.a.io"]),
        ("[]", &["any", "a.io"], &[]),
    ] {
        let mesh = load(&producer("r", &format!("hostnames: {names}"), &to("one", "[{}]")));
        for (hosts, wanted) in [(met, ONE), (missed, "404")] {
            for host in hosts {
                assert_eq!(mesh.decide(&ask("GET", "/").host(host)), wanted, "{names} {host}");
            }
        }
    }
}

/// Two matches that both hold: the first of a pair wins, wherever and in whichever order they are
/// written: rules of one route, or routes of one namespace.
#[test]
fn the_most_specific_match_wins() {
    let headers: &[(&str, &str)] = &[("h", "1"), ("i", "1"), ("j", "1")];
    let asked = ask("GET", "/a/b?q=1&r=1").headers(headers);
    let h = "{name: h, value: '1'}, {name: i, value: '1'}";
    let q = "{name: q, value: '1'}, {name: r, value: '1'}";
    for (winner, loser) in [
        // exact before prefix before regex, whatever their length
        ("{path: {type: Exact, value: /a/b}}", "{path: {value: /a/b}}"),
        ("{path: {type: Exact, value: /a/b}}", "{path: {value: /a/b/}}"),
        ("{path: {value: /}}", "{path: {type: RegularExpression, value: '/a/b|/very/long'}}"),
        (
            "{path: {type: RegularExpression, value: '/a.*'}}",
            "{path: {type: RegularExpression, value: /.*}}",
        ),
        // longer prefixes first; no path is the prefix `/`
        ("{path: {value: /a/b}}", "{path: {value: /a}}"),
        ("{path: {value: /a/}}", "{path: {value: /a}}"),
        ("{path: {value: /a}}", "{}"),
        // the path before all else
        ("{path: {value: /a}}", "{method: GET}"),
        (
            "{path: {value: /a/b}}",
            "{path: {value: /a}, method: GET, headers: [{name: h, value: '1'}], queryParams: [{name: q, value: '1'}]}",
        ),
        // then a method, then more headers, then more parameters
        ("{method: GET}", "{headers: [{name: h, value: '1'}]}"),
        (
            "{method: GET}",
            "{headers: [{name: h, value: '1'}], queryParams: [{name: q, value: '1'}]}",
        ),
        (
            "{headers: [{name: i, value: '1'}, {name: h, value: '1'}]}",
            "{headers: [{name: h, value: '1'}], queryParams: [{name: q, value: '1'}, {name: r, value: '1'}]}",
        ),
        ("{headers: [{name: h, value: '1'}]}", "{queryParams: [{name: q, value: '1'}]}"),
        (
            "{queryParams: [{name: q, value: '1'}, {name: r, value: '1'}]}",
            "{queryParams: [{name: q, value: '1'}]}",
        ),
        // a name that is repeated is one match
        (
            "{headers: [{name: h, value: '1'}, {name: i, value: '1'}]}",
            "{headers: [{name: j, value: '1'}, {name: J, value: '2'}, {name: j, value: '3'}]}",
        ),
        (
            &format!("{{headers: [{h}], queryParams: [{q}]}}"),
            &format!("{{headers: [{h}], queryParams: [{{name: q, value: '1'}}]}}"),
        ),
    ] {
        let (first, second) = (to("one", &format!("[{winner}]")), to("two", &format!("[{loser}]")));
        // Alone, the loser would hold.
        let alone = load(&producer("r", "", &second));
        assert_eq!(alone.decide(&asked), TWO, "{loser}");
        for text in [
            producer("r", "", &format!("{first}{second}")),
            producer("r", "", &format!("{second}{first}")),
            producer("a", "", &first) + &producer("b", "", &second),
            producer("a", "", &second) + &producer("b", "", &first),
            // alternatives of one rule rank one by one
            producer("a", "", &to("two", &format!("[{{path: {{value: /z}}}}, {loser}]")))
                + &producer("b", "", &to("one", &format!("[{winner}, {{path: {{value: /y}}}}]"))),
        ] {
            assert_eq!(load(&text).decide(&asked), ONE, "{winner} before {loser}: {text}");
        }
    }
}

#[test]
fn the_most_specific_hostname_wins_before_the_match() {
    let asked = ask("GET", "/a").host("x.a.io");
    let exact = to("two", "[{path: {type: Exact, value: /a}, method: GET}]");
    for (winner, loser) in [
        ("[x.a.io]", "['*.a.io']"),
        ("['*.a.io']", "['*.io']"),
        ("['*.io']", "[]"),
        ("[x.a.io]", "[]"),
        ("[x.a.io, b.io]", "['*.a.io', b.io]"),
    ] {
        let first = producer("b", &format!("hostnames: {winner}"), &to("one", "[{}]"));
        let second = producer("a", &format!("hostnames: {loser}"), &exact);
        let mesh = load(&(second.clone() + &first));
        assert_eq!(mesh.decide(&asked), ONE, "{winner} before {loser}");
        // What no rule of the closer hostname holds for may be another's.
        let narrow = to("one", "[{path: {type: Exact, value: /elsewhere}}]");
        let first = producer("b", &format!("hostnames: {winner}"), &narrow);
        assert_eq!(load(&(second + &first)).decide(&asked), TWO, "{winner} before {loser}");
    }
}

/// The older route, then the first by namespace and name, then the first rule, then the first
/// match of it.
#[test]
fn ties() {
    let made = |name: &str, time: &str, backend: &str| {
        let time =
            if time.is_empty() { String::new() } else { format!(", creationTimestamp: '{time}'") };
        let metadata = format!("name: {name}, namespace: shop{time}");
        route(&metadata, &format!("parentRefs: [{PARENT}]"), &to(backend, "[{path: {value: /a}}]"))
    };
    let (older, younger) = ("2024-01-01T00:00:00Z", "2024-01-01T00:00:01Z");
    for (what, first, second) in [
        ("older", made("z", older, "one"), made("a", younger, "two")),
        (
            "older, in another zone",
            made("z", "2024-01-01T01:00:00+02:00", "one"),
            made("a", older, "two"),
        ),
        ("with a time", made("z", younger, "one"), made("a", "", "two")),
        ("same time, by name", made("a", older, "one"), made("b", older, "two")),
        ("no time, by name", made("a", "", "one"), made("b", "", "two")),
        ("a prefix of the name", made("a", "", "one"), made("a-b", "", "two")),
    ] {
        for text in [format!("{first}{second}"), format!("{second}{first}")] {
            assert_eq!(load(&text).decide(&ask("GET", "/a")), ONE, "{what}");
        }
    }
    let rules = to("one", "[{path: {value: /a}}]") + &to("two", "[{path: {value: /a}}]");
    assert_eq!(load(&producer("r", "", &rules)).decide(&ask("GET", "/a")), ONE);
    // Time decides between equals only.
    let specific = made("a", younger, "two").replace("{value: /a}", "{type: Exact, value: /a}");
    assert_eq!(load(&(made("z", older, "one") + &specific)).decide(&ask("GET", "/a")), TWO);
}

/// A route of another namespace than the service's.
fn consumer(name: &str, namespace: &str, backend: &str, path: &str) -> String {
    let metadata = format!("name: {name}, namespace: {namespace}");
    let matches = format!("[{{path: {{value: {path}}}}}]");
    route(&metadata, &format!("parentRefs: [{PARENT}]"), &to(backend, &matches))
}

/// Routes of the service's namespace are for everybody, those of another for that one's clients,
/// for whom they stand instead (GEP-1426: "requests from a namespace with consumer routes will
/// utilize the (possibly merged) set of routes in the consumer namespace"). A route replaces what
/// would be without it, so what none of them holds for gets 404.
#[test]
fn producers_and_consumers() {
    let produced = producer("p", "", &to("one", "[{path: {value: /a}}]"));
    // One that is more specific does not win over a consumer's, which is for its clients alone.
    let consumed = consumer("c", "web", "two", "/");
    let narrow = consumer("c", "web", "two", "/c");
    let more = consumer("d", "web", "one", "/c/d");
    let of_lone = consumer("c", "lone", "one", "/c");
    for (what, text, asks) in [
        (
            "a producer's alone",
            produced.clone(),
            &[("web-1", "/a", ONE), ("shop-1", "/a", ONE), ("", "/a", ONE), ("web-1", "/b", "404")]
                [..],
        ),
        (
            "a consumer's alone",
            consumed.clone(),
            &[("web-1", "/a", TWO), ("shop-1", "/a", API), ("lone-1", "/", API), ("", "/a", API)],
        ),
        (
            "a consumer's that does not hold",
            narrow.clone(),
            &[("web-1", "/c", TWO), ("web-1", "/a", "404"), ("shop-1", "/c", API), ("", "/c", API)],
        ),
        (
            "both",
            produced.clone() + &consumed,
            &[("web-1", "/a", TWO), ("web-2", "/b", TWO), ("shop-1", "/a", ONE), ("", "/a", ONE)],
        ),
        (
            "both, and neither holds",
            produced.clone() + &narrow,
            &[
                ("web-1", "/c", TWO),
                // the producer's would hold, and is not asked
                ("web-1", "/a", "404"),
                ("shop-1", "/a", ONE),
                ("shop-1", "/c", "404"),
                ("lone-1", "/a", ONE),
            ],
        ),
        (
            "two of a consumer, merged",
            produced.clone() + &narrow + &more,
            &[("web-1", "/c", TWO), ("web-1", "/c/d", ONE), ("web-1", "/a", "404")],
        ),
        (
            "two consumers",
            produced + &narrow + &of_lone,
            &[
                ("web-1", "/c", TWO),
                ("lone-1", "/c", ONE),
                ("lone-1", "/a", "404"),
                ("shop-1", "/a", ONE),
            ],
        ),
    ] {
        let mesh = load(&text);
        for (from, target, wanted) in asks {
            assert_eq!(
                mesh.decide(&ask("GET", target).from(from)),
                *wanted,
                "{what}: {from} {target}"
            );
        }
    }
}

#[test]
fn parents() {
    let api =
        |more: &str| format!("{{group: '', kind: Service, name: api, namespace: shop{more}}}");
    let other = "{group: '', kind: Service, name: other}";
    let front = "{group: '', kind: Service, name: front, namespace: web}";
    let (api_80, api_81) = (ask("GET", "/"), ask("GET", "/").port(81));
    let (to_other, to_front) = (ask("GET", "/").to("other"), ask("GET", "/").to("front"));
    let by_web = to_front.from("web-1");
    let by_shop = to_front.from("shop-1");
    let own = "api.shop.svc.cluster.local:81";
    let (of_other, of_front) =
        ("other.shop.svc.cluster.local:80", "front.web.svc.cluster.local:80");
    for (parents, asks) in [
        // every HTTP port, or that of a number, of a name, or of both
        (vec![api("")], vec![(api_80, ONE), (api_81, ONE), (to_other, of_other)]),
        (vec![api(", port: 80")], vec![(api_80, ONE), (api_81, own)]),
        (vec![api(", sectionName: http-b")], vec![(api_80, API), (api_81, ONE)]),
        (vec![api(", sectionName: http-b, port: 81")], vec![(api_80, API), (api_81, ONE)]),
        (vec![api(", port: 80"), api(", port: 81")], vec![(api_80, ONE), (api_81, ONE)]),
        // twice the same is once
        (vec![api(", port: 80"), api(", sectionName: http")], vec![(api_80, ONE), (api_81, own)]),
        // several services: the producer's of some, the consumer's of others
        (
            vec![api(", port: 80"), other.to_owned()],
            vec![(api_80, ONE), (api_81, own), (to_other, ONE)],
        ),
        (
            vec![other.to_owned(), front.to_owned()],
            vec![
                (to_other, ONE),
                (to_other.from("web-1"), ONE),
                (by_shop, ONE),
                (by_web, of_front),
                (to_front, of_front),
            ],
        ),
    ] {
        let spec = format!("parentRefs: [{}]", parents.join(", "));
        let mesh = load(&route("name: r, namespace: shop", &spec, &to("one", "[{}]")));
        for (asked, wanted) in asks {
            assert_eq!(mesh.decide(&asked), wanted, "{spec}: {asked:?}");
        }
    }
    for (parent, reason) in [
        (api(", port: 83"), "Service shop/api: no such port"),
        (api(", sectionName: none"), "Service shop/api: no such port"),
        (api(", port: 80, sectionName: http-b"), "Service shop/api: no such port"),
        (api(", port: 82"), "Service shop/api: no HTTP on that port"),
        (api("").replace("api", "gone"), "there is no Service shop/gone"),
        // without a namespace it is the route's own
        (front.replace(", namespace: web", ""), "there is no Service shop/front"),
    ] {
        let spec = format!("parentRefs: [{parent}]");
        let mesh = Mesh::load(&route("name: r, namespace: shop", &spec, &to("one", "[{}]")));
        let problems = mesh.problems();
        assert!(problems.len() == 1 && problems[0].ends_with(reason), "{parent}: {problems:?}");
        assert_eq!(mesh.decide(&api_80), API);
    }
}

/// The same conditions, and another kind: order of the list for one, specificity for the other.
#[test]
fn each_kind_keeps_its_own_rule() {
    let asked = ask("GET", "/a/b");
    let http = producer(
        "r",
        "",
        &(to("one", "[{path: {value: /a}}]") + &to("two", "[{path: {value: /a/b}}]")),
    );
    assert_eq!(load(&http).decide(&asked), TWO);
    let virtual_service = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs, namespace: shop}
spec:
  hosts: [api]
  http:
  - {match: [{uri: {prefix: /a}}], route: [{destination: {host: one}}]}
  - {match: [{uri: {prefix: /a/b}}], route: [{destination: {host: two}}]}
";
    assert_eq!(load(virtual_service).decide(&asked), ONE);
    // One service port has one kind: the VirtualService stands, and the other is told so.
    let both = Mesh::load(&format!("{virtual_service}{http}"));
    assert_eq!(both.decide(&asked), ONE);
    let told = "not applied to port 80: VirtualService shop/vs decides there";
    assert!(both.problems().iter().any(|p| p.ends_with(told)), "{:?}", both.problems());
}

#[test]
fn a_route_to_another_namespace() {
    let rules = "  - backendRefs: [{name: three, namespace: web, port: 80}]\n";
    let text = producer("r", "", rules);
    assert_eq!(Mesh::load(&text).decide(&ask("GET", "/")), "500");
    let grant = "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: web}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}
";
    assert_eq!(load(&format!("{text}{grant}")).decide(&ask("GET", "/")), THREE);
}
