//! What policies say: the reference evaluator, case by case.

use std::net::IpAddr;

use beeway_model::access::{
    Access, AccessPolicy, AccessRule, Call, Clause, Decider, Direction, Effect, Entity, Field,
    Identity, IdentityMatch, LabelSelector, LabelTest, Layer, Node, Party, PathTest, PortRange,
    Scope, Text, evaluate,
};
use beeway_model::{Mesh, Request, Subnet, Transport, Workload};

fn workload(name: &str, namespace: &str, address: &str) -> Workload {
    Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        addresses: vec![address.parse().expect("an address")],
        service_account: format!("{name}-sa"),
        node: None,
        uid: None,
        cgroup: None,
    }
}

fn mesh() -> Mesh {
    let node = |name: &str, address: &str, local| Node {
        name: name.to_owned(),
        addresses: vec![address.parse().expect("an address")],
        local,
    };
    Mesh {
        workloads: vec![
            workload("web", "shop", "10.0.0.1").into(),
            workload("db", "data", "10.0.0.2").into(),
        ],
        nodes: vec![node("here", "192.0.2.1", true), node("there", "192.0.2.2", false)],
        ..Mesh::default()
    }
}

fn party(mesh: &Mesh, address: &str) -> Party<'static> {
    let address: IpAddr = address.parse().expect("an address");
    // tests are short: what they name may live for good
    let mesh: &'static Mesh = Box::leak(Box::new(mesh.clone()));
    Party { address, identity: mesh.identity_at(address) }
}

fn policy(effect: Effect, rules: Vec<AccessRule>) -> AccessPolicy {
    AccessPolicy {
        name: "AuthorizationPolicy data/db".to_owned(),
        layer: Layer::Authorization,
        direction: Direction::Ingress,
        scope: Scope::Workloads(Some("data".to_owned()), LabelSelector::default()),
        effect,
        dry_run: false,
        rules,
    }
}

fn network(direction: Direction, namespace: &str, rules: Vec<AccessRule>) -> AccessPolicy {
    AccessPolicy {
        layer: Layer::Network,
        direction,
        scope: Scope::Workloads(Some(namespace.to_owned()), LabelSelector::default()),
        ..policy(Effect::Allow, rules)
    }
}

fn clause(field: Field) -> Clause {
    Clause { field, negated: false }
}

fn not(field: Field) -> Clause {
    Clause { field, negated: true }
}

fn when(conditions: Vec<Clause>) -> AccessRule {
    AccessRule { conditions, ..AccessRule::default() }
}

fn any() -> Vec<AccessRule> {
    vec![AccessRule::default()]
}

fn exact(text: &str) -> Text {
    Text::Exact(text.to_owned())
}

fn namespace(name: &str) -> Field {
    Field::Caller(vec![IdentityMatch::Namespace(exact(name))])
}

/// `web` calls `db`, port 80, with a request if there is one.
fn ask(policies: &[AccessPolicy], request: Option<&Request<'_>>) -> Access {
    let mesh = mesh();
    let (caller, called) = (party(&mesh, "10.0.0.1"), party(&mesh, "10.0.0.2"));
    let call = Call {
        caller,
        called,
        port: 80,
        transport: Transport::Tcp,
        services: &[("data", "db")],
        sni: None,
        request,
    };
    evaluate(policies.iter().enumerate(), &call)
}

fn request<'a>(target: &'a str, headers: &'a [(&'a str, &'a [u8])]) -> Request<'a> {
    Request {
        method: "GET",
        scheme: "http",
        authority: "DB.data:80",
        target,
        headers,
        source: None,
    }
}

fn by(policy: usize, rule: Option<usize>) -> Option<Decider> {
    Some(Decider { policy, rule })
}

#[test]
fn without_a_policy_everybody_may() {
    let access = ask(&[], None);
    assert!(access.allowed);
    assert_eq!(access.by, None);
    let elsewhere = AccessPolicy {
        scope: Scope::Workloads(Some("shop".to_owned()), LabelSelector::default()),
        ..policy(Effect::Deny, any())
    };
    assert!(ask(&[elsewhere], None).allowed, "another namespace");
}

#[test]
fn deny_comes_before_allow_and_allow_closes() {
    let get = request("/", &[]);
    let nothing = policy(Effect::Allow, Vec::new());
    let denied = ask(std::slice::from_ref(&nothing), Some(&get));
    assert_eq!((denied.allowed, denied.by), (false, by(0, None)), "no rules match nothing");
    assert!(ask(&[policy(Effect::Deny, Vec::new())], Some(&get)).allowed);
    let all = policy(Effect::Allow, any());
    let allowed = ask(&[nothing.clone(), all.clone()], Some(&get));
    assert_eq!((allowed.allowed, allowed.by), (true, by(1, Some(0))));
    let denied = ask(&[all, policy(Effect::Deny, any())], Some(&get));
    assert_eq!((denied.allowed, denied.by), (false, by(1, Some(0))));
}

#[test]
fn what_only_reports_changes_nothing() {
    let dry = AccessPolicy { dry_run: true, ..policy(Effect::Deny, any()) };
    let closed = AccessPolicy { dry_run: true, ..policy(Effect::Allow, Vec::new()) };
    let access = ask(&[dry, policy(Effect::Audit, any()), closed], None);
    assert!(access.allowed);
    assert_eq!(access.dry_run, [Decider { policy: 0, rule: Some(0) }]);
    assert_eq!(access.audit, [Decider { policy: 1, rule: Some(0) }]);
}

#[test]
fn a_provider_is_asked_whatever_the_others_say() {
    let custom = policy(Effect::Custom("oauth".to_owned()), any());
    let access = ask(&[policy(Effect::Deny, any()), custom], None);
    assert!(!access.allowed);
    assert_eq!(access.ask, [Decider { policy: 1, rule: Some(0) }]);
}

#[test]
fn values_and_sources_are_alternatives_and_fields_are_not() {
    let web = Field::Caller(vec![
        IdentityMatch::Namespace(exact("none")),
        IdentityMatch::Principal(exact("cluster.local/ns/shop/sa/web-sa")),
    ]);
    let near = Field::CallerAddress(vec![Subnet { address: [10, 0, 0, 0].into(), bits: 8 }]);
    let far = Field::CallerAddress(vec![Subnet { address: [11, 0, 0, 0].into(), bits: 8 }]);
    let sources = |sources: Vec<Vec<Clause>>| {
        let rule = AccessRule { sources, ..AccessRule::default() };
        ask(&[policy(Effect::Allow, vec![rule])], None).allowed
    };
    assert!(sources(vec![vec![clause(web.clone()), clause(near.clone())]]));
    assert!(!sources(vec![vec![clause(web.clone()), clause(far.clone())]]));
    assert!(sources(vec![vec![clause(far.clone())], vec![clause(web.clone())]]));
    assert!(sources(vec![vec![not(far)]]));
    assert!(!sources(vec![vec![not(near)]]));
}

#[test]
fn identities_are_told_apart() {
    let mesh = mesh();
    let selector = |tests: &[(&str, LabelTest)]| {
        LabelSelector(tests.iter().map(|(key, test)| ((*key).to_owned(), test.clone())).collect())
    };
    let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let of = |address: &str| party(&mesh, address).identity;
    for (wanted, address, holds) in [
        (IdentityMatch::Entity(Entity::Cluster), "10.0.0.1", true),
        (IdentityMatch::Entity(Entity::World), "10.0.0.1", false),
        (IdentityMatch::Entity(Entity::World), "10.0.0.9", true),
        (IdentityMatch::Entity(Entity::Host), "192.0.2.1", true),
        (IdentityMatch::Entity(Entity::Host), "::1", true),
        (IdentityMatch::Entity(Entity::RemoteNode), "192.0.2.2", true),
        (IdentityMatch::Entity(Entity::RemoteNode), "::ffff:192.0.2.2", true),
        (IdentityMatch::ServiceAccount("shop".into(), "web-sa".into()), "10.0.0.1", true),
        (IdentityMatch::ServiceAccount("data".into(), "web-sa".into()), "10.0.0.1", false),
        (IdentityMatch::TrustDomain(exact("cluster.local")), "10.0.0.1", true),
        (IdentityMatch::TrustDomain(exact("cluster.local")), "10.0.0.9", false),
        (IdentityMatch::Principal(Text::Present), "10.0.0.9", false),
        (IdentityMatch::Principal(Text::Suffix("/web-sa".into())), "10.0.0.1", true),
        (
            IdentityMatch::Workloads(None, selector(&[("app", LabelTest::In(list(&["web"])))])),
            "10.0.0.1",
            true,
        ),
        (
            IdentityMatch::Workloads(None, selector(&[("app", LabelTest::NotIn(list(&["web"])))])),
            "10.0.0.2",
            true,
        ),
        (IdentityMatch::Workloads(None, selector(&[("x", LabelTest::Exists)])), "10.0.0.1", false),
        (IdentityMatch::Workloads(None, selector(&[("x", LabelTest::Absent)])), "10.0.0.1", true),
        (
            IdentityMatch::Workloads(Some(list(&["data"])), LabelSelector::default()),
            "10.0.0.1",
            false,
        ),
        (IdentityMatch::Workloads(None, LabelSelector::default()), "10.0.0.9", false),
    ] {
        assert_eq!(wanted.holds(of(address)), holds, "{wanted:?} {address}");
    }
    assert_eq!(of("10.0.0.9"), Identity::World);
}

#[test]
fn requests_are_compared_by_all_of_their_parts() {
    let headers: &[(&str, &[u8])] = &[("X-Team", b"red"), ("x-empty", b"")];
    let get = request("/admin/../shop/42?q=1", headers);
    let allows = |field: Field| {
        ask(&[policy(Effect::Allow, vec![when(vec![clause(field)])])], Some(&get)).allowed
    };
    let header = |name: &str, text| Field::Header(name.to_owned(), vec![text]);
    let path = |value: &str| Field::Path(vec![PathTest::parse(value)]);
    for (field, holds) in [
        (Field::Method(vec![exact("GET")]), true),
        (Field::Method(vec![exact("get")]), false),
        (path("/shop/42"), true),
        (path("/admin/*"), false),
        (path("*/42"), true),
        (path("/shop/{*}"), true),
        (path("/{*}"), false),
        (path("/{**}"), true),
        (path("/shop/42/{**}"), false),
        (Field::Host(vec![exact("db.data:80")]), true),
        (Field::Host(vec![exact("db.data")]), false),
        (Field::Host(vec![Text::parse("*.DATA:80")]), true),
        (header("x-team", exact("red")), true),
        (header("x-team", Text::Present), true),
        (header("x-empty", Text::Present), false),
        (header("x-none", Text::Prefix(String::new())), false),
        (Field::Port(vec![PortRange::one(80)]), true),
        (Field::Port(vec![PortRange { transport: None, first: 81, last: 90 }]), false),
        (Field::Sni(vec![Text::Present]), false),
    ] {
        assert_eq!(allows(field.clone()), holds, "{field:?}");
    }
}

#[test]
fn the_last_forwarded_address_is_the_remote_one() {
    let far = || Field::RemoteAddress(vec![Subnet { address: [203, 0, 113, 0].into(), bits: 24 }]);
    for (value, holds) in [
        (Some(&b"203.0.113.9"[..]), true),
        (Some(b"203.0.113.9, 10.0.0.1"), false),
        (Some(b"10.0.0.1,203.0.113.9"), true),
        (Some(b"10.0.0.1,nonsense"), false),
        (None, false),
    ] {
        let headers: Vec<(&str, &[u8])> =
            value.map(|v| ("x-forwarded-for", v)).into_iter().collect();
        let get = request("/", &headers);
        let rules = vec![when(vec![clause(far())])];
        assert_eq!(ask(&[policy(Effect::Allow, rules)], Some(&get)).allowed, holds, "{value:?}");
    }
}

#[test]
fn on_plain_connections_http_fields_close_and_never_open() {
    let path = || clause(Field::Path(vec![PathTest::parse("/x")]));
    let deny = policy(Effect::Deny, vec![when(vec![path(), clause(namespace("shop"))])]);
    assert!(!ask(&[deny], None).allowed, "what is left of the rule holds");
    let other = policy(Effect::Deny, vec![when(vec![path(), clause(namespace("data"))])]);
    assert!(ask(&[other], None).allowed);
    let hidden = policy(Effect::Deny, vec![when(vec![not(Field::Method(vec![exact("GET")]))])]);
    assert!(!ask(&[hidden], None).allowed);
    let allow = policy(Effect::Allow, vec![when(vec![path()])]);
    assert!(!ask(&[allow], None).allowed);
    // an alternative that is not about HTTP does not save the rule
    let rule = AccessRule {
        operations: vec![vec![path()], vec![clause(Field::Port(vec![PortRange::one(80)]))]],
        ..AccessRule::default()
    };
    assert!(!ask(&[policy(Effect::Allow, vec![rule])], None).allowed);
}

#[test]
fn what_a_token_says_is_not_known_and_closes() {
    let get = request("/", &[]);
    let token = || Field::Token("requestPrincipals".to_owned());
    for test in [clause(token()), not(token())] {
        let rules = || vec![when(vec![test.clone()])];
        assert!(!ask(&[policy(Effect::Allow, rules())], Some(&get)).allowed);
        assert!(!ask(&[policy(Effect::Deny, rules())], Some(&get)).allowed);
    }
}

#[test]
fn both_layers_and_both_directions_must_allow() {
    let open = || network(Direction::Ingress, "data", any());
    let from =
        |name: &str| network(Direction::Ingress, "data", vec![when(vec![clause(namespace(name))])]);
    assert!(ask(&[open()], None).allowed);
    assert!(!ask(&[network(Direction::Ingress, "data", Vec::new())], None).allowed);
    assert!(!ask(&[from("data")], None).allowed);
    assert!(ask(&[from("data"), from("shop")], None).allowed, "policies add up");
    let to = |name: &str| {
        let called = Field::Called(vec![IdentityMatch::Namespace(exact(name))]);
        network(Direction::Egress, "shop", vec![when(vec![clause(called)])])
    };
    assert!(ask(&[to("data")], None).allowed);
    assert!(!ask(&[to("shop"), open()], None).allowed, "ingress cannot make up for egress");
    assert!(ask(&[network(Direction::Egress, "data", Vec::new())], None).allowed, "not from there");
    let denied = ask(&[open(), policy(Effect::Allow, Vec::new())], None);
    assert_eq!((denied.allowed, denied.by), (false, by(1, None)));
}

#[test]
fn nobody_is_kept_from_himself_by_the_network() {
    let closed = |direction| network(direction, "shop", Vec::new());
    let closed = [closed(Direction::Ingress), closed(Direction::Egress)];
    let deny = AccessPolicy { effect: Effect::Deny, rules: any(), ..closed[0].clone() };
    let deny = AccessPolicy { layer: Layer::Authorization, ..deny };
    let mut mesh = mesh();
    mesh.workloads.push(workload("other", "shop", "10.0.0.3").into());
    let (web, other) = (party(&mesh, "10.0.0.1"), party(&mesh, "10.0.0.3"));
    let allowed = |policies: &[AccessPolicy], caller| {
        let call = Call {
            caller,
            called: web,
            port: 80,
            transport: Transport::Tcp,
            services: &[],
            sni: None,
            request: None,
        };
        evaluate(policies.iter().enumerate(), &call).allowed
    };
    for policies in [&closed[..], &closed[..1], &closed[1..]] {
        assert!(allowed(policies, web));
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert!(allowed(policies, Party { address: mapped, ..web }));
        assert!(!allowed(policies, other));
        assert!(!allowed(policies, Party { address: web.address, ..other }), "a forged address");
    }
    assert!(!allowed(&[deny], web), "that is for the network's policies alone");
}

#[test]
fn a_service_is_called_by_name() {
    let on = |name: &str| AccessPolicy {
        scope: Scope::Services(vec![("data".to_owned(), name.to_owned())]),
        ..policy(Effect::Deny, any())
    };
    assert!(!ask(&[on("db")], None).allowed);
    assert!(ask(&[on("cache")], None).allowed);
}
