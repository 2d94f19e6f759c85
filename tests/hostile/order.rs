//! Answers in the order of their requests: a request that must change lanes while a native answer is
//! under way ends the connection (reason `order`), and one whose answer has ended does not.

use anyhow::{Context, Result};
use beeway_testbed::{RawClient, script_server, spawn_ready};
use serde_json::{Value, json};

use crate::bed::{Bed, JASON, Shape};
use crate::{DENIED, NATIVE, SHORTCUT, connect, get, other, post, said};

/// A bed whose endpoint v1 sends what a request's path spells.
fn scripted(label: &str, shape: Shape) -> Result<Bed> {
    let mut bed = Bed::new(label, shape, JASON)?;
    bed.stop_servers();
    bed.servers.push(spawn_ready(script_server(&bed.v1, 8080)?)?);
    Ok(bed)
}

/// The path that makes the server send these parts, each in a write of its own, `pause` apart.
fn spelled(parts: &[&str], pause: u32) -> String {
    let hex = |part: &&str| part.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts: Vec<String> = parts.iter().map(hex).collect();
    format!("/script/{}", parts.join(&format!(".wait{pause}.")))
}

const PLAIN: &str = "HTTP/1.1 200 OK\r\nServer: s\r\ncontent-LENGTH: 5\r\n\r\nhello";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5;a=b\r\nhello\r\n7\r\n\r\n0\r\n\r\n\r\n0\r\nX-Trailer: t\r\n\r\n";

/// Sends a request, reads its whole answer, and asks for something that must leave the lane.
fn whole(raw: &mut RawClient, request: &str, answer: usize, what: &str) -> Result<()> {
    raw.send(request)?;
    let got = raw.step(&json!({ "recv": answer }))?;
    assert_eq!(got["bytes"], answer, "{what}: {got}");
    assert_eq!(said(&raw.get("web", "/forbidden", &[]).context(what.to_owned())?), DENIED);
    Ok(())
}

/// Whoever waits for the end of an answer may change lanes, however the answer came.
#[test]
fn a_client_that_reads_whole_answers_changes_lanes_at_will() -> Result<()> {
    let get_parts = |parts: &[&str]| get(&spelled(parts, 1));
    let long = format!("X-Long: {}\r\n", "y".repeat(1500));
    let long = PLAIN.replace("Server: s\r\n", &long);
    let status = |line: &str| format!("HTTP/1.1 {line}\r\n\r\n");
    let interim = status("100 Continue") + &status("103 Early Hints") + PLAIN;
    let head = |answer: &str| get(&spelled(&[answer], 1)).replacen("GET", "HEAD", 1);
    for shape in [NATIVE, SHORTCUT] {
        let bed = scripted("whole", shape)?;
        let mut raw = connect(&bed)?;
        for answer in [PLAIN, CHUNKED] {
            for at in 1..answer.len() {
                let (first, rest) = answer.split_at(at);
                let request = get_parts(&[first, rest]);
                whole(&mut raw, &request, answer.len(), &format!("{answer:?} cut at {at}"))?;
            }
            let bytes: Vec<String> = answer.chars().map(String::from).collect();
            let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
            whole(&mut raw, &get_parts(&bytes), answer.len(), "byte by byte")?;
        }
        for answer in [
            &long,
            &interim,
            &status("204 No Content"),
            &status("304 Not Modified\r\nContent-Length: 5"),
            &status("200 OK\r\nContent-Length: 0"),
            &PLAIN.replace("1.1", "1.0"),
            &PLAIN.replace("\r\n", "\n"),
            &PLAIN.replace("content-LENGTH: ", "Content-Length:"),
            &PLAIN.replace("200 OK", "500 Internal Server Error"),
        ] {
            whole(&mut raw, &get_parts(&[answer]), answer.len(), answer)?;
            let (first, rest) = answer.split_at(answer.len() / 2);
            whole(&mut raw, &get_parts(&[first, rest]), answer.len(), answer)?;
        }
        for answer in ["200 OK\r\nContent-Length: 5", "200 OK\r\nTransfer-Encoding: chunked"] {
            whole(&mut raw, &head(&status(answer)), status(answer).len(), answer)?;
        }
        // a body of many pieces, and a field longer than any buffer
        let body = "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
        let path = spelled(&[body], 1) + ".x1000000.x1999999.x1";
        whole(&mut raw, &get(&path), body.len() + 3_000_000, "a large body")?;
        let (first, rest) = ("HTTP/1.1 200 OK\r\nX-Long: ", "\r\nContent-Length: 0\r\n\r\n");
        let path = spelled(&[first], 1) + ".x70000." + &spelled(&[rest], 1)["/script/".len()..];
        whole(&mut raw, &get(&path), first.len() + 70_000 + rest.len(), "a long field")?;
        assert_eq!(bed.lane("refused")?, 0);
    }
    Ok(())
}

/// An answer that comes before the request's body has gone.
#[test]
fn an_early_answer_is_the_answer() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = scripted("early", shape)?;
        let mut raw = connect(&bed)?;
        for _ in 0..2 {
            raw.send(&post(&spelled(&[PLAIN], 1), "Content-Length: 300000\r\n", "x"))?;
            assert_eq!(raw.response()?.body, "hello");
            raw.send(&"x".repeat(299_999))?;
            assert_eq!(said(&raw.get("web", "/forbidden", &[])?), DENIED);
        }
        assert_eq!(bed.lane("refused")?, 0);
    }
    Ok(())
}

/// Sends requests, reads the first `read` bytes of what comes, and then asks for something that
/// must leave the lane: it is refused, and what was under way arrives undisturbed.
fn refused(bed: &Bed, requests: &[String], read: usize, rest: &str) -> Result<()> {
    let what = format!("{requests:?} read to {read}");
    let before = bed.requests("refused", "order")?;
    for leaving in [get("/forbidden"), other("/detour")] {
        let mut raw = connect(bed)?;
        for request in requests {
            raw.send(request)?;
        }
        let got = raw.step(&json!({ "recv": read }))?;
        assert_eq!(got["bytes"], read, "{what}: {got}");
        assert_eq!(raw.step(&json!({ "send": leaving }))?["error"], "EACCES", "{what}");
        let got = raw.step(&json!({ "recv": rest.len() }))?;
        assert_eq!(got["data"], rest, "{what}");
    }
    assert_eq!(bed.requests("refused", "order")?, before + 2, "{what}");
    Ok(())
}

/// One that has read a part, at a place where it looks as if it were all, is told apart.
#[test]
fn a_client_that_has_read_a_part_does_not_change_lanes() -> Result<()> {
    const PAUSE: u32 = 60;
    let inner = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let outer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", inner.len() + 1);
    let outer_end = outer.len() + inner.len();
    let fake_end = CHUNKED.find("\r\n\r\n0\r\n\r\n").context("in CHUNKED")? + 9;
    let answers: [(&str, &[usize]); 5] = [
        // in the status line, in a field, before the last newline of the head, before the body
        (PLAIN, &[4, 30, PLAIN.len() - 6, PLAIN.len() - 5, PLAIN.len() - 1]),
        (CHUNKED, &[60, fake_end, CHUNKED.len() - 16, CHUNKED.len() - 2]),
        (&(outer + inner + "!"), &[outer_end]),
        (&("HTTP/1.1 100 Continue\r\n\r\n".to_owned() + PLAIN), &[25]),
        // the first of these is not an answer without a body: that was asked for by GET
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", &[38]),
    ];
    for shape in [NATIVE, SHORTCUT] {
        let bed = scripted("part", shape)?;
        for (answer, cuts) in answers {
            for cut in cuts {
                let (first, rest) = answer.split_at(*cut);
                let request = get(&spelled(&[first, rest], PAUSE));
                refused(&bed, &[request], first.len(), rest)?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_native_request_in_flight_counts() -> Result<()> {
    let (first, rest) = PLAIN.split_at(PLAIN.len() - 1);
    let (quick, slow) = (get(&spelled(&[PLAIN], 1)), get(&spelled(&[first, rest], 60)));
    let head = |name: &str| get(&spelled(&[name], 1)).replacen("GET", "HEAD", 1);
    let bare = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    for shape in [NATIVE, SHORTCUT] {
        let bed = scripted("flight", shape)?;
        // the first answer has come and was read; the second has not, or not wholly
        let late = get(&format!("/script/wait60.{}", &spelled(&[PLAIN], 1)["/script/".len()..]));
        refused(&bed, &[quick.clone(), late], PLAIN.len(), PLAIN)?;
        let requests = [quick.clone(), slow.clone()];
        refused(&bed, &requests, PLAIN.len() + first.len(), rest)?;
        let requests = [head(bare), head(bare), slow.clone()];
        refused(&bed, &requests, 2 * bare.len() + first.len(), rest)?;
        let mut requests = vec![quick.clone(); 80];
        requests.push(slow.clone());
        refused(&bed, &requests, 80 * PLAIN.len() + first.len(), rest)?;
        // all of them have come
        let mut raw = connect(&bed)?;
        for _ in 0..3 {
            for request in [&quick, &head(bare), &slow] {
                raw.send(request)?;
            }
            let all = 2 * PLAIN.len() + bare.len();
            assert_eq!(raw.step(&json!({ "recv": all }))?["bytes"], all);
            assert_eq!(said(&raw.get("web", "/forbidden", &[])?), DENIED);
        }
    }
    Ok(())
}

/// Numbers below a limit, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

/// An answer of some kind, with a body of what could be mistaken for framing.
fn any_answer(dice: &mut Dice) -> String {
    let words = ["0\r\n\r\n", "HTTP/1.1 200 OK\r\n", "Content-Length: 1\r\n", "\r\n", "x", "5\r\n"];
    let text = |dice: &mut Dice| -> String {
        (0..dice.below(12)).map(|_| words[dice.below(words.len())]).collect()
    };
    let filler = "f".repeat(dice.below(90));
    let head = format!("HTTP/1.1 200 OK\r\nX-{filler}: {filler}\r\n");
    match dice.below(5) {
        0 => "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n".to_owned(),
        1 => format!("HTTP/1.1 100 Continue\r\n\r\n{head}Content-Length: 0\r\n\r\n"),
        2 | 3 => {
            let body = text(dice);
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        }
        _ => {
            let mut chunks = String::new();
            for _ in 0..dice.below(4) {
                let data = text(dice) + "!";
                chunks += &format!("{:x}\r\n{data}\r\n", data.len());
            }
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\nT: u\r\n\r\n")
        }
    }
}

/// Some answers in one text, how many they are, and the text in pieces cut anywhere.
fn any_answers(seed: u64) -> (usize, String, Vec<String>) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    let count = 1 + dice.below(3);
    let all: String = (0..count).map(|_| any_answer(&mut dice)).collect();
    let mut parts = Vec::new();
    let mut rest = all.as_str();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(1 + dice.below(rest.len().min(200)));
        parts.push(part.to_owned());
        rest = after;
    }
    (count, all, parts)
}

/// Sends so many requests; the first brings these bytes, the others none. Reads them.
fn receive(raw: &mut RawClient, count: usize, parts: &[String]) -> Result<String> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    raw.send(&get(&spelled(&parts, 0)))?;
    for _ in 1..count {
        raw.send(&get("/script/wait0"))?;
    }
    let step = raw.step(&json!({ "recv": parts.concat().len() }))?;
    Ok(step["data"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn answers_are_followed_over_any_cut() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = scripted("random", shape)?;
        let mut raw = connect(&bed)?;
        for seed in 1..=400 {
            let (count, all, mut parts) = any_answers(seed);
            assert_eq!(receive(&mut raw, count, &parts)?, all, "seed {seed}");
            let step = raw.step(&json!({ "send": get("/forbidden") }))?;
            assert!(step["error"].is_null(), "seed {seed}: {all:?} in {} writes", parts.len());
            assert_eq!(said(&raw.response()?), DENIED, "seed {seed}");
            // and once without the end
            parts.pop();
            if seed % 4 == 0 && !parts.is_empty() {
                receive(&mut raw, count, &parts)?;
                let step = raw.step(&json!({ "send": get("/forbidden") }))?;
                assert_eq!(step["error"], "EACCES", "seed {seed}: {:?}", parts.concat());
                raw.step(&json!({ "connect": true }))?;
            }
        }
    }
    Ok(())
}

/// Where an answer ends is not known of these; the connection goes on natively, or ends.
#[test]
fn after_an_answer_without_a_clear_end_lanes_do_not_change() -> Result<()> {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let body = "hello";
    for shape in [NATIVE, SHORTCUT] {
        let bed = scripted("unclear", shape)?;
        for answer in [
            head(""),
            head("Content-Length: 5\r\nContent-Length: 6\r\n"),
            head("Content-Length: +5\r\n"),
            head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            head("Transfer-Encoding: gzip, chunked\r\n"),
            head("Transfer-Encoding: chunked\r\n") + "5 \r\n",
            head("Content-Length:\r\n 5\r\n"),
            "HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\n".to_owned(),
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        ] {
            let request = get(&spelled(&[&answer, body], 30));
            refused(&bed, &[request], answer.len(), body)?;
        }
    }
    Ok(())
}

/// The first rule comes while connections are open: their answers were not followed until then.
#[test]
fn rules_may_come_to_connections_that_had_none() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("first", shape, JASON)?;
        let mut generation = bed.generation()?;
        std::fs::remove_file(bed.config.path().join("web-route.yaml"))?;
        generation = bed.wait_for_generation(generation)?;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut raw = connect(&bed)?;
            for _ in 0..2 {
                assert_eq!(raw.get("web", "/chunked/20000", &[])?.body_len, 20_000);
            }
            clients.push(raw);
        }
        // one with an answer under way
        clients[2].send(&get("/delay/300/late"))?;
        bed.route(JASON)?;
        bed.wait_for_generation(generation)?;
        assert_eq!(said(&clients[0].get("web", "/forbidden", &[])?), DENIED);
        for _ in 0..2 {
            assert_eq!(clients[1].get("web", "/chunked/20000", &[])?.body_len, 20_000);
            assert_eq!(said(&clients[1].get("web", "/forbidden", &[])?), DENIED);
        }
        let refused = clients[2].step(&json!({ "send": get("/forbidden") }))?["error"] == "EACCES";
        assert!(clients[2].response()?.body.contains("late"));
        if !refused {
            assert_eq!(said(&clients[2].response()?), DENIED);
        }
    }
    Ok(())
}

/// No proxy answers the first any more, so nothing may answer the second.
#[test]
fn a_request_behind_one_that_is_lost_is_refused() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("lost", shape, JASON)?;
        let (mut one, mut two) = (connect(&bed)?, connect(&bed)?);
        for raw in [&mut one, &mut two] {
            assert_eq!(said(&raw.request(&other("/a"))?), (200, Some("v2"), "v2 GET /a"));
        }
        one.send(&other("/delay/5000/lost"))?;
        bed.agent.take().context("an agent")?.kill9();
        let answer = two.request(&other("/b"))?;
        assert_eq!((answer.status, answer.served_by()), (503, None));
        for next in [other("/c"), get("/forbidden"), get("/ok")] {
            assert_eq!(one.step(&json!({ "send": next }))?["error"], "EACCES", "{next}");
        }
    }
    Ok(())
}

/// The next request is sent before the answer to the one before has come.
#[test]
fn an_answer_is_never_that_of_another_request() -> Result<()> {
    // where each goes, by its path
    type Make = fn(&str) -> String;
    let native: Make = |name| get(&format!("/delay/40/native-{name}"));
    let detour: Make = |name| other(&format!("/delay/40/detour-{name}"));
    let denied: Make = |name| get(&format!("/forbidden-{name}"));
    let kinds = [("native", native), ("detour", detour), ("forbidden", denied)];
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("order", shape, JASON)?;
        for (first, a) in kinds {
            for (second, b) in kinds {
                for (third, c) in kinds {
                    let mut raw = connect(&bed)?;
                    let mut taken = Vec::new();
                    for (name, request) in [(first, a("1")), (second, b("2")), (third, c("3"))] {
                        let step = raw.step(&json!({ "send": request }))?;
                        match &step["error"] {
                            Value::Null => taken.push(name),
                            error => {
                                assert_eq!(error, "EACCES");
                                break;
                            }
                        }
                    }
                    let what = format!("{first} {second} {third}: {taken:?}");
                    assert!(!taken.is_empty(), "{what}");
                    for (number, name) in (1..).zip(taken) {
                        let answer = raw.response()?;
                        if name == "forbidden" {
                            assert_eq!(said(&answer), DENIED, "{what}");
                        } else {
                            let wanted = format!("{name}-{number}");
                            assert!(answer.body.contains(&wanted), "{what}: {answer:?}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// An interim answer is not the answer.
#[test]
fn a_request_behind_100_continue_does_not_overtake() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("interim", shape, JASON)?;
        let mut raw = connect(&bed)?;
        let size = 400_000;
        let fields = format!("Expect: 100-continue\r\nContent-Length: {size}\r\n");
        assert_eq!(raw.request(&post("/sum", &fields, ""))?.status, 100);
        raw.send(&"x".repeat(size))?;
        let step = raw.step(&json!({ "send": get("/forbidden") }))?;
        let first = raw.response()?;
        assert!(first.body.contains(&size.to_string()), "{first:?}");
        if step["error"] != "EACCES" {
            assert_eq!(said(&raw.response()?), DENIED);
        }
    }
    Ok(())
}
