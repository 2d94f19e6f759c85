//! A request as the router sees it.

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
    /// The path as rules see it: the target up to `?` or `#`, normalised.
    pub fn path(&self) -> String {
        let end = self.target.find(['?', '#']).unwrap_or(self.target.len());
        normalize_path(&self.target[..end])
    }

    /// The query string without its `?`, empty when there is none.
    pub fn query(&self) -> &'a str {
        let target = self.target.split('#').next().unwrap_or_default();
        target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The host name that hostnames are compared with: no port, no trailing dot, lower case.
    pub fn host(&self) -> String {
        let name = match self.authority.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => self.authority,
        };
        name.trim_end_matches('.').to_ascii_lowercase()
    }

    /// The value of a header as rules see it. Repeated fields are joined by a comma, as Envoy
    /// does (RFC 9110 section 5.3).
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        if name.eq_ignore_ascii_case("host") || name == ":authority" {
            return Some(self.authority.as_bytes().to_vec());
        }
        let mut values =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        let first = values.next()?.to_vec();
        Some(values.fold(first, |mut joined, value| {
            joined.push(b',');
            joined.extend_from_slice(value);
            joined
        }))
    }
}

/// Istio's default path normalisation (`BASE`): unreserved percent-escapes are decoded, dot
/// segments removed (RFC 3986 sections 5.2.4 and 6.2.2.2) and `\` read as `/`. Adjacent slashes
/// are kept and `%2F` is not decoded.
///
/// This is the one place that says what happens to a path before matching.
pub fn normalize_path(path: &str) -> String {
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
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| path.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b));
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_istio_base_does() {
        for (given, wanted) in [
            ("/", "/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a//b", "/a//b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%7Euser", "/~user"),
            ("/a\\b", "/a/b"),
            ("/%zz%4", "/%zz%4"),
        ] {
            assert_eq!(normalize_path(given), wanted, "{given}");
        }
    }
}
