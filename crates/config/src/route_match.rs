//! The `matches` of an HTTPRoute's rule.

use beeway_model::{HeaderMatch, Match, PathMatch, QueryMatch, StringMatch};

use crate::gateway::{Field, RouteMatch};
use crate::layer::check_regex;
use crate::objects::Place;
use crate::problem::Problem;

/// One alternative of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub request: Match,
    /// How specific its path is: the kind, then the length as written.
    pub path_rank: (u8, usize),
}

impl Condition {
    /// Whether its path is of type PathPrefix. (That of `/` holds for every path, and is left out.)
    pub(crate) fn is_prefix(&self) -> bool {
        matches!(self.request.path, None | Some(PathMatch::Segments(_)))
    }
}

/// Reads the match at `path` of an object. Anything that is not understood is an error.
pub(crate) fn condition(
    place: &Place,
    path: &str,
    m: &RouteMatch,
    problems: &mut Vec<Problem>,
) -> Condition {
    let mut wrong = |part: &str, reason: String| {
        problems.push(place.error(&format!("{path}.{part}"), reason));
    };
    let (path, path_rank) = path_match(m, &mut wrong);
    let mut request = Match { path, ..Match::default() };
    request.method = m.method.clone().map(StringMatch::Exact);
    for (at, field) in m.headers.iter().enumerate() {
        let name = field.name.to_ascii_lowercase();
        // The first match of a name counts; the rest must be ignored, says the specification.
        if request.headers.iter().all(|h| h.name != name) {
            let value = value(&format!("headers.{at}"), field, &mut wrong);
            request.headers.push(HeaderMatch { name, value, invert: false });
        }
    }
    for (at, field) in m.query_params.iter().enumerate() {
        if request.query.iter().all(|q| q.name != field.name) {
            let value = value(&format!("queryParams.{at}"), field, &mut wrong);
            request.query.push(QueryMatch { name: field.name.clone(), value });
        }
    }
    Condition { request, path_rank }
}

fn path_match(
    m: &RouteMatch,
    wrong: &mut impl FnMut(&str, String),
) -> (Option<PathMatch>, (u8, usize)) {
    let kind = m.path.as_ref().and_then(|p| p.kind.as_deref()).unwrap_or("PathPrefix");
    let value = m.path.as_ref().and_then(|p| p.value.as_deref()).unwrap_or("/");
    if kind != "RegularExpression" && !value.starts_with('/') {
        wrong("path.value", format!("path `{value}` does not begin with /"));
    }
    match kind {
        "Exact" => (Some(PathMatch::Exact(value.to_owned())), (3, value.len())),
        // Every path begins with `/`.
        "PathPrefix" if value == "/" => (None, (2, 1)),
        "PathPrefix" => (Some(PathMatch::Segments(value.to_owned())), (2, value.len())),
        "RegularExpression" => {
            if let Err(reason) = check_regex(value) {
                wrong("path.value", reason);
            }
            (Some(PathMatch::Regex(value.to_owned())), (1, value.len()))
        }
        other => {
            wrong("path.type", format!("path type {other} is not known"));
            (None, (0, 0))
        }
    }
}

fn value(part: &str, field: &Field, wrong: &mut impl FnMut(&str, String)) -> StringMatch {
    match field.kind.as_deref() {
        None | Some("Exact") => StringMatch::Exact(field.value.clone()),
        Some("RegularExpression") => {
            if let Err(reason) = check_regex(&field.value) {
                wrong(part, reason);
            }
            StringMatch::Regex(field.value.clone())
        }
        Some(other) => {
            wrong(part, format!("match type {other} is not known"));
            StringMatch::Present
        }
    }
}
