//! Order, back-pressure and ends of connections.

use std::io::{Read, Write};
use std::sync::mpsc;

use beeway_proxy::frame::{FLAG_REQUEST, FLAG_STICKY};

use crate::kit::{Answer, Kit, mesh};
use crate::script::Endpoint;
use crate::upstream::{self, pattern};

fn plain() -> Kit {
    Kit::new(mesh(&[upstream::http("one")], None))
}

#[test]
fn a_diverted_connection_goes_on_where_the_bus_ended() {
    // One that reads all of a request before it answers.
    let endpoint = Endpoint::new(Vec::new());
    let mut kit = Kit::new(mesh(&[endpoint.address], None));
    let data: String = (0..3 << 20).map(|n: u32| char::from(b'a' + (n % 23) as u8)).collect();
    let head =
        format!("POST /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: {}\r\n\r\n", data.len());
    let first = kit.frame(1, FLAG_REQUEST, 0, head.as_bytes());
    let second = kit.frame(1, 0, 0, &data.as_bytes()[..40_000]);
    let mut client = kit.divert(1, b"for the endpoint");
    let mut writer = client.try_clone().unwrap();
    let rest = data.as_bytes()[40_000..].to_vec();
    let writing = std::thread::spawn(move || {
        writer.write_all(&rest).unwrap();
        writer.write_all(b"GET /after HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    });
    // What comes directly has to wait for what came before it.
    kit.bus.write_all(&[first, second].concat()).unwrap();
    assert_eq!([(); 2].map(|()| Answer::read(&mut client).status), [200; 2]);
    writing.join().unwrap();
    let requests = endpoint.requests.lock().unwrap();
    assert!(requests[0].ends_with(&format!("\r\n\r\n{data}")) && requests[1].contains("/after"));
    drop(client);
    kit.kernel.wait(|said| said.over == [1]);
    kit.eventually(|stats| stats.open_streams == 0 && stats.direct_streams == 0);
}

#[test]
fn an_answer_goes_on_over_a_diverted_connection() {
    let (release, released) = mpsc::channel();
    let address = upstream::raw(move |mut socket| {
        upstream::head(&mut socket);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst").unwrap();
        released.recv().unwrap();
        socket.write_all(b"later").unwrap();
    });
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    while !kit.injected(1).ends_with(b"first") {
        kit.take();
    }
    let mut client = kit.divert(1, b"");
    kit.eventually(|stats| stats.direct_streams == 1);
    release.send(()).unwrap();
    let mut rest = [0; 5];
    client.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"later");
}

#[test]
fn a_stalled_upload_over_a_diverted_connection_is_held_back() {
    let (release, released) = mpsc::channel();
    let address = upstream::raw(move |mut socket| {
        upstream::head(&mut socket);
        released.recv().unwrap();
        let mut body = vec![0; 40 << 20];
        socket.read_exact(&mut body).unwrap();
        assert!(body == pattern(body.len()));
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    let mut kit = Kit::new(mesh(&[address], None));
    let data = pattern(40 << 20);
    let head = format!("PUT / HTTP/1.1\r\nHost: shop\r\ncontent-length: {}\r\n\r\n", data.len());
    kit.request(1, head);
    let mut client = kit.divert(1, b"");
    client.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let mut written = 0;
    while let Ok(n) = client.write(&data[written..]) {
        written += n;
    }
    assert!(written < data.len(), "40 MiB are more than sockets hold");
    release.send(()).unwrap();
    client.set_write_timeout(None).unwrap();
    client.write_all(&data[written..]).unwrap();
    assert_eq!(Answer::read(&mut client).status, 204);
}

#[test]
fn an_answer_that_was_cut_off_resets_a_diverted_connection() {
    let (release, released) = mpsc::channel();
    let address = upstream::raw(move |mut socket| {
        upstream::head(&mut socket);
        released.recv().unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nonly").unwrap();
    });
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    let mut client = kit.divert(1, b"");
    kit.eventually(|stats| stats.direct_streams == 1);
    release.send(()).unwrap();
    let mut seen = Vec::new();
    let error = client.read_to_end(&mut seen).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    kit.kernel.wait(|said| said.over == [1] && said.aborted.is_empty());
}

#[test]
fn a_connection_that_is_not_closed_after_its_last_answer_is_ended() {
    let mut kit = plain();
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\nconnection: close\r\n\r\n");
    assert_eq!(kit.answer(1).status, 200);
    kit.kernel.wait(|said| said.diverted == [1]);
    let mut client = kit.divert(1, b"");
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0, "the end");
    kit.kernel.wait(|said| said.over == [1]);
}

#[test]
fn a_diverted_connection_without_requests_is_ended() {
    let mut kit = plain();
    assert_eq!(kit.get(1, "/one").status, 200);
    let mut client = kit.divert(1, b"");
    client.write_all(b"GET /two HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    assert!(Answer::read(&mut client).text().contains("/two"));
    let begun = std::time::Instant::now();
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0, "the end");
    assert!(begun.elapsed().as_secs() >= 4, "not while it may still be of use");
    kit.kernel.wait(|said| said.over == [1]);
}

#[test]
fn a_slow_reader_holds_little_and_gets_all() {
    let mut kit = plain();
    kit.kernel.say(|said| {
        said.queued.insert(1, 1 << 20);
    });
    kit.request(1, "GET /length/8388608 HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.kernel.wait(|said| said.asked >= 5);
    kit.eventually(|stats| stats.slow_readers == 1);
    let held = kit.proxy.stats().bytes_out;
    assert!((256 << 10..=288 << 10).contains(&held), "{held}");
    // Others are not held up.
    assert_eq!(kit.get(2, "/other").status, 200);
    kit.kernel.say(|said| {
        said.queued.clear();
    });
    assert!(kit.answer(1).body == pattern(8 << 20));
    assert_eq!(kit.proxy.stats().slow_readers, 0);
}

#[test]
fn a_client_that_closes_takes_its_request_along() {
    let (arrived, arrival) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let address = upstream::raw(move |mut socket| {
        upstream::head(&mut socket);
        arrived.send(()).unwrap();
        ended.send(socket.read(&mut [0; 1]).unwrap_or(0)).unwrap();
    });
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    arrival.recv().unwrap();
    kit.proxy.client_closed(1);
    assert_eq!(end.recv().unwrap(), 0);
    kit.eventually(|stats| stats.open_streams == 0 && stats.upstream_connections == 0);
}

#[test]
fn a_client_that_went_unnoticed_is_found() {
    let mut kit = plain();
    kit.send(1, 0, "GET /half HTT");
    kit.eventually(|stats| stats.open_streams == 1);
    kit.kernel.say(|said| {
        said.gone.insert(1);
    });
    kit.eventually(|stats| stats.open_streams == 0);
}

/// What was in the bus when a client closed makes a stream of it again.
#[test]
fn a_diverted_client_that_went_unnoticed_is_found() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut kit = Kit::new(mesh(&[silent.local_addr().unwrap()], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.eventually(|stats| stats.upstream_connections == 1);
    let _client = kit.divert(1, b"");
    kit.eventually(|stats| stats.direct_streams == 1);
    kit.kernel.say(|said| {
        said.gone.insert(1);
    });
    kit.eventually(|stats| stats.open_streams == 0);
    kit.kernel.wait(|said| said.over == [1]);
}

#[test]
fn a_failed_injection_ends_that_stream_only() {
    let mut kit = plain();
    kit.kernel.say(|said| {
        said.queued.insert(1, 1 << 20);
    });
    kit.request(1, "GET /length/1000000 HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.kernel.wait(|said| said.asked >= 1);
    kit.kernel.say(|said| {
        said.gone.insert(1);
    });
    kit.eventually(|stats| stats.open_streams == 0 && stats.clients_gone == 1);
    assert_eq!(kit.get(2, "/").status, 200);
    // EPIPE, as the kernel answers a frame for a client that is gone.
    kit.injector_theirs.shutdown(std::net::Shutdown::Write).unwrap();
    kit.request(2, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.eventually(|stats| stats.open_streams == 0 && stats.clients_gone == 2);
    assert!(kit.proxy.is_healthy());
}

#[test]
fn an_answer_that_was_cut_off_aborts_the_connection() {
    let address = upstream::canned("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nonly");
    let mut kit = Kit::new(mesh(&[address], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.kernel.wait(|said| said.aborted == [1]);
    assert_eq!(kit.proxy.stats().upstream_errors, 1);
}

#[test]
fn nothing_follows_an_answer_that_was_cut_off() {
    let cut = upstream::canned("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nonly");
    let mut kit = Kit::new(mesh(&[cut], None));
    kit.request(1, "GET /1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.kernel.wait(|said| said.aborted == [1]);
    // The client has sent it before it could know.
    kit.request(1, "GET /2 HTTP/1.1\r\nHost: other\r\n\r\n");
    kit.request(2, "GET /3 HTTP/1.0\r\n\r\n");
    while kit.take().cookie != 2 {}
    assert!(kit.injected(1).ends_with(b"\r\n\r\nonly"), "{:?}", kit.injected(1));
    kit.proxy.client_closed(1);
    kit.eventually(|stats| stats.open_streams <= 1);
}

#[test]
fn a_connection_that_is_diverted_after_its_abort_is_reset() {
    let cut = upstream::canned("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nonly");
    let mut kit = Kit::new(mesh(&[cut], None));
    kit.request(1, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.kernel.wait(|said| said.aborted == [1]);
    let mut client = kit.divert(1, b"");
    let end = client.read(&mut [0; 10]).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    kit.kernel.wait(|said| said.over == [1]);
    kit.eventually(|stats| stats.open_streams == 0 && stats.direct_streams == 0);
}

#[test]
fn bytes_that_cannot_be_understood_abort_the_connection() {
    let mut kit = plain();
    // The middle of a connection that nobody knows.
    kit.frame(1, 0, 0, &[0; 100]);
    kit.send(1, 0, "GET / HTTP/1.1\r\n");
    kit.kernel.wait(|said| said.aborted == [1]);
    // A request after the end of a connection of which the kernel does not know the framing.
    let request = "GET / HTTP/1.1\r\nHost: shop\r\nconnection: close\r\n\r\n";
    kit.send(2, FLAG_STICKY, request);
    assert_eq!(kit.answer(2).status, 200);
    kit.send(2, FLAG_STICKY, request);
    kit.kernel.wait(|said| said.aborted == [1, 2]);
    // An offset that no connection has.
    let mut frame = kit.frame(3, FLAG_REQUEST, 0, b"GET / HTTP/1.1\r\n");
    frame[16..24].copy_from_slice(&u64::MAX.to_ne_bytes());
    kit.bus.write_all(&frame).unwrap();
    kit.kernel.wait(|said| said.aborted == [1, 2, 3]);
}

#[test]
fn no_answer_is_taken_for_that_to_a_lost_request() {
    let mut kit = Kit::new(mesh(&[], None));
    let first = "GET /1 HTTP/1.1\r\nHost: shop\r\nconnection: close\r\n\r\n";
    let second = "GET /2 HTTP/1.1\r\nHost: shop\r\n\r\n";
    let first = kit.frame(1, FLAG_REQUEST, 0, first.as_bytes());
    let second = kit.frame(1, FLAG_REQUEST, 0, second.as_bytes());
    kit.bus.write_all(&[first, second].concat()).unwrap();
    assert_eq!(kit.answer(1).status, 503);
    kit.kernel.wait(|said| said.diverted == [1]);
    kit.request(1, "GET /3 HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.kernel.wait(|said| said.aborted == [1]);
}

#[test]
fn the_proxy_stops_with_its_bus() {
    let kit = plain();
    kit.bus.shutdown(std::net::Shutdown::Both).unwrap();
    while kit.proxy.is_healthy() {
        std::thread::yield_now();
    }
}
