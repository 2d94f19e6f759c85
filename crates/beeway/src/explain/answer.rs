//! The answer of `beeway explain`: pure functions of a mesh, its tables and a question.
//!
//! connect() and the router draw independently: for each endpoint that connect() may have chosen
//! and each backend that the router may draw, the tables are asked once.

use std::net::SocketAddr;

use beeway_dataplane::counts::{LANES, REASONS};
use beeway_dataplane::tables::Tables;
use beeway_dataplane::tables::head;
use beeway_dataplane::tables::interpret::{self, Verdict};
use beeway_model::{
    Action, ClusterId, Decision, Mesh, Outcome, Protocol, Transport, Workload, is_made_up, route,
};
use serde::Serialize;

use super::access::{Policies, judge};
use super::asked::Asked;

/// All there is to say about a request.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Namespace and name of the workload that asks.
    pub from: String,
    /// Its address.
    pub source: String,
    /// What a process of its node is recognised by as its own; the first that there is decides.
    pub known_by: Vec<String>,
    /// Namespace and name of the service.
    pub service: String,
    /// What the client connects to.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The endpoints that connect() chooses from.
    pub connect: Vec<Target>,
    /// connect() leads to the userspace proxy instead, which takes the connection as a whole.
    pub to_proxy: bool,
    /// The rule that holds.
    pub rule: Option<RuleName>,
    /// How many rules the service port has; none attached: everything goes to its endpoints.
    pub rules: Option<usize>,
    /// What may come of it, with shares that sum up to 1.
    pub outcomes: Vec<Share>,
    /// What policies say of it, by endpoint; empty: there are none.
    pub policies: Vec<Policies>,
    /// What of this service the kernel leaves to userspace, and why.
    pub notices: Vec<String>,
}

/// An endpoint and its share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The workload behind it.
    pub workload: String,
    /// Part of the connections, from 0 to 1.
    pub share: f64,
    /// It is on the caller's node, so that bytes may skip TCP.
    pub same_node: bool,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleName {
    /// Its place, from 0.
    pub index: usize,
    /// Where it came from.
    pub name: String,
    /// Why only userspace can carry it out.
    pub detour: Option<String>,
}

/// One of the things that may come of a request.
#[derive(Debug, Serialize)]
pub struct Share {
    /// Part of the requests, from 0 to 1.
    pub share: f64,
    /// The cluster that it goes to.
    pub cluster: Option<String>,
    /// The cluster's endpoints.
    pub endpoints: Vec<Target>,
    /// Or the status of the answer.
    pub status: Option<u16>,
    /// And its body.
    pub body: Option<String>,
    /// By which lanes; none when there is nothing to connect to.
    pub lanes: Vec<Lane>,
}

/// How a request gets there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lane {
    /// native, detour or answered.
    pub lane: &'static str,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// The same in words.
    pub why: String,
    /// The kernel cannot tell which rule holds: the reference router does.
    pub router_asked: bool,
    /// Part of the connections for which it is so, from 0 to 1.
    pub share: f64,
    /// Both ends are on one node: native bytes may take the shortcut past TCP.
    pub same_node: bool,
    /// Whether the reference router says the same as the kernel. It must.
    pub agrees: bool,
}

impl Lane {
    fn is_like(&self, other: &Lane) -> bool {
        (self.lane, self.reason, self.same_node, self.agrees)
            == (other.lane, other.reason, other.same_node, other.agrees)
    }
}

/// Answers the question.
pub fn answer(mesh: &Mesh, tables: &Tables, asked: &Asked<'_>) -> Explanation {
    let connect = connect(mesh, tables, asked);
    let to_proxy = interpret::is_for_proxy(tables, asked.address);
    let draws = draws(asked);
    let (_, first) = draws.first().copied().unwrap_or_default();
    let decided = route(asked.port, &asked.request(), first);
    let rules = asked.port.rules.as_deref();
    let http = match asked.port.protocol {
        Protocol::Http => true,
        Protocol::Http2 => to_proxy,
        Protocol::Tls | Protocol::Kafka | Protocol::Opaque => false,
    };
    let rule = decided.rule.filter(|_| http).map(|index| {
        let rule = &rules.unwrap_or_default()[index];
        RuleName { index, name: rule.name.clone(), detour: rule.detour.clone() }
    });
    let outcomes = match http {
        true => {
            draws.iter().map(|(s, draw)| share(mesh, tables, asked, &connect, *s, *draw)).collect()
        }
        false => vec![opaque(mesh, asked, &connect, to_proxy)],
    };
    let policies = policies(mesh, asked, &outcomes);
    let name = format!("{}/{}:{}", asked.service.namespace, asked.service.name, asked.port.number);
    let notices = tables.notices().iter().filter(|notice| notice.service == name);
    Explanation {
        from: format!("{}/{}", asked.source.namespace, asked.source.name),
        source: asked.source_ip.to_string(),
        known_by: known_by(asked.source),
        service: format!("{}/{}", asked.service.namespace, asked.service.name),
        address: asked.address,
        protocol: asked.port.protocol,
        connect,
        to_proxy,
        rule,
        rules: rules.map(<[_]>::len),
        outcomes,
        policies,
        notices: notices.map(|notice| notice.reason.clone()).collect(),
    }
}

/// What policies and limits say of each endpoint that the request may be for.
fn policies(mesh: &Mesh, asked: &Asked<'_>, outcomes: &[Share]) -> Vec<Policies> {
    if mesh.access.is_empty() && mesh.limits.is_empty() {
        return Vec::new();
    }
    let mut policies: Vec<Policies> = Vec::new();
    for target in outcomes.iter().flat_map(|share| &share.endpoints) {
        if policies.iter().all(|known| known.endpoint != target.address) {
            policies.push(Policies::of(mesh, asked, target.address, &target.workload));
        }
    }
    policies
}

/// The endpoints that connect() chooses from. A larger draw never means an earlier endpoint, so
/// halving finds the draw at which each one begins.
fn connect(mesh: &Mesh, tables: &Tables, asked: &Asked<'_>) -> Vec<Target> {
    let pick = |draw| interpret::pick_endpoint(tables, asked.address, Transport::Tcp, draw);
    let Some(mut current) = pick(0) else { return Vec::new() };
    let (mut found, mut begin) = (Vec::new(), 0u64);
    loop {
        let end = end_of_run(begin, |draw| pick(draw) == Some(current));
        let share = (end - begin) as f64 / WHOLE as f64;
        found.push(target(mesh, asked, current, share));
        match u32::try_from(end).ok().and_then(pick) {
            Some(next) => (current, begin) = (next, end),
            None => return found,
        }
    }
}

/// One more than the largest draw.
const WHOLE: u64 = 1 << 32;

/// The first draw behind `begin` for which `same` does not hold.
fn end_of_run(begin: u64, same: impl Fn(u32) -> bool) -> u64 {
    let (mut low, mut high) = (begin + 1, WHOLE);
    while low < high {
        let middle = (low + high) / 2;
        if same(middle as u32) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn target(mesh: &Mesh, asked: &Asked<'_>, address: SocketAddr, share: f64) -> Target {
    let endpoint = mesh
        .clusters
        .iter()
        .flat_map(|cluster| cluster.endpoints.iter())
        .find(|endpoint| endpoint.address == address);
    let node = endpoint.and_then(|endpoint| endpoint.node.as_ref());
    Target {
        address,
        workload: endpoint.map(|endpoint| endpoint.workload.clone()).unwrap_or_default(),
        share,
        same_node: node.is_some() && node == asked.source.node.as_ref(),
    }
}

/// One draw for each backend of the rule that holds, with the backend's share.
fn draws(asked: &Asked<'_>) -> Vec<(f64, u32)> {
    let decided = route(asked.port, &asked.request(), 0);
    let rules = asked.port.rules.as_deref().unwrap_or_default();
    let action = decided.rule.map(|index| &rules[index].action);
    let Some(Action::Forward(backends)) = action else { return vec![(1.0, 0)] };
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut before = 0u64;
    let mut draws = Vec::new();
    for backend in backends.iter().filter(|backend| backend.weight > 0) {
        // the least draw that the model's `scale` maps onto `before`
        let draw = (before << 32).div_ceil(total);
        draws.push((f64::from(backend.weight) / total as f64, draw as u32));
        before += u64::from(backend.weight);
    }
    // no weight at all: every draw says the same
    if draws.is_empty() { vec![(1.0, 0)] } else { draws }
}

fn share(
    mesh: &Mesh,
    tables: &Tables,
    asked: &Asked<'_>,
    connect: &[Target],
    share: f64,
    draw: u32,
) -> Share {
    let decided = route(asked.port, &asked.request(), draw);
    let bytes = asked.bytes();
    let mut lanes: Vec<Lane> = Vec::new();
    if interpret::is_for_proxy(tables, asked.address) {
        lanes.push(whole("detour"));
    }
    for target in connect {
        let verdict =
            interpret::decide(tables, asked.address, target.address, asked.source_ip, &bytes, draw);
        let lane = lane(mesh, asked, &decided, target, &verdict);
        match lanes.iter_mut().find(|known| known.is_like(&lane)) {
            Some(known) => known.share += lane.share,
            None => lanes.push(lane),
        }
    }
    match decided.outcome {
        Outcome::Forward(id) => {
            let denied = !lanes.is_empty() && lanes.iter().all(|lane| lane.reason == "denied");
            let share = forward(mesh, asked, id, share, lanes);
            Share { status: if denied { Some(403) } else { share.status }, ..share }
        }
        Outcome::Respond { status, body } => Share {
            share,
            cluster: None,
            endpoints: Vec::new(),
            status: Some(status),
            body: Some(body).filter(|body| !body.is_empty()),
            lanes,
        },
        Outcome::Redirect => Share {
            share,
            cluster: None,
            endpoints: Vec::new(),
            status: redirect_status(asked, decided.rule),
            body: None,
            lanes,
        },
    }
}

/// The status of the redirect that a rule answers with.
fn redirect_status(asked: &Asked<'_>, rule: Option<usize>) -> Option<u16> {
    match &asked.port.rules.as_ref()?.get(rule?)?.action {
        Action::Redirect(redirect) => Some(redirect.status),
        _ => None,
    }
}

fn forward(mesh: &Mesh, asked: &Asked<'_>, id: ClusterId, share: f64, lanes: Vec<Lane>) -> Share {
    let cluster = mesh.cluster(id);
    let endpoints = cluster.endpoints_for(asked.address.ip());
    let total: u64 = endpoints.clone().map(|e| u64::from(e.weight)).sum();
    let part = |weight: u32| f64::from(weight) / total as f64;
    Share {
        share,
        cluster: Some(cluster.name.clone()),
        endpoints: endpoints.map(|e| target(mesh, asked, e.address, part(e.weight))).collect(),
        status: cluster.endpoints.is_empty().then_some(503),
        body: None,
        lanes,
    }
}

/// What is not HTTP/1.1 goes where its connection goes.
fn opaque(mesh: &Mesh, asked: &Asked<'_>, connect: &[Target], to_proxy: bool) -> Share {
    let lanes = match (to_proxy, connect.is_empty()) {
        (true, _) if asked.port.protocol == Protocol::Kafka => {
            let why = "policies on Kafka judge each request in the proxy".to_owned();
            vec![Lane { why, ..whole("detour") }]
        }
        (true, _) => vec![whole("detour")],
        (false, true) => Vec::new(),
        (false, false) => vec![whole("native")],
    };
    let share = forward(mesh, asked, asked.port.cluster, 1.0, lanes);
    Share { endpoints: connect.to_vec(), ..share }
}

/// The lane of a connection whose bytes the kernel does not look at.
fn whole(lane: &'static str) -> Lane {
    Lane {
        lane,
        reason: "opaque",
        why: why("opaque").to_owned(),
        router_asked: false,
        share: 1.0,
        // the kernel enrols sockets of HTTP services only
        same_node: false,
        agrees: true,
    }
}

fn lane(
    mesh: &Mesh,
    asked: &Asked<'_>,
    decided: &Decision,
    target: &Target,
    verdict: &Verdict,
) -> Lane {
    let lane = LANES[verdict.lane.0 as usize];
    let reason = REASONS[verdict.reason.0 as usize];
    let router_asked = lane == "detour" && !knows_rule(asked, decided, reason, verdict);
    let access = judge(mesh, asked, target.address);
    let outcome = match (lane, &decided.outcome) {
        ("detour", _) => true,
        ("answered", Outcome::Forward(_)) if reason == "denied" => !access.allowed,
        ("native", Outcome::Forward(id)) => {
            access.allowed
                && access.ask.is_empty()
                && mesh.cluster(*id).endpoints.iter().any(|e| e.address == target.address)
        }
        ("answered", Outcome::Forward(id)) => {
            mesh.cluster(*id).endpoints.is_empty() && verdict.status == Some(503)
        }
        ("answered", Outcome::Respond { status, .. }) => verdict.status == Some(*status),
        _ => false,
    };
    let agrees = router_asked || (outcome && verdict.rule == decided.rule);
    let why = match reason {
        "path" => format!("{}: it becomes {}", why(reason), asked.request().path()),
        "rule_action" if router_asked => UNEVALUATED.to_owned(),
        "unusual" if !router_asked => "the kernel answers no HEAD".to_owned(),
        "unusual" if head::parse(&asked.bytes()).is_ok() => UNSURE.to_owned(),
        _ => why(reason).to_owned(),
    };
    let (share, same_node) = (target.share, target.same_node);
    Lane { lane, reason, why, router_asked, share, same_node, agrees }
}

const UNEVALUATED: &str = "a rule that comes first may hold, and passes a limit of the tables";
const UNSURE: &str = "a condition looks at a field that is there twice, at bytes outside of ASCII \
                      or at a very long query";

/// Whether the kernel knows which rule holds, although the request takes the detour.
fn knows_rule(asked: &Asked<'_>, decided: &Decision, reason: &str, verdict: &Verdict) -> bool {
    match reason {
        "other_cluster" | "policy" => true,
        // of which the kernel answers none
        "unusual" => verdict.rule.is_some() || asked.method == "HEAD" && decided.rule.is_none(),
        "rule_action" => {
            let rules = asked.port.rules.as_deref().unwrap_or_default();
            // else the candidate stands for all that its limit leaves to userspace
            let rule = decided.rule.and_then(|index| rules.get(index));
            verdict.rule == decided.rule && rule.is_some_and(|rule| rule.detour.is_some())
        }
        _ => false,
    }
}

/// A reason in words.
pub fn why(reason: &str) -> &'static str {
    match reason {
        "none" => "no rules are attached to this port",
        "route" => "a rule decides, and the kernel can carry it out",
        "other_cluster" => "the connection leads to an endpoint of another cluster",
        "rule_action" => "the rule needs what only userspace can do",
        "head_limit" => "the request head is larger than the kernel judges",
        "syntax" => "the request is not plainly well-formed HTTP/1.1",
        "unusual" => "the request is of a kind that the kernel does not judge",
        "path" => "the path needs normalising",
        "table" => "the service's rules pass a limit of the tables",
        "no_route" => "no rule matches",
        "no_endpoint" => "the cluster has no ready endpoint",
        "opaque" => "the port is not HTTP/1.1: bytes are not looked at",
        "no_service" => "the service is not in the tables",
        "denied" => "a policy denies it, and the kernel answers 403",
        "policy" => "what policies say of it is for userspace to find out",
        "rate_limited" => "no token is left for it, and the kernel answers 429",
        "backend_missing" => "the rule names a backend that does not exist",
        _ => "",
    }
}

/// As the agent recognises processes (`agent/homes`).
fn known_by(workload: &Workload) -> Vec<String> {
    let uid = workload.uid.as_ref().map(|uid| format!("a cgroup named by the UID {uid}"));
    let cgroup = workload.cgroup.as_ref().map(|path| format!("the cgroup {path}"));
    let own = workload.addresses.iter().find(|address| !is_made_up(**address));
    let namespace = own.map(|_| "a network namespace with its address".to_owned());
    uid.into_iter().chain(cgroup).chain(namespace).collect()
}
