//! NetworkPolicies → policies of the model (Kubernetes' API reference, `networking.k8s.io/v1
//! NetworkPolicy`).
//!
//! Namespaces and pods come and go: what a namespace selector selects, and the number behind a
//! port's name, are looked up for each configuration ([`policies`]); all else is read once
//! ([`read`]). All rules allow, so that one that cannot be read closes when it matches nothing.

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Entity, Field, IdentityMatch,
    LabelSelector, LabelTest, Layer, PortRange, Scope,
};
use beeway_model::{Subnet, Transport};
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::authorization::never;
use crate::authorization_rule::subnet;
use crate::document::{Node, Value};
use crate::named_port::Pods;
use crate::namespaces::Namespaces;
use crate::policy_item::{Fault, Head, list, selected, strict};
use crate::problem::Problem;

/// A NetworkPolicy, as far as its document tells.
#[derive(Debug)]
pub(crate) struct NetworkPolicy {
    name: String,
    pub scope: Scope,
    /// `None`: it says nothing about this direction.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    pub readable: bool,
}

/// A rule of one direction.
#[derive(Debug)]
pub(crate) struct Rule {
    /// One of these is at the other end; `None`: anybody.
    pub peers: Option<Vec<Peer>>,
    /// One of these is called; `None`: any.
    pub ports: Option<Vec<Port>>,
}

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Peer {
    /// Pods of the policy's namespace, or of those that a selector selects.
    Pods(Option<LabelSelector>, LabelSelector),
    /// Who has an address of a network, but for parts of it.
    Block(Subnet, Vec<Subnet>),
}

/// What is called.
#[derive(Debug)]
pub(crate) enum Port {
    Number(PortRange),
    /// The port of this name of a pod.
    Named(String, Transport),
}

/// Reads a policy.
pub(crate) fn read(head: &Head, problems: &mut Vec<Problem>) -> NetworkPolicy {
    let label = head.place.label();
    let (scope, fault) = match scope(head) {
        Ok(scope) => (scope, None),
        Err(fault) => (head.whole(), Some(fault)),
    };
    let body = head.fault.clone().or(fault).map_or_else(
        || {
            head.only(&["podSelector", "policyTypes", "ingress", "egress"])?;
            directions(head)
        },
        Err,
    );
    match body {
        Ok((ingress, egress)) => {
            let ingress = ingress.then(|| rules(head, "ingress", problems));
            let egress = egress.then(|| rules(head, "egress", problems));
            NetworkPolicy { name: label.to_owned(), scope, ingress, egress, readable: true }
        }
        Err(fault) => {
            let said = head.part(&["spec"]).is_some_and(|spec| matches!(spec.value, Value::Map(_)));
            let both = (true, true);
            let (ingress, egress) = if said { directions(head).unwrap_or(both) } else { both };
            let way = match (ingress, egress) {
                (true, false) => "to",
                (false, true) => "from",
                _ => "to and from",
            };
            let outcome = format!(
                "NetworkPolicy cannot be read, therefore CLOSED: no connection {way} {} is allowed \
                 by it",
                selected(&scope)
            );
            problems.push(fault.error(&head.place, &outcome));
            let nothing = |applies: bool| applies.then(Vec::new);
            let name = format!("{label} (unreadable)");
            let (ingress, egress) = (nothing(ingress), nothing(egress));
            NetworkPolicy { name, scope, ingress, egress, readable: false }
        }
    }
}

fn scope(head: &Head) -> Result<Scope, Fault> {
    let path = "spec.podSelector";
    let labels = match head.part(&["spec", "podSelector"]) {
        None => LabelSelector::default(),
        Some(Node { value: Value::Null, .. }) => LabelSelector::default(),
        Some(node) => selector(&strict(node, path)?).map_err(|reason| Fault::at(path, reason))?,
    };
    Ok(Scope::Workloads(head.namespace.clone(), labels))
}

/// Whether the policy is about ingress and egress: as `policyTypes` says, or else always about
/// ingress, and about egress if it has rules for it.
fn directions(head: &Head) -> Result<(bool, bool), Fault> {
    let types = match head.part(&["spec", "policyTypes"]) {
        None | Some(Node { value: Value::Null, .. }) => Vec::new(),
        Some(node) => strict::<Vec<String>>(node, "spec.policyTypes")?,
    };
    if let Some(at) = types.iter().position(|kind| !matches!(&**kind, "Ingress" | "Egress")) {
        let reason = format!("policyTypes: `{}` is neither Ingress nor Egress", types[at]);
        return Err(Fault::at(format!("spec.policyTypes.{at}"), reason));
    }
    let has = |kind: &str| types.iter().any(|t| t == kind);
    let egress = head.part(&["spec", "egress"]).map(|node| &node.value);
    let egress_rules = match egress {
        None | Some(Value::Null) => false,
        Some(Value::List(rules)) => !rules.is_empty(),
        Some(_) => true,
    };
    Ok(match types.is_empty() {
        true => (true, egress_rules),
        false => (has("Ingress"), has("Egress")),
    })
}

fn rules(head: &Head, key: &str, problems: &mut Vec<Problem>) -> Vec<Rule> {
    let nodes = match head.part(&["spec", key]) {
        Some(Node { value: Value::Null, .. }) => None,
        _ => list(head, key).unwrap_or_else(|fault| {
            let outcome = format!("CLOSED: {key} allows nothing");
            problems.push(fault.error(&head.place, &outcome));
            None
        }),
    };
    let read = |(at, node): (usize, &Node)| {
        let path = format!("spec.{key}.{at}");
        let rule = match key {
            "ingress" => {
                strict(node, &path).map(|r: api::NetworkPolicyIngressRule| (r.from, r.ports))
            }
            _ => strict(node, &path).map(|r: api::NetworkPolicyEgressRule| (r.to, r.ports)),
        };
        let peers_key = if key == "ingress" { "from" } else { "to" };
        let rule = rule.and_then(|(peers, ports)| {
            let peers = all(peers, &format!("{path}.{peers_key}"), peer)?;
            let ports = all(ports, &format!("{path}.ports"), port)?;
            if let Some(at) = ports.iter().flatten().position(Option::is_none) {
                let path = format!("{path}.ports.{at}");
                problems.push(head.place.warning(&path, sctp(key)));
            }
            Ok(Rule { peers, ports: ports.map(|ports| ports.into_iter().flatten().collect()) })
        });
        rule.unwrap_or_else(|fault| {
            let outcome = "the rule cannot be read, therefore CLOSED: it allows nothing";
            problems.push(fault.error(&head.place, outcome));
            Rule { peers: Some(Vec::new()), ports: None }
        })
    };
    nodes.unwrap_or_default().iter().enumerate().map(read).collect()
}

/// The elements of a list; `None`: it is empty or not there, which means anything.
fn all<T, U>(
    list: Option<Vec<T>>,
    path: &str,
    read: impl Fn(T) -> Result<U, String>,
) -> Result<Option<Vec<U>>, Fault> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
    let read =
        |(at, element)| read(element).map_err(|reason| Fault::at(format!("{path}.{at}"), reason));
    list.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

fn peer(written: api::NetworkPolicyPeer) -> Result<Peer, String> {
    match (written.ip_block, written.namespace_selector, written.pod_selector) {
        (Some(block), None, None) => {
            let net = subnet(&block.cidr)?;
            let except = block.except.unwrap_or_default();
            let except: Vec<Subnet> =
                except.iter().map(|text| subnet(text)).collect::<Result<_, _>>()?;
            let inside = |part: &Subnet| net.contains(part.address) && part.bits > net.bits;
            match except.iter().all(inside) {
                true => Ok(Peer::Block(net, except)),
                false => Err(format!("except: not all of it is within {}", block.cidr)),
            }
        }
        (None, None, None) => Err("a peer names pods, namespaces or an ipBlock".to_owned()),
        (None, namespaces, pods) => {
            let namespaces = namespaces.as_ref().map(selector).transpose()?;
            let pods = pods.as_ref().map(selector).transpose()?.unwrap_or_default();
            Ok(Peer::Pods(namespaces, pods))
        }
        (Some(_), ..) => Err("ipBlock stands alone in a peer".to_owned()),
    }
}

/// What becomes of SCTP, whatever rules say.
fn sctp(key: &str) -> String {
    let outcome = match key {
        "ingress" => "the workloads that it selects take no SCTP at all",
        _ => "what the workloads that it selects send by SCTP is dropped",
    };
    format!("SCTP is not judged by its ports: {outcome}")
}

/// `None`: SCTP, of which nothing passes.
fn port(written: api::NetworkPolicyPort) -> Result<Option<Port>, String> {
    let transport = match written.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Transport::Tcp,
        "UDP" => Transport::Udp,
        "SCTP" => return Ok(None),
        other => return Err(format!("protocol {other} is none of TCP, UDP and SCTP")),
    };
    let number = |value: i32| {
        let number = u16::try_from(value).ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{value} is no port number"))
    };
    let range =
        |first, last| Ok(Some(Port::Number(PortRange { transport: Some(transport), first, last })));
    match (written.port, written.end_port) {
        (None, None) => range(0, u16::MAX),
        (Some(IntOrString::Int(port)), None) => range(number(port)?, number(port)?),
        (Some(IntOrString::Int(port)), Some(end)) if end >= port => {
            range(number(port)?, number(end)?)
        }
        (Some(IntOrString::String(name)), None) if !name.is_empty() => {
            Ok(Some(Port::Named(name, transport)))
        }
        (Some(IntOrString::String(_)), None) => Err("port: an empty name".to_owned()),
        (_, Some(end)) => Err(format!("endPort {end} needs a port with a number not above it")),
    }
}

/// A label selector of the Kubernetes API.
pub(crate) fn selector(written: &meta::LabelSelector) -> Result<LabelSelector, String> {
    let mut selector =
        LabelSelector::equal(written.match_labels.as_ref().unwrap_or(&Default::default()));
    for expression in written.match_expressions.iter().flatten() {
        let (key, operator) = (&expression.key, expression.operator.as_str());
        let values = expression.values.clone().unwrap_or_default();
        let test = match (operator, values.is_empty()) {
            ("In", false) => LabelTest::In(values),
            ("NotIn", false) => LabelTest::NotIn(values),
            ("Exists", true) => LabelTest::Exists,
            ("DoesNotExist", true) => LabelTest::Absent,
            ("In" | "NotIn", true) => return Err(format!("{operator} of {key} needs values")),
            ("Exists" | "DoesNotExist", false) => {
                return Err(format!("{operator} of {key} takes no values"));
            }
            _ => {
                return Err(format!(
                    "operator {operator} of {key} is none of In, NotIn, Exists and DoesNotExist"
                ));
            }
        };
        selector.0.push((key.clone(), test));
    }
    Ok(selector)
}

impl NetworkPolicy {
    /// The policies that it is, among these namespaces and pods.
    pub(crate) fn policies(
        &self,
        namespaces: &mut Namespaces,
        pods: &mut Pods<'_>,
    ) -> impl Iterator<Item = AccessPolicy> {
        let mut of = |direction, rules: &Option<Vec<Rule>>| {
            let rules = rules.as_ref()?.iter();
            let rules = rules.map(|rule| self.rule(direction, rule, namespaces, pods));
            let rules = rules.chain(self.readable.then(|| own_node(direction))).collect();
            Some(AccessPolicy {
                name: self.name.clone(),
                layer: Layer::Network,
                direction,
                scope: self.scope.clone(),
                effect: Effect::Allow,
                dry_run: false,
                rules,
            })
        };
        let ingress = of(Direction::Ingress, &self.ingress);
        let egress = of(Direction::Egress, &self.egress);
        ingress.into_iter().chain(egress)
    }

    fn rule(
        &self,
        direction: Direction,
        rule: &Rule,
        namespaces: &mut Namespaces,
        pods: &mut Pods<'_>,
    ) -> AccessRule {
        let own = match &self.scope {
            Scope::Workloads(Some(namespace), _) => namespace.as_str(),
            _ => "",
        };
        let peers: Option<Vec<Vec<Clause>>> = rule.peers.as_ref().map(|peers| {
            peers.iter().map(|peer| clauses(direction, peer, own, namespaces)).collect()
        });
        let ports = rule.ports.as_ref().map(|ports| {
            let called = match (direction, &self.scope) {
                (Direction::Ingress, Scope::Workloads(namespace, labels)) => {
                    let namespaces = namespace.clone().map(|namespace| vec![namespace]);
                    vec![vec![is(Field::Called(vec![IdentityMatch::Workloads(
                        namespaces,
                        labels.clone(),
                    )]))]]
                }
                _ => peers.clone().unwrap_or_else(|| vec![Vec::new()]),
            };
            operations(ports, &called, pods)
        });
        // A list without entries would hold.
        let nothing = |list: &Option<Vec<_>>| list.as_ref().is_some_and(Vec::is_empty);
        if nothing(&peers) || nothing(&ports) {
            return never();
        }
        let (sources, operations) = (peers.unwrap_or_default(), ports.unwrap_or_default());
        AccessRule { sources, operations, conditions: Vec::new() }
    }
}

fn is(field: Field) -> Clause {
    Clause { field, negated: false }
}

/// What the other end must be like.
fn clauses(
    direction: Direction,
    peer: &Peer,
    own: &str,
    namespaces: &mut Namespaces,
) -> Vec<Clause> {
    let address = |nets| match direction {
        Direction::Ingress => Field::CallerAddress(nets),
        Direction::Egress => Field::CalledAddress(nets),
    };
    match peer {
        Peer::Block(net, except) => {
            let mut clauses = vec![is(address(vec![*net]))];
            if !except.is_empty() {
                clauses.push(Clause { field: address(except.clone()), negated: true });
            }
            clauses
        }
        Peer::Pods(selector, labels) => {
            let of = match selector {
                None => Some(vec![own.to_owned()]),
                Some(selector) => namespaces.selected(selector),
            };
            let wanted = vec![IdentityMatch::Workloads(of, labels.clone())];
            vec![is(match direction {
                Direction::Ingress => Field::Caller(wanted),
                Direction::Egress => Field::Called(wanted),
            })]
        }
    }
}

/// Alternatives for what is called. A name stands for a number on each pod that has it: where all
/// that may be called have the same it is that number, else there is an alternative for each number
/// with the addresses of the pods that have it.
fn operations(ports: &[Port], called: &[Vec<Clause>], pods: &mut Pods<'_>) -> Vec<Vec<Clause>> {
    let numbers = ports.iter().filter_map(|port| match port {
        Port::Number(range) => Some(*range),
        Port::Named(..) => None,
    });
    let mut numbers: Vec<PortRange> = numbers.collect();
    let mut operations = Vec::new();
    for port in ports {
        let Port::Named(name, transport) = port else { continue };
        let found = pods.named(name, *transport, called);
        for (number, addresses) in &found.numbers {
            let (first, last) = (*number, *number);
            let range = PortRange { transport: Some(*transport), first, last };
            if found.all_alike {
                numbers.push(range);
            } else {
                let nets = addresses.iter().map(|address| Subnet {
                    address: *address,
                    bits: if address.is_ipv4() { 32 } else { 128 },
                });
                let here = is(Field::CalledAddress(nets.collect()));
                operations.push(vec![here, is(Field::Port(vec![range]))]);
            }
        }
    }
    if !numbers.is_empty() {
        operations.insert(0, vec![is(Field::Port(numbers))]);
    }
    operations
}

/// "Traffic to and from the node where a Pod is running is always allowed" (Kubernetes' documentation
/// of NetworkPolicy): the kubelet's probes come from there.
fn own_node(direction: Direction) -> AccessRule {
    let host = vec![IdentityMatch::Entity(Entity::Host)];
    let field = match direction {
        Direction::Ingress => Field::Caller(host),
        Direction::Egress => Field::Called(host),
    };
    AccessRule { conditions: vec![is(field)], ..AccessRule::default() }
}
