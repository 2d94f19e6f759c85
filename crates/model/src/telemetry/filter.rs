//! What is to be logged: the part of CEL (its language definition) that Envoy's attributes of a
//! request need, read and checked when the configuration is.
//!
//! | | |
//! |---|---|
//! | attributes | [`ATTRIBUTES`], and `request.headers['x']` of those that are kept |
//! | literals | `true`, `404`, `'text'`, `duration('1.5s')`, lists of these behind `in` |
//! | operators | `==` `!=` `<` `<=` `>` `>=` `in` `&&` <code>&#124;&#124;</code> `!` and parentheses |
//! | functions | `has(a.b)`, `size(t)`, `t.startsWith(u)`, `t.endsWith(u)`, `t.contains(u)`, `t.matches('re')` |
//!
//! As in CEL what asks for an attribute that is not there has no value, unless the other side of
//! `&&` or `||` decides; and what has no value is not logged.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::parser;

/// An expression that is true of what is to be logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    text: String,
    root: Expr,
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// Text.
    Text,
    /// A duration.
    Span,
}

/// A value.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// A duration, in nanoseconds.
    Span(i64),
}

macro_rules! attributes {
    ($($name:ident $kind:ident $text:literal,)*) => {
        /// What can be asked of a request.
        #[allow(missing_docs)] // ATTRIBUTES says it
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Attribute { $($name,)* }

        /// Each with what it is called, in Envoy's words or in Beeway's own, and its kind.
        pub const ATTRIBUTES: &[(&str, Attribute, Kind)] =
            &[$(($text, Attribute::$name, Kind::$kind)),*];
    };
}

attributes! {
    Method Text "request.method",
    Path Text "request.path",
    UrlPath Text "request.url_path",
    Query Text "request.query",
    Host Text "request.host",
    Scheme Text "request.scheme",
    Protocol Text "request.protocol",
    RequestId Text "request.id",
    UserAgent Text "request.useragent",
    Duration Span "request.duration",
    RequestSize Int "request.size",
    Code Int "response.code",
    CodeDetails Text "response.code_details",
    Flags Int "response.flags",
    GrpcStatus Int "response.grpc_status",
    ResponseSize Int "response.size",
    SourceAddress Text "source.address",
    SourceWorkload Text "source.workload.name",
    SourceNamespace Text "source.workload.namespace",
    SourceApp Text "source.app",
    SourceVersion Text "source.version",
    DestinationAddress Text "destination.address",
    DestinationPort Int "destination.port",
    DestinationWorkload Text "destination.workload.name",
    DestinationNamespace Text "destination.workload.namespace",
    DestinationApp Text "destination.app",
    DestinationVersion Text "destination.version",
    ServiceName Text "destination.service.name",
    ServiceNamespace Text "destination.service.namespace",
    ServiceHost Text "destination.service.host",
    UpstreamAddress Text "upstream.address",
    UpstreamPort Int "upstream.port",
    Mtls Bool "connection.mtls",
    Route Text "xds.route_name",
    Cluster Text "xds.cluster_name",
    Lane Text "beeway.lane",
    Reason Text "beeway.reason",
    Verdict Text "beeway.verdict",
    Policy Text "beeway.policy",
}

/// Where attributes come from.
pub trait Attributes {
    /// The value of one, of its kind; `None`: it has none.
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>>;

    /// A field of the request, by a name in lower case.
    fn header(&self, name: &str) -> Option<&str>;
}

/// An expression whose kinds fit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Constant(Value<'static>),
    Attribute(Attribute),
    Header(String),
    Has(Box<Expr>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Comparison, Box<Expr>),
    In(Box<Expr>, Vec<Value<'static>>),
    Text(Box<Expr>, TextTest, Box<Expr>),
    Matches(Box<Expr>, String),
    Size(Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

impl Filter {
    /// Reads an expression. The error says what is not understood, and where.
    pub fn parse(text: &str) -> Result<Filter, String> {
        let root = parser::parse(text)?;
        Ok(Filter { text: text.to_owned(), root })
    }

    /// Whether it is true.
    pub fn holds(&self, attributes: &impl Attributes) -> bool {
        evaluate(&self.root, attributes) == Some(Value::Bool(true))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn evaluate<'a>(expr: &'a Expr, of: &'a impl Attributes) -> Option<Value<'a>> {
    let truth = |expr: &'a Expr| match evaluate(expr, of) {
        Some(Value::Bool(truth)) => Some(truth),
        _ => None,
    };
    let text = |expr: &'a Expr| match evaluate(expr, of) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    };
    let truth = match expr {
        Expr::Constant(value) => return Some(value.clone()),
        Expr::Attribute(attribute) => return of.attribute(*attribute),
        Expr::Header(name) => return of.header(name).map(|text| Value::Text(text.into())),
        Expr::Size(expr) => {
            let characters = text(expr)?.chars().count();
            return Some(Value::Int(i64::try_from(characters).unwrap_or(i64::MAX)));
        }
        Expr::Has(expr) => evaluate(expr, of).is_some(),
        Expr::Not(expr) => !truth(expr)?,
        Expr::And(a, b) => match (truth(a), truth(b)) {
            (Some(false), _) | (_, Some(false)) => false,
            (a, b) => a? && b?,
        },
        Expr::Or(a, b) => match (truth(a), truth(b)) {
            (Some(true), _) | (_, Some(true)) => true,
            (a, b) => a? || b?,
        },
        Expr::Compare(a, how, b) => compare(&evaluate(a, of)?, *how, &evaluate(b, of)?),
        Expr::In(expr, list) => list.contains(&evaluate(expr, of)?),
        Expr::Text(expr, TextTest::StartsWith, other) => text(expr)?.starts_with(&*text(other)?),
        Expr::Text(expr, TextTest::EndsWith, other) => text(expr)?.ends_with(&*text(other)?),
        Expr::Text(expr, TextTest::Contains, other) => text(expr)?.contains(&*text(other)?),
        Expr::Matches(expr, pattern) => crate::pattern::anywhere(pattern)?.is_match(&text(expr)?),
    };
    Some(Value::Bool(truth))
}

fn compare(a: &Value<'_>, how: Comparison, b: &Value<'_>) -> bool {
    match how {
        Comparison::Equal => a == b,
        Comparison::Unequal => a != b,
        Comparison::Less => a < b,
        Comparison::AtMost => a <= b,
        Comparison::More => a > b,
        Comparison::AtLeast => a >= b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with these attributes, and a user agent.
    struct Sample(Vec<(Attribute, Value<'static>)>);

    impl Attributes for Sample {
        fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
            self.0.iter().find(|(known, _)| *known == attribute).map(|(_, value)| value.clone())
        }

        fn header(&self, name: &str) -> Option<&str> {
            (name == "user-agent").then_some("curl/8")
        }
    }

    fn holds(text: &str) -> bool {
        let sample = Sample(vec![
            (Attribute::Code, Value::Int(404)),
            (Attribute::Method, Value::Text("GET".into())),
            (Attribute::UrlPath, Value::Text("/healthz/x".into())),
            (Attribute::Duration, Value::Span(250_000_000)),
            (Attribute::Mtls, Value::Bool(false)),
        ]);
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        filter.holds(&sample)
    }

    #[test]
    fn expressions_mean_what_they_mean_in_cel() {
        for yes in [
            "response.code >= 400",
            "response.code == 404 && request.method == 'GET'",
            "!(response.code < 400)",
            "response.code in [200, 404]",
            "'user-agent' in request.headers",
            "!('x-request-id' in request.headers)",
            "request.headers['User-Agent'].startsWith(\"curl/\")",
            "request.url_path.startsWith('/healthz')",
            "request.url_path.endsWith('x') && request.url_path.contains('thz')",
            "request.url_path.matches('^/[a-z]+/x$')",
            "size(request.method) == 3",
            "request.duration > duration('100ms') && request.duration <= duration(\"0.25s\")",
            "has(response.code) && !has(response.grpc_status)",
            "has(request.headers['user-agent'])",
            "connection.mtls == false && !connection.mtls",
            "response.code >= 400 || response.grpc_status > 0",
            "response.grpc_status > 0 || response.code >= 400",
            "true",
            "-1 < response.code",
            "'a\\'b\\x41\\n' == \"a'bA\\n\"",
            "r'\\d' == '\\\\d'",
            "  response . code\n>=\n400 // that is all",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in [
            "response.code < 400",
            "response.code == 404 && request.method == 'POST'",
            // what is not there has no value, and neither has its opposite
            "response.grpc_status == 0",
            "response.grpc_status != 0",
            "!(response.grpc_status == 0)",
            "response.grpc_status == 0 && response.code == 404",
            "'X' in ['a', 'b']",
            "false",
        ] {
            assert!(!holds(no), "{no}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_told() {
        for (text, wanted) in [
            ("", "at 1: the expression ends too early"),
            ("response.code", "at 1: the expression is no condition, but a number"),
            ("response.code >= '400'", "at 15: a number and text cannot be compared"),
            ("response.cod >= 400", "at 1: response.cod is not known"),
            ("response.code >= 400 extra", "at 22: `extra` is not expected"),
            ("response.code & 1 == 1", "at 15: `&` is not expected"),
            ("request.headers['cookie'] == 'x'", "at 17: "),
            ("request.method.lower() == 'get'", "at 15: there is no function lower"),
            ("request.method.matches('(')", "at 24: `(` is no regular expression"),
            ("request.method.matches(request.path)", "at 24: a pattern is written as text"),
            ("'a", "at 1: the text has no end"),
            ("response.code > 99999999999999999999", "at 17: the number is too large"),
            ("duration('x') < request.duration", "at 10: `x` is no duration"),
            ("response.code == 404 ? true : false", "at 22: `?` is not expected"),
            ("has(404)", "at 5: has() asks for an attribute"),
            ("1 < 2 < 3", "at 7: comparisons do not follow each other"),
            ("connection.mtls < true", "at 17: only == and != compare conditions"),
        ] {
            let error = Filter::parse(text).expect_err(text);
            assert!(error.starts_with(wanted), "{text}: {error}");
        }
        let deep = format!("{}true{}", "(".repeat(5000), ")".repeat(5000));
        assert!(Filter::parse(&deep).is_err());
        assert!(Filter::parse(&"!".repeat(100_000)).is_err());
    }

    #[test]
    fn no_text_is_too_odd_to_be_refused() {
        let mut seed = 0x9e37_79b9_u32;
        let mut below = |bound: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % bound
        };
        let parts = [
            "response.code",
            "request.headers",
            "[",
            "]",
            "(",
            ")",
            "'",
            "\"",
            "\\",
            "&&",
            "||",
            "!",
            "==",
            "in",
            "has",
            "size",
            "1",
            "-",
            ".",
            "ä",
            "\u{0}",
            "matches",
            "r'",
            "\\u12",
            ",",
            "duration",
            "//",
            " ",
        ];
        for _ in 0..20_000 {
            let text: String = (0..below(9)).map(|_| parts[below(parts.len())]).collect();
            let _ = Filter::parse(&text);
        }
    }
}
