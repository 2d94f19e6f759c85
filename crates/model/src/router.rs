//! The reference router: small, obvious, and right by definition.
//!
//! Rules
//! 1. No rules attached to the port: the port's own cluster.
//! 2. Rules are tried in order. A rule holds when one of its matches holds, or when it has none.
//!    The first that holds decides; none holds: 404.
//! 3. Of several backends one is drawn by weight with [`scale`]. No backend, no weight, or a
//!    backend that is not there: 500.
//!
//! Matches: every condition that is given must hold.
//!
//! 4. Path, as [`crate::request`] normalises it. *Exact*: equal. *Prefix*: begins with.
//!    *Segments*: equal, or begins with it and goes on with `/`; slashes at the pattern's end do
//!    not count. *Regex*: rule 9. `ignore_path_case` folds ASCII letters of both.
//! 5. Hosts: one of them equals the host, or is `*` with a suffix that the host ends with and has
//!    something in front of. Case is ignored.
//! 6. Method and scheme, as sent, with their case.
//! 7. Each header: it is there and its value holds. Inverted: it is not there, or its value does
//!    not hold. *Present* holds for every value.
//! 8. Each query parameter: it is there and its first value holds.
//! 9. A regex is RE2 syntax and holds for the whole of a value: `$` is the end of the text, `.` is
//!    anything but a line feed, flags like `(?i)` count within the pattern. One that does not
//!    compile holds for nothing, and none holds for a value that is not UTF-8.
//! 10. Sources: one of them is of the caller's namespace (if it names one) and has labels that the
//!     caller has. Nobody in particular meets none.

use std::borrow::Cow;

use serde::Serialize;

use crate::mesh::{ClusterId, ServicePort, scale};
use crate::pattern;
use crate::request::Request;
use crate::route::{
    Action, Backend, HeaderMatch, Match, PathMatch, QueryMatch, SourceMatch, StringMatch,
};

/// What the router says of one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Index of the rule that decided; `None` when no rule did.
    pub rule: Option<usize>,
    /// Index of the rule's match that held; `None` when it has none.
    pub matched: Option<usize>,
    /// Index of the rule's backend that was drawn.
    pub backend: Option<usize>,
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
    /// The client is sent elsewhere; the rule says where.
    Redirect,
}

/// Routes one request. `draw` is a uniformly distributed random number; the same draw gives the
/// same answer.
pub fn route(port: &ServicePort, request: &Request<'_>, draw: u32) -> Decision {
    let Some(rules) = &port.rules else {
        return Decision::forward(port.cluster);
    };
    let path = request.path();
    let host = request.host();
    for (index, rule) in rules.iter().enumerate() {
        let matched = rule.matches.iter().position(|m| holds(m, request, &path, &host));
        if matched.is_some() || rule.matches.is_empty() {
            return decide(index, matched, &rule.action, draw);
        }
    }
    Decision::answer(404)
}

fn decide(rule: usize, matched: Option<usize>, action: &Action, draw: u32) -> Decision {
    let decision = match action {
        Action::Forward(backends) => {
            let drawn = draw_index(backends, draw);
            let cluster = drawn.and_then(|index| backends[index].cluster);
            let decision = cluster.map_or_else(|| Decision::answer(500), Decision::forward);
            Decision { backend: drawn, ..decision }
        }
        Action::Respond { status, body } => {
            let outcome = Outcome::Respond { status: *status, body: body.clone() };
            Decision { outcome, ..Decision::answer(*status) }
        }
        Action::Redirect(_) => Decision { outcome: Outcome::Redirect, ..Decision::answer(0) },
    };
    Decision { rule: Some(rule), matched, ..decision }
}

impl Decision {
    fn forward(cluster: ClusterId) -> Decision {
        Decision { rule: None, matched: None, backend: None, outcome: Outcome::Forward(cluster) }
    }

    fn answer(status: u16) -> Decision {
        let outcome = Outcome::Respond { status, body: String::new() };
        Decision { rule: None, matched: None, backend: None, outcome }
    }
}

/// The backend that a draw chooses; `None` stands for a backend that answers 500.
pub fn draw_backend(backends: &[Backend], draw: u32) -> Option<ClusterId> {
    backends[draw_index(backends, draw)?].cluster
}

fn draw_index(backends: &[Backend], draw: u32) -> Option<usize> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let mut point = scale(draw, total);
    backends.iter().position(|backend| {
        let weight = u64::from(backend.weight);
        let hit = point < weight;
        point = point.saturating_sub(weight);
        hit
    })
}

/// Whether all conditions hold for a request.
pub(crate) fn matches(m: &Match, request: &Request<'_>) -> bool {
    holds(m, request, &request.path(), &request.host())
}

fn holds(m: &Match, request: &Request<'_>, path: &str, host: &str) -> bool {
    m.path.as_ref().is_none_or(|p| path_holds(p, m.ignore_path_case, path))
        && (m.hosts.is_empty() || m.hosts.iter().any(|pattern| host_holds(pattern, host)))
        && m.method.as_ref().is_none_or(|s| string_holds(s, request.method.as_bytes()))
        && m.scheme.as_ref().is_none_or(|s| string_holds(s, request.scheme.as_bytes()))
        && m.headers.iter().all(|h| header_holds(h, request))
        && m.query.iter().all(|q| query_holds(q, request))
        && (m.sources.is_empty() || m.sources.iter().any(|s| source_holds(s, request)))
}

fn path_holds(pattern: &PathMatch, ignore_case: bool, path: &str) -> bool {
    match pattern {
        PathMatch::Exact(wanted) => fold(path, ignore_case) == fold(wanted, ignore_case),
        PathMatch::Prefix(wanted) => {
            fold(path, ignore_case).starts_with(&*fold(wanted, ignore_case))
        }
        PathMatch::Segments(wanted) => {
            let wanted = fold(wanted.trim_end_matches('/'), ignore_case);
            let path = fold(path, ignore_case);
            path.strip_prefix(&*wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(wanted) => regex_holds(wanted, ignore_case, path.as_bytes()),
    }
}

fn fold(s: &str, ignore_case: bool) -> Cow<'_, str> {
    if ignore_case { s.to_ascii_lowercase().into() } else { s.into() }
}

fn host_holds(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.as_bytes(), host.as_bytes());
    match pattern.strip_prefix(b"*") {
        Some(suffix) => host
            .len()
            .checked_sub(suffix.len())
            .is_some_and(|at| at > 0 && host[at..].eq_ignore_ascii_case(suffix)),
        None => host.eq_ignore_ascii_case(pattern),
    }
}

pub(crate) fn string_holds(pattern: &StringMatch, value: &[u8]) -> bool {
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

fn query_holds(m: &QueryMatch, request: &Request<'_>) -> bool {
    request.query_param(&m.name).is_some_and(|value| string_holds(&m.value, value.as_bytes()))
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

/// Rule 9.
fn regex_holds(pattern: &str, ignore_case: bool, value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else {
        return false;
    };
    pattern::whole(pattern, ignore_case).is_some_and(|regex| regex.is_match(value))
}
