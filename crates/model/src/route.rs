//! Routing rules: what they match and what they do.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::mesh::ClusterId;
use crate::policy::{HeaderEdits, PathRewrite, Policy, Rewrite};

/// One rule of a service port. Rules are ordered; the first whose match holds wins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    /// Where it came from, for people: `VirtualService default/reviews http[0]`.
    pub name: String,
    /// Alternatives: one must hold. Empty matches every request.
    pub matches: Vec<Match>,
    /// What happens to a request that it matches.
    pub action: Action,
    /// What else is done to it; `None`: nothing.
    pub policy: Option<Box<Policy>>,
    /// Why only the userspace proxy can carry this action out (a retry, a timeout, a rewrite ...).
    /// `None`: the kernel may.
    pub detour: Option<String>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Match {
    /// On the normalised path; `None` matches any.
    pub path: Option<PathMatch>,
    /// Compare the path without regard to ASCII case.
    pub ignore_path_case: bool,
    /// Host names, one of which must match; empty matches any. `*.` in front is a wildcard for one
    /// or more labels.
    pub hosts: Vec<String>,
    /// On the method token.
    pub method: Option<StringMatch>,
    /// On the scheme.
    pub scheme: Option<StringMatch>,
    /// On header fields.
    pub headers: Vec<HeaderMatch>,
    /// On query parameters.
    pub query: Vec<QueryMatch>,
    /// On who calls; one of these must hold, empty matches any caller.
    pub sources: Vec<SourceMatch>,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Istio's prefix: the first bytes.
    Prefix(String),
    /// Gateway API's prefix: whole segments; `/foo` matches `/foo`, `/foo/` and `/foo/bar`.
    Segments(String),
    /// RE2 syntax, the whole path.
    Regex(String),
}

/// How a string is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// RE2 syntax, the whole string.
    Regex(String),
    /// There, with any value (also an empty one).
    Present,
}

/// A condition on one header field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HeaderMatch {
    /// Name in lower case. `host` stands for the authority as sent.
    pub name: String,
    /// The comparison.
    pub value: StringMatch,
    /// The comparison must fail (Istio's `withoutHeaders`); an absent field passes.
    pub invert: bool,
}

/// A condition on one query parameter (the first of that name).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct QueryMatch {
    /// Name, case-sensitive.
    pub name: String,
    /// The comparison.
    pub value: StringMatch,
}

/// A condition on the calling workload. An unknown caller never satisfies it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct SourceMatch {
    /// Its namespace.
    pub namespace: Option<String>,
    /// Labels that it must carry.
    pub labels: BTreeMap<String, String>,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Action {
    /// Send to one of the backends, drawn by weight. No backend, or none with a weight: 500 for
    /// Gateway API's sake; an unknown backend is [`Backend::cluster`] `None` and answers 500 for
    /// its share.
    Forward(Vec<Backend>),
    /// Answer without asking anybody.
    Respond {
        /// HTTP status.
        status: u16,
        /// Body, `text/plain`.
        body: String,
    },
    /// Send the client elsewhere. [`Rule::detour`] is always set.
    Redirect(Box<Redirect>),
}

/// Where a redirect leads. What is not given stays as in the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host; a port that it has counts with [`RedirectPort::Keep`] alone.
    pub host: Option<String>,
    /// How the port of the new location comes about.
    pub port: RedirectPort,
    /// Path; the query stays, unless the new path has one of its own.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The port in a redirect's location.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum RedirectPort {
    /// That of the new host if there is one, even if it has none; else that of the request's Host,
    /// unless the scheme changes and it is the old scheme's default (Istio).
    #[default]
    Keep,
    /// This one; left out where it is the scheme's default.
    Number(u16),
    /// The well-known port of the scheme: none is written (Istio's `FROM_PROTOCOL_DEFAULT`).
    SchemeDefault,
    /// The port that the request came to; left out where it is the scheme's default (Istio's
    /// `FROM_REQUEST_PORT`, and Gateway API's default when no scheme is given).
    Listener,
}

/// A share of the traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Where to; `None` when the configuration names something that is not there: 500.
    pub cluster: Option<ClusterId>,
    /// Relative weight, 0 is never drawn.
    pub weight: u32,
    /// What is done to the requests of this share; `None`: nothing.
    pub policy: Option<Box<BackendPolicy>>,
}

/// What is done to the requests of one backend. [`Rule::detour`] is set where one has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackendPolicy {
    /// Changes to the request, before those of the rule.
    pub request_headers: HeaderEdits,
    /// Changes to the answer, before those of the rule.
    pub response_headers: HeaderEdits,
    /// Change of path and authority, instead of the rule's.
    pub rewrite: Rewrite,
}
