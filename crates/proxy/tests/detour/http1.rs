//! What HTTP/1 asks of a proxy.

use std::io::{Read, Write};

use beeway_model::{Action, Match, Rule, SourceMatch};
use beeway_proxy::FRAME_BYTES;
use beeway_proxy::frame::{FLAG_END, FLAG_REQUEST};
use beeway_proxy::limits::DRAIN_TIME;

use crate::kit::{Kit, forward, mesh, rule};
use crate::script::Endpoint;
use crate::upstream::{self, pattern};

fn plain() -> Kit {
    Kit::new(mesh(&[upstream::http("one")], None))
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let mut kit = plain();
    for n in 0..300 {
        let answer = kit.get(7, &format!("/page/{n}"));
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(&format!("/page/{n}")), "{}", answer.text());
        assert_eq!(answer.frames, 1, "a head and a small body are one frame");
    }
    let stats = kit.proxy.stats();
    assert_eq!((stats.requests, stats.open_streams, stats.upstream_connections), (300, 1, 1));
}

#[test]
fn connections_do_not_mix() {
    let mut kit = plain();
    for cookie in 1..=20 {
        let head = format!("GET /client/{cookie} HTTP/1.1\r\nHost: shop\r\n\r\n");
        let (front, back) = head.split_at(cookie as usize);
        kit.send(cookie, 0, front);
        kit.send(cookie + 100, 0, front);
        kit.send(cookie, 0, back);
    }
    for cookie in 1..=20 {
        let answer = kit.answer(cookie);
        assert!(answer.text().contains(&format!("/client/{cookie},")), "{}", answer.text());
    }
}

#[test]
fn frames_are_cut_anywhere() {
    let mut kit = plain();
    let head = "GET /cut HTTP/1.1\r\nHost: shop\r\n\r\n";
    let whole = kit.frame(1, FLAG_REQUEST, 0, head.as_bytes()).len();
    let mut read = 0;
    for cut in 1..whole {
        let cookie = 1000 + cut as u64;
        let frame = kit.frame(cookie, FLAG_REQUEST, 0, head.as_bytes());
        kit.bus.write_all(&frame[..cut]).unwrap();
        // Payload is counted when it is read; of half a header nothing shows.
        if cut > FRAME_BYTES {
            read += (cut - FRAME_BYTES) as u64;
            kit.eventually(|stats| stats.bytes_in == read);
            read -= (cut - FRAME_BYTES) as u64;
        }
        read += head.len() as u64;
        kit.bus.write_all(&frame[cut..]).unwrap();
        assert_eq!(kit.answer(cookie).status, 200, "cut at {cut}");
    }
}

#[test]
fn bodies_go_up_with_a_length_or_in_chunks() {
    let mut kit = plain();
    let head = "POST /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: 10\r\n\r\n01234";
    kit.request(1, head);
    kit.send(1, 0, "56789");
    assert_eq!(kit.answer(1).unchunked_or_plain(), b"0123456789");

    kit.request(
        1,
        "POST /echo HTTP/1.1\r\nHost: shop\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01",
    );
    kit.send(1, 0, "234\r\n3;x=y\r\n567\r\n");
    kit.send(1, 0, "0\r\n\r\n");
    assert_eq!(kit.answer(1).unchunked_or_plain(), b"01234567");
    assert_eq!(kit.get(1, "/after").status, 200);
}

#[test]
fn much_comes_back_and_as_much_as_the_kernel_lets_go_by_bus_gets_there() {
    let mut kit = plain();
    assert!(kit.get(1, "/length/10485760").body == pattern(10 << 20));
    let data = pattern(128 << 10);
    let head =
        format!("POST /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: {}\r\n\r\n", data.len());
    kit.request(1, head);
    for piece in data.chunks(60_000) {
        kit.send(1, 0, piece);
    }
    assert!(kit.answer(1).unchunked_or_plain() == data);
    assert_eq!(kit.get(1, "/after").status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order_with_an_end_each() {
    let mut kit = plain();
    let requests: String = (0..40)
        .map(|n| {
            let path = if n % 3 == 0 { "/length/50000".into() } else { format!("/n/{n}") };
            format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")
        })
        .collect();
    kit.send(1, 0, requests);
    for n in 0..40 {
        let answer = kit.answer(1);
        if n % 3 == 0 {
            assert!(answer.body == pattern(50_000), "{n}");
        } else {
            assert!(answer.text().contains(&format!("/n/{n},")), "{n}: {}", answer.text());
        }
    }
}

#[test]
fn the_end_is_in_the_frame_of_the_last_byte() {
    let mut kit = plain();
    for length in [0, 1, 1000, 32 * 1024, 65_536, 100_000] {
        kit.request(1, format!("GET /length/{length} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        loop {
            let frame = kit.take();
            if frame.flags & FLAG_END != 0 {
                assert_ne!(frame.length, 0, "{length}");
                break;
            }
        }
        assert_eq!(kit.answer(1).body, pattern(length));
    }
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let mut kit = plain();
    let head = "HEAD /length/1234 HTTP/1.1\r\nHost: shop\r\n\r\n";
    kit.request(1, head);
    let answer = kit.answer(1);
    assert_eq!((answer.field("content-length"), answer.body.len()), (Some("1234"), 0));
    for (path, status) in [("/empty", 204), ("/same", 304)] {
        let answer = kit.get(1, path);
        assert_eq!((answer.status, answer.body.len(), answer.frames), (status, 0, 1));
    }
}

#[test]
fn chunks_and_trailers_come_through() {
    let mut kit = plain();
    let answer = kit.get(1, "/chunked");
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.unchunked().0, b"hello, world");
    kit.request(1, "GET /trailers HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\n\r\n");
    assert_eq!(kit.answer(1).unchunked(), (b"data".to_vec(), "x-sum: 42\r\n\r\n".into()));
}

#[test]
fn fields_keep_their_case_and_those_of_one_hop_stay_behind() {
    let seen = std::sync::mpsc::channel();
    let address = upstream::raw(move |mut socket| {
        seen.0.send(upstream::head(&mut socket)).unwrap();
        let answer = "HTTP/1.1 200 OK\r\nX-CamelCase: Yes\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n";
        socket.write_all(answer.as_bytes()).unwrap();
    });
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(1, "GET http://other/a?b HTTP/1.1\r\nHost: shop\r\nX-Mine: 1\r\nKeep-Alive: 3\r\nConnection: x-gone\r\nX-Gone: 1\r\n\r\n");
    let answer = kit.answer(1);
    assert_eq!(answer.head, "HTTP/1.1 200 OK\r\nX-CamelCase: Yes\r\nContent-Length: 0\r\n\r\n");
    let seen = seen.1.recv().unwrap();
    let (sent, added) = seen.split_once("x-request-id: ").expect("a request id");
    assert_eq!(sent, "GET /a?b HTTP/1.1\r\nHost: other\r\nX-Mine: 1\r\n");
    let (id, added) = added.split_once("\r\n").unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 4), "{id}");
    assert_eq!(added, "x-forwarded-proto: http\r\nx-envoy-attempt-count: 1\r\n\r\n");
}

#[test]
fn expectations_are_met() {
    let mut kit = plain();
    kit.request(
        1,
        "POST /echo HTTP/1.1\r\nHost: shop\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    );
    let frame = kit.take();
    assert_eq!(
        (frame.flags, &kit.received[&1].bytes[..]),
        (0, &b"HTTP/1.1 100 Continue\r\n\r\n"[..])
    );
    kit.send(1, 0, "ok");
    kit.received.clear();
    assert_eq!(kit.answer(1).unchunked_or_plain(), b"ok");
}

#[test]
fn older_and_closing_clients_get_a_length_or_chunks() {
    let mut kit = plain();
    kit.request(1, "GET /chunked HTTP/1.0\r\n\r\n");
    let answer = kit.answer(1);
    assert_eq!((answer.field("content-length"), answer.text()), (Some("12"), "hello, world"));
    kit.request(2, "GET /chunked HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    let answer = kit.answer(2);
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(answer.unchunked().0, b"hello, world");
    // The kernel knows where a request begins, even after that.
    assert_eq!(kit.get(2, "/again").status, 200);

    let endless = upstream::raw(|mut socket| {
        upstream::head(&mut socket);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let _ = socket.write_all(&pattern((1 << 20) + 1));
    });
    kit.mesh.send(mesh(&[endless], None).into()).unwrap();
    kit.request(3, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(kit.answer(3).status, 502);
}

#[test]
fn what_cannot_be_served_is_refused() {
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cut = upstream::canned("HTTP/1.1 200");
    let teapot = Action::Respond { status: 418, body: "short and stout".into() };
    let rules = vec![
        rule("/teapot", teapot),
        rule("/nowhere", forward(&[(3, 1)])),
        rule("/missing", Action::Forward(Vec::new())),
        rule("/refused", forward(&[(1, 1)])),
        rule("/cut", forward(&[(2, 1)])),
    ];
    let mut kit = Kit::new(mesh(&[upstream::http("one"), refused, cut], Some(rules)));
    let reset = "upstream connect error or disconnect/reset before headers. reset reason:";
    let unreachable = format!("{reset} remote connection failure");
    let disconnected = format!("{reset} connection termination");
    for (path, status, body) in [
        ("/teapot", 418, "short and stout"),
        ("/nowhere", 503, "no healthy upstream"),
        ("/missing", 500, ""),
        ("/refused", 503, &unreachable),
        ("/cut", 503, &disconnected),
        ("/else", 404, ""),
    ] {
        let answer = kit.get(1, path);
        assert_eq!((answer.status, answer.text(), answer.frames), (status, body, 1), "{path}");
        assert_eq!(answer.field("server"), Some("beeway"));
        assert_eq!(answer.field("content-length"), Some(&*body.len().to_string()));
    }
    kit.request(1, "POST /teapot HTTP/1.1\r\nHost: shop\r\ncontent-length: 4\r\n\r\nmilk");
    assert_eq!(kit.answer(1).status, 418);
    kit.request(1, "CONNECT shop:80 HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!(kit.answer(1).status, 405);
    kit.request(2, "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(kit.answer(2).status, 400);
    kit.send(3, 0, "not HTTP at all\r\n\r\n");
    assert_eq!(kit.answer(3).status, 400);
    let large = format!("GET / HTTP/1.1\r\nHost: shop\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    kit.send(4, 0, large);
    assert_eq!(kit.answer(4).status, 431);
    kit.mesh.send(beeway_model::Mesh::default().into()).unwrap();
    assert_eq!(kit.get(5, "/").status, 503);
}

#[test]
fn a_refusal_does_not_wait_for_all_of_a_stalled_upload() {
    let teapot = Action::Respond { status: 418, body: "short and stout".into() };
    let mut kit = Kit::new(mesh(&[], Some(vec![rule("/", teapot)])));
    let begun = std::time::Instant::now();
    kit.request(1, "POST / HTTP/1.1\r\nHost: shop\r\ncontent-length: 4\r\n\r\nmi");
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.field("connection")), (418, Some("close")));
    let time = begun.elapsed();
    assert!((DRAIN_TIME..2 * DRAIN_TIME).contains(&time), "{time:?}");
}

#[test]
fn an_answer_before_the_end_of_its_request_says_that_the_connection_ends() {
    let endpoint = Endpoint::new(Vec::new());
    let mut kit = Kit::new(mesh(&[endpoint.address], None));
    let chunked =
        "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    kit.request(1, format!("{chunked}0\r\n\r\n"));
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.field("connection")), (200, None));
    // Nobody can say that no more of it will come.
    kit.request(1, chunked);
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    kit.eventually(|stats| (stats.requests, stats.served_streams) == (2, 0));
}

#[test]
fn after_a_malformed_body_the_connection_ends() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut kit = Kit::new(mesh(&[silent.local_addr().unwrap()], None));
    let head = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    kit.request(1, format!("{head}no size\r\n"));
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.text()), (400, "malformed body"));
    assert_eq!(answer.field("connection"), Some("close"));
}

#[test]
fn the_draw_of_the_kernel_chooses_the_backend() {
    let endpoints = [upstream::http("first"), upstream::http("second")];
    let buyer = SourceMatch {
        labels: [("app".to_owned(), "buyer".to_owned())].into(),
        ..SourceMatch::default()
    };
    let matches = vec![Match { sources: vec![buyer], ..Match::default() }];
    let action = forward(&[(0, 1), (1, 1)]);
    let weighted = Rule { name: String::new(), matches, action, policy: None, detour: None };
    let mut kit = Kit::new(mesh(&endpoints, Some(vec![weighted])));
    for (draw, name) in [(0, "first"), (u32::MAX, "second"), (1 << 31, "second"), (7, "first")] {
        let request = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
        let frame = kit.frame(1, FLAG_REQUEST, draw, request);
        kit.bus.write_all(&frame).unwrap();
        assert!(kit.answer(1).text().starts_with(name), "{draw}");
    }
}

#[test]
fn websockets_become_tunnels() {
    let address = upstream::raw(|mut socket| {
        let head = upstream::head(&mut socket).to_ascii_lowercase();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket"));
        let accept = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi";
        socket.write_all(accept.as_bytes()).unwrap();
        let mut echo = [0; 5];
        for _ in 0..3 {
            socket.read_exact(&mut echo).unwrap();
            socket.write_all(&echo).unwrap();
        }
    });
    let mut kit = Kit::new(mesh(&[address], None));
    let head = "GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    kit.request(1, format!("{head}early"));
    while !kit.received.get(&1).is_some_and(|r| r.bytes.ends_with(b"hiearly")) {
        assert_eq!(kit.take().flags & FLAG_END, 0, "a tunnel is no answer that ends");
    }
    let text = String::from_utf8_lossy(&kit.received[&1].bytes).into_owned();
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("upgrade: websocket"), "{text}");
    for word in ["hello", "again"] {
        kit.send(1, 0, word);
        while !kit.received[&1].bytes.ends_with(word.as_bytes()) {
            kit.take();
        }
    }
    // The endpoint closes, which the client can be told over a connection that leads here.
    kit.kernel.wait(|said| said.diverted == [1]);
    kit.answer(1);
    let mut client = kit.divert(1, b"");
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end");
}
