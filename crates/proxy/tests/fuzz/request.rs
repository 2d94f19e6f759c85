//! What clients send: requests as they may be, and such as they may not.

use beeway_model::Request as Judged;

use crate::ledger::{Sent, Shared};
use crate::plan::chunked;
use crate::scene::Scene;
use crate::strict::Body;
use beeway_model::testing::Dice;

/// How a body is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed {
    Bare,
    Length,
    Chunked,
}

/// A request as it should be.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: u64,
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    pub host: String,
    pub fields: Vec<(String, String)>,
    pub framed: Framed,
    pub body: Body,
    plain: bool,
}

const METHODS: &str = "GET GET GET GET POST POST PUT HEAD DELETE OPTIONS PATCH PROPFIND";

const SEGMENTS: &str = "a Bc %41 %2f %2F . .. / // ;v=1 ~x :@ !$&'()*+,= %zz -_ r1/ ../ ./ \"<> {}| \
    %00 %0d%0a [] `^";

const PLAIN_SEGMENTS: &str = "a Bc %41 %2f .. // ;v=1 ~x :@ !$&'()*+,= %zz ../ %0d%0a";

fn word<'a>(dice: &mut Dice, words: &'a str) -> &'a str {
    let words: Vec<&str> = words.split_whitespace().collect();
    dice.of(&words)
}

/// A name for a request that no other has. 0 is that of what must not come out.
fn name(dice: &mut Dice) -> u64 {
    1 + (dice.bits() >> 16)
}

fn target(dice: &mut Dice, plain: bool) -> String {
    let rule = dice.below(11);
    let mut target = format!("/r{}/", if plain && rule < 10 { rule & !1 } else { rule });
    for _ in 0..dice.below(6) {
        target += word(dice, if plain { PLAIN_SEGMENTS } else { SEGMENTS });
    }
    if dice.one_in(3) {
        target += "?";
        target += dice.of(&["", "a=b", "a=b&c=/../d", "?/:@!$&'()*+,;=", "%0d%0aHost:%20x"]);
    }
    target
}

fn fields(dice: &mut Dice) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let known = [
        ("Accept", "*/*"),
        ("cookie", "a=b; c=d"),
        ("X-Forwarded-For", "10.1.1.1"),
        ("Origin", "http://friend"),
        ("Access-Control-Request-Method", "PUT"),
        ("Content-Type", "application/grpc"),
        ("content-type", "text/plain; charset=\"utf-8\""),
        ("x-request-id", "chosen"),
        ("grpc-timeout", "90m"),
        ("X-Empty", ""),
        ("x-quoted", "\"a\\\"b\", c"),
        ("x-latin", "caf\u{e9}"),
        ("Via", "1.1 somebody"),
        ("x-envoy-attempt-count", "77"),
    ];
    for (name, value) in known {
        if dice.one_in(7) {
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
    if dice.one_in(10) {
        fields.extend((0..60).map(|n| (format!("x-many-{n}"), n.to_string())));
    }
    if dice.one_in(10) {
        fields.push(("x-long".into(), "l".repeat(dice.below(20_000))));
    }
    dice.shuffle(&mut fields);
    fields
}

impl Request {
    /// A `plain` one may be forwarded the short way.
    pub fn new(dice: &mut Dice, plain: bool) -> Request {
        let id = name(dice);
        let method = word(dice, if plain { "GET GET POST PUT" } else { METHODS });
        let framed = match method {
            _ if plain => dice.of(&[Framed::Bare, Framed::Length]),
            "POST" | "PUT" | "PATCH" => dice.of(&[Framed::Length, Framed::Chunked]),
            _ if dice.one_in(2) => Framed::Bare,
            _ => dice.of(&[Framed::Bare, Framed::Length, Framed::Chunked]),
        };
        let mut body = Body::default();
        if framed != Framed::Bare {
            let most =
                dice.of(&[1, if plain { 1 } else { 200_000 }, 20_000, 400, 400, 400, 400, 400]);
            let length = dice.below(most);
            let smuggled =
                format!("{id} GET /r0/smuggled HTTP/1.1\r\nHost: shop\r\nx-id: 0\r\n\r\n");
            body.data = smuggled.bytes().cycle().take(length).collect();
        }
        let host = dice.of(&["shop", "shop:80", "shop.default.svc", "10.0.0.1", "[fd00::1]:80"]);
        let host = if plain { "shop:80" } else { host };
        let (target, host, mut fields) = (target(dice, plain), host.to_owned(), fields(dice));
        fields.retain(|(name, _)| !plain || name != "Content-Type");
        Request { id, method, target, host, fields, framed, body, plain }
    }

    /// Tells the ledger what should come of it.
    pub fn announce(&self, scene: &Scene, ledger: &Shared) {
        self.announce_as(scene, ledger, Some(self.body.clone()));
    }

    fn announce_as(&self, scene: &Scene, ledger: &Shared, body: Option<Body>) {
        let fields: Vec<(&str, &[u8])> =
            self.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let judged = Judged {
            method: self.method,
            scheme: "http",
            authority: &self.host,
            target: &self.target,
            headers: &fields,
            source: Some(&scene.mesh.workloads[0]),
        };
        let (places, copies) = scene.places(&judged);
        ledger.send(self.id, Sent { method: self.method.into(), places, body, copies });
    }

    /// In HTTP/1, in one of the forms that it may have there; whether nothing may come after it, and
    /// whether the answer may be a tunnel.
    pub fn render(
        &mut self,
        dice: &mut Dice,
        scene: &Scene,
        ledger: &Shared,
    ) -> (Vec<u8>, bool, bool) {
        let old = !self.plain && dice.one_in(16) && self.framed != Framed::Chunked;
        let version = if old { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut lines = vec![format!("Host: {}", self.host), format!("X-Id: {}", self.id)];
        let mut to = self.target.clone();
        if !self.plain && dice.one_in(10) {
            // The absolute form has the say.
            to = format!("http://{}{to}", self.host);
            lines[0] = "Host: other".into();
        }
        lines.extend(self.fields.iter().map(|(name, value)| format!("{name}: {value}")));
        let mut last = old;
        match dice.below(if self.plain { 60 } else { 12 }) {
            0 => lines.push("Connection: keep-alive, X-Hop\r\nX-Hop: 1".into()),
            1 => lines.push("Connection: TE\r\nTE: trailers;q=0.5, gzip".into()),
            2 => lines.push("connection: content-length, Host, transfer-encoding".into()),
            3 => {
                lines.push("Connection: close".into());
                last = true;
            }
            _ => {}
        }
        let upgrade = !old && !self.plain && dice.one_in(20);
        if upgrade {
            lines.push(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13".into(),
            );
        }
        if self.framed != Framed::Bare && !old && !self.plain && dice.one_in(10) {
            lines.push("Expect: 100-continue".into());
        }
        let body = match self.framed {
            Framed::Bare => Vec::new(),
            Framed::Length => {
                lines.push(format!("Content-Length: {}", self.body.data.len()));
                self.body.data.clone()
            }
            Framed::Chunked => {
                lines.push("Transfer-Encoding: chunked\r\nTrailer: X-Sum".into());
                let (bytes, trailers) = chunked(dice, &self.body.data);
                self.body.trailers = trailers;
                bytes
            }
        };
        let head = format!("{} {to} {version}\r\n{}\r\n\r\n", self.method, lines.join("\r\n"));
        self.announce(scene, ledger);
        ([head.as_bytes(), &body].concat(), last, upgrade)
    }

    /// Bytes that are no request, or one that can be understood in two ways. What is hidden in them
    /// must not reach an endpoint unless the proxy itself has taken it for a request.
    pub fn wrong(dice: &mut Dice, scene: &Scene, ledger: &Shared) -> Vec<u8> {
        let plain = |id, method, target: &str| {
            let (host, target) = ("shop".to_owned(), target.to_owned());
            let (framed, body) = (Framed::Bare, Body::default());
            let request = Request {
                id,
                method,
                target,
                host,
                fields: Vec::new(),
                framed,
                body,
                plain: false,
            };
            request.announce_as(scene, ledger, None);
            request.id
        };
        let method = dice.of(&["POST", "GET"]);
        let hidden = plain(name(dice), "GET", "/r0/smuggled");
        let hidden = format!("GET /r0/smuggled HTTP/1.1\r\nHost: shop\r\nX-Id: {hidden}\r\n\r\n");
        let fill = |text: &str| text.replace('#', &hidden.len().to_string());
        let mut bytes = if dice.one_in(5) {
            let (line, field) = BROKEN[dice.below(BROKEN.len())];
            let (line, id) = (line.replace('#', "/r0/a"), plain(name(dice), "GET", "/r0/a"));
            format!("{line}\r\n{field}X-Id: {id}\r\n\r\n{hidden}")
        } else {
            let (framing, body) = AMBIGUOUS[dice.below(AMBIGUOUS.len())];
            let (framing, body, id) =
                (fill(framing), fill(body), plain(name(dice), method, "/r0/a"));
            let start = format!("{method} /r0/a HTTP/1.1\r\nX-Id: {id}\r\nHost: shop");
            let mut middle = format!("\r\n{framing}\r\n\r\n{body}");
            let end = middle.find('@').unwrap_or(middle.len());
            if dice.one_in(4) {
                let with =
                    ["\0", "\r", "\n", " ", "\t", ":", ",", ";", "\u{b}", "\u{e9}", "0", "x"];
                middle.insert_str(dice.between(2, end.max(2)), dice.of(&with));
            }
            start + &middle.replace('@', &hidden)
        };
        if dice.one_in(10) {
            bytes = bytes.replace("\r\n", "\n");
        }
        bytes.into_bytes()
    }
}

/// Framing fields and a body: `@` is a request that must not come out, `#` its length.
const AMBIGUOUS: [(&str, &str); 30] = [
    ("Content-Length: #\r\nTransfer-Encoding: chunked", "0\r\n\r\n@"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n@"),
    ("Content-Length: 0\r\nContent-Length: #", "@"),
    ("Content-Length: #\r\nContent-Length: 0", "@"),
    ("Content-Length: 0, #", "@"),
    ("Content-Length: +#", "@"),
    ("Content-Length: -1", "@"),
    ("Content-Length: 0x10", "@"),
    ("Content-Length: 18446744073709551616", "@"),
    ("Content-Length: 18446744073709551615", "@"),
    ("Content-Length: # #", "@"),
    ("Content-Length:", "@"),
    ("Content-Length : #", "@"),
    (" Content-Length: #", "@"),
    ("Content-Length: 1\r\n 0", "@"),
    ("Transfer-Encoding: xchunked", "0\r\n\r\n@"),
    ("Transfer-Encoding: chunked, identity", "0\r\n\r\n@"),
    ("Transfer-Encoding: identity", "@"),
    ("Transfer-Encoding : chunked", "0\r\n\r\n@"),
    ("Transfer-Encoding:\u{b}chunked", "0\r\n\r\n@"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "0\r\n\r\n@"),
    ("Transfer-Encoding:\r\n chunked", "0\r\n\r\n@"),
    ("Transfer-Encoding: chunked", "0x0\r\n\r\n@"),
    ("Transfer-Encoding: chunked", "1\r\nxx\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", "ffffffffffffffff1\r\n@"),
    ("Transfer-Encoding: chunked", "-1\r\n@"),
    ("Transfer-Encoding: chunked", "1;\n0\r\n\r\n@\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", "0\r\nX: y\n\n@"),
    ("Host: shop", "@"),
    ("Connection: close, transfer-encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n@"),
];

/// Request lines and first fields that are wrong.
const BROKEN: [(&str, &str); 16] = [
    ("GET # HTTP/1.1", ""),
    ("GET # HTTP/1.1", "Host: shop\r\nHost: other\r\n"),
    ("GET # HTTP/1.1", "Host: sh op\r\n"),
    ("GET # HTTP/1.1", "Host: shop/a\r\n"),
    ("GET # HTTP/1.1", " Host: shop\r\n"),
    ("GET # HTTP/1.1", "Host : shop\r\n"),
    ("GET #", "Host: shop\r\n"),
    ("GET # HTTP/2.0", "Host: shop\r\n"),
    ("GET # http/1.1", "Host: shop\r\n"),
    ("GET #  HTTP/1.1", "Host: shop\r\n"),
    ("G\u{0}ET # HTTP/1.1", "Host: shop\r\n"),
    ("GET a# HTTP/1.1", "Host: shop\r\n"),
    ("GET http://u@shop# HTTP/1.1", "Host: shop\r\n"),
    ("CONNECT shop:80 HTTP/1.1", "Host: shop:80\r\n"),
    ("PRI * HTTP/2.0", "Host: shop\r\n"),
    ("\r\n\r\nGET # HTTP/1.1", "Host: shop\r\n"),
];
