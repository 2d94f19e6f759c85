//! The `matches` of a route's rule.

use beeway_model::{HeaderMatch, Match, PathMatch, Protocol, QueryMatch, StringMatch};

use crate::gateway::{Field, GrpcMatch, GrpcMethod, RouteMatch};
use crate::layer::check_regex;
use crate::problem::Report;

/// One alternative of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub request: Match,
    /// How specific its path is. HTTP: the kind, then the length as written. gRPC: the lengths of
    /// service and method.
    pub path_rank: (usize, usize),
}

/// What is written of an alternative. The default holds for all that its kind of route is for.
pub(crate) trait Alternative: Default {
    /// The kind of route that it is for.
    const KIND: &'static str;
    /// What is spoken on a port that says nothing and has such a route.
    const PROTOCOL: Protocol;

    /// Reads it. Anything that is not understood is an error.
    fn condition(&self, report: &mut Report<'_>) -> Condition;
}

impl Condition {
    /// Whether its path is of type PathPrefix. (That of `/` holds for every path, and is left out.)
    pub(crate) fn is_prefix(&self) -> bool {
        matches!(self.request.path, None | Some(PathMatch::Segments(_)))
    }
}

impl Alternative for RouteMatch {
    const KIND: &'static str = "HTTPRoute";
    const PROTOCOL: Protocol = Protocol::Http;

    fn condition(&self, report: &mut Report<'_>) -> Condition {
        let (path, path_rank) = path_match(self, report);
        let mut request = Match { path, ..Match::default() };
        request.method = self.method.clone().map(StringMatch::Exact);
        request.headers = headers(&self.headers, report);
        for (at, field) in self.query_params.iter().enumerate() {
            if request.query.iter().all(|q| q.name != field.name) {
                let value = value(&format!("queryParams.{at}"), field, report);
                request.query.push(QueryMatch { name: field.name.clone(), value });
            }
        }
        Condition { request, path_rank }
    }
}

/// A request of gRPC is a POST to `/service/method`
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
impl Alternative for GrpcMatch {
    const KIND: &'static str = "GRPCRoute";
    const PROTOCOL: Protocol = Protocol::Http2;

    fn condition(&self, report: &mut Report<'_>) -> Condition {
        let request = Match {
            path: self.method.as_ref().and_then(|method| grpc_path(method, report)),
            method: Some(StringMatch::Exact("POST".to_owned())),
            headers: headers(&self.headers, report),
            ..Match::default()
        };
        let length = |name: Option<&String>| name.map_or(0, String::len);
        let method = self.method.as_ref();
        let path_rank = (
            length(method.and_then(|method| method.service.as_ref())),
            length(method.and_then(|method| method.method.as_ref())),
        );
        Condition { request, path_rank }
    }
}

fn grpc_path(method: &GrpcMethod, report: &mut Report<'_>) -> Option<PathMatch> {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let (service, name) = (given(&method.service), given(&method.method));
    if service.is_none() && name.is_none() {
        report.error("method", "a method match has a service or a method");
        return None;
    }
    let any = || "[^/]+".to_owned();
    match (method.kind.as_deref().unwrap_or("Exact"), service, name) {
        ("Exact", Some(service), Some(name)) => {
            Some(PathMatch::Exact(format!("/{service}/{name}")))
        }
        ("Exact", Some(service), None) => Some(PathMatch::Prefix(format!("/{service}/"))),
        ("Exact", None, name) => {
            let name = regex::escape(&name.unwrap_or_default());
            Some(PathMatch::Regex(format!("/{}/{name}", any())))
        }
        ("RegularExpression", service, name) => {
            for pattern in service.iter().chain(&name) {
                if let Err(reason) = check_regex(pattern) {
                    report.error("method", reason);
                }
            }
            let (service, name) = (service.unwrap_or_else(any), name.unwrap_or_else(any));
            Some(PathMatch::Regex(format!("/(?:{service})/(?:{name})")))
        }
        (other, ..) => {
            report.error("method.type", format!("match type {other} is not known"));
            None
        }
    }
}

fn headers(fields: &[Field], report: &mut Report<'_>) -> Vec<HeaderMatch> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        let name = field.name.to_ascii_lowercase();
        // The first match of a name counts; the rest must be ignored, says the specification.
        if headers.iter().all(|h| h.name != name) {
            let value = value(&format!("headers.{at}"), field, report);
            headers.push(HeaderMatch { name, value, invert: false });
        }
    }
    headers
}

fn path_match(m: &RouteMatch, report: &mut Report<'_>) -> (Option<PathMatch>, (usize, usize)) {
    let kind = m.path.as_ref().and_then(|p| p.kind.as_deref()).unwrap_or("PathPrefix");
    let value = m.path.as_ref().and_then(|p| p.value.as_deref()).unwrap_or("/");
    if kind != "RegularExpression" && !value.starts_with('/') {
        report.error("path.value", format!("path `{value}` does not begin with /"));
    }
    match kind {
        "Exact" => (Some(PathMatch::Exact(value.to_owned())), (3, value.len())),
        // Every path begins with `/`.
        "PathPrefix" if value == "/" => (None, (2, 1)),
        "PathPrefix" => (Some(PathMatch::Segments(value.to_owned())), (2, value.len())),
        "RegularExpression" => {
            if let Err(reason) = check_regex(value) {
                report.error("path.value", reason);
            }
            (Some(PathMatch::Regex(value.to_owned())), (1, value.len()))
        }
        other => {
            report.error("path.type", format!("path type {other} is not known"));
            (None, (0, 0))
        }
    }
}

fn value(part: &str, field: &Field, report: &mut Report<'_>) -> StringMatch {
    match field.kind.as_deref() {
        None | Some("Exact") => StringMatch::Exact(field.value.clone()),
        Some("RegularExpression") => {
            if let Err(reason) = check_regex(&field.value) {
                report.error(part, reason);
            }
            StringMatch::Regex(field.value.clone())
        }
        Some(other) => {
            report.error(part, format!("match type {other} is not known"));
            StringMatch::Present
        }
    }
}
