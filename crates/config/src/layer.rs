//! Routes of several objects, each for some callers, → the one ordered list of a service port.
//!
//! A caller is ruled by the first layer that is meant for it, and by that one alone: what no rule
//! of that layer holds for gets 404, also when a later layer would hold. A caller that no layer is
//! meant for has no route: its requests go to the port's own cluster.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};

use beeway_model::{Action, Backend, ClusterId, Match, Rule, SourceMatch};

/// The rules of one object (or of several that are one) for one port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer {
    /// What it comes from, for people.
    pub name: String,
    /// Whom it is meant for: one of these. Empty: everybody.
    pub scope: Vec<SourceMatch>,
    /// Its rules; none of them holds for a caller outside the scope.
    pub rules: Vec<Rule>,
}

/// Puts layers together. The second value counts the layers in use: later ones are for nobody,
/// because an earlier one is for everybody.
pub(crate) fn compose(layers: Vec<Layer>, default: ClusterId) -> (Vec<Rule>, usize) {
    let mut rules = Vec::new();
    let total = layers.len();
    for (index, layer) in layers.into_iter().enumerate() {
        if layer.scope.is_empty() {
            rules.extend(layer.rules);
            return (rules, index + 1);
        }
        let whole = Match { sources: layer.scope.clone(), ..Match::default() };
        let catches_all = |rule: &Rule| rule.matches.is_empty() || rule.matches.contains(&whole);
        let closed = layer.rules.iter().any(catches_all);
        rules.extend(layer.rules);
        if !closed {
            rules.push(Rule {
                name: format!("{}: no rule holds", layer.name),
                matches: vec![Match { sources: layer.scope, ..Match::default() }],
                action: Action::Respond { status: 404, body: String::new() },
                policy: None,
                detour: None,
            });
        }
    }
    rules.push(no_route(default));
    (rules, total)
}

/// Everything that is left goes to the port's own cluster.
pub(crate) fn no_route(cluster: ClusterId) -> Rule {
    Rule {
        name: "no route".to_owned(),
        matches: Vec::new(),
        action: Action::Forward(vec![Backend { cluster: Some(cluster), weight: 1, policy: None }]),
        policy: None,
        detour: None,
    }
}

/// Leaves out what another source of the list covers already.
pub(crate) fn widest(sources: Vec<SourceMatch>) -> Vec<SourceMatch> {
    let covers = |wide: &SourceMatch, narrow: &SourceMatch| {
        (wide.namespace.is_none() || wide.namespace == narrow.namespace)
            && wide.labels.iter().all(|(key, value)| narrow.labels.get(key) == Some(value))
    };
    let mut kept: Vec<SourceMatch> = Vec::new();
    for source in sources {
        if !kept.iter().any(|wide| covers(wide, &source)) {
            kept.retain(|narrow| !covers(&source, narrow));
            kept.push(source);
        }
    }
    kept
}

/// Patterns known to be good: to compile one takes longer than to read the rest of its rule, and
/// every load of a configuration asks for the same ones.
static GOOD: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
/// What is kept of them; then all are forgotten.
const MOST_GOOD: usize = 1 << 16;

/// Whether the router can use a pattern: alone, and within the anchors that the router adds.
pub(crate) fn check_regex(pattern: &str) -> Result<(), String> {
    let mut good = GOOD.lock().expect("no panic while locked");
    if good.contains(pattern) {
        return Ok(());
    }
    regex::Regex::new(pattern)
        .and_then(|_| regex::Regex::new(&format!("^(?:{pattern})$")))
        .map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or("not a regular expression").trim();
            format!("regex `{pattern}`: {}", last.strip_prefix("error: ").unwrap_or(last))
        })?;
    if good.len() >= MOST_GOOD {
        good.clear();
    }
    good.insert(pattern.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(namespace: Option<&str>, label: Option<&str>) -> SourceMatch {
        SourceMatch {
            namespace: namespace.map(str::to_owned),
            labels: label.map(|value| ("app".to_owned(), value.to_owned())).into_iter().collect(),
        }
    }

    #[test]
    fn the_widest_sources_stay() {
        let (all, ns, app) = (source(None, None), source(Some("a"), None), source(None, Some("x")));
        let both = source(Some("a"), Some("x"));
        for (given, kept) in [
            (vec![both.clone(), ns.clone()], vec![ns.clone()]),
            (vec![app.clone(), both], vec![app.clone()]),
            (vec![ns.clone(), app.clone()], vec![ns.clone(), app.clone()]),
            (vec![ns, app, all.clone()], vec![all]),
        ] {
            assert_eq!(widest(given), kept);
        }
    }

    #[test]
    fn a_regex_must_stand_alone_and_within_anchors() {
        assert!(check_regex("/v[12]/.*").is_ok());
        assert!(check_regex("a|b").is_ok());
        for bad in ["(", "a)(b", "(?x)a #"] {
            let error = check_regex(bad).unwrap_err();
            assert!(error.starts_with(&format!("regex `{bad}`: ")), "{error}");
            assert!(!error.contains('\n'));
        }
    }
}
