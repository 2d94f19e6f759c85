//! CUSTOM policies: external authorizers, real ones over real sockets.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use beeway_model::access::{
    CheckedBody, Effect, Field, HttpCheck, PathTest, Provider, ProviderKind, Text,
};
use beeway_model::{ClusterId, Mesh, Protocol};

use crate::access::{any, on, serving, when};
use crate::check::{allow, authorizer, deny, field, number, option};
use crate::kit::{Kit, mesh};
use crate::upstream;

const PATIENCE: Duration = Duration::from_secs(8);
const GET: &str = "GET /a?b HTTP/1.1\r\nHost: shop\r\nX-Secret: s\r\nx-user: me\r\nX-User: too\r\n\
                   X-Request-Id: 1\r\n\r\n";

pub fn provider(kind: ProviderKind) -> Provider {
    Provider {
        name: "authorizer".to_owned(),
        host: "authorizer.shop.svc.cluster.local".to_owned(),
        port: 9000,
        cluster: ClusterId(1),
        timeout: Duration::from_secs(5),
        fail_open: false,
        status_on_error: 403,
        clear_route_cache: false,
        body: None,
        kind,
    }
}

/// A service at the first address, whose calls to `/a` are for an authorizer at the second.
fn asking([endpoint, authorizer]: [SocketAddr; 2], provider: Provider) -> Mesh {
    let mut mesh = mesh(&[endpoint, authorizer], None);
    if provider.kind == ProviderKind::Grpc {
        mesh.clusters[1].protocol = Protocol::Http2;
    }
    mesh.workloads.push(serving("web", endpoint.ip()).into());
    let custom = Effect::Custom("authorizer".to_owned());
    let rules = when(Field::Path(vec![PathTest::parse("/a*")]));
    mesh.access = vec![on("web", custom, rules).into()];
    mesh.providers = vec![provider];
    mesh
}

/// An endpoint that tells what it was sent.
fn telling() -> SocketAddr {
    upstream::http_at("web", "127.0.0.2")
}

#[test]
fn an_authorizer_is_told_what_envoy_would_tell() {
    let endpoint = telling();
    let (address, questions) = authorizer(|_| allow(&[]));
    let mut kit = Kit::new(asking([endpoint, address], provider(ProviderKind::Grpc)));
    kit.request(1, GET);
    assert_eq!(kit.answer(1).status, 200);
    let asked = questions.recv_timeout(PATIENCE).unwrap();
    // source and destination: address, port, principal
    assert_eq!(asked.text(&[1, 1, 1, 1, 2]), "10.9.9.9");
    assert_eq!(asked.text(&[1, 1, 1, 1, 3]), "4000");
    assert_eq!(asked.text(&[1, 1, 4]), "spiffe://cluster.local/ns/default/sa/default");
    assert_eq!(asked.text(&[1, 2, 1, 1, 2]), "127.0.0.2");
    assert_eq!(asked.text(&[1, 2, 1, 1, 3]), endpoint.port().to_string());
    assert_eq!(asked.text(&[1, 2, 4]), "spiffe://cluster.local/ns/shop/sa/web");
    let http = |number| asked.text(&[1, 4, 2, number]);
    let wanted = [(1, "1"), (2, "GET"), (4, "/a?b"), (5, "shop"), (6, "http"), (10, "HTTP/1.1")];
    for (number, value) in wanted {
        assert_eq!(http(number), value, "{number}");
    }
    // zero is not written
    assert_eq!(http(9), "");
    let headers = asked.headers();
    for (name, value) in [
        (":authority", "shop"),
        (":method", "GET"),
        (":path", "/a?b"),
        (":scheme", "http"),
        ("x-secret", "s"),
        ("x-user", "me,too"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!headers.contains_key("host"));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(asked.text(&[1, 4, 1, 1]).parse().unwrap()) < 60);
    let post = "POST /a HTTP/1.1\r\nHost: shop\r\n";
    for (rest, size) in [
        ("Content-Length: 2\r\n\r\nhi", "2"),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "-1"),
    ] {
        kit.request(1, format!("{post}{rest}"));
        assert_eq!(kit.answer(1).status, 200);
        assert_eq!(questions.recv_timeout(PATIENCE).unwrap().text(&[1, 4, 2, 9]), size);
    }
    // what the endpoint is asked
    let asked_for = kit.get(1, "/b/../%61?%62=/../");
    assert!(asked_for.text().contains("uri: /a?%62=/../,"), "{asked_for:?}");
    assert_eq!(questions.recv_timeout(PATIENCE).unwrap().text(&[1, 4, 2, 4]), "/a?%62=/../");
    // only where the policy matches
    assert_eq!(kit.get(1, "/b").status, 200);
    assert!(questions.try_recv().is_err());
    assert_eq!(kit.proxy.stats().authorizer_asked, 4);
}

#[test]
fn what_it_allows_it_may_change() {
    let changes = || {
        let append = |name, value| [option(name, value), field(2, number(1, 1))].concat();
        let absent = |name, value| [option(name, value), number(3, 1)].concat();
        allow(
            &[
                field(2, option("x-user", "checked")),
                field(2, append("x-team", "red")),
                field(2, append("x-team", "blue")),
                field(2, absent("x-request-id", "other")),
                field(2, option("host", "elsewhere")),
                field(2, option("content-length", "7")),
                field(5, "x-secret"),
                field(5, "host"),
                field(6, option("x-checked", "yes")),
            ]
            .concat(),
        )
    };
    let (address, _questions) = authorizer(move |_| changes());
    let mut mesh = asking([telling(), address], provider(ProviderKind::Grpc));
    // others see what it has made of the request
    let team = Field::Header("x-team".to_owned(), vec![Text::parse("red,blue")]);
    mesh.access.push(on("web", Effect::Allow, when(team)).into());
    let mut kit = Kit::new(mesh);
    kit.request(1, GET);
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.field("x-checked")), (200, Some("yes")));
    let seen = answer.text();
    for (name, there) in [
        ("\"x-user\": \"checked\"", true),
        ("\"x-user\": \"me\"", false),
        ("\"x-team\": \"red\", \"x-team\": \"blue\"", true),
        ("\"x-request-id\": \"1\"", true),
        ("\"host\": \"shop\"", true),
        ("x-secret", false),
        ("content-length", false),
    ] {
        assert_eq!(seen.contains(name), there, "{name} in {seen}");
    }
    // without them it is denied
    assert_eq!(kit.get(1, "/b").status, 403);
}

#[test]
fn what_it_denies_it_answers_itself() {
    let (address, _questions) = authorizer(|asked| match asked.text(&[1, 4, 2, 4]).as_str() {
        "/a/login" => {
            let cookies = [option("set-cookie", "a=1"), option("set-cookie", "b=2")];
            // what frames the answer is not for it to say
            let framing = [option("transfer-encoding", "gzip"), option("content-length", "9")];
            let location = [option("location", "https://login")];
            let headers = [&location[..], &framing, &cookies].concat();
            deny(302, &headers, "")
        }
        "/a/words" => deny(401, &[option("content-type", "text/html")], "<p>no"),
        // PERMISSION_DENIED and nothing else
        _ => field(1, number(1, 7)),
    });
    let (mut kit, records) =
        Kit::recording(asking([telling(), address], provider(ProviderKind::Grpc)));
    let answer = kit.get(1, "/a/login");
    assert_eq!((answer.status, answer.field("location")), (302, Some("https://login")));
    assert_eq!(answer.head.matches("set-cookie: ").count(), 2, "{}", answer.head);
    let record = records.recv().unwrap();
    assert_eq!(
        (record.flags.to_string().as_str(), record.detail.as_str()),
        ("UAEX", "ext_authz_denied")
    );
    assert_eq!(record.policy, "AuthorizationPolicy shop/web");
    let answer = kit.get(1, "/a/words");
    assert_eq!((answer.status, answer.text()), (401, "<p>no"));
    assert_eq!(answer.field("content-type"), Some("text/html"));
    let answer = kit.get(1, "/a");
    assert_eq!((answer.status, answer.text()), (403, ""));
    let request = GET.replace("\r\n\r\n", "\r\nContent-Type: application/grpc\r\n\r\n");
    kit.request(1, request.replace("/a?b", "/a/words"));
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("16")));
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert_eq!((kit.proxy.stats().denied, kit.proxy.stats().authorizer_failed), (4, 0));
}

#[test]
fn one_that_does_not_answer_closes_unless_it_opens() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = upstream::raw(|socket| {
        std::thread::spawn(move || std::io::copy(&mut &socket, &mut std::io::sink()));
    });
    let fails = upstream::scripted(1 << 20, |_, _| async {
        let mut answer = upstream::status(200);
        answer.headers_mut().insert("grpc-status", "14".parse().unwrap());
        answer
    });
    let (nonsense, _questions) = authorizer(|_| vec![255]);
    let endpoint = telling();
    for address in [gone, silent, fails, nonsense] {
        let closed =
            Provider { timeout: Duration::from_millis(100), ..provider(ProviderKind::Grpc) };
        let told = Provider { status_on_error: 503, ..closed.clone() };
        let open = Provider { fail_open: true, ..closed.clone() };
        for (provider, status, flags) in
            [(closed, 403, "UAEX"), (told, 503, "UAEX"), (open, 200, "-")]
        {
            let (mut kit, records) = Kit::recording(asking([endpoint, address], provider));
            kit.request(1, GET);
            assert_eq!(kit.answer(1).status, status);
            assert_eq!(records.recv().unwrap().flags.to_string(), flags);
            assert_eq!(kit.proxy.stats().authorizer_failed, 1);
        }
    }
    let mut unknown = asking([endpoint, gone], provider(ProviderKind::Grpc));
    unknown.providers.clear();
    let mut kit = Kit::new(unknown);
    kit.request(1, GET);
    assert_eq!(kit.answer(1).status, 403);
}

#[test]
fn a_body_is_shown_as_far_as_it_shall_be() {
    let (address, questions) = authorizer(|_| allow(&[]));
    let endpoint = telling();
    let checked = |max_bytes, allow_partial, pack_as_bytes| Provider {
        body: Some(CheckedBody { max_bytes, allow_partial, pack_as_bytes }),
        ..provider(ProviderKind::Grpc)
    };
    let post = "POST /a/../echo HTTP/1.1\r\nHost: shop\r\n";
    let plain = format!("{post}Content-Length: 10\r\n\r\n0123456789");
    let chunked =
        format!("{post}Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n4\r\n6789\r\n0\r\n\r\n");
    for (provider, status, shown, partial) in [
        (checked(10, false, false), 200, "0123456789", "false"),
        (checked(11, false, true), 200, "0123456789", "false"),
        (checked(11, true, false), 200, "0123456789", "false"),
        (checked(9, true, true), 200, "012345678", "true"),
        (checked(9, false, false), 413, "", ""),
    ] {
        let packed = provider.body.is_some_and(|body| body.pack_as_bytes);
        let mut mesh = asking([endpoint, address], provider);
        Arc::make_mut(&mut mesh.access[0]).rules = any();
        let mut kit = Kit::new(mesh);
        for (cookie, request) in [(1, &plain), (2, &chunked)] {
            kit.request(cookie, request.replace("/a/../echo", "/echo"));
            let answer = kit.answer(cookie);
            assert_eq!(answer.status, status);
            if status != 200 {
                continue;
            }
            // the endpoint gets all of it
            assert_eq!(answer.unchunked_or_plain(), b"0123456789");
            let asked = questions.recv_timeout(PATIENCE).unwrap();
            let (body, other) = if packed { (12, 11) } else { (11, 12) };
            assert_eq!(asked.text(&[1, 4, 2, body]), shown);
            assert_eq!(asked.text(&[1, 4, 2, other]), "");
            assert_eq!(asked.headers()["x-envoy-auth-partial-body"], partial);
        }
    }
}

#[test]
fn a_long_body_arrives_whole_behind_what_was_shown() {
    let (address, _questions) = authorizer(|_| allow(&[]));
    let body = CheckedBody { max_bytes: 1000, allow_partial: true, pack_as_bytes: true };
    let provider = Provider { body: Some(body), ..provider(ProviderKind::Grpc) };
    let mut mesh = asking([telling(), address], provider);
    Arc::make_mut(&mut mesh.access[0]).rules = any();
    let mut kit = Kit::new(mesh);
    let data = upstream::pattern(100_000);
    kit.request(1, "PUT /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: 100000\r\n\r\n");
    for piece in data.chunks(7000) {
        kit.send(1, 0, piece);
    }
    let answer = kit.answer(1);
    assert_eq!(answer.status, 200);
    assert!(answer.unchunked_or_plain() == data);
}

/// An authorizer that is asked by HTTP/1.1; what it was asked comes out of the channel.
fn by_http(answer: &'static str) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let (asked, questions) = channel();
    let address = upstream::raw(move |mut socket| {
        let head = upstream::head(&mut socket);
        if head.is_empty() {
            return;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").parse().unwrap()];
        socket.read_exact(&mut body).unwrap();
        asked.send(head + std::str::from_utf8(&body).unwrap()).unwrap();
        socket.write_all(answer.as_bytes()).unwrap();
    });
    (address, questions)
}

fn names(names: &[&str]) -> Vec<Text> {
    names.iter().map(|name| Text::parse(name)).collect()
}

#[test]
fn one_that_is_asked_by_http_allows_with_200() {
    let (address, questions) = by_http(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-User: checked\r\nX-Other: 1\r\nX-Down: d\r\n\
         X-Envoy-Auth-Headers-To-Remove: x-secret, x-none\r\n\r\nok",
    );
    let check = HttpCheck {
        path_prefix: "/check".to_owned(),
        request_headers: names(&["x-us*"]),
        additional_headers: vec![("x-more".to_owned(), "m".to_owned())],
        upstream_on_allow: names(&["x-user"]),
        downstream_on_deny: Vec::new(),
        downstream_on_allow: names(&["x-down"]),
    };
    let body = CheckedBody { max_bytes: 100, allow_partial: false, pack_as_bytes: false };
    for body in [None, Some(body)] {
        let provider = Provider { body, ..provider(ProviderKind::Http(check.clone())) };
        let mut kit = Kit::new(asking([telling(), address], provider));
        kit.request(
            1,
            "POST /a?b HTTP/1.1\r\nHost: shop\r\nX-Secret: s\r\nX-User: me\r\nCookie: c\r\n\
             Authorization: mine\r\nContent-Length: 2\r\n\r\nhi",
        );
        let answer = kit.answer(1);
        assert_eq!((answer.status, answer.field("x-down")), (200, Some("d")), "{answer:?}");
        let seen = answer.text();
        assert!(seen.contains("\"x-user\": \"checked\"") && !seen.contains("x-secret"), "{seen}");
        assert!(!seen.contains("x-other") && seen.contains("\"content-length\": \"2\""), "{seen}");
        let asked = questions.recv_timeout(PATIENCE).unwrap();
        assert!(asked.starts_with("POST /check/a?b HTTP/1.1\r\n"), "{asked}");
        let mut fields: Vec<&str> = asked.split("\r\n").skip(1).filter(|l| !l.is_empty()).collect();
        fields.sort_unstable();
        let mut wanted = vec!["authorization: mine", "host: shop", "x-more: m", "x-user: me"];
        match body {
            None => wanted.push("content-length: 0"),
            Some(_) => {
                wanted.extend(["content-length: 2", "hi", "x-envoy-auth-partial-body: false"]);
            }
        }
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
    }
}

#[test]
fn one_that_is_asked_by_http_denies_with_anything_else() {
    let redirect = "HTTP/1.1 302 Found\r\ncontent-length: 2\r\nLocation: /login\r\nX-Why: w\r\n\
                    Connection: x-hop\r\nX-Hop: 1\r\n\r\nno";
    let check = HttpCheck::default();
    let some = HttpCheck { downstream_on_deny: names(&["x-none"]), ..HttpCheck::default() };
    for (check, why) in [(check.clone(), Some("w")), (some, None)] {
        let (address, _questions) = by_http(redirect);
        let provider = provider(ProviderKind::Http(check));
        let mut kit = Kit::new(asking([telling(), address], provider));
        kit.request(1, GET);
        let answer = kit.answer(1);
        assert_eq!((answer.status, answer.text()), (302, "no"));
        assert_eq!(answer.field("location"), Some("/login"));
        assert_eq!((answer.field("x-why"), answer.field("x-hop")), (why, None));
        assert_eq!(answer.field("content-length"), Some("2"));
    }
    for (fail_open, status) in [(false, 418), (true, 200)] {
        let (address, _questions) = by_http("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
        let kind = ProviderKind::Http(check.clone());
        let provider = Provider { fail_open, status_on_error: 418, ..provider(kind) };
        let mut kit = Kit::new(asking([telling(), address], provider));
        kit.request(1, GET);
        assert_eq!(kit.answer(1).status, status);
    }
}

#[test]
fn it_is_asked_before_others_decide_and_they_still_do() {
    let (address, questions) = authorizer(|_| allow(&[]));
    let mesh = asking([telling(), address], provider(ProviderKind::Grpc));
    let mut denied = mesh.clone();
    denied.access.insert(0, on("web", Effect::Deny, any()).into());
    let mut kit = Kit::new(denied);
    kit.request(1, GET);
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.text()), (403, "RBAC: access denied"));
    questions.recv_timeout(PATIENCE).expect("it was asked");
    // one that only reports is not asked
    let mut dry = mesh;
    Arc::make_mut(&mut dry.access[0]).dry_run = true;
    kit.mesh.send_replace(Arc::new(dry));
    kit.request(1, GET);
    assert_eq!(kit.answer(1).status, 200);
    assert!(questions.try_recv().is_err());
    assert_eq!(kit.proxy.stats().dry_run, 1);
}
