//! `Telemetry` objects → the model's rules (Istio's API reference,
//! `telemetry.istio.io/v1 Telemetry`).
//!
//! What cannot be read of an entry never leaves requests unlogged in silence: a filter that is not
//! understood is left out, so that more is logged than was asked for, and it is an error.

use std::collections::BTreeMap;

use beeway_model::telemetry::{
    ENVOY, Filter, LogFile, Logging, Mode, Tag, Telemetry, TelemetryRule, Tracing, format,
};
use serde::Deserialize;

use crate::catalog::Catalog;
use crate::decode::Unread;
use crate::instance::Instances;
use crate::istio::nullable;
use crate::objects::{Object, Objects};
use crate::problem::{Problem, Report};
use crate::telemetry_provider;

/// `spec`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    selector: Option<Selector>,
    target_ref: Option<Unread>,
    #[serde(default, deserialize_with = "nullable")]
    target_refs: Vec<Unread>,
    #[serde(default, deserialize_with = "nullable")]
    tracing: Vec<TracingEntry>,
    #[serde(default, deserialize_with = "nullable")]
    metrics: Vec<Unread>,
    #[serde(default, deserialize_with = "nullable")]
    access_logging: Vec<LoggingEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggingEntry {
    #[serde(rename = "match")]
    matched: Option<Matched>,
    #[serde(default, deserialize_with = "nullable")]
    providers: Vec<ProviderRef>,
    disabled: Option<bool>,
    filter: Option<Expression>,
}

#[derive(Debug, Deserialize)]
struct Matched {
    mode: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ProviderRef {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Expression {
    expression: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TracingEntry {
    #[serde(rename = "match")]
    matched: Option<Matched>,
    #[serde(default, deserialize_with = "nullable")]
    providers: Vec<ProviderRef>,
    random_sampling_percentage: Option<f64>,
    disable_span_reporting: Option<bool>,
    custom_tags: Option<BTreeMap<String, CustomTag>>,
    use_request_id_for_trace_sampling: Option<bool>,
    enable_istio_tags: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct CustomTag {
    literal: Option<Literal>,
    header: Option<FromRequest>,
    environment: Option<FromRequest>,
    formatter: Option<Unread>,
}

#[derive(Debug, Deserialize)]
struct Literal {
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FromRequest {
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    default_value: String,
}

/// What the objects say, and the MeshConfig.
pub(crate) fn telemetry(
    objects: &Objects,
    instances: &Instances,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) -> Telemetry {
    let mut telemetry = telemetry_provider::resolve(objects, catalog, problems);
    let root = objects.mesh_configs.first().and_then(|c| c.body.root_namespace.as_deref());
    let root = root.unwrap_or(crate::ROOT_NAMESPACE);
    let mut found: Vec<(&Object<Spec>, TelemetryRule)> = Vec::new();
    for object in &objects.telemetries {
        if let Some(rule) = rule(object, root, &telemetry, problems) {
            found.push((object, rule));
        }
    }
    // Of two for the same the older one counts.
    found.sort_by_key(|(object, _)| object.created);
    overlaps(&found, instances, problems);
    telemetry.rules = found.into_iter().map(|(_, rule)| rule).collect();
    telemetry
}

/// Tells of objects that do not count, because older ones are for the same.
fn overlaps(
    found: &[(&Object<Spec>, TelemetryRule)],
    instances: &Instances,
    problems: &mut Vec<Problem>,
) {
    for (at, (object, rule)) in found.iter().enumerate() {
        let earlier = || found[..at].iter().map(|(_, other)| other);
        let alike = |other: &&TelemetryRule| {
            other.namespace == rule.namespace && other.labels.is_empty() == rule.labels.is_empty()
        };
        let selects = |rule: &TelemetryRule, labels: &BTreeMap<String, String>| {
            rule.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let both = |other: &&TelemetryRule| {
            let mut own = instances.selected(&rule.namespace, &rule.labels);
            rule.labels.is_empty() || own.any(|instance| selects(other, &instance.labels))
        };
        if let Some(first) = earlier().filter(alike).find(both) {
            let whom = if rule.labels.is_empty() { "its namespace" } else { "some workloads" };
            let reason = format!(
                "{} is for {whom} too and comes first; that one counts there, this one does not",
                first.name
            );
            problems.push(object.place.warning("", reason));
        }
    }
}

fn rule(
    object: &Object<Spec>,
    root: &str,
    known: &Telemetry,
    problems: &mut Vec<Problem>,
) -> Option<TelemetryRule> {
    let spec = &object.body;
    let mut report = Report::new(&object.place, "spec", problems);
    for (field, there) in
        [("targetRef", spec.target_ref.is_some()), ("targetRefs", !spec.target_refs.is_empty())]
    {
        if there {
            report.error(field, format!("{field} is not supported; it is not applied"));
            return None;
        }
    }
    if !spec.metrics.is_empty() {
        let reason = "metrics are not changed: they are told as they are without it";
        report.warning("metrics", reason);
    }
    let labels = spec.selector.as_ref().map(|s| s.match_labels.clone()).unwrap_or_default();
    let logging = spec.access_logging.iter().enumerate();
    let logging = logging.filter_map(|(at, entry)| {
        self::logging(entry, known, &mut report.below(&format!("accessLogging.{at}")))
    });
    let logging = logging.collect();
    let tracing = spec.tracing.iter().enumerate();
    let tracing = tracing.filter_map(|(at, entry)| {
        self::tracing(entry, known, &mut report.below(&format!("tracing.{at}")))
    });
    let tracing = tracing.collect();
    Some(TelemetryRule {
        name: object.place.label().to_owned(),
        namespace: object.namespace.clone(),
        mesh_wide: object.namespace == root && labels.is_empty(),
        labels,
        logging,
        tracing,
    })
}

fn mode(matched: Option<&Matched>, report: &mut Report<'_>) -> Option<Mode> {
    match matched.and_then(|matched| matched.mode.as_deref()) {
        None | Some("CLIENT_AND_SERVER" | "") => Some(Mode::Both),
        Some("CLIENT") => Some(Mode::Client),
        Some("SERVER") => Some(Mode::Server),
        Some(other) => {
            let reason = format!(
                "mode {other} is none of CLIENT, SERVER and CLIENT_AND_SERVER; the entry is not \
                 applied"
            );
            report.error("match.mode", reason);
            None
        }
    }
}

fn logging(entry: &LoggingEntry, known: &Telemetry, report: &mut Report<'_>) -> Option<Logging> {
    let mode = mode(entry.matched.as_ref(), report)?;
    let mut providers = Vec::new();
    for (at, ProviderRef { name }) in entry.providers.iter().enumerate() {
        if name == ENVOY || known.logs.iter().any(|log| log.name == *name) {
            providers.push(name.clone());
        } else {
            let reason = format!("there is no provider `{name}` that writes a log; it writes none");
            report.error(&format!("providers.{at}.name"), reason);
        }
    }
    if providers.is_empty() && !entry.providers.is_empty() {
        return None;
    }
    let filter = entry.filter.as_ref().and_then(|filter| {
        let read = Filter::parse(&filter.expression);
        read.map_err(|reason| {
            let reason = format!("{reason}; without the filter everything is logged");
            report.error("filter.expression", reason);
        })
        .ok()
    });
    Some(Logging { mode, providers, disabled: entry.disabled.unwrap_or(false), filter })
}

fn tracing(entry: &TracingEntry, known: &Telemetry, report: &mut Report<'_>) -> Option<Tracing> {
    let mode = mode(entry.matched.as_ref(), report)?;
    if entry.providers.len() > 1 {
        report.warning("providers", "spans go to the first provider alone");
    }
    let provider = entry.providers.first().map(|provider| provider.name.clone());
    if let Some(name) = &provider
        && !known.collectors.iter().any(|collector| collector.name == *name)
    {
        let reason = format!("there is no provider `{name}` that takes spans; none are made");
        report.error("providers.0.name", reason);
    }
    let sampling = entry.random_sampling_percentage.filter(|share| {
        let good = (0.0..=100.0).contains(share);
        if !good {
            let reason = "it is not from 0 to 100; it is ignored";
            report.error("randomSamplingPercentage", reason);
        }
        good
    });
    if entry.use_request_id_for_trace_sampling == Some(true) {
        let reason = "request identities do not decide what is sampled; it is ignored";
        report.warning("useRequestIdForTraceSampling", reason);
    }
    if entry.enable_istio_tags == Some(true) {
        report.warning("enableIstioTags", "there are no such attributes; it is ignored");
    }
    let tags = entry.custom_tags.as_ref().map(|tags| {
        let tags = tags.iter().filter_map(|(name, written)| {
            let tag = tag(written, &mut report.below(&format!("customTags.{name}")))?;
            Some((name.clone(), tag))
        });
        tags.collect()
    });
    Some(Tracing { mode, provider, disabled: entry.disable_span_reporting, sampling, tags })
}

/// `None`: it is left out.
fn tag(written: &CustomTag, report: &mut Report<'_>) -> Option<Tag> {
    if written.formatter.is_some() {
        report.error("formatter", "it is not supported; the tag is left out");
        return None;
    }
    match (&written.literal, &written.header, &written.environment) {
        (Some(literal), None, None) => Some(Tag::Literal(literal.value.clone())),
        (None, Some(header), None) => {
            let name = header.name.to_ascii_lowercase();
            if format::FIELDS.contains(&name.as_str()) {
                return Some(Tag::Header { name, default: header.default_value.clone() });
            }
            report.error("header.name", format!("{}; the tag is left out", format::unkept(&name)));
            None
        }
        (None, None, Some(environment)) => {
            let (name, default) = (&environment.name, environment.default_value.clone());
            let outcome =
                if default.is_empty() { "the tag is left out" } else { "its default is used" };
            let reason =
                format!("workloads have no proxy, of whose environment {name} could be; {outcome}");
            report.warning("environment", reason);
            (!default.is_empty()).then_some(Tag::Literal(default))
        }
        _ => {
            report.error("", "a tag is one of literal, header and environment; it is left out");
            None
        }
    }
}

/// Where a log may be written. The agent is root, therefore not everywhere.
pub(crate) fn log_file(path: &str) -> Result<LogFile, String> {
    match path {
        "/dev/stdout" => return Ok(LogFile::Standard),
        "/dev/stderr" => return Ok(LogFile::Error),
        _ => {}
    }
    let plain = |step: &str| !step.is_empty() && step != "." && step != "..";
    match path.strip_prefix("/var/log/") {
        Some(rest) if rest.split('/').all(plain) => Ok(LogFile::Path(path.to_owned())),
        _ => Err(format!(
            "`{path}` is neither /dev/stdout nor /dev/stderr nor a file below /var/log/, where alone \
             the agent writes logs that a configuration asks for"
        )),
    }
}
