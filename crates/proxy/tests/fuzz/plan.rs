//! What an HTTP/1.1 endpoint does with a request: random, but the same for the same request.

use std::time::Duration;

use crate::ledger::Shown;
use crate::strict::Body;
use beeway_model::testing::Dice;

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
pub struct Plan {
    pub reads: Reads,
    pub delay: Duration,
    pub answer: Vec<u8>,
    /// Bytes written at a time.
    pub piece: usize,
    pub then: Then,
    pub shown: Shown,
}

/// Framings that contradict themselves or HTTP: `#` is the length of the body, which comes in
/// chunks or without, and whether the answer may be taken for whole.
const LIES: [(&str, bool, bool); 13] = [
    ("Transfer-Encoding: chunked\r\nContent-Length: #", true, true),
    ("Content-Length: 3\r\nTransfer-Encoding: chunked", true, true),
    ("Content-Length: #, #", false, true),
    ("Content-Length: #\r\ncontent-length: #", false, true),
    ("Content-Length: #\r\nContent-Length: 1#", false, false),
    ("Content-Length: +#", false, false),
    ("Content-Length: #x", false, false),
    ("Content-Length: 99999999999999999999999", false, false),
    ("Content-Length: 18446744073709551615", false, false),
    ("Transfer-Encoding: gzip, chunked", true, false),
    ("Transfer-Encoding: gzip", true, false),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", true, false),
    ("Content-Length: 1#", false, false),
];

/// Bodies that are not chunks.
const NO_CHUNKS: [&str; 8] = [
    "g\r\n",
    "-1\r\n",
    "\r\n",
    "5\r\nab",
    "1\r\nab\r\n0\r\n\r\n",
    "ffffffffffffffffff\r\n",
    "1;\n\r\na\r\n0\r\n\r\n",
    "0\r\nno field\r\n\r\n",
];

/// What is no answer, or hardly: `#` are two fields, one that says whose it is and a length of zero.
const GARBAGE: [&str; 11] = [
    "",
    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "HTTP/1.1 200 OK\r\nx-fold: a\r\n b\r\n#\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n#\r\n\r\n",
    "HTTP/2.0 200 OK\r\n#\r\n\r\n",
    "HTTP/1.1 099 Low\r\n#\r\n\r\n",
    "HTTP/1.1 999 High\r\n#\r\n\r\n",
    "HTTP/1.1 200 OK\r\nbad name: x\r\n#\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx: a\0b\r\n#\r\n\r\n",
    "HTTP/1.1 200 OK\r\n: x\r\n#\r\n\r\n",
    "HTTP/1.1 200 O\rK\r\n#\r\n\r\n",
];

const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nx-answer-to: poison\r\nContent-Length: 0\r\n\r\n";

/// An answer in the making.
struct Draft<'a> {
    tag: &'a str,
    bodiless: bool,
    /// In a form that the short way understands.
    usual: bool,
    status: u16,
    data: Vec<u8>,
    fields: Vec<String>,
}

impl Plan {
    /// `tag` names the answer. An honest endpoint gives answers that are right, in many forms unless
    /// it is a `usual` one: the proxy goes round the short way to others for a while.
    pub fn new(dice: &mut Dice, tag: &str, method: &str, honest: bool, usual: bool) -> Plan {
        let any = dice.between(200, 599) as u16;
        let status = dice.of(&[200, 200, 200, 200, 200, 200, 200, 204, 304, 404, 503, any]);
        let bodiless = method == "HEAD" || matches!(status, 204 | 304);
        let mut fields = vec![format!("x-answer-to: {tag}"), "Server: stranger".to_owned()];
        for n in 0..dice.below(4) {
            fields.push(format!("X-Extra-{n}: {}", dice.text("abc ,;=\"", 5).trim()));
        }
        let mut draft = Draft { tag, bodiless, usual, status, data: filler(dice, tag), fields };
        let mut plan = draft.right(dice);
        if honest {
            return plan;
        }
        if dice.one_in(2) {
            plan = draft.crooked(dice, plan);
        }
        if dice.one_in(6) {
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
pub fn filler(dice: &mut Dice, tag: &str) -> Vec<u8> {
    let most = dice.of(&[1, 300, 300, 300, 300, 300, 300, 20_000, 20_000, 200_000]);
    let length = dice.below(most);
    tag.bytes().chain(*b" HTTP/1.1 200 OK\r\n\r\n").cycle().take(length).collect()
}

impl Draft<'_> {
    /// The whole answer, framed like that.
    fn plan(&self, dice: &mut Dice, framing: &str, body: &[u8], then: Then) -> Plan {
        let version =
            if framing.is_empty() && self.status != 204 && dice.one_in(2) { 0 } else { 1 };
        let reason = ["OK", "", "Not So Good"][self.status as usize % 3];
        let mut text = format!("HTTP/1.{version} {} {reason}\r\n", self.status);
        for line in self.fields.iter().map(String::as_str).chain([framing]) {
            if !line.is_empty() {
                text = text + line + "\r\n";
            }
        }
        let body = if self.bodiless { b"" } else { body };
        let answer = [text.as_bytes(), b"\r\n", body].concat();
        let small = dice.between(1, 40).max(answer.len() / 50);
        let piece = dice.of(&[small, 5000, usize::MAX]);
        let data = if self.bodiless { Vec::new() } else { self.data.clone() };
        let shown = Shown::Whole(self.status, Body { data, trailers: Vec::new() });
        let (reads, delay) = (Reads::First, Duration::ZERO);
        Plan { reads, delay, answer, piece, then, shown }
    }

    /// A right answer in one of its forms. Before it closes it says so.
    fn right(&mut self, dice: &mut Dice) -> Plan {
        let mut then = Then::Next;
        if dice.one_in(8) {
            then = Then::Close;
            self.fields.push("Connection: close".into());
        }
        let length = format!("Content-Length: {}", self.data.len());
        let form = dice.below(6);
        match if self.usual && form > 1 { 4 } else { form } {
            _ if self.status == 204 => self.plan(dice, "", b"", then),
            0 | 1 => {
                let (body, trailers) = chunked(dice, &self.data);
                let announced = if self.usual { "" } else { "\r\nTrailer: x-sum" };
                let framing = format!("Transfer-Encoding: chunked{announced}");
                let mut plan = self.plan(dice, &framing, &body, then);
                if let Shown::Whole(_, body) = &mut plan.shown {
                    body.trailers = trailers;
                }
                plan
            }
            2 if !self.bodiless => self.plan(dice, "", &self.data, Then::Close),
            3 => {
                let mut plan = self.plan(dice, &length, &self.data, then);
                for _ in 0..dice.below(20) {
                    let status = dice.of(&["100 Continue", "102 Processing", "103 Early Hints"]);
                    let early = format!("HTTP/1.1 {status}\r\nx-early: 1\r\n\r\n").into_bytes();
                    plan.answer.splice(0..0, early);
                }
                plan
            }
            _ => self.plan(dice, &length, &self.data, then),
        }
    }

    /// An answer that is wrong in one way, or comes in a strange one.
    fn crooked(&mut self, dice: &mut Dice, right: Plan) -> Plan {
        let ends = [Then::Close, Then::Reset, Then::Wait];
        match dice.below(5) {
            0 => {
                // It stops somewhere. What ends with the connection has any length.
                let keep = dice.below(right.answer.len() + 1);
                let any = right.then == Then::Close || keep == right.answer.len() || self.bodiless;
                let shown = if any { Shown::Any } else { Shown::Part };
                let answer = right.answer[..keep].to_vec();
                Plan { answer, then: dice.of(&ends), shown, ..right }
            }
            1 => self.lying(dice),
            2 => {
                let known = format!("x-answer-to: {}\r\nContent-Length: 0", self.tag);
                let mut answer = dice.of(&GARBAGE).replace('#', &known).into_bytes();
                if dice.one_in(8) {
                    answer = (0..dice.below(2000)).map(|_| dice.below(256) as u8).collect();
                }
                Plan { answer, then: dice.of(&ends), shown: Shown::Any, ..right }
            }
            3 => self.too_much(dice, right),
            _ => {
                // Everything is right, and the end of something else follows at once.
                let mut plan = right;
                if plan.then == Then::Next {
                    plan.answer.extend(POISON);
                    plan.piece = usize::MAX;
                }
                plan
            }
        }
    }

    /// Lengths that contradict each other, the body, or HTTP.
    fn lying(&mut self, dice: &mut Dice) -> Plan {
        let (framing, in_chunks, whole) = dice.of(&LIES);
        let framing = framing.replace('#', &self.data.len().to_string());
        let body = if in_chunks { chunked(dice, &self.data).0 } else { self.data.clone() };
        let then =
            if whole { Then::Next } else { dice.of(&[Then::Close, Then::Reset, Then::Wait]) };
        let mut plan = self.plan(dice, &framing, &body, then);
        if self.bodiless || (whole && in_chunks) {
            plan.shown = Shown::Any;
        } else if !whole {
            plan.shown = Shown::Part;
        }
        if dice.one_in(6) && !self.bodiless {
            let (body, then) = (dice.of(&NO_CHUNKS), dice.of(&[Then::Close, Then::Wait]));
            plan = self.plan(dice, "Transfer-Encoding: chunked", body.as_bytes(), then);
            plan.shown = Shown::Part;
        }
        plan
    }

    /// More than one wants.
    fn too_much(&mut self, dice: &mut Dice, right: Plan) -> Plan {
        match dice.below(3) {
            0 => self.fields.push(format!("x-large: {}", "l".repeat(dice.below(200_000)))),
            1 => self.fields.extend((0..dice.below(300)).map(|n| format!("x-{n}: {n}"))),
            _ => {
                let answer = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(dice.below(5000));
                return Plan { answer, then: Then::Wait, shown: Shown::Part, ..right };
            }
        }
        let length = format!("Content-Length: {}", self.data.len());
        self.plan(dice, if self.status == 204 { "" } else { &length }, &self.data, Then::Next)
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
        let forms = [format!("{size:x}"), format!("{size:X}"), format!("00{size:x}")];
        bytes.extend([dice.of(&forms).as_bytes(), extension.as_bytes(), b"\r\n"].concat());
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
