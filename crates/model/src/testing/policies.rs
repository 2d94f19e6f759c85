//! Policies of all kinds, with values that some calls have.

use std::net::IpAddr;

use super::{ACCOUNTS, Dice, LABELS, NAMESPACES, Stage};
use crate::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Entity, Field, IdentityMatch,
    LabelSelector, LabelTest, Layer, PathTest, PortRange, Scope, TRUST_DOMAIN, Text,
};
use crate::mesh::Transport;
use crate::stream::Subnet;

pub(super) const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
pub(super) const PATHS: [&str; 7] =
    ["/", "/shop", "/shop/42", "/admin", "/admin/", "/a/b/c", "/admin/x.json"];
const TEMPLATES: [&str; 6] = ["/shop/{*}", "/{**}", "/a/{*}/c", "/{*}", "/a/{**}", "/{*}/x.json"];
pub(super) const HOSTS: [&str; 5] =
    ["shop", "shop:80", "shop.example.com", "SHOP.example.com", "db.data.svc.cluster.local"];
pub(super) const HEADERS: [&str; 3] = ["x-team", "x-user", "user-agent"];
pub(super) const VALUES: [&str; 6] = ["red", "blue", "redder", "", "a,b", "Red"];
pub(super) const NAMES: [&str; 3] = ["db.example.com", "example.com", "other"];
/// Who calls in the end, as `x-forwarded-for` has it.
pub(super) const FORWARDED: [&str; 4] = ["203.0.113.9", "203.0.113.200", "198.51.100.1", "fd00::9"];

impl Stage {
    pub(super) fn policies(&self, dice: &mut Dice) -> Vec<AccessPolicy> {
        let mut policies = dice.some(1..7, |dice| match dice.below(4) {
            0 => self.network(dice),
            _ => self.authorization(dice),
        });
        for (n, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("{} shop/policy-{n}", policy.name);
        }
        policies
    }

    fn authorization(&self, dice: &mut Dice) -> AccessPolicy {
        let effect = match dice.below(10) {
            0 => Effect::Audit,
            1 if !self.providers.is_empty() => Effect::Custom(dice.of(&self.providers)),
            2..5 => Effect::Deny,
            _ => Effect::Allow,
        };
        let scope = match dice.below(8) {
            0 => Scope::Services(dice.some(1..3, |dice| dice.of(&self.services))),
            _ => scope(dice),
        };
        AccessPolicy {
            name: "AuthorizationPolicy".to_owned(),
            layer: Layer::Authorization,
            direction: Direction::Ingress,
            scope,
            effect,
            dry_run: dice.one_in(8),
            rules: dice.some(0..4, |dice| self.rule(dice)),
        }
    }

    fn network(&self, dice: &mut Dice) -> AccessPolicy {
        let ingress = dice.one_in(2);
        let rule = |dice: &mut Dice| AccessRule {
            sources: dice.some(0..3, |dice| {
                let peer = match ingress {
                    true => self.peer(dice, Field::Caller, Field::CallerAddress),
                    false => self.peer(dice, Field::Called, Field::CalledAddress),
                };
                vec![Clause { field: peer, negated: false }]
            }),
            operations: dice.some(0..2, |dice| vec![self.port(dice)]),
            conditions: Vec::new(),
        };
        AccessPolicy {
            name: "NetworkPolicy".to_owned(),
            layer: Layer::Network,
            direction: if ingress { Direction::Ingress } else { Direction::Egress },
            scope: scope(dice),
            effect: Effect::Allow,
            dry_run: false,
            rules: dice.some(0..3, rule),
        }
    }

    fn peer(
        &self,
        dice: &mut Dice,
        by_identity: fn(Vec<IdentityMatch>) -> Field,
        by_address: fn(Vec<Subnet>) -> Field,
    ) -> Field {
        match dice.one_in(2) {
            true => by_identity(vec![workloads(dice)]),
            false => by_address(self.subnets(dice)),
        }
    }

    fn rule(&self, dice: &mut Dice) -> AccessRule {
        AccessRule {
            sources: dice.some(0..3, |dice| dice.some(1..3, |dice| self.source(dice))),
            operations: dice.some(0..3, |dice| dice.some(1..3, |dice| self.operation(dice))),
            conditions: match dice.below(3) {
                0 => dice.some(1..3, |dice| self.condition(dice)),
                _ => Vec::new(),
            },
        }
    }

    fn source(&self, dice: &mut Dice) -> Clause {
        let field = match dice.below(8) {
            0 => Field::CallerAddress(self.subnets(dice)),
            1 => Field::RemoteAddress(self.subnets(dice)),
            2 if dice.one_in(3) => Field::Token("requestPrincipals".to_owned()),
            _ => Field::Caller(dice.some(1..3, identity)),
        };
        clause(dice, field)
    }

    fn operation(&self, dice: &mut Dice) -> Clause {
        let texts = |dice: &mut Dice, values: &[&str]| dice.some(1..3, |dice| text(dice, values));
        let field = match dice.below(6) {
            0 => Field::Host(texts(dice, &HOSTS)),
            1 => return self.port(dice),
            2 | 3 => Field::Method(texts(dice, &METHODS)),
            _ => Field::Path(dice.some(1..3, |dice| match dice.below(4) {
                0 => PathTest::Template(dice.of(&TEMPLATES).to_owned()),
                _ => PathTest::Text(text(dice, &PATHS)),
            })),
        };
        clause(dice, field)
    }

    fn condition(&self, dice: &mut Dice) -> Clause {
        let field = match dice.below(6) {
            0 => Field::Sni(dice.some(1..3, |dice| text(dice, &NAMES))),
            1 => Field::CalledAddress(self.subnets(dice)),
            2 => return self.source(dice),
            3 => return self.port(dice),
            _ => {
                let name = dice.of(&HEADERS).to_owned();
                Field::Header(name, dice.some(1..3, |dice| text(dice, &VALUES)))
            }
        };
        clause(dice, field)
    }

    fn port(&self, dice: &mut Dice) -> Clause {
        let range = |dice: &mut Dice| {
            let port = dice.of(&self.endpoints).port();
            let transport = match dice.below(6) {
                0 => Some(Transport::Udp),
                1 => Some(Transport::Tcp),
                _ => None,
            };
            let (first, last) = match dice.below(4) {
                0 => (port.saturating_sub(1), port.saturating_add(1)),
                1 => (1, port.saturating_sub(1)),
                _ => (port, port),
            };
            PortRange { transport, first, last }
        };
        let ranges = dice.some(1..3, range);
        clause(dice, Field::Port(ranges))
    }

    /// Networks around addresses of the stage.
    fn subnets(&self, dice: &mut Dice) -> Vec<Subnet> {
        dice.some(1..3, |dice| {
            let address = match dice.below(3) {
                0 => dice.of(&self.callers),
                1 => dice.of(&self.endpoints).ip(),
                _ => dice.of(&FORWARDED).parse().unwrap_or(IpAddr::from([0; 16])),
            };
            let all: u8 = if address.is_ipv4() { 32 } else { 128 };
            let bits = dice.of(&[0, 8, 16, 24, 30, 31, all - 1, all, all, all]);
            Subnet { address, bits }
        })
    }
}

fn clause(dice: &mut Dice, field: Field) -> Clause {
    Clause { field, negated: dice.one_in(5) }
}

fn scope(dice: &mut Dice) -> Scope {
    let namespace = (!dice.one_in(3)).then(|| dice.of(&NAMESPACES).to_owned());
    let labels = if dice.one_in(2) { selector(dice) } else { LabelSelector::default() };
    Scope::Workloads(namespace, labels)
}

fn selector(dice: &mut Dice) -> LabelSelector {
    LabelSelector(dice.some(1..3, |dice| {
        let (key, values) = dice.of(&LABELS);
        let some = |dice: &mut Dice| dice.some(1..3, |dice| dice.of(values).to_owned());
        let test = match dice.below(6) {
            0 => LabelTest::Exists,
            1 => LabelTest::Absent,
            2 => LabelTest::NotIn(some(dice)),
            _ => LabelTest::In(some(dice)),
        };
        (key.to_owned(), test)
    }))
}

fn workloads(dice: &mut Dice) -> IdentityMatch {
    let list = |dice: &mut Dice| dice.some(1..3, |dice| dice.of(&NAMESPACES).to_owned());
    let namespaces = (!dice.one_in(3)).then(|| list(dice));
    let labels = if dice.one_in(2) { selector(dice) } else { LabelSelector::default() };
    IdentityMatch::Workloads(namespaces, labels)
}

fn identity(dice: &mut Dice) -> IdentityMatch {
    let (namespace, account) = (dice.of(&NAMESPACES), dice.of(&ACCOUNTS));
    match dice.below(7) {
        0 => {
            let principal = format!("{TRUST_DOMAIN}/ns/{namespace}/sa/{account}");
            IdentityMatch::Principal(text(dice, &[principal.as_str()]))
        }
        1 => IdentityMatch::TrustDomain(text(dice, &[TRUST_DOMAIN, "elsewhere"])),
        2 => IdentityMatch::ServiceAccount(namespace.to_owned(), account.to_owned()),
        3 => workloads(dice),
        4 => IdentityMatch::Entity(dice.of(&[
            Entity::World,
            Entity::Cluster,
            Entity::Host,
            Entity::RemoteNode,
        ])),
        _ => IdentityMatch::Namespace(text(dice, &NAMESPACES)),
    }
}

/// A condition that some of the values meet, and others just do not.
fn text(dice: &mut Dice, values: &[&str]) -> Text {
    let value = dice.of(values);
    let at = value.len().min(1 + dice.below(value.len().max(1)));
    match dice.below(8) {
        0 => Text::Present,
        1 | 2 => Text::Prefix(value[..at].to_owned()),
        3 => Text::Suffix(value[value.len() - at..].to_owned()),
        _ => Text::Exact(value.to_owned()),
    }
}
