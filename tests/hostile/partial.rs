//! A send buffer that is full in the middle of a message: TCP takes a part, and the kernel keeps a
//! verdict for the rest (psock->eval), which is then whatever the client sends next.

use anyhow::{Context, Result, ensure};
use beeway_testbed::RawClient;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bed::{Bed, JASON};
use crate::{NATIVE, SHORTCUT, connect, get, post, said};

/// Uploads `length` bytes to a server that stands still, until the buffers are full. How many
/// bytes of the body were taken.
fn fill(raw: &mut RawClient, length: usize) -> Result<usize> {
    raw.send(&post("/sum", &format!("Content-Length: {length}\r\n"), ""))?;
    raw.send_nonblocking(&"x".repeat(length))
}

/// Lets the server go on, and sends the rest together with a request that is forbidden.
fn finish(bed: &Bed, raw: &mut RawClient, left: usize, length: usize) -> Result<()> {
    bed.servers[0].signal(Signal::SIGCONT);
    let rest = "x".repeat(left) + &get("/forbidden");
    let refused = raw.step(&json!({ "send": rest }))?["error"] == "EACCES";
    let answer = raw.response()?;
    assert_eq!((answer.status, answer.served_by()), (200, Some("v1")));
    assert!(answer.body.contains(&format!("\"bytes\":{length},")), "{}", answer.body);
    if !refused {
        assert_eq!(said(&raw.response()?), crate::DENIED);
    }
    Ok(())
}

#[test]
fn what_follows_a_message_that_was_cut_is_judged() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("partial", shape, JASON)?;
        let mut length = 20_000_000;
        let mut short_rest = false;
        // once with a rest of many messages, then with one that is a single message
        for _ in 0..6 {
            let mut raw = connect(&bed)?;
            // the server knows the connection before it stands still
            assert_eq!(raw.get("web", "/", &[])?.status, 200);
            bed.servers[0].signal(Signal::SIGSTOP);
            let taken = fill(&mut raw, length)?;
            let left = length - taken;
            finish(&bed, &mut raw, left, length).with_context(|| format!("{left} left"))?;
            short_rest |= (1..60_000).contains(&left);
            if short_rest {
                break;
            }
            length = taken + 20_000;
        }
        ensure!(short_rest, "no message was cut near the end of the body");
    }
    Ok(())
}
