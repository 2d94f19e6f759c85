//! What policies say of a request, for each endpoint that it may be for.

use std::net::{IpAddr, SocketAddr};

use beeway_model::access::{Access, Call, Decider, Party, evaluate};
use beeway_model::{Bucket, Mesh, Protocol, Transport};
use serde::Serialize;

use super::asked::Asked;

/// The policies' answer for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policies {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The workload behind it.
    pub workload: String,
    /// It may go there, once those in `asks` have said so.
    pub allowed: bool,
    /// The policy that decides; none applies: everybody may.
    pub policy: Option<String>,
    /// Its rule, from 0. Denied without one: it would have had to allow, and has no rule that does.
    pub rule: Option<usize>,
    /// CUSTOM policies whose provider is asked first.
    pub asks: Vec<String>,
    /// Policies that report it and do nothing (AUDIT, dry run).
    pub reports: Vec<String>,
    /// Token buckets of which it needs one each.
    pub limits: Vec<String>,
}

/// What the reference evaluator says of the request to an endpoint.
pub fn judge(mesh: &Mesh, asked: &Asked<'_>, endpoint: SocketAddr) -> Access {
    let party = |address: IpAddr| Party { address, identity: mesh.identity_at(address) };
    let request = asked.request();
    let http = matches!(asked.port.protocol, Protocol::Http | Protocol::Http2);
    let call = Call {
        caller: party(asked.source_ip),
        called: party(endpoint.ip()),
        port: endpoint.port(),
        transport: Transport::Tcp,
        services: &asked.services,
        sni: None,
        request: http.then_some(&request),
    };
    evaluate(mesh.access.iter().enumerate(), &call)
}

/// A verdict of policies in words: by which, and which rule of it, from 0.
pub fn words(allowed: bool, policy: Option<&str>, rule: Option<usize>) -> String {
    let verdict = if allowed { "allowed" } else { "denied" };
    match (policy, rule) {
        (None, _) => "no policy applies".to_owned(),
        (Some(policy), Some(rule)) => format!("{verdict} by {policy}, rule {}", rule + 1),
        (Some(policy), None) => format!("denied: {policy} has no rule that allows it"),
    }
}

/// The buckets that the request needs a token of, in words.
fn limits(mesh: &Mesh, asked: &Asked<'_>, endpoint: SocketAddr) -> Vec<String> {
    if !matches!(asked.port.protocol, Protocol::Http | Protocol::Http2) {
        return Vec::new();
    }
    let called = mesh.workload_at(endpoint.ip());
    let limits = called.into_iter().flat_map(|w| mesh.rate_limits(w, endpoint.port()));
    let limits = limits.filter(|(_, limit)| limit.enabled > 0);
    let mut found = Vec::new();
    for (limiter, limit) in limits {
        for Bucket { capacity, fill, interval, per_caller, .. } in limit.buckets(&asked.request()) {
            let whose = if *per_caller { " for each caller" } else { "" };
            let refused = match limit.enforced {
                0 => "counted".to_owned(),
                _ => format!("answered {}", limit.status),
            };
            found.push(format!(
                "{} ({capacity} at most{whose}, {fill} each {interval:?}; {refused} without one)",
                limiter.name
            ));
        }
    }
    found
}

impl Policies {
    /// For an endpoint; `workload` names it.
    pub fn of(mesh: &Mesh, asked: &Asked<'_>, endpoint: SocketAddr, workload: &str) -> Policies {
        let Access { allowed, by, ask, audit, dry_run } = judge(mesh, asked, endpoint);
        let name = |decider: &Decider| mesh.access[decider.policy].name.clone();
        Policies {
            endpoint,
            workload: workload.to_owned(),
            allowed,
            policy: by.as_ref().map(name),
            rule: by.and_then(|by| by.rule),
            asks: ask.iter().map(name).collect(),
            reports: audit.iter().chain(&dry_run).map(name).collect(),
            limits: limits(mesh, asked, endpoint),
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        let by = words(self.allowed, self.policy.as_deref(), self.rule);
        let list = |what: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!("; {what} {}", names.join(", ")),
        };
        by + &list("asks the provider of", &self.asks)
            + &list("reported by", &self.reports)
            + &list("needs a token of", &self.limits)
    }
}
