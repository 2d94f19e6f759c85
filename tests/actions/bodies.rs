//! Bodies on their way through: as they come, with what surrounds them.

use anyhow::Result;
use beeway_testbed::{RawClient, curl, upload};
use serde_json::json;

use crate::bed::{LIMIT, WEB};
use crate::scene::{Scene, asked};

/// Makes every request a detour, with what makes a proxy hold on to bodies.
const DETOUR: &str = "\
- timeout: 20s
  retries: {attempts: 2, retryOn: 5xx}
  mirror: {host: web, subset: v2}
  route: [{destination: {host: web, subset: v1}}]
";

fn receive(raw: &mut RawClient, wanted: &str) -> Result<()> {
    let got = raw.step(&json!({ "recv": wanted.len() }))?;
    assert_eq!(got["data"], wanted, "{got}");
    Ok(())
}

fn head(raw: &mut RawClient) -> Result<String> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        let got = raw.step(&json!({ "recv": 1 }))?;
        assert!(got.get("error").is_none(), "{text} {got}");
        text.push_str(got["data"].as_str().unwrap_or_default());
    }
    Ok(text)
}

#[test]
fn each_piece_goes_both_ways_at_once() -> Result<()> {
    let scene = Scene::new("pieces", DETOUR)?;
    let mut raw = scene.connect()?;
    for round in 0..2 {
        raw.send("POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        raw.send("3\r\none\r\n")?;
        let head = head(&mut raw)?;
        assert!(head.starts_with("HTTP/1.1 200"), "round {round}: {head}");
        receive(&mut raw, "3\r\none\r\n")?;
        // nothing more is sent before the answer to what was
        for piece in ["four", "seven", "x"] {
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            raw.send(&chunk)?;
            receive(&mut raw, &chunk)?;
        }
        raw.send("0\r\n\r\n")?;
        receive(&mut raw, "0\r\n\r\n")?;
    }
    Ok(())
}

#[test]
fn trailers_go_both_ways() -> Result<()> {
    let scene = Scene::new("trailers", DETOUR)?;
    let mut raw = scene.connect()?;
    let text = "POST /sum HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\
                Trailer: x-check\r\n\r\n3\r\nabc\r\n0\r\nx-check: right\r\n\r\n";
    let answer = asked(&raw.request(text)?);
    assert_eq!((&answer["bytes"], &answer["trailers"]), (&json!(3), &json!({"x-check": "right"})));
    let text = "GET /trailers HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
    raw.send(text)?;
    let head = head(&mut raw)?.to_ascii_lowercase();
    assert!(head.contains("trailer: x-trailer"), "{head}");
    let mut rest = String::new();
    while !rest.ends_with("\r\n\r\n") {
        rest.push_str(raw.step(&json!({ "recv": 1 }))?["data"].as_str().unwrap_or_default());
    }
    assert!(rest.contains("one,") && rest.contains("0\r\nx-trailer: v1\r\n"), "{rest}");
    assert_eq!(raw.get("web", "/x", &[])?.status, 200);
    Ok(())
}

#[test]
fn who_expects_100_continue_gets_it() -> Result<()> {
    let scene = Scene::new("expect", DETOUR)?;
    let mut raw = scene.connect()?;
    raw.send(
        "POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    )?;
    assert_eq!(raw.response()?.status, 100);
    raw.send("body")?;
    let answer = raw.response()?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "body"));
    let command = upload(&scene.bed.client, &format!("http://{WEB}/sum"), 100_000)?;
    let command = command.args(["--expect", "-H", "Host: web"]);
    let report = command.output(LIMIT)?.success()?.json().pop().unwrap_or_default();
    assert_eq!(report["reply"]["sha256"], report["sent_sha256"], "{report}");
    // curl does so by itself for a body of this size
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), vec![b'x'; 2_000_000])?;
    let data = format!("@{}", file.path().display());
    let url = format!("http://{WEB}/sum");
    let output = curl(
        &scene.bed.client,
        &["-sSv", "-H", "Host: web", "-H", "Expect: 100-continue", "--data-binary", &data, &url],
    )?
    .success()?;
    assert!(output.stdout.contains("\"bytes\":2000000"), "{}", output.stdout);
    assert!(output.stderr.contains("HTTP/1.1 100"), "{}", output.stderr);
    Ok(())
}

#[test]
fn heads_without_a_body_stay_without() -> Result<()> {
    let scene = Scene::new("bare", DETOUR)?;
    let mut raw = scene.connect()?;
    raw.send("HEAD /bytes/1000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let answer = raw.step(&json!({"recv_response": true, "method": "HEAD"}))?;
    assert_eq!(
        (&answer["status"], &answer["headers"]["content-length"]),
        (&200.into(), &"1000".into())
    );
    for status in [204, 304] {
        assert_eq!(raw.get("web", &format!("/status/{status}"), &[])?.status, status);
    }
    let answer = raw.get("web", "/bytes/0", &[])?;
    assert_eq!((answer.status, answer.body_len), (200, 0));
    assert_eq!(raw.get("web", "/x", &[])?.served_by(), Some("v1"));
    Ok(())
}
