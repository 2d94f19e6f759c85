//! The parts of `gateway.networking.k8s.io` objects that are read.

use serde::Deserialize;

use crate::decode::Unread;
use crate::istio::nullable;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRoute {
    #[serde(default, deserialize_with = "nullable")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(default, deserialize_with = "nullable")]
    pub hostnames: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub rules: Vec<RouteRule>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteRule {
    #[serde(rename = "name")]
    pub _name: Option<Unread>,
    #[serde(default, deserialize_with = "nullable")]
    pub matches: Vec<RouteMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<Filter>,
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: Vec<BackendRef>,
    pub timeouts: Option<Unread>,
    pub retry: Option<Unread>,
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
pub(crate) struct Filter {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(rename = "requestHeaderModifier")]
    pub _request_header_modifier: Option<Unread>,
    #[serde(rename = "responseHeaderModifier")]
    pub _response_header_modifier: Option<Unread>,
    #[serde(rename = "requestMirror")]
    pub _request_mirror: Option<Unread>,
    #[serde(rename = "requestRedirect")]
    pub _request_redirect: Option<Unread>,
    #[serde(rename = "urlRewrite")]
    pub _url_rewrite: Option<Unread>,
    #[serde(rename = "cors")]
    pub _cors: Option<Unread>,
    #[serde(rename = "externalAuth")]
    pub _external_auth: Option<Unread>,
    #[serde(rename = "extensionRef")]
    pub _extension_ref: Option<Unread>,
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
