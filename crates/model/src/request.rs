//! A request as the router sees it, and all that is done to it before it is compared.
//!
//! This is the one place that says so. A request that the proxy sends on has the path as it was
//! compared, so that an endpoint does not take it for another one (Istio, "Authorization Policy
//! Normalization"); for the rest nothing here changes what is sent.
//!
//! | part | what is done, in this order | as |
//! |---|---|---|
//! | target | `#` and what follows is cut off | Istio: it turns off Envoy's refusal and strips the fragment |
//! | target | split at the first `?` into path and query | RFC 3986 section 3.4 |
//! | path | `\` becomes `/` | Istio's normalisation `BASE` |
//! | path | `%XX` is decoded, once, when it stands for a letter, a digit, `-`, `.`, `_` or `~`; every other escape stays as it is, `%2F`, `%5C` and broken ones included, and one that would mend a broken one (`%%34%31` would become `%41`, another path) | `BASE`; RFC 3986 section 6.2.2.2 |
//! | path | `.` and `..` segments are removed; `..` at the root is dropped | `BASE`; RFC 3986 section 5.2.4 |
//! | path | adjacent slashes, letters' case and `;` stay | `BASE` |
//! | query | split at `&`, then each at its first `=`; nothing is decoded (`+` and `%20` are themselves); of a repeated name the first counts; without `=` the value is empty | Envoy's query parameter matcher |
//! | host | the port goes, then trailing dots, then upper case | RFC 4343; Gateway API's hostnames have no port |
//! | authority (`host` among headers) | nothing: the Host field as sent | Istio's `authority` |
//! | header | names ignore case; repeated fields are joined by `,` without a space, in order | Envoy; RFC 9110 section 5.3 |
//! | method, scheme | nothing | RFC 9110 section 9.1 |
//!
//! Two things that Envoy does are left out: it percent-encodes bytes that no path may hold (`"`,
//! `<`, `>`, `{`, `|`, `}`, a backquote, anything outside of ASCII) before it compares, and it
//! answers 400 to `%00`. Here such bytes are compared as they are.

use std::borrow::Cow;

use crate::mesh::Workload;

/// The parts of a request that a rule can match, borrowed from wherever they were read.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Method token as sent: methods are case-sensitive (RFC 9110 section 9.1).
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host header or `:authority` as sent, a port included.
    pub authority: &'a str,
    /// Request target in origin form: path, and query when there is one.
    pub target: &'a str,
    /// Header fields in order, names in any case. The Host header need not be among them.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Who sends it, when known.
    pub source: Option<&'a Workload>,
}

impl<'a> Request<'a> {
    /// The path as rules see it: the target up to `?` or `#`, see [`normalize_path`].
    pub fn path(&self) -> Cow<'a, str> {
        let end = self.target.find(['?', '#']).unwrap_or(self.target.len());
        normalize_path(&self.target[..end])
    }

    /// The query string without its `?`, empty when there is none.
    pub fn query(&self) -> &'a str {
        let target = self.target.split('#').next().unwrap_or_default();
        target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The host name that hostnames are compared with: no port, no trailing dot, lower case.
    pub fn host(&self) -> Cow<'a, str> {
        let name = match self.authority.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => self.authority,
        };
        let name = name.trim_end_matches('.');
        match name.bytes().any(|b| b.is_ascii_uppercase()) {
            true => name.to_ascii_lowercase().into(),
            false => name.into(),
        }
    }

    /// The first value of a query parameter, undecoded; empty when it has no `=`.
    pub fn query_param(&self, name: &str) -> Option<&'a str> {
        self.query()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// The value of a header as rules see it: repeated fields joined by a comma.
    pub fn header(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        if name.eq_ignore_ascii_case("host") || name == ":authority" {
            return Some(self.authority.as_bytes().into());
        }
        let mut values =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        let first = Cow::from(values.next()?);
        Some(values.fold(first, |mut joined, value| {
            joined.to_mut().push(b',');
            joined.to_mut().extend_from_slice(value);
            joined
        }))
    }
}

/// A path as rules see it: Istio's default normalisation (`BASE`), as the head of this module has
/// it.
pub fn normalize_path(path: &str) -> Cow<'_, str> {
    // Most paths have nothing that could change.
    if path.starts_with('/') && !path.contains(['\\', '%']) && !path.contains("/.") {
        return path.into();
    }
    normalize(path).into()
}

/// A target, path and perhaps query, with its path as rules see it. One that is no path (`*`) stays.
pub fn normalize_target(target: &str) -> Cow<'_, str> {
    if !target.starts_with('/') {
        return target.into();
    }
    match split_target(target) {
        (Cow::Borrowed(path), query) => target[..path.len() + query.len()].into(),
        (Cow::Owned(path), query) => (path + query).into(),
    }
}

/// The path of a target as rules see it, and the query with its question mark if there is one.
pub(crate) fn split_target(target: &str) -> (Cow<'_, str>, &str) {
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    (normalize_path(path), query)
}

fn normalize(path: &str) -> String {
    let decoded = decode_unreserved(&path.replace('\\', "/"));
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = decoded.strip_prefix('/').unwrap_or(&decoded).split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." if last => segments.push(""),
            "." => {}
            ".." => {
                segments.pop();
                if last {
                    segments.push("");
                }
            }
            _ => segments.push(part),
        }
    }
    format!("/{}", segments.join("/"))
}

fn decode_unreserved(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    // behind the last `%` of `out`
    let mut broken = None;
    while at < bytes.len() {
        let mends = |byte: &u8| {
            let digits: Option<&[u8]> = broken.map(|from| &out[from..]);
            byte.is_ascii_hexdigit()
                && digits.is_some_and(|d| d.len() < 2 && d.iter().all(u8::is_ascii_hexdigit))
        };
        let escaped = (bytes[at] == b'%')
            .then(|| path.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b))
            .filter(|b| !mends(b));
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                broken = if bytes[at] == b'%' { Some(out.len()) } else { broken };
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(target: &'a str, headers: &'a [(&'a str, &'a [u8])]) -> Request<'a> {
        Request { method: "GET", scheme: "http", authority: "a", target, headers, source: None }
    }

    #[test]
    fn a_target_is_path_and_query() {
        for (target, path, query) in [
            ("/a", "/a", ""),
            ("/a?", "/a", ""),
            ("/a?b=c", "/a", "b=c"),
            // a question mark in the query is one of its characters
            ("/a?b=?&c", "/a", "b=?&c"),
            // a fragment is in neither, wherever it begins
            ("/a#f", "/a", ""),
            ("/a#f?b=c", "/a", ""),
            ("/a?b=c#f", "/a", "b=c"),
            ("/a?#f", "/a", ""),
            // what is in the query is not normalised
            ("/a/../b?c=/d/../e%41\\", "/b", "c=/d/../e%41\\"),
        ] {
            let request = request(target, &[]);
            assert_eq!((&*request.path(), request.query()), (path, query), "{target}");
        }
    }

    #[test]
    fn paths_are_normalised_as_istio_base_does() {
        for (given, wanted) in [
            ("/", "/"),
            // dot segments
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/a/b/../../../c", "/c"),
            ("/a//../b", "/a/b"),
            // what only looks like one
            ("/a/...", "/a/..."),
            ("/a/.b", "/a/.b"),
            ("/a/b.", "/a/b."),
            ("/a/..;/b", "/a/..;/b"),
            // slashes
            ("/a//b", "/a//b"),
            ("//", "//"),
            ("/a/", "/a/"),
            ("/a\\b", "/a/b"),
            ("/a\\..\\b", "/b"),
            // escapes of unreserved characters
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/a/.%2e/b", "/b"),
            ("/%7Euser", "/~user"),
            ("/%41%62%30%2D%5f", "/Ab0-_"),
            // of others
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2fb"),
            ("/a%5Cb", "/a%5Cb"),
            ("/a%3Fb%23c%20d%00", "/a%3Fb%23c%20d%00"),
            // once, not twice
            ("/%252e%252e/b", "/%252e%252e/b"),
            ("/%25%32%65", "/%252e"),
            // of nothing, and what would mend it
            ("/%%34%31", "/%%341"),
            ("/%4%31", "/%4%31"),
            ("/%%341", "/%%341"),
            ("/%x%34%31", "/%x41"),
            ("/%%7e%41", "/%~A"),
            ("/%zz%4", "/%zz%4"),
            ("/%", "/%"),
            ("/%+1", "/%+1"),
            // the rest stays
            ("/A/b;c=d,e", "/A/b;c=d,e"),
            ("/{a}|\"<b>", "/{a}|\"<b>"),
            ("/ä%é", "/ä%é"),
        ] {
            assert_eq!(normalize_path(given), wanted, "{given}");
        }
    }

    #[test]
    fn a_target_keeps_its_query_and_what_is_no_path() {
        for (given, wanted) in [
            ("/a/../b?c=/d/../e%41", "/b?c=/d/../e%41"),
            ("/%41?", "/A?"),
            ("/a#/../b", "/a"),
            ("/a?b", "/a?b"),
            ("*", "*"),
        ] {
            assert_eq!(normalize_target(given), wanted, "{given}");
        }
    }

    /// What is left alone would not have changed.
    #[test]
    fn short_paths_are_all_normalised_rightly() {
        let mut paths = vec![String::new()];
        for _ in 0..5 {
            for at in 0..paths.len() {
                paths.extend(["/", ".", "a", "%2e", "\\"].map(|end| paths[at].clone() + end));
            }
            paths.sort();
            paths.dedup();
        }
        for path in paths {
            assert_eq!(normalize_path(&path), normalize(&path), "{path}");
        }
    }

    /// An endpoint that decodes it once more finds what it would have found before.
    #[test]
    fn what_was_normalised_stays() {
        let mut paths = vec!["/".to_owned()];
        for _ in 0..5 {
            for at in 0..paths.len() {
                let ends = ["%", "4", "1", "%34", "%31", "%25", "%2e", "/"];
                paths.extend(ends.map(|end| paths[at].clone() + end));
            }
            paths.sort();
            paths.dedup();
        }
        for path in paths {
            let once = normalize_path(&path);
            assert_eq!(normalize_path(&once), once, "{path}");
        }
    }

    #[test]
    fn query_parameters_are_compared_as_sent() {
        for (target, name, wanted) in [
            ("/?a=1&a=2", "a", Some("1")),
            ("/?a", "a", Some("")),
            ("/?a=", "a", Some("")),
            ("/?a&a=2", "a", Some("")),
            ("/?a=b=c", "a", Some("b=c")),
            ("/?a=%31+2", "a", Some("%31+2")),
            ("/?%61=1", "a", None),
            ("/?A=1", "a", None),
            ("/?ab=1&ba=1", "a", None),
            ("/?b;a=1", "a", None),
            ("/?&&a=1", "a", Some("1")),
            ("/a=1", "a", None),
            ("/?b#a=1", "a", None),
        ] {
            assert_eq!(request(target, &[]).query_param(name), wanted, "{target}");
        }
    }

    #[test]
    fn a_host_has_no_port_no_trailing_dot_and_no_upper_case() {
        for (authority, wanted) in [
            ("a.b", "a.b"),
            ("A.b:80", "a.b"),
            ("a.b.", "a.b"),
            ("a.b.:80", "a.b"),
            ("a.b:", "a.b"),
            ("a.b:http", "a.b:http"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[fd00::1]:80", "[fd00::1]"),
            ("[fd00::1]", "[fd00::1]"),
            ("", ""),
        ] {
            assert_eq!(Request { authority, ..request("/", &[]) }.host(), wanted, "{authority}");
        }
    }

    #[test]
    fn repeated_headers_are_joined_and_host_is_the_authority_as_sent() {
        let sent: &[(&str, &[u8])] = &[("X-A", b"1"), ("b", b""), ("x-a", b"2, 3"), ("X-A", b"")];
        let request = Request { authority: "A.b:80", ..request("/", sent) };
        for (name, wanted) in [
            ("x-a", Some(&b"1,2, 3,"[..])),
            ("X-a", Some(b"1,2, 3,")),
            ("b", Some(b"")),
            ("c", None),
            ("host", Some(b"A.b:80")),
            (":authority", Some(b"A.b:80")),
        ] {
            assert_eq!(request.header(name).as_deref(), wanted, "{name}");
        }
    }
}
