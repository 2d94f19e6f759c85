//! Heads: what the kernel takes for a request, byte by byte.

use beeway_dataplane::counts::REASONS;
use beeway_dataplane::tables::head;
use beeway_model::Match;

use crate::case::Case;
use crate::node::Node;
use crate::world::{SERVICE, forward, mesh, rule};

const LIMIT: usize = 8192;

/// The programs with one rule, by which everything may go where the connection leads.
pub fn start() -> Node {
    let node = Node::start();
    node.publish(&mesh(Some(vec![rule(Match::default(), forward(0))])));
    node
}

/// The length of a head that is understood, or why it is a detour; the twin must say the same.
pub fn ask(node: &Node, bytes: &[u8]) -> Result<usize, &'static str> {
    let decision = node.decide(&Case::new(bytes.to_vec()).query(SERVICE.parse().unwrap()));
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    let kernel = match (decision.lane, decision.reason) {
        ("native", "route") => Ok(decision.head_length),
        ("detour", reason) => Err(reason),
        other => panic!("{other:?} for {:?}", shown()),
    };
    let twin = match head::parse(bytes) {
        Ok(head) if head.needs_normalising => Err("path"),
        Ok(head) => {
            let framing = (decision.body, decision.chunked);
            assert_eq!(framing, (head.body, head.chunked), "framing differs in {:?}", shown());
            Ok(head.length as usize)
        }
        Err(reason) => Err(REASONS[reason.0 as usize]),
    };
    assert_eq!(kernel, twin, "the kernel and its twin differ in {:?}", shown());
    kernel
}

pub fn get(fields: &str) -> Vec<u8> {
    format!("GET /a HTTP/1.1\r\nHost: shop\r\n{fields}\r\n").into_bytes()
}

#[test]
fn no_part_of_a_head_is_a_verdict() {
    let node = start();
    let head = b"POST /api/v1?q=1 HTTP/1.1\r\nHost: shop:80\r\nUser-Agent: curl/8\r\n\
        Connection: keep-alive\r\nContent-Length: 3\r\nX-Empty:\r\n\r\n";
    for length in 1..head.len() {
        // a method alone could still be followed by another form of the target
        let expected = if length == b"POST ".len() { "unusual" } else { "partial_head" };
        assert_eq!(ask(&node, &head[..length]), Err(expected), "{length} bytes");
    }
    assert_eq!(ask(&node, head), Ok(head.len()));
    // what is behind a head is not looked at
    for behind in ["abc", "abcGET /b HTTP/1.1\r\n\r\n", "\0\n\u{1}", "\r\n"] {
        let bytes = [&head[..], behind.as_bytes()].concat();
        assert_eq!(ask(&node, &bytes), Ok(head.len()), "{behind:?}");
    }
    // nor is what an earlier head left in the kernel's buffer
    assert_eq!(ask(&node, &head[..head.len() - 2]), Err("partial_head"));
    assert_eq!(ask(&node, &head[..head.len() - 1]), Err("partial_head"));
}

#[test]
fn framing_is_plain_or_left_alone() {
    let node = start();
    for (fields, expected) in [
        ("", None),
        ("Content-Length: 5\r\n", None),
        ("content-length:5\r\n", None),
        ("CONTENT-LENGTH: \t5 \t\r\n", None),
        ("Content-Length: 000000000000000005\r\n", None),
        ("Content-Length: 999999999999999999\r\n", None),
        ("Content-Length: 1000000000000000000\r\n", Some("syntax")),
        ("Content-Length: 18446744073709551616\r\n", Some("syntax")),
        ("Content-Length: 4294967296\r\n", None),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Some("syntax")),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", Some("syntax")),
        ("Content-Length: 5, 5\r\n", Some("syntax")),
        ("Content-Length: +5\r\n", Some("syntax")),
        ("Content-Length: -5\r\n", Some("syntax")),
        ("Content-Length: 5 5\r\n", Some("syntax")),
        ("Content-Length: 0x5\r\n", Some("syntax")),
        ("Content-Length: 5;\r\n", Some("syntax")),
        ("Content-Length: \u{b5}\r\n", Some("syntax")),
        ("Content-Length:\r\n", Some("syntax")),
        ("Content-Length: \r\n", Some("syntax")),
        ("Content-Length : 5\r\n", Some("syntax")),
        ("Content-Length\t: 5\r\n", Some("syntax")),
        (" Content-Length: 5\r\n", Some("syntax")),
        ("Transfer-Encoding: chunked\r\n", None),
        ("transfer-ENCODING:cHuNkEd\r\n", None),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Some("syntax")),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Some("syntax")),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Some("syntax")),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some("unusual")),
        ("Transfer-Encoding: gzip, chunked\r\n", Some("unusual")),
        ("Transfer-Encoding: chunked, identity\r\n", Some("unusual")),
        ("Transfer-Encoding: identity\r\n", Some("unusual")),
        ("Transfer-Encoding: chunke\r\n", Some("unusual")),
        ("Transfer-Encoding: chunkedx\r\n", Some("unusual")),
        ("Transfer-Encoding: \u{b}chunked\r\n", Some("syntax")),
        ("Transfer-Encoding:\r\n", Some("unusual")),
        ("Transfer-Encoding : chunked\r\n", Some("syntax")),
        ("Upgrade: websocket\r\n", Some("unusual")),
        ("uPGRADE: h2c\r\n", Some("unusual")),
        ("Connection: close\r\n", None),
        ("Connection: Keep-Alive\r\n", None),
        ("Connection: upgrade\r\n", Some("unusual")),
        ("Connection: close, content-length\r\n", Some("unusual")),
        ("Connection: end-user\r\n", Some("unusual")),
        ("Connection: close\r\nConnection: close\r\n", Some("unusual")),
        ("Connection:\r\n", Some("unusual")),
    ] {
        let bytes: Vec<u8> = String::from_utf8(get(fields))
            .unwrap()
            .chars()
            .map(|c| u8::try_from(c).unwrap())
            .collect();
        let expected = expected.map_or(Ok(bytes.len()), Err);
        assert_eq!(ask(&node, &bytes), expected, "{fields:?}");
    }
}

#[test]
fn one_host_there_is() {
    let node = start();
    for (fields, expected) in [
        ("", Some("syntax")),
        ("Hosts: shop\r\n", Some("syntax")),
        ("Host: shop\r\nHost: shop\r\n", Some("syntax")),
        ("Host: shop\r\nhOST: other\r\n", Some("syntax")),
        ("Host : shop\r\n", Some("syntax")),
        ("Host: shop\r\n", None),
        ("hOsT:shop\r\n", None),
        ("Host:\r\n", None),
        ("Host: SHOP.example.com.:8080 \r\n", None),
        ("Host: [fd00::1]:80\r\n", None),
        ("X: 1\r\nHost: shop\r\nY: 2\r\n", None),
    ] {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(ask(&node, head.as_bytes()), expected.map_or(Ok(head.len()), Err), "{head:?}");
    }
}

#[test]
fn lines_end_in_one_way_and_hold_no_control_bytes() {
    let node = start();
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\nHost: shop\n\n"[..], Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\n\n", Err("partial_head")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\n\nGET", Err("syntax")),
        (b"GET / HTTP/1.1\r\rHost: shop\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\rC: d\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\nC: d\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\r\n c\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\r\n\tc\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\n Host: shop\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\0c\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA\0: b\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\x7f\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\x1bc\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA\x80: b\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA(: b\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA b: c\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\n: b\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA\r\n\r\n", Err("syntax")),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: \x80\xff\r\n\r\n", Ok(37)),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA:\tb\tc \t\r\n\r\n", Ok(40)),
        (b"GET / HTTP/1.1\r\nHost: shop\r\n!#$%&'*+-.^_`|~9: b\r\n\r\n", Ok(51)),
        (b"\r\nGET / HTTP/1.1\r\nHost: shop\r\n\r\n", Err("unusual")),
        (b"GET / HTTP/1.1 \r\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET  / HTTP/1.1\r\nHost: shop\r\n\r\n", Err("unusual")),
        (b"GET\t/ HTTP/1.1\r\nHost: shop\r\n\r\n", Err("unusual")),
        (b"GET / HTTP/1.1\r\n\r\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET /\r\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET /a b HTTP/1.1\r\nHost: shop\r\n\r\n", Err("unusual")),
        (b"GET /a\tb HTTP/1.1\r\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET /a\0b HTTP/1.1\r\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: shop\r\n\r\n", Err("syntax")),
        (b"GET /\x7f HTTP/1.1\r\nHost: shop\r\n\r\n", Err("syntax")),
    ] {
        assert_eq!(ask(&node, bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn what_is_not_an_ordinary_request_is_left_to_userspace() {
    let node = start();
    for start_line in [
        "GET http://shop/ HTTP/1.1",
        "CONNECT shop:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / http/1.1",
        "GET / HTTP/1,1",
        "PRI * HTTP/2.0",
        "get / HTTP/1.1",
        "Get / HTTP/1.1",
        "TRACE / HTTP/1.1",
        "PROPFIND / HTTP/1.1",
        "GETX / HTTP/1.1",
        "DELETES / HTTP/1.1",
        "GET a HTTP/1.1",
        "GET ?x HTTP/1.1",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}",
        "SSH-2.0-OpenSSH_9.2",
        "*1\r\n$4\r\nPING",
    ] {
        let head = format!("{start_line}\r\nHost: shop\r\n\r\n");
        assert_eq!(ask(&node, head.as_bytes()), Err("unusual"), "{start_line:?}");
    }
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: shop\r\n\r\n");
        assert_eq!(ask(&node, head.as_bytes()), Ok(head.len()), "{method}");
    }
    for bytes in [&b"\x16\x03\x01"[..], b"\0", b"\r\n", b"PRI", b"G"] {
        assert_eq!(ask(&node, bytes), Err("partial_head"), "{bytes:?}");
    }
}

#[test]
fn only_paths_that_have_one_spelling_are_judged() {
    let node = start();
    for (target, fine) in [
        ("/", true),
        ("//", true),
        ("/a//b", true),
        ("/a;b=c", true),
        ("/a.b", true),
        ("/a..b/c.", true),
        ("/?/../%2e\\", true),
        ("/??#".trim_end_matches('#'), true),
        ("/a:b@c,d!$&'()*+=~_-[]{}|^`\"<>", true),
        ("/.", false),
        ("/..", false),
        ("/./", false),
        ("/a/./b", false),
        ("/a/../b", false),
        ("/a/..", false),
        ("/.well-known/x", false),
        ("/%2e", false),
        ("/%41", false),
        ("/%", false),
        ("/a%2Fb", false),
        ("/a\\b", false),
        ("/a#b", false),
        ("/a?b#c", false),
        ("/#", false),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n");
        let expected = if fine { Ok(head.len()) } else { Err("path") };
        assert_eq!(ask(&node, head.as_bytes()), expected, "{target}");
    }
}

#[test]
fn heads_are_judged_up_to_their_limits_and_not_beyond() {
    let node = start();
    // a value, a target, a name and blanks that fill the head up
    let of_length = |length: usize, before: &str, fill: &str, after: &str| {
        let rest = length - before.len() - after.len();
        format!("{before}{}{after}", &fill.repeat(rest.div_ceil(fill.len()))[..rest]).into_bytes()
    };
    let tail = " HTTP/1.1\r\nHost: shop\r\n\r\n";
    let front = "GET / HTTP/1.1\r\nHost: shop\r\nA: ";
    let longs: [(&str, &str, &str); 4] = [
        (front, "b", "\r\n\r\n"),
        ("GET /", "a", tail),
        ("GET /?", "a", tail),
        (front, "a long value\twith one tab in it", "b\r\nB: c\r\n\r\n"),
    ];
    for (before, fill, after) in longs {
        for length in LIMIT - 12..=LIMIT {
            let bytes = of_length(length, before, fill, after);
            assert_eq!(ask(&node, &bytes), Ok(length), "{length} {before:?} {after:?}");
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(ask(&node, &more), Ok(length), "{length} {before:?} and more");
        }
        for length in LIMIT + 1..LIMIT + 32 {
            let bytes = of_length(length, before, fill, after);
            let reason = ask(&node, &bytes).expect_err("too long");
            assert!(["head_limit", "partial_head", "syntax"].contains(&reason), "{reason}");
        }
    }
    for (lines, expected) in [(63, true), (64, true), (65, false), (100, false)] {
        let fields: String = (1..lines).map(|n| format!("X-{n}: {n}\r\n")).collect();
        let bytes = get(&fields);
        let expected = if expected { Ok(bytes.len()) } else { Err("head_limit") };
        assert_eq!(ask(&node, &bytes), expected, "{lines} lines");
    }
    for (length, expected) in [(1, true), (254, true), (255, true), (256, false), (257, false)] {
        let bytes = get(&format!("{}: b\r\n", "n".repeat(length)));
        let expected = if expected { Ok(bytes.len()) } else { Err("syntax") };
        assert_eq!(ask(&node, &bytes), expected, "a name of {length} bytes");
    }
}
