//! Who decides where a CUSTOM policy matches: MeshConfig's `extensionProviders`.

use std::time::Duration;

use serde::Serialize;

use super::policy::Text;
use crate::mesh::ClusterId;

/// An external authorizer. One that cannot be used is in no mesh, and policies that name it deny.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Provider {
    /// By which policies name it ([`Effect::Custom`](super::Effect::Custom)).
    pub name: String,
    /// Fully qualified host of its service.
    pub host: String,
    /// Port of the service (host byte order).
    pub port: u16,
    /// Where checks are sent.
    pub cluster: ClusterId,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Without an answer, or with one of 5xx, the request goes on.
    pub fail_open: bool,
    /// What a client gets without an answer, unless that opens.
    pub status_on_error: u16,
    /// What the check made of the request's head can lead to another route.
    pub clear_route_cache: bool,
    /// How much of the body goes with a check. `None`: nothing.
    pub body: Option<CheckedBody>,
    /// How it is asked.
    pub kind: ProviderKind,
}

/// How much of a request's body goes with a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CheckedBody {
    /// At most so many bytes.
    pub max_bytes: u32,
    /// A longer body is cut; else its request is answered 413.
    pub allow_partial: bool,
    /// gRPC: in `raw_body`, else in `body`, which is text.
    pub pack_as_bytes: bool,
}

/// How a provider is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// By a request with the method, authority and path of the one that is judged.
    Http(HttpCheck),
}

/// What of the head goes there and back. Names are in lower case and compared without case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HttpCheck {
    /// Put before the path.
    pub path_prefix: String,
    /// Header fields that go with the check, besides authorization and content-length.
    pub request_headers: Vec<Text>,
    /// More header fields of the check, name and value.
    pub additional_headers: Vec<(String, String)>,
    /// Fields of an answer that allows which replace those of the request.
    pub upstream_on_allow: Vec<Text>,
    /// Fields of an answer that denies which the client gets. Empty: all.
    pub downstream_on_deny: Vec<Text>,
    /// Fields of an answer that allows which are added to what the client gets.
    pub downstream_on_allow: Vec<Text>,
}
