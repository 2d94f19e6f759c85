//! Order, back-pressure and ends of connections.

use std::io::{Read, Write};
use std::sync::mpsc;

use beeway_proxy::frame::FLAG_STICKY;

use crate::kit::{Kit, mesh};
use crate::upstream::{self, pattern};

fn plain() -> Kit {
    Kit::new(mesh(&[upstream::http("one")], None))
}

#[test]
fn a_relay_waits_for_the_bytes_on_the_bus() {
    let mut kit = plain();
    let data = pattern(3 << 20);
    let head =
        format!("POST /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: {}\r\n\r\n", data.len());
    let first = kit.frame(1, 1, 0, head.as_bytes());
    let second = kit.frame(1, 0, 0, &data[..40_000]);
    let rest: Vec<u8> =
        data[40_000..].chunks(300_000).flat_map(|piece| kit.frame(1, 0, 0, piece)).collect();
    let after = kit.frame(1, 1, 0, b"GET /after HTTP/1.1\r\nHost: shop\r\n\r\n");
    let mut relay = kit.kernel.relay(3);
    let writer = std::thread::spawn(move || relay.write_all(&rest).unwrap());
    // The relay's bytes have made the stream known, and wait.
    kit.eventually(|stats| stats.open_streams == 1);
    assert_eq!(kit.proxy.stats().bytes_in, 0);
    // The next request is on the bus before the relay has been read.
    kit.bus.write_all(&[first, second, after].concat()).unwrap();
    let body = kit.answer(1).unchunked_or_plain();
    assert!(body == data, "{} of {} bytes", body.len(), data.len());
    assert!(kit.answer(1).text().contains("/after"));
    writer.join().unwrap();

    kit.proxy.client_closed(1);
    kit.kernel.wait(|said| said.replaced == 1);
    // The new relay of the same index works.
    let head =
        kit.frame(2, 1, 0, b"POST /echo HTTP/1.1\r\nHost: shop\r\ncontent-length: 3\r\n\r\n");
    kit.bus.write_all(&head).unwrap();
    let body = kit.frame(2, 0, 0, b"new");
    kit.kernel.relay(3).write_all(&body).unwrap();
    assert_eq!(kit.answer(2).unchunked_or_plain(), b"new");
}

#[test]
fn a_relay_is_not_read_when_nobody_takes_the_upload() {
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
    let frames: Vec<u8> = data.chunks(1 << 20).flat_map(|p| kit.frame(1, 0, 0, p)).collect();
    let mut relay = kit.kernel.relay(4);
    relay.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut written = 0;
    // What stops this is that nothing is read any more.
    while let Ok(n) = relay.write(&frames[written..]) {
        written += n;
    }
    assert!(written < frames.len(), "40 MiB are more than sockets hold");
    release.send(()).unwrap();
    relay.set_write_timeout(None).unwrap();
    relay.write_all(&frames[written..]).unwrap();
    assert_eq!(kit.answer(1).status, 204);
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
}

#[test]
fn the_proxy_stops_with_its_bus() {
    let kit = plain();
    kit.bus.shutdown(std::net::Shutdown::Both).unwrap();
    while kit.proxy.is_healthy() {
        std::thread::yield_now();
    }
}
