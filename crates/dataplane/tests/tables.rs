//! Tables against the reference router: whatever the tables decide, the router says too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use beeway_dataplane::tables::interpret::{Lane, Reason, Verdict, decide};
use beeway_dataplane::tables::{Tables, compile};
use beeway_model::{
    Action, Backend, Cluster, ClusterId, Decision, Endpoint, HeaderMatch, Match, Mesh, Outcome,
    PathMatch, Protocol, QueryMatch, Request, Rule, Service, ServicePort, SourceMatch, StringMatch,
    Transport, Workload, route,
};

const SERVICE: &str = "10.96.0.1:80";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
const HOSTS: [&str; 9] = [
    "a.example.com",
    "b.example.com",
    "*.example.com",
    "*.b.example.com",
    "example.com",
    "A.Example.com",
    "*",
    "x",
    "*.com",
];
const AUTHORITIES: [&str; 13] = [
    "x:00000000080",
    "a.example.com",
    "A.EXAMPLE.com:8080",
    "b.example.com.",
    "c.b.example.com",
    "example.com",
    ".example.com",
    "xexample.com",
    "x",
    "x:",
    "",
    "[fd00::1]:80",
    "y.com",
];
const PATHS: [&str; 20] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/ab/c",
    "/abc",
    "/A",
    "/A/b",
    "/aB",
    "/b",
    "//",
    "/a//b",
    "/api/v1/users",
    "/api/v1/users/7",
    "/api/v2/users",
    "/api/v1/user",
    "/api",
    "/x1",
    "/zzz",
];
const REGEXES: [&str; 9] = [
    "/a.*",
    "/api/v[12]/users",
    "/api/v[0-9]+/[^/]+",
    "/[a-b]+",
    "/(a|ab)/?(b|c)?",
    ".*",
    "(",
    "/a\\b.*",
    "/x[0-9]",
];
const NAMES: [&str; 4] = ["x-version", "x-user", "cookie", "host"];
const VALUES: [&str; 7] = ["v1", "v2", "v", "v11", "", "V1", "a.example.com"];

/// A small generator of numbers (SplitMix64): the same seed gives the same cases.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    fn path(&mut self) -> Option<PathMatch> {
        let path = self.of(&PATHS).to_owned();
        // the router compiles its patterns for each request, which takes most of the time here
        Some(match self.below(25) {
            0..6 => return None,
            6..12 => PathMatch::Exact(path),
            12..18 => PathMatch::Prefix(path),
            18..24 => PathMatch::Segments(path),
            _ => PathMatch::Regex(self.of(&REGEXES).to_owned()),
        })
    }

    fn string(&mut self, values: &[&str]) -> StringMatch {
        match self.below(6) {
            0 => StringMatch::Present,
            1 | 2 => StringMatch::Prefix(self.of(values).to_owned()),
            _ => StringMatch::Exact(self.of(values).to_owned()),
        }
    }

    fn source(&mut self) -> SourceMatch {
        let namespace = self.one_in(2).then(|| self.of(&["default", "other", "none"]).to_owned());
        let labels =
            if self.one_in(2) { labels(self.of(&["web", "api", "old"])) } else { [].into() };
        SourceMatch { namespace, labels }
    }

    /// What the kernel can evaluate, unless `rich`.
    fn condition(&mut self, rich: bool) -> Match {
        let mut m = Match { path: self.path(), ..Match::default() };
        m.ignore_path_case = self.one_in(6);
        if self.one_in(3) {
            m.hosts = (0..1 + self.below(2)).map(|_| self.of(&HOSTS).to_owned()).collect();
        }
        if self.one_in(4) {
            m.method = Some(match self.below(16) {
                0 => StringMatch::Regex("GET|P.*".to_owned()),
                1..4 => StringMatch::Prefix("P".to_owned()),
                _ => StringMatch::Exact(self.of(&METHODS).to_owned()),
            });
        }
        if self.one_in(12) {
            m.scheme = Some(StringMatch::Exact(self.of(&["http", "https"]).to_owned()));
        }
        while self.one_in(3) {
            let (name, invert) = (self.of(&NAMES).to_owned(), self.one_in(4));
            m.headers.push(HeaderMatch { name, value: self.string(&VALUES), invert });
        }
        if self.one_in(6) {
            m.sources = (0..1 + self.below(2)).map(|_| self.source()).collect();
        }
        if rich && self.one_in(8) {
            let value = self.string(&VALUES);
            m.query.push(QueryMatch { name: "q".to_owned(), value });
        }
        if rich && self.one_in(8) {
            let value = StringMatch::Regex("v[0-9]".to_owned());
            m.headers.push(HeaderMatch { name: "x-version".to_owned(), value, invert: false });
        }
        m
    }

    fn action(&mut self) -> Action {
        if self.one_in(5) {
            let (status, body) = (self.of(&[200, 204, 302, 403, 429, 503]), self.of(&["", "no"]));
            let body = if status == 204 { "" } else { body };
            return Action::Respond { status, body: body.to_owned() };
        }
        let backends = (0..self.below(4)).map(|_| Backend {
            cluster: (!self.one_in(12)).then(|| ClusterId(self.below(5))),
            weight: self.of(&[0, 1, 50, 99, 100]),
        });
        Action::Forward(backends.collect())
    }

    fn rule(&mut self, rich: bool) -> Rule {
        let matches = (0..self.below(4)).map(|_| self.condition(rich)).collect();
        let detour = (rich && self.one_in(8)).then(|| "a retry".to_owned());
        rule(matches, self.action(), detour)
    }

    fn mesh(&mut self, rich: bool) -> Mesh {
        // a list without end would mostly stop at its first rule without conditions
        let rules = (0..self.below(7)).map(|_| self.rule(rich)).collect();
        mesh((!self.one_in(12)).then_some(rules))
    }

    fn headers(&mut self) -> Vec<(&'static str, &'static [u8])> {
        let mut headers: Vec<(&str, &[u8])> = vec![("User-Agent", b"curl/8")];
        for name in ["x-version", "X-User", "Cookie"] {
            if self.one_in(2) {
                headers.push((name, self.of(&VALUES).as_bytes()));
            }
        }
        if self.one_in(40) {
            headers.push(("x-version", b"v2"));
        }
        headers
    }

    fn target(&mut self) -> String {
        let mut path = self.of(&PATHS).to_owned();
        if self.one_in(20) {
            path.push_str(self.of(&["/./a", "%41", "\\b", "..", "/.."]));
        }
        if self.one_in(5) {
            path.push_str(self.of(&["?", "?q=v1", "?q=v2&q=v1", "?a/b", "?q=/../x"]));
        }
        path
    }
}

fn rule(matches: Vec<Match>, action: Action, detour: Option<String>) -> Rule {
    Rule { name: "a rule".to_owned(), matches, action, detour }
}

fn forward(cluster: usize) -> Action {
    Action::Forward(vec![Backend { cluster: Some(ClusterId(cluster)), weight: 1 }])
}

fn labels(app: &str) -> BTreeMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), weight: 1, workload: String::new(), node: None }
}

fn cluster(name: &str, addresses: &[&str]) -> Cluster {
    Cluster { name: name.to_owned(), endpoints: addresses.iter().map(|a| endpoint(a)).collect() }
}

/// One service of four clusters with endpoints, an empty one, and four workloads.
fn mesh(rules: Option<Vec<Rule>>) -> Mesh {
    let clusters = vec![
        cluster("all", &["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]),
        cluster("v1", &["10.1.0.1:8080"]),
        cluster("v2", &["10.1.0.2:8080", "[fd00::2]:8080"]),
        cluster("v3", &["10.1.0.3:8080", "10.1.0.3:8081"]),
        cluster("none", &[]),
    ];
    let workload = |namespace: &str, app: &str, address: &str| Workload {
        namespace: namespace.to_owned(),
        name: format!("{app}-{address}"),
        labels: labels(app),
        addresses: vec![address.parse().unwrap()],
        service_account: "default".to_owned(),
        node: None,
    };
    let workloads = vec![
        workload("default", "web", "10.2.0.1"),
        workload("default", "api", "10.2.0.2"),
        workload("other", "web", "10.2.0.3"),
        workload("other", "old", "fd00::9"),
    ];
    let port = ServicePort {
        name: "http".to_owned(),
        number: 80,
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules,
    };
    let service = Service {
        namespace: "default".to_owned(),
        name: "shop".to_owned(),
        hosts: vec!["shop".to_owned()],
        addresses: vec!["10.96.0.1".parse().unwrap(), "fd00::60".parse().unwrap()],
        ports: vec![port],
    };
    Mesh { services: vec![service], clusters, workloads }
}

/// A request on a connection, to be put to both.
#[derive(Debug)]
struct Case {
    method: &'static str,
    target: String,
    authority: &'static str,
    headers: Vec<(&'static str, &'static [u8])>,
    endpoint: SocketAddr,
    source: IpAddr,
    draw: u32,
}

impl Case {
    fn new(dice: &mut Dice) -> Case {
        let endpoints = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080", "[fd00::2]:8080"];
        let sources = ["10.2.0.1", "10.2.0.2", "10.2.0.3", "fd00::9", "10.2.0.77"];
        Case {
            method: if dice.one_in(3) { dice.of(&METHODS) } else { "GET" },
            target: dice.target(),
            authority: if dice.one_in(50) { "example.com.." } else { dice.of(&AUTHORITIES) },
            headers: dice.headers(),
            endpoint: dice.of(&endpoints).parse().unwrap(),
            source: dice.of(&sources).parse().unwrap(),
            draw: if dice.one_in(9) { dice.of(&[0, u32::MAX]) } else { dice.next() as u32 },
        }
    }

    fn get(target: &str) -> Case {
        Case { method: "GET", target: target.to_owned(), draw: 0, ..Case::new(&mut Dice(0)) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        bytes.extend_from_slice(format!("Host: {}\r\n", self.authority).as_bytes());
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    fn by_tables(&self, tables: &Tables) -> Verdict {
        let service = SERVICE.parse().unwrap();
        decide(tables, service, self.endpoint, self.source, &self.bytes(), self.draw)
    }

    fn by_router(&self, mesh: &Mesh) -> Decision {
        let request = Request {
            method: self.method,
            scheme: "http",
            authority: self.authority,
            target: &self.target,
            headers: &self.headers,
            source: mesh.workload_at(self.source),
        };
        route(&mesh.services[0].ports[0], &request, self.draw)
    }

    /// Whether the kernel can be asked to judge it, whatever the rules are.
    fn is_plain(&self) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        let twice = self.headers.iter().filter(|(name, _)| *name == "x-version").count() > 1;
        let dots = self.authority.ends_with("..");
        !path.contains("/.") && !path.contains(['%', '\\']) && !twice && !dots
    }

    /// Asserts that the tables say what the router says; false when they leave it to userspace.
    fn check(&self, mesh: &Mesh, tables: &Tables) -> bool {
        let (verdict, decision) = (self.by_tables(tables), self.by_router(mesh));
        let decided =
            verdict.lane != Lane::LANE_DETOUR || verdict.reason == Reason::REASON_OTHER_CLUSTER;
        if !decided {
            return false;
        }
        let context = || {
            let rules = &mesh.services[0].ports[0].rules;
            format!("{self:#?}\n{verdict:?}\n{decision:?}\n{rules:#?}")
        };
        assert_eq!(verdict.rule, decision.rule, "{}", context());
        match &decision.outcome {
            Outcome::Forward(id) => {
                let endpoints = &mesh.cluster(*id).endpoints;
                let expected = if endpoints.is_empty() {
                    (Lane::LANE_ANSWERED, Reason::REASON_NO_ENDPOINT)
                } else if endpoints.iter().any(|e| e.address == self.endpoint) {
                    (Lane::LANE_NATIVE, verdict.reason)
                } else {
                    (Lane::LANE_DETOUR, Reason::REASON_OTHER_CLUSTER)
                };
                assert_eq!((verdict.lane, verdict.reason), expected, "{}", context());
                let status = endpoints.is_empty().then_some(503);
                assert_eq!(verdict.status, status, "{}", context());
            }
            Outcome::Respond { status, body } => {
                assert_eq!(verdict.lane, Lane::LANE_ANSWERED, "{}", context());
                assert_eq!(verdict.status, Some(*status), "{}", context());
                let answer = String::from_utf8(verdict.answer.clone().unwrap()).unwrap();
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
            }
        }
        true
    }
}

#[test]
fn the_tables_never_contradict_the_router() {
    let mut dice = Dice(7);
    let (mut cases, mut decided, mut plain) = (0, 0, 0);
    for round in 0..1000 {
        let rich = round % 4 == 0;
        let mesh = dice.mesh(rich);
        let tables = compile(&mesh, round).unwrap();
        assert!(rich || tables.notices().is_empty(), "{:?}", tables.notices());
        for _ in 0..20 {
            let case = Case::new(&mut dice);
            let done = case.check(&mesh, &tables);
            if rich {
                continue;
            }
            cases += 1;
            decided += usize::from(done);
            // the one thing left: an answer to HEAD needs a body to be left out
            if case.is_plain() && case.method != "HEAD" {
                plain += 1;
                assert!(done, "{case:#?} {:#?}", mesh.services[0].ports[0].rules);
            }
        }
    }
    assert!(decided * 10 > cases * 9, "{decided} of {cases} decided");
    assert!(plain * 10 > cases * 8, "{plain} of {cases} are plain");
}

#[test]
fn many_literal_paths_are_told_apart() {
    let mut dice = Dice(11);
    let segments = ["a", "b", "ab", "users", "user", "v1", "v2", "x", "A", "items"];
    let path = |dice: &mut Dice| {
        (0..1 + dice.below(4)).map(|_| format!("/{}", dice.of(&segments))).collect::<String>()
    };
    let rules = (0..400).map(|n| {
        let path = path(&mut dice);
        let path = match n % 5 {
            0 => PathMatch::Prefix(path),
            1 | 2 => PathMatch::Segments(path),
            3 if n < 10 => PathMatch::Regex(format!("{path}/[0-9]+")),
            _ => PathMatch::Exact(path),
        };
        let hosts = if n % 3 == 0 { vec![dice.of(&HOSTS).to_owned()] } else { Vec::new() };
        let fold = n % 7 == 0;
        let m = Match { path: Some(path), hosts, ignore_path_case: fold, ..Match::default() };
        rule(vec![m], forward(n % 4), None)
    });
    // one list in which short prefixes come last, so that they do not hide the rest
    let mut rules: Vec<Rule> = rules.collect();
    rules.sort_by_key(|rule| match &rule.matches[0].path {
        Some(PathMatch::Prefix(path) | PathMatch::Segments(path)) => usize::MAX - path.len(),
        _ => 0,
    });
    let mesh = mesh(Some(rules));
    let tables = compile(&mesh, 1).unwrap();
    assert_eq!(compile(&mesh, 1).as_ref(), Ok(&tables), "equal meshes make equal tables");
    assert_eq!(tables.notices(), []);
    for _ in 0..3000 {
        let mut case = Case::new(&mut dice);
        case.target = path(&mut dice);
        case.target.push_str(dice.of(&["", "", "", "/", "/7", "?q=1", "s"]));
        case.method = "GET";
        assert!(!case.is_plain() || case.check(&mesh, &tables), "{case:?}");
    }
}

/// Rules for one path that differ in the user.
fn rules_by_user(count: usize) -> Vec<Rule> {
    let users = (0..count).map(|n| {
        let methods = ["GET", "POST", "PUT"];
        let m = Match {
            method: Some(StringMatch::Exact(methods[n / 32].to_owned())),
            headers: vec![HeaderMatch {
                name: "x-user".to_owned(),
                value: StringMatch::Exact(format!("u{}", n % 32)),
                invert: false,
            }],
            ..Match::default()
        };
        rule(vec![m], forward(n % 2), None)
    });
    users.collect()
}

#[test]
fn a_group_past_its_limit_goes_on_in_userspace() {
    for (count, users) in [(64, [("POST", "u31")]), (65, [("PUT", "u0")])] {
        let mesh = mesh(Some(rules_by_user(count)));
        let tables = compile(&mesh, 1).unwrap();
        assert_eq!(tables.notices().is_empty(), count == 64, "{:?}", tables.notices());
        for (method, user) in users {
            let mut case = Case::get("/");
            case.headers = vec![("x-user", user.as_bytes())];
            case.method = "GET";
            let mut first = Case { headers: vec![("x-user", b"u0")], ..Case::get("/") };
            assert!(first.check(&mesh, &tables), "the first rule is still decided here");
            case.method = method;
            assert_eq!(case.check(&mesh, &tables), count == 64);
            first.headers = vec![("x-user", b"nobody")];
            assert_eq!(first.check(&mesh, &tables), count == 64);
        }
    }
}

#[test]
fn each_path_has_predicates_of_its_own() {
    let rules = (0..200).map(|n| {
        let m = Match {
            path: Some(PathMatch::Exact(format!("/{n}"))),
            headers: vec![HeaderMatch {
                name: format!("x-{n}"),
                value: StringMatch::Present,
                invert: n % 2 == 0,
            }],
            ..Match::default()
        };
        rule(vec![m], forward(n % 2), None)
    });
    let mesh = mesh(Some(rules.collect()));
    let tables = compile(&mesh, 1).unwrap();
    assert_eq!(tables.notices(), []);
    assert!(Case::get("/63").check(&mesh, &tables));
    assert!(Case::get("/162").check(&mesh, &tables));
}

#[test]
fn a_pattern_past_its_limit_costs_only_what_it_may_match() {
    let path = |path| Match { path: Some(path), ..Match::default() };
    let rules = vec![
        rule(vec![path(PathMatch::Exact("/a".to_owned()))], forward(1), None),
        rule(vec![path(PathMatch::Regex("/.*a.{20}".to_owned()))], forward(2), None),
        rule(vec![path(PathMatch::Regex("/b+".to_owned()))], forward(3), None),
    ];
    let mesh = mesh(Some(rules));
    let tables = compile(&mesh, 1).unwrap();
    let [notice] = tables.notices() else { panic!("{:?}", tables.notices()) };
    assert_eq!(notice.service, "default/shop:80");
    assert!(notice.reason.contains("automaton is too large"), "{}", notice.reason);
    assert!(Case::get("/a").check(&mesh, &tables));
    assert_eq!(Case::get("/bb").by_tables(&tables).reason, Reason::REASON_RULE_ACTION);
}

#[test]
fn a_table_without_room_leaves_room_for_the_others() {
    let mut dice = Dice(3);
    let rules = (0..60_000).map(|n| {
        let name: String = (0..16).map(|_| (b'a' + dice.below(26) as u8) as char).collect();
        let path = Some(PathMatch::Exact(format!("/{name}")));
        rule(vec![Match { path, ..Match::default() }], forward(n % 2), None)
    });
    let mut mesh = mesh(Some(rules.collect()));
    let mut small = mesh.services[0].clone();
    small.name = "small".to_owned();
    small.addresses = vec!["10.96.0.2".parse().unwrap()];
    small.ports[0].rules = Some(vec![rule(Vec::new(), forward(1), None)]);
    mesh.services.push(small);
    let tables = compile(&mesh, 1).unwrap();
    let [notice] = tables.notices() else { panic!("{:?}", tables.notices()) };
    assert_eq!(notice.service, "default/shop:80");
    assert_eq!(Case::get("/").by_tables(&tables).reason, Reason::REASON_TABLE);
    assert!(tables.used_words() < 10_000, "nothing of the large table is left");
    let service = "10.96.0.2:80".parse().unwrap();
    let case = Case { endpoint: "10.1.0.1:8080".parse().unwrap(), ..Case::get("/") };
    let verdict = decide(&tables, service, case.endpoint, case.source, &case.bytes(), 0);
    assert_eq!((verdict.lane, verdict.rule), (Lane::LANE_NATIVE, Some(0)));
}

#[test]
fn what_can_never_match_compiles_to_no_route() {
    let never = Match { hosts: vec!["bad\nhost".to_owned()], ..Match::default() };
    let mesh = mesh(Some(vec![rule(vec![never], forward(1), None)]));
    let tables = compile(&mesh, 1).unwrap();
    for authority in AUTHORITIES {
        let case = Case { authority, ..Case::get("/") };
        assert!(case.check(&mesh, &tables));
        assert_eq!(case.by_tables(&tables).reason, Reason::REASON_NO_ROUTE);
    }
}
