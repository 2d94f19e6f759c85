//! What an HTTP/1.1 endpoint does with a request: random, but the same for the same request.

use std::time::Duration;

use crate::dice::Dice;
use crate::ledger::Shown;
use crate::strict::Body;

/// When an endpoint reads a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    First,
    /// After it has answered.
    Later,
    /// Not at all.
    Never,
}

/// What happens when all has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Next,
    Close,
    Reset,
    /// Nothing any more, until the proxy goes.
    Wait,
}

/// What an endpoint does.
#[derive(Debug)]
pub struct Plan {
    pub reads: Reads,
    pub delay: Duration,
    pub answer: Vec<u8>,
    /// Bytes written at a time.
    pub piece: usize,
    pub pause: Duration,
    pub then: Then,
    pub shown: Shown,
}

/// An answer in the making.
struct Draft<'a> {
    tag: &'a str,
    bodiless: bool,
    status: u16,
    data: Vec<u8>,
    fields: Vec<String>,
}

impl Plan {
    /// `tag` names the answer. An honest endpoint gives answers that are right, in many forms.
    pub fn new(dice: &mut Dice, tag: &str, method: &str, honest: bool) -> Plan {
        let status = match dice.below(12) {
            0 => 204,
            1 => 304,
            2 => 503,
            3 => 404,
            4 => dice.between(200, 599) as u16,
            _ => 200,
        };
        let bodiless = method == "HEAD" || matches!(status, 204 | 304);
        let mut fields = vec![format!("x-answer-to: {tag}"), "Server: stranger".to_owned()];
        for n in 0..dice.below(4) {
            fields.push(format!("X-Extra-{n}: {}", dice.text("abc ,;=\"", 5).trim()));
        }
        let mut draft = Draft { tag, bodiless, status, data: filler(dice, tag), fields };
        let mut plan = draft.right(dice);
        if honest {
            return plan;
        }
        if dice.one_in(2) {
            plan = draft.crooked(dice, plan);
        }
        if plan.reads == Reads::First && dice.one_in(6) {
            plan.reads = dice.of(&[Reads::Later, Reads::Never]);
            if plan.reads == Reads::Never {
                plan.then = dice.of(&[Then::Close, Then::Reset, Then::Wait]);
            }
        }
        if dice.one_in(12) {
            plan.delay = Duration::from_millis(dice.below(60) as u64);
        }
        plan
    }
}

/// A body that says whose it is.
fn filler(dice: &mut Dice, tag: &str) -> Vec<u8> {
    let length = match dice.below(10) {
        0 => 0,
        1..=6 => dice.below(300),
        7..=8 => dice.below(20_000),
        _ => dice.below(200_000),
    };
    tag.bytes().chain(*b" HTTP/1.1 200 OK\r\n\r\n").cycle().take(length).collect()
}

impl Draft<'_> {
    fn whole(&self, trailers: Vec<(String, Vec<u8>)>) -> Shown {
        let data = if self.bodiless { Vec::new() } else { self.data.clone() };
        Shown::Whole(self.status, Body { data, trailers })
    }

    fn render(&self, version: &str, framing: &str, body: &[u8]) -> Vec<u8> {
        let reason = ["OK", "", "Not So Good"][self.status as usize % 3];
        let mut text = format!("{version} {} {reason}\r\n", self.status);
        for line in self.fields.iter().map(String::as_str).chain([framing]) {
            if !line.is_empty() {
                text += line;
                text += "\r\n";
            }
        }
        text += "\r\n";
        let mut bytes = text.into_bytes();
        if !self.bodiless {
            bytes.extend(body);
        }
        bytes
    }

    fn plan(&self, dice: &mut Dice, answer: Vec<u8>, then: Then, shown: Shown) -> Plan {
        let piece = match dice.below(4) {
            0 => dice.between(1, 40).max(answer.len() / 50),
            1 => dice.between(1000, 9000),
            _ => usize::MAX,
        };
        let pause = Duration::from_micros(if dice.one_in(4) { 300 } else { 0 });
        Plan { reads: Reads::First, delay: Duration::ZERO, answer, piece, pause, then, shown }
    }

    fn length(&self) -> String {
        format!("Content-Length: {}", self.data.len())
    }

    /// A right answer in one of its forms.
    fn right(&mut self, dice: &mut Dice) -> Plan {
        let then = if dice.one_in(8) { Then::Close } else { Then::Next };
        if then == Then::Close && dice.one_in(2) {
            self.fields.push("Connection: close".into());
        }
        if self.status == 204 {
            let answer = self.render("HTTP/1.1", "", b"");
            return self.plan(dice, answer, then, self.whole(Vec::new()));
        }
        match dice.below(6) {
            0 | 1 => {
                let (body, trailers) = chunked(dice, &self.data);
                if dice.one_in(2) {
                    self.fields.push("Trailer: x-sum, x-more".into());
                }
                let answer = self.render("HTTP/1.1", "Transfer-Encoding: chunked", &body);
                let shown = self.whole(trailers);
                self.plan(dice, answer, then, shown)
            }
            2 if !self.bodiless => {
                let version = dice.of(&["HTTP/1.1", "HTTP/1.0"]);
                let answer = self.render(version, "", &self.data);
                self.plan(dice, answer, Then::Close, self.whole(Vec::new()))
            }
            3 => {
                let mut answer = Vec::new();
                for _ in 0..dice.below(20) {
                    let status = dice.of(&["100 Continue", "102 Processing", "103 Early Hints"]);
                    answer.extend(format!("HTTP/1.1 {status}\r\nx-early: 1\r\n\r\n").bytes());
                }
                answer.extend(self.render("HTTP/1.1", &self.length(), &self.data));
                self.plan(dice, answer, then, self.whole(Vec::new()))
            }
            _ => {
                let answer = self.render("HTTP/1.1", &self.length(), &self.data);
                self.plan(dice, answer, then, self.whole(Vec::new()))
            }
        }
    }

    /// An answer that is wrong in one way, or comes in a strange one.
    fn crooked(&mut self, dice: &mut Dice, right: Plan) -> Plan {
        match dice.below(5) {
            0 => self.cut(dice, right),
            1 => self.lying(dice),
            2 => self.garbage(dice),
            3 => self.too_much(dice),
            _ => {
                // Everything is right, and the end of something else follows at once.
                let mut plan = right;
                let poison = "HTTP/1.1 200 OK\r\nx-answer-to: poison\r\nContent-Length: 0\r\n\r\n";
                if plan.then == Then::Next {
                    plan.answer.extend(poison.bytes());
                    plan.piece = usize::MAX;
                }
                plan
            }
        }
    }

    /// A right answer that stops somewhere.
    fn cut(&mut self, dice: &mut Dice, mut right: Plan) -> Plan {
        let by_close = right.then == Then::Close;
        let keep = dice.below(right.answer.len() + 1);
        let whole = keep == right.answer.len();
        right.answer.truncate(keep);
        right.then = dice.of(&[Then::Close, Then::Reset, Then::Wait]);
        right.shown = match () {
            // What ends with the connection has any length.
            () if by_close || whole || self.bodiless => Shown::Any,
            () => Shown::Part,
        };
        right
    }

    /// Lengths that contradict each other, the body, or HTTP.
    fn lying(&mut self, dice: &mut Dice) -> Plan {
        let n = self.data.len();
        let (body, trailers) = chunked(dice, &self.data);
        let chunks = "Transfer-Encoding: chunked";
        let (framing, body, shown) = match dice.below(14) {
            0 => (format!("{chunks}\r\nContent-Length: {n}"), body, self.whole(trailers)),
            1 => (format!("Content-Length: 3\r\n{chunks}"), body, self.whole(trailers)),
            2 => (format!("Content-Length: {n}, {n}"), self.data.clone(), self.whole(Vec::new())),
            3 => {
                let twice = format!("Content-Length: {n}\r\ncontent-length: {n}");
                (twice, self.data.clone(), self.whole(Vec::new()))
            }
            4 => (format!("Content-Length: {n}\r\nContent-Length: 1{n}"), body, Shown::Part),
            5 => (format!("Content-Length: +{n}"), body, Shown::Part),
            6 => (format!("Content-Length: {n}x"), body, Shown::Part),
            7 => ("Content-Length: 99999999999999999999999".into(), body, Shown::Part),
            8 => ("Content-Length: 18446744073709551615".into(), body, Shown::Part),
            9 => ("Transfer-Encoding: gzip, chunked".into(), body, Shown::Part),
            10 => ("Transfer-Encoding: gzip".into(), body, Shown::Part),
            11 => (format!("{chunks}\r\n{chunks}"), body, Shown::Part),
            12 => (format!("Content-Length: {}", n + 10), self.data.clone(), Shown::Part),
            _ => {
                let ending = dice.of(&[
                    "g\r\n",
                    "-1\r\n",
                    "\r\n",
                    "5\r\nab",
                    "1\r\nab\r\n0\r\n\r\n",
                    "ffffffffffffffffff\r\n",
                    "1;\n\r\na\r\n0\r\n\r\n",
                    "0\r\nno field\r\n\r\n",
                ]);
                (chunks.into(), ending.as_bytes().to_vec(), Shown::Part)
            }
        };
        let shown = if self.bodiless { Shown::Any } else { shown };
        let then = dice.of(&[Then::Close, Then::Reset, Then::Wait]);
        let then = if matches!(shown, Shown::Whole(..)) { Then::Next } else { then };
        let answer = self.render("HTTP/1.1", &framing, &body);
        self.plan(dice, answer, then, shown)
    }

    /// What is no answer, or hardly.
    fn garbage(&mut self, dice: &mut Dice) -> Plan {
        let tag = format!("x-answer-to: {}\r\nContent-Length: 0", self.tag);
        let answer = match dice.below(12) {
            0 => String::new(),
            1 => (0..dice.below(2000)).map(|_| (dice.below(256) as u8) as char).collect(),
            2 => format!("HTTP/1.1 200 OK\n{}\n\n", tag.replace("\r\n", "\n")),
            3 => format!("HTTP/1.1 200 OK\r\nx-fold: a\r\n b\r\n{tag}\r\n\r\n"),
            4 => format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n{tag}\r\n\r\n"),
            5 => format!("HTTP/2.0 200 OK\r\n{tag}\r\n\r\n"),
            6 => format!("HTTP/1.1 099 Low\r\n{tag}\r\n\r\n"),
            7 => format!("HTTP/1.1 999 High\r\n{tag}\r\n\r\n"),
            8 => format!("HTTP/1.1 200 OK\r\nbad name: x\r\n{tag}\r\n\r\n"),
            9 => format!("HTTP/1.1 200 OK\r\nx: a\0b\r\n{tag}\r\n\r\n"),
            10 => format!("HTTP/1.1 200 OK\r\n: x\r\n{tag}\r\n\r\n"),
            _ => format!("HTTP/1.1 200 O\rK\r\n{tag}\r\n\r\n"),
        };
        let then = dice.of(&[Then::Next, Then::Close, Then::Reset, Then::Wait]);
        self.plan(dice, answer.into_bytes(), then, Shown::Any)
    }

    /// More than one wants.
    fn too_much(&mut self, dice: &mut Dice) -> Plan {
        match dice.below(3) {
            0 => self.fields.push(format!("x-large: {}", "l".repeat(dice.below(200_000)))),
            1 => self.fields.extend((0..dice.below(300)).map(|n| format!("x-{n}: {n}"))),
            _ => {
                let answer = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(dice.below(5000));
                return self.plan(dice, answer, Then::Wait, Shown::Part);
            }
        }
        let answer = self.render("HTTP/1.1", &self.length(), &self.data);
        self.plan(dice, answer, Then::Next, self.whole(Vec::new()))
    }
}

/// A body in chunks, and its trailers.
pub fn chunked(dice: &mut Dice, data: &[u8]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let (mut bytes, mut rest) = (Vec::new(), data);
    let most = dice.of(&[1, 10, 1000, 100_000]).max(data.len() / 100);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(dice.between(1, most).min(rest.len()));
        let extension = dice.of(&["", "", "", ";a", ";a=b", "; a=\"q\""]);
        let size = chunk.len();
        let head = match dice.below(3) {
            0 => format!("{size:x}{extension}\r\n"),
            1 => format!("{size:X}{extension}\r\n"),
            _ => format!("00{size:x}{extension}\r\n"),
        };
        bytes.extend(head.bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        rest = after;
    }
    bytes.extend(b"0\r\n");
    let mut trailers = Vec::new();
    if dice.one_in(3) {
        trailers.push(("x-sum".to_owned(), b"42".to_vec()));
        bytes.extend(b"X-Sum: 42\r\n");
    }
    if dice.one_in(6) {
        bytes.extend(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\nX-More: 1\r\n");
        trailers.push(("x-more".to_owned(), b"1".to_vec()));
    }
    bytes.extend(b"\r\n");
    (bytes, trailers)
}
