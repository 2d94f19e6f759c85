//! `bw-peer` and the wrapped tools, between two pods.

use std::time::Duration;

use beeway_testbed::{
    Load, Node, Place, RawClient, curl, grpc_client, grpc_echo, http_server, nginx, pattern,
    script_server, slurp, spawn_ready, tcp_echo, tcp_ping, udp_echo, udp_send, upload, wrk,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(10);

/// The last line of JSON that a command prints.
fn last(command: beeway_testbed::Command) -> Value {
    let output = command.output(LIMIT).expect("an end").success().expect("success");
    output.json().pop().expect("a line of JSON")
}

#[test]
fn raw_client_sees_every_answer() {
    let node = Node::new("raw").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let server = http_server(&b, 8080, "reviews-v1").expect("server");
    let server = spawn_ready(server.arg("--log")).expect("server");
    for to in [b.addr4(8080), b.addr6(8080)] {
        let mut client = RawClient::connect(&a, to).expect("connect");
        assert_eq!(client.peername().expect("peer"), to);
        let answer = client.get("reviews", "/x?y=1", &["end-user: jason"]).expect("answer");
        assert_eq!((answer.status, answer.served_by()), (200, Some("reviews-v1")));
        assert_eq!(answer.body, "reviews-v1 GET /x?y=1\n");
        assert_eq!(answer.headers["x-peer"], client.sockname().expect("name").to_string());

        // Keep-alive, dribbled, pipelined, chunked, without a body.
        let pair = "GET /one HTTP/1.1\r\nhost: r\r\n\r\nGET /two HTTP/1.1\r\nhost: r\r\n\r\n";
        client.dribble(pair, 7, Duration::ZERO).expect("send");
        assert_eq!(client.response().expect("answer").body, "reviews-v1 GET /one\n");
        assert_eq!(client.response().expect("answer").body, "reviews-v1 GET /two\n");
        let long = client.get("r", "/chunked/100000", &[]).expect("answer");
        assert_eq!((long.body_len, long.sha256), (100_000, pattern::sha256(100_000)));
        assert_eq!(client.get("r", "/status/404", &[]).expect("answer").status, 404);
        let head = "HEAD /bytes/5 HTTP/1.1\r\nhost: r\r\n\r\n";
        client.send(head).expect("send");
        let answer = client.step(&json!({"recv_response": true, "method": "HEAD"}));
        assert_eq!(answer.expect("answer")["headers"]["content-length"], "5");
        let delayed = client.get("r", "/delay/5/headers", &["x-y: z"]).expect("answer");
        let delayed: Value = serde_json::from_str(&delayed.body).expect("JSON");
        assert_eq!(delayed["headers"], json!({"host": "r", "x-y": "z"}));
        let stats: Value =
            serde_json::from_str(&client.get("r", "/stats", &[]).expect("answer").body)
                .expect("JSON");
        // Seven before it, and in the second round the eight of the first.
        assert_eq!(stats["requests"].as_u64().expect("count") % 8, 7);

        client.send("GET /last HTTP/1.1\r\nhost: r\r\n\r\n").expect("send");
        client.shutdown_write().expect("shutdown");
        let (text, end) = client.recv_until_close().expect("end");
        assert!(text.ends_with("reviews-v1 GET /last\n"), "{text}");
        assert_eq!(end, "eof");
    }
    assert!(server.wait_for_line(r#""end-user":"jason""#, LIMIT).is_ok());
    let refused = RawClient::connect(&a, b.addr4(1)).expect_err("refused");
    assert!(format!("{refused:#}").contains("ECONNREFUSED"), "{refused:#}");
}

#[test]
fn server_fails_as_often_as_asked() {
    let node = Node::new("first").expect("node");
    let (a, b) = (node.plain_pod("a").expect("pod"), node.plain_pod("b").expect("pod"));
    let _server = spawn_ready(http_server(&b, 8080, "b").expect("server").arg("--echo"));
    let mut client = RawClient::connect(&a, b.addr4(8080)).expect("connect");
    for status in [503, 503, 200, 200] {
        let answer = client.get("b", "/first/2/key/503/some/path?q", &[]).expect("answer");
        assert_eq!(answer.status, status);
    }
    assert_eq!(client.get("b", "/count/key", &[]).expect("answer").body, "4");
    let answer = client.get("b", "/first/1/g/grpc14", &[]).expect("answer");
    assert_eq!((answer.status, answer.headers["grpc-status"].as_str()), (200, "14"));
    let set = "x-echo-set-header: x-one:1, x-two:2 b";
    let answer = client.get("b", "/first/1/g/grpc14", &["x-a: b", set]).expect("answer");
    let fields = (answer.headers["x-one"].as_str(), answer.headers["x-two"].as_str());
    assert_eq!(fields, ("1", "2 b"));
    let head: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(
        (&head["path"], &head["headers"]["x-a"]),
        (&json!("/first/1/g/grpc14"), &json!("b"))
    );
    client.send("GET /first/1/r/reset HTTP/1.1\r\nhost: b\r\n\r\n").expect("send");
    assert_eq!(client.recv_until_close().expect("end"), (String::new(), "eof".to_owned()));
}

#[test]
fn server_speaks_http2_and_grpc_with_trailers() {
    let node = Node::new("h2").expect("node");
    let (a, b) = (node.plain_pod("a").expect("pod"), node.plain_pod("b").expect("pod"));
    let _server = spawn_ready(http_server(&b, 8080, "b").expect("server"));
    let url = b.url(8080, "/echo.Echo/Call");
    let arguments = ["-sSi", "--http2-prior-knowledge", "-H", "content-type: application/grpc"];
    let output = curl(&a, &[&arguments[..], &["--data-binary", "abcde", &url]].concat());
    let output = output.expect("curl").success().expect("success").stdout;
    for wanted in ["HTTP/2 200", "x-path: /echo.Echo/Call", "abcde", "grpc-status: 0"] {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
    let url = b.url(8080, "/trailers");
    let output = curl(&a, &["-sSi", "-H", "te: trailers", "-H", "connection: te", &url]);
    let output = output.expect("curl").success().expect("success").stdout;
    for wanted in ["HTTP/1.1 200", "one,two", "x-trailer: b"] {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
    let mut client = RawClient::connect(&a, b.addr4(8080)).expect("connect");
    let text = "POST /sum HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n\
                2\r\nab\r\n0\r\nx-t: 1\r\n\r\n";
    let answer = client.request(text).expect("answer");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((&answer["bytes"], &answer["trailers"]), (&json!(2), &json!({"x-t": "1"})));
}

#[test]
fn script_sends_what_the_path_spells() {
    let node = Node::new("script").expect("node");
    let (a, b) = (node.plain_pod("a").expect("pod"), node.plain_pod("b").expect("pod"));
    let server = spawn_ready(script_server(&b, 8080).expect("server")).expect("server");
    let mut client = RawClient::connect(&a, b.addr4(8080)).expect("connect");
    // the answer comes although the body has not
    let head = "POST /script/61.wait1.620d.x3 HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n";
    client.send(head).expect("send");
    assert_eq!(client.step(&json!({"recv": 6})).expect("step")["data"], "ab\rxxx");
    server.signal(Signal::SIGSTOP);
    let body = "x".repeat(50_000_000);
    let sent = client.send_nonblocking(&body).expect("send");
    assert!((1..body.len()).contains(&sent), "{sent}");
    server.signal(Signal::SIGCONT);
    client.send(&body[sent..]).expect("send");
    assert_eq!(client.get("r", "/other", &[]).expect("answer").status, 404);
    client.send("GET /script/63.close HTTP/1.1\r\n\r\n").expect("send");
    let (text, end) = client.recv_until_close().expect("end");
    assert_eq!((text.as_str(), end.as_str()), ("c", "eof"));
}

#[test]
fn raw_client_runs_in_the_cgroup_of_its_pod() {
    let node = Node::new("rawmesh").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.plain_pod("b").expect("pod"));
    let _server = spawn_ready(http_server(&b, 8080, "s").expect("server")).expect("server");
    let mut inside = RawClient::connect(&a, b.addr4(8080)).expect("connect");
    let mut outside = RawClient::connect_in(&a, b.addr4(8080), false).expect("connect");
    assert!(node.mesh().pids().expect("pids").contains(&inside.process().pid()));
    assert!(node.plain().pids().expect("pids").contains(&outside.process().pid()));
}

#[test]
fn load_counts_what_it_sees() {
    let node = Node::new("load").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let server = http_server(&b, 8080, "s").expect("server").args(["--count", "2"]);
    let mut server = spawn_ready(server).expect("server");
    let load = Load::new(b.url(8080, "/"), 400).connections(4);
    let report = load.run(&a).expect("load");
    assert_eq!((report.requests, report.errors, report.connections), (400, 0, 4));
    assert_eq!((report.served_by["s"], report.status["200"]), (400, 400));
    assert!(report.p50_us > 0 && report.p50_us <= report.p99_us);
    let report = Load::new(b.url(8080, "/status/503"), 20).close().run(&a).expect("load");
    assert_eq!((report.requests, report.connections, report.status["503"]), (20, 20, 20));
    assert!(server.cpu_time().expect("time") > Duration::ZERO);
    server.kill9();
    let report = Load::new(b.url(8080, "/"), 3).run(&a).expect("load");
    assert_eq!((report.requests, report.errors), (0, 3));
    assert!(report.messages[0].contains("refused"), "{:?}", report.messages);
}

#[test]
fn long_bodies_arrive_whole() {
    let node = Node::new("bodies").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let _server = spawn_ready(http_server(&b, 8080, "s").expect("server")).expect("server");
    for path in ["/bytes/3000000", "/chunked/3000000"] {
        let slurp = slurp(&a, &b.url(8080, path)).expect("slurp");
        let seen = last(slurp.args(["--pause-ms", "20", "--rate", "100000000"]));
        assert_eq!(seen["status"], 200);
        assert_eq!(seen["sha256"], pattern::sha256(3_000_000), "{seen}");
    }
    for arguments in [&["--write-size", "1000"][..], &["--chunked"], &["--expect"]] {
        let sum = last(upload(&a, &b.url(8080, "/sum"), 1_000_000).expect("up").args(arguments));
        assert_eq!(sum["reply"]["bytes"], 1_000_000, "{sum}");
        assert_eq!(sum["reply"]["sha256"], sum["sent_sha256"]);
    }
    let echo = last(upload(&a, &b.url(8080, "/echo"), 3_000_000).expect("upload"));
    assert_eq!((&echo["bytes"], &echo["sha256"]), (&echo["sent"], &echo["sent_sha256"]));
}

#[test]
fn servers_ask_their_upstreams() {
    let node = Node::new("bookinfo").expect("node");
    let pods = ["ratings", "reviews", "details", "productpage", "user"].map(|name| node.pod(name));
    let [ratings, reviews, details, product, user] = pods.map(|pod| pod.expect("pod"));
    let start = |pod: &beeway_testbed::Pod, upstreams: &[String]| {
        let mut command = http_server(pod, 9080, pod.label()).expect("server").arg("--log");
        for upstream in upstreams {
            command = command.args(["--upstream", upstream]);
        }
        spawn_ready(command).expect("server")
    };
    let last = start(&ratings, &[]);
    let _rest = [
        start(&reviews, &[ratings.url(9080, "/ratings")]),
        start(&details, &[]),
        start(&product, &[details.url(9080, "/details"), reviews.url(9080, "/reviews")]),
    ];
    let page = product.url(9080, "/productpage");
    let page = curl(&user, &["-sS", "-H", "end-user: jason", &page]).expect("curl");
    let expected = "productpage GET /productpage\ndetails GET /details\n\
                    reviews GET /reviews\nratings GET /ratings\n";
    assert_eq!(page.success().expect("success").stdout, expected);
    assert!(last.wait_for_line("jason", LIMIT).is_ok());
}

#[test]
fn echoes_without_http() {
    let node = Node::new("echo").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let _tcp = spawn_ready(tcp_echo(&b, 7).expect("echo").args(["--name", "t"])).expect("echo");
    let _udp = spawn_ready(udp_echo(&b, 7).expect("echo").args(["--name", "u"])).expect("echo");
    for to in [b.addr4(7), b.addr6(7)] {
        let ping = last(tcp_ping(&a, to, 10).expect("ping").arg("--greeting"));
        assert_eq!((&ping["pings"], &ping["greeting"]), (&json!(10), &json!("t")), "{ping}");
        assert_eq!(ping["peer"], to.to_string());
        let sent = udp_send(&a, to, 2).expect("send");
        let expected = json!({"n": 1, "reply": "u ping1", "from": to.to_string()});
        assert_eq!(last(sent), expected);
        let sent = udp_send(&a, to, 2).expect("send").arg("--connected");
        assert_eq!(last(sent), expected);
    }
}

#[test]
fn tools_of_others_work_in_pods() {
    let node = Node::new("tools").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let server = nginx(&b, 80, "web").expect("nginx");
    let answer = curl(&a, &["-si", &b.url(80, "/")]).expect("curl").stdout;
    assert!(answer.contains("x-served-by: web\r\n") && answer.ends_with("web\n"), "{answer}");
    let file = last(slurp(&a, &b.url(80, "/bytes/64k")).expect("slurp"));
    assert_eq!(file["sha256"], pattern::sha256(64 << 10), "{file}");
    let report = wrk(&a, &["-t1", "-c2", "-d1s", &b.url(80, "/")]).expect("wrk");
    assert!(report.requests > 0 && report.p50_us > 0.0, "{report:?}");
    assert_eq!((report.errors, report.non2xx), (0, 0), "{report:?}");
    // The workers' time counts too: the master does nothing.
    assert!(server.cpu_time().expect("time") > Duration::from_millis(10));
    drop(server);
    let refused = curl(&a, &["-sS", &b.url(80, "/")]).expect("curl");
    assert_eq!(refused.status.code(), Some(7), "a worker serves on: {refused:?}");
}

#[test]
fn a_grpc_library_gets_its_messages_back() {
    let node = Node::new("grpc").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let server = grpc_echo(&b, 50051, "v1").expect("server");
    let _server = spawn_ready(server).expect("server");
    let client = grpc_client(&a, b.addr4(50051)).expect("client");
    let calls = client.args(["--connections", "3", "--metadata", "x-canary=yes"]);
    let answer = last(calls);
    assert_eq!((&answer["requests"], &answer["errors"]), (&json!(3), &json!(0)));
    assert_eq!(answer["head"]["x-served-by"], "v1");
    assert_eq!(answer["head"]["x-canary"], "yes");
    // Nobody listens there: no answer is not success.
    let client = grpc_client(&a, b.addr4(50052)).expect("client");
    let output = client.output(LIMIT).expect("an end");
    assert!(!output.status.success());
    assert_eq!(output.json()[0]["errors"], 1);
}
