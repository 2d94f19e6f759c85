//! Connections that policies forbid: at once, or when the policy comes.

use std::sync::Arc;

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, HttpCheck, IdentityMatch,
    LabelSelector, Layer, PortRange, Provider, ProviderKind, Scope, Text,
};
use beeway_model::{ClusterId, Mesh, Protocol};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::check::{allow, authorizer, deny};
use crate::kit::*;
use crate::upstream;

pub fn policy(effect: Effect, field: Field) -> Arc<AccessPolicy> {
    let conditions = vec![Clause { field, negated: false }];
    Arc::new(AccessPolicy {
        name: "AuthorizationPolicy default/buyer".to_owned(),
        layer: Layer::Authorization,
        direction: Direction::Ingress,
        // client and endpoint have the same address here
        scope: Scope::Workloads(Some("default".to_owned()), LabelSelector::default()),
        effect,
        dry_run: false,
        rules: vec![AccessRule { conditions, ..AccessRule::default() }],
    })
}

fn guarded(protocol: Protocol, server: &Server, access: Vec<Arc<AccessPolicy>>) -> Mesh {
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
    let told =
        |access: Vec<Arc<AccessPolicy>>| Arc::new(guarded(Protocol::Opaque, &server, access));
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

#[test]
fn requests_of_http2_are_judged_one_by_one() {
    let endpoint = upstream::scripted(1 << 20, |_, _| async { upstream::status(200) });
    let path = |path| Field::Path(vec![beeway_model::access::PathTest::parse(path)]);
    let told = |access: Vec<Arc<AccessPolicy>>| {
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

/// The service with a CUSTOM policy for every connection, and its authorizer.
fn asking(server: &Server, authorizer: std::net::SocketAddr, kind: ProviderKind) -> Mesh {
    let addresses = [server.address(), authorizer];
    let mut mesh = mesh(Protocol::Opaque, &addresses, Vec::new());
    let custom = Effect::Custom("authorizer".to_owned());
    mesh.access =
        vec![policy(custom, Field::Caller(vec![IdentityMatch::Namespace(Text::Present)]))];
    mesh.providers = vec![Provider {
        name: "authorizer".to_owned(),
        host: "authorizer".to_owned(),
        port: 9000,
        cluster: ClusterId(1),
        timeout: PATIENCE,
        fail_open: false,
        status_on_error: 403,
        clear_route_cache: false,
        body: None,
        kind,
    }];
    mesh
}

#[test]
fn an_authorizer_is_asked_about_a_connection() {
    let server = Server::new();
    let says = Arc::new(std::sync::Mutex::new(allow(&[])));
    let said = says.clone();
    let (address, questions) = authorizer(move |_| said.lock().unwrap().clone());
    let kit = Kit::new(asking(&server, address, ProviderKind::Grpc));
    let client = kit.connect();
    let endpoint = server.accept();
    let asked = questions.recv_timeout(PATIENCE).unwrap();
    assert_eq!(asked.text(&[1, 1, 1, 1, 3]), client.local_addr().unwrap().port().to_string());
    assert_eq!(asked.text(&[1, 2, 1, 1, 3]), server.address().port().to_string());
    assert!(asked.at(&[1, 4]).is_empty(), "there is no request");
    std::io::Write::write_all(&mut &client, b"hello").unwrap();
    expect(&endpoint, "hello");
    *says.lock().unwrap() = deny(403, &[], "");
    expect_reset(&kit.connect());
    questions.recv_timeout(PATIENCE).unwrap();
    // who has had a yes is not asked again, unless it is by another policy
    let mut again = asking(&server, address, ProviderKind::Grpc);
    again.access.push(policy(Effect::Audit, namespace("default")));
    kit.mesh.send_replace(Arc::new(again.clone()));
    kit.eventually(|stats| stats.audited == 1);
    assert!(questions.try_recv().is_err());
    Arc::make_mut(&mut again.access[0]).name.push_str("-2");
    kit.mesh.send_replace(Arc::new(again));
    expect_reset(&client);
    questions.recv_timeout(PATIENCE).unwrap();
    kit.eventually(|stats| stats.connections_denied == 2 && stats.open_connections == 0);
}

#[test]
fn what_cannot_be_asked_about_a_connection_closes_it() {
    let server = Server::new();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for kind in [ProviderKind::Grpc, ProviderKind::Http(HttpCheck::default())] {
        let kit = Kit::new(asking(&server, gone, kind));
        expect_reset(&kit.connect());
        kit.eventually(|stats| stats.connections_denied == 1);
    }
    let mut open = asking(&server, gone, ProviderKind::Grpc);
    open.providers[0].fail_open = true;
    let kit = Kit::new(open);
    let client = kit.connect();
    say_all(&client, "hello");
    assert_eq!(rest(&server.accept()), "hello");
}
