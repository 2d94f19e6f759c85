//! The parts of an `EnvoyFilter` of `networking.istio.io` that are read: Envoy's local rate limiter,
//! as Istio's examples put it into sidecars. Whoever patches anything else is told so.
//!
//! Envoy's own messages are written in protobuf's JSON, with either spelling of a field's name.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::decode::Unread;
use crate::document::{Node, Value};
use crate::istio::nullable;

/// The name of the filter.
pub(crate) const FILTER: &str = "envoy.filters.http.local_ratelimit";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    pub workload_selector: Option<Selector>,
    #[serde(default, deserialize_with = "nullable")]
    pub target_refs: Vec<Unread>,
    #[serde(default, deserialize_with = "nullable")]
    pub config_patches: Vec<Patch>,
    #[serde(default)]
    pub priority: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Patch {
    #[serde(default)]
    pub apply_to: String,
    #[serde(default, rename = "match", deserialize_with = "nullable")]
    pub place: Place,
    pub patch: Change,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    #[serde(default)]
    pub context: String,
    #[serde(default, deserialize_with = "nullable")]
    pub listener: Listener,
    #[serde(default, deserialize_with = "nullable")]
    pub route_configuration: Routes,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listener {
    #[serde(default, deserialize_with = "nullable")]
    pub filter_chain: Chain,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Chain {
    #[serde(default, deserialize_with = "nullable")]
    pub filter: Filter,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Filter {
    pub name: Option<String>,
    pub sub_filter: Option<Named>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Named {
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Routes {
    #[serde(default, deserialize_with = "nullable")]
    pub vhost: Host,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Host {
    pub name: Option<String>,
    pub route: Option<Route>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Route {
    pub action: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Change {
    #[serde(default)]
    pub operation: String,
    #[serde(default, deserialize_with = "nullable")]
    pub value: Content,
}

/// Of a filter: name and configuration. Of a route: the rest.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Content {
    pub name: Option<String>,
    #[serde(alias = "typedConfig")]
    pub typed_config: Option<Limit>,
    #[serde(default, alias = "typedPerFilterConfig", deserialize_with = "nullable")]
    pub typed_per_filter_config: BTreeMap<String, Limit>,
    #[serde(default, deserialize_with = "nullable")]
    pub route: RouteAction,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct RouteAction {
    #[serde(default, alias = "rateLimits", deserialize_with = "nullable")]
    pub rate_limits: Vec<Actions>,
}

/// `LocalRateLimit`, or a `TypedStruct` around one.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Limit {
    #[serde(rename = "@type")]
    pub message: Option<String>,
    #[serde(alias = "typeUrl")]
    pub type_url: Option<String>,
    pub value: Option<Box<Limit>>,
    #[serde(rename = "stat_prefix", alias = "statPrefix")]
    pub _stat_prefix: Option<Unread>,
    pub status: Option<Status>,
    #[serde(alias = "tokenBucket")]
    pub token_bucket: Option<Tokens>,
    #[serde(alias = "filterEnabled")]
    pub filter_enabled: Option<Fraction>,
    #[serde(alias = "filterEnforced")]
    pub filter_enforced: Option<Fraction>,
    #[serde(default, alias = "responseHeadersToAdd", deserialize_with = "nullable")]
    pub response_headers_to_add: Vec<Added>,
    #[serde(default, deserialize_with = "nullable")]
    pub descriptors: Vec<Descriptor>,
    #[serde(alias = "alwaysConsumeDefaultTokenBucket")]
    pub always_consume_default_token_bucket: Option<bool>,
    #[serde(default, alias = "rateLimits", deserialize_with = "nullable")]
    pub rate_limits: Vec<Actions>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub code: Code,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Code {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Tokens {
    #[serde(default, alias = "maxTokens")]
    pub max_tokens: u32,
    #[serde(alias = "tokensPerFill")]
    pub tokens_per_fill: Option<u32>,
    #[serde(default, alias = "fillInterval")]
    pub fill_interval: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fraction {
    #[serde(rename = "runtime_key", alias = "runtimeKey")]
    pub _runtime_key: Option<Unread>,
    #[serde(default, alias = "defaultValue", deserialize_with = "nullable")]
    pub default_value: Percent,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Percent {
    #[serde(default)]
    pub numerator: u32,
    pub denominator: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Added {
    pub append: Option<bool>,
    #[serde(alias = "appendAction")]
    pub append_action: Option<String>,
    pub header: Header,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Header {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(default, deserialize_with = "nullable")]
    pub entries: Vec<Entry>,
    #[serde(alias = "tokenBucket")]
    pub token_bucket: Option<Tokens>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Entry {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Actions {
    #[serde(default, deserialize_with = "nullable")]
    pub actions: Vec<Action>,
}

/// One of its fields is set.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Action {
    #[serde(alias = "remoteAddress")]
    pub remote_address: Option<Empty>,
    #[serde(alias = "requestHeaders")]
    pub request_headers: Option<RequestHeaders>,
    #[serde(alias = "genericKey")]
    pub generic_key: Option<GenericKey>,
    #[serde(alias = "headerValueMatch")]
    pub header_value_match: Option<HeaderValueMatch>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Empty {}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RequestHeaders {
    #[serde(alias = "headerName")]
    pub header_name: String,
    #[serde(alias = "descriptorKey")]
    pub descriptor_key: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct GenericKey {
    #[serde(alias = "descriptorValue")]
    pub descriptor_value: String,
    #[serde(default, alias = "descriptorKey")]
    pub descriptor_key: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct HeaderValueMatch {
    #[serde(alias = "descriptorValue")]
    pub descriptor_value: String,
    #[serde(default, alias = "descriptorKey")]
    pub descriptor_key: String,
    #[serde(alias = "expectMatch")]
    pub expect_match: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<HeaderMatcher>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct HeaderMatcher {
    pub name: String,
    #[serde(alias = "stringMatch")]
    pub string_match: Option<StringMatcher>,
    #[serde(alias = "exactMatch")]
    pub exact_match: Option<String>,
    #[serde(alias = "prefixMatch")]
    pub prefix_match: Option<String>,
    #[serde(alias = "safeRegexMatch")]
    pub safe_regex_match: Option<Regex>,
    #[serde(alias = "presentMatch")]
    pub present_match: Option<bool>,
    #[serde(default, alias = "invertMatch")]
    pub invert_match: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StringMatcher {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    #[serde(alias = "safeRegex")]
    pub safe_regex: Option<Regex>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Regex {
    #[serde(rename = "google_re2", alias = "googleRe2")]
    pub _google_re2: Option<Unread>,
    pub regex: String,
}

/// Where an EnvoyFilter does something else than limit rates locally, and what.
pub(crate) fn something_else(node: &Node) -> Option<(String, String)> {
    let patches = match &node.get("spec")?.get("configPatches")?.value {
        Value::List(patches) => patches,
        _ => return None,
    };
    patches.iter().enumerate().find_map(|(at, patch)| {
        let value = patch.get("patch").and_then(|patch| patch.get("value"));
        let named = value.and_then(|value| value.text("name")).unwrap_or_default();
        let apply_to = patch.text("applyTo").unwrap_or_default();
        let what = match apply_to {
            "HTTP_FILTER" if named == FILTER => return None,
            "HTTP_ROUTE" => return None,
            _ => format!("{apply_to} {named}"),
        };
        Some((format!("spec.configPatches.{at}"), what.trim_end().to_owned()))
    })
}
