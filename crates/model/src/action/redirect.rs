//! Where a redirect leads.

use crate::action::rewrite::rewrite_path;
use crate::request::split_target;
use crate::route::{PathMatch, Redirect, RedirectPort};

/// What a redirect keeps of a request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host or `:authority` as sent.
    pub authority: &'a str,
    /// Path and query as sent.
    pub target: &'a str,
    /// The service's port that the client connected to, host byte order.
    pub port: u16,
}

/// The value of Location: an absolute URL.
///
/// `held` is the path condition of the match that held, as in
/// [`rewrite_target`](super::rewrite::rewrite_target). Path and query are as that function leaves
/// them; a new path that has a query of its own is not given the request's (Envoy).
pub fn location(redirect: &Redirect, held: Option<&PathMatch>, asked: &Asked<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(asked.scheme);
    let host = authority(redirect, scheme, asked);
    let (path, query) = split_target(asked.target);
    match &redirect.path {
        None => format!("{scheme}://{host}{path}{query}"),
        Some(rewrite) => {
            let path = rewrite_path(rewrite, held, &path);
            let query = if path.contains('?') { "" } else { query };
            format!("{scheme}://{host}{path}{query}")
        }
    }
}

fn authority(redirect: &Redirect, scheme: &str, asked: &Asked<'_>) -> String {
    let known = default_port(asked.scheme);
    let (name, given) = match &redirect.host {
        Some(host) => split_port(host),
        None => match split_port(asked.authority) {
            (name, port) if scheme != asked.scheme && port == known => (name, None),
            kept => kept,
        },
    };
    let port = match redirect.port {
        RedirectPort::Keep => return name.to_owned() + &given.map_or(String::new(), with_colon),
        RedirectPort::Number(port) => Some(port),
        RedirectPort::Listener => Some(asked.port),
        RedirectPort::SchemeDefault => None,
    };
    let written = port.filter(|port| Some(*port) != default_port(scheme));
    name.to_owned() + &written.map_or(String::new(), with_colon)
}

fn with_colon(port: u16) -> String {
    format!(":{port}")
}

/// The port that needs not be written in a URL of a scheme (RFC 9110 sections 4.2.1 and 4.2.2).
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Name and port of an authority. What is no port, a part of an IPv6 address for one, is name.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((name, "")) => (name, None),
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            port.parse().map_or((authority, None), |port| (name, Some(port)))
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PathRewrite;

    fn to(host: Option<&str>, scheme: Option<&str>, port: RedirectPort) -> Redirect {
        Redirect {
            host: host.map(str::to_owned),
            scheme: scheme.map(str::to_owned),
            port,
            path: None,
            status: 302,
        }
    }

    /// `httproute-redirect-port-and-scheme` of Gateway API's conformance tests, and its rule that
    /// a default port is not written.
    #[test]
    fn gateway_api_takes_the_port_from_filter_scheme_and_listener() {
        use RedirectPort::{Listener, Number, SchemeDefault};
        let host = Some("example.org");
        for (connected, scheme, redirect, wanted) in [
            (80, "http", to(host, None, Listener), "http://example.org/p"),
            (80, "http", to(host, None, Number(80)), "http://example.org/p"),
            (80, "http", to(host, None, Number(8080)), "http://example.org:8080/p"),
            (80, "http", to(host, Some("https"), SchemeDefault), "https://example.org/p"),
            (80, "http", to(host, Some("https"), Number(443)), "https://example.org/p"),
            (80, "http", to(host, Some("https"), Number(8443)), "https://example.org:8443/p"),
            (8080, "http", to(host, None, Listener), "http://example.org:8080/p"),
            (8080, "http", to(host, None, Number(80)), "http://example.org/p"),
            (8080, "http", to(host, Some("https"), SchemeDefault), "https://example.org/p"),
            (443, "https", to(host, None, Listener), "https://example.org/p"),
            (443, "https", to(host, None, Number(443)), "https://example.org/p"),
            (443, "https", to(host, None, Number(8443)), "https://example.org:8443/p"),
            (443, "https", to(host, Some("http"), SchemeDefault), "http://example.org/p"),
            (443, "https", to(host, Some("http"), Number(80)), "http://example.org/p"),
            (443, "https", to(host, Some("http"), Number(8080)), "http://example.org:8080/p"),
            // the request's Host has no say
            (8080, "http", to(None, None, Listener), "http://echo:8080/p"),
            (80, "http", to(None, None, Number(8083)), "http://echo:8083/p"),
            (80, "http", to(None, Some("https"), SchemeDefault), "https://echo/p"),
        ] {
            let asked = Asked { scheme, authority: "echo:9999", target: "/p", port: connected };
            assert_eq!(location(&redirect, None, &asked), wanted, "{redirect:?}");
        }
    }

    /// Envoy's `host_redirect` and `scheme_redirect` without a port.
    #[test]
    fn without_a_choice_of_port_it_is_that_of_the_request() {
        let keep = RedirectPort::Keep;
        for (authority, redirect, wanted) in [
            ("a:8080", to(None, None, keep), "http://a:8080/p"),
            ("a", to(None, None, keep), "http://a/p"),
            ("a:80", to(None, None, keep), "http://a:80/p"),
            ("a:80", to(None, Some("https"), keep), "https://a/p"),
            ("a:8080", to(None, Some("https"), keep), "https://a:8080/p"),
            ("a:8080", to(Some("b"), None, keep), "http://b/p"),
            ("a:8080", to(Some("b:81"), None, keep), "http://b:81/p"),
            ("a:8080", to(Some("b:81"), None, RedirectPort::Number(82)), "http://b:82/p"),
            ("[fd00::1]:8080", to(None, None, keep), "http://[fd00::1]:8080/p"),
            ("[fd00::1]", to(None, None, RedirectPort::Number(81)), "http://[fd00::1]:81/p"),
            ("[fd00::1]:80", to(None, None, RedirectPort::Number(81)), "http://[fd00::1]:81/p"),
            ("A.b:", to(None, None, keep), "http://A.b/p"),
        ] {
            let asked = Asked { scheme: "http", authority, target: "/p", port: 80 };
            assert_eq!(location(&redirect, None, &asked), wanted, "{authority} {redirect:?}");
        }
    }

    #[test]
    fn the_path_is_replaced_as_in_a_rewrite_and_the_query_stays() {
        let full = |path: &str| Some(PathRewrite::Full(path.into()));
        let prefix = |path: &str| Some(PathRewrite::Prefix(path.into()));
        let held = PathMatch::Segments("/old".into());
        for (path, target, wanted) in [
            (None, "/old/./a?b=/./c#d", "http://a/old/a?b=/./c"),
            (full("/new"), "/old/a?b", "http://a/new?b"),
            (full("new"), "/old/a", "http://a/new"),
            (full("/new?c"), "/old/a?b", "http://a/new?c"),
            (prefix("/new/"), "/old/a?b", "http://a/new/a?b"),
            (prefix("/"), "/old", "http://a/"),
        ] {
            let redirect = Redirect { path, ..to(None, None, RedirectPort::Keep) };
            let asked = Asked { scheme: "http", authority: "a", target, port: 80 };
            assert_eq!(location(&redirect, Some(&held), &asked), wanted, "{redirect:?}");
        }
    }
}
