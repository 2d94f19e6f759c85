//! The `match` of a VirtualService's rule.

use beeway_model::{HeaderMatch, Match, PathMatch, QueryMatch, SourceMatch, StringMatch};

use crate::istio;
use crate::layer::check_regex;
use crate::problem::Report;

/// One alternative, and what depends on the port and on who calls.
#[derive(Debug, Default, Clone)]
pub(crate) struct Condition {
    request: Match,
    /// Only on this port of the service.
    pub port: Option<u16>,
    source: SourceMatch,
}

impl Condition {
    /// The condition for callers of these namespaces (`None`: all). `None`: nobody meets it.
    pub(crate) fn seen_by(&self, visible: Option<&[String]>) -> Option<Match> {
        let sources = sources(&self.source, visible)?;
        Some(Match { sources, ..self.request.clone() })
    }
}

/// A condition on who calls, for callers of these namespaces (`None`: all). `None`: nobody meets
/// it; empty: all do.
pub(crate) fn sources(
    source: &SourceMatch,
    visible: Option<&[String]>,
) -> Option<Vec<SourceMatch>> {
    let wanted = &source.namespace;
    let namespaces: Vec<Option<String>> = match visible {
        None => vec![wanted.clone()],
        Some(visible) => visible
            .iter()
            .filter(|namespace| wanted.as_ref().is_none_or(|wanted| wanted == *namespace))
            .map(|namespace| Some(namespace.clone()))
            .collect(),
    };
    if namespaces.is_empty() {
        return None;
    }
    let labels = &source.labels;
    let sources =
        namespaces.into_iter().map(|namespace| SourceMatch { namespace, labels: labels.clone() });
    Some(sources.filter(|source| *source != SourceMatch::default()).collect())
}

/// Whether gateways of a condition leave it to the mesh.
pub(crate) fn in_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// The alternatives of a rule; `None`: it has none, and always holds. Alternatives for ingress
/// gateways alone are left out.
pub(crate) fn conditions(
    matches: &[istio::HttpMatch],
    report: &mut Report<'_>,
) -> Option<Vec<Condition>> {
    if matches.is_empty() {
        return None;
    }
    let here = matches.iter().enumerate().filter(|(_, m)| in_mesh(&m.gateways));
    let read = here.map(|(index, m)| {
        let mut reader = Reader { report: report.below(&format!("match.{index}")) };
        reader.condition(m)
    });
    Some(read.collect())
}

struct Reader<'a> {
    report: Report<'a>,
}

impl Reader<'_> {
    fn condition(&mut self, m: &istio::HttpMatch) -> Condition {
        let mut request = Match::default();
        if let Some(uri) = &m.uri {
            request.path = match self.string("uri", uri) {
                StringMatch::Exact(path) => Some(PathMatch::Exact(path)),
                StringMatch::Prefix(path) => Some(PathMatch::Prefix(path)),
                StringMatch::Regex(path) => Some(PathMatch::Regex(path)),
                StringMatch::Present => None,
            };
        }
        // Istio: case is ignored for exact and prefix alone.
        request.ignore_path_case =
            m.ignore_uri_case && !matches!(request.path, None | Some(PathMatch::Regex(_)));
        let always = |s: &StringMatch| *s != StringMatch::Present;
        request.method = m.method.as_ref().map(|s| self.string("method", s)).filter(always);
        request.scheme = m.scheme.as_ref().map(|s| self.string("scheme", s)).filter(always);
        // Compared as sent, with the port: so a header, not a host name.
        let authority = m.authority.as_ref().map(|s| self.string("authority", s)).filter(always);
        request.headers.extend(authority.map(|value| HeaderMatch {
            name: "host".to_owned(),
            value,
            invert: false,
        }));
        self.headers(m, &mut request.headers);
        for (name, value) in &m.query_params {
            let value = self.field("queryParams", name, value.as_ref());
            request.query.push(QueryMatch { name: name.clone(), value });
        }
        let namespace = m.source_namespace.clone().filter(|namespace| !namespace.is_empty());
        let source = SourceMatch { namespace, labels: m.source_labels.clone() };
        Condition { request, port: m.port, source }
    }

    fn headers(&mut self, m: &istio::HttpMatch, headers: &mut Vec<HeaderMatch>) {
        for (name, value) in &m.headers {
            let value = self.field("headers", name, value.as_ref());
            if let Some(name) = self.header_name("headers", name) {
                headers.push(HeaderMatch { name, value, invert: false });
            }
        }
        for (name, value) in &m.without_headers {
            let value = self.field("withoutHeaders", name, value.as_ref());
            let Some(name) = self.header_name("withoutHeaders", name) else {
                continue;
            };
            // Envoy takes an absent header for an empty one here. So a pattern that the empty
            // value meets excludes requests without the header too.
            if value != StringMatch::Present && accepts_empty(&value) {
                let present = StringMatch::Present;
                let there = HeaderMatch { name: name.clone(), value: present, invert: false };
                headers.push(there);
            }
            headers.push(HeaderMatch { name, value, invert: true });
        }
    }

    /// The name of a header in the router's terms, when it can be matched.
    fn header_name(&mut self, field: &str, name: &str) -> Option<String> {
        let lower = name.to_ascii_lowercase();
        if lower == ":authority" {
            return Some("host".to_owned());
        }
        if lower.starts_with([':', '@']) {
            let reason = format!("{field}: matching on {name} is not supported yet");
            self.report.error(&format!("{field}.{name}"), reason);
            return None;
        }
        Some(lower)
    }

    /// A header's or parameter's value. `*` is no regex: Istio reads it as "present".
    fn field(&mut self, part: &str, name: &str, m: Option<&istio::StringMatch>) -> StringMatch {
        match m {
            Some(m) if m.regex.as_deref() != Some("*") => self.string(&format!("{part}.{name}"), m),
            _ => StringMatch::Present,
        }
    }

    fn string(&mut self, part: &str, m: &istio::StringMatch) -> StringMatch {
        string(part, m).unwrap_or_else(|reason| {
            self.report.error(part, reason);
            StringMatch::Present
        })
    }
}

/// One of Istio's matches, or why it is none. `part` names it in the reason.
pub(crate) fn string(part: &str, m: &istio::StringMatch) -> Result<StringMatch, String> {
    match (&m.exact, &m.prefix, &m.regex) {
        (None, None, None) => Ok(StringMatch::Present),
        (Some(exact), None, None) => Ok(StringMatch::Exact(exact.clone())),
        (None, Some(prefix), None) => Ok(StringMatch::Prefix(prefix.clone())),
        (None, None, Some(regex)) => {
            check_regex(regex)?;
            Ok(StringMatch::Regex(regex.clone()))
        }
        _ => Err(format!("{part}: only one of exact, prefix and regex")),
    }
}

fn accepts_empty(value: &StringMatch) -> bool {
    match value {
        StringMatch::Exact(text) | StringMatch::Prefix(text) => text.is_empty(),
        StringMatch::Regex(pattern) => {
            regex::Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(""))
        }
        StringMatch::Present => true,
    }
}
