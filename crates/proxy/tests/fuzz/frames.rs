//! Frames as no kernel would put them on the bus, between those of clients that are served.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use beeway_model::Mesh;
use beeway_proxy::frame::{Address, FLAG_REQUEST, FLAG_STICKY, Frame, KIND_DATA};
use zerocopy::IntoBytes;

use crate::bed::{Bed, SERVICE, Word, frame};
use crate::dice::Dice;
use crate::endpoint::{Kind, Place, start};
use crate::http::settle;
use crate::ledger::{Sent, Shared};
use crate::run::{self, Counts};
use crate::scene::plain;
use crate::strict::Body;

/// Seeds that `make test` tries.
const SEEDS: u64 = 400;

/// Cookies from here on are of clients that are not served as they should be.
const STRANGE: u64 = 1 << 40;

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is known of the stream of a strange client.
#[derive(Default)]
struct Strange {
    next: u64,
}

/// Writes to the bus.
struct Author {
    dice: Dice,
    bed: Rc<Bed>,
    strange: HashMap<u64, Strange>,
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

    fn flush(&mut self) {
        self.bed.put(std::mem::take(&mut self.waiting));
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
        let some = [
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
        let mut bytes = Vec::new();
        for _ in 0..self.dice.of(&[0, 1, 1, 1, 2, 5]) {
            bytes.extend(self.dice.of(&some).bytes());
        }
        match self.dice.below(20) {
            0 => bytes.extend((0..self.dice.below(200)).map(|n| n as u8)),
            1 => bytes.resize(bytes.len() + self.dice.below(100_000), b'x'),
            _ => {}
        }
        bytes
    }

    /// A frame that is wrong in some ways, or in none.
    fn frame(&mut self) {
        let cookie = STRANGE + self.dice.below(12) as u64;
        let payload = self.payload();
        let next = self.strange.entry(cookie).or_default().next;
        let offset = match self.dice.below(16) {
            0 => next.wrapping_add(self.dice.below(100) as u64),
            1 => next.wrapping_sub(self.dice.below(100) as u64),
            2 => next + 50_000,
            3 => u64::MAX - self.dice.below(200) as u64,
            4 => self.dice.next(),
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
            cookie: if self.dice.one_in(30) { self.dice.next() | STRANGE } else { cookie },
            offset,
            draw: self.dice.next() as u32,
            request: self.dice.of(&[0, 1, 2, u32::MAX]),
            source: self.address(),
            service: self.address(),
            reason: self.dice.next() as u32,
            pad: 0,
        };
        let strange = self.strange.entry(frame.cookie).or_default();
        if frame.kind == KIND_DATA && offset == next {
            strange.next = strange.next.wrapping_add(payload.len() as u64);
        }
        self.put(&[frame.as_bytes(), &payload].concat());
    }

    /// What else may happen to a strange client.
    fn trouble(&mut self) {
        let cookie = STRANGE + self.dice.below(12) as u64;
        match self.dice.below(6) {
            0 => self.bed.close(cookie),
            1 => self.bed.stall(cookie, 1 << 20),
            2 => self.bed.stall(cookie, 0),
            _ => {}
        }
    }
}

/// A client whose requests come as they should, with what is sent and answered.
struct Served {
    cookie: u64,
    offset: u64,
    words: tokio::sync::mpsc::UnboundedReceiver<Word>,
    /// Parts of frames that are not on the bus yet.
    left: std::vec::IntoIter<(u64, Vec<u8>, u16)>,
    ids: Vec<u64>,
}

impl Served {
    fn new(dice: &mut Dice, bed: &Bed, ledger: &Shared) -> Served {
        let (cookie, words) = bed.client();
        let (mut parts, mut ids) = (Vec::new(), Vec::new());
        for n in 1..=dice.between(1, 4) as u64 {
            let id = cookie * 100 + n;
            let data = vec![b'b'; dice.below(3000)];
            let target = format!("/of/{cookie}");
            let head = format!(
                "PUT {target} HTTP/1.1\r\nHost: shop\r\nX-Id: {id}\r\nContent-Length: {}\r\n\r\n",
                data.len()
            );
            let body = Some(Body { data: data.clone(), trailers: Vec::new() });
            let places = vec![(target, "shop".to_owned())];
            ledger.send(id, Sent { method: "PUT".into(), places, body, copies: 3 });
            ids.push(id);
            let mut rest = &data[..];
            let with = dice.below(rest.len() + 1);
            parts.push((id, [head.as_bytes(), &rest[..with]].concat(), FLAG_REQUEST));
            rest = &rest[with..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(dice.between(1, rest.len()));
                parts.push((id, piece.to_vec(), 0));
                rest = after;
            }
        }
        Served { cookie, offset: 0, words, left: parts.into_iter(), ids }
    }

    /// The next frame, if there is one left.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let (id, payload, flags) = self.left.next()?;
        let bytes = frame(self.cookie, self.offset, (id % 100) as u32, flags, &payload);
        self.offset += payload.len() as u64;
        Some(bytes)
    }

    /// All answers, in order, each with its number.
    async fn check(mut self, bed: &Bed, ledger: &Shared) {
        for id in &self.ids {
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
            if whose != Some(&id.to_string()) || u64::from(number) != id % 100 {
                return ledger.fault(format!("{id} is answered as {number} with {text:.300}"));
            }
            ledger.count("answers");
        }
        bed.close(self.cookie);
    }
}

async fn try_seed(seed: u64) -> Result<Counts, String> {
    let ledger = Shared::default();
    let mut dice = Dice(seed);
    let place = Place { seed, index: 0, kind: Kind::Honest, ledger: ledger.clone() };
    let mesh: Mesh = plain(start(place).await);
    let bed = Rc::new(Bed::new(mesh, &ledger));
    bed.expect_strangers(STRANGE);
    let mut served: Vec<Served> =
        (0..dice.below(6)).map(|_| Served::new(&mut dice, &bed, &ledger)).collect();
    let (own, strange) = (Dice(dice.next()), HashMap::new());
    let mut author = Author { dice: own, bed: bed.clone(), strange, waiting: Vec::new() };
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
    author.flush();
    if dice.one_in(4) {
        crowd(&mut author, &ledger).await;
    }
    for client in served {
        client.check(&bed, &ledger).await;
    }
    for cookie in author.strange.keys() {
        bed.close(*cookie);
    }
    settle(&bed, &ledger).await;
    ledger.close()
}

/// Many clients that say little.
async fn crowd(author: &mut Author, ledger: &Shared) {
    let many = author.dice.between(100, 2000) as u64;
    let first = STRANGE + (1 << 20);
    let text = author.dice.of(&["G", "", "GET / HTTP/1.1\r\nHost: shop\r\n\r\n", "\0"]);
    let flags = author.dice.of(&[0, FLAG_REQUEST, FLAG_STICKY]);
    for cookie in first..first + many {
        author.put(&frame(cookie, 0, 1, flags, text.as_bytes()));
        author.strange.entry(cookie).or_default();
    }
    author.flush();
    tokio::time::sleep(Duration::from_millis(5)).await;
    ledger.add("clients in crowds", many as usize);
}

fn bus(seed: u64) -> Result<Counts, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, try_seed(seed))
}

#[test]
fn frames_from_nowhere() {
    if let Some(counts) = run::run(SEEDS, bus) {
        assert!(counts.of("answers") > 1000, "{counts}");
    }
}
