//! Random small meshes and requests that are near the borders of their rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use beeway_model::{
    Action, Backend, Cluster, ClusterId, Decision, Endpoint, HeaderMatch, Match, Mesh, PathMatch,
    Protocol, Request, Rule, Service, ServicePort, SourceMatch, StringMatch, Transport, Workload,
    route,
};

pub const SERVICE: &str = "10.96.0.1:80";
pub const ENDPOINT: &str = "10.1.0.1:8080";

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
const HOSTS: [&str; 8] = [
    "shop",
    "shop.example.com",
    "*.example.com",
    "*.a.example.com",
    "example.com",
    "*",
    "*.com",
    "10.96.0.1",
];
const LABELS: [&str; 6] = ["shop", "example", "a", "x", "www", "s-1"];
const SEGMENTS: [&str; 9] = ["a", "ab", "b", "api", "v1", "v11", "A", "x;y", "~u"];
const NAMES: [&str; 5] = ["x-version", "end-user", "cookie", "host", "x"];
const VALUES: [&str; 9] = ["v1", "v", "v2", "v11", "jason", "jas", "", "a b", "shop"];
const WEIGHTS: [&[u32]; 8] = [&[1], &[0, 1], &[100, 0], &[90, 10], &[1, 1, 1], &[0], &[], &[1, 99]];

/// A small generator of numbers (SplitMix64): the same seed gives the same cases.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    fn path(&mut self) -> String {
        let count = self.below(4);
        let mut path: String = (0..count).map(|_| format!("/{}", self.of(&SEGMENTS))).collect();
        if path.is_empty() || self.one_in(5) {
            path.push('/');
        }
        path
    }

    fn string(&mut self, values: &[&str]) -> StringMatch {
        match self.below(6) {
            0 => StringMatch::Present,
            1 | 2 => StringMatch::Prefix(self.of(values).to_owned()),
            _ => StringMatch::Exact(self.of(values).to_owned()),
        }
    }

    fn condition(&mut self) -> Match {
        let mut m = Match { ignore_path_case: self.one_in(6), ..Match::default() };
        let path = self.path();
        m.path = match self.below(5) {
            0 => None,
            1 => Some(PathMatch::Prefix(path)),
            2 => Some(PathMatch::Segments(path)),
            _ => Some(PathMatch::Exact(path)),
        };
        if self.one_in(3) {
            m.hosts = (0..1 + self.below(2)).map(|_| self.of(&HOSTS).to_owned()).collect();
        }
        if self.one_in(4) {
            m.method = Some(StringMatch::Exact(self.of(&METHODS).to_owned()));
        }
        while self.one_in(2) {
            let (name, value) = (self.of(&NAMES).to_owned(), self.string(&VALUES));
            m.headers.push(HeaderMatch { name, value, invert: self.one_in(3) });
        }
        if self.one_in(6) {
            let namespace = self.one_in(2).then(|| self.of(&["default", "other"]).to_owned());
            let labels = if self.one_in(2) { labels(self.of(&["web", "api"])) } else { [].into() };
            m.sources = vec![SourceMatch { namespace, labels }];
        }
        m
    }

    fn rule(&mut self) -> Rule {
        let matches = (0..self.below(3)).map(|_| self.condition()).collect();
        let action = if self.one_in(4) {
            let (status, body) = self.of(&[(403, "RBAC: access denied"), (204, ""), (503, "x")]);
            Action::Respond { status, body: body.to_owned() }
        } else {
            let weights = self.of(&WEIGHTS);
            Action::Forward(weights.iter().map(|weight| self.backend(*weight)).collect())
        };
        Rule { name: "a rule".to_owned(), matches, action, detour: None }
    }

    fn backend(&mut self, weight: u32) -> Backend {
        Backend { cluster: (!self.one_in(12)).then(|| ClusterId(self.below(5))), weight }
    }

    /// A mesh within the limits of the tables.
    pub fn mesh(&mut self) -> Mesh {
        let rules = (0..1 + self.below(6)).map(|_| self.rule()).collect();
        mesh((!self.one_in(15)).then_some(rules))
    }

    /// A host at or beside those of the rules, spelled in some way.
    fn authority(&mut self) -> String {
        let mut host = match self.below(4) {
            0 => (0..self.below(4)).map(|_| self.of(&LABELS)).collect::<Vec<_>>().join("."),
            1 => format!("{}.example.com", self.of(&LABELS)),
            2 => self.of(&HOSTS).trim_start_matches("*.").to_owned(),
            _ => "shop".to_owned(),
        };
        match self.below(12) {
            0 => host.make_ascii_uppercase(),
            1 => host.push('.'),
            2 => host.push_str(self.of(&[":80", ":8080", ":", ":65535", ":00080"])),
            3 => host.push_str(".:80"),
            _ => {}
        }
        host
    }

    fn target(&mut self, mesh: &Mesh) -> String {
        let mut target = if self.one_in(2) { self.path() } else { self.ruled_path(mesh) };
        match self.below(24) {
            0 => target.push('/'),
            1 => target.push_str(self.of(&SEGMENTS)),
            2 => drop(target.pop().filter(|_| target.len() > 1)),
            3 => target.push_str(self.of(&["/..", "/./a", "%61", "\\a"])),
            4 => target = target.to_ascii_uppercase(),
            _ => {}
        }
        if !target.starts_with('/') {
            target.insert(0, '/');
        }
        if self.one_in(5) {
            target.push_str(self.of(&["?", "?a=/../b", "?%2e", "?/a?b", "?a\\b"]));
        }
        target
    }

    /// A path that a rule names.
    fn ruled_path(&mut self, mesh: &Mesh) -> String {
        let rules = mesh.services[0].ports[0].rules.as_deref().unwrap_or_default();
        let paths: Vec<&String> = rules
            .iter()
            .flat_map(|rule| &rule.matches)
            .filter_map(|m| match m.path.as_ref()? {
                PathMatch::Exact(p) | PathMatch::Prefix(p) | PathMatch::Segments(p) => Some(p),
                PathMatch::Regex(_) => None,
            })
            .collect();
        if paths.is_empty() { self.path() } else { self.of(&paths).clone() }
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for name in ["x-version", "End-User", "COOKIE", "X", "accept", "x-versio", "x-versionx"] {
            if self.one_in(3) {
                let mut value = self.of(&VALUES).to_owned();
                if self.one_in(8) {
                    value.push_str(self.of(&["x", " x", "\u{e4}"]));
                }
                headers.push((name.to_owned(), value));
            }
        }
        // what occurs twice is left to userspace
        if self.one_in(40) {
            headers.push(("X-Version".to_owned(), "v2".to_owned()));
        }
        headers
    }
}

fn labels(app: &str) -> BTreeMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

fn cluster(name: &str, addresses: &[&str]) -> Cluster {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().unwrap(),
        weight: 1,
        workload: String::new(),
        node: None,
    };
    Cluster { name: name.to_owned(), endpoints: addresses.iter().map(endpoint).collect() }
}

/// One service of five clusters, one of them empty, and four callers.
pub fn mesh(rules: Option<Vec<Rule>>) -> Mesh {
    let workload = |namespace: &str, app: &str, address: &str| Workload {
        namespace: namespace.to_owned(),
        name: format!("{app}-{address}"),
        labels: labels(app),
        addresses: vec![address.parse().unwrap()],
        service_account: "default".to_owned(),
        node: None,
    };
    let port = ServicePort {
        name: "http".to_owned(),
        number: 80,
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules,
    };
    Mesh {
        services: vec![Service {
            namespace: "default".to_owned(),
            name: "shop".to_owned(),
            hosts: vec!["shop".to_owned()],
            addresses: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![port],
        }],
        clusters: vec![
            cluster("all", &["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]),
            cluster("v1", &["10.1.0.1:8080"]),
            cluster("v2", &["10.1.0.2:8080", "[fd00::2]:8080"]),
            cluster("v3", &["10.1.0.3:8080", "10.1.0.3:8081"]),
            cluster("none", &[]),
        ],
        workloads: vec![
            workload("default", "web", "10.2.0.1"),
            workload("default", "api", "10.2.0.2"),
            workload("other", "web", "10.2.0.3"),
            workload("other", "api", "fd00::9"),
        ],
    }
}

/// A request on a connection, to be put to all three.
#[derive(Debug)]
pub struct Case {
    pub method: &'static str,
    pub target: String,
    pub authority: String,
    pub headers: Vec<(String, String)>,
    /// Around the value of the n-th field, Host being the first.
    pub blanks: (usize, String, String),
    pub endpoint: SocketAddr,
    pub source: IpAddr,
    pub draw: u32,
}

impl Case {
    pub fn new(dice: &mut Dice, mesh: &Mesh) -> Case {
        let endpoints = [ENDPOINT, ENDPOINT, "10.1.0.2:8080", "10.1.0.3:8080", "[fd00::2]:8080"];
        let sources = ["10.2.0.1", "10.2.0.2", "10.2.0.3", "fd00::9", "10.2.0.77"];
        // the borders of 90:10, 1:99 and 1:1:1
        let draws = [0, u32::MAX, 3_865_470_566, 3_865_470_567, 42_949_672, 1_431_655_766];
        Case {
            method: if dice.one_in(3) { dice.of(&METHODS) } else { "GET" },
            target: dice.target(mesh),
            authority: dice.authority(),
            headers: dice.headers(),
            blanks: (
                dice.below(4),
                dice.of(&["", " ", "\t", "  \t "]).to_owned(),
                dice.of(&["", " ", "\t ", "  "]).to_owned(),
            ),
            endpoint: dice.of(&endpoints).parse().unwrap(),
            source: dice.of(&sources).parse().unwrap(),
            draw: if dice.one_in(4) { dice.of(&draws) } else { dice.next() as u32 },
        }
    }

    /// The simplest request for a path.
    pub fn get(target: &str) -> Case {
        Case {
            method: "GET",
            target: target.to_owned(),
            authority: "shop".to_owned(),
            headers: Vec::new(),
            blanks: (0, " ".to_owned(), String::new()),
            endpoint: ENDPOINT.parse().unwrap(),
            source: "10.2.0.1".parse().unwrap(),
            draw: 0,
        }
    }

    /// As sent: each char is one byte.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let host = ("Host".to_owned(), self.authority.clone());
        for (index, (name, value)) in std::iter::once(&host).chain(&self.headers).enumerate() {
            let (at, before, after) = &self.blanks;
            let (before, after) =
                if index == *at { (before.as_str(), after.as_str()) } else { (" ", "") };
            text.push_str(&format!("{name}:{before}{value}{after}\r\n"));
        }
        text.push_str("\r\n");
        text.chars().map(|c| u8::try_from(c).expect("latin-1")).collect()
    }

    /// What the reference router says. Blanks around a value are not part of it (RFC 9110 5.5).
    pub fn by_router(&self, mesh: &Mesh) -> Decision {
        let values: Vec<Vec<u8>> = self
            .headers
            .iter()
            .map(|(_, value)| value.chars().map(|c| c as u8).collect::<Vec<u8>>())
            .map(|value| value.trim_ascii().to_vec())
            .collect();
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .zip(&values)
            .map(|((name, _), value)| (name.as_str(), value.as_slice()))
            .collect();
        let request = Request {
            method: self.method,
            scheme: "http",
            authority: self.authority.trim(),
            target: &self.target,
            headers: &headers,
            source: mesh.workload_at(self.source),
        };
        route(&mesh.services[0].ports[0], &request, self.draw)
    }
}
