//! When the short way is taken, and what a connection holds in between.

use std::time::Duration;

use beeway_model::Policy;
use beeway_proxy::Options;

use crate::both::{GET, mesh_of, same};
use crate::kit::{Kit, mesh};
use crate::script::{Endpoint, OK, Then, says};
use crate::upstream;

const HEAD: &str = "HEAD /a HTTP/1.1\r\nHost: shop\r\nX-Request-ID: 1\r\n\r\n";
const CHUNKED: &str = "POST /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n\
                       2\r\nhi\r\n0\r\n\r\n";

#[test]
fn lines_that_end_otherwise_are_for_the_engine() {
    for request in [
        "GET / HTTP/1.1\nHost: shop\r\nX-Request-Id: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop\nX-Request-Id: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop\r\nX-Request-Id: 1\r\n\n",
        "\r\nGET / HTTP/1.1\r\nHost: shop\r\nX-Request-Id: 1\r\n\r\n",
    ] {
        same(&None, &[request], &[], 0);
    }
    for answer in [
        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        same(&None, &[GET], &[says(&[answer], Then::Keep)], 0);
    }
}

#[test]
fn a_connection_goes_back_to_the_short_way() {
    let mut kit = Kit::new(mesh(&[upstream::http("one")], None));
    for (number, request) in [GET, CHUNKED, GET, HEAD, HEAD, GET].into_iter().enumerate() {
        kit.request(1, request);
        let answer = kit.answer(1);
        assert_eq!(answer.status, 200, "{number}");
        assert_eq!(answer.body.is_empty(), request == HEAD, "{number}");
    }
    kit.eventually(|stats| (stats.requests, stats.plain, stats.aborted) == (6, 3, 0));
    kit.eventually(|stats| stats.served_streams == 0);
}

#[test]
fn requests_sent_ahead_of_an_engines_answer_stay_with_the_engine() {
    let late = || says(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nf", "irst"], Then::Keep);
    let endpoint = Endpoint::new(vec![late()]);
    let mut kit = Kit::new(mesh(&[endpoint.address], None));
    kit.request(1, CHUNKED);
    kit.request(1, "GET /second HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!([1, 2].map(|_| kit.answer(1).body), [&b"first"[..], b"ok"]);
    assert_eq!(kit.proxy.stats().plain, 0);
    kit.request(1, GET);
    assert_eq!(kit.answer(1).body, b"ok");
    kit.eventually(|stats| stats.plain == 1);
}

#[test]
fn a_server_with_nothing_to_do_ends() {
    let endpoint = Endpoint::new(Vec::new());
    let limited = Policy { timeout: Some(Duration::from_secs(9)), ..Policy::default() };
    let mut kit = Kit::new(mesh_of(endpoint.address, &Some(limited)));
    for _ in 0..2 {
        // the rule needs the engine each time: it stays for the next request
        for _ in 0..3 {
            kit.request(1, GET);
            assert_eq!(kit.answer(1).body, b"ok");
        }
        kit.eventually(|stats| stats.served_streams == 1);
        kit.eventually(|stats| stats.served_streams == 0);
        assert_eq!(kit.proxy.stats().open_streams, 1);
    }
    // half a request is not nothing
    kit.request(1, "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhe");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(kit.proxy.stats().served_streams, 1);
    kit.send(1, 0, "llo");
    assert_eq!(kit.answer(1).body, b"ok");
    assert!(endpoint.requests.lock().unwrap()[6].ends_with("\r\n\r\nhello"));
}

/// Each answer that turns out to be for the engine costs a connection.
#[test]
fn an_endpoint_with_unusual_answers_is_not_tried_each_time() {
    let unusual = || {
        let head = "HTTP/1.1 200 OK\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        says(&[head, "2\r\nok\r\n0\r\nx: 1\r\n\r\n"], Then::Keep)
    };
    let endpoint = Endpoint::new((0..100).map(|_| unusual()).collect());
    let mut kit = Kit::with(Options::default(), mesh(&[endpoint.address], None), None);
    for _ in 0..100 {
        kit.request(1, GET);
        assert_eq!(kit.answer(1).unchunked().0, b"ok");
    }
    assert_eq!(kit.proxy.stats().plain, 0);
    // tried at first, after 16 more, after 32, after 64; and one for the engine
    assert!(endpoint.connections() <= 5, "{}", endpoint.connections());
    for _ in 0..100 {
        kit.request(1, GET);
        assert_eq!(kit.answer(1).body, b"ok");
    }
    assert!(kit.proxy.stats().plain > 50, "{:?}", kit.proxy.stats());
}

#[test]
fn a_connection_that_closes_unused_is_not_used() {
    let endpoint = Endpoint::new(vec![says(&[OK], Then::Close), says(&[OK], Then::Reset)]);
    let mut kit = Kit::new(mesh(&[endpoint.address], None));
    for n in 1..=3 {
        assert_eq!(kit.get(n, "/").status, 200);
        kit.eventually(|stats| n == 3 || stats.upstream_connections == 0);
    }
    kit.eventually(|stats| (stats.plain, stats.retries, stats.upstream_connections) == (3, 0, 1));
}
