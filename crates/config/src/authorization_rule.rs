//! One rule of an AuthorizationPolicy. What Istio's validation refuses cannot be read here either:
//! a list that is given and empty, an empty source or operation, an empty value.

use std::net::IpAddr;

use beeway_model::Subnet;
use beeway_model::access::{
    AccessRule, Clause, Entity, Field, IdentityMatch, PathTest, PortRange, Text,
};
use serde::{Deserialize, Deserializer};

use crate::document::Node;
use crate::policy_item::{Fault, strict};

/// A field that is there. `null` is none: the API server refuses it too.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default, deserialize_with = "given")]
    from: Option<Vec<From>>,
    #[serde(default, deserialize_with = "given")]
    to: Option<Vec<To>>,
    #[serde(default)]
    when: Vec<Condition>,
}

#[derive(Deserialize)]
struct From {
    source: Source,
}

#[derive(Deserialize)]
struct To {
    operation: Operation,
}

type Texts = Vec<String>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Source {
    principals: Texts,
    not_principals: Texts,
    request_principals: Texts,
    not_request_principals: Texts,
    namespaces: Texts,
    not_namespaces: Texts,
    service_accounts: Texts,
    not_service_accounts: Texts,
    trust_domains: Texts,
    not_trust_domains: Texts,
    ip_blocks: Texts,
    not_ip_blocks: Texts,
    remote_ip_blocks: Texts,
    not_remote_ip_blocks: Texts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Operation {
    hosts: Texts,
    not_hosts: Texts,
    ports: Texts,
    not_ports: Texts,
    methods: Texts,
    not_methods: Texts,
    paths: Texts,
    not_paths: Texts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    key: String,
    #[serde(default)]
    values: Texts,
    #[serde(default)]
    not_values: Texts,
}

/// What can be asked of a call.
enum Attribute {
    Principal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    Entity,
    CallerAddress,
    RemoteAddress,
    CalledAddress,
    Port,
    Sni,
    Host,
    Method,
    Path,
    Header(String),
    Token(String),
}

/// Reads a rule of a policy in this namespace.
pub(crate) fn read(node: &Node, path: &str, namespace: &str) -> Result<AccessRule, Fault> {
    let rule: Rule = strict(node, path)?;
    for (part, empty) in [
        ("from", rule.from.as_ref().is_some_and(Vec::is_empty)),
        ("to", rule.to.as_ref().is_some_and(Vec::is_empty)),
    ] {
        if empty {
            return Err(Fault::at(format!("{path}.{part}"), format!("`{part}` is empty")));
        }
    }
    let sources = rule.from.unwrap_or_default().into_iter().enumerate();
    let sources = sources.map(|(at, from)| {
        let path = format!("{path}.from.{at}.source");
        clauses(&from.source.fields(), &path, namespace)
    });
    let operations = rule.to.unwrap_or_default().into_iter().enumerate();
    let operations = operations.map(|(at, to)| {
        let path = format!("{path}.to.{at}.operation");
        clauses(&to.operation.fields(), &path, namespace)
    });
    let (sources, operations) =
        (sources.collect::<Result<_, _>>()?, operations.collect::<Result<_, _>>()?);
    let mut conditions = Vec::new();
    for (at, when) in rule.when.iter().enumerate() {
        let path = format!("{path}.when.{at}");
        let attribute = Attribute::of_key(&when.key)
            .map_err(|reason| Fault::at(format!("{path}.key"), reason))?;
        let fields = [("values", "notValues", attribute, &when.values, &when.not_values)];
        conditions.extend(clauses(&fields, &path, namespace)?);
    }
    Ok(AccessRule { sources, operations, conditions })
}

/// What a field and its `not` twin are called and ask for, and their values.
type Pair<'a> = (&'static str, &'static str, Attribute, &'a Texts, &'a Texts);

impl Source {
    fn fields(&self) -> [Pair<'_>; 7] {
        let token = Attribute::Token("requestPrincipals".to_owned());
        [
            (
                "principals",
                "notPrincipals",
                Attribute::Principal,
                &self.principals,
                &self.not_principals,
            ),
            (
                "requestPrincipals",
                "notRequestPrincipals",
                token,
                &self.request_principals,
                &self.not_request_principals,
            ),
            (
                "namespaces",
                "notNamespaces",
                Attribute::Namespace,
                &self.namespaces,
                &self.not_namespaces,
            ),
            (
                "serviceAccounts",
                "notServiceAccounts",
                Attribute::ServiceAccount,
                &self.service_accounts,
                &self.not_service_accounts,
            ),
            (
                "trustDomains",
                "notTrustDomains",
                Attribute::TrustDomain,
                &self.trust_domains,
                &self.not_trust_domains,
            ),
            (
                "ipBlocks",
                "notIpBlocks",
                Attribute::CallerAddress,
                &self.ip_blocks,
                &self.not_ip_blocks,
            ),
            (
                "remoteIpBlocks",
                "notRemoteIpBlocks",
                Attribute::RemoteAddress,
                &self.remote_ip_blocks,
                &self.not_remote_ip_blocks,
            ),
        ]
    }
}

impl Operation {
    fn fields(&self) -> [Pair<'_>; 4] {
        [
            ("hosts", "notHosts", Attribute::Host, &self.hosts, &self.not_hosts),
            ("ports", "notPorts", Attribute::Port, &self.ports, &self.not_ports),
            ("methods", "notMethods", Attribute::Method, &self.methods, &self.not_methods),
            ("paths", "notPaths", Attribute::Path, &self.paths, &self.not_paths),
        ]
    }
}

/// The clauses of one source, operation or condition, of which there must be one.
fn clauses(pairs: &[Pair<'_>], path: &str, namespace: &str) -> Result<Vec<Clause>, Fault> {
    let mut clauses = Vec::new();
    for (name, not_name, attribute, values, not_values) in pairs {
        for (name, values, negated) in [(name, values, false), (not_name, not_values, true)] {
            if values.is_empty() {
                continue;
            }
            let field = attribute.field(values, namespace).map_err(|(at, reason)| {
                Fault::at(format!("{path}.{name}.{at}"), format!("{name}: {reason}"))
            })?;
            clauses.push(Clause { field, negated });
        }
    }
    if clauses.is_empty() {
        return Err(Fault::at(path, "nothing is asked for, which Istio refuses"));
    }
    Ok(clauses)
}

impl Attribute {
    fn of_key(key: &str) -> Result<Self, String> {
        Ok(match key {
            "source.ip" => Self::CallerAddress,
            "remote.ip" => Self::RemoteAddress,
            "source.namespace" => Self::Namespace,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.principal" => Self::Principal,
            "source.trustDomain" => Self::TrustDomain,
            "source.entity" => Self::Entity,
            "destination.ip" => Self::CalledAddress,
            "destination.port" => Self::Port,
            "connection.sni" => Self::Sni,
            "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" => {
                Self::Token(key.to_owned())
            }
            _ if in_brackets(key, "request.auth.claims").is_some() => Self::Token(key.to_owned()),
            _ => {
                let name = in_brackets(key, "request.headers");
                let name = name.filter(|name| name.bytes().all(is_name_byte));
                Self::Header(name.ok_or(format!("key `{key}` is not known"))?.to_ascii_lowercase())
            }
        })
    }

    /// The test for these values, or which of them is none and why.
    fn field(&self, values: &[String], namespace: &str) -> Result<Field, (usize, String)> {
        Ok(match self {
            Self::Principal => Field::Caller(each(values, |value| {
                let plain = value.strip_prefix("spiffe://").unwrap_or(value);
                text(plain).map(IdentityMatch::Principal)
            })?),
            Self::Namespace => Field::Caller(each(values, |value| {
                identity_text(value).map(IdentityMatch::Namespace)
            })?),
            Self::TrustDomain => Field::Caller(each(values, |value| {
                identity_text(value).map(IdentityMatch::TrustDomain)
            })?),
            Self::ServiceAccount => {
                Field::Caller(each(values, |value| service_account(value, namespace))?)
            }
            Self::Entity => {
                Field::Caller(each(values, |value| entity(value).map(IdentityMatch::Entity))?)
            }
            Self::CallerAddress => Field::CallerAddress(each(values, subnet)?),
            Self::RemoteAddress => Field::RemoteAddress(each(values, subnet)?),
            Self::CalledAddress => Field::CalledAddress(each(values, subnet)?),
            Self::Port => Field::Port(each(values, port)?),
            // Envoy compares the name in lower case.
            Self::Sni => Field::Sni(each(values, |value| text(&value.to_ascii_lowercase()))?),
            Self::Host => Field::Host(each(values, text)?),
            Self::Method => Field::Method(each(values, text)?),
            Self::Path => Field::Path(each(values, path)?),
            Self::Header(name) => Field::Header(name.clone(), each(values, text)?),
            Self::Token(name) => {
                each(values, text)?;
                Field::Token(name.clone())
            }
        })
    }
}

fn each<T>(
    values: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, (usize, String)> {
    let values = values.iter().enumerate();
    values.map(|(at, value)| read(value).map_err(|reason| (at, reason))).collect()
}

/// `x` of `name[x]`.
fn in_brackets<'a>(key: &'a str, name: &str) -> Option<&'a str> {
    key.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.is_empty())
}

/// A byte of a field name (RFC 9110 section 5.6.2).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn text(value: &str) -> Result<Text, String> {
    match value {
        "" => Err("an empty value".to_owned()),
        _ => Ok(Text::parse(value)),
    }
}

/// A name that holds no `*` itself. (Istio makes a regular expression of one in the middle of a
/// namespace; taken by the letter it would never match, which must not open a DENY rule.)
fn identity_text(value: &str) -> Result<Text, String> {
    let text = text(value)?;
    match &text {
        Text::Exact(name) | Text::Prefix(name) | Text::Suffix(name) if name.contains('*') => {
            Err(format!("`{value}`: a `*` stands at one end"))
        }
        _ => Ok(text),
    }
}

/// `namespace/account`, or an account of the policy's own namespace.
fn service_account(value: &str, own: &str) -> Result<IdentityMatch, String> {
    let (namespace, account) = value.split_once('/').unwrap_or((own, value));
    let wrong = |part: &str| part.is_empty() || part.contains(['*', '/']);
    match wrong(namespace) || wrong(account) {
        true => Err(format!("`{value}` is no service account: namespace/name or name, no `*`")),
        false => Ok(IdentityMatch::ServiceAccount(namespace.to_owned(), account.to_owned())),
    }
}

fn entity(value: &str) -> Result<Entity, String> {
    match value {
        "world" => Ok(Entity::World),
        "cluster" => Ok(Entity::Cluster),
        "host" => Ok(Entity::Host),
        "remote-node" => Ok(Entity::RemoteNode),
        _ => Err(format!("`{value}` is none of world, cluster, host and remote-node")),
    }
}

/// An address, or a network in CIDR notation.
pub(crate) fn subnet(value: &str) -> Result<Subnet, String> {
    let wrong = || format!("`{value}` is no address or network");
    let (address, bits) = match value.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (value, None),
    };
    let written: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if written.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
            bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    // IPv4-mapped IPv6 is IPv4.
    let address = written.to_canonical();
    match (written.is_ipv6() && address.is_ipv4(), bits) {
        (false, _) => Ok(Subnet { address, bits }),
        (true, 96..) => Ok(Subnet { address, bits: bits - 96 }),
        (true, _) => Err(wrong()),
    }
}

fn port(value: &str) -> Result<PortRange, String> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.map(PortRange::one).ok_or_else(|| format!("`{value}` is no port number"))
}

/// A path, or a template: its operators stand alone in their segments, `{**}` as the last of them.
fn path(value: &str) -> Result<PathTest, String> {
    text(value)?;
    let test = PathTest::parse(value);
    if let PathTest::Template(template) = &test {
        let mut segments = template.split('/');
        let rooted = segments.next() == Some("");
        let mut behind_last = false;
        let fits = |segment: &str| {
            let operator = matches!(segment, "{*}" | "{**}");
            let fits =
                !(operator && behind_last) && (operator || !segment.contains(['*', '{', '}']));
            behind_last |= segment == "{**}";
            fits
        };
        if !rooted || !segments.all(fits) {
            return Err(format!("`{value}` is no path template"));
        }
    }
    Ok(test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses() {
        for (text, address, bits) in [
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("10.0.0.1", "10.0.0.1", 32),
            ("::/0", "::", 0),
            ("::ffff:10.0.0.1", "10.0.0.1", 32),
            ("::ffff:10.0.0.0/104", "10.0.0.0", 8),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(subnet(text), Ok(Subnet { address, bits }), "{text}");
        }
        for text in ["", "a", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "::ffff:0.0.0.0/90"] {
            assert!(subnet(text).is_err(), "{text}");
        }
    }

    #[test]
    fn templates_are_istio_s() {
        for good in ["/foo/{*}", "/foo/{**}/", "/foo/{*}/bar/{**}", "/{**}", "/a*", "*/b", "*"] {
            assert!(path(good).is_ok(), "{good}");
        }
        for bad in ["/*/baz/{*}", "/**/baz/{*}", "/{**}/foo/{*}", "/foo/{*}.txt", "a/{*}", "{*}"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
