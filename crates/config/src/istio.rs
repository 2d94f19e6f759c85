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
    #[serde(default, deserialize_with = "nullable")]
    pub tls: Vec<StreamRule<TlsMatch>>,
    #[serde(default, deserialize_with = "nullable")]
    pub tcp: Vec<StreamRule<TcpMatch>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound = "M: Deserialize<'de>")]
pub(crate) struct StreamRule<M> {
    #[serde(rename = "name")]
    pub _name: Option<Unread>,
    #[serde(default = "Vec::new", rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<M>,
    #[serde(default, deserialize_with = "nullable")]
    pub route: Vec<StreamDestination>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TlsMatch {
    #[serde(default, deserialize_with = "nullable")]
    pub sni_hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub destination_subnets: Vec<String>,
    pub port: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub source_labels: Labels,
    pub source_namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub gateways: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TcpMatch {
    #[serde(default, deserialize_with = "nullable")]
    pub destination_subnets: Vec<String>,
    pub port: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub source_labels: Labels,
    pub source_namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub gateways: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamDestination {
    pub destination: Target,
    pub weight: Option<u32>,
}

/// What few rules have is boxed, because there may be tens of thousands of rules.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRule {
    #[serde(rename = "name")]
    pub _name: Option<Unread>,
    #[serde(default, rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<HttpMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub route: Vec<Destination>,
    pub direct_response: Option<Box<DirectResponse>>,
    pub redirect: Option<Box<Redirect>>,
    pub delegate: Option<Box<Delegate>>,
    pub rewrite: Option<Box<Rewrite>>,
    pub timeout: Option<String>,
    pub retries: Option<Box<Retries>>,
    pub fault: Option<Box<Fault>>,
    pub mirror: Option<Box<Target>>,
    #[serde(default, deserialize_with = "nullable")]
    pub mirrors: Vec<MirrorPolicy>,
    pub mirror_percentage: Option<Percent>,
    pub mirror_percent: Option<u32>,
    pub cors_policy: Option<Box<CorsPolicy>>,
    pub headers: Option<Box<Headers>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
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

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Destination {
    pub destination: Target,
    pub weight: Option<u32>,
    pub headers: Option<Box<Headers>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Target {
    pub host: String,
    pub subset: Option<String>,
    pub port: Option<PortSelector>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Delegate {
    pub name: String,
    pub namespace: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PortSelector {
    pub number: u16,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DirectResponse {
    pub status: u16,
    pub body: Option<Body>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Body {
    pub string: Option<String>,
    /// Base64.
    pub bytes: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Redirect {
    #[serde(default, deserialize_with = "nullable")]
    pub uri: String,
    #[serde(default, deserialize_with = "nullable")]
    pub authority: String,
    pub port: Option<u16>,
    pub derive_port: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub scheme: String,
    #[serde(default, deserialize_with = "nullable")]
    pub redirect_code: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rewrite {
    #[serde(default, deserialize_with = "nullable")]
    pub uri: String,
    #[serde(default, deserialize_with = "nullable")]
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RegexRewrite {
    #[serde(default, rename = "match", deserialize_with = "nullable")]
    pub pattern: String,
    #[serde(default, deserialize_with = "nullable")]
    pub rewrite: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retries {
    #[serde(default, deserialize_with = "nullable")]
    pub attempts: u32,
    pub per_try_timeout: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub retry_on: String,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct MirrorPolicy {
    pub destination: Target,
    pub percentage: Option<Percent>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CorsPolicy {
    /// Stands before `allow_origin`, even when it is empty.
    pub allow_origins: Option<Vec<StringMatch>>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_origin: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_methods: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_headers: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub expose_headers: Vec<String>,
    pub max_age: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow_credentials: bool,
    pub unmatched_preflights: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Headers {
    #[serde(default, deserialize_with = "nullable")]
    pub request: HeaderOperations,
    #[serde(default, deserialize_with = "nullable")]
    pub response: HeaderOperations,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct HeaderOperations {
    #[serde(default, deserialize_with = "nullable")]
    pub set: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub add: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delay {
    pub percentage: Option<Percent>,
    pub percent: Option<f64>,
    pub fixed_delay: Option<String>,
    pub exponential_delay: Option<Unread>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Abort {
    pub http_status: Option<u16>,
    pub grpc_status: Option<String>,
    pub http2_error: Option<Unread>,
    pub percentage: Option<Percent>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Percent {
    #[serde(default)]
    pub value: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DestinationRule {
    pub host: String,
    pub traffic_policy: Option<Box<TrafficPolicy>>,
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
    pub traffic_policy: Option<Box<TrafficPolicy>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrafficPolicy {
    pub connection_pool: Option<ConnectionPool>,
    #[serde(default, deserialize_with = "nullable")]
    pub port_level_settings: Vec<PortPolicy>,
    pub load_balancer: Option<Unread>,
    pub outlier_detection: Option<Unread>,
    pub tls: Option<Unread>,
    pub tunnel: Option<Unread>,
    pub proxy_protocol: Option<Unread>,
    pub retry_budget: Option<Unread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortPolicy {
    pub port: PortSelector,
    pub connection_pool: Option<ConnectionPool>,
    pub load_balancer: Option<Unread>,
    pub outlier_detection: Option<Unread>,
    pub tls: Option<Unread>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConnectionPool {
    pub tcp: Option<Unread>,
    #[serde(default, deserialize_with = "nullable")]
    pub http: HttpPool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpPool {
    pub h2_upgrade_policy: Option<String>,
    pub http1_max_pending_requests: Option<Unread>,
    pub http2_max_requests: Option<Unread>,
    pub max_requests_per_connection: Option<Unread>,
    pub max_retries: Option<Unread>,
    pub idle_timeout: Option<Unread>,
    pub use_client_protocol: Option<Unread>,
    pub max_concurrent_streams: Option<Unread>,
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
