//! What is told of traffic, as Istio's `Telemetry` says it (its API reference,
//! `telemetry.istio.io/v1 Telemetry`).
//!
//! An object without a selector is for its namespace, or in the root namespace for the mesh. What
//! holds for a workload is put together from the mesh's, its namespace's and its own object, in that
//! order: a later one replaces what it speaks of and leaves the rest.

pub mod filter;
pub mod format;
mod lexer;
mod parser;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ClusterId;
pub use filter::Filter;
pub use format::Format;

/// The log provider that is always there: the agent's own access log.
pub const ENVOY: &str = "envoy";

/// Everything that is said of telemetry.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Telemetry {
    /// Objects, older ones first.
    pub rules: Vec<TelemetryRule>,
    /// Providers of access logs where no rule names one.
    pub default_logs: Vec<String>,
    /// The provider of traces where no rule names one.
    pub default_tracing: Option<String>,
    /// Providers of access logs, in order of name.
    pub logs: Vec<LogProvider>,
    /// Providers of traces, in order of name.
    pub collectors: Vec<Collector>,
    /// Where requests are logged that no rule is about; `None`: only where the agent was told so.
    pub log_file: Option<LogFile>,
    /// How lines look where a provider says nothing.
    pub log_format: Option<Format>,
}

/// One `Telemetry`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TelemetryRule {
    /// What it is called in problems.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// It is for all namespaces.
    pub mesh_wide: bool,
    /// Labels of the workloads that it is for; empty: all.
    pub labels: BTreeMap<String, String>,
    /// About access logs.
    pub logging: Vec<Logging>,
    /// About traces.
    pub tracing: Vec<Tracing>,
}

/// An entry of `accessLogging`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Logging {
    /// At which end.
    pub mode: Mode,
    /// Who logs; empty: who would without this.
    pub providers: Vec<String>,
    /// Nothing is logged.
    pub disabled: bool,
    /// Only this is logged.
    pub filter: Option<Filter>,
}

/// An entry of `tracing`. `None`: it says nothing of that.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tracing {
    /// At which end.
    pub mode: Mode,
    /// Who takes spans.
    pub provider: Option<String>,
    /// No spans are made.
    pub disabled: Option<bool>,
    /// How many of a hundred requests without a trace context begin a trace.
    pub sampling: Option<f64>,
    /// Attributes of spans, by name.
    pub tags: Option<Vec<(String, Tag)>>,
}

/// Where the value of a span's attribute comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Tag {
    /// It is written.
    Literal(String),
    /// A field of the request, or what there is without it; empty: no attribute then.
    Header {
        /// Its name, lower case.
        name: String,
        /// The value without it.
        default: String,
    },
}

/// The end of a request that an entry is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Mode {
    /// Either.
    #[default]
    Both,
    /// Where it is sent.
    Client,
    /// Where it comes in.
    Server,
}

/// An end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it is sent.
    Client,
    /// Where it comes in.
    Server,
}

/// Who writes an access log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogProvider {
    /// Its name.
    pub name: String,
    /// Where lines go.
    pub file: LogFile,
    /// How they look; `None`: as everywhere.
    pub format: Option<Format>,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum LogFile {
    /// `/dev/stdout`: where the agent was told to write its access log; its standard output, if
    /// nowhere.
    Standard,
    /// `/dev/stderr`.
    Error,
    /// A file.
    Path(String),
}

/// Who takes spans by OTLP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Collector {
    /// Its name.
    pub name: String,
    /// Its service.
    pub host: String,
    /// The service's port.
    pub port: u16,
    /// Where it is.
    pub cluster: ClusterId,
    /// The path of requests by HTTP; `None`: gRPC is spoken.
    pub path: Option<String>,
}

/// What is to be logged of a workload's requests, by one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct LogTo<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// Only this.
    pub filter: Option<&'a Filter>,
}

/// Which spans are made of a workload's requests.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceTo<'a> {
    /// The provider's name; `None`: none is known.
    pub provider: Option<&'a str>,
    /// How many of a hundred; `None`: as many as everywhere.
    pub sampling: Option<f64>,
    /// Attributes.
    pub tags: &'a [(String, Tag)],
}

impl Mode {
    /// Whether it means an end.
    pub fn covers(self, side: Side) -> bool {
        matches!((self, side), (Mode::Both, _))
            || matches!((self, side), (Mode::Client, Side::Client) | (Mode::Server, Side::Server))
    }
}

impl Telemetry {
    /// The rules that are for a workload, from the mesh's to its own. Of several alike the oldest
    /// counts.
    fn rules_for(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&TelemetryRule> {
        let here = |rule: &TelemetryRule| !rule.mesh_wide && rule.namespace == namespace;
        let selects = |rule: &TelemetryRule| {
            !rule.labels.is_empty()
                && rule.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let whole = self.rules.iter().find(|rule| rule.mesh_wide);
        let space = self.rules.iter().find(|rule| here(rule) && rule.labels.is_empty());
        let own = self.rules.iter().find(|rule| here(rule) && selects(rule));
        [whole, space, own].into_iter().flatten().collect()
    }

    /// Who logs the requests of a workload at one end of them; `None`: nothing is said of it.
    pub fn logging(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        side: Side,
    ) -> Option<Vec<LogTo<'_>>> {
        let mut rules = self.rules_for(namespace, labels);
        rules.retain(|rule| !rule.logging.is_empty());
        if rules.is_empty() && self.default_logs.is_empty() {
            return None;
        }
        let mut names: Vec<&str> = self.default_logs.iter().map(String::as_str).collect();
        // Whom Istio would have do nothing, because no provider is named anywhere.
        let nobody = [ENVOY];
        let mut entries: BTreeMap<&str, &Logging> = BTreeMap::new();
        for rule in rules {
            let inherited = if names.is_empty() { nobody.to_vec() } else { names.clone() };
            let mut own: Vec<&str> = Vec::new();
            for entry in rule.logging.iter().filter(|entry| entry.mode.covers(side)) {
                let named: Vec<&str> = entry.providers.iter().map(String::as_str).collect();
                for name in if named.is_empty() { &inherited } else { &named } {
                    entries.insert(name, entry);
                    if !own.contains(name) {
                        own.push(name);
                    }
                }
            }
            if !own.is_empty() {
                names = own;
            }
        }
        let wanted = names.into_iter().filter_map(|provider| match entries.get(provider) {
            Some(entry) if entry.disabled => None,
            entry => Some(LogTo { provider, filter: entry.and_then(|e| e.filter.as_ref()) }),
        });
        Some(wanted.collect())
    }

    /// Which spans are made of a workload's requests at one end of them; `None`: nothing is said of
    /// it. `Some(None)`: there are to be none.
    pub fn tracing(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        side: Side,
    ) -> Option<Option<TraceTo<'_>>> {
        let mut rules = self.rules_for(namespace, labels);
        rules.retain(|rule| !rule.tracing.is_empty());
        if rules.is_empty() && self.default_tracing.is_none() {
            return None;
        }
        let provider = self.default_tracing.as_deref();
        let mut trace = TraceTo { provider, sampling: None, tags: &[] };
        let mut disabled = false;
        let entries = rules.into_iter().flat_map(|rule| &rule.tracing);
        for entry in entries.filter(|entry| entry.mode.covers(side)) {
            trace.provider = entry.provider.as_deref().or(trace.provider);
            trace.sampling = entry.sampling.or(trace.sampling);
            trace.tags = entry.tags.as_deref().unwrap_or(trace.tags);
            disabled = entry.disabled.unwrap_or(disabled);
        }
        Some((!disabled).then_some(trace))
    }

    /// Whether anything is said of who logs.
    pub fn says_logging(&self) -> bool {
        !self.default_logs.is_empty() || self.rules.iter().any(|rule| !rule.logging.is_empty())
    }

    /// Whether anything is said of traces.
    pub fn says_tracing(&self) -> bool {
        self.default_tracing.is_some() || self.rules.iter().any(|rule| !rule.tracing.is_empty())
    }
}
