//! Frames as no kernel would put them on the bus, between those of clients that are served.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use beeway_proxy::Turn;
use beeway_proxy::frame::{Address, FLAG_REQUEST, FLAG_STICKY, Frame, KIND_DATA};
use zerocopy::IntoBytes;

use crate::bed::{Bed, Line, SERVICE, STRANGE, Word, frame};
use crate::endpoint::{Kind, Place, start};
use crate::http::settle;
use crate::ledger::{Sent, Shared};
use crate::run::{self, Counts};
use crate::scene::plain;
use crate::strict::Body;
use beeway_model::testing::Dice;

/// Seeds that `make test` tries.
const SEEDS: u64 = 150;

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Payloads, and parts of them.
const TEXTS: [&str; 14] = [
    "GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nabcde\r\n",
    "0\r\n\r\n",
    "abcde",
    "GET /",
    " HTTP/1.1\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\0\0\0\u{4}\0\0\0\0\0",
    "\r\n",
    "",
];

/// Writes to the bus.
struct Author {
    dice: Dice,
    bed: Rc<Bed>,
    /// Bytes that came of each strange client.
    sent: HashMap<u64, u64>,
    /// Of strange clients that were diverted; `None`: closed.
    sockets: HashMap<u64, Option<TcpStream>>,
    /// Not on the bus yet: it is cut anywhere.
    waiting: Vec<u8>,
}

impl Author {
    fn put(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
        let cut = self.dice.below(self.waiting.len() + 1);
        let rest = self.waiting.split_off(cut);
        self.bed.put(std::mem::replace(&mut self.waiting, rest));
    }

    fn address(&mut self) -> Address {
        match self.dice.below(3) {
            0 => SERVICE.parse::<SocketAddr>().expect("an address").into(),
            1 => Address::default(),
            _ => Address {
                ip: std::array::from_fn(|_| self.dice.below(256) as u8),
                port: self.dice.below(65_536) as u16,
                family: self.dice.below(65_536) as u16,
            },
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.dice.of(&[0, 1, 1, 1, 2, 5]) {
            bytes.extend(self.dice.of(&TEXTS).bytes());
        }
        match self.dice.below(20) {
            0 => bytes.extend((0..self.dice.below(200)).map(|n| n as u8)),
            1 => bytes.resize(bytes.len() + self.dice.below(100_000), b'x'),
            _ => {}
        }
        bytes
    }

    fn stranger(&mut self) -> u64 {
        STRANGE + self.dice.below(12) as u64
    }

    /// A frame that is wrong in some ways, or in none.
    fn frame(&mut self) {
        let (cookie, payload) = (self.stranger(), self.payload());
        let next = self.sent.get(&cookie).copied().unwrap_or_default();
        let offset = match self.dice.below(16) {
            0 => next.wrapping_add(self.dice.below(100) as u64),
            1 => next.wrapping_sub(self.dice.below(100) as u64),
            2 => next + 50_000,
            3 => u64::MAX - self.dice.below(200) as u64,
            4 => self.dice.bits(),
            5 => 0,
            _ => next,
        };
        let flags = match self.dice.below(10) {
            0 => self.dice.below(65_536) as u16,
            1 => FLAG_STICKY,
            2..=4 => 0,
            _ => FLAG_REQUEST,
        };
        let frame = Frame {
            length: payload.len() as u32,
            kind: if self.dice.one_in(20) { self.dice.below(9) as u16 } else { KIND_DATA },
            flags,
            cookie: if self.dice.one_in(30) { self.dice.bits() | STRANGE } else { cookie },
            offset,
            draw: self.dice.bits() as u32,
            request: self.dice.of(&[0, 1, 2, u32::MAX]),
            source: self.address(),
            service: self.address(),
            caller: self.address(),
            reason: self.dice.bits() as u32,
        };
        let sent = self.sent.entry(frame.cookie).or_default();
        if frame.kind == KIND_DATA && offset == next {
            *sent = sent.wrapping_add(payload.len() as u64);
        }
        self.put(&[frame.as_bytes(), &payload].concat());
    }

    /// What else may happen to a strange client.
    fn trouble(&mut self) {
        let cookie = self.stranger();
        match self.dice.below(12) {
            0 => self.bed.close(cookie, true),
            1 => self.bed.stall(cookie, 1 << 20),
            2 => self.bed.stall(cookie, 0),
            3 if !self.sockets.contains_key(&cookie) => {
                let by_bus = self.sent.get(&cookie).copied().unwrap_or_default();
                let by_bus = by_bus.wrapping_add(self.dice.of(&[0, 0, 0, 5, u64::MAX]));
                let first = self.dice.of(&[None, Some(u32::MAX - 1), Some(0), Some(7)]);
                let turn = self.dice.of(&[None, Some(Turn { by_bus, first })]);
                let mut socket = self.bed.divert_stranger(cookie, turn);
                // The proxy may have closed it.
                let _ = socket.write(&self.payload());
                self.sockets.insert(cookie, Some(socket));
            }
            4 => drop(self.sockets.get_mut(&cookie).and_then(Option::take)),
            _ => {}
        }
    }

    /// Many clients that say little.
    async fn crowd(&mut self, ledger: &Shared) {
        let many = self.dice.between(100, 2000) as u64;
        let first = STRANGE + (1 << 20);
        let text = self.dice.of(&["G", "", "GET / HTTP/1.1\r\nHost: shop\r\n\r\n", "\0"]);
        let flags = self.dice.of(&[0, FLAG_REQUEST, FLAG_STICKY]);
        for cookie in first..first + many {
            self.put(&frame(cookie, 0, 1, flags, text.as_bytes()));
            self.sent.insert(cookie, 0);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        ledger.add("clients in crowds", many as usize);
    }
}

/// A client whose requests come as they should.
struct Served {
    line: Rc<Line>,
    words: tokio::sync::mpsc::UnboundedReceiver<Word>,
    /// Payloads of frames that are not on the bus yet: number, bytes and flags.
    left: std::vec::IntoIter<(u32, Vec<u8>, u16)>,
    requests: u32,
}

impl Served {
    fn new(dice: &mut Dice, bed: &Bed, ledger: &Shared) -> Served {
        let (line, words) = bed.client();
        let (mut parts, requests) = (Vec::new(), dice.between(1, 4) as u32);
        for number in 1..=requests {
            let id = line.cookie * 100 + u64::from(number);
            let data = vec![b'b'; dice.below(3000)];
            let (target, length) = (format!("/of/{}", line.cookie), data.len());
            let head = format!(
                "PUT {target} HTTP/1.1\r\nHost: shop\r\nX-Id: {id}\r\nContent-Length: {length}\r\n\r\n"
            );
            let body = Some(Body { data: data.clone(), trailers: Vec::new() });
            let places = vec![(target, "shop".to_owned())];
            ledger.send(id, Sent { method: "PUT".into(), places, body, copies: 3 });
            let (with, mut rest) = data.split_at(dice.below(length + 1));
            parts.push((number, [head.as_bytes(), with].concat(), FLAG_REQUEST));
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(dice.between(1, rest.len()));
                parts.push((number, piece.to_vec(), 0));
                rest = after;
            }
        }
        Served { line, words, left: parts.into_iter(), requests }
    }

    /// The next frame, if there is one left.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let (number, payload, flags) = self.left.next()?;
        Some(self.line.frame(number, flags, &payload))
    }

    /// All answers, in order, each with its number.
    async fn check(mut self, bed: &Bed, ledger: &Shared) {
        for wanted in 1..=self.requests {
            let id = self.line.cookie * 100 + u64::from(wanted);
            let mut answer = Vec::new();
            let number = loop {
                match tokio::time::timeout(PATIENCE, self.words.recv()).await {
                    Ok(Some(Word::Bytes(bytes))) => answer.extend(bytes),
                    Ok(Some(Word::End(number))) => break number,
                    other => {
                        let stats = bed.stats();
                        return ledger.fault(format!("{id} has no answer: {other:?} {stats:?}"));
                    }
                }
            };
            let text = String::from_utf8_lossy(&answer);
            let whose = text.split("x-answer-to: ").nth(1).and_then(|rest| rest.split('-').next());
            if whose != Some(&id.to_string()) || number != wanted {
                return ledger.fault(format!("{id} is answered as {number} with {text:.300}"));
            }
            ledger.count("answers");
        }
        bed.close(self.line.cookie, true);
    }
}

async fn try_seed(seed: u64) -> Result<Counts, String> {
    let ledger = Shared::default();
    let mut dice = Dice(seed);
    let place = Place { seed, index: 0, kind: Kind::Honest, ledger: ledger.clone() };
    let bed = Rc::new(Bed::new(plain(start(place).await), &ledger));
    let mut served: Vec<Served> =
        (0..dice.below(6)).map(|_| Served::new(&mut dice, &bed, &ledger)).collect();
    let (sent, sockets, waiting) = Default::default();
    let mut author = Author { dice: Dice(dice.bits()), bed: bed.clone(), sent, sockets, waiting };
    let count = dice.of(&[5, 50, 300, 300]);
    for _ in 0..count {
        author.frame();
        author.trouble();
        if !served.is_empty() {
            let next = dice.below(served.len());
            if let Some(bytes) = served[next].frame() {
                author.put(&bytes);
            }
        }
        if dice.one_in(20) {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }
    ledger.add("strange frames", count);
    for client in &mut served {
        while let Some(bytes) = client.frame() {
            author.put(&bytes);
        }
    }
    if dice.one_in(4) {
        author.crowd(&ledger).await;
    }
    bed.put(std::mem::take(&mut author.waiting));
    for client in served {
        client.check(&bed, &ledger).await;
    }
    author.sockets.clear();
    for cookie in author.sent.keys() {
        bed.close(*cookie, true);
    }
    settle(&bed, &ledger).await;
    ledger.close()
}

#[test]
fn frames_from_nowhere() {
    if let Some(counts) = run::run("frames", SEEDS, |seed| Box::pin(try_seed(seed))) {
        assert!(counts.of("answers") > 300, "{counts}");
    }
}
