//! Who may call whom, where userspace decides.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, IdentityMatch, LabelSelector,
    Layer, PathTest, PortRange, Scope, Text,
};
use beeway_model::policy::{Fraction, HeaderEdits, Mirror, PathRewrite, Retry, Rewrite};
use beeway_model::{ClusterId, Mesh, Policy, Protocol, Subnet, Workload};
use beeway_proxy::Options;

use crate::both::{GET, same_in};
use crate::kit::{Kit, forward, mesh, rule};
use crate::upstream;

const DENIED: &str = "RBAC: access denied";

/// A workload that serves at an address.
pub fn serving(name: &str, address: IpAddr) -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        addresses: vec![address],
        service_account: name.to_owned(),
        node: None,
        uid: None,
        cgroup: None,
    }
}

/// A policy for calls to workloads of an app.
pub fn on(app: &str, effect: Effect, rules: Vec<AccessRule>) -> AccessPolicy {
    let labels = [("app".to_owned(), app.to_owned())].into();
    AccessPolicy {
        name: format!("AuthorizationPolicy shop/{app}"),
        layer: Layer::Authorization,
        direction: Direction::Ingress,
        scope: Scope::Workloads(Some("shop".to_owned()), LabelSelector::equal(&labels)),
        effect,
        dry_run: false,
        rules,
    }
}

pub fn when(field: Field) -> Vec<AccessRule> {
    let conditions = vec![Clause { field, negated: false }];
    vec![AccessRule { conditions, ..AccessRule::default() }]
}

pub fn any() -> Vec<AccessRule> {
    vec![AccessRule::default()]
}

fn text(text: &str) -> Vec<Text> {
    vec![Text::parse(text)]
}

fn path(path: &str) -> Field {
    Field::Path(vec![PathTest::parse(path)])
}

fn subnet(address: &str, bits: u8) -> Vec<Subnet> {
    vec![Subnet { address: address.parse().unwrap(), bits }]
}

/// The service at one endpoint, of the workload `web`, with these policies.
fn guarded(endpoint: SocketAddr, policy: &Option<Policy>, access: &[AccessPolicy]) -> Mesh {
    let mut mesh = crate::both::mesh_of(endpoint, policy);
    mesh.workloads.push(serving("web", endpoint.ip()).into());
    mesh.access = access.iter().cloned().map(Arc::new).collect();
    mesh
}

#[test]
fn each_field_decides() {
    let request = "POST /shop/a/../42?q HTTP/1.1\r\nHost: Shop:80\r\nX-Team: red\r\n\
                   X-Forwarded-For: 203.0.113.9\r\nContent-Length: 2\r\nX-Request-Id: 1\r\n\r\nhi";
    let namespace = |name: &str| Field::Caller(vec![IdentityMatch::Namespace(Text::parse(name))]);
    let principal = |name: &str| Field::Caller(vec![IdentityMatch::Principal(Text::parse(name))]);
    let header = |name: &str, value: &str| Field::Header(name.to_owned(), text(value));
    for (field, holds) in [
        (Field::Method(text("POST")), true),
        (Field::Method(text("GET")), false),
        (path("/shop/42"), true),
        (path("/shop/a/*"), false),
        (path("/shop/{*}"), true),
        (Field::Host(text("shop:80")), true),
        (Field::Host(text("shop")), false),
        (header("x-team", "r*"), true),
        (header("x-team", "blue"), false),
        (header("x-none", "*"), false),
        (namespace("default"), true),
        (namespace("shop"), false),
        (principal("cluster.local/ns/default/sa/default"), true),
        (principal("*/sa/web"), false),
        (Field::CallerAddress(subnet("10.9.9.0", 24)), true),
        (Field::CallerAddress(subnet("127.0.0.0", 8)), false),
        (Field::RemoteAddress(subnet("203.0.113.0", 24)), true),
        (Field::RemoteAddress(subnet("10.9.9.0", 24)), false),
        (Field::CalledAddress(subnet("127.0.0.1", 32)), true),
        (Field::CalledAddress(subnet("10.0.0.1", 32)), false),
        (Field::Port(vec![PortRange::one(80)]), false),
        (Field::Sni(text("*")), false),
    ] {
        for effect in [Effect::Allow, Effect::Deny] {
            let allowed = holds == (effect == Effect::Allow);
            let around = |endpoint| {
                guarded(endpoint, &None, &[on("web", effect.clone(), when(field.clone()))])
            };
            let seen = same_in(&around, &[request], &[], u64::from(allowed));
            let (status, body) = if allowed { ("200 OK", "ok") } else { ("403 Forbidden", DENIED) };
            let answer = &seen.by_client[0];
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{field:?} {answer}");
            assert!(answer.ends_with(&format!("|| {body}")), "{field:?} {answer}");
        }
    }
}

#[test]
fn who_is_denied_is_told_so_and_it_is_recorded() {
    let policies = [on("web", Effect::Deny, when(path("/a")))];
    let address = upstream::http("one");
    let (mut kit, records) = Kit::recording(guarded(address, &None, &policies));
    let answer = kit.get(1, "/a");
    assert_eq!((answer.status, answer.text()), (403, DENIED));
    assert_eq!(answer.field("content-type"), Some("text/plain"));
    assert_eq!(answer.field("content-length"), Some("19"));
    let record = records.recv().unwrap();
    assert_eq!((record.status, record.flags.to_string().as_str()), (403, "-"));
    assert_eq!((record.endpoint, record.attempts), (Some(address), 1));
    assert_eq!(record.policy, "AuthorizationPolicy shop/web");
    let wanted = "rbac_access_denied_matched_policy[ns[shop]-policy[web]-rule[0]]";
    assert_eq!(record.detail, wanted);
    // the connection goes on, and what is allowed names its policy too
    let allow = on("web", Effect::Allow, when(path("/b")));
    let both = guarded(address, &None, &[policies[0].clone(), allow]);
    kit.mesh.send_replace(Arc::new(both));
    assert_eq!(kit.get(1, "/b").status, 200);
    assert_eq!(records.recv().unwrap().policy, "AuthorizationPolicy shop/web");
    assert_eq!(kit.get(1, "/c").status, 403);
    assert_eq!(records.recv().unwrap().detail, "rbac_access_denied_matched_policy[none]");
    let stats = kit.proxy.stats();
    assert_eq!((stats.denied, stats.answered, stats.upstream_errors), (2, 2, 0));
}

#[test]
fn what_only_reports_is_counted_and_named() {
    let dry = AccessPolicy { dry_run: true, ..on("web", Effect::Deny, any()) };
    let audit = on("web", Effect::Audit, when(Field::Method(text("GET"))));
    let around = |endpoint| guarded(endpoint, &None, &[dry.clone(), audit.clone()]);
    let seen = same_in(&around, &[GET], &[], 1);
    assert!(seen.by_client[0].starts_with("HTTP/1.1 200 "), "{seen:?}");
    let names = "audit [\"AuthorizationPolicy shop/web\"] dry [\"AuthorizationPolicy shop/web\"]";
    assert!(seen.recorded[0].ends_with(names), "{seen:?}");
    assert!(seen.counted.ends_with("policies (0, 1, 1)"), "{seen:?}");
}

#[test]
fn network_policies_and_services_count_too() {
    let address = upstream::http("one");
    let within = |name: &str| vec![IdentityMatch::Namespace(Text::parse(name))];
    let network = |direction, scope: &str, field: Field| AccessPolicy {
        layer: Layer::Network,
        direction,
        scope: Scope::Workloads(Some(scope.to_owned()), LabelSelector::default()),
        ..on("web", Effect::Allow, when(field))
    };
    let service = |name: &str| AccessPolicy {
        scope: Scope::Services(vec![("default".to_owned(), name.to_owned())]),
        ..on("web", Effect::Deny, any())
    };
    use Direction::{Egress, Ingress};
    // `buyer` of `default` calls `web` of `shop`
    for (policy, status) in [
        (network(Ingress, "shop", Field::Caller(within("default"))), 200),
        (network(Ingress, "shop", Field::Caller(within("shop"))), 403),
        (network(Ingress, "default", Field::Caller(within("shop"))), 200),
        (network(Egress, "default", Field::Called(within("shop"))), 200),
        (network(Egress, "default", Field::Called(within("default"))), 403),
        (network(Egress, "shop", Field::Called(within("default"))), 200),
        (network(Egress, "default", Field::Port(vec![PortRange::one(1)])), 403),
        (service("shop"), 403),
        (service("other"), 200),
    ] {
        let mut kit = Kit::new(guarded(address, &None, std::slice::from_ref(&policy)));
        assert_eq!(kit.get(1, "/").status, status, "{policy:?}");
    }
}

/// Two endpoints of the first cluster, of `web` and `api`.
fn two(policy: Policy, access: Vec<AccessPolicy>) -> Mesh {
    let [web, api] = [upstream::http_at("web", "127.0.0.2"), upstream::http_at("api", "127.0.0.3")];
    let mut rule = rule("/", forward(&[(0, 1)]));
    rule.policy = Some(policy.into());
    let mut mesh = mesh(&[web, api], Some(vec![rule]));
    let [first, mut other] = [0, 1].map(|id: usize| mesh.clusters[id].endpoints[0].clone());
    other.workload = "api".to_owned();
    mesh.clusters[0].endpoints = [first, other].into();
    mesh.workloads.push(serving("web", web.ip()).into());
    mesh.workloads.push(serving("api", api.ip()).into());
    mesh.access = access.into_iter().map(Arc::new).collect();
    mesh
}

#[test]
fn each_endpoint_has_its_own_policies() {
    let denied = || vec![on("web", Effect::Deny, any())];
    for plain in [true, false] {
        let mut kit = Kit::with(Options { plain }, two(Policy::default(), denied()), None);
        let (mut answered, mut refused) = (0, 0);
        for n in 0..40 {
            let answer = kit.get(n, "/");
            match answer.status {
                200 => answered += 1,
                403 => refused += 1,
                status => panic!("{status}"),
            }
            assert!(answer.text().starts_with("api ") || answer.text() == DENIED);
        }
        // each has a chance of 2^-40 not to be chosen
        assert!(answered > 0 && refused > 0, "{answered} {refused}");
        assert_eq!(kit.proxy.stats().denied, refused);
    }
}

#[test]
fn a_rule_that_names_403_tries_another_endpoint() {
    let retry =
        Retry { statuses: vec![403], backoff: Duration::from_millis(1), ..Retry::default() };
    let policy = Policy { retry: Some(retry), ..Policy::default() };
    let mut kit = Kit::new(two(policy, vec![on("web", Effect::Deny, any())]));
    for n in 0..20 {
        kit.request(n, "POST /echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello");
        let answer = kit.answer(n);
        assert_eq!((answer.status, answer.text()), (200, "hello"));
    }
    let stats = kit.proxy.stats();
    assert!(stats.denied > 0 && stats.retries == stats.denied, "{stats:?}");
}

#[test]
fn a_forbidden_mirror_is_not_sent() {
    let (sent, copies) = channel();
    let shadow = upstream::raw(move |mut socket| {
        sent.send(upstream::head(&mut socket)).unwrap();
    });
    let one = upstream::http_at("one", "127.0.0.2");
    let mirror = Mirror { cluster: Some(ClusterId(1)), share: Fraction::ALL };
    let mut rule = rule("/", forward(&[(0, 1)]));
    rule.policy = Some(Policy { mirrors: vec![mirror], ..Policy::default() }.into());
    let mut mesh = mesh(&[one, shadow], Some(vec![rule]));
    mesh.workloads.push(serving("shadow", shadow.ip()).into());
    mesh.access = vec![on("shadow", Effect::Deny, when(path("/secret"))).into()];
    let mut kit = Kit::new(mesh);
    assert_eq!(kit.get(1, "/secret").status, 200);
    kit.eventually(|stats| stats.denied == 1);
    assert_eq!(kit.get(1, "/open").status, 200);
    let head = copies.recv_timeout(Duration::from_secs(8)).unwrap();
    assert!(head.starts_with("GET /open "), "{head}");
    assert!(copies.try_recv().is_err());
}

#[test]
fn policies_see_what_the_endpoint_would() {
    let edits = |set: &[(&str, &str)]| HeaderEdits {
        set: set.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        ..HeaderEdits::default()
    };
    let policy = Policy {
        request_headers: edits(&[("x-team", "red")]),
        response_headers: edits(&[("x-answered", "yes")]),
        rewrite: Rewrite {
            path: Some(PathRewrite::Full("/new".to_owned())),
            authority: Some("other:81".to_owned()),
        },
        ..Policy::default()
    };
    let header = |value| Field::Header("x-team".to_owned(), text(value));
    for (field, allowed) in [
        (header("red"), true),
        (header("blue"), false),
        (path("/new"), true),
        (path("/a"), false),
        (Field::Host(text("other:81")), true),
        (Field::Host(text("shop")), false),
    ] {
        let policy = Some(policy.clone());
        let around =
            |endpoint| guarded(endpoint, &policy, &[on("web", Effect::Allow, when(field.clone()))]);
        let request = GET.replace("\r\n\r\n", "\r\nX-Team: blue\r\n\r\n");
        let seen = same_in(&around, &[&request], &[], u64::from(allowed));
        let status = if allowed { "HTTP/1.1 200 " } else { "HTTP/1.1 403 " };
        assert!(seen.by_client[0].starts_with(status), "{field:?} {seen:?}");
        // also to the answer in the endpoint's place
        assert!(seen.by_client[0].contains("x-answered: yes"), "{seen:?}");
    }
}

#[test]
fn grpc_is_denied_in_its_own_words() {
    let policies = [on("web", Effect::Deny, any())];
    let mut kit = Kit::new(guarded(upstream::http("one"), &None, &policies));
    kit.request(
        1,
        "POST /a.B/C HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc\r\n\
         Content-Length: 5\r\n\r\n\0\0\0\0\0",
    );
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.text()), (200, ""));
    assert_eq!(answer.field("grpc-status"), Some("7"));
    assert_eq!(answer.field("grpc-message"), Some(DENIED));
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
}

#[test]
fn what_is_not_sent_does_not_stand_in_the_way_of_the_next_request() {
    let policies = [on("web", Effect::Deny, when(Field::Method(text("POST"))))];
    let mut kit = Kit::new(guarded(upstream::http("one"), &None, &policies));
    kit.request(1, "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 40000\r\n\r\n");
    kit.send(1, 0, vec![b'x'; 40_000]);
    let answer = kit.answer(1);
    assert_eq!((answer.status, answer.field("connection")), (403, None));
    assert_eq!(kit.get(1, "/").status, 200);
    // too much of it
    kit.request(2, "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 10000000\r\n\r\n");
    for _ in 0..5 {
        kit.send(2, 0, vec![b'x'; 60_000]);
    }
    let answer = kit.answer(2);
    assert_eq!((answer.status, answer.field("connection")), (403, Some("close")));
    // a client that waits to be told to send it
    kit.request(
        3,
        "POST /a HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    );
    let answer = kit.answer(3);
    assert_eq!((answer.status, answer.field("connection")), (403, Some("close")));
}

#[test]
fn an_endpoint_that_does_not_speak_http_is_called_by_a_connection() {
    for (effect, status) in [(Effect::Allow, 403), (Effect::Deny, 403)] {
        let policies = [on("web", effect, when(Field::Method(text("PUT"))))];
        let mut mesh = guarded(upstream::http("one"), &None, &policies);
        mesh.clusters[0].protocol = Protocol::Opaque;
        let mut kit = Kit::new(mesh);
        assert_eq!(kit.get(1, "/").status, status);
    }
}

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a_tunnel_ends_when_it_becomes_forbidden() {
    let (ended, end) = channel();
    let accept =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi";
    let address = upstream::raw(move |mut socket| {
        upstream::head(&mut socket);
        std::io::Write::write_all(&mut socket, accept.as_bytes()).unwrap();
        ended.send(socket.read(&mut [0])).unwrap();
    });
    let open = |access: &[AccessPolicy]| Arc::new(guarded(address, &None, access));
    let denied = |target| [on("web", Effect::Deny, when(path(target)))];
    let mut kit = Kit::new((*open(&denied("/chat"))).clone());
    kit.request(1, UPGRADE);
    assert_eq!(kit.answer(1).status, 403);
    kit.mesh.send_replace(open(&[]));
    kit.request(2, UPGRADE);
    while !kit.injected(2).ends_with(b"hi") {
        kit.take();
    }
    // a policy about something else, then one about this
    kit.mesh.send_replace(open(&denied("/other")));
    assert!(end.recv_timeout(Duration::from_millis(200)).is_err());
    kit.mesh.send_replace(open(&denied("/chat")));
    kit.kernel.wait(|said| said.aborted == [2]);
    let _ = end.recv_timeout(Duration::from_secs(8)).expect("the endpoint sees the end");
    assert_eq!(kit.proxy.stats().connections_denied, 1);
}
