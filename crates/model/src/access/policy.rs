//! Policies as values.

use serde::Serialize;

use super::identity::{IdentityMatch, LabelSelector};
use crate::mesh::Transport;
use crate::pattern;
use crate::stream::Subnet;

/// One policy. An AuthorizationPolicy is one; a NetworkPolicy one for each direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessPolicy {
    /// Kind, namespace and name, for people: `AuthorizationPolicy shop/reviews`.
    pub name: String,
    /// Which other policies it stands beside.
    pub layer: Layer,
    /// Whether it is about calls to its scope or from it.
    pub direction: Direction,
    /// Whose calls it is about.
    pub scope: Scope,
    /// What follows from a rule that matches.
    pub effect: Effect,
    /// It is reported what it would do, and not done.
    pub dry_run: bool,
    /// Alternatives. Empty matches nothing.
    pub rules: Vec<AccessRule>,
}

/// Which kind of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Kubernetes' NetworkPolicy: connections.
    Network,
    /// Istio's AuthorizationPolicy: requests, and connections where there are none.
    Authorization,
}

/// Which side of a call a policy's scope selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Who is called.
    Ingress,
    /// Who calls.
    Egress,
}

/// Whose calls a policy is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Workloads of a namespace (`None`: of all) with labels.
    Workloads(Option<String>, LabelSelector),
    /// Services, by namespace and name.
    Services(Vec<(String, String)>),
}

/// What a policy does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// What none of the allowing policies matches is denied.
    Allow,
    /// What matches is denied.
    Deny,
    /// What matches is reported.
    Audit,
    /// Of what matches this extension provider (a name of MeshConfig) decides.
    Custom(String),
}

/// One alternative of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct AccessRule {
    /// Alternatives for who is at the other end (who calls; of egress, who is called), each a list
    /// of clauses that must all hold. Empty: anybody.
    pub sources: Vec<Vec<Clause>>,
    /// Alternatives for what is asked. Empty: anything.
    pub operations: Vec<Vec<Clause>>,
    /// What must hold besides.
    pub conditions: Vec<Clause>,
}

/// One test: the field has one of the values, or none of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Clause {
    /// What is looked at, and the values.
    pub field: Field,
    /// It must have none of them.
    pub negated: bool,
}

/// What a clause looks at, with the values of which one must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Field {
    /// Who calls.
    Caller(Vec<IdentityMatch>),
    /// Who is called.
    Called(Vec<IdentityMatch>),
    /// The caller's address.
    CallerAddress(Vec<Subnet>),
    /// The address of who calls in the end: the last one of `x-forwarded-for` if there is one,
    /// as Envoy with no trusted hops, else the caller's.
    RemoteAddress(Vec<Subnet>),
    /// The address of the endpoint.
    CalledAddress(Vec<Subnet>),
    /// The port of the endpoint.
    Port(Vec<PortRange>),
    /// The name in the TLS ClientHello.
    Sni(Vec<Text>),
    /// HTTP: the method, with its case.
    Method(Vec<Text>),
    /// HTTP: the path as rules see it, without the query.
    Path(Vec<PathTest>),
    /// HTTP: the authority as sent, a port included; case is ignored.
    Host(Vec<Text>),
    /// HTTP: a header field, by its name in lower case.
    Header(String, Vec<Text>),
    /// HTTP: what a verified token says. The text names it, for people.
    Token(String),
}

/// How a text is compared (Istio's exact, prefix, suffix and presence matches).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Text {
    /// Equal.
    Exact(String),
    /// `p*`: begins with.
    Prefix(String),
    /// `*s`: ends with.
    Suffix(String),
    /// `*`: not empty.
    Present,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathTest {
    /// As any text.
    Text(Text),
    /// `{*}` stands for one segment, a `{**}` at the end for any number of them.
    Template(String),
}

/// Ports of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct PortRange {
    /// `None`: of any.
    pub transport: Option<Transport>,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl AccessPolicy {
    /// Whether it changes nothing: what matches it is reported.
    pub fn only_reports(&self) -> bool {
        self.dry_run || self.effect == Effect::Audit
    }
}

impl PortRange {
    /// One TCP or UDP port.
    pub fn one(port: u16) -> PortRange {
        PortRange { transport: None, first: port, last: port }
    }
}

impl Field {
    /// Whether only requests have it.
    pub fn is_http(&self) -> bool {
        use Field::{Header, Host, Method, Path, Token};
        matches!(self, Method(_) | Path(_) | Host(_) | Header(..) | Token(_))
    }
}

impl AccessRule {
    /// All of its clauses.
    pub fn clauses(&self) -> impl Iterator<Item = &Clause> {
        let lists = self.sources.iter().chain(&self.operations);
        lists.flatten().chain(&self.conditions)
    }
}

impl Text {
    /// Reads Istio's notation: `*`, `p*`, `*s` or the text itself.
    pub fn parse(value: &str) -> Text {
        match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(""), _) => Text::Present,
            (Some(suffix), _) => Text::Suffix(suffix.to_owned()),
            (_, Some(prefix)) => Text::Prefix(prefix.to_owned()),
            _ => Text::Exact(value.to_owned()),
        }
    }

    /// Whether it holds for a value.
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Text::Exact(text) => value == text.as_bytes(),
            Text::Prefix(text) => value.starts_with(text.as_bytes()),
            Text::Suffix(text) => value.ends_with(text.as_bytes()),
            Text::Present => !value.is_empty(),
        }
    }

    /// [`Text::holds`] without regard to ASCII case.
    pub fn holds_in_any_case(&self, value: &[u8]) -> bool {
        let lower = |text: &String| text.to_ascii_lowercase();
        let folded = match self {
            Text::Exact(text) => Text::Exact(lower(text)),
            Text::Prefix(text) => Text::Prefix(lower(text)),
            Text::Suffix(text) => Text::Suffix(lower(text)),
            Text::Present => Text::Present,
        };
        folded.holds(&value.to_ascii_lowercase())
    }

    /// The regular expression for the same, for the whole of a value.
    pub fn regex(&self) -> String {
        let escape = regex_syntax::escape;
        match self {
            Text::Exact(text) => escape(text),
            Text::Prefix(text) => format!("{}(?s:.*)", escape(text)),
            Text::Suffix(text) => format!("(?s:.*){}", escape(text)),
            Text::Present => "(?s:.+)".to_owned(),
        }
    }
}

/// Characters of a path segment (RFC 3986 section 3.3), as Envoy's URI templates take them.
const SEGMENT: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]";

impl PathTest {
    /// Reads Istio's notation: with `{*}` or `{**}` in it a template, else a [`Text`].
    pub fn parse(value: &str) -> PathTest {
        match value.contains("{*}") || value.contains("{**}") {
            true => PathTest::Template(value.to_owned()),
            false => PathTest::Text(Text::parse(value)),
        }
    }

    /// Whether it holds for a path.
    pub fn holds(&self, path: &str) -> bool {
        match self {
            PathTest::Text(text) => text.holds(path.as_bytes()),
            PathTest::Template(_) => {
                pattern::whole(&self.regex(), false).is_some_and(|regex| regex.is_match(path))
            }
        }
    }

    /// The regular expression for the same, for the whole of a path.
    pub fn regex(&self) -> String {
        let template = match self {
            PathTest::Text(text) => return text.regex(),
            PathTest::Template(template) => template,
        };
        let mut regex = String::new();
        let mut rest = template.as_str();
        while let Some(at) = rest.find('{') {
            let (before, behind) = rest.split_at(at);
            regex.push_str(&regex_syntax::escape(before));
            rest = if let Some(behind) = behind.strip_prefix("{**}") {
                regex.push_str(&format!("(?:{SEGMENT}|/)*"));
                behind
            } else if let Some(behind) = behind.strip_prefix("{*}") {
                regex.push_str(&format!("{SEGMENT}+"));
                behind
            } else {
                regex.push_str(r"\{");
                &behind[1..]
            };
        }
        regex + &regex_syntax::escape(rest)
    }
}
