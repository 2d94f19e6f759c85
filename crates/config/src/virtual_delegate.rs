//! Rules that a VirtualService leaves to another: the conditions of both, and what each asks for.
//!
//! As Istio's `mergeHTTPRoute`: each alternative of the delegate must lie within one of the root's,
//! or its rule is none; what the delegate does not say, the root does.

use std::collections::BTreeMap;

use crate::hostname::qualify;
use crate::istio::{HeaderOperations, Headers, HttpMatch, HttpRule, StringMatch};

type StringMatches = BTreeMap<String, Option<StringMatch>>;

/// The rule of a delegate with what the root's says of it; `None`: their conditions conflict.
pub(crate) fn merged(root: &HttpRule, namespace: &str, delegate: &HttpRule) -> Option<HttpRule> {
    let mut rule =
        HttpRule { matches: merged_matches(&root.matches, &delegate.matches)?, ..delegate.clone() };
    let answers = rule.redirect.is_some() || rule.direct_response.is_some();
    rule.fault = rule.fault.or_else(|| root.fault.clone());
    rule.cors_policy = rule.cors_policy.or_else(|| root.cors_policy.clone());
    // The rest has no effect beside an answer.
    if answers {
        rule.headers = rule.headers.or_else(|| {
            let response = root.headers.as_ref()?.response.clone();
            Some(Box::new(Headers { request: HeaderOperations::default(), response }))
        });
        return Some(rule);
    }
    rule.headers = rule.headers.or_else(|| root.headers.clone());
    rule.rewrite = rule.rewrite.or_else(|| root.rewrite.clone());
    rule.timeout = rule.timeout.or_else(|| root.timeout.clone());
    rule.retries = rule.retries.or_else(|| root.retries.clone());
    rule.mirror_percentage = rule.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    rule.mirror_percent = rule.mirror_percent.or(root.mirror_percent);
    // Names of the root's are relative to its own namespace.
    if rule.mirror.is_none() {
        rule.mirror.clone_from(&root.mirror);
        rule.mirror.iter_mut().for_each(|it| it.host = qualify(&it.host, namespace));
    }
    if rule.mirrors.is_empty() {
        rule.mirrors.clone_from(&root.mirrors);
        for mirror in &mut rule.mirrors {
            mirror.destination.host = qualify(&mirror.destination.host, namespace);
        }
    }
    Some(rule)
}

fn merged_matches(root: &[HttpMatch], delegate: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate.to_vec());
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut all = Vec::new();
    for leaf in delegate {
        let before = all.len();
        all.extend(root.iter().filter(|root| !conflict(root, leaf)).map(|root| both(root, leaf)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

fn both(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let mut whole = leaf.clone();
    whole.uri = whole.uri.or_else(|| root.uri.clone());
    whole.scheme = whole.scheme.or_else(|| root.scheme.clone());
    whole.method = whole.method.or_else(|| root.method.clone());
    whole.authority = whole.authority.or_else(|| root.authority.clone());
    let add = |own: &mut StringMatches, root: &StringMatches| {
        for (name, value) in root {
            own.entry(name.clone()).or_insert_with(|| value.clone());
        }
    };
    add(&mut whole.headers, &root.headers);
    add(&mut whole.without_headers, &root.without_headers);
    add(&mut whole.query_params, &root.query_params);
    whole.port = whole.port.or(root.port);
    for (name, value) in &root.source_labels {
        whole.source_labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if whole.gateways.is_empty() {
        whole.gateways.clone_from(&root.gateways);
    }
    whole
}

/// Whether what a delegate's alternative wants is not within what the root's wants.
fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let strings = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let of_maps = maps.into_iter().flat_map(|(root, leaf)| {
        leaf.iter().filter_map(|(name, leaf)| Some((root.get(name)?.as_ref()?, leaf.as_ref()?)))
    });
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    strings.into_iter().any(|(root, leaf)| {
        matches!((root, leaf), (Some(root), Some(leaf)) if strings_conflict(root, leaf))
    }) || of_maps.into_iter().any(|(root, leaf)| strings_conflict(root, leaf))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || matches!((root.port, leaf.port), (Some(root), Some(leaf)) if root != leaf)
        || given(&root.source_namespace)
            .is_some_and(|root| given(&leaf.source_namespace) != Some(root))
        || leaf
            .source_labels
            .iter()
            .any(|(name, leaf)| root.source_labels.get(name).is_some_and(|root| root != leaf))
        || (!root.gateways.is_empty()
            && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// A pattern conflicts with anything, because nobody can say what lies within it.
fn strings_conflict(root: &StringMatch, leaf: &StringMatch) -> bool {
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let leaf_text = text(&leaf.exact).or_else(|| text(&leaf.prefix));
    match (text(&root.exact), text(&root.prefix)) {
        (Some(exact), _) => text(&leaf.exact) != Some(exact),
        (None, Some(prefix)) => leaf_text.is_none_or(|leaf| !leaf.starts_with(&prefix)),
        (None, None) => true,
    }
}
