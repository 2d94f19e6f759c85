//! Policies: whom they are about and what their rules ask for.

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Entity, Field, IdentityMatch,
    LabelSelector, LabelTest, Layer, PathTest, PortRange, Scope, Text,
};
use beeway_model::{Subnet, Transport};

use super::Palette;
use crate::world::labels;
use beeway_model::testing::Dice;

const SUBNETS: [(&str, u8); 8] = [
    ("10.2.0.0", 16),
    ("10.2.0.1", 32),
    ("10.2.0.2", 31),
    ("10.0.0.0", 8),
    ("0.0.0.0", 0),
    ("fd00::", 16),
    ("::", 0),
    ("10.1.0.1", 32),
];

impl Palette {
    /// Policies of all kinds on the endpoints' workloads and the callers.
    pub fn policies(&self, dice: &mut Dice) -> Vec<AccessPolicy> {
        let count = dice.of(&[1, 1, 2, 3, 5]);
        let crowd = dice.one_in(8);
        (0..count).map(|_| self.policy(dice, crowd)).collect()
    }

    fn policy(&self, dice: &mut Dice, crowd: bool) -> AccessPolicy {
        let network = dice.one_in(4);
        let egress = network && dice.one_in(2);
        let effect = match dice.below(16) {
            _ if network => Effect::Allow,
            0 => Effect::Audit,
            1 => Effect::Custom("authorizer".to_owned()),
            2..9 => Effect::Deny,
            _ => Effect::Allow,
        };
        let count = if crowd { dice.between(50, 90) } else { dice.of(&[0, 1, 1, 2, 3]) };
        AccessPolicy {
            name: "a policy".to_owned(),
            layer: if network { Layer::Network } else { Layer::Authorization },
            direction: if egress { Direction::Egress } else { Direction::Ingress },
            scope: scope(dice, egress),
            effect,
            dry_run: !network && dice.one_in(20),
            rules: (0..count).map(|_| self.access_rule(dice, network)).collect(),
        }
    }

    fn access_rule(&self, dice: &mut Dice, network: bool) -> AccessRule {
        let source = |dice: &mut Dice| {
            (0..dice.between(1, 2)).map(|_| clause(dice, caller)).collect::<Vec<_>>()
        };
        let operation = |dice: &mut Dice| {
            let field = |dice: &mut Dice| self.operation(dice, network);
            (0..dice.between(1, 2)).map(|_| clause(dice, field)).collect::<Vec<_>>()
        };
        let condition = |dice: &mut Dice| match network || dice.one_in(3) {
            true => clause(dice, caller),
            false => clause(dice, |dice| self.operation(dice, network)),
        };
        AccessRule {
            sources: (0..dice.of(&[0, 1, 2])).map(|_| source(dice)).collect(),
            operations: (0..dice.of(&[0, 1, 1, 3])).map(|_| operation(dice)).collect(),
            conditions: (0..dice.of(&[0, 0, 0, 1])).map(|_| condition(dice)).collect(),
        }
    }

    fn operation(&self, dice: &mut Dice, network: bool) -> Field {
        match dice.below(if network { 3 } else { 10 }) {
            0 => Field::Port((0..dice.between(1, 2)).map(|_| ports(dice)).collect()),
            1 => Field::Called((0..dice.between(1, 2)).map(|_| identity(dice)).collect()),
            2 => Field::CalledAddress(subnets(dice)),
            3 => Field::Method(vec![match dice.below(4) {
                0 => Text::Prefix("P".to_owned()),
                1 => Text::Present,
                _ => Text::Exact(dice.of(&["GET", "POST", "DELETE", "HEAD"]).to_owned()),
            }]),
            4 => {
                let name = dice.of(&self.names);
                Field::Header(name, (0..dice.of(&[1, 1, 2])).map(|_| self.value(dice)).collect())
            }
            5 => Field::Host(vec![match dice.below(4) {
                0 => Text::Suffix(".example.com".to_owned()),
                1 => Text::Prefix("SHOP".to_owned()),
                _ => Text::Exact("Shop".to_owned()),
            }]),
            6 if dice.one_in(4) => Field::Token("requestPrincipals".to_owned()),
            6 => Field::Sni(vec![Text::Present]),
            _ => Field::Path((0..dice.of(&[1, 1, 2, 4])).map(|_| self.path(dice)).collect()),
        }
    }

    fn value(&self, dice: &mut Dice) -> Text {
        let value = dice.of(&self.values);
        let middle = (0..=value.len() / 2).rev().find(|at| value.is_char_boundary(*at));
        let (begin, end) = value.split_at(middle.unwrap_or_default());
        match dice.below(5) {
            0 => Text::Present,
            1 => Text::Prefix(begin.to_owned()),
            2 => Text::Suffix(end.to_owned()),
            _ => Text::Exact(value),
        }
    }

    fn path(&self, dice: &mut Dice) -> PathTest {
        let path = dice.of(&self.paths);
        let cut = path.rfind('/').unwrap_or_default();
        match dice.below(8) {
            0 => PathTest::Text(Text::Present),
            1 => PathTest::Text(Text::Suffix(path[cut..].to_owned())),
            2 => PathTest::Template(format!("{}/{{*}}", &path[..cut])),
            3 => PathTest::Template(format!("{}/{{**}}", &path[..cut])),
            4 => PathTest::Text(Text::Prefix(path[..cut].to_owned())),
            5 => PathTest::Text(Text::Prefix(path)),
            _ => PathTest::Text(Text::Exact(path)),
        }
    }
}

fn scope(dice: &mut Dice, egress: bool) -> Scope {
    if dice.one_in(24) && !egress {
        return Scope::Services(vec![("default".to_owned(), "shop".to_owned())]);
    }
    let namespace = dice.one_in(2).then(|| dice.of(&["default", "other"]).to_owned());
    let selector = match dice.below(4) {
        0 => LabelSelector::equal(&labels(dice.of(&["shop-1", "shop-2", "web"]))),
        1 => LabelSelector(vec![("app".to_owned(), LabelTest::NotIn(vec!["web".to_owned()]))]),
        _ => LabelSelector::default(),
    };
    Scope::Workloads(namespace, selector)
}

fn clause(dice: &mut Dice, field: impl Fn(&mut Dice) -> Field) -> Clause {
    Clause { negated: dice.one_in(3), field: field(dice) }
}

fn caller(dice: &mut Dice) -> Field {
    match dice.below(6) {
        0 => Field::CallerAddress(subnets(dice)),
        1 => Field::RemoteAddress(subnets(dice)),
        _ => Field::Caller((0..dice.between(1, 2)).map(|_| identity(dice)).collect()),
    }
}

fn identity(dice: &mut Dice) -> IdentityMatch {
    let namespace = dice.of(&["default", "other", "none"]).to_owned();
    match dice.below(8) {
        0 => IdentityMatch::Entity(dice.of(&[Entity::World, Entity::Cluster, Entity::Host])),
        1 => IdentityMatch::Principal(dice.of(&[
            Text::Present,
            Text::Exact("cluster.local/ns/default/sa/default".to_owned()),
            Text::Suffix("/sa/sa-3".to_owned()),
        ])),
        2 => IdentityMatch::ServiceAccount(namespace, "default".to_owned()),
        3 => IdentityMatch::TrustDomain(Text::Exact("cluster.local".to_owned())),
        4 | 5 => {
            let labels = LabelSelector::equal(&labels(dice.of(&["web", "api", "shop-1"])));
            IdentityMatch::Workloads(dice.one_in(2).then(|| vec![namespace]), labels)
        }
        _ => IdentityMatch::Namespace(Text::Exact(namespace)),
    }
}

fn subnets(dice: &mut Dice) -> Vec<Subnet> {
    let subnet = |(address, bits): (&str, u8)| Subnet { address: address.parse().unwrap(), bits };
    (0..dice.between(1, 3)).map(|_| subnet(dice.of(&SUBNETS))).collect()
}

fn ports(dice: &mut Dice) -> PortRange {
    let transport = dice.of(&[None, Some(Transport::Tcp), Some(Transport::Udp)]);
    let (first, last) = dice.of(&[(8080, 8080), (8081, 9000), (1, 65535), (80, 80)]);
    PortRange { transport, first, last }
}

/// A field that names another address than the caller's.
pub fn forwarded(dice: &mut Dice) -> (&'static str, &'static str) {
    ("X-Forwarded-For", dice.of(&["10.2.0.2", "10.9.9.9, 10.2.0.1", "nobody"]))
}
