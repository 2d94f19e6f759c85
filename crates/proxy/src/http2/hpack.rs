//! HPACK (RFC 7541): heads as indices into tables of fields that were sent before.

use std::collections::VecDeque;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHasher};

use super::fields::{Field, Fields, OVERHEAD};
use super::huffman;
use crate::limits::REQUEST_HEAD;

/// Bytes of each table. What the other side's settings allow beyond that is not used.
pub(super) const TABLE: usize = 4096;

/// Bytes that a head may stand for, whatever of it is wanted: a short one may stand for very much.
const ABUSE: usize = 4 * REQUEST_HEAD;

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Indices of the first field of each name.
static NAMES: LazyLock<FxHashMap<&[u8], usize>> = LazyLock::new(|| {
    let names = STATIC.iter().enumerate().rev();
    names.map(|(at, (name, _))| (name.as_bytes(), at + 1)).collect()
});

/// Fields whose values hardly ever come again: they would only drive others out of the table.
const PASSING: [&[u8]; 12] = [
    b"content-length",
    b"etag",
    b"grpc-message",
    b"grpc-timeout",
    b"if-modified-since",
    b"if-none-match",
    b"last-modified",
    b"location",
    b"set-cookie",
    b"traceparent",
    b"tracestate",
    b"x-request-id",
];

/// A head that is no head; the connection cannot go on, for the tables differ from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// Fields that were sent, the newest first.
#[derive(Debug)]
struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    /// Of name and value, to find it by.
    hash: u32,
    name_length: u32,
    bytes: Box<[u8]>,
}

impl Default for Table {
    fn default() -> Table {
        Table { entries: VecDeque::new(), size: 0, limit: TABLE }
    }
}

impl Entry {
    fn new(name: &[u8], value: &[u8], hash: u32) -> Entry {
        Entry { hash, name_length: name.len() as u32, bytes: [name, value].concat().into() }
    }

    fn field(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.name_length as usize)
    }

    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

impl Table {
    fn insert(&mut self, entry: Entry) {
        self.evict(entry.size());
        // One that is larger than the table has emptied it, and that is all (section 4.4).
        if entry.size() <= self.limit {
            self.size += entry.size();
            self.entries.push_front(entry);
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.limit {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size();
        }
    }

    fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.evict(0);
    }

    /// The field with an index of both tables together (section 2.3.3).
    fn field(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let at = index.checked_sub(1)?;
        match STATIC.get(at) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(at - STATIC.len()).map(Entry::field),
        }
    }
}

/// Reads heads.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: Table,
}

impl Decoder {
    /// Adds the fields of a head to `fields`, as long as these count less than `limit` bytes. Whether
    /// that was all of them.
    pub fn decode(
        &mut self,
        block: &[u8],
        fields: &mut Fields,
        limit: usize,
    ) -> Result<bool, Broken> {
        let mut input = Input(block);
        let mut begun = false;
        while let Some(first) = input.0.first().copied() {
            match first {
                0x80.. => {
                    let (name, value) = self.table.field(input.number(7)?).ok_or(Broken)?;
                    // A byte may stand for thousands.
                    if fields.size() <= limit {
                        fields.push(name, value, false);
                    } else {
                        fields.count(name, value);
                    }
                }
                0x40.. => {
                    self.literal(&mut input, 6, false, fields)?;
                    let field = fields.last().ok_or(Broken)?;
                    let entry = Entry::new(field.name, field.value, 0);
                    self.table.insert(entry);
                }
                0x20.. => {
                    let limit = input.number(5)?;
                    if begun || limit > TABLE {
                        return Err(Broken);
                    }
                    self.table.resize(limit);
                    continue;
                }
                _ => self.literal(&mut input, 4, first & 0x10 != 0, fields)?,
            }
            begun = true;
            if fields.size() > limit {
                fields.pop();
            }
            if fields.size() > ABUSE {
                return Err(Broken);
            }
        }
        Ok(fields.size() <= limit)
    }

    fn literal(
        &self,
        input: &mut Input<'_>,
        prefix: u32,
        never: bool,
        fields: &mut Fields,
    ) -> Result<(), Broken> {
        let index = input.number(prefix)?;
        let write = |out: &mut Vec<u8>| {
            match index {
                0 => input.text(out)?,
                _ => out.extend_from_slice(self.table.field(index)?.0),
            }
            let name_end = out.len();
            input.text(out)?;
            Some(name_end)
        };
        fields.push_with(never, write).ok_or(Broken)
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Section 5.1. Nothing here is as large as 2^28.
    fn number(&mut self, prefix: u32) -> Result<usize, Broken> {
        let full = (1 << prefix) - 1;
        let mut number = usize::from(self.byte().ok_or(Broken)?) & full;
        if number < full {
            return Ok(number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte().ok_or(Broken)?;
            number += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    /// Section 5.2.
    fn text(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let coded = self.0.first()? & 0x80 != 0;
        let length = self.number(7).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        if coded {
            return huffman::decode(text, out);
        }
        out.extend_from_slice(text);
        Some(())
    }
}

/// Writes heads. Texts are not packed by the Huffman code: that costs both sides more time than the
/// bytes that it saves.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    table: Table,
    /// The table's size has changed, and the other side does not know yet: the least that it has been
    /// since.
    resized: Option<usize>,
}

impl Encoder {
    /// Uses at most so much of the other side's table.
    pub fn limit(&mut self, limit: usize) {
        let limit = limit.min(TABLE);
        if limit != self.table.limit {
            self.resized = Some(self.resized.unwrap_or(limit).min(limit));
            self.table.resize(limit);
        }
    }

    /// Appends what comes before the first field of a head.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(least) = self.resized.take() else { return };
        if least < self.table.limit {
            number(out, 0x20, 5, least);
        }
        number(out, 0x20, 5, self.table.limit);
    }

    /// Appends a field. `passing`: its value will hardly come again.
    pub fn encode(&mut self, field: Field<'_>, passing: bool, out: &mut Vec<u8>) {
        let Field { name, value, never } = field;
        let known = NAMES.get(name).copied();
        if never {
            return literal(out, (0x10, 4), known, name, value);
        }
        if let Some(first) = known {
            let same = STATIC[first - 1..].iter().take_while(|(n, _)| n.as_bytes() == name);
            let mut same = same.enumerate();
            if let Some((more, _)) = same.find(|(_, (_, v))| v.as_bytes() == value) {
                return number(out, 0x80, 7, first + more);
            }
        }
        if passing || PASSING.contains(&name) {
            let named = known.or_else(|| self.named(name));
            return literal(out, (0, 4), named, name, value);
        }
        let hash = hash(name, value);
        let same = |entry: &Entry| entry.hash == hash && entry.field() == (name, value);
        if let Some(at) = self.table.entries.iter().position(same) {
            return number(out, 0x80, 7, STATIC.len() + 1 + at);
        }
        let named = known.or_else(|| self.named(name));
        literal(out, (0x40, 6), named, name, value);
        self.table.insert(Entry::new(name, value, hash));
    }

    fn named(&self, name: &[u8]) -> Option<usize> {
        let at = self.table.entries.iter().position(|entry| entry.field().0 == name)?;
        Some(STATIC.len() + 1 + at)
    }
}

fn hash(name: &[u8], value: &[u8]) -> u32 {
    BuildHasherDefault::<FxHasher>::default().hash_one((name, value)) as u32
}

fn number(out: &mut Vec<u8>, pattern: u8, prefix: u32, number: usize) {
    let full = (1 << prefix) - 1;
    if number < full {
        return out.push(pattern | number as u8);
    }
    out.push(pattern | full as u8);
    let mut rest = number - full;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn literal(
    out: &mut Vec<u8>,
    (pattern, prefix): (u8, u32),
    named: Option<usize>,
    name: &[u8],
    value: &[u8],
) {
    number(out, pattern, prefix, named.unwrap_or(0));
    if named.is_none() {
        text(out, name);
    }
    text(out, value);
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use beeway_model::testing::Dice;

    use super::*;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Broken> {
        let mut fields = Fields::default();
        assert!(decoder.decode(block, &mut fields, 1 << 20)?);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(fields.iter().map(|field| (text(field.name), text(field.value))).collect())
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
        hex.chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 7541 appendix C.4 and C.6, whose table has 256 bytes.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let mut decoder = Decoder::default();
        for (block, last) in [
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", (":authority", "www.example.com")),
            ("8286 84be 5886 a8eb 1064 9cbf", ("cache-control", "no-cache")),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                ("custom-key", "custom-value"),
            ),
        ] {
            let fields = read(&mut decoder, &bytes(block)).unwrap();
            assert_eq!(fields.last().unwrap(), &(last.0.to_owned(), last.1.to_owned()));
        }
        let mut decoder = Decoder::default();
        decoder.table.resize(256);
        for (block, count, size) in [
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
              2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                4,
                222,
            ),
            ("4883 640e ffc1 c0bf", 4, 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
              77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
              9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                6,
                215,
            ),
        ] {
            assert_eq!(read(&mut decoder, &bytes(block)).unwrap().len(), count);
            assert_eq!(decoder.table.size, size);
        }
    }

    #[test]
    fn what_is_no_head_is_broken() {
        for block in [
            &b"\x80"[..],                        // index 0
            b"\xbe",                             // beyond the tables
            b"\x82\x20",                         // a size in the middle
            b"\x3f\xe2\x1f",                     // a table of 4097 bytes
            b"\x40\x01",                         // cut off
            b"\x00\x01a",                        // no value
            b"\x00\x7f\xff\xff\xff\xff\xff\x7f", // no end of a length
            b"\x00\x81\xff\x00",                 // padding of a whole byte
        ] {
            assert_eq!(read(&mut Decoder::default(), block), Err(Broken), "{block:x?}");
        }
    }

    #[test]
    fn a_head_above_the_limit_leaves_the_tables_whole() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut block = Vec::new();
        let field = |name, value| Field { name, value, never: false };
        encoder.encode(field(b"a", b"first"), false, &mut block);
        encoder.encode(field(b"b", b"second"), false, &mut block);
        let mut fields = Fields::default();
        assert_eq!(decoder.decode(&block, &mut fields, 50), Ok(false));
        assert_eq!(fields.len(), 1);
        let mut block = Vec::new();
        encoder.encode(field(b"b", b"second"), false, &mut block);
        assert_eq!(read(&mut decoder, &block), Ok(vec![("b".into(), "second".into())]));
    }

    #[test]
    fn a_head_that_stands_for_very_much_is_broken() {
        let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
        for (more, broken) in
            [(&[0xbe; 20][..], false), (&[0xbe; 100], true), (&[0x7e, 0].repeat(100), false)]
        {
            let mut fields = Fields::default();
            let block = [&long, more].concat();
            let read = Decoder::default().decode(&block, &mut fields, 1000);
            assert_eq!(read, if broken { Err(Broken) } else { Ok(false) });
        }
    }

    /// What the encoder writes is what the decoder reads, whatever the tables went through.
    #[test]
    fn random_heads_survive() {
        for seed in 0..200 {
            let mut dice = Dice(seed);
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for _ in 0..dice.between(1, 60) {
                if dice.one_in(8) {
                    encoder.limit(dice.below(5000));
                }
                let (mut block, mut fields) = (Vec::new(), Fields::default());
                encoder.begin(&mut block);
                for _ in 0..dice.between(0, 12) {
                    let (name, _) = STATIC[dice.below(61)];
                    let own = format!("x-{}", dice.below(30));
                    let name = if dice.one_in(2) { name } else { &own };
                    let value =
                        "v".repeat(dice.of(&[0, 1, 3, 200, 300])) + &dice.below(5).to_string();
                    fields.push(name.as_bytes(), value.as_bytes(), dice.one_in(9));
                }
                for field in fields.iter() {
                    encoder.encode(field, dice.one_in(5), &mut block);
                }
                let mut read = Fields::default();
                assert_eq!(decoder.decode(&block, &mut read, 1 << 20), Ok(true));
                let (sent, read): (Vec<_>, Vec<_>) =
                    (fields.iter().collect(), read.iter().collect());
                assert_eq!(sent, read, "seed {seed}");
                assert_eq!(encoder.table.size, decoder.table.size);
            }
        }
    }
}
