//! What a path becomes.
//!
//! Rewritten is the path that rules compare, which [`crate::request`] has normalised: Envoy puts
//! the normalised path into the request, so that a prefix covers what was matched. The query stays
//! as sent; a fragment is gone.

use std::borrow::Cow;

use crate::pattern;
use crate::policy::PathRewrite;
use crate::request::split_target;
use crate::route::PathMatch;

/// The target that takes the place of `target` (path and perhaps query, as sent).
///
/// `held` is the path condition of the match that held. What [`PathRewrite::Prefix`] replaces is
/// up to it:
///
/// - [`PathMatch::Prefix`]: as many bytes as the condition has (Envoy's `prefix_rewrite`).
/// - [`PathMatch::Segments`]: its segments. Between the new ones and the rest stands one slash,
///   whether the old ones or the new ones end with one (Gateway API, `replacePrefixMatch`).
/// - [`PathMatch::Exact`] and [`PathMatch::Regex`]: the whole path, as Envoy.
/// - `None`, no condition: the first slash, because that is Envoy's prefix for "any path".
///
/// Substitutions that leave nothing, and a pattern that is none, change nothing (Envoy). A path that
/// would not begin with a slash gets one. A target that is no path (`*`, RFC 9112 section 3.2.4)
/// stays.
pub fn rewrite_target(rewrite: &PathRewrite, held: Option<&PathMatch>, target: &str) -> String {
    if !target.starts_with('/') {
        return target.to_owned();
    }
    let (path, query) = split_target(target);
    rewrite_path(rewrite, held, &path) + query
}

/// The path that takes the place of a normalised one.
pub(crate) fn rewrite_path(rewrite: &PathRewrite, held: Option<&PathMatch>, path: &str) -> String {
    let new = match rewrite {
        PathRewrite::Full(new) => new.clone(),
        PathRewrite::Prefix(new) => replace_prefix(new, held, path),
        PathRewrite::Regex { pattern, substitution } => substitute(pattern, substitution, path),
    };
    match new.chars().next() {
        Some('/') => new,
        Some(_) => format!("/{new}"),
        None if matches!(rewrite, PathRewrite::Regex { .. }) => path.to_owned(),
        None => "/".to_owned(),
    }
}

fn replace_prefix(new: &str, held: Option<&PathMatch>, path: &str) -> String {
    match held {
        Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => new.to_owned(),
        Some(PathMatch::Prefix(old)) => new.to_owned() + rest(path, old.len()),
        None => new.to_owned() + rest(path, 1),
        Some(PathMatch::Segments(old)) => {
            let rest = rest(path, old.trim_end_matches('/').len());
            new.strip_suffix('/').unwrap_or(new).to_owned() + rest
        }
    }
}

/// What follows the first `length` bytes, which are those of a prefix. The case of ASCII letters
/// may differ from the prefix's, the length does not.
fn rest(path: &str, length: usize) -> &str {
    path.get(length..).unwrap_or_default()
}

/// Every match replaced, from left to right (RE2's `GlobalReplace`).
fn substitute(pattern: &str, substitution: &str, path: &str) -> String {
    let Some(regex) = pattern::anywhere(pattern) else {
        return path.to_owned();
    };
    let replaced = regex.replace_all(path, |groups: &regex::Captures<'_>| {
        expand(substitution, |group| groups.get(group).map_or("", |found| found.as_str()))
    });
    replaced.into_owned()
}

/// A substitution with `\0` to `\9` replaced by groups, and `\\` by a backslash. Other escapes,
/// which [`check_substitution`] finds, stay as they are.
fn expand<'a>(substitution: &str, group: impl Fn(usize) -> &'a str) -> String {
    let mut out = String::with_capacity(substitution.len());
    let mut parts = substitution.split('\\');
    out.push_str(parts.next().unwrap_or_default());
    while let Some(part) = parts.next() {
        match part.chars().next() {
            Some(digit @ '0'..='9') => {
                out.push_str(group(digit as usize - '0' as usize));
                out.push_str(&part[1..]);
            }
            // The second backslash of two: what follows it is plain.
            None => {
                out.push('\\');
                out.push_str(parts.next().unwrap_or_default());
            }
            Some(_) => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

/// Why a pattern and its substitution do not fit (RE2's `CheckRewriteString`): a pattern that is
/// none, a group that it does not have, a backslash before anything but a digit or a backslash.
pub fn check_substitution(pattern: &str, substitution: &str) -> Result<(), Cow<'static, str>> {
    let Some(regex) = pattern::anywhere(pattern) else {
        return Err(format!("{pattern:?} is not a regular expression").into());
    };
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            continue;
        }
        match chars.next() {
            Some('\\') => {}
            Some(digit @ '0'..='9') => {
                let group = digit as usize - '0' as usize;
                if group >= regex.captures_len() {
                    return Err(format!("{pattern:?} has no group {group}").into());
                }
            }
            _ => return Err("a backslash needs a digit or a backslash behind it".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(new: &str) -> PathRewrite {
        PathRewrite::Prefix(new.into())
    }

    /// The table in Gateway API's documentation of `replacePrefixMatch`, and what follows from it.
    #[test]
    fn segments_are_replaced_with_one_slash_at_the_seam() {
        for (target, matched, new, wanted) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // of the whole path
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/", "/bar"),
            // what stands behind the seam stays
            ("/foo//bar/", "/foo", "/xyz/", "/xyz//bar/"),
            ("/foo?a=/foo", "/foo", "/xyz", "/xyz?a=/foo"),
        ] {
            let held = PathMatch::Segments(matched.into());
            let got = rewrite_target(&prefix(new), Some(&held), target);
            assert_eq!(got, wanted, "{target} with {matched} replaced by {new:?}");
        }
    }

    /// Envoy's `prefix_rewrite`, with the warning in its documentation about slashes.
    #[test]
    fn a_prefix_is_replaced_byte_by_byte() {
        for (target, matched, new, wanted) in [
            ("/prefix/foo", "/prefix/", "/", "/foo"),
            ("/prefix/foo", "/prefix", "/", "//foo"),
            ("/prefix", "/prefix", "/", "/"),
            ("/ratings/1", "/ratings", "/v1/bookRatings", "/v1/bookRatings/1"),
            ("/ratingsX", "/ratings", "/v1", "/v1X"),
            ("/PREFIX/foo", "/prefix", "/New", "/New/foo"),
            ("/prefix/foo?b=%20#f", "/prefix", "/p", "/p/foo?b=%20"),
            ("/prefix/foo", "/prefix/", "p", "/pfoo"),
            ("/prefix", "/prefix", "", "/"),
        ] {
            let held = PathMatch::Prefix(matched.into());
            let got = rewrite_target(&prefix(new), Some(&held), target);
            assert_eq!(got, wanted, "{target} with {matched} replaced by {new}");
        }
    }

    #[test]
    fn other_matches_replace_the_whole_path_and_none_the_first_slash() {
        let exact = PathMatch::Exact("/a/b".into());
        let regex = PathMatch::Regex("/a/.*".into());
        for (held, new, wanted) in [
            (Some(&exact), "/c", "/c?q"),
            (Some(&regex), "/c", "/c?q"),
            (None, "/", "/a/b?q"),
            (None, "/c/", "/c/a/b?q"),
        ] {
            assert_eq!(rewrite_target(&prefix(new), held, "/a/b?q"), wanted, "{held:?} {new}");
        }
        for held in [None, Some(&exact), Some(&PathMatch::Segments("/a".into()))] {
            let full = PathRewrite::Full("/c".into());
            assert_eq!(rewrite_target(&full, held, "/a/b?q"), "/c?q", "{held:?}");
        }
    }

    #[test]
    fn the_normalised_path_is_rewritten() {
        let held = PathMatch::Segments("/foo".into());
        for (target, wanted) in [
            ("/x/../%66oo/./b%2Fc/%41?%41/../", "/new/b%2Fc/A?%41/../"),
            ("/foo\\bar#x", "/new/bar"),
            ("/fooä", "/newä"),
            ("*", "*"),
        ] {
            assert_eq!(rewrite_target(&prefix("/new"), Some(&held), target), wanted, "{target}");
        }
    }

    #[test]
    fn every_match_of_a_pattern_is_substituted() {
        for (pattern, substitution, path, wanted) in [
            // the examples in Envoy's documentation of regex_rewrite
            (
                r"^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1/api",
                "/v1/api/instance/foo",
            ),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            (r"^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            // groups
            ("b", r"[\0\0]", "/abc", "/a[bb]c"),
            ("(x)|(b)", r"<\1\2>", "/abx", "/a<b><x>"),
            ("b", r"\\1", "/abc", r"/a\1c"),
            ("b", r"\\\\", "/abc", r"/a\\c"),
            ("b", r"$0${x}", "/abc", "/a$0${x}c"),
            // empty matches, as RE2 counts them
            ("x*", "-", "/abxd", "/-/-a-b-d-"),
            // nothing left, and no pattern
            (".*", "", "/abc", "/abc"),
            ("(", "x", "/abc", "/abc"),
            ("^/", "", "/abc", "/abc"),
        ] {
            let rewrite =
                PathRewrite::Regex { pattern: pattern.into(), substitution: substitution.into() };
            let got = rewrite_target(&rewrite, None, &format!("{path}?q=one"));
            let got = got.strip_suffix("?q=one").expect("the query stays");
            assert_eq!(got, wanted, "{pattern} {substitution} {path}");
        }
    }

    #[test]
    fn substitutions_are_checked() {
        for (pattern, substitution, right) in [
            ("a(b)", r"\0\1\\", true),
            ("a(b)", r"\2", false),
            ("a(b)", r"\n", false),
            ("a(b)", "\\", false),
            ("a(b", "", false),
        ] {
            let got = check_substitution(pattern, substitution);
            assert_eq!(got.is_ok(), right, "{pattern} {substitution}: {got:?}");
        }
    }
}
