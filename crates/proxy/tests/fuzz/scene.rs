//! A service with rules that ask for everything a rule can ask for, and where its requests may go.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use beeway_model::action::rewrite::rewrite_target;
use beeway_model::policy::{Abort, Fault, Fraction, Mirror, PathRewrite, Retry, RetryOn, Rewrite};
use beeway_model::request::normalize_target;
use beeway_model::*;

use crate::bed::SERVICE;
use crate::endpoint::Kind;
use beeway_model::testing::Dice;

/// Endpoints by cluster; the number of an endpoint is its place among all.
pub const CLUSTERS: [&[Kind]; 8] = [
    &[Kind::Honest],
    &[Kind::Hostile],
    &[Kind::Honest2],
    &[Kind::Hostile2],
    &[],
    &[Kind::Honest, Kind::Hostile, Kind::Absent],
    &[Kind::Garbage2],
    &[Kind::Honest2, Kind::Hostile2, Kind::Absent],
];

/// See the module.
pub struct Scene {
    pub mesh: Mesh,
    /// No endpoint does anything wrong, and no time limit is short.
    pub honest: bool,
}

/// All endpoints in order.
pub fn kinds() -> impl Iterator<Item = Kind> {
    CLUSTERS.iter().flat_map(|kinds| kinds.iter().copied())
}

impl Scene {
    /// `addresses`: those of [`kinds`].
    pub fn new(dice: &mut Dice, addresses: &[SocketAddr]) -> Scene {
        let honest = dice.one_in(4);
        let mut left = addresses;
        let mut clusters = Vec::new();
        for kinds in CLUSTERS {
            let http2 = [Kind::Honest2, Kind::Hostile2, Kind::Garbage2];
            let http2 = kinds.first().is_some_and(|kind| http2.contains(kind));
            let protocol = if http2 { Protocol::Http2 } else { Protocol::Http };
            let (own, others) = left.split_at(kinds.len());
            clusters.push(cluster(clusters.len(), protocol, own));
            left = others;
        }
        let mut author = Author { dice, honest };
        let rules = (0..10).map(|n| author.rule(n)).collect();
        Scene { mesh: mesh(clusters, rules), honest }
    }

    /// Where a request may come out, and how often at most. Its host is empty when it has none.
    pub fn places(&self, request: &Request<'_>) -> (Vec<(String, String)>, usize) {
        let port = &self.mesh.services[0].ports[0];
        let decision = route(port, request, 0);
        let Some(rule) = decision.rule.map(|n| &port.rules.as_deref().unwrap_or_default()[n])
        else {
            return (Vec::new(), 0);
        };
        let Action::Forward(backends) = &rule.action else { return (Vec::new(), 0) };
        let held = decision.matched.and_then(|n| rule.matches[n].path.as_ref());
        let nothing = Policy::default();
        let policy = rule.policy.as_deref().unwrap_or(&nothing);
        let place = |backend: &Backend| {
            let own = backend.policy.as_deref();
            let path =
                own.and_then(|own| own.rewrite.path.as_ref()).or(policy.rewrite.path.as_ref());
            let named = |rewrite: &Rewrite, edits: &HeaderEdits| {
                let set = edits.set.iter().rfind(|(name, _)| name == "host");
                rewrite.authority.clone().or(set.map(|(_, value)| value.clone()))
            };
            let host = own
                .and_then(|own| named(&own.rewrite, &own.request_headers))
                .or_else(|| named(&policy.rewrite, &policy.request_headers));
            let target = match path {
                Some(path) => rewrite_target(path, held, request.target),
                None => normalize_target(request.target).into_owned(),
            };
            (target, host.unwrap_or_else(|| request.authority.to_owned()))
        };
        let tries = 1 + policy.retry.as_ref().unwrap_or(&Retry::default()).attempts as usize;
        (backends.iter().map(place).collect(), tries + policy.mirrors.len())
    }
}

/// The one service with its clusters and rules.
fn mesh(clusters: Vec<Cluster>, rules: Vec<Rule>) -> Mesh {
    let service: SocketAddr = SERVICE.parse().expect("an address");
    let port = ServicePort {
        stream_rules: Vec::new(),
        name: "http".into(),
        number: service.port(),
        transport: Transport::Tcp,
        protocol: Protocol::Http,
        cluster: ClusterId(0),
        rules: Some(rules),
    };
    let service = Service {
        namespace: "default".into(),
        name: "shop".into(),
        hosts: vec!["shop".into()],
        addresses: vec![service.ip()],
        ports: vec![port],
    };
    let workload = Workload {
        namespace: "default".into(),
        name: "buyer".into(),
        labels: Default::default(),
        addresses: vec![IpAddr::from([10, 9, 9, 9])],
        service_account: "default".into(),
        node: None,
        uid: None,
        cgroup: None,
    };
    Mesh { services: vec![service], clusters, workloads: vec![workload.into()], ..Mesh::default() }
}

fn cluster(index: usize, protocol: Protocol, addresses: &[SocketAddr]) -> Cluster {
    let endpoint = |address: &SocketAddr| Endpoint {
        address: *address,
        weight: 1,
        workload: String::new(),
        node: None,
    };
    let endpoints = addresses.iter().map(endpoint).collect();
    Cluster { idle: Default::default(), protocol, name: format!("cluster {index}"), endpoints }
}

fn rule_for(path: Option<PathMatch>, action: Action) -> Rule {
    let matches = vec![Match { path, ..Match::default() }];
    Rule { name: String::new(), matches, action, policy: None, detour: None }
}

/// A service with one endpoint for `/of/`; everything else is answered by the proxy.
pub fn plain(endpoint: SocketAddr) -> Mesh {
    let backend = Backend { cluster: Some(ClusterId(0)), weight: 1, policy: None };
    let path = Some(PathMatch::Prefix("/of/".into()));
    let other = Action::Respond { status: 200, body: "nobody is here".into() };
    let rules = vec![rule_for(path, Action::Forward(vec![backend])), rule_for(None, other)];
    mesh(vec![cluster(0, Protocol::Http, &[endpoint])], rules)
}

struct Author<'a> {
    dice: &'a mut Dice,
    honest: bool,
}

impl Author<'_> {
    fn millis(&mut self, low: usize, high: usize) -> Duration {
        Duration::from_millis(self.dice.between(low, high) as u64)
    }

    /// A thing, one time in so many.
    fn some<T>(&mut self, n: usize, thing: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.dice.one_in(n).then(|| thing(self))
    }

    /// A `plain` one is of HTTP/1.1.
    fn cluster(&mut self, plain: bool) -> Option<ClusterId> {
        let known: &[usize] = match (self.honest, plain) {
            (true, true) => &[0],
            (true, false) => &[0, 0, 2],
            (false, true) => &[0, 0, 0, 1, 5],
            (false, false) => &[0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7],
        };
        let cluster = ClusterId(self.dice.of(known));
        (self.honest || !self.dice.one_in(30)).then_some(cluster)
    }

    fn rule(&mut self, n: usize) -> Rule {
        let path = match self.dice.below(4) {
            0 => PathMatch::Segments(format!("/r{n}")),
            1 => PathMatch::Regex(format!("/r{n}/.*")),
            _ => PathMatch::Prefix(format!("/r{n}/")),
        };
        // Half of the rules are such as need nothing special: plain requests are for them.
        let plain = n.is_multiple_of(2);
        let action = match self.dice.below(10) {
            0 => Action::Respond {
                status: self.dice.of(&[200, 204, 304, 404, 500]),
                body: self.dice.of(&["", "short and stout"]).into(),
            },
            _ => {
                let backends = 0..self.dice.between(1, 3);
                Action::Forward(backends.map(|_| self.backend(plain)).collect())
            }
        };
        let policy = if plain { self.plain_policy() } else { self.policy() };
        Rule { policy: Some(policy.into()), ..rule_for(Some(path), action) }
    }

    fn backend(&mut self, plain: bool) -> Backend {
        let policy = self.some(3, |this| {
            Box::new(BackendPolicy {
                request_headers: this.edits(plain),
                response_headers: this.edits(plain),
                rewrite: this.rewrite(),
            })
        });
        let policy = policy.filter(|_| !plain || self.dice.one_in(3));
        Backend { cluster: self.cluster(plain), weight: self.dice.between(1, 3) as u32, policy }
    }

    fn path(&mut self) -> PathRewrite {
        match self.dice.below(4) {
            0 => PathRewrite::Full("/full?new".into()),
            1 => PathRewrite::Prefix(self.dice.of(&["/", "", "/p/", "/q"]).into()),
            2 => PathRewrite::Regex { pattern: "/r(.)".into(), substitution: r"/x\1\1".into() },
            _ => PathRewrite::Regex { pattern: ".*".into(), substitution: String::new() },
        }
    }

    fn rewrite(&mut self) -> Rewrite {
        Rewrite { path: self.some(3, Self::path), authority: self.some(4, |_| "new:81".into()) }
    }

    /// Among them some that would change where messages end.
    fn edits(&mut self, plain: bool) -> HeaderEdits {
        let names = "x-rule,content-length,transfer-encoding,connection,upgrade,te,keep-alive,\
            server,x-extra-0,not a name";
        let names = if plain { "x-rule,server,x-extra-0,x-latin" } else { names };
        let names: Vec<&str> = names.split(',').collect();
        let values = ["1", "close", "chunked", "trailers", "", "a\r\nb: c"];
        let values = if plain { &values[..4] } else { &values };
        let mut pairs = || -> Vec<(String, String)> {
            let some = 0..self.dice.below(3);
            some.map(|_| (self.dice.of(&names).into(), self.dice.of(values).into())).collect()
        };
        let (mut set, add) = (pairs(), pairs());
        set.extend(self.some(6, |_| ("host".into(), "set-by-rule".into())));
        let remove = (0..self.dice.below(3)).map(|_| self.dice.of(&names).into()).collect();
        HeaderEdits { remove, set, add }
    }

    fn retry(&mut self) -> Retry {
        let on = [
            RetryOn::ServerError,
            RetryOn::GatewayError,
            RetryOn::Reset,
            RetryOn::Unavailable,
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Retriable4xx,
        ];
        Retry {
            attempts: self.dice.below(4) as u32,
            per_try_timeout: self.some(2, |this| this.millis(20, 100)).filter(|_| !self.honest),
            on: (0..3).map(|_| self.dice.of(&on)).collect(),
            statuses: vec![self.dice.of(&[404, 500, 503])],
            backoff: self.millis(1, 3),
        }
    }

    fn fault(&mut self) -> Fault {
        let share = Fraction { numerator: self.dice.between(1, 4) as u32, denominator: 4 };
        let abort = [Abort::Http(503), Abort::Http(404), Abort::Grpc(14)];
        Fault {
            delay: self.some(6, |this| (this.millis(1, 10), share)),
            abort: self.some(6, |this| (this.dice.of(&abort), share)),
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        Some(if self.honest { Duration::from_secs(20) } else { self.millis(50, 300) })
    }

    fn plain_policy(&mut self) -> Policy {
        Policy {
            request_headers: self.some(3, |this| this.edits(true)).unwrap_or_default(),
            response_headers: self.some(3, |this| this.edits(true)).unwrap_or_default(),
            rewrite: self.some(3, Self::rewrite).unwrap_or_default(),
            timeout: Some(Duration::ZERO),
            ..Policy::default()
        }
    }

    fn policy(&mut self) -> Policy {
        let mirrors = (0..self.dice.below(3)).filter_map(|_| self.cluster(false));
        let mirrors = mirrors.map(|id| Mirror { cluster: Some(id), share: Fraction::ALL });
        Policy {
            mirrors: mirrors.collect(),
            request_headers: self.edits(false),
            response_headers: self.edits(false),
            rewrite: self.rewrite(),
            timeout: self.timeout(),
            retry: self.some(2, Self::retry),
            fault: if self.honest { Fault::default() } else { self.fault() },
            cors: None,
        }
    }
}
