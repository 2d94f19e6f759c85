//! The parts of `gateway.networking.k8s.io` objects that are read.

use serde::Deserialize;

use crate::decode::Unread;
use crate::istio::nullable;

pub(crate) type HttpRoute = Route<RouteMatch>;
pub(crate) type GrpcRoute = Route<GrpcMatch>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "M: Deserialize<'de>")]
pub(crate) struct Route<M> {
    #[serde(default, deserialize_with = "nullable")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(default, deserialize_with = "nullable")]
    pub hostnames: Vec<String>,
    #[serde(default = "Vec::new", deserialize_with = "nullable")]
    pub rules: Vec<RouteRule<M>>,
    #[serde(rename = "useDefaultGateways")]
    pub _use_default_gateways: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParentRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub name: String,
    pub namespace: Option<String>,
    pub section_name: Option<String>,
    pub port: Option<u16>,
}

/// What few rules have is boxed, because there may be tens of thousands of rules.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound = "M: Deserialize<'de>")]
pub(crate) struct RouteRule<M> {
    #[serde(rename = "name")]
    pub _name: Option<Unread>,
    #[serde(default = "Vec::new", deserialize_with = "nullable")]
    pub matches: Vec<M>,
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<Filter>,
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: Vec<BackendRef>,
    pub timeouts: Option<Box<Timeouts>>,
    pub retry: Option<Box<Retry>>,
    pub session_persistence: Option<Unread>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteMatch {
    pub path: Option<RoutePath>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<Field>,
    #[serde(default, deserialize_with = "nullable")]
    pub query_params: Vec<Field>,
    pub method: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct GrpcMatch {
    pub method: Option<GrpcMethod>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<Field>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct GrpcMethod {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub service: Option<String>,
    pub method: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RoutePath {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub value: Option<String>,
}

/// A header or a query parameter.
#[derive(Debug, Deserialize)]
pub(crate) struct Field {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub name: String,
    pub value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timeouts {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Retry {
    #[serde(default, deserialize_with = "nullable")]
    pub codes: Vec<u16>,
    pub attempts: Option<u32>,
    pub backoff: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Filter {
    #[serde(rename = "type")]
    pub kind: String,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_mirror: Option<RequestMirror>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewrite>,
    pub cors: Option<Cors>,
    #[serde(rename = "externalAuth")]
    pub _external_auth: Option<Unread>,
    #[serde(rename = "extensionRef")]
    pub _extension_ref: Option<Unread>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct HeaderModifier {
    #[serde(default, deserialize_with = "nullable")]
    pub set: Vec<NameValue>,
    #[serde(default, deserialize_with = "nullable")]
    pub add: Vec<NameValue>,
    #[serde(default, deserialize_with = "nullable")]
    pub remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NameValue {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestMirror {
    pub backend_ref: BackendRef,
    pub percent: Option<u32>,
    pub fraction: Option<Share>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Share {
    pub numerator: u32,
    pub denominator: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestRedirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    pub status_code: Option<u16>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct UrlRewrite {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathModifier {
    #[serde(rename = "type")]
    pub kind: String,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cors {
    #[serde(default, deserialize_with = "nullable")]
    pub allow_origins: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_methods: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_headers: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub expose_headers: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_credentials: bool,
    /// In seconds.
    pub max_age: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BackendRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub name: String,
    pub namespace: Option<String>,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<Filter>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReferenceGrant {
    #[serde(default, deserialize_with = "nullable")]
    pub from: Vec<GrantFrom>,
    #[serde(default, deserialize_with = "nullable")]
    pub to: Vec<GrantTo>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct GrantFrom {
    pub group: String,
    pub kind: String,
    pub namespace: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct GrantTo {
    pub group: String,
    pub kind: String,
    pub name: Option<String>,
}
