//! Clients of HTTP/2 that put frames together by hand (RFC 9113): what they may do, and what they
//! may not.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use beeway_model::Protocol;
use h2::Reason;

use crate::by_hand::*;
use crate::kit::{Kit, mesh};
use crate::upstream;

fn kit() -> Kit {
    let endpoint = upstream::scripted(1 << 20, |_, request| async move {
        match request.uri().path() {
            "/never" => std::future::pending().await,
            _ => upstream::full("answer".into()),
        }
    });
    Kit::new(mesh(Protocol::Http2, &[endpoint], Vec::new()))
}

#[test]
fn what_means_nothing_is_ignored() {
    let kit = kit();
    let socket = client(
        &kit,
        &[
            frame(PRIORITY, 0, 1, &[0; 5]),
            frame(77, 255, 3, b"unknown"),
            frame(SETTINGS, ACK, 0, &[]),
            setting(99, 7),
            frame(PING, ACK, 0, &[1; 8]),
            frame(PING, 0, 0, b"12345678"),
            get(5),
            // padded, with a priority
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | 0x28,
                7,
                &[&[2, 0, 0, 0, 3, 9], GET, &[0, 0]].concat(),
            ),
            // in pieces, one of them empty
            frame(HEADERS, END_STREAM, 9, &GET[..2]),
            frame(CONTINUATION, 0, 9, &[]),
            frame(CONTINUATION, END_HEADERS, 9, &GET[2..]),
            // of streams that are over
            reset(1),
            window(3, 9),
        ],
    );
    let ping = next(&socket, PING);
    assert_eq!((ping.flags, &ping.payload[..]), (ACK, &b"12345678"[..]));
    let mut answered: Vec<u32> = (0..3).map(|_| next(&socket, HEADERS).stream).collect();
    answered.sort_unstable();
    assert_eq!(answered, [5, 7, 9]);
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    let kit = kit();
    let many =
        |frame: Vec<u8>, count: usize| (0..count).map(move |_| frame.clone()).collect::<Vec<_>>();
    let head = |flags| frame(HEADERS, flags, 1, GET);
    for (frames, reason) in [
        (vec![frame(DATA, 0, 0, b"x")], Reason::PROTOCOL_ERROR),
        (vec![frame(DATA, 0, 1, b"x")], Reason::PROTOCOL_ERROR),
        (vec![post(1), frame(DATA, 8, 1, &[9, 0])], Reason::PROTOCOL_ERROR),
        (vec![frame(HEADERS, END_HEADERS, 0, GET)], Reason::PROTOCOL_ERROR),
        (vec![frame(HEADERS, END_HEADERS, 2, GET)], Reason::PROTOCOL_ERROR),
        (vec![frame(HEADERS, END_HEADERS, 1, b"\x80")], Reason::COMPRESSION_ERROR),
        (vec![head(END_STREAM), get(3)], Reason::PROTOCOL_ERROR),
        (vec![head(0), frame(CONTINUATION, END_HEADERS, 3, &[])], Reason::PROTOCOL_ERROR),
        (vec![frame(CONTINUATION, END_HEADERS, 1, &[])], Reason::PROTOCOL_ERROR),
        (vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4])], Reason::PROTOCOL_ERROR),
        (vec![frame(PRIORITY, 0, 0, &[0; 5])], Reason::PROTOCOL_ERROR),
        (vec![frame(PRIORITY, 0, 1, &[0; 4])], Reason::FRAME_SIZE_ERROR),
        (vec![reset(1)], Reason::PROTOCOL_ERROR),
        (vec![frame(RST_STREAM, 0, 1, &[0; 3])], Reason::FRAME_SIZE_ERROR),
        (vec![frame(SETTINGS, 0, 1, &[])], Reason::PROTOCOL_ERROR),
        (vec![frame(SETTINGS, ACK, 0, &[0; 6])], Reason::FRAME_SIZE_ERROR),
        (vec![frame(SETTINGS, 0, 0, &[0; 5])], Reason::FRAME_SIZE_ERROR),
        (vec![setting(4, 1 << 31)], Reason::FLOW_CONTROL_ERROR),
        (vec![setting(5, 16_383)], Reason::PROTOCOL_ERROR),
        (vec![setting(2, 2)], Reason::PROTOCOL_ERROR),
        (vec![frame(PING, 0, 1, &[0; 8])], Reason::PROTOCOL_ERROR),
        (vec![frame(PING, 0, 0, &[0; 7])], Reason::FRAME_SIZE_ERROR),
        (vec![frame(GOAWAY, 0, 1, &[0; 8])], Reason::PROTOCOL_ERROR),
        (vec![window(0, 0)], Reason::PROTOCOL_ERROR),
        (vec![window(0, i32::MAX as u32)], Reason::FLOW_CONTROL_ERROR),
        (vec![window(1, 1)], Reason::PROTOCOL_ERROR),
        (vec![frame(WINDOW_UPDATE, 0, 0, &[0; 5])], Reason::FRAME_SIZE_ERROR),
        (vec![frame(0, 0, 1, &[0; 16_385])], Reason::FRAME_SIZE_ERROR),
        // Heads without end.
        (
            [vec![head(0)], many(frame(CONTINUATION, 0, 1, &[]), 100)].concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
        (
            [vec![head(0)], many(frame(CONTINUATION, 0, 1, &[0x82; 16_000]), 10)].concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
    ] {
        assert_eq!(failure(&client(&kit, &frames)), reason, "{:x?}", &frames[0][..9]);
    }
    let mut socket = kit.connect();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(PING, 0, 0, &[0; 8])).unwrap();
    assert_eq!(failure(&socket), Reason::PROTOCOL_ERROR);
    kit.eventually(|stats| stats.open_connections == 0);
}

#[test]
fn what_is_wrong_with_one_request_is_in_no_others_way() {
    let kit = kit();
    let head = |more: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, &[GET, more].concat());
    let body = |length: &str, data: &[u8]| {
        let length = [POST, &[0x0f, 0x0d, length.len() as u8], length.as_bytes()].concat();
        [frame(HEADERS, END_HEADERS, 1, &length), frame(DATA, END_STREAM, 1, data)].concat()
    };
    for (frames, reason) in [
        (head(b"\x00\x01A\x00"), Reason::PROTOCOL_ERROR),
        (head(b"\x00\x0aconnection\x05close"), Reason::PROTOCOL_ERROR),
        (head(b"\x00\x02te\x04gzip"), Reason::PROTOCOL_ERROR),
        (head(b"\x00\x01a\x03b\r\n"), Reason::PROTOCOL_ERROR),
        (head(b"\x82"), Reason::PROTOCOL_ERROR),
        (head(b"\x00\x07:status\x03200"), Reason::PROTOCOL_ERROR),
        (frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x86"), Reason::PROTOCOL_ERROR),
        (frame(HEADERS, END_STREAM | END_HEADERS, 1, b""), Reason::PROTOCOL_ERROR),
        (body("4", b"longer"), Reason::PROTOCOL_ERROR),
        (body("7", b"short"), Reason::PROTOCOL_ERROR),
        // What follows a body that is still to come.
        (
            [post(1), frame(HEADERS, END_HEADERS, 1, b"\x00\x01a\x01b")].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            [post(1), frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82")].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        ([post(1), window(1, 0)].concat(), Reason::PROTOCOL_ERROR),
        ([post(1), window(1, i32::MAX as u32)].concat(), Reason::FLOW_CONTROL_ERROR),
    ] {
        let socket = client(&kit, &[frames.clone(), get(3)]);
        let said = next(&socket, RST_STREAM);
        assert_eq!((said.stream, said.number()), (1, reason.into()), "{frames:x?}");
        let answered = next(&socket, HEADERS);
        assert_eq!((answered.stream, answered.payload[0]), (3, 0x88));
        assert_eq!(next(&socket, DATA).payload, b"answer");
    }
}

#[test]
fn a_head_that_is_too_large_is_answered() {
    let kit = kit();
    // One field of 4000 bytes, again and again by its index.
    let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let block = [GET, &long, &[0xbe; 20]].concat();
    let socket = client(&kit, &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &block), get(3)]);
    let mut status = [next(&socket, HEADERS), next(&socket, HEADERS)];
    status.sort_by_key(|said| said.stream);
    assert_eq!(status[0].payload, b"\x48\x03431");
    assert_eq!(status[1].payload[0], 0x88);
}

#[test]
fn answers_keep_to_the_clients_windows() {
    let endpoint =
        upstream::scripted(1 << 20, |_, _| async { upstream::full(upstream::pattern(50_000)) });
    let kit = Kit::new(mesh(Protocol::Http2, &[endpoint], Vec::new()));
    // So much of each of two, then so much of both; one window grows when it is less than nothing.
    let mut socket = client(&kit, &[setting(4, 1000), get(1), get(3)]);
    let mut read = [Vec::new(), Vec::new()];
    let mut take = |socket: &TcpStream, until: [usize; 2]| {
        while [read[0].len(), read[1].len()] != until {
            let said = next(socket, DATA);
            read[said.stream as usize / 2].extend(said.payload);
        }
    };
    take(&socket, [1000, 1000]);
    socket.write_all(&[setting(4, 10), window(1, 991), window(3, 2000)].concat()).unwrap();
    take(&socket, [1001, 2010]);
    socket.write_all(&[window(3, 1 << 20), window(1, 1 << 20)].concat()).unwrap();
    let (mut both, mut ended) = (1001 + 2010, 0);
    let mut more = |socket: &TcpStream| {
        let said = next(socket, DATA);
        both += said.payload.len();
        ended += usize::from(said.flags & END_STREAM);
        read[said.stream as usize / 2].extend(said.payload);
        (both, ended)
    };
    while more(&socket).0 < 65_535 {}
    socket.write_all(&window(0, 1 << 20)).unwrap();
    while more(&socket).1 < 2 {}
    let wanted = upstream::pattern(50_000);
    assert!(read.iter().all(|read| *read == wanted));
}

#[test]
fn clients_keep_to_their_windows() {
    let endpoint = upstream::scripted(1 << 10, |_, _| std::future::pending());
    let kit = Kit::new(mesh(Protocol::Http2, &[endpoint], Vec::new()));
    let data = vec![frame(DATA, 0, 1, &[7; 16_384]); 17];
    let socket = client(&kit, &[vec![post(1)], data, vec![frame(PING, 0, 0, &[0; 8])]].concat());
    let said = next(&socket, RST_STREAM);
    assert_eq!((said.stream, said.number()), (1, Reason::FLOW_CONTROL_ERROR.into()));
    assert_eq!(next(&socket, PING).flags, ACK);
}

#[test]
fn one_more_request_than_is_allowed_is_refused() {
    let kit = kit();
    let never = b"\x82\x86\x04\x06/never\x01\x04shop";
    let open = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, never);
    let socket = client(&kit, &(0..1025).map(|at| open(2 * at + 1)).collect::<Vec<_>>());
    let said = next(&socket, RST_STREAM);
    assert_eq!((said.stream, said.number()), (2049, Reason::REFUSED_STREAM.into()));
    kit.eventually(|stats| stats.http2_refused == 1);
}

#[test]
fn requests_that_are_taken_back_at_once_end_the_connection() {
    let kit = kit();
    let frames: Vec<_> = (0..2000).flat_map(|at| [get(2 * at + 1), reset(2 * at + 1)]).collect();
    assert_eq!(failure(&client(&kit, &frames)), Reason::ENHANCE_YOUR_CALM);
    kit.eventually(|stats| stats.open_connections == 0);
    // Now and then is nothing.
    let mut socket = client(&kit, &[]);
    for at in 0..200 {
        socket.write_all(&[get(2 * at + 1), reset(2 * at + 1)].concat()).unwrap();
    }
    socket.write_all(&get(1001)).unwrap();
    while next(&socket, HEADERS).stream != 1001 {}
}

#[test]
fn requests_that_the_client_makes_us_take_back_end_the_connection() {
    let kit = kit();
    for spoil in
        [|id| window(id, 0), |id| window(id, i32::MAX as u32), |id| frame(DATA, 0, id, b"x")]
    {
        let never = b"\x82\x86\x04\x06/never\x01\x04shop";
        let open = |id| frame(HEADERS, END_STREAM | END_HEADERS, id, never);
        let frames: Vec<_> =
            (0..2000).flat_map(|at| [open(2 * at + 1), spoil(2 * at + 1)]).collect();
        assert_eq!(failure(&client(&kit, &frames)), Reason::ENHANCE_YOUR_CALM);
    }
    // Nor is what stands for very much let in, however often.
    let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let block = [GET, &long, &[0xbe; 2000]].concat();
    let bomb = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    assert_eq!(failure(&client(&kit, &[bomb])), Reason::COMPRESSION_ERROR);
    kit.eventually(|stats| stats.http2_failed == 4);
}

#[test]
fn heads_of_all_requests_together_are_bounded() {
    let kit = kit();
    let never = b"\x82\x86\x04\x06/never\x01\x04shop";
    let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let first = [&never[..], &long].concat();
    let block = [&never[..], &[0xbe; 14]].concat();
    let mut frames = vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &first)];
    frames.extend((1..100).map(|at| frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 1, &block)));
    let socket = client(&kit, &frames);
    let said = next(&socket, RST_STREAM);
    assert_eq!((said.stream, said.number()), (151, Reason::REFUSED_STREAM.into()));
}

#[test]
fn a_client_that_ends_is_answered_with_an_end() {
    let kit = kit();
    // Nothing more is sent, or asked for.
    let half = client(&kit, &[get(1)]);
    while next(&half, DATA).flags & END_STREAM == 0 {}
    half.shutdown(Shutdown::Write).unwrap();
    let left = client(&kit, &[get(1), frame(GOAWAY, 0, 0, &[0; 8]), get(3)]);
    let mut answered = 0;
    for mut socket in [half, left] {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).expect("an end in order");
        answered += rest.windows(6).filter(|window| window == b"answer").count();
    }
    assert_eq!(answered, 1);
    kit.eventually(|stats| stats.open_connections == 0);
}

#[test]
fn who_asks_and_does_not_listen_is_not_heard() {
    let kit = kit();
    let mut socket = client(&kit, &[]);
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(10_000);
    let mut written = 0;
    while written < 1 << 28 {
        match socket.write(&pings) {
            Ok(n) => written += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(written < 1 << 26, "{written}");
    let other = client(&kit, &[get(1)]);
    assert_eq!(next(&other, HEADERS).stream, 1);
}

#[test]
fn a_connection_is_ended_when_the_client_knows() {
    let mut kit = kit();
    let never = b"\x83\x86\x04\x06/never\x01\x04shop";
    let mut socket = client(&kit, &[frame(HEADERS, END_STREAM | END_HEADERS, 1, never)]);
    kit.eventually(|stats| stats.requests == 1);
    kit.proxy.as_mut().unwrap().drain();
    let said = next(&socket, GOAWAY);
    assert_eq!(said.payload, [&i32::MAX.to_be_bytes()[..], &[0; 4]].concat());
    let ping = next(&socket, PING);
    // It has not heard of it yet.
    socket.write_all(&get(3)).unwrap();
    assert_eq!(next(&socket, HEADERS).stream, 3);
    socket.write_all(&frame(PING, ACK, 0, &ping.payload)).unwrap();
    assert_eq!(next(&socket, GOAWAY).payload, [3u32, 0].map(u32::to_be_bytes).concat());
    socket.write_all(&get(5)).unwrap();
    let said = next(&socket, RST_STREAM);
    assert_eq!((said.stream, said.number()), (5, Reason::REFUSED_STREAM.into()));
    socket.write_all(&reset(1)).unwrap();
    assert!(Said::read(&socket).is_none());
}
