//! What the MeshConfig says of access logs and traces: providers, which of them are asked where
//! nothing else is said, and the mesh's own log.

use std::collections::BTreeMap;

use beeway_model::telemetry::{Collector, ENVOY, Format, LogFile, LogProvider, Telemetry};
use beeway_model::{ClusterId, Protocol};
use serde::Deserialize;

use crate::catalog::Catalog;
use crate::decode::Unread;
use crate::document::{self, Node, Value};
use crate::istio::nullable;
use crate::item::Place;
use crate::mesh_config::PATH;
use crate::objects::Objects;
use crate::policy_item::{Fault, strict};
use crate::problem::Problem;
use crate::telemetry::log_file;

/// What is read of it.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    logs: Vec<LogProvider>,
    collectors: Vec<Written>,
    default_logs: Vec<String>,
    default_tracing: Option<String>,
    /// Line of the defaults in the document.
    defaults_line: usize,
    log_file: Option<LogFile>,
    log_format: Option<Format>,
}

/// A collector whose service has not been looked up.
#[derive(Debug)]
struct Written {
    /// Line in the document.
    line: usize,
    service: String,
    /// Its cluster is none yet.
    collector: Collector,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileLog {
    #[serde(default)]
    path: String,
    log_format: Option<LogFormat>,
}

#[derive(Deserialize)]
struct LogFormat {
    text: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenTelemetry {
    service: String,
    port: u16,
    http: Option<OverHttp>,
}

#[derive(Deserialize)]
struct OverHttp {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Defaults {
    #[serde(default, deserialize_with = "nullable")]
    access_logging: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    tracing: Vec<String>,
    #[serde(rename = "metrics")]
    _metrics: Option<Unread>,
}

/// Reads of a MeshConfig, `before` lines behind the beginning of its document.
pub(crate) fn read(
    node: &Node,
    before: usize,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Settings {
    let (mut settings, mut unread) = (Settings::default(), Vec::new());
    let mut say = |outer: &Node, path: &str, fault: Fault, outcome: &str| {
        let inner = if fault.path.is_empty() { path } else { &fault.path };
        let line = Some(before + fault.line.unwrap_or(outer.line_of(inner)));
        let fault = Fault { line, path: PATH.to_owned(), ..fault };
        problems.push(fault.error(place, outcome));
    };
    let entries = match node.get("extensionProviders").map(|node| &node.value) {
        Some(Value::List(entries)) => &entries[..],
        _ => &[],
    };
    for entry in entries {
        let name = entry.text("name").unwrap_or_default();
        let double = entries.iter().filter(|other| other.text("name") == Some(name)).count() > 1;
        // said where authorizers are read
        if double {
            continue;
        }
        let read = settings.provider(entry, name, before);
        read.unwrap_or_else(|fault| say(entry, "", fault, "the provider is not there"));
        if let Some(kind) = unsupported(entry) {
            let reason = format!("a provider of kind {kind} is not supported; it is not there");
            let line = Some(before + entry.line_of(kind));
            unread.push(Problem { line, ..place.warning(PATH, reason) });
        }
    }
    let read = settings.defaults(node, before);
    read.unwrap_or_else(|fault| say(node, "defaultProviders", fault, "there are none"));
    let read = settings.own_log(node);
    read.unwrap_or_else(|fault| say(node, "accessLogFile", fault, "it is not applied"));
    let read = settings.own_format(node);
    read.unwrap_or_else(|fault| {
        say(node, "accessLogFormat", fault, "lines are written in the default format");
    });
    if node.get("defaultConfig").is_some_and(|config| config.get("tracing").is_some()) {
        let fault = Fault::at("defaultConfig.tracing", "defaultConfig.tracing is not supported");
        say(node, "", fault, "traces are set by Telemetry and extensionProviders");
    }
    problems.append(&mut unread);
    settings
}

/// The kinds that are read here.
const KINDS: [&str; 2] = ["envoyFileAccessLog", "opentelemetry"];

/// Read elsewhere, or nothing to read: metrics are always there.
const OTHERS: [&str; 4] = ["name", "envoyExtAuthzGrpc", "envoyExtAuthzHttp", "prometheus"];

/// The kind of a provider, if nobody reads that.
fn unsupported(entry: &Node) -> Option<&str> {
    let Value::Map(fields) = &entry.value else { return None };
    let mut kinds = fields.iter().map(|field| field.key.as_str());
    kinds.find(|kind| !KINDS.contains(kind) && !OTHERS.contains(kind))
}

impl Settings {
    fn provider(&mut self, entry: &Node, name: &str, before: usize) -> Result<(), Fault> {
        let Value::Map(fields) = &entry.value else { return Ok(()) };
        let read = |field: &&document::Entry| KINDS.contains(&field.key.as_str());
        let Some(field) = fields.iter().find(read) else { return Ok(()) };
        let kind = field.key.as_str();
        if name.is_empty() || name == ENVOY {
            return Err(Fault::at("name", "a provider needs a name of its own"));
        }
        if fields.len() > 2 {
            return Err(Fault::at("", "a provider has one kind"));
        }
        if kind == "envoyFileAccessLog" {
            self.logs.push(file_log(&field.node, name)?);
        } else {
            let line = before + entry.line;
            let (service, collector) = collector(&field.node, name)?;
            self.collectors.push(Written { line, service, collector });
        }
        Ok(())
    }

    fn defaults(&mut self, node: &Node, before: usize) -> Result<(), Fault> {
        let Some(written) = node.get("defaultProviders") else { return Ok(()) };
        let defaults: Defaults = strict(written, "defaultProviders")?;
        self.defaults_line = before + node.line_of("defaultProviders");
        self.default_logs = defaults.access_logging;
        self.default_tracing = defaults.tracing.first().cloned();
        match defaults.tracing.len() {
            0 | 1 => Ok(()),
            _ => Err(Fault::at("defaultProviders.tracing", "spans go to one provider")),
        }
    }

    fn own_log(&mut self, node: &Node) -> Result<(), Fault> {
        let Some(path) = text_of(node, "accessLogFile")? else { return Ok(()) };
        self.log_file = Some(log_file(&path).map_err(|reason| Fault::at("accessLogFile", reason))?);
        Ok(())
    }

    fn own_format(&mut self, node: &Node) -> Result<(), Fault> {
        let encoding = text_of(node, "accessLogEncoding")?;
        let format = text_of(node, "accessLogFormat")?;
        let wrong = |reason: String| Fault::at("accessLogFormat", reason);
        self.log_format = match (encoding.as_deref(), format) {
            (None, None) => None,
            (Some("TEXT"), None) => Some(Format::default_text()),
            (Some("JSON"), None) => Some(Format::default_json()),
            (None | Some("TEXT"), Some(text)) => Some(Format::text(&text).map_err(wrong)?),
            (Some("JSON"), Some(text)) => Some(labels_of(&text).map_err(wrong)?),
            (Some(other), _) => {
                let reason = format!("accessLogEncoding {other} is neither TEXT nor JSON");
                return Err(Fault::at("accessLogEncoding", reason));
            }
        };
        Ok(())
    }
}

/// The text under a key; `None`: it is empty or not there.
fn text_of(node: &Node, key: &str) -> Result<Option<String>, Fault> {
    match node.get(key).map(|node| &node.value) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(Fault::at(key, format!("{key} is no text"))),
    }
}

/// A format that is written as a JSON object.
fn labels_of(text: &str) -> Result<Format, String> {
    let no_object = || "in JSON it is an object of texts".to_owned();
    let Some(Ok(Node { value: Value::Map(entries), .. })) = document::parse(text) else {
        return Err(no_object());
    };
    let label = |entry: &document::Entry| match &entry.node.value {
        Value::Text(text) => Ok((entry.key.clone(), text.clone())),
        _ => Err(no_object()),
    };
    let labels: Vec<(String, String)> = entries.iter().map(label).collect::<Result<_, _>>()?;
    Format::json(labels.iter().map(|(key, format)| (key.as_str(), format.as_str())))
}

fn file_log(node: &Node, name: &str) -> Result<LogProvider, Fault> {
    const KEY: &str = "envoyFileAccessLog";
    let written: FileLog = strict(node, KEY)?;
    let path = if written.path.is_empty() { "/dev/stdout" } else { &written.path };
    let file = log_file(path).map_err(|reason| Fault::at(format!("{KEY}.path"), reason))?;
    let format = match written.log_format {
        None => None,
        Some(LogFormat { text: None, labels: None }) => None,
        Some(LogFormat { text: Some(text), labels: None }) => Some(Format::text(&text)),
        Some(LogFormat { text: None, labels: Some(labels) }) => {
            Some(Format::json(labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
        }
        Some(_) => Some(Err("a format is text or labels".to_owned())),
    };
    let format = format.transpose();
    let format = format.map_err(|reason| Fault::at(format!("{KEY}.logFormat"), reason))?;
    Ok(LogProvider { name: name.to_owned(), file, format })
}

fn collector(node: &Node, name: &str) -> Result<(String, Collector), Fault> {
    let written: OpenTelemetry = strict(node, "opentelemetry")?;
    let at = |part: &str, reason| Fault::at(format!("opentelemetry.{part}"), reason);
    if written.port == 0 || written.service.is_empty() {
        return Err(at("", "service and port are needed"));
    }
    let path = written.http.map(|http| http.path);
    let plain = |path: &String| path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
    if path.as_ref().is_some_and(|path| !plain(path)) {
        return Err(at("http.path", "it is no path"));
    }
    let collector = Collector {
        name: name.to_owned(),
        host: String::new(),
        port: written.port,
        cluster: ClusterId(0),
        path,
    };
    Ok((written.service, collector))
}

/// What the MeshConfig says, as far as what it names is there. There are no rules yet.
pub(crate) fn resolve(
    objects: &Objects,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) -> Telemetry {
    let mut telemetry = Telemetry::default();
    for config in &objects.mesh_configs {
        let settings = &config.body.telemetry;
        let mut say = |line: usize, reason: String| {
            let problem = config.place.error(PATH, reason);
            problems.push(Problem { line: Some(config.place.line(line)), ..problem });
        };
        telemetry.logs.clone_from(&settings.logs);
        for written in &settings.collectors {
            let name = &written.collector.name;
            match find(written, catalog) {
                Ok(collector) => telemetry.collectors.push(collector),
                Err(reason) => {
                    say(written.line, format!("provider {name}: {reason}; no spans go there"));
                }
            }
        }
        for name in &settings.default_logs {
            if name == ENVOY || telemetry.logs.iter().any(|log| log.name == *name) {
                telemetry.default_logs.push(name.clone());
            } else {
                let reason = format!("there is no provider `{name}` that writes a log");
                say(settings.defaults_line, reason);
            }
        }
        telemetry.default_tracing.clone_from(&settings.default_tracing);
        if let Some(name) = &settings.default_tracing
            && !telemetry.collectors.iter().any(|collector| collector.name == *name)
        {
            let reason = format!("there is no provider `{name}` that takes spans; none are made");
            say(settings.defaults_line, reason);
        }
        telemetry.log_file.clone_from(&settings.log_file);
        telemetry.log_format.clone_from(&settings.log_format);
    }
    telemetry.logs.sort_by(|a, b| a.name.cmp(&b.name));
    telemetry.collectors.sort_by(|a, b| a.name.cmp(&b.name));
    telemetry
}

/// Where a provider's spans go.
fn find(written: &Written, catalog: &mut Catalog) -> Result<Collector, String> {
    let port = written.collector.port;
    let (full, cluster) = catalog.provided_by(&written.service, port)?;
    if written.collector.path.is_none() && catalog.asked_by_grpc(cluster) == Protocol::Tls {
        return Err(format!("port {port} of {full} speaks TLS, which is not supported"));
    }
    Ok(Collector { host: full, cluster, ..written.collector.clone() })
}
