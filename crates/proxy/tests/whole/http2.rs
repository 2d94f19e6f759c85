//! Calls over HTTP/2, several on one connection, at clients and at endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use beeway_model::access::{Effect, Field, Text};
use beeway_model::{Action, Match, Mesh, Protocol, Rule};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
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
    socket.set_nodelay(true).unwrap();
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

/// Asks and reads the head of the answer, and nothing more of it.
async fn get(client: &Client, path: &str) -> RecvStream {
    let mut client = client.clone().ready().await.unwrap();
    let (answer, _) = client.send_request(post(path), true).unwrap();
    answer.await.unwrap().into_body()
}

/// Reads the rest of an answer.
async fn read(mut body: RecvStream) -> usize {
    let mut read = 0;
    while let Some(data) = body.data().await {
        let length = data.expect("the whole answer").len();
        body.flow_control().release_capacity(length).unwrap();
        read += length;
    }
    read
}

/// An endpoint that sends many small messages, much in one, or little.
fn sending() -> SocketAddr {
    upstream::scripted(1 << 20, |_, request| async move {
        match request.uri().path() {
            "/messages" => upstream::pieces((0..MESSAGES).map(|_| Frame::data(MESSAGE))),
            "/much" => upstream::full(upstream::pattern(1 << 20)),
            _ => upstream::full("little".into()),
        }
    })
}

const MESSAGES: usize = 5000;
const MESSAGE: Bytes = Bytes::from_static(&[7; 20]);

#[test]
fn slow_readers_are_in_nobodys_way() {
    let messages = MESSAGES * MESSAGE.len();
    for (path, window, readers, length) in
        [("/messages", 1 << 10, 1, messages), ("/much", 1 << 13, 5, 1 << 20)]
    {
        let kit = Kit::new(mesh(Protocol::Http2, &[sending()], Vec::new()));
        run(async {
            let slow = connect(&kit, window).await;
            let mut answers = Vec::new();
            for _ in 0..readers {
                answers.push(get(&slow, path).await);
            }
            // As much of them has come as is let in.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let other = connect(&kit, 1 << 16).await;
            assert_eq!(read(get(&other, "/").await).await, 6);
            kit.eventually(|stats| stats.upstream_connections == 1);
            for answer in answers {
                assert_eq!(read(answer).await, length);
            }
        });
    }
}

#[test]
fn a_client_may_send_many_small_messages_to_a_slow_endpoint() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let endpoint = upstream::scripted(1 << 10, move |_, request| {
        let mut gone = gone.clone();
        async move {
            if request.uri().path() == "/slow" {
                gone.wait_for(|go| *go).await.unwrap();
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            upstream::full(body.len().to_string().into())
        }
    });
    let kit = Kit::new(mesh(Protocol::Http2, &[endpoint], Vec::new()));
    run(async {
        let client = connect(&kit, 1 << 16).await;
        // The small window of the endpoint is known from now on.
        assert_eq!(read(get(&client, "/").await).await, 1);
        let mut sender = client.clone().ready().await.unwrap();
        let (answer, mut body) = sender.send_request(post("/slow"), false).unwrap();
        for _ in 0..2 * MESSAGES {
            body.send_data(MESSAGE, false).unwrap();
        }
        body.send_data(Bytes::new(), true).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(read(get(&client, "/").await).await, 1);
        go.send(true).unwrap();
        assert_eq!(read(answer.await.unwrap().into_body()).await, 6);
    });
}
