//! Connections that policies forbid: at once, or when the policy comes.

use std::sync::Arc;

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, IdentityMatch, LabelSelector,
    Layer, PortRange, Scope, Text,
};
use beeway_model::{Mesh, Protocol};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::kit::*;

fn policy(effect: Effect, field: Field) -> AccessPolicy {
    let conditions = vec![Clause { field, negated: false }];
    AccessPolicy {
        name: "AuthorizationPolicy default/buyer".to_owned(),
        layer: Layer::Authorization,
        direction: Direction::Ingress,
        // client and endpoint have the same address here
        scope: Scope::Workloads(Some("default".to_owned()), LabelSelector::default()),
        effect,
        dry_run: false,
        rules: vec![AccessRule { conditions, ..AccessRule::default() }],
    }
}

fn guarded(protocol: Protocol, server: &Server, access: Vec<AccessPolicy>) -> Mesh {
    Mesh { access, ..mesh(protocol, &[server.address()], Vec::new()) }
}

fn namespace(name: &str) -> Field {
    Field::Caller(vec![IdentityMatch::Namespace(Text::parse(name))])
}

#[test]
fn a_forbidden_connection_is_reset() {
    let server = Server::new();
    let port = |port| Field::Port(vec![PortRange::one(port)]);
    let mine = server.address().port();
    for (access, allowed) in [
        (vec![policy(Effect::Allow, namespace("default"))], true),
        (vec![policy(Effect::Allow, namespace("other"))], false),
        (vec![policy(Effect::Deny, port(mine))], false),
        (vec![policy(Effect::Deny, port(mine ^ 1))], true),
        // what is about HTTP opens nothing here, and closes
        (vec![policy(Effect::Allow, Field::Method(vec![Text::Present]))], false),
        (vec![policy(Effect::Deny, Field::Method(vec![Text::parse("GET")]))], false),
    ] {
        let kit = Kit::new(guarded(Protocol::Opaque, &server, access.clone()));
        let client = kit.connect();
        if allowed {
            let endpoint = server.accept();
            say_all(&client, "hello");
            assert_eq!(rest(&endpoint), "hello");
        } else {
            expect_reset(&client);
            kit.eventually(|stats| stats.connections_denied == 1 && stats.open_connections == 0);
        }
    }
}

#[test]
fn connections_are_judged_again() {
    let server = Server::new();
    let told = |access: Vec<AccessPolicy>| Arc::new(guarded(Protocol::Opaque, &server, access));
    let kit = Kit::new((*told(Vec::new())).clone());
    let client = kit.connect();
    let endpoint = server.accept();
    for round in ["one", "two"] {
        // both allow it
        kit.mesh.send_replace(told(vec![policy(Effect::Allow, namespace("default"))]));
        std::io::Write::write_all(&mut &client, round.as_bytes()).unwrap();
        expect(&endpoint, round);
        kit.mesh.send_replace(told(vec![policy(Effect::Deny, namespace("other"))]));
    }
    kit.mesh.send_replace(told(vec![policy(Effect::Deny, namespace("default"))]));
    expect_reset(&client);
    expect_reset(&endpoint);
    kit.eventually(|stats| stats.connections_denied == 1 && stats.open_connections == 0);
}

#[test]
fn the_name_in_the_client_hello_counts() {
    let server = Server::new();
    let sni = Field::Sni(vec![Text::Present]);
    let kit = Kit::new(guarded(Protocol::Tls, &server, vec![policy(Effect::Allow, sni)]));
    let client = kit.connect();
    say_all(&client, "not TLS, and so without a name");
    expect_reset(&client);
    let client = kit.connect();
    std::io::Write::write_all(&mut &client, &HELLO).unwrap();
    let endpoint = server.accept();
    let mut read = [0; HELLO.len()];
    std::io::Read::read_exact(&mut &endpoint, &mut read).unwrap();
    assert_eq!(read, HELLO);
    assert_eq!(kit.proxy.as_ref().unwrap().stats().connections_denied, 1);
}

/// A ClientHello of TLS 1.2 that asks for the name `a.b` (RFC 5246 section 7.4.1.2, RFC 6066
/// section 3).
const HELLO: [u8; 80] = {
    let mut hello = [0; 80];
    let head = [22, 3, 1, 0, 75, 1, 0, 0, 71, 3, 3];
    // after the version: random, session, ciphers, compression
    let rest = [
        0, 0, 2, 0x13, 1, 1, 0, 0, 28, // extensions: server_name
        0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', b'.', b'b', // signature_algorithms
        0, 13, 0, 4, 0, 2, 4, 3, // supported_groups
        0, 10, 0, 4, 0, 2, 0, 29,
    ];
    let mut at = 0;
    while at < head.len() {
        hello[at] = head[at];
        at += 1;
    }
    at = 0;
    while at < rest.len() {
        hello[head.len() + 32 + at] = rest[at];
        at += 1;
    }
    hello
};

/// An HTTP/2 server that answers everything with 200.
fn http2_server() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let answer = async |_: Request<Incoming>| {
                    Ok::<_, hyper::Error>(http::Response::new(Empty::<Bytes>::new()))
                };
                let service = hyper::service::service_fn(answer);
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
    });
    address
}

#[test]
fn requests_of_http2_are_judged_one_by_one() {
    let endpoint = http2_server();
    let path = |path| Field::Path(vec![beeway_model::access::PathTest::parse(path)]);
    let told = |access: Vec<AccessPolicy>| {
        Arc::new(Mesh { access, ..mesh(Protocol::Http2, &[endpoint], Vec::new()) })
    };
    let first = vec![policy(Effect::Deny, path("/secret/*"))];
    let kit = Kit::new((*told(first)).clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(kit.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut ask = async |path: &str, kind: &str| {
            let request = Request::get(format!("http://shop{path}"))
                .header("content-type", kind)
                .body(Empty::<Bytes>::new())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let (head, body) = answer.into_parts();
            let grpc =
                head.headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
            (head.status.as_u16(), grpc, body.collect().await.unwrap().to_bytes())
        };
        assert_eq!(ask("/open", "text/plain").await, (200, None, Bytes::new()));
        let denied = Bytes::from_static(b"RBAC: access denied");
        assert_eq!(ask("/secret/a", "text/plain").await, (403, None, denied.clone()));
        let seven = Some("7".to_owned());
        assert_eq!(ask("/secret/a", "application/grpc").await, (200, seven, Bytes::new()));
        // on the same connection, which stays
        kit.mesh.send_replace(told(vec![policy(Effect::Deny, path("/open"))]));
        assert_eq!(ask("/open", "text/plain").await, (403, None, denied));
        assert_eq!(ask("/secret/a", "text/plain").await, (200, None, Bytes::new()));
    });
    kit.eventually(|stats| stats.denied == 3 && stats.connections == 1);
}
