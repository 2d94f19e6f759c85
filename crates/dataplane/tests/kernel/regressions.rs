//! What the differential test has found, and borders at which mistakes were made before: rules, and
//! requests as they were sent. Each names the seed that led to it, when there was one.

use beeway_model::{HeaderMatch, Match, PathMatch, QueryMatch, Rule, StringMatch};

use crate::case::Case;
use crate::judge::Trial;
use crate::node::Node;
use crate::world::{at, exact, forbid, forward, has, header, mesh, rule};

/// A case that was judged wrongly once.
struct Regression {
    /// What was wrong.
    what: &'static str,
    /// Of the generator of that time; 0: found in another way.
    seed: u64,
    /// They forbid; everything else is forwarded.
    forbidden: fn() -> Vec<Match>,
    /// Start lines and fields; `Host: shop` when there is none.
    requests: &'static [&'static str],
    /// Whether the kernel may leave these requests to userspace.
    detour: bool,
}

fn regex(pattern: &str) -> PathMatch {
    PathMatch::Regex(pattern.to_owned())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.to_owned())
}

const REGRESSIONS: &[Regression] = &[
    Regression {
        what: "a prefix was matched anywhere in the path",
        seed: 0,
        forbidden: || vec![at(prefix("/a/b"))],
        requests: &["GET /a/b", "GET /a/bc", "GET /a/", "GET /x/a/b", "GET /a/b/c", "GET /a"],
        detour: false,
    },
    Regression {
        what: "a prefix of segments matched in the middle of one",
        seed: 0,
        forbidden: || vec![at(PathMatch::Segments("/foo/".to_owned()))],
        requests: &[
            "GET /foo",
            "GET /foo/",
            "GET /foobar",
            "GET /foo/bar",
            "GET /fo",
            "GET /foo?x",
        ],
        detour: false,
    },
    Regression {
        what: "a regex without anchors matched a part",
        seed: 0,
        forbidden: || vec![at(regex("/a|/b/c"))],
        requests: &["GET /a", "GET /a/", "GET /b/c", "GET /x/b/c", "GET /b/cd", "GET /b"],
        detour: false,
    },
    Regression {
        what: "a regex was taken to match everything",
        seed: 0,
        forbidden: || vec![at(regex("(")), at(regex("/v[0-9]{1,3}"))],
        requests: &["GET /", "GET /v", "GET /v1", "GET /v123", "GET /v1234", "GET /("],
        detour: false,
    },
    Regression {
        what: "a pattern that is none by itself got out of the anchors around it",
        seed: 4,
        forbidden: || vec![at(regex("/a)|(/b")), at(regex("/c|(/d"))],
        requests: &["GET /a", "GET /ax", "GET /x/b", "GET /b", "GET /c", "GET /d"],
        detour: false,
    },
    Regression {
        what: "a condition that must fail held for a field that is not there",
        seed: 0,
        forbidden: || vec![Match { headers: vec![not("x", "1")], ..Match::default() }],
        requests: &["GET /", "GET /|x: 1", "GET /|x:", "GET /|x: 12", "GET /|X: 1 "],
        detour: false,
    },
    Regression {
        what: "white space was part of a value",
        seed: 0,
        forbidden: || vec![has("end-user", "a b")],
        requests: &["GET /|End-User:\t a b \t", "GET /|End-User:a b", "GET /|End-User: a  b"],
        detour: false,
    },
    Regression {
        what: "the host of a condition was without its port",
        seed: 0,
        forbidden: || vec![has("host", "shop:80"), has(":authority", "x")],
        requests: &["GET /|Host: shop:80", "GET /|Host: shop", "GET /|Host: x", "GET /|Host: X"],
        detour: false,
    },
    Regression {
        what: "a wildcard matched the name itself",
        seed: 0,
        forbidden: || vec![host("*.a.com"), host("B.com")],
        requests: &[
            "GET /|Host: a.com",
            "GET /|Host: .a.com",
            "GET /|Host: x.A.com:80",
            "GET /|Host: xa.com",
            "GET /|Host: b.com.",
            "GET /|Host: c.b.com",
        ],
        detour: false,
    },
    Regression {
        what: "a field that is there twice was judged by its first value",
        seed: 0,
        forbidden: || vec![has("x", "1")],
        requests: &["GET /|x: 1|x: 2", "GET /|x: 2|x: 1", "GET /|x: 1|X: 1"],
        detour: true,
    },
    Regression {
        what: "a parameter was found by a part of its name, or not as the first of it",
        seed: 0,
        forbidden: || vec![asks("q", exact("1")), asks("e", exact("")), asks("p", exact("a=b"))],
        requests: &[
            "GET /?q=1",
            "GET /?qq=1",
            "GET /?xq=1",
            "GET /?q=2&q=1",
            "GET /?&&q=1",
            "GET /?Q=1",
            "GET /?e",
            "GET /?e=",
            "GET /?e=&",
            "GET /?e=1",
            "GET /?p=a=b",
            "GET /?p=a",
            "GET /?",
            "GET /",
        ],
        detour: false,
    },
];

fn not(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch { invert: true, ..header(name, exact(value)) }
}

fn host(name: &str) -> Match {
    Match { hosts: vec![name.to_owned()], ..Match::default() }
}

fn asks(name: &str, value: StringMatch) -> Match {
    Match { query: vec![QueryMatch { name: name.to_owned(), value }], ..Match::default() }
}

fn case(text: &str) -> Case {
    let mut lines: Vec<String> = text.split('|').map(str::to_owned).collect();
    lines[0].push_str(" HTTP/1.1");
    if !text.contains("Host:") {
        lines.push("Host: shop".to_owned());
    }
    Case::new(format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes())
}

#[test]
fn what_was_wrong_once_stays_mended() {
    let node = Node::start();
    for Regression { what, seed, forbidden, requests, detour } in REGRESSIONS {
        println!("{what} (seed {seed})");
        let mut rules: Vec<Rule> = forbidden().into_iter().map(|m| rule(m, forbid())).collect();
        rules.push(rule(Match::default(), forward(1)));
        let trial = Trial::new(&node, mesh(Some(rules)));
        for request in *requests {
            assert!(trial.check(&case(request)) || *detour, "left to userspace: {request}");
        }
    }
}
