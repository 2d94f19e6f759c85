//! Clients that do their worst: requests cut, packed, misframed and misspelled on a governed
//! connection. What the kernel does not understand must not get past it.

#[path = "../bed/mod.rs"]
mod bed;
mod heads;
mod order;
mod partial;
mod table;

use anyhow::{Result, ensure};
use bed::{Bed, JASON, Shape, WEB};
use beeway_testbed::{RawClient, Response};
use serde_json::json;

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

/// A connection that waits for the proxy to take the endpoint's place has a send queue, and TCP would
/// bring to the endpoint what is in it when the client leaves. It has not been judged.
#[test]
fn what_waits_when_a_client_leaves_goes_nowhere() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("waits", shape, JASON)?;
        bed.record_requests()?;
        let unjudged = get("/forbidden/after").repeat(8000);
        let upload = format!("end-user: jason\r\nContent-Length: {}\r\n", unjudged.len());
        let heads = [post("/delay/50/sum", &upload, ""), "nothing of HTTP\r\n\r\n".to_owned()];
        let mut raw = connect(&bed)?;
        for round in 0..60 {
            raw.step(&json!({ "connect": true }))?;
            raw.send(&heads[round % 2])?;
            raw.step(&json!({ "send_nonblocking": &unjudged }))?;
            raw.step(&json!({ "sleep_ms": round / 2 % 5 }))?;
            raw.step(&json!({ "send_nonblocking": &unjudged[..4096] }))?;
            raw.step(&if round % 3 == 0 {
                json!({ "reset": true })
            } else {
                json!({ "close": true })
            })?;
        }
        ensure!(bed.counter("connections_held")? > 10, "hardly any connection was held");
        table::only_what_may_be_served(&bed)?;
    }
    Ok(())
}
