//! Requests that satisfy a match, or fail it by a byte.

use beeway_model::{Action, HeaderMatch, Match, PathMatch, Rule, StringMatch};

use super::{Scene, paths, policies, values};
use crate::case::{Case, Draft, Line};
use crate::world::{ENDPOINTS, SOURCES, labels};
use beeway_model::testing::Dice;

const HEAD_BYTES: usize = 8192;
const HEAD_LINES: usize = 64;
const QUERY_BYTES: usize = 2048;
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
const LABELS: [&str; 7] = ["shop", "example", "a", "x", "www", "s-1", ""];

/// A request in parts.
struct Parts {
    method: String,
    path: String,
    query: Option<Vec<String>>,
    host: String,
    lines: Vec<Line>,
}

impl Scene {
    /// A request that is of interest to this configuration.
    pub fn case(&self, dice: &mut Dice) -> Case {
        let picked = self.pick(dice);
        let mut parts = match picked {
            Some((_, m)) => self.holding(dice, m),
            None => Parts::any(dice),
        };
        let spoiled = dice.of(&[0, 0, 0, 1, 1, 1, 1, 2, 3]);
        for _ in 0..spoiled {
            self.spoil(dice, &mut parts);
        }
        parts.add_noise(dice);
        if dice.one_in(50) {
            parts.make_odd(dice);
        }
        let source = match picked {
            Some((_, m)) if !m.sources.is_empty() && !dice.one_in(4) => caller(dice, m),
            _ => dice.of(&SOURCES),
        };
        Case {
            endpoint: ENDPOINTS[dice.below(ENDPOINTS.len())].parse().unwrap(),
            source: source.parse().unwrap(),
            draw: draw(dice, picked.map(|(rule, _)| rule)),
            ..Case::new(parts.bytes(dice))
        }
    }

    /// What a match asks for.
    fn holding(&self, dice: &mut Dice, m: &Match) -> Parts {
        let mut parts = Parts::any(dice);
        if let Some(path) = &m.path {
            parts.path = self.path(dice, path);
            if m.ignore_path_case && dice.one_in(2) {
                parts.path = parts.path.to_ascii_uppercase();
            }
        }
        if !m.hosts.is_empty() {
            let host = dice.of(&m.hosts);
            parts.host = match host.strip_prefix('*') {
                Some(suffix) => format!("{}{suffix}", dice.of(&LABELS)),
                None if host.is_ascii() || dice.one_in(6) => host,
                // left to userspace
                None => "shop".to_owned(),
            };
        }
        if let Some(method) = &m.method {
            parts.method = match method {
                StringMatch::Exact(method) if !dice.one_in(20) => method.clone(),
                StringMatch::Prefix(_) => dice.of(&["PUT", "POST", "PATCH"]).to_owned(),
                _ => parts.method,
            };
            // left to userspace, the last when the kernel would answer
            if ["PURGE", "get", "HEAD"].contains(&parts.method.as_str()) && !dice.one_in(6) {
                parts.method = "GET".to_owned();
            }
        }
        for header in &m.headers {
            self.add_header(dice, header, &mut parts);
        }
        for query in &m.query {
            let value = values::holding(dice, &query.value, &self.examples);
            let pair = match String::from_utf8_lossy(&value).into_owned() {
                value if value.is_empty() && dice.one_in(2) => query.name.clone(),
                value => format!("{}={value}", query.name),
            };
            parts.query.get_or_insert_default().push(pair);
        }
        parts
    }

    fn path(&self, dice: &mut Dice, path: &PathMatch) -> String {
        match path {
            PathMatch::Exact(path) => path.clone(),
            PathMatch::Prefix(path) if dice.one_in(2) => path.clone(),
            PathMatch::Prefix(path) => format!("{path}{}", paths::tail(dice, 40)),
            PathMatch::Segments(path) => {
                let more = dice.of(&["", "/", "/a", "/abc/d", "x"]);
                format!("{}{more}", path.trim_end_matches('/'))
            }
            PathMatch::Regex(pattern) => self.examples.of(pattern),
        }
    }

    fn add_header(&self, dice: &mut Dice, header: &HeaderMatch, parts: &mut Parts) {
        let mut value = values::holding(dice, &header.value, &self.examples);
        if header.invert {
            if dice.one_in(2) {
                return;
            }
            value = values::nudge(dice, &value);
        }
        if ["host", ":authority"].contains(&header.name.as_str()) {
            parts.host = String::from_utf8_lossy(&value).into_owned();
        } else if !parts.lines.iter().any(|line| line.name == header.name) {
            parts.lines.push(Line::new(&header.name, &value));
        }
    }

    /// Changes one thing a little.
    fn spoil(&self, dice: &mut Dice, parts: &mut Parts) {
        match dice.below(12) {
            0..5 => parts.path = paths::nudge(dice, &parts.path),
            5 => parts.host = nudge_host(dice, &parts.host),
            6 | 7 if !parts.lines.is_empty() => spoil_line(dice, &mut parts.lines),
            8 | 9 if parts.query.is_some() || dice.one_in(3) => {
                spoil_query(dice, parts.query.get_or_insert_default());
            }
            10 => parts.method = dice.of(&METHODS).to_owned(),
            // what another rule asks for, too
            11 => {
                if let Some((_, other)) = self.pick(dice) {
                    let other = self.holding(dice, other);
                    let known = |line: &Line| parts.lines.iter().all(|own| own.name != line.name);
                    let more: Vec<Line> = other.lines.into_iter().filter(known).collect();
                    parts.lines.extend(more);
                    if let Some(query) = other.query {
                        parts.query.get_or_insert_default().extend(query);
                    }
                }
            }
            _ => parts.path = paths::nudge(dice, &parts.path),
        }
    }
}

impl Parts {
    fn any(dice: &mut Dice) -> Parts {
        let path = paths::family(dice, 2, 12).pop().unwrap_or_default();
        let method = if dice.one_in(4) { dice.of(&METHODS) } else { "GET" }.to_owned();
        let query =
            dice.one_in(10).then(|| vec![dice.of(&["", "a=/../b", "/a?b", "q"]).to_owned()]);
        Parts { method, path, query, host: "shop".to_owned(), lines: Vec::new() }
    }

    /// Fields that are there besides.
    fn add_noise(&mut self, dice: &mut Dice) {
        for (name, value) in [("User-Agent", "curl/8.5.0"), ("Accept", "*/*"), ("X-Versio", "v1")] {
            if dice.one_in(3) {
                self.lines.push(Line::new(name, value.as_bytes()));
            }
        }
        if dice.one_in(20) {
            let (name, value) = policies::forwarded(dice);
            self.lines.push(Line::new(name, value.as_bytes()));
        }
        if dice.one_in(40) {
            let lines = dice.between(HEAD_LINES - 3, HEAD_LINES - 1);
            for n in self.lines.len()..lines {
                self.lines.push(Line::new(&format!("Filler-{n}"), b"1"));
            }
        }
        for line in &mut self.lines {
            if dice.one_in(4) {
                line.name.make_ascii_uppercase();
            }
            if dice.one_in(12) {
                let blanks = ["", "  ", "\t", " \t  "];
                line.blanks = (dice.of(&blanks).to_owned(), dice.of(&blanks).to_owned());
            }
        }
    }

    /// Makes it a request of a kind that the kernel leaves to userspace, or nearly does.
    fn make_odd(&mut self, dice: &mut Dice) {
        match dice.below(9) {
            0 => self.method = dice.of(&["PURGE", "get", "GETX", "HEAD", "HEAD"]).to_owned(),
            1 => self.path.push_str(dice.of(&["/../b", "/./a", "%61", "\\a", "/%2e", "/.", "%2F"])),
            2 => self.query.get_or_insert_default().push("x#y".to_owned()),
            3 => {
                for n in self.lines.len()..dice.between(HEAD_LINES, HEAD_LINES + 2) {
                    self.lines.push(Line::new(&format!("Filler-{n}"), b"1"));
                }
            }
            4 => {
                let length = HEAD_BYTES - self.length() + dice.below(8);
                self.lines.push(Line::new("Filler", "y".repeat(length).as_bytes()));
            }
            5 if !self.lines.is_empty() => {
                let mut again = dice.of(&self.lines);
                again.value = values::nudge(dice, &again.value);
                self.lines.push(again);
            }
            6 => {
                let query = self.query.get_or_insert_default();
                let length: usize = query.iter().map(|piece| piece.len() + 1).sum();
                let rest = dice.between(QUERY_BYTES - 3, QUERY_BYTES + 3).saturating_sub(length);
                query.insert(dice.below(query.len() + 1), "y".repeat(rest));
            }
            7 => self.host.push_str(dice.of(&["..", "..:80", &"x".repeat(260)])),
            _ => {
                if let Some(line) = self.lines.first_mut() {
                    line.blanks.0 = " ".repeat(dice.between(60, 66));
                }
            }
        }
    }

    /// Bytes of the head so far and of an empty field `Filler`.
    fn length(&self) -> usize {
        let lines: usize = self.lines.iter().map(|l| l.name.len() + l.value.len() + 4).sum();
        let query = self.query.iter().flatten().map(|piece| piece.len() + 1).sum::<usize>();
        // " HTTP/1.1", "Host: ", "Filler: " and three line ends
        lines + self.method.len() + self.path.len() + query + self.host.len() + 33
    }

    fn bytes(mut self, dice: &mut Dice) -> Vec<u8> {
        let mut target = self.path;
        // what a rule asks for may be nothing that a target can have
        target.retain(|c| c.is_ascii_graphic() && c != '?');
        if !target.starts_with('/') {
            target.insert(0, '/');
        }
        if let Some(query) = self.query {
            let query: String = query.join("&").replace(' ', "+");
            target.push('?');
            target.extend(query.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }));
        }
        let value = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
        for line in &mut self.lines {
            line.value.retain(value);
        }
        let name = dice.of(&["Host", "host", "HOST"]);
        self.lines.push(Line::new(name, self.host.as_bytes()));
        dice.shuffle(&mut self.lines);
        let mut behind: &[u8] = b"";
        if self.lines.len() < HEAD_LINES - 4 && dice.one_in(20) {
            self.lines.push(Line::new("Content-Length", b"9"));
            behind = dice.of(&[b"", b"GET / HTT", b"\r\n\r\n\0\r\n\r\n"]);
        }
        let draft = Draft { method: self.method, target, lines: self.lines };
        [&draft.bytes(), behind].concat()
    }
}

fn nudge_host(dice: &mut Dice, host: &str) -> String {
    match dice.below(12) {
        0 => host.to_ascii_uppercase(),
        1 => format!("{host}."),
        2 => {
            format!("{host}{}", dice.of(&[":80", ":8080", ":", ":65535", ":00080", ":80:80", ":a"]))
        }
        3 => format!("{host}.:80"),
        4 => format!("{}.{host}", dice.of(&LABELS)),
        5 => host.chars().skip(1).collect(),
        6 => host.split_once('.').map_or("", |(_, rest)| rest).to_owned(),
        7 => format!("x{host}"),
        8 => format!("{host}x"),
        9 => dice.of(&["", ".", "[fd00::60]:80", "[fd00::60]", "10.96.0.1"]).to_owned(),
        10 => dice.text("abc.", 250),
        _ => format!("{}.example.com", dice.of(&LABELS)),
    }
    .replace("..", ".")
}

fn spoil_line(dice: &mut Dice, lines: &mut Vec<Line>) {
    let at = dice.below(lines.len());
    let line = &mut lines[at];
    match dice.below(8) {
        0 => drop(lines.remove(at)),
        1 => line.name.push('x'),
        2 if line.name.len() > 1 => drop(line.name.pop()),
        3 => {
            // a field that looks like another one
            let name = format!("x-{}", line.name);
            let value = line.value.clone();
            lines.push(Line::new(&name, &value));
        }
        _ => line.value = values::nudge(dice, &line.value),
    }
}

fn spoil_query(dice: &mut Dice, query: &mut Vec<String>) {
    let at = dice.below(query.len() + 1);
    let name = dice.of(&values::PARAMETERS);
    match dice.below(12) {
        0 => query.insert(at, String::new()),
        1 => query.insert(at, name.to_owned()),
        2 => query.insert(at, format!("{name}=")),
        3 => query.insert(at, format!("{name}x=v1")),
        4 => query.insert(at, format!("{name}=a=b")),
        5 => query.insert(at, "=v1".to_owned()),
        6 if !query.is_empty() => drop(query.remove(at.min(query.len() - 1))),
        7 if !query.is_empty() => {
            // the first of a name counts
            let piece = query[at.min(query.len() - 1)].clone();
            let name = piece.split('=').next().unwrap_or_default();
            query.insert(at, format!("{name}=other"));
        }
        8 if !query.is_empty() => {
            let at = at.min(query.len() - 1);
            let value = values::nudge(dice, query[at].as_bytes());
            query[at] = String::from_utf8_lossy(&value).replace(['&', '#'], "_");
        }
        9 => query.extend((0..dice.between(1, 40)).map(|n| format!("p{n}=1"))),
        10 if dice.one_in(4) => query.insert(at, format!("long={}", "y".repeat(1000))),
        _ => query.insert(at, "a?b=/../c".to_owned()),
    }
}

/// An address of a caller that a match is for, when there is one.
fn caller(dice: &mut Dice, m: &Match) -> &'static str {
    let callers = [("default", "web"), ("default", "api"), ("other", "web"), ("other", "api")];
    let held = |(namespace, app)| m.sources.iter().any(|s| s.holds(namespace, &labels(app)));
    let found = callers.into_iter().position(held);
    found.map_or_else(|| dice.of(&SOURCES), |at| SOURCES[at])
}

/// A random number, often where one backend's share ends and another's begins.
fn draw(dice: &mut Dice, rule: Option<&Rule>) -> u32 {
    if dice.one_in(2) {
        return dice.bits() as u32;
    }
    let Some(Rule { action: Action::Forward(backends), .. }) = rule else { return 0 };
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return u32::MAX;
    }
    let below = backends[..dice.below(backends.len() + 1)].iter();
    let border =
        (below.map(|backend| u64::from(backend.weight)).sum::<u64>() << 32).div_ceil(total);
    let draw = (border + dice.below(3) as u64).saturating_sub(1);
    draw.min(u64::from(u32::MAX)) as u32
}
