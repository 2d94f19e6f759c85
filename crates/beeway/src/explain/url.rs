//! The URL and the caller that `beeway explain` is asked about.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

/// An `http` URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Name or address, without brackets.
    pub host: String,
    /// 80 unless given.
    pub port: u16,
    /// What clients write into the Host field: host, and port unless it is 80.
    pub authority: String,
    /// Path and query.
    pub target: String,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH][?QUERY]` (RFC 3986 section 3).
    pub fn parse(text: &str) -> Result<Url> {
        let Some(rest) = text.strip_prefix("http://") else {
            bail!(
                "{text:?}: only http:// URLs can be explained; the mesh does not look into others"
            );
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            bail!("{text:?} has blanks or characters outside of ASCII: percent-encode them");
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // the last colon of a bare [v6] address is inside of the brackets
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().with_context(|| format!("{port:?} is no port"))?)
            }
            _ => (authority, 80),
        };
        let authority = match port {
            80 => host.to_owned(),
            _ => format!("{host}:{port}"),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            bail!("{text:?} has no host");
        }
        Ok(Url { host, port, authority, target })
    }

    /// The host when it is an address.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Up to five of `names` that look like `wanted`, the most alike first.
pub fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = names.map(|name| (distance(wanted, name), name)).collect();
    found.sort();
    found.dedup();
    let limit = wanted.chars().count() / 4 + 1;
    let near = found.into_iter().filter(|(distance, _)| *distance <= limit);
    near.map(|(_, name)| name).take(5).collect()
}

/// Characters to add, remove or replace to turn one word into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let of = |text| {
            let url = Url::parse(text).unwrap();
            (url.host, url.port, url.authority, url.target)
        };
        let wanted = |host: &str, port, authority: &str, target: &str| {
            (host.to_owned(), port, authority.to_owned(), target.to_owned())
        };
        assert_eq!(of("http://a"), wanted("a", 80, "a", "/"));
        assert_eq!(of("http://a:80/x#y"), wanted("a", 80, "a", "/x"));
        assert_eq!(of("http://a.b:9080?q=1"), wanted("a.b", 9080, "a.b:9080", "/?q=1"));
        assert_eq!(of("http://[fd00::1]/x"), wanted("fd00::1", 80, "[fd00::1]", "/x"));
        assert_eq!(of("http://[fd00::1]:81/"), wanted("fd00::1", 81, "[fd00::1]:81", "/"));
        for bad in ["https://a/", "a/b", "http://", "http://a:x/", "http://a/b c", "http://:1/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_look_alike_are_found() {
        let names = ["reviews", "ratings", "details"];
        assert_eq!(near("review", names.into_iter()), ["reviews"]);
        assert_eq!(near("xyz", names.into_iter()), [""; 0]);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
