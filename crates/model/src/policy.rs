//! What a rule does to a request besides choosing where it goes.
//!
//! All of it is carried out by the userspace proxy. Values are what the configuration means, not
//! how it was written: percentages are fractions, times are durations, names are in lower case.

use std::time::Duration;

use serde::Serialize;

use crate::mesh::ClusterId;
use crate::route::StringMatch;

/// Everything that a rule asks for besides its [`Action`](crate::Action).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Policy {
    /// Changes to the request's header fields, after those of the backend (Envoy's order).
    pub request_headers: HeaderEdits,
    /// Changes to the answer's header fields, after those of the backend. They apply to redirects
    /// and direct responses too, not to answers that say what went wrong.
    pub response_headers: HeaderEdits,
    /// Change of path and authority before the request goes on.
    pub rewrite: Rewrite,
    /// Time from the whole request having been read until the end of the answer, over all tries;
    /// zero or `None`: no limit. (Envoy's route timeout: 504, or a reset when the answer has begun;
    /// flag UT.)
    pub timeout: Option<Duration>,
    /// When and how often to try again; `None`: [`Retry::default`].
    pub retry: Option<Retry>,
    /// Delays and aborts on purpose.
    pub fault: Fault,
    /// Copies of requests that nobody waits for.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin requests (Fetch standard, section 3.2).
    pub cors: Option<Cors>,
}

/// Changes to header fields: names in lower case, removed first, then set, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    /// Fields that go.
    pub remove: Vec<String>,
    /// Fields that get this one value, whatever they had.
    pub set: Vec<(String, String)>,
    /// Fields that get one more value.
    pub add: Vec<(String, String)>,
}

/// Changes to where a request says it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// Of the path; the query stays.
    pub path: Option<PathRewrite>,
    /// New value of Host or `:authority`.
    pub authority: Option<String>,
}

/// How a path is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// By this one.
    Full(String),
    /// What the match's prefix covers is replaced; after an exact path or a regex the whole path
    /// is, and without a condition on the path the first slash (Envoy's `prefix_rewrite`). A
    /// prefix by segments keeps exactly one slash at the seam (Gateway API's
    /// `ReplacePrefixMatch`).
    Prefix(String),
    /// Every match of an RE2 expression; `\1` in the substitution is its first group.
    Regex {
        /// RE2 syntax, matched anywhere.
        pattern: String,
        /// With `\0` to `\9`, and `\\` for a backslash; see
        /// [`check_substitution`](crate::action::rewrite::check_substitution).
        substitution: String,
    },
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Tries after the first; 0: none.
    pub attempts: u32,
    /// Time for each try, until the end of the answer's head; `None`: the rule's timeout alone.
    pub per_try_timeout: Option<Duration>,
    /// What counts as a failure.
    pub on: Vec<RetryOn>,
    /// Statuses that count as a failure.
    pub statuses: Vec<u16>,
    /// What waits before a try are drawn from: up to this before the first, up to three times
    /// this before the second, and so on, see [`backoff`](crate::action::retry::backoff).
    pub backoff: Duration,
}

/// A kind of failure (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// Any 5xx, or no answer at all.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// No answer: no connection, disconnect, reset, or the time for a try passed.
    Reset,
    /// The same, before the request was sent.
    ResetBeforeRequest,
    /// No connection.
    ConnectFailure,
    /// 409.
    Retriable4xx,
    /// The endpoint refused the stream (HTTP/2 REFUSED_STREAM).
    RefusedStream,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

impl Default for Retry {
    /// What Istio gives every route (since 1.24, which left out 503): twice, on failures after
    /// which nothing was done.
    fn default() -> Self {
        Retry {
            attempts: 2,
            per_try_timeout: None,
            on: vec![
                RetryOn::ConnectFailure,
                RetryOn::RefusedStream,
                RetryOn::Unavailable,
                RetryOn::Cancelled,
            ],
            statuses: vec![],
            backoff: Duration::from_millis(25),
        }
    }
}

/// Failures made on purpose.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Fault {
    /// Wait this long before anything else.
    pub delay: Option<(Duration, Fraction)>,
    /// Answer instead of sending.
    pub abort: Option<(Abort, Fraction)>,
}

/// The answer of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Abort {
    /// This HTTP status.
    Http(u16),
    /// 200 with this gRPC status, or for what is no gRPC the HTTP status that corresponds to it.
    Grpc(u8),
}

/// A share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fraction {
    /// So many
    pub numerator: u32,
    /// of so many; never 0.
    pub denominator: u32,
}

/// A copy of each request, or of a share of them, whose answer is thrown away. Its authority is
/// that of the request (Istio since 1.28; before, it ended with `-shadow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Where to; `None`: it is not there, and nothing is sent.
    pub cluster: Option<ClusterId>,
    /// How many.
    pub share: Fraction,
}

/// Which pages of other origins may use a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Origins that may; one must hold. One that holds for `*` itself holds for all.
    pub origins: Vec<StringMatch>,
    /// `access-control-allow-methods`; `*` stands for what is asked for.
    pub methods: Vec<String>,
    /// `access-control-allow-headers`; `*` stands for what is asked for.
    pub headers: Vec<String>,
    /// `access-control-expose-headers`.
    pub expose: Vec<String>,
    /// `access-control-max-age`.
    pub max_age: Option<Duration>,
    /// `access-control-allow-credentials: true`.
    pub credentials: bool,
    /// A preflight of an origin that may not is sent to the endpoint (Istio's default); otherwise
    /// it is answered here, without `access-control-allow-origin`.
    pub forward_unmatched: bool,
}

impl HeaderEdits {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

impl Fraction {
    /// All requests.
    pub const ALL: Fraction = Fraction { numerator: 1, denominator: 1 };

    /// A percentage, kept to a ten-thousandth of one as in Envoy's `MILLION`.
    pub fn percent(value: f64) -> Fraction {
        let numerator = (value.clamp(0.0, 100.0) * 10_000.0).round() as u32;
        Fraction { numerator, denominator: 1_000_000 }
    }

    /// Whether a uniformly distributed draw is of the share.
    pub fn holds(self, draw: u32) -> bool {
        crate::mesh::scale(draw, self.denominator.into()) < self.numerator.into()
    }
}
