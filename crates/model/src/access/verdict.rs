//! The reference evaluator: small, obvious, and right by definition.

use std::borrow::Borrow;
use std::net::IpAddr;

use serde::Serialize;

use super::identity::{Identity, IdentityMatch, Party};
use super::policy::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, Layer, PortRange, Scope, Text,
};
use crate::mesh::Transport;
use crate::request::Request;
use crate::stream::Subnet;

/// A call, as far as policies look at it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Who calls.
    pub caller: Party<'a>,
    /// The endpoint that is to serve it.
    pub called: Party<'a>,
    /// Its port (host byte order).
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// The services that are called: the one whose address the client used, or all behind which the
    /// endpoint stands. Namespace and name.
    pub services: &'a [(&'a str, &'a str)],
    /// The name in the ClientHello, if it is known.
    pub sni: Option<&'a str>,
    /// The request; `None`: a connection that is not HTTP.
    pub request: Option<&'a Request<'a>>,
}

/// A policy, and the rule of it that matched (none: that it has no rule that does).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Decider {
    /// Index into the policies that were given.
    pub policy: usize,
    /// Index into its rules.
    pub rule: Option<usize>,
}

/// What policies say of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    /// It may go on, once those in `ask` have said so.
    pub allowed: bool,
    /// Which policy decided: the rule that denied or allowed; denied without a rule, the first of
    /// those that would have had to allow. `None`: no policy applies.
    pub by: Option<Decider>,
    /// CUSTOM policies that match: their providers come first, whatever `allowed` says.
    pub ask: Vec<Decider>,
    /// AUDIT policies that match.
    pub audit: Vec<Decider>,
    /// Policies in dry run with a rule that matches.
    pub dry_run: Vec<Decider>,
}

/// Whether a policy is about a call.
pub fn applies(policy: &AccessPolicy, call: &Call<'_>) -> bool {
    let party = match policy.direction {
        Direction::Ingress => call.called,
        Direction::Egress => call.caller,
    };
    match &policy.scope {
        Scope::Services(services) => call
            .services
            .iter()
            .any(|(namespace, name)| services.iter().any(|s| s.0 == *namespace && s.1 == *name)),
        Scope::Workloads(namespace, labels) => party.identity.workload().is_some_and(|workload| {
            namespace.as_ref().is_none_or(|wanted| *wanted == workload.namespace)
                && labels.holds(&workload.labels)
        }),
    }
}

/// What policies say of a call. Those that do not apply may be left out. Where the network does not
/// let it pass, nobody sees the call: nothing is asked or reported.
pub fn evaluate<'a, P: Borrow<AccessPolicy> + 'a>(
    policies: impl IntoIterator<Item = (usize, &'a P)>,
    call: &Call<'_>,
) -> Access {
    let policies = policies.into_iter().map(|(index, policy)| (index, policy.borrow()));
    let applying: Vec<_> = policies.filter(|(_, policy)| applies(policy, call)).collect();
    let mut access = Access { allowed: true, ..Access::default() };
    if !is_to_itself(call) {
        for direction in [Direction::Egress, Direction::Ingress] {
            allow(&mut access, &applying, (Layer::Network, direction), call);
        }
    }
    if !access.allowed {
        return access;
    }
    let report = |wanted: &dyn Fn(&AccessPolicy) -> bool| -> Vec<Decider> {
        let wanted = applying.iter().filter(|(_, policy)| wanted(policy));
        wanted.filter_map(|(index, policy)| matched(*index, policy, call)).collect()
    };
    access.dry_run = report(&|policy| policy.dry_run);
    access.audit = report(&|policy| !policy.dry_run && policy.effect == Effect::Audit);
    access.ask = report(&|policy| !policy.dry_run && matches!(policy.effect, Effect::Custom(_)));
    let deny = report(&|policy| !policy.dry_run && policy.effect == Effect::Deny);
    if let Some(decider) = deny.first() {
        return Access { allowed: false, by: Some(*decider), ..access };
    }
    allow(&mut access, &applying, (Layer::Authorization, Direction::Ingress), call);
    access
}

/// Rule 7. The address alone says nothing: who has another one may have taken this.
fn is_to_itself(call: &Call<'_>) -> bool {
    let (caller, called) = (call.caller, call.called);
    caller.address.to_canonical() == called.address.to_canonical()
        && caller.identity == called.identity
}

/// Closes what no rule of the allowing policies of a layer matches, if there are such policies.
fn allow(
    access: &mut Access,
    applying: &[(usize, &AccessPolicy)],
    of: (Layer, Direction),
    call: &Call<'_>,
) {
    let mut allowing = applying.iter().filter(|(_, policy)| {
        policy.effect == Effect::Allow && !policy.dry_run && (policy.layer, policy.direction) == of
    });
    let Some(first) = allowing.clone().next().filter(|_| access.allowed) else { return };
    let held = allowing.find_map(|(index, policy)| matched(*index, policy, call));
    access.allowed = held.is_some();
    access.by = held.or(Some(Decider { policy: first.0, rule: None }));
}

/// The first rule of a policy that matches.
fn matched(index: usize, policy: &AccessPolicy, call: &Call<'_>) -> Option<Decider> {
    let rule = policy.rules.iter().position(|rule| matches(rule, &policy.effect, call))?;
    Some(Decider { policy: index, rule: Some(rule) })
}

fn matches(rule: &AccessRule, effect: &Effect, call: &Call<'_>) -> bool {
    let allows = *effect == Effect::Allow;
    // Rule 5: one clause on HTTP anywhere costs an allowing rule.
    if allows && call.request.is_none() && rule.clauses().any(|clause| clause.field.is_http()) {
        return false;
    }
    let all = |clauses: &Vec<Clause>| clauses.iter().all(|clause| holds(clause, allows, call));
    let one = |lists: &Vec<Vec<Clause>>| lists.is_empty() || lists.iter().any(all);
    one(&rule.sources) && one(&rule.operations) && all(&rule.conditions)
}

fn holds(clause: &Clause, allows: bool, call: &Call<'_>) -> bool {
    if let Field::Token(_) = clause.field {
        return !allows;
    }
    if clause.field.is_http() && call.request.is_none() {
        return !allows;
    }
    field_holds(&clause.field, call) != clause.negated
}

fn field_holds(field: &Field, call: &Call<'_>) -> bool {
    let text = |texts: &[Text], value: &[u8]| texts.iter().any(|text| text.holds(value));
    let request = |test: &dyn Fn(&Request<'_>) -> bool| call.request.is_some_and(test);
    match field {
        Field::Caller(wanted) => is_one(wanted, call.caller.identity),
        Field::Called(wanted) => is_one(wanted, call.called.identity),
        Field::CallerAddress(subnets) => contain(subnets, call.caller.address),
        Field::RemoteAddress(subnets) => contain(subnets, remote_address(call)),
        Field::CalledAddress(subnets) => contain(subnets, call.called.address),
        Field::Port(ranges) => ranges.iter().any(|range| range.holds(call.transport, call.port)),
        Field::Sni(texts) => call.sni.is_some_and(|name| text(texts, name.as_bytes())),
        Field::Method(texts) => request(&|r| text(texts, r.method.as_bytes())),
        Field::Path(tests) => request(&|r| {
            let path = r.path();
            tests.iter().any(|test| test.holds(&path))
        }),
        Field::Host(texts) => {
            request(&|r| texts.iter().any(|text| text.holds_in_any_case(r.authority.as_bytes())))
        }
        Field::Header(name, texts) => {
            request(&|r| r.header(name).is_some_and(|value| text(texts, &value)))
        }
        Field::Token(_) => false,
    }
}

fn is_one(wanted: &[IdentityMatch], identity: Identity<'_>) -> bool {
    wanted.iter().any(|wanted| wanted.holds(identity))
}

fn contain(subnets: &[Subnet], address: IpAddr) -> bool {
    subnets.iter().any(|subnet| subnet.contains(address))
}

/// The last address of `x-forwarded-for`, or else the caller's.
fn remote_address(call: &Call<'_>) -> IpAddr {
    let forwarded = call.request.and_then(|request| request.header("x-forwarded-for"));
    let last = forwarded.and_then(|value| {
        let text = std::str::from_utf8(&value).ok()?;
        text.rsplit(',').next()?.trim().parse().ok()
    });
    last.unwrap_or(call.caller.address)
}

impl PortRange {
    /// Whether a port is in it.
    pub fn holds(&self, transport: Transport, port: u16) -> bool {
        self.transport.is_none_or(|wanted| wanted == transport)
            && (self.first..=self.last).contains(&port)
    }
}
