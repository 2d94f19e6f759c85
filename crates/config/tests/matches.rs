//! Every condition that can be written, from YAML to the decision of the reference router, with
//! what just misses it.

mod asked;

use asked::{Ask, Mesh, ask, gets};

/// A VirtualService of the service `api`: what meets the match gets 201, everything else 202.
fn with_match(conditions: &str) -> Mesh {
    virtual_service(
        "",
        &format!(
            "  - match: {conditions}\n    directResponse: {{status: 201}}\n  \
             - directResponse: {{status: 202}}\n"
        ),
    )
}

fn virtual_service(more: &str, rules: &str) -> Mesh {
    Mesh::load(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs, \
         namespace: shop}}\nspec:\n  hosts: [api]\n{more}  http:\n{rules}"
    ))
}

/// For each match, whom it holds for, and whom not.
fn holds(table: &[(&str, &[Ask<'_>], &[Ask<'_>])]) {
    for (conditions, met, missed) in table {
        let mesh = with_match(conditions);
        assert_eq!(mesh.problems(), [] as [String; 0], "{conditions}");
        for (asks, wanted) in [(met, "201"), (missed, "202")] {
            for ask in *asks {
                assert_eq!(mesh.decide(ask), wanted, "{conditions}: {ask:?}");
            }
        }
    }
}

#[test]
fn uri() {
    holds(&[
        (
            "[{uri: {exact: /a}}]",
            &gets(["/a", "/a?b", "/x/../a", "/%61", "/a#f"]),
            &gets(["/a/", "/A", "/ab", "/", "/b/a", "//a", "/a%2F"]),
        ),
        ("[{uri: {exact: /a/}}]", &gets(["/a/", "/a/."]), &gets(["/a", "/a/b"])),
        (
            "[{uri: {prefix: /a}}]",
            &gets(["/a", "/ab", "/a/b", "/a?b"]),
            &gets(["/", "/A", "/b/a", "/x?/a"]),
        ),
        ("[{uri: {prefix: /a/}}]", &gets(["/a/", "/a/b"]), &gets(["/a", "/ab"])),
        ("[{uri: {prefix: /}}]", &gets(["/", "/a"]), &[]),
        (
            "[{uri: {regex: '/v[12](/.*)?'}}]",
            &gets(["/v1", "/v2/x?y", "/v1/"]),
            &gets(["/v3", "/v1x", "/x/v1", "/V1", "/"]),
        ),
        ("[{uri: {regex: '/a|/b'}}]", &gets(["/a", "/b"]), &gets(["/ab", "/a/b"])),
        ("[{uri: {regex: '(?i)/a'}}]", &gets(["/A"]), &gets(["/b"])),
        ("[{uri: {exact: /aB}, ignoreUriCase: true}]", &gets(["/Ab", "/AB"]), &gets(["/abc"])),
        ("[{uri: {prefix: /aB}, ignoreUriCase: true}]", &gets(["/AbC"]), &gets(["/ac"])),
        // Istio: case is never ignored for a regex
        ("[{uri: {regex: /ab}, ignoreUriCase: true}]", &gets(["/ab"]), &gets(["/AB"])),
        ("[{uri: {exact: /aB}, ignoreUriCase: false}]", &gets(["/aB"]), &gets(["/ab"])),
        ("[{ignoreUriCase: true}]", &gets(["/", "/A"]), &[]),
    ]);
}

#[test]
fn scheme_and_method() {
    let methods = |list: &[&'static str]| -> Vec<Ask<'static>> {
        list.iter().map(|method| ask(method, "/")).collect()
    };
    let http = ask("GET", "/");
    let https = ask("GET", "/").scheme("https");
    holds(&[
        ("[{scheme: {exact: http}}]", &[http], &[https]),
        ("[{scheme: {exact: https}}]", &[https], &[http]),
        ("[{scheme: {exact: HTTP}}]", &[], &[http]),
        ("[{scheme: {prefix: http}}]", &[http, https], &[]),
        ("[{scheme: {regex: 'https?'}}]", &[http, https], &[]),
        ("[{scheme: {regex: 'ht'}}]", &[], &[http]),
        ("[{scheme: {}}]", &[http, https], &[]),
        ("[{method: {exact: GET}}]", &methods(&["GET"]), &methods(&["get", "GETS", "HEAD"])),
        ("[{method: {prefix: P}}]", &methods(&["PUT", "POST"]), &methods(&["GET", "OPTIONS"])),
        (
            "[{method: {regex: 'GET|HEAD'}}]",
            &methods(&["GET", "HEAD"]),
            &methods(&["POST", "GETHEAD", "head"]),
        ),
        ("[{method: {}}]", &methods(&["GET", "BREW"]), &[]),
    ]);
}

/// The authority is compared as it was sent.
#[test]
fn authority() {
    let hosts = |list: &[&'static str]| -> Vec<Ask<'static>> {
        list.iter().map(|host| ask("GET", "/").host(host)).collect()
    };
    holds(&[
        (
            "[{authority: {exact: api.shop}}]",
            &hosts(&["api.shop"]),
            &hosts(&["api.shop:80", "API.shop", "api.shop.", "api", "api.shop.svc"]),
        ),
        ("[{authority: {exact: 'api:80'}}]", &hosts(&["api:80"]), &hosts(&["api", "api:8"])),
        ("[{authority: {prefix: api}}]", &hosts(&["api", "api:80", "apis"]), &hosts(&["ap", "x"])),
        (
            "[{authority: {regex: 'api(:\\d+)?'}}]",
            &hosts(&["api", "api:80"]),
            &hosts(&["api:", "api:80x", "xapi"]),
        ),
        ("[{headers: {host: {exact: api}}}]", &hosts(&["api"]), &hosts(&["api:80"])),
        ("[{headers: {':authority': {exact: api}}}]", &hosts(&["api"]), &hosts(&["api:80"])),
    ]);
}

#[test]
fn headers() {
    let none = ask("GET", "/");
    let a = |value| ask("GET", "/").headers(value);
    holds(&[
        (
            "[{headers: {x-a: {exact: '1'}}}]",
            &[a(&[("x-a", "1")]), a(&[("X-A", "1")]), a(&[("b", ""), ("x-a", "1")])],
            &[
                none,
                a(&[("x-a", "2")]),
                a(&[("x-a", "11")]),
                a(&[("x-a", "")]),
                a(&[("x-ab", "1")]),
            ],
        ),
        // names in the configuration ignore case too; values never do
        (
            "[{headers: {X-A: {exact: v}}}]",
            &[a(&[("x-a", "v")])],
            &[a(&[("x-a", "V")]), a(&[("x-b", "v")])],
        ),
        (
            "[{headers: {x-a: {prefix: '1'}}}]",
            &[a(&[("x-a", "1")]), a(&[("x-a", "12")])],
            &[none, a(&[("x-a", "21")]), a(&[("x-a", "")])],
        ),
        (
            "[{headers: {x-a: {regex: '[0-9]+'}}}]",
            &[a(&[("x-a", "12")])],
            &[none, a(&[("x-a", "")]), a(&[("x-a", "1a")]), a(&[("x-a", "1,2")])],
        ),
        // present: three ways to say it
        ("[{headers: {x-a: {}}}]", &[a(&[("x-a", "1")]), a(&[("x-a", "")])], &[none]),
        ("[{headers: {x-a: }}]", &[a(&[("x-a", "1")]), a(&[("x-a", "")])], &[none]),
        ("[{headers: {x-a: {regex: '*'}}}]", &[a(&[("x-a", "1")]), a(&[("x-a", "")])], &[none]),
        ("[{headers: {x-a: {exact: ''}}}]", &[a(&[("x-a", "")])], &[none, a(&[("x-a", "1")])]),
        ("[{headers: {x-a: {prefix: ''}}}]", &[a(&[("x-a", "")]), a(&[("x-a", "1")])], &[none]),
        // repeated fields are one value
        (
            "[{headers: {x-a: {exact: '1,2'}}}]",
            &[a(&[("x-a", "1"), ("X-A", "2")]), a(&[("x-a", "1,2")])],
            &[a(&[("x-a", "2"), ("x-a", "1")]), a(&[("x-a", "1")]), a(&[("x-a", "1, 2")])],
        ),
        // all of several
        (
            "[{headers: {x-a: {exact: '1'}, x-b: {exact: '2'}}}]",
            &[a(&[("x-b", "2"), ("x-a", "1")])],
            &[a(&[("x-a", "1")]), a(&[("x-b", "2")]), a(&[("x-a", "2"), ("x-b", "1")])],
        ),
    ]);
}

#[test]
fn without_headers() {
    let none = ask("GET", "/");
    let a = |value| ask("GET", "/").headers(value);
    holds(&[
        (
            "[{withoutHeaders: {x-a: {exact: q}}}]",
            &[none, a(&[("x-a", "qq")]), a(&[("x-a", "")]), a(&[("x-a", "Q")])],
            &[a(&[("x-a", "q")]), a(&[("X-A", "q")])],
        ),
        (
            "[{withoutHeaders: {x-a: {prefix: q}}}]",
            &[none, a(&[("x-a", "pq")]), a(&[("x-a", "")])],
            &[a(&[("x-a", "q")]), a(&[("x-a", "qp")])],
        ),
        (
            "[{withoutHeaders: {x-a: {regex: 'a+'}}}]",
            &[none, a(&[("x-a", "ab")]), a(&[("x-a", "")])],
            &[a(&[("x-a", "aa")])],
        ),
        ("[{withoutHeaders: {x-a: {}}}]", &[none], &[a(&[("x-a", "q")]), a(&[("x-a", "")])]),
        ("[{withoutHeaders: {x-a: }}]", &[none], &[a(&[("x-a", "q")]), a(&[("x-a", "")])]),
        ("[{withoutHeaders: {x-a: {regex: '*'}}}]", &[none], &[a(&[("x-a", "")])]),
        // Envoy takes a header that is not there for an empty one
        (
            "[{withoutHeaders: {x-a: {exact: ''}}}]",
            &[a(&[("x-a", "q")])],
            &[none, a(&[("x-a", "")])],
        ),
        ("[{withoutHeaders: {x-a: {prefix: ''}}}]", &[], &[none, a(&[("x-a", "q")])]),
        ("[{withoutHeaders: {x-a: {regex: '.*'}}}]", &[], &[none, a(&[("x-a", "q")])]),
        ("[{withoutHeaders: {x-a: {regex: 'q?'}}}]", &[a(&[("x-a", "p")])], &[none]),
        (
            "[{headers: {x-a: {}}, withoutHeaders: {x-a: {exact: q}, x-b: {}}}]",
            &[a(&[("x-a", "p")])],
            &[none, a(&[("x-a", "q")]), a(&[("x-a", "p"), ("x-b", "")])],
        ),
    ]);
}

#[test]
fn query_params() {
    holds(&[
        (
            "[{queryParams: {k: {exact: v}}}]",
            &gets(["/?k=v", "/a?x=y&k=v", "/?k=v&k=w", "/?k=v#k=w"]),
            &gets(["/", "/?k", "/?k=", "/?k=vv", "/?k=V", "/?K=v", "/?k=w&k=v", "/?kk=v", "/k=v"]),
        ),
        // not decoded, on either side
        ("[{queryParams: {k: {exact: 'a b'}}}]", &[], &gets(["/?k=a%20b", "/?k=a+b"])),
        ("[{queryParams: {k: {exact: 'a%20b'}}}]", &gets(["/?k=a%20b"]), &gets(["/?k=a+b"])),
        (
            "[{queryParams: {k: {prefix: v}}}]",
            &gets(["/?k=v", "/?k=vw"]),
            &gets(["/?k=wv", "/?k=", "/?k", "/"]),
        ),
        (
            "[{queryParams: {k: {regex: '\\d+$'}}}]",
            &gets(["/?k=12"]),
            &gets(["/?k=1a", "/?k=a1", "/?k=", "/"]),
        ),
        ("[{queryParams: {k: {regex: '.*'}}}]", &gets(["/?k=1", "/?k=", "/?k"]), &gets(["/"])),
        ("[{queryParams: {k: {}}}]", &gets(["/?k", "/?k=", "/?k=1"]), &gets(["/", "/?l", "/?kk"])),
        ("[{queryParams: {k: }}]", &gets(["/?k", "/?k=1"]), &gets(["/", "/?l"])),
        ("[{queryParams: {k: {regex: '*'}}}]", &gets(["/?k", "/?k=1"]), &gets(["/"])),
        ("[{queryParams: {k: {exact: ''}}}]", &gets(["/?k", "/?k="]), &gets(["/", "/?k=1"])),
        (
            "[{queryParams: {k: {exact: v}, l: {}}}]",
            &gets(["/?l&k=v"]),
            &gets(["/?k=v", "/?l", "/?l=v&k"]),
        ),
    ]);
}

#[test]
fn port_and_source() {
    let (at_80, at_81) = (ask("GET", "/"), ask("GET", "/").port(81));
    let from = |who| ask("GET", "/").from(who);
    // Callers: web-1 (web; app=web, v=1), web-2 (web; app=web, v=2), shop-1 (shop; app=web), and
    // one that nobody knows.
    holds(&[
        ("[{port: 80}]", &[at_80], &[at_81]),
        ("[{port: 81}]", &[at_81], &[at_80]),
        ("[{port: 81, uri: {exact: /b}}, {port: 80}]", &[at_80], &[at_81]),
        ("[{sourceNamespace: web}]", &[from("web-1"), from("web-2")], &[from("shop-1"), from("")]),
        (
            "[{sourceLabels: {app: web}}]",
            &[from("web-1"), from("web-2"), from("shop-1")],
            &[from("")],
        ),
        (
            "[{sourceLabels: {app: web, v: '1'}}]",
            &[from("web-1")],
            &[from("web-2"), from("shop-1"), from("")],
        ),
        (
            "[{sourceLabels: {app: web}, sourceNamespace: shop}]",
            &[from("shop-1")],
            &[from("web-1"), from("")],
        ),
        (
            "[{sourceLabels: {v: '1'}}, {sourceNamespace: shop}]",
            &[from("web-1"), from("shop-1")],
            &[from("web-2"), from("")],
        ),
        ("[{sourceNamespace: ''}]", &[from("web-1"), from("")], &[]),
    ]);
}

#[test]
fn all_of_a_match_and_one_of_several() {
    let both = ask("GET", "/a").headers(&[("x", "1")]);
    holds(&[
        (
            "[{uri: {exact: /a}, method: {exact: GET}, headers: {x: {exact: '1'}}}]",
            &[both],
            &[
                ask("GET", "/a"),
                ask("POST", "/a").headers(&[("x", "1")]),
                ask("GET", "/b").headers(&[("x", "1")]),
            ],
        ),
        (
            "[{uri: {exact: /a}}, {method: {exact: PUT}}, {queryParams: {k: {}}}]",
            &[ask("GET", "/a"), ask("PUT", "/b"), ask("GET", "/b?k")],
            &[ask("GET", "/b")],
        ),
        ("[]", &[ask("GET", "/b"), both], &[]),
        ("[{}]", &[ask("GET", "/b"), both], &[]),
        ("[{uri: {exact: /a}}, {}]", &[ask("GET", "/b")], &[]),
        ("[{name: n, statPrefix: s, uri: {exact: /a}}]", &[both], &[ask("GET", "/b")]),
    ]);
}

/// A match that is for gateways alone does not hold inside of the mesh.
#[test]
fn gateways() {
    let any = &gets(["/"]);
    holds(&[
        ("[{gateways: [mesh]}]", any, &[]),
        ("[{gateways: [ingress, mesh]}]", any, &[]),
        ("[{gateways: [ingress]}]", &[], any),
        ("[{gateways: [ingress]}, {uri: {exact: /a}}]", &gets(["/a"]), any),
        ("[{gateways: [istio-system/mesh]}]", &[], any),
    ]);
    // A VirtualService says the same for all of its rules; one for gateways alone is not there.
    for (gateways, wanted) in [
        ("[mesh]", "204"),
        ("[ingress, mesh]", "204"),
        ("[ingress]", "api.shop.svc.cluster.local:80"),
        ("[]", "204"),
    ] {
        let mesh = virtual_service(
            &format!("  gateways: {gateways}\n"),
            "  - directResponse: {status: 204}\n",
        );
        assert_eq!(mesh.decide(&ask("GET", "/")), wanted, "{gateways}");
    }
    // Nor can a match bring it back.
    let mesh = virtual_service(
        "  gateways: [ingress]\n",
        "  - {match: [{gateways: [mesh]}], directResponse: {status: 204}}\n",
    );
    assert_eq!(mesh.decide(&ask("GET", "/")), "api.shop.svc.cluster.local:80");
}

/// Order decides, not what is more specific; and what no rule holds for has no route.
#[test]
fn the_first_match_wins() {
    let mesh = virtual_service(
        "",
        "  - {match: [{uri: {prefix: /a}}], directResponse: {status: 201}}
  - {match: [{uri: {exact: /a/b}, method: {exact: GET}}], directResponse: {status: 202}}
  - {match: [{uri: {prefix: /c}}, {uri: {prefix: /d}}], directResponse: {status: 203}}
  - {match: [{uri: {prefix: /d/e}}], directResponse: {status: 204}}
  - {match: [{uri: {prefix: /f}, port: 81}], directResponse: {status: 205}}
",
    );
    for (target, wanted) in [("/a/b", "201"), ("/d/e", "203"), ("/e", "404"), ("/f", "404")] {
        assert_eq!(mesh.decide(&ask("GET", target)), wanted, "{target}");
    }
    assert_eq!(mesh.decide(&ask("GET", "/f").port(81)), "205");
}

/// What cannot be understood must not hold for more than was written: nothing of it is applied.
#[test]
fn conditions_that_are_not_understood() {
    for conditions in [
        "[{uri: {exakt: /a}}]",
        "[{uri: {exact: /a, prefix: /b}}]",
        "[{uri: {regex: '('}}]",
        "[{headers: {x: {regex: 'a)(b'}}}]",
        "[{headers: {':path': {exact: /a}}}]",
        "[{headers: {'@request.auth.claims.sub': {exact: a}}}]",
        "[{cookies: {a: {exact: b}}}]",
    ] {
        let mesh = with_match(conditions);
        assert_eq!(mesh.decide(&ask("GET", "/a")), "api.shop.svc.cluster.local:80", "{conditions}");
        assert!(mesh.problems().iter().any(|p| p.contains("error: ")), "{conditions}");
    }
}
