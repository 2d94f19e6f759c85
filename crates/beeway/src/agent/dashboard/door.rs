//! Who may enter. Every user of the machine can reach a port on loopback, and every web page can make
//! a browser send requests there: so each request must bear the token, and be for this host.
//!
//! The token is new with each start, and told in a file that only its owner can read. A browser trades
//! it for a cookie that scripts cannot read and that is never sent along from other sites. Cookies do
//! not know ports: who visits a page of another user's server on the same address shows it to that one.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// Name of the cookie.
const COOKIE: &str = "beeway-dashboard";

/// What is asked of everybody.
pub(super) struct Door {
    token: String,
    bound: SocketAddr,
}

impl Door {
    /// With a new token, for who listens at `bound`.
    pub(super) fn new(bound: SocketAddr) -> Result<Door> {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .context("make a token for the dashboard")?;
        let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Door { token, bound })
    }

    /// Writes the address with the token for those who may read the file: its owner.
    pub(super) fn write_url(&self, path: &Path) -> Result<()> {
        let write = || {
            // one that is there may be readable by others
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "{}", self.url())
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    fn url(&self) -> String {
        let mut at = self.bound;
        if at.ip().is_unspecified() {
            // as good as any, and always there
            let loopback = |v4| if v4 { [127, 0, 0, 1].into() } else { IpAddr::V6(1.into()) };
            at.set_ip(loopback(at.is_ipv4()));
        }
        format!("http://{at}/?token={}", self.token)
    }

    /// Whether it is the token; how long that takes tells nothing of it.
    pub(super) fn is_token(&self, word: &str) -> bool {
        word.as_bytes().ct_eq(self.token.as_bytes()).into()
    }

    /// Whether a request bears the token, as cookie or `Authorization: Bearer`.
    pub(super) fn lets_in(&self, headers: &HeaderMap) -> bool {
        let text = |name| {
            let values = headers.get_all(name).into_iter();
            values.filter_map(|value| value.to_str().ok())
        };
        let bearer = text(header::AUTHORIZATION).filter_map(|value| {
            let (scheme, word) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| word.trim())
        });
        let cookies = text(header::COOKIE).flat_map(|value| value.split(';'));
        let ours = cookies.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
        bearer.chain(ours).any(|word| self.is_token(word))
    }

    /// `Set-Cookie` for who has shown the token.
    pub(super) fn cookie(&self) -> String {
        format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", self.token)
    }

    /// Whether `Host` is this host: a name that somebody made point here (DNS rebinding) is not. The
    /// port may be another, that of a tunnel.
    pub(super) fn is_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).into_iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let Ok(host) = host.to_str() else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let Ok(ip) = inside.unwrap_or(name).parse::<IpAddr>() else { return false };
        // who listens on all addresses does not know them; none of them is a name
        ip.is_loopback() || ip == self.bound.ip() || self.bound.ip().is_unspecified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    fn door(bound: &str) -> Door {
        Door { token: "0123456789abcdef0123456789abcdef".into(), bound: bound.parse().unwrap() }
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let [a, b] = [(); 2].map(|()| Door::new("127.0.0.1:1".parse().unwrap()).unwrap().token);
        assert!(a != b && a.len() == 32 && a.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn only_the_token_opens() {
        let door = door("127.0.0.1:15021");
        let token = door.token.clone();
        for (name, value) in [
            ("cookie", format!("{COOKIE}={token}")),
            ("cookie", format!("a=b; {COOKIE}={token}; c=d")),
            ("authorization", format!("Bearer {token}")),
        ] {
            assert!(door.lets_in(&headers(&[(name, &value)])), "{name}: {value}");
        }
        for (name, value) in [
            ("cookie", format!("{COOKIE}={}", &token[1..])),
            ("cookie", format!("other={token}")),
            ("cookie", format!("{COOKIE}=")),
            ("authorization", format!("Basic {token}")),
            ("authorization", token.clone()),
            ("x-token", token.clone()),
        ] {
            assert!(!door.lets_in(&headers(&[(name, &value)])), "{name}: {value}");
        }
    }

    #[test]
    fn names_of_others_are_not_this_host() {
        let asked = |bound, host| door(bound).is_host(&headers(&[("host", host)]));
        for host in ["127.0.0.1:15021", "localhost", "LOCALHOST:80", "[::1]:15021", "[::1]"] {
            assert!(asked("127.0.0.1:15021", host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:15021", "10.0.0.1", "", "[::1", "::2"]
        {
            assert!(!asked("127.0.0.1:15021", host), "{host}");
        }
        assert!(asked("10.0.0.1:1", "10.0.0.1:1") && asked("0.0.0.0:1", "10.0.0.7"));
        assert!(!asked("0.0.0.0:1", "evil.example"));
        assert!(!door("127.0.0.1:1").is_host(&headers(&[])));
        let two = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(!door("127.0.0.1:1").is_host(&two));
    }

    #[test]
    fn the_address_is_one_to_open() {
        assert!(door("0.0.0.0:1").url().starts_with("http://127.0.0.1:1/?token=0123"));
        assert!(door("[::]:1").url().starts_with("http://[::1]:1/?token="));
    }
}
