//! Clients that do their worst: requests cut, packed, misframed and misspelled on a governed
//! connection. What the kernel does not understand must not get past it.

mod bed;

use anyhow::Result;
use beeway_testbed::{RawClient, Response};
use bed::{Bed, JASON, Shape, WEB};

const NATIVE: Shape = Shape { servers_in_mesh: false };
const SHORTCUT: Shape = Shape { servers_in_mesh: true };

#[test]
fn a_head_and_a_large_body_in_one_write() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("large", shape, JASON)?;
        let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
        for size in [100, 16_000, 17_000, 20_000, 40_000, 60_000] {
            let body = "x".repeat(size);
            raw.send(&format!("POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: {size}\r\n\r\n{body}"))?;
            let r: Response = raw.response()?;
            assert_eq!((r.status, r.body_len), (200, size as u64));
            eprintln!("{size} {:?}", bed.status()?["requests"]);
        }
    }
    Ok(())
}

#[test]
fn poc_stale_redirect() -> Result<()> {
    let bed = Bed::new("poc", SHORTCUT, JASON)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    raw.request("GET /warm HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let fill = 262_144 - 4_000;
    raw.send(&format!("POST /delay/2000/sum HTTP/1.1\r\nHost: web\r\nContent-Length: {fill}\r\n\r\n"))?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    raw.send(&"x".repeat(fill))?;
    let pad = "p".repeat(7900);
    let body = "y".repeat(20_000);
    let r = raw.step(&serde_json::json!({"send": format!(
        "POST /sum HTTP/1.1\r\nHost: web\r\nX: {pad}\r\nContent-Length: 20000\r\n\r\n{body}")}))?;
    eprintln!("{r} {:?}", bed.status()?["requests"]);
    let r = raw.step(&serde_json::json!({"send": "GET /forbidden HTTP/1.1\r\nHost: web\r\n\r\n"}))?;
    eprintln!("{r}");
    for _ in 0..3 {
        let r = raw.step(&serde_json::json!({"recv_response": true, "timeout_ms": 4000}))?;
        eprintln!("{r}");
    }
    eprintln!("{:#}", bed.status()?);
    Ok(())
}
