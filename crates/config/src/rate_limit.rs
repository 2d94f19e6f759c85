//! EnvoyFilters → the model's limits. One that cannot be carried out as it is written is not carried
//! out at all, and is an error: nothing is limited by half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use beeway_model::access::LabelSelector;
use beeway_model::limits::WHOLE;
use beeway_model::{Bucket, Match, Mesh, Protocol, RateLimit, RateLimiter, Transport};

use crate::duration;
use crate::envoy_filter::{self, Code, FILTER, Fraction, Limit, Spec, Tokens};
use crate::item::Place;
use crate::objects::{Object, Objects};
use crate::problem::Problem;
use crate::rate_descriptor::special;

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
const ROUTER: &str = "envoy.filters.http.router";
const MESSAGE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// Envoy's own rule for buckets.
const SHORTEST: Duration = Duration::from_millis(50);
/// What follows from a mistake.
pub(crate) const NOT_APPLIED: &str = "the EnvoyFilter is NOT applied, and limits nothing";

/// Why something cannot be carried out: where it is, and the reason.
pub(crate) type Fault = (String, String);

pub(crate) fn fault<T>(path: &str, reason: impl Into<String>) -> Result<T, Fault> {
    Err((path.to_owned(), reason.into()))
}

/// What an EnvoyFilter says, before it is known which endpoints a port of a service has.
struct Draft {
    /// For all ports.
    all: Option<RateLimit>,
    /// By port of the service.
    ports: BTreeMap<u16, RateLimit>,
}

/// The limits of all EnvoyFilters, in the order in which they are asked.
pub(crate) fn limiters(
    objects: &Objects,
    mesh: &Mesh,
    problems: &mut Vec<Problem>,
) -> Vec<RateLimiter> {
    let root = objects.mesh_configs.first().and_then(|c| c.body.root_namespace.as_deref());
    let root = root.unwrap_or(crate::ROOT_NAMESPACE);
    let mut filters: Vec<&Object<Spec>> = objects.envoy_filters.iter().collect();
    filters.sort_by_key(|filter| (filter.body.priority, filter.namespace != root));
    let mut limiters = Vec::new();
    for object in filters {
        let draft = match read(object.place.label(), &object.body) {
            Ok(draft) => draft,
            Err((path, reason)) => {
                let reason = format!("{reason}; {NOT_APPLIED}");
                problems.push(object.place.error(&path, reason));
                continue;
            }
        };
        let labels = object.body.workload_selector.as_ref().map(|selector| &selector.labels);
        let mut limiter = RateLimiter {
            name: object.place.label().to_owned(),
            namespace: (object.namespace != root).then(|| object.namespace.clone()),
            selector: labels.map(LabelSelector::equal).unwrap_or_default(),
            ports: BTreeMap::new(),
            others: draft.all,
        };
        for (port, limit) in draft.ports {
            let endpoints = endpoint_ports(mesh, &limiter, port);
            if endpoints.is_empty() {
                let reason = format!(
                    "no port {port} of a service that speaks HTTP leads to what it selects: \
                     nothing is limited there"
                );
                problems.push(object.place.warning("spec.configPatches", reason));
            }
            limiter.ports.extend(endpoints.into_iter().map(|at| (at, limit.clone())));
        }
        report(&object.place, &limiter, mesh, problems);
        if limiter.others.is_some() || !limiter.ports.is_empty() {
            limiters.push(limiter);
        }
    }
    limiters
}

/// Tells what an EnvoyFilter does not limit although it looks so.
fn report(place: &Place, limiter: &RateLimiter, mesh: &Mesh, problems: &mut Vec<Problem>) {
    if !mesh.workloads.iter().any(|workload| limiter.selects(workload)) {
        problems.push(place.notice("spec.workloadSelector", "it selects no workload"));
    }
    let limits = || limiter.others.iter().chain(limiter.ports.values());
    if limits().any(|limit| limit.enabled == 0) {
        let reason = "filter_enabled is 0%, as it is by default: nothing is limited there";
        problems.push(place.warning("spec.configPatches", reason));
    } else if limits().any(|limit| limit.enforced == 0) {
        let reason = "filter_enforced is 0%, as it is by default: requests past the limit are \
                      counted, and pass";
        problems.push(place.notice("spec.configPatches", reason));
    }
}

/// Ports of the endpoints to which a port of a service leads, as far as a limit is about them.
fn endpoint_ports(mesh: &Mesh, limiter: &RateLimiter, port: u16) -> BTreeSet<u16> {
    let selected = mesh.workloads.iter().filter(|workload| limiter.selects(workload));
    let addresses: BTreeSet<_> = selected.flat_map(|workload| &workload.addresses).collect();
    let ports = mesh.services.iter().filter_map(|service| service.port(port, Transport::Tcp));
    let http = ports.filter(|port| matches!(port.protocol, Protocol::Http | Protocol::Http2));
    let endpoints = http.flat_map(|port| mesh.cluster(port.cluster).everybody());
    let here = endpoints.filter(|endpoint| addresses.contains(&endpoint.address.ip()));
    here.map(|endpoint| endpoint.address.port()).collect()
}

fn read(label: &str, spec: &Spec) -> Result<Draft, Fault> {
    if !spec.target_refs.is_empty() {
        return fault("spec.targetRefs", "targetRefs are not supported");
    }
    let mut filter: Option<&Limit> = None;
    let mut routes = Vec::new();
    for (at, patch) in spec.config_patches.iter().enumerate() {
        let path = format!("spec.configPatches.{at}");
        if patch.place.context != "SIDECAR_INBOUND" {
            let reason = format!("context `{}` is not SIDECAR_INBOUND", patch.place.context);
            return fault(&format!("{path}.match.context"), reason);
        }
        match patch.apply_to.as_str() {
            "HTTP_FILTER" => {
                let config = filter_config(&path, patch)?;
                if filter.replace(config).is_some() {
                    return fault(&path, "it inserts the filter a second time");
                }
            }
            "HTTP_ROUTE" => routes.push((path, patch)),
            other => return fault(&path, format!("applyTo {other} is not supported")),
        }
    }
    let Some(filter) = filter else {
        return fault("spec.configPatches", format!("no patch inserts {FILTER}"));
    };
    let mut draft =
        Draft { all: limit(label, "", "spec.configPatches", filter, &[])?, ports: BTreeMap::new() };
    for (path, patch) in routes {
        let (port, config, actions) = route_config(&path, patch)?;
        let what = port.map(|port| port.to_string()).unwrap_or_default();
        let read = limit(label, &format!("port {what}"), &path, config, actions)?;
        let Some(read) = read else {
            return fault(&path, "a route needs a token_bucket");
        };
        match port {
            None => draft.all = Some(read),
            Some(port) => drop(draft.ports.insert(port, read)),
        }
    }
    Ok(draft)
}

/// The configuration of the filter that a patch inserts.
fn filter_config<'a>(path: &str, patch: &'a envoy_filter::Patch) -> Result<&'a Limit, Fault> {
    let operation = patch.patch.operation.as_str();
    if !matches!(operation, "INSERT_BEFORE" | "INSERT_FIRST") {
        let reason = format!("operation {operation} is not supported for an HTTP_FILTER");
        return fault(&format!("{path}.patch.operation"), reason);
    }
    let filter = &patch.place.listener.filter_chain.filter;
    if filter.name.as_deref().is_some_and(|name| name != MANAGER) {
        return fault(&format!("{path}.match.listener"), "only HTTP has such filters");
    }
    if filter.sub_filter.as_ref().is_some_and(|sub| sub.name != ROUTER) {
        let reason = format!("a place before another filter than {ROUTER} is not supported");
        return fault(&format!("{path}.match.listener"), reason);
    }
    let value = &patch.patch.value;
    if !value.typed_per_filter_config.is_empty() || !value.route.rate_limits.is_empty() {
        return fault(&format!("{path}.patch.value"), "a filter has a typed_config alone");
    }
    match &value.typed_config {
        Some(config) => unwrap(&format!("{path}.patch.value.typed_config"), config),
        None => fault(&format!("{path}.patch.value"), "no typed_config"),
    }
}

/// The port of the service that a patch of routes is about (`None`: all), what holds there, and the
/// actions that are written beside it.
fn route_config<'a>(
    path: &str,
    patch: &'a envoy_filter::Patch,
) -> Result<(Option<u16>, &'a Limit, &'a [envoy_filter::Actions]), Fault> {
    if patch.patch.operation != "MERGE" {
        let reason = format!("operation {} is not supported for a route", patch.patch.operation);
        return fault(&format!("{path}.patch.operation"), reason);
    }
    let host = &patch.place.route_configuration.vhost;
    let action = host.route.as_ref().and_then(|route| route.action.as_deref());
    if action.is_some_and(|action| action != "ANY") {
        let path = format!("{path}.match.routeConfiguration.vhost.route");
        return fault(&path, "only action ANY is supported");
    }
    let port = match host.name.as_deref() {
        None | Some("") => None,
        Some(name) => {
            let port = name.strip_prefix("inbound|http|").and_then(|port| port.parse().ok());
            if port.is_none() {
                let path = format!("{path}.match.routeConfiguration.vhost.name");
                return fault(&path, format!("`{name}` is not `inbound|http|PORT`"));
            }
            port
        }
    };
    let value = &patch.patch.value;
    let place = format!("{path}.patch.value");
    let mut configs = value.typed_per_filter_config.iter();
    match (configs.next(), configs.next()) {
        (Some((name, config)), None) if name == FILTER && value.name.is_none() => {
            Ok((port, unwrap(&place, config)?, &value.route.rate_limits))
        }
        _ => fault(&place, format!("it needs typed_per_filter_config of {FILTER} alone")),
    }
}

/// The message, whatever is around it.
fn unwrap<'a>(path: &str, limit: &'a Limit) -> Result<&'a Limit, Fault> {
    let named = |name: &Option<String>| {
        let name = name.as_deref().unwrap_or_default();
        name.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let (outer, inner) = (named(&limit.message), named(&limit.type_url));
    match (outer.as_str(), &limit.value) {
        (MESSAGE, None) => Ok(limit),
        ("udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct", Some(value))
            if inner == MESSAGE && limit.token_bucket.is_none() =>
        {
            Ok(value)
        }
        _ => fault(path, format!("it is no {MESSAGE}, nor a TypedStruct with one")),
    }
}

/// `None`: there is no bucket, so nothing is limited.
fn limit(
    label: &str,
    what: &str,
    path: &str,
    limit: &Limit,
    actions: &[envoy_filter::Actions],
) -> Result<Option<RateLimit>, Fault> {
    let usual = limit.token_bucket.as_ref();
    let usual = usual.map(|tokens| bucket(path, tokens, false, Vec::new())).transpose()?;
    let Some(mut usual) = usual else {
        return match limit.descriptors.is_empty() {
            true => Ok(None),
            false => fault(path, "descriptors without a token_bucket beside them"),
        };
    };
    let actions = if limit.rate_limits.is_empty() { actions } else { &limit.rate_limits };
    let mut special = special(path, &limit.descriptors, actions)?;
    for (at, bucket) in special.iter_mut().chain([&mut usual]).enumerate() {
        bucket.id = Bucket::id_of(&format!("{label} {what} {at} {bucket:?}"));
    }
    Ok(Some(RateLimit {
        special,
        usual: Some(usual),
        always: limit.always_consume_default_token_bucket.unwrap_or(true),
        enabled: millionths(path, limit.filter_enabled.as_ref())?,
        enforced: millionths(path, limit.filter_enforced.as_ref())?,
        status: status(path, limit.status.as_ref().map(|status| &status.code))?,
        headers: headers(path, &limit.response_headers_to_add)?,
    }))
}

/// A bucket that has no id yet.
pub(crate) fn bucket(
    path: &str,
    tokens: &Tokens,
    per_caller: bool,
    matches: Vec<Match>,
) -> Result<Bucket, Fault> {
    let (capacity, fill) = (tokens.max_tokens, tokens.tokens_per_fill.unwrap_or(1));
    if capacity == 0 || fill == 0 {
        return fault(path, "max_tokens and tokens_per_fill must be greater than 0");
    }
    let Some(interval) = duration::go(&tokens.fill_interval).filter(|time| *time >= SHORTEST)
    else {
        let reason = format!("fill_interval `{}` is no time of 50ms or more", tokens.fill_interval);
        return fault(path, reason);
    };
    Ok(Bucket { id: 0, capacity, fill, interval, per_caller, matches })
}

fn millionths(path: &str, fraction: Option<&Fraction>) -> Result<u32, Fault> {
    let Some(Fraction { default_value: percent, .. }) = fraction else { return Ok(0) };
    let each = match percent.denominator.as_deref() {
        None | Some("HUNDRED") => WHOLE / 100,
        Some("TEN_THOUSAND") => WHOLE / 10_000,
        Some("MILLION") => 1,
        Some(other) => return fault(path, format!("the denominator {other} is not known")),
    };
    Ok(percent.numerator.saturating_mul(each).min(WHOLE))
}

fn status(path: &str, code: Option<&Code>) -> Result<u16, Fault> {
    match code {
        None => Ok(429),
        // Envoy's rule
        Some(Code::Number(..400)) => Ok(429),
        Some(Code::Number(code @ 400..600)) => Ok(*code),
        Some(Code::Name(name)) if name == "TooManyRequests" => Ok(429),
        Some(Code::Name(name)) if name == "ServiceUnavailable" => Ok(503),
        Some(other) => {
            let code = match other {
                Code::Number(number) => number.to_string(),
                Code::Name(name) => name.clone(),
            };
            fault(path, format!("status {code} is not supported (numbers from 400 to 599 are)"))
        }
    }
}

fn headers(path: &str, added: &[envoy_filter::Added]) -> Result<Vec<(String, String)>, Fault> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for added in added {
        let (name, value) = (added.header.key.to_ascii_lowercase(), &added.header.value);
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let ours = ["content-length", "content-type", "transfer-encoding", "connection", "server"];
        let written = value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'%');
        if name.is_empty() || !name.bytes().all(token) || ours.contains(&name.as_str()) {
            return fault(path, format!("the header `{name}` cannot be added to the answer"));
        }
        if !written {
            let reason = format!("the value of {name} is no plain text (there are no %FORMATS%)");
            return fault(path, reason);
        }
        let known = headers.iter_mut().find(|(known, _)| *known == name);
        match (added.append_action.as_deref(), known) {
            (Some("OVERWRITE_IF_EXISTS_OR_ADD"), Some(known)) => known.1.clone_from(value),
            (Some("ADD_IF_ABSENT"), Some(_)) => {}
            (None, Some(known)) if added.append == Some(false) => known.1.clone_from(value),
            (
                None
                | Some("APPEND_IF_EXISTS_OR_ADD" | "OVERWRITE_IF_EXISTS_OR_ADD" | "ADD_IF_ABSENT"),
                _,
            ) => headers.push((name, value.clone())),
            (Some(other), _) => return fault(path, format!("append_action {other} is not known")),
        }
    }
    Ok(headers)
}
