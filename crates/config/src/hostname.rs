//! How Istio reads host names in its objects.

use std::collections::{BTreeSet, HashMap};

/// A name without dots is relative to the namespace of the object; any other is complete.
pub(crate) fn qualify(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.contains('.') || host == "*" || host.is_empty() {
        host
    } else {
        format!("{host}.{namespace}.svc.cluster.local")
    }
}

/// A complete host name, or one that begins with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(String);

/// How closely a pattern names a host; greater is closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Specificity {
    /// By a wildcard with a suffix of this length.
    Wildcard(usize),
    /// By its name.
    Exact,
}

impl Pattern {
    /// A pattern for a qualified host.
    pub(crate) fn new(host: &str) -> Self {
        Self(host.to_owned())
    }

    /// How closely it names a host, when it does.
    pub(crate) fn matches(&self, host: &str) -> Option<Specificity> {
        match self.0.strip_prefix('*') {
            Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix))
                .then_some(Specificity::Wildcard(suffix.len())),
            None => (host == self.0).then_some(Specificity::Exact),
        }
    }
}

/// Patterns by what they name, so that not every one is held against every host.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: HashMap<String, Vec<usize>>,
    wildcards: Vec<usize>,
}

impl Index {
    /// Of patterns and the numbers of what they belong to.
    pub(crate) fn of<'a>(patterns: impl Iterator<Item = (&'a Pattern, usize)>) -> Self {
        let mut index = Self::default();
        for (pattern, number) in patterns {
            match pattern.0.starts_with('*') {
                true => index.wildcards.push(number),
                false => index.exact.entry(pattern.0.clone()).or_default().push(number),
            }
        }
        index
    }

    /// What may name one of these hosts, in ascending order.
    pub(crate) fn candidates(&self, hosts: &[String]) -> BTreeSet<usize> {
        let named = hosts.iter().filter_map(|host| self.exact.get(host)).flatten();
        named.chain(&self.wildcards).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_namespace() {
        for (host, wanted) in [
            ("reviews", "reviews.prod.svc.cluster.local"),
            ("Reviews.", "reviews.prod.svc.cluster.local"),
            ("reviews.other", "reviews.other"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
        ] {
            assert_eq!(qualify(host, "prod"), wanted);
        }
    }

    #[test]
    fn closer_patterns_are_greater() {
        let specificity = |pattern: &str| Pattern::new(pattern).matches("a.b.c");
        assert_eq!(specificity("b.c"), None);
        assert_eq!(specificity("*.x"), None);
        assert!(specificity("a.b.c") > specificity("*.b.c"));
        assert!(specificity("*.b.c") > specificity("*.c"));
        assert!(specificity("*.c") > specificity("*"));
        assert!(specificity("*").is_some());
    }
}
