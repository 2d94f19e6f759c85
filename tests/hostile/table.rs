//! The table of hostile inputs: bytes on a governed connection, and what may come back.
//!
//! Each row is sent in its own writes, once more with its first byte apart (userspace then judges
//! what the kernel judged before), in both shapes. Behind each row the connection has ended or is in
//! order. Nothing forbidden was ever served, and nothing by the wrong version: the servers keep a
//! record.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Place, RawClient};
use serde_json::json;

use crate::bed::{Bed, JASON, LIMIT, Shape};
use crate::{DENIED, NATIVE, SHORTCUT, chunked, connect, get, other, post, said};

/// What is sent, and the sequences of answers that are in order: `400`, `200 v1`, `end` (of the
/// connection, by whomever), separated by commas.
pub struct Row {
    name: String,
    writes: Vec<String>,
    may: Vec<&'static str>,
}

pub fn row(name: &str, bytes: impl Into<String>, may: &[&'static str]) -> Row {
    Row { name: name.to_owned(), writes: vec![bytes.into()], may: may.to_vec() }
}

/// Sends a row and reads as many answers as it may have; these, and whether the last one says that
/// the connection ends.
fn outcome(raw: &mut RawClient, row: &Row, apart: bool) -> Result<(String, bool)> {
    for (number, bytes) in row.writes.iter().enumerate() {
        let split = if apart && number == 0 { vec![1] } else { vec![] };
        let step = raw.step(&json!({ "send": bytes, "split": split }))?;
        if let Some(error) = step["error"].as_str() {
            ensure!(["EACCES", "EPIPE", "ECONNRESET"].contains(&error), "{step}");
            break;
        }
    }
    let waits = row.may.contains(&"waits");
    let receive = json!({ "recv_response": true, "timeout_ms": if waits { 300 } else { 4000 } });
    let mut got = String::new();
    loop {
        let step = raw.step(&receive)?;
        let answer = match (step["error"].as_str(), step["headers"]["x-served-by"].as_str()) {
            (None, None) => step["status"].to_string(),
            (None, Some(name)) => format!("{} {name}", step["status"]),
            (Some("timeout"), _) if waits => "waits".to_owned(),
            (Some("eof" | "EPIPE" | "ECONNRESET"), _) => "end".to_owned(),
            _ => step.to_string(),
        };
        let closes = step["headers"]["connection"] == "close" || step["version"] == "HTTP/1.0";
        let told = if closes && answer.contains(" v") { ", end" } else { "" };
        got = if got.is_empty() { answer } else { format!("{got}, {answer}") } + told;
        if closes || !row.may.iter().any(|may| may.starts_with(&format!("{got}, "))) {
            return Ok((got, closes || waits));
        }
    }
}

/// The connection has ended, is in order, or is answered 400.
fn closed_or_sound(raw: &mut RawClient, closes: bool) -> Result<()> {
    let sent = raw.step(&json!({ "send": get("/forbidden/after") }))?;
    // the client was told to close: no answer is owed
    if closes || sent["error"].is_string() {
        return Ok(());
    }
    let step = raw.step(&json!({ "recv_response": true, "timeout_ms": 4000 }))?;
    if step["error"].is_string() || step["status"] == 400 {
        ensure!(step["error"] != "timeout", "neither answered nor ended");
        return Ok(());
    }
    ensure!(step["status"] == 403, "{step}");
    let answer = raw.get("web", "/after", &[])?;
    ensure!(said(&answer) == (200, Some("v1"), "v1 GET /after"), "{answer:?}");
    Ok(())
}

/// Every request that reached a server was one that may.
pub fn only_what_may_be_served(bed: &Bed) -> Result<()> {
    let mut raw = connect(bed)?;
    for (server, request) in [(0, get("/last")), (1, other("/last"))] {
        raw.request(&request)?;
        bed.servers[server].wait_for_line("\"/last\"", LIMIT)?;
    }
    for path in bed.recorded_paths() {
        ensure!(!path.starts_with("/forbidden"), "{path} was served");
    }
    Ok(())
}

pub fn check(label: &str, rows: &[Row]) -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        check_in(shape, label, rows)?;
    }
    check_from_outside(label, rows)
}

/// Nobody may ask the servers for what is forbidden.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hostile, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/forbidden*]}}]
";

/// The rows again, straight to the server by a client that is not in the mesh: judged where they come
/// in. What is answered may differ; what is served may not.
fn check_from_outside(label: &str, rows: &[Row]) -> Result<()> {
    let mut bed = Bed::new(label, SHORTCUT, JASON)?;
    bed.record_requests()?;
    let before = bed.generation()?;
    bed.write("policy.yaml", POLICY)?;
    bed.wait_for_generation(before)?;
    let mut raw = RawClient::connect_in(&bed.client, bed.v1.addr4(8080), false)?;
    for (row, apart) in rows.iter().flat_map(|row| [(row, false), (row, true)]) {
        raw.step(&json!({ "connect": true }))?;
        for (number, bytes) in row.writes.iter().enumerate() {
            let split = if apart && number == 0 { vec![1] } else { vec![] };
            raw.step(&json!({ "send": bytes, "split": split, "delay_ms": 1 }))?;
        }
        raw.step(&json!({ "send": get("/forbidden/after") }))?;
        raw.step(&json!({ "recv_response": true, "timeout_ms": 20 }))?;
    }
    let refused = bed.requests("refused", "visit")?;
    ensure!(refused >= rows.len() as u64, "{refused} of {} rows twice", rows.len());
    only_what_may_be_served(&bed)
}

fn check_in(shape: Shape, label: &str, rows: &[Row]) -> Result<()> {
    let mut bed = Bed::new(label, shape, JASON)?;
    bed.record_requests()?;
    let mut raw = connect(&bed)?;
    let mut wrong = Vec::new();
    for row in rows {
        let mut judged = Vec::new();
        for apart in [false, true] {
            raw.step(&json!({ "connect": true }))?;
            let (got, closes) = outcome(&mut raw, row, apart).with_context(|| row.name.clone())?;
            let name = format!("{}{}", row.name, if apart { ", first byte apart" } else { "" });
            if !row.may.contains(&got.as_str()) {
                wrong.push(format!("{name}: {got}, not {:?}", row.may));
            } else if let Err(error) = closed_or_sound(&mut raw, closes) {
                wrong.push(format!("{name}: {got}, then {error:#}"));
            }
            judged.push(got);
        }
        let served = judged[0].contains(" v");
        if served && judged[0] != judged[1] {
            wrong.push(format!("{}: {}, by userspace {}", row.name, judged[0], judged[1]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    only_what_may_be_served(&bed)
}

/// A GET of a path with more field lines, each with its CRLF.
pub fn with(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n{fields}\r\n")
}

#[test]
fn a_head_may_be_cut_anywhere() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("cut", shape, JASON)?;
        let mut raw = connect(&bed)?;
        for (request, expected) in [
            (get("/ok"), (200, Some("v1"), "v1 GET /ok")),
            (other("/ok"), (200, Some("v2"), "v2 GET /ok")),
            (get("/forbidden"), DENIED),
        ] {
            for at in 1..request.len() {
                raw.step(&json!({ "connect": true }))?;
                raw.step(&json!({ "send": request, "split": [at] }))?;
                assert_eq!(said(&raw.response()?), expected, "{request:?} cut at {at}");
            }
            // slowly
            raw.step(&json!({ "connect": true }))?;
            raw.dribble(&request, 1, Duration::from_millis(1))?;
            assert_eq!(said(&raw.response()?), expected, "{request:?}");
        }
        assert_eq!(bed.lane("native")? + bed.lane("shortcut")?, 0, "nothing of it was certain");
    }
    Ok(())
}

#[test]
fn requests_in_one_write() -> Result<()> {
    let body = |inner: &str| post("/echo", &format!("Content-Length: {}\r\n", inner.len()), inner);
    let chunk =
        |inner: &str| chunked("/echo", &format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()));
    check(
        "writes",
        &[
            row("two, second forbidden", get("/ok") + &get("/forbidden"), &["200 v1, 403"]),
            row("two, second to v2", get("/ok") + &other("/ok"), &["200 v1, 200 v2"]),
            row("two, first forbidden", get("/forbidden") + &get("/ok"), &["403, 200 v1"]),
            row("two, first to v2", other("/ok") + &get("/forbidden"), &["200 v2, 403"]),
            row("three", get("/a") + &other("/b") + &get("/forbidden"), &["200 v1, 200 v2, 403"]),
            row(
                "an empty line between",
                get("/ok") + "\r\n" + &get("/forbidden"),
                &["200 v1, 403"],
            ),
            row("a body, then forbidden", body("abc") + &get("/forbidden"), &["200 v1, 403"]),
            row("chunks, then forbidden", chunk("abc") + &get("/forbidden"), &["200 v1, 403"]),
            row("a body like a request", body(&get("/forbidden")), &["200 v1"]),
            row("chunks like a request", chunk(&get("/forbidden")), &["200 v1"]),
            row("GET with a body", with("/ok", "Content-Length: 3\r\n") + "abc", &["200 v1"]),
            row(
                "too long a body",
                body("") + "abc" + &get("/forbidden"),
                &["200 v1, 403", "200 v1, 400"],
            ),
            Row {
                name: "a body like a request, in a write of its own".into(),
                writes: vec![
                    post("/echo", "Content-Length: 42\r\n", ""),
                    get("/forbidden/123456789"),
                ],
                may: vec!["200 v1"],
            },
        ],
    )
}

#[test]
fn lengths_of_bodies() -> Result<()> {
    let forbidden = get("/forbidden");
    let length = |value: &str| post("/sum", &format!("Content-Length:{value}\r\n"), "abc");
    let mut rows = Vec::new();
    for value in [
        " +3",
        " -3",
        " 0x3",
        " 3 3",
        " 3,3",
        " 3, 3",
        " 3;",
        " 3.0",
        " 3e0",
        "",
        " ",
        " three",
        " 18446744073709551619",
        " 99999999999999999999999999",
        " ٣",
        " 3\u{b}",
        " 3\u{0}",
    ] {
        let may: &[_] = if value.contains(',') { &["400", "200 v1, 403"] } else { &["400", "end"] };
        rows.push(row(
            &format!("Content-Length:{value}"),
            length(value).replace('٣', "\u{b3}") + &forbidden,
            may,
        ));
    }
    for value in [" 3", "3", "   3   ", "\t3\t", " 003", " 000000000000000003"] {
        let name = format!("Content-Length:{value}");
        rows.push(row(&name, length(value) + &forbidden, &["200 v1, 403", "400"]));
    }
    let fields = |fields: &str| post("/sum", fields, "abc") + &forbidden;
    let twice = "Content-Length: 3\r\nContent-Length: 3\r\n";
    rows.push(row("the same twice", fields(twice), &["200 v1, 403", "400"]));
    rows.push(row("two lengths", fields("Content-Length: 3\r\nContent-Length: 0\r\n"), &["400"]));
    rows.push(row("two lengths", fields("Content-Length: 0\r\nContent-Length: 3\r\n"), &["400"]));
    rows.push(row("odd case", fields("cONTENT-lENGTH: 3\r\n"), &["200 v1, 403"]));
    rows.push(row("a space before the colon", fields("Content-Length : 3\r\n"), &["400"]));
    rows.push(row(
        "another name",
        post("/sum", "Content_Length: 3\r\n", "") + &forbidden,
        &["200 v1, 403"],
    ));
    check("length", &rows)
}

#[test]
fn codings_of_bodies() -> Result<()> {
    let forbidden = get("/forbidden");
    let coded = |coding: &str| {
        post("/sum", &format!("{coding}\r\n"), "3\r\nabc\r\n0\r\n\r\n") + &get("/forbidden")
    };
    let mut rows = Vec::new();
    for value in ["chunked", "Chunked", "CHUNKED", "chunked ", "\tchunked", "  chunked\t "] {
        let field = format!("Transfer-Encoding: {value}");
        rows.push(row(&field, coded(&field), &["200 v1, 403"]));
    }
    for value in [
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked;q=1",
        "xchunked",
        "chunke",
        "\"chunked\"",
        "identity",
        "",
        "chunked,",
        ",chunked",
        "chunked\u{b}",
        "gzip",
    ] {
        let field = format!("Transfer-Encoding: {value}");
        // what hyper takes for chunked is followed by a request that is denied
        rows.push(row(&field, coded(&field), &["400", "200 v1, 403", "501", "end", "400, end"]));
    }
    for (name, fields) in [
        ("length and chunked", "Content-Length: 3\r\nTransfer-Encoding: chunked"),
        ("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 3"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("folded", "Transfer-Encoding:\r\n chunked"),
        ("a space before the colon", "Transfer-Encoding : chunked"),
        ("bare CR", "X: y\rTransfer-Encoding: chunked"),
        ("vertical tab", "Transfer-Encoding:\u{b}chunked"),
    ] {
        rows.push(row(name, coded(fields), &["400", "200 v1, 403", "200 v1, end", "501"]));
    }
    for body in [
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        "3;a=\"\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0;x\r\n\r\n",
        "3\r\nabc\r\n000\r\n\r\n",
        "3\r\nabc\r\n0\r\nHost: other\r\n\r\n",
        "3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
    ] {
        rows.push(row(
            &format!("chunks {body:?}"),
            chunked("/sum", body) + &forbidden,
            &["200 v1, 403", "400"],
        ));
    }
    for body in [
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\n",
    ] {
        let may = ["400", "503", "502", "end", "200 v1, 403"];
        rows.push(row(&format!("chunks {body:?}"), chunked("/sum", body) + &forbidden, &may));
    }
    check("coding", &rows)
}
