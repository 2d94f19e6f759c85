//! MeshConfig (the ConfigMap `istio` of the root namespace): who decides for CUSTOM policies; and
//! what [`telemetry_provider`] reads.
//!
//! A provider of which anything cannot be read is not there, and policies that name it deny. What
//! policies mean in the whole mesh ([`KEPT`]) is read where the rest is no YAML too: without it those of
//! the root namespace would be about that one alone, and principals nobody's.

use std::collections::BTreeMap;
use std::time::Duration;

use beeway_model::access::{CheckedBody, HttpCheck, Provider, ProviderKind, TRUST_DOMAIN, Text};
use beeway_model::{ClusterId, Protocol};
use serde::Deserialize;

use crate::catalog::Catalog;
use crate::document::{self, Node, Value};
use crate::duration;
use crate::item::Place;
use crate::objects::Objects;
use crate::policy_item::{Fault, strict};
use crate::problem::Problem;
use crate::telemetry_provider::{self, Settings};

/// Where it is.
pub(crate) const NAMESPACE: &str = crate::ROOT_NAMESPACE;
pub(crate) const NAME: &str = "istio";
pub(crate) const KEY: &str = "mesh";
pub(crate) const PATH: &str = "data.mesh";

/// Fields that are read by themselves where the text cannot be read as a whole.
const KEPT: [&str; 3] = ["rootNamespace", "trustDomain", "trustDomainAliases"];

/// What is read of it.
#[derive(Debug, Default)]
pub(crate) struct MeshConfig {
    providers: Vec<Written>,
    /// Policies of this namespace are for the whole mesh.
    pub root_namespace: Option<String>,
    /// What policies may call the mesh's trust domain beside its default: its name, and aliases.
    pub trust_domains: Vec<String>,
    /// Access logs and traces.
    pub telemetry: Settings,
}

/// A provider whose service has not been looked up.
#[derive(Debug)]
struct Written {
    /// Line in the document.
    line: usize,
    service: String,
    /// Its cluster is none yet.
    provider: Provider,
}

/// MeshConfig's authorizers begin an answer within ten minutes if it says nothing else.
const TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    envoy_ext_authz_grpc: Option<Authorizer>,
    envoy_ext_authz_http: Option<Authorizer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorizer {
    service: String,
    port: u16,
    timeout: Option<String>,
    #[serde(default)]
    fail_open: bool,
    #[serde(default)]
    clear_route_cache: bool,
    status_on_error: Option<String>,
    include_request_body_in_check: Option<Body>,
    #[serde(default)]
    path_prefix: String,
    #[serde(default)]
    include_headers_in_check: Vec<String>,
    #[serde(default)]
    include_request_headers_in_check: Vec<String>,
    #[serde(default)]
    include_additional_headers_in_check: BTreeMap<String, String>,
    #[serde(default)]
    headers_to_upstream_on_allow: Vec<String>,
    #[serde(default)]
    headers_to_downstream_on_deny: Vec<String>,
    #[serde(default)]
    headers_to_downstream_on_allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    max_request_bytes: u32,
    #[serde(default)]
    allow_partial_message: bool,
    #[serde(default)]
    pack_as_bytes: bool,
}

/// Fields that an authorizer by gRPC has not.
const HTTP_ONLY: [&str; 7] = [
    "pathPrefix",
    "includeHeadersInCheck",
    "includeRequestHeadersInCheck",
    "includeAdditionalHeadersInCheck",
    "headersToUpstreamOnAllow",
    "headersToDownstreamOnDeny",
    "headersToDownstreamOnAllow",
];

/// Reads the text under the key `mesh` of the ConfigMap.
pub(crate) fn read(text: &str, place: &Place, problems: &mut Vec<Problem>) -> MeshConfig {
    // The text is a block that begins on the line after its key.
    let before = place.node().line_of(PATH);
    let node = match document::parse(text) {
        None => return MeshConfig::default(),
        Some(Ok(node)) => node,
        Some(Err(malformed)) => {
            let node = salvage(text);
            let line = Some(before + malformed.line);
            let fault = Fault { line, ..Fault::at(PATH, malformed.reason) };
            let outcome = format!("there are no extension providers; {}", kept(&node));
            problems.push(fault.error(place, &outcome));
            node
        }
    };
    let mut config = MeshConfig {
        root_namespace: name(&node, "rootNamespace"),
        trust_domains: trust_domains(&node, before, place, problems),
        telemetry: telemetry_provider::read(&node, before, place, problems),
        ..MeshConfig::default()
    };
    let entries = match node.get("extensionProviders").map(|node| &node.value) {
        Some(Value::List(entries)) => &entries[..],
        _ => &[],
    };
    let mut names = BTreeMap::new();
    for name in entries.iter().filter_map(|entry| entry.text("name")) {
        *names.entry(name).or_insert(0) += 1;
    }
    for entry in entries {
        let line = before + entry.line;
        let double = entry.text("name").filter(|name| names[name] > 1);
        let read = match double {
            Some(name) => Err(Fault::at("", format!("there are several providers {name}"))),
            None => provider(entry),
        };
        match read {
            Ok(Some((service, provider))) => {
                config.providers.push(Written { line, service, provider });
            }
            Ok(None) => {}
            Err(fault) => {
                let line = Some(before + fault.line.unwrap_or(entry.line_of(&fault.path)));
                let fault = Fault { line, path: PATH.to_owned(), ..fault };
                problems.push(fault.error(place, "CLOSED: policies that name the provider deny"));
            }
        }
    }
    config
}

/// What is left of a text that is no YAML.
fn salvage(text: &str) -> Node {
    let mut fields = document::fields(text);
    fields.retain(|field| KEPT.contains(&field.key.as_str()));
    Node { line: 1, value: Value::Map(fields) }
}

/// What that is, for people.
fn kept(node: &Node) -> String {
    let kept: Vec<&str> = KEPT.into_iter().filter(|key| node.get(key).is_some()).collect();
    match &kept[..] {
        [] => "nothing of it is kept".to_owned(),
        kept => format!("kept of it: {}", kept.join(", ")),
    }
}

fn name(node: &Node, key: &str) -> Option<String> {
    node.text(key).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The trust domain and its aliases, without the default.
fn trust_domains(
    node: &Node,
    before: usize,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let at = |key: &str| Some(before + node.line_of(key));
    let domain = name(node, "trustDomain").filter(|domain| domain != TRUST_DOMAIN);
    if let Some(domain) = &domain {
        let reason =
            format!("trustDomain is not supported yet: {domain} is another name of {TRUST_DOMAIN}");
        problems.push(Problem { line: at("trustDomain"), ..place.warning(PATH, reason) });
    }
    let key = "trustDomainAliases";
    let aliases = match node.get(key) {
        None | Some(Node { value: Value::Null, .. }) => &[],
        Some(Node { value: Value::List(aliases), .. }) => &aliases[..],
        Some(alone) => std::slice::from_ref(alone),
    };
    let mut domains: Vec<String> = domain.into_iter().collect();
    for alias in aliases {
        match &alias.value {
            Value::Text(alias) if alias.is_empty() || alias == TRUST_DOMAIN => {}
            Value::Text(alias) => domains.push(alias.clone()),
            _ => {
                let reason = format!("{key}: an alias is no text; it is ignored");
                let line = Some(before + alias.line);
                problems.push(Problem { line, ..place.error(PATH, reason) });
            }
        }
    }
    domains
}

/// The provider of an entry and its service; `None`: it authorizes nothing.
fn provider(node: &Node) -> Result<Option<(String, Provider)>, Fault> {
    let authorizes = |key: &str| node.get(key).is_some();
    if !authorizes("envoyExtAuthzGrpc") && !authorizes("envoyExtAuthzHttp") {
        return Ok(None);
    }
    let entry: Entry = strict(node, "")?;
    let (written, key) = match (entry.envoy_ext_authz_grpc, entry.envoy_ext_authz_http) {
        (Some(grpc), None) => (grpc, "envoyExtAuthzGrpc"),
        (None, Some(http)) => (http, "envoyExtAuthzHttp"),
        _ => return Err(Fault::at("", "a provider has one kind")),
    };
    let at = |part: &str, reason: String| Fault::at(format!("{key}.{part}"), reason);
    let grpc = key == "envoyExtAuthzGrpc";
    let fields = node.get(key);
    if let Some(odd) = HTTP_ONLY.iter().find(|f| grpc && fields.is_some_and(|n| n.get(f).is_some()))
    {
        return Err(at(odd, format!("{odd} is of envoyExtAuthzHttp alone")));
    }
    let timeout = match &written.timeout {
        None => TIMEOUT,
        Some(text) => {
            let duration = duration::go(text).filter(|duration| !duration.is_zero());
            duration.ok_or_else(|| at("timeout", format!("`{text}` is no duration")))?
        }
    };
    let status = written.status_on_error.as_deref().filter(|text| !text.is_empty());
    let status = status.map_or(Some(403), |text| text.parse().ok());
    let status = status
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| at("statusOnError", "no status of an answer".to_owned()))?;
    if written.port == 0 || written.service.is_empty() || entry.name.is_empty() {
        return Err(at("", "name, service and port are needed".to_owned()));
    }
    if !written.path_prefix.is_empty() && !written.path_prefix.starts_with('/') {
        return Err(at("pathPrefix", "it does not begin with /".to_owned()));
    }
    let body = written.include_request_body_in_check.as_ref();
    if body.is_some_and(|body| body.max_request_bytes == 0) {
        return Err(at("includeRequestBodyInCheck", "maxRequestBytes is 0".to_owned()));
    }
    let body = body.map(|body| CheckedBody {
        max_bytes: body.max_request_bytes,
        allow_partial: body.allow_partial_message,
        pack_as_bytes: body.pack_as_bytes,
    });
    let provider = Provider {
        name: entry.name,
        host: String::new(),
        port: written.port,
        cluster: ClusterId(0),
        timeout,
        fail_open: written.fail_open,
        status_on_error: status,
        clear_route_cache: written.clear_route_cache,
        body,
        kind: if grpc { ProviderKind::Grpc } else { ProviderKind::Http(check(&written)) },
    };
    Ok(Some((written.service, provider)))
}

fn check(written: &Authorizer) -> HttpCheck {
    let texts = |list: &[String]| -> Vec<Text> {
        list.iter().map(|text| Text::parse(&text.to_ascii_lowercase())).collect()
    };
    let request = match written.include_request_headers_in_check.is_empty() {
        true => &written.include_headers_in_check,
        false => &written.include_request_headers_in_check,
    };
    let additional = written.include_additional_headers_in_check.iter();
    HttpCheck {
        path_prefix: written.path_prefix.clone(),
        request_headers: texts(request),
        additional_headers: additional
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
        upstream_on_allow: texts(&written.headers_to_upstream_on_allow),
        downstream_on_deny: texts(&written.headers_to_downstream_on_deny),
        downstream_on_allow: texts(&written.headers_to_downstream_on_allow),
    }
}

/// The providers whose services are there, in order of name.
pub(crate) fn providers(
    objects: &Objects,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) -> Vec<Provider> {
    let mut found = Vec::new();
    for config in &objects.mesh_configs {
        for written in &config.body.providers {
            match resolve(written, catalog) {
                Ok(provider) => found.push(provider),
                Err(reason) => {
                    let reason = format!(
                        "provider {}: {reason}; CLOSED: policies that name it deny",
                        written.provider.name
                    );
                    let problem = config.place.error(PATH, reason);
                    let line = Some(config.place.line(written.line));
                    problems.push(Problem { line, ..problem });
                }
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whom a provider asks.
fn resolve(written: &Written, catalog: &mut Catalog) -> Result<Provider, String> {
    let port = written.provider.port;
    let (full, cluster) = catalog.provided_by(&written.service, port)?;
    let spoken = match written.provider.kind {
        ProviderKind::Grpc => catalog.asked_by_grpc(cluster),
        ProviderKind::Http(_) => catalog.spoken(cluster),
    };
    match (&written.provider.kind, spoken) {
        (ProviderKind::Grpc, Protocol::Http2) => {}
        (ProviderKind::Http(_), Protocol::Http | Protocol::Http2) => {}
        (ProviderKind::Grpc, _) => return Err(format!("port {port} of {full} speaks no HTTP/2")),
        _ => return Err(format!("port {port} of {full} speaks no HTTP")),
    }
    Ok(Provider { host: full, cluster, ..written.provider.clone() })
}
