//! WebSocket through a real agent: a common library on both sides.

mod bed;

use anyhow::{Context, Result};
use bed::{Bed, Shape, WEB};
use beeway_testbed::{Process, WebSocket, websocket_server};
use serde_json::{Value, json};

const RULES: &str = "- match: [{uri: {prefix: /forbidden}}]
  directResponse: {status: 403}
- match: [{uri: {prefix: /chat}}]
  rewrite: {uri: /room}
  headers: {request: {set: {x-from: mesh}}}
  timeout: 1s
  route:
  - destination: {host: web, subset: v2}
- route:
  - destination: {host: web, subset: v1}
";
const MIB: u64 = 1 << 20;

/// A mesh in which v1 and v2 speak WebSocket.
struct Echoes {
    bed: Bed,
    servers: Vec<Process>,
}

impl Echoes {
    fn new(label: &str, servers_in_mesh: bool) -> Result<Echoes> {
        let mut bed = Bed::new(label, Shape { servers_in_mesh }, RULES)?;
        bed.stop_servers();
        let servers =
            vec![websocket_server(&bed.v1, 8080, "v1")?, websocket_server(&bed.v2, 8080, "v2")?];
        Ok(Echoes { bed, servers })
    }

    /// A connection, and what the server says of it.
    fn open(&self, path: &str) -> Result<(WebSocket, Value)> {
        let mut socket = WebSocket::start(&self.bed.client)?;
        let opened = open(&mut socket, path)?;
        assert_eq!(opened, json!({ "ok": true }));
        let hello = socket.step(&json!({ "recv": true }))?;
        let hello = hello["text"].as_str().context("no text")?;
        Ok((socket, serde_json::from_str(hello)?))
    }
}

fn open(socket: &mut WebSocket, path: &str) -> Result<Value> {
    socket.open(WEB.parse()?, &format!("ws://web{path}"), &json!({ "x-mine": "1" }))
}

/// What is sent comes back, small and large, and controls pass.
fn echoes(socket: &mut WebSocket) -> Result<()> {
    for text in ["one", "two"] {
        assert_eq!(socket.step(&json!({ "send": text }))?, json!({ "ok": true }));
        assert_eq!(socket.step(&json!({ "recv": true }))?["text"], text);
    }
    let sent = socket.step(&json!({ "send_bytes": 4 * MIB }))?;
    let back = socket.step(&json!({ "recv": true }))?;
    assert_eq!((&back["bytes"], &back["sha256"]), (&json!(4 * MIB), &sent["sha256"]));
    assert_eq!(socket.step(&json!({ "ping": true }))?["ok"], true);
    Ok(())
}

fn messages_go_both_ways(servers_in_mesh: bool) -> Result<()> {
    let echoes_of = Echoes::new("ws", servers_in_mesh)?;
    let (mut socket, hello) = echoes_of.open("/chat/1?x=y")?;
    assert_eq!((&hello["name"], &hello["path"]), (&json!("v2"), &json!("/room/1?x=y")));
    assert_eq!(
        (&hello["headers"]["x-from"], &hello["headers"]["x-mine"]),
        (&json!("mesh"), &json!("1"))
    );
    echoes(&mut socket)?;
    let (mut other, hello) = echoes_of.open("/else")?;
    assert_eq!(hello["name"], "v1");
    echoes(&mut other)?;
    // longer than the route lets a request take
    std::thread::sleep(std::time::Duration::from_millis(1500));
    echoes(&mut socket)?;
    assert_eq!(echoes_of.bed.lane("detour")?, 2);
    // the end with its code, from either side
    assert_eq!(socket.step(&json!({ "send": "close" }))?["ok"], true);
    assert_eq!(socket.step(&json!({ "recv": true }))?, json!({ "closed": 4000 }));
    assert_eq!(other.step(&json!({ "close": true }))?, json!({ "closed": 1000 }));
    Ok(())
}

#[test]
fn messages_go_both_ways_to_another_node() -> Result<()> {
    messages_go_both_ways(false)
}

#[test]
fn messages_go_both_ways_on_one_node() -> Result<()> {
    messages_go_both_ways(true)
}

#[test]
fn what_goes_wrong_is_told() -> Result<()> {
    let mut echoes_of = Echoes::new("ws-fails", false)?;
    let mut refused = WebSocket::start(&echoes_of.bed.client)?;
    let answer = open(&mut refused, "/forbidden")?;
    assert_eq!(answer, json!({ "status": 403 }));
    let (mut socket, _) = echoes_of.open("/chat")?;
    echoes(&mut socket)?;
    // an end without a word is one for the client too
    echoes_of.servers[1].kill9();
    assert_eq!(socket.step(&json!({ "recv": true }))?, json!({ "closed": null }));
    let answer = open(&mut refused, "/chat")?;
    assert_eq!(answer, json!({ "status": 503 }));
    Ok(())
}
