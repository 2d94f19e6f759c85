//! The parts of `networking.istio.io` objects that are read. Fields that are known and not carried
//! out are [`Unread`]; every other field is reported by its path.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::decode::Unread;

/// `null` stands for the default, as in the Kubernetes API.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

type Labels = BTreeMap<String, String>;
type StringMatches = BTreeMap<String, Option<StringMatch>>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VirtualService {
    #[serde(default, deserialize_with = "nullable")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub gateways: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub export_to: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub http: Vec<HttpRule>,
    pub tls: Option<Unread>,
    pub tcp: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRule {
    #[serde(rename = "name")]
    pub _name: Option<Unread>,
    #[serde(default, rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<HttpMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub route: Vec<Destination>,
    pub direct_response: Option<DirectResponse>,
    pub redirect: Option<Unread>,
    pub delegate: Option<Unread>,
    pub rewrite: Option<Unread>,
    pub timeout: Option<Unread>,
    pub retries: Option<Unread>,
    pub fault: Option<Fault>,
    pub mirror: Option<Unread>,
    pub mirrors: Option<Unread>,
    #[serde(rename = "mirrorPercentage")]
    pub _mirror_percentage: Option<Unread>,
    #[serde(rename = "mirrorPercent")]
    pub _mirror_percent: Option<Unread>,
    pub cors_policy: Option<Unread>,
    pub headers: Option<Unread>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpMatch {
    #[serde(rename = "name")]
    pub _name: Option<Unread>,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: StringMatches,
    #[serde(default, deserialize_with = "nullable")]
    pub without_headers: StringMatches,
    #[serde(default, deserialize_with = "nullable")]
    pub query_params: StringMatches,
    pub port: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub source_labels: Labels,
    pub source_namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub gateways: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ignore_uri_case: bool,
    #[serde(rename = "statPrefix")]
    pub _stat_prefix: Option<Unread>,
}

/// One of the three, or none: present.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StringMatch {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub regex: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Destination {
    pub destination: Target,
    pub weight: Option<u32>,
    pub headers: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Target {
    pub host: String,
    pub subset: Option<String>,
    pub port: Option<PortSelector>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PortSelector {
    pub number: u16,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DirectResponse {
    pub status: u16,
    pub body: Option<Body>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    pub string: Option<String>,
    pub bytes: Option<Unread>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delay {
    pub percentage: Option<Percent>,
    pub percent: Option<f64>,
    #[serde(rename = "fixedDelay")]
    pub _fixed_delay: Option<Unread>,
    #[serde(rename = "exponentialDelay")]
    pub _exponential_delay: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Abort {
    pub http_status: Option<u16>,
    #[serde(rename = "grpcStatus")]
    pub _grpc_status: Option<Unread>,
    #[serde(rename = "http2Error")]
    pub _http2_error: Option<Unread>,
    pub percentage: Option<Percent>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Percent {
    #[serde(default)]
    pub value: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DestinationRule {
    pub host: String,
    #[serde(default, deserialize_with = "nullable")]
    pub traffic_policy: BTreeMap<String, Unread>,
    #[serde(default, deserialize_with = "nullable")]
    pub subsets: Vec<Subset>,
    #[serde(default, deserialize_with = "nullable")]
    pub export_to: Vec<String>,
    pub workload_selector: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Subset {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub traffic_policy: BTreeMap<String, Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceEntry {
    #[serde(default, deserialize_with = "nullable")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<EntryPort>,
    #[serde(rename = "location")]
    pub _location: Option<Unread>,
    pub resolution: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<WorkloadEntry>,
    pub workload_selector: Option<Selector>,
    #[serde(default, deserialize_with = "nullable")]
    pub export_to: Vec<String>,
    pub subject_alt_names: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryPort {
    pub number: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: String,
    pub target_port: Option<u16>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadEntry {
    #[serde(default, deserialize_with = "nullable")]
    pub address: String,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: BTreeMap<String, u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(rename = "network")]
    pub _network: Option<Unread>,
    #[serde(rename = "locality")]
    pub _locality: Option<Unread>,
    pub weight: Option<u32>,
    pub service_account: Option<String>,
}
