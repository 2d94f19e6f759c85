//! Calls over HTTP/2, several on one connection, at clients and at endpoints.

use std::net::SocketAddr;

use beeway_model::access::{Effect, Field, Text};
use beeway_model::{Action, Match, Mesh, Protocol, Rule};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::time::timeout;

use crate::access::policy;
use crate::kit::*;
use crate::upstream;

type Client = SendRequest<Bytes>;

/// Runs what a client does.
fn run(what: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, what).await.expect("in time") });
}

/// A client that reads at most so many bytes of an answer ahead.
async fn connect(kit: &Kit, window: u32) -> Client {
    let socket = tokio::net::TcpStream::connect(kit.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (client, connection) = builder.initial_window_size(window).handshake(socket).await.unwrap();
    tokio::spawn(async { drop(connection.await) });
    client
}

fn post(path: &str) -> Request<()> {
    let request = Request::post(format!("http://shop{path}"));
    request.header("content-type", "application/grpc").body(()).unwrap()
}

/// A call of which only the head and one message are sent.
async fn call(client: &Client, path: &str) -> Result<Response<RecvStream>, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (answer, mut body) = client.send_request(post(path), false)?;
    body.send_data(Bytes::from_static(b"message"), false)?;
    let answer = answer.await?;
    // the endpoint, or the proxy, does without the rest
    assert_eq!(std::future::poll_fn(|cx| body.poll_reset(cx)).await?, Reason::NO_ERROR);
    Ok(answer)
}

fn grpc_status(answer: &Response<RecvStream>) -> &str {
    answer.headers()["grpc-status"].to_str().unwrap()
}

fn answering(endpoint: SocketAddr, action: Action) -> Mesh {
    let mut mesh = mesh(Protocol::Http2, &[endpoint], Vec::new());
    let rule = Rule {
        name: String::new(),
        matches: vec![Match::default()],
        action,
        policy: None,
        detour: None,
    };
    mesh.services[0].ports[0].rules = Some(vec![rule]);
    mesh
}

#[test]
fn a_call_that_goes_on_is_refused_at_once() {
    let endpoint = upstream::scripted(1 << 20, |_, _| async { upstream::status(200) });
    let teapot = Action::Respond { status: 418, body: "no".into() };
    let nowhere = Action::Forward(Vec::new());
    let mut forbidden = mesh(Protocol::Http2, &[endpoint], Vec::new());
    forbidden.access = vec![policy(Effect::Deny, Field::Method(vec![Text::parse("POST")]))];
    for (mesh, status) in
        [(answering(endpoint, teapot), "2"), (answering(endpoint, nowhere), "2"), (forbidden, "7")]
    {
        let kit = Kit::new(mesh);
        run(async {
            let client = connect(&kit, 1 << 16).await;
            let answer = call(&client, "/").await.unwrap();
            assert_eq!(grpc_status(&answer), status);
        });
    }
}
