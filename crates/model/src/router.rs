//! The reference router: small, obvious, and right by definition.
//!
//! 1. Rules are tried in order; a rule holds when one of its matches holds, or it has none.
//! 2. In a match every condition given must hold: path, hosts, method, scheme, each header, each
//!    query parameter, one of the sources.
//! 3. The first rule that holds decides. No rules attached: the port's own cluster. Rules attached
//!    and none holds: 404.
//! 4. Of several backends one is drawn by weight with [`scale`].

use regex::Regex;
use serde::Serialize;

use crate::mesh::{ClusterId, ServicePort, scale};
use crate::request::Request;
use crate::route::{
    Action, Backend, HeaderMatch, Match, PathMatch, QueryMatch, SourceMatch, StringMatch,
};

/// What the router says of one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Index of the rule that decided; `None` when no rule did.
    pub rule: Option<usize>,
    /// What to do.
    pub outcome: Outcome,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Outcome {
    /// To an endpoint of this cluster.
    Forward(ClusterId),
    /// Answered at once.
    Respond {
        /// HTTP status.
        status: u16,
        /// Body, `text/plain`; may be empty.
        body: String,
    },
}

/// Routes one request. `draw` is a uniformly distributed random number; the same draw gives the
/// same answer.
pub fn route(port: &ServicePort, request: &Request<'_>, draw: u32) -> Decision {
    let Some(rules) = &port.rules else {
        return Decision { rule: None, outcome: Outcome::Forward(port.cluster) };
    };
    let path = request.path();
    let host = request.host();
    let held = rules.iter().position(|rule| {
        rule.matches.is_empty() || rule.matches.iter().any(|m| holds(m, request, &path, &host))
    });
    let outcome = match held.map(|index| &rules[index].action) {
        Some(Action::Forward(backends)) => match draw_backend(backends, draw) {
            Some(cluster) => Outcome::Forward(cluster),
            None => Outcome::Respond { status: 500, body: String::new() },
        },
        Some(Action::Respond { status, body }) => {
            Outcome::Respond { status: *status, body: body.clone() }
        }
        None => Outcome::Respond { status: 404, body: String::new() },
    };
    Decision { rule: held, outcome }
}

/// The backend that a draw chooses; `None` stands for a backend that answers 500.
pub fn draw_backend(backends: &[Backend], draw: u32) -> Option<ClusterId> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let mut point = scale(draw, total);
    for backend in backends {
        let weight = u64::from(backend.weight);
        if point < weight {
            return backend.cluster;
        }
        point -= weight;
    }
    None
}

fn holds(m: &Match, request: &Request<'_>, path: &str, host: &str) -> bool {
    m.path.as_ref().is_none_or(|p| path_holds(p, m.ignore_path_case, path))
        && (m.hosts.is_empty() || m.hosts.iter().any(|pattern| host_holds(pattern, host)))
        && m.method.as_ref().is_none_or(|s| string_holds(s, request.method.as_bytes()))
        && m.scheme.as_ref().is_none_or(|s| string_holds(s, request.scheme.as_bytes()))
        && m.headers.iter().all(|h| header_holds(h, request))
        && m.query.iter().all(|q| query_holds(q, request.query()))
        && (m.sources.is_empty() || m.sources.iter().any(|s| source_holds(s, request)))
}

fn path_holds(pattern: &PathMatch, ignore_case: bool, path: &str) -> bool {
    let fold = |s: &str| {
        if ignore_case { s.to_ascii_lowercase() } else { s.to_owned() }
    };
    match pattern {
        PathMatch::Exact(wanted) => fold(path) == fold(wanted),
        PathMatch::Prefix(wanted) => fold(path).starts_with(&fold(wanted)),
        PathMatch::Segments(wanted) => {
            let (path, wanted) = (fold(path), fold(wanted.trim_end_matches('/')));
            path.strip_prefix(&wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(wanted) => regex_holds(wanted, ignore_case, path.as_bytes()),
    }
}

fn host_holds(pattern: &str, host: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == pattern,
    }
}

fn string_holds(pattern: &StringMatch, value: &[u8]) -> bool {
    match pattern {
        StringMatch::Exact(wanted) => value == wanted.as_bytes(),
        StringMatch::Prefix(wanted) => value.starts_with(wanted.as_bytes()),
        StringMatch::Regex(wanted) => regex_holds(wanted, false, value),
        StringMatch::Present => true,
    }
}

fn header_holds(m: &HeaderMatch, request: &Request<'_>) -> bool {
    let held = request.header(&m.name).is_some_and(|value| string_holds(&m.value, &value));
    held != m.invert
}

fn query_holds(m: &QueryMatch, query: &str) -> bool {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == m.name)
        .is_some_and(|(_, value)| string_holds(&m.value, value.as_bytes()))
}

fn source_holds(m: &SourceMatch, request: &Request<'_>) -> bool {
    request.source.is_some_and(|source| m.holds(&source.namespace, &source.labels))
}

impl SourceMatch {
    /// Whether a workload of this namespace with these labels satisfies the condition.
    pub fn holds(
        &self,
        namespace: &str,
        labels: &std::collections::BTreeMap<String, String>,
    ) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// A regex that does not compile matches nothing; the configuration crate reports it.
fn regex_holds(pattern: &str, ignore_case: bool, value: &[u8]) -> bool {
    let flags = if ignore_case { "(?i)" } else { "" };
    let Ok(value) = std::str::from_utf8(value) else {
        return false;
    };
    Regex::new(&format!("^{flags}(?:{pattern})$")).is_ok_and(|regex| regex.is_match(value))
}
