//! Clients that do their worst: requests cut, packed, misframed and misspelled on a governed
//! connection. What the kernel does not understand must not get past it.

#[path = "../bed/mod.rs"]
mod bed;
mod partial;

use std::time::Duration;

use anyhow::{Context, Result};
use bed::{Bed, JASON, Shape, WEB};
use beeway_testbed::{RawClient, Response};
use serde_json::{Value, json};

const NATIVE: Shape = Shape { servers_in_mesh: false };
const SHORTCUT: Shape = Shape { servers_in_mesh: true };

fn connect(bed: &Bed) -> Result<RawClient> {
    RawClient::connect(&bed.client, WEB.parse()?)
}

/// A request without a body.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")
}

/// A request that is handed to userspace: it goes to v2.
fn other(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\nend-user: jason\r\n\r\n")
}

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: web\r\n{fields}\r\n{body}")
}

fn chunked(path: &str, body: &str) -> String {
    post(path, "Transfer-Encoding: chunked\r\n", body)
}

/// Who answered, and what.
fn said(answer: &Response) -> (u16, Option<&str>, &str) {
    (answer.status, answer.served_by(), answer.body.trim_end())
}

const DENIED: (u16, Option<&str>, &str) = (403, None, "RBAC: access denied");

/// The connection is in order: a request passes, one is denied, and each gets its own answer.
fn assert_sound(raw: &mut RawClient, what: &str) -> Result<()> {
    let answer = raw.get("web", "/after", &[])?;
    assert_eq!(said(&answer), (200, Some("v1"), "v1 GET /after"), "{what}");
    assert_eq!(said(&raw.get("web", "/forbidden/after", &[])?), DENIED, "{what}");
    Ok(())
}

/// Requests that reached an endpoint without userspace.
fn in_kernel(bed: &Bed) -> Result<u64> {
    Ok(bed.lane("native")? + bed.lane("shortcut")?)
}

#[test]
fn heads_that_come_byte_by_byte_are_judged() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("dribble", shape, JASON)?;
        for (request, expected) in [
            (get("/ok"), (200, Some("v1"), "v1 GET /ok")),
            (other("/ok"), (200, Some("v2"), "v2 GET /ok")),
            (get("/forbidden"), DENIED),
        ] {
            let mut raw = connect(&bed)?;
            raw.dribble(&request, 1, Duration::ZERO)?;
            assert_eq!(said(&raw.response()?), expected);
            assert_sound(&mut raw, &request)?;
        }
        assert_eq!(in_kernel(&bed)?, 0, "nothing of it was certain");
    }
    Ok(())
}

#[test]
fn every_request_of_a_write_is_judged() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("packed", shape, JASON)?;
        let mut raw = connect(&bed)?;
        raw.send(&[get("/one"), get("/forbidden")].concat())?;
        assert_eq!(said(&raw.response()?), (200, Some("v1"), "v1 GET /one"));
        assert_eq!(said(&raw.response()?), DENIED);
        let mut raw = connect(&bed)?;
        let body = post("/echo", "Content-Length: 3\r\n", "abc");
        raw.send(&[body, other("/two"), get("/forbidden"), get("/four")].concat())?;
        assert_eq!(said(&raw.response()?), (200, Some("v1"), "abc"));
        assert_eq!(said(&raw.response()?), (200, Some("v2"), "v2 GET /two"));
        assert_eq!(said(&raw.response()?), DENIED);
        assert_eq!(said(&raw.response()?), (200, Some("v1"), "v1 GET /four"));
        let mut raw = connect(&bed)?;
        raw.send(&[chunked("/echo", "3\r\nabc\r\n0\r\n\r\n"), get("/forbidden")].concat())?;
        assert_eq!(said(&raw.response()?), (200, Some("v1"), "abc"));
        assert_eq!(said(&raw.response()?), DENIED);
        assert_sound(&mut raw, "at the end")?;
    }
    Ok(())
}

/// A request behind the end of a body of an earlier write, and what comes then.
#[test]
fn a_verdict_holds_for_its_own_bytes_only() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("own", shape, JASON)?;
        for next in [get("/ok"), get("/forbidden")] {
            let mut raw = connect(&bed)?;
            raw.send(&post("/sum", "Content-Length: 12000\r\n", ""))?;
            let step = json!({ "send": "x".repeat(12_000) + &next });
            // a request that must leave the lane before the first is answered is refused
            let refused = raw.step(&step)?["error"] == "EACCES";
            assert!(raw.response()?.body.contains("12000"));
            if refused {
                assert_eq!(next, get("/forbidden"));
                continue;
            }
            assert_eq!(said(&raw.response()?), (200, Some("v1"), "v1 GET /ok"));
            for _ in 0..3 {
                assert_sound(&mut raw, &next)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_head_and_a_large_body_in_one_write() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("large", shape, JASON)?;
        let mut raw = connect(&bed)?;
        for size in [1, 8_100, 8_192, 16_000, 17_000, 40_000, 60_000, 200_000] {
            let body = "x".repeat(size);
            let length = format!("Content-Length: {size}\r\n");
            raw.send(&post("/echo", &length, &body))?;
            let answer = raw.response()?;
            assert_eq!((answer.status, answer.body_len), (200, size as u64));
            raw.send(&chunked("/echo", &format!("{size:x}\r\n{body}\r\n0\r\n\r\n")))?;
            let answer = raw.response()?;
            assert_eq!((answer.status, answer.body_len), (200, size as u64), "chunked");
            assert_sound(&mut raw, &length)?;
        }
    }
    Ok(())
}

#[test]
fn a_body_that_looks_like_a_request_stays_a_body() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("body", shape, JASON)?;
        let mut raw = connect(&bed)?;
        let inner = get("/forbidden");
        let length = format!("Content-Length: {}\r\n", inner.len());
        let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        for request in [post("/echo", &length, &inner), chunked("/echo", &chunk)] {
            for split in [vec![], vec![request.find("GET").unwrap_or(0)]] {
                raw.step(&json!({ "send": request, "split": split }))?;
                let answer = raw.response()?;
                assert_eq!((answer.status, answer.body.as_str()), (200, inner.as_str()));
                assert_sound(&mut raw, &request)?;
            }
        }
        assert_eq!(in_kernel(&bed)?, 8, "all but those that were denied");
    }
    Ok(())
}

#[test]
fn chunks_are_followed_wherever_they_are_cut() -> Result<()> {
    // the first chunk holds what looks like the end of the body
    let body = "b;name=\"v\"\r\nhello \r\n0\r\n\r\n00a\r\n0123456789\r\n0\r\nX-Trailer: GET / HTTP/1.1\r\n\r\n";
    let request = chunked("/echo", body);
    let head = request.len() - body.len();
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("chunks", shape, JASON)?;
        let mut raw = connect(&bed)?;
        let mut sent = 0;
        for cut in head..request.len() {
            for split in [json!([cut]), json!([head, cut - head, 1])] {
                raw.step(&json!({ "send": request, "split": split }))?;
                let answer = raw.response()?;
                assert_eq!(answer.body, "hello \r\n0\r\n0123456789", "cut at {cut}: {answer:?}");
                sent += 1;
            }
            assert_eq!(said(&raw.get("web", "/forbidden", &[])?), DENIED, "cut at {cut}");
        }
        assert_eq!(in_kernel(&bed)?, sent);
    }
    Ok(())
}

const BAD_CHUNKS: [&str; 14] = [
    "-1\r\n",
    "+5\r\nhello\r\n",
    "g\r\n",
    "5 \r\nhello\r\n",
    " 5\r\nhello\r\n",
    "\r\n",
    "0x5\r\n",
    "ffffffffffffffff5\r\n",
    "0000000000000005\r\nhello\r\n",
    "5\nhello\r\n",
    "5\rhello\r\n",
    "5\r\nhelloX\r\n",
    "5\r\nhello\n",
    "0\r\nX: y\n\n",
];

#[test]
fn a_broken_chunk_ends_the_connection() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("broken", shape, JASON)?;
        let mut raw = connect(&bed)?;
        for bad in BAD_CHUNKS {
            // behind a head that has gone: nothing can be made of it
            raw.step(&json!({ "connect": true }))?;
            raw.send(&chunked("/sum", ""))?;
            let step = raw.step(&json!({ "send": format!("{bad}{}", get("/forbidden")) }))?;
            let again = raw.step(&json!({ "send": get("/forbidden") }))?;
            assert_eq!(
                (&step["error"], &again["error"]),
                (&json!("EACCES"), &json!("EACCES")),
                "{bad:?}"
            );
        }
        assert_eq!(bed.lane("refused")?, BAD_CHUNKS.len() as u64);
        assert_eq!(bed.lane("answered")?, 0);
        for bad in BAD_CHUNKS {
            // together with its head: userspace says what is wrong, or takes it for one it knows
            raw.step(&json!({ "connect": true }))?;
            raw.send(&chunked("/sum", &format!("{bad}0\r\n\r\n{}", get("/forbidden/x"))))?;
            let answer = raw.response()?;
            match answer.status {
                400 | 503 => assert_eq!(answer.served_by(), None, "{bad:?}"),
                // blanks and zeros around a size
                200 => assert_eq!(said(&raw.response()?), DENIED, "{bad:?}"),
                _ => panic!("{bad:?}: {answer:?}"),
            }
        }
    }
    Ok(())
}

#[test]
fn another_spelling_of_a_path_does_not_get_past() -> Result<()> {
    let bed = Bed::new("spelling", NATIVE, JASON)?;
    let mut raw = connect(&bed)?;
    for path in [
        "/forbidden?x",
        "/forbidden/../forbidden",
        "/x/../forbidden",
        "/./forbidden",
        "/%66orbidden",
        "/x/%2e%2e/forbidden",
        "/%2e/forbidden",
        "/x\\..\\forbidden",
    ] {
        let answer = raw.get("web", path, &[])?;
        assert_eq!(said(&answer), DENIED, "{path}");
    }
    // these are other paths, as Istio has it
    for path in ["//forbidden", "/x/%2fforbidden", "/Forbidden", "/?/forbidden"] {
        let answer = raw.get("web", path, &[])?;
        assert_eq!((answer.status, answer.served_by()), (200, Some("v1")), "{path}");
    }
    for host in ["web..", "web:0000080", "WEB.:80"] {
        assert_eq!(said(&raw.get(host, "/forbidden", &[])?), DENIED, "{host}");
    }
    let far = format!("end-user:{}jason{}", " ".repeat(100), "\t".repeat(100));
    assert_eq!(raw.get("web", "/", &[&far])?.served_by(), Some("v2"));
    Ok(())
}

#[test]
fn what_is_not_plain_http_1_1_is_judged_by_userspace() -> Result<()> {
    let bed = Bed::new("unusual", SHORTCUT, JASON)?;
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n";
    let (old, host) = ("HTTP/1.0\r\nHost: web\r\n\r\n", "HTTP/1.1\r\nHost: web\r\n");
    for (request, expected) in [
        (format!("GET /ok {old}"), 200),
        (format!("GET /forbidden {old}"), 403),
        (format!("GET /ok {host}{websocket}\r\n"), 200),
        (format!("GET /forbidden {host}{websocket}\r\n"), 403),
        (format!("GET http://web/forbidden {host}\r\n"), 403),
        (format!("\r\nGET /forbidden {host}\r\n"), 403),
        (format!("GET /forbidden {host}Host: other\r\n\r\n"), 400),
        ("GET /forbidden HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("POST /ok {host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 400),
        (format!("POST /ok {host}Content-Length: +1\r\n\r\na"), 400),
        (format!("GET /ok {host} folded: x\r\n\r\n"), 400),
        (format!("GET /forbidden {host}A : x\r\n\r\n"), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}".to_owned(), 400),
    ] {
        let mut raw = connect(&bed)?;
        raw.send(&request)?;
        let answer = raw.response().with_context(|| format!("{request:?}"))?;
        assert_eq!(answer.status, expected, "{request:?}: {answer:?}");
        assert_eq!(answer.served_by().is_some(), expected == 200, "{request:?}");
    }
    assert_eq!((in_kernel(&bed)?, bed.lane("answered")?), (0, 0));
    Ok(())
}

#[test]
fn a_head_with_two_framings_has_one_meaning() -> Result<()> {
    let bed = Bed::new("smuggle", NATIVE, JASON)?;
    let inner = get("/forbidden/smuggled");
    let both = format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", 5 + inner.len());
    for fields in
        [both.as_str(), "Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: x\r\n"]
    {
        let mut raw = connect(&bed)?;
        raw.send(&post("/sum", fields, &format!("0\r\n\r\n{inner}")))?;
        let answer = raw.response().context(fields.to_owned())?;
        // either all of it is refused, or what is behind the chunks is a request and is denied
        if answer.status == 200 {
            let closes = answer.headers.get("connection").is_some_and(|value| value == "close");
            assert!(closes || said(&raw.response()?) == DENIED, "{fields}: {answer:?}");
        } else {
            assert_eq!((answer.status, answer.served_by()), (400, None), "{fields}");
        }
    }
    assert_eq!(in_kernel(&bed)?, 0);
    Ok(())
}

#[test]
fn an_upload_waits_for_100_continue() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("expect", shape, JASON)?;
        for (fields, served_by) in [("", "v1"), ("end-user: jason\r\n", "v2")] {
            let mut raw = connect(&bed)?;
            let fields = format!("{fields}Expect: 100-continue\r\nContent-Length: 5\r\n");
            for _ in 0..2 {
                assert_eq!(raw.request(&post("/sum", &fields, ""))?.status, 100);
                raw.send("hel")?;
                raw.send("lo")?;
                let answer = raw.response()?;
                assert_eq!((answer.status, answer.served_by()), (200, Some(served_by)));
                assert!(answer.body.contains("\"bytes\":5,"), "{answer:?}");
                assert_sound(&mut raw, &fields)?;
            }
        }
    }
    Ok(())
}

/// The next request is sent before the answer to the one before has come.
#[test]
fn an_answer_is_never_that_of_another_request() -> Result<()> {
    // where each goes, by its path
    type Make = fn(&str) -> String;
    let native: Make = |name| get(&format!("/delay/40/native-{name}"));
    let detour: Make = |name| other(&format!("/delay/40/detour-{name}"));
    let denied: Make = |name| get(&format!("/forbidden-{name}"));
    let kinds = [("native", native), ("detour", detour), ("forbidden", denied)];
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("order", shape, JASON)?;
        for (first, a) in kinds {
            for (second, b) in kinds {
                for (third, c) in kinds {
                    let mut raw = connect(&bed)?;
                    let mut taken = Vec::new();
                    for (name, request) in [(first, a("1")), (second, b("2")), (third, c("3"))] {
                        let step = raw.step(&json!({ "send": request }))?;
                        match &step["error"] {
                            Value::Null => taken.push(name),
                            error => {
                                assert_eq!(error, "EACCES");
                                break;
                            }
                        }
                    }
                    let what = format!("{first} {second} {third}: {taken:?}");
                    assert!(!taken.is_empty(), "{what}");
                    for (number, name) in (1..).zip(taken) {
                        let answer = raw.response()?;
                        if name == "forbidden" {
                            assert_eq!(said(&answer), DENIED, "{what}");
                        } else {
                            let wanted = format!("{name}-{number}");
                            assert!(answer.body.contains(&wanted), "{what}: {answer:?}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// An interim answer is not the answer.
#[test]
fn a_request_behind_100_continue_does_not_overtake() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("interim", shape, JASON)?;
        let mut raw = connect(&bed)?;
        let size = 400_000;
        let fields = format!("Expect: 100-continue\r\nContent-Length: {size}\r\n");
        assert_eq!(raw.request(&post("/sum", &fields, ""))?.status, 100);
        raw.send(&"x".repeat(size))?;
        let step = raw.step(&json!({ "send": get("/forbidden") }))?;
        let first = raw.response()?;
        assert!(first.body.contains(&size.to_string()), "{first:?}");
        if step["error"] != "EACCES" {
            assert_eq!(said(&raw.response()?), DENIED);
        }
    }
    Ok(())
}

/// What one client does to its own connection is nothing to the others.
#[test]
fn a_client_that_leaves_or_errs_harms_no_other() -> Result<()> {
    let bed = Bed::new("leave", NATIVE, JASON)?;
    let mut patient = connect(&bed)?;
    for round in 0..8 {
        let mut gone = connect(&bed)?;
        gone.send(&other("/delay/20/gone"))?;
        gone.step(&json!({ "close": true }))?;
        let mut wrong = connect(&bed)?;
        let answer = wrong.request(&post("/ok", "Content-Length: x\r\n", ""))?;
        assert_eq!((answer.status, answer.served_by()), (400, None), "round {round}");
        // as many connections as it takes to come by every worker
        let mut fresh = connect(&bed)?;
        for raw in [&mut fresh, &mut patient] {
            let answer = raw.request(&other("/delay/40/here"))?;
            assert_eq!((answer.status, answer.served_by()), (200, Some("v2")), "round {round}");
        }
    }
    assert_sound(&mut patient, "at the end")
}
