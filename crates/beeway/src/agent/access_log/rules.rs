//! What is logged of a flow, and by whom.

use std::sync::Arc;

use beeway_model::Mesh;
use beeway_model::telemetry::filter::{Attribute, Attributes, Value};
use beeway_model::telemetry::{ENVOY, Filter, Format, LogFile, Side};
use beeway_telemetry::Flow;
use rustc_hash::FxHashMap;

use super::{LogFormat, LogSettings};
use crate::agent::subjects::{Subject, Subjects};

/// Where a line goes, and how it looks.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) file: LogFile,
    pub(super) format: Format,
}

/// What one workload's requests are logged to, and which of them.
type Wanted = Arc<[(Arc<Target>, Option<Filter>)]>;

/// What holds in one configuration.
pub(super) struct Rules {
    mesh: Arc<Mesh>,
    subjects: Subjects,
    /// Providers, by name.
    targets: FxHashMap<String, Arc<Target>>,
    /// For those that nothing is said of.
    rest: Wanted,
    /// What was found out, by workload and end.
    known: FxHashMap<(usize, bool), Wanted>,
    /// Something is logged.
    wants: bool,
}

impl Rules {
    pub(super) fn of(mesh: &Arc<Mesh>, settings: &LogSettings) -> Rules {
        let telemetry = &mesh.telemetry;
        let told = settings.format.map(LogFormat::pieces);
        let format = told.or_else(|| telemetry.log_format.clone());
        let format = format.unwrap_or_else(Format::default_json);
        let target = |file: &LogFile, own: Option<&Format>| {
            let format = own.unwrap_or(&format).clone();
            Arc::new(Target { file: file.clone(), format })
        };
        let standard = target(&LogFile::Standard, None);
        let mut targets = FxHashMap::default();
        targets.insert(ENVOY.to_owned(), standard.clone());
        for log in &telemetry.logs {
            targets.insert(log.name.clone(), target(&log.file, log.format.as_ref()));
        }
        let rest = match (&settings.file, &telemetry.log_file) {
            (Some(_), _) => Some(standard),
            (None, Some(file)) => Some(target(file, None)),
            (None, None) => None,
        };
        let wants = rest.is_some() || telemetry.says_logging();
        let rest = rest.into_iter().map(|target| (target, None)).collect();
        let subjects = if wants { Subjects::of(mesh) } else { Subjects::default() };
        Rules { mesh: mesh.clone(), subjects, targets, rest, known: FxHashMap::default(), wants }
    }

    /// Whether anything may be logged.
    pub(super) fn wants(&self) -> bool {
        self.wants
    }

    /// Whether lines may go there.
    pub(super) fn writes(&self, file: &LogFile) -> bool {
        let rest = self.rest.iter().map(|(target, _)| target);
        self.targets.values().chain(rest).any(|target| target.file == *file)
    }

    /// Where a flow is logged: once for each provider that logs it at either end.
    pub(super) fn wanted(&mut self, flow: &Flow) -> Vec<Arc<Target>> {
        let mut found: Vec<Arc<Target>> = Vec::new();
        let mut anybody = false;
        // the other end of what comes in is another node's to tell of
        let sides: &[Side] =
            if flow.inbound { &[Side::Server] } else { &[Side::Client, Side::Server] };
        for &side in sides {
            let Some(subject) = self.subjects.at(flow, side) else { continue };
            anybody = true;
            let key = (subject.key, side == Side::Client);
            let wanted = match self.known.get(&key) {
                Some(wanted) => wanted.clone(),
                None => {
                    let wanted = self.find(subject, side);
                    self.known.insert(key, wanted.clone());
                    wanted
                }
            };
            add(&mut found, &wanted, flow);
        }
        if !anybody {
            add(&mut found, &self.rest, flow);
        }
        found
    }

    fn find(&self, subject: Subject<'_>, side: Side) -> Wanted {
        let telemetry = &self.mesh.telemetry;
        let Some(said) = telemetry.logging(subject.namespace, subject.labels, side) else {
            return self.rest.clone();
        };
        let wanted = said.into_iter().filter_map(|to| {
            let target = self.targets.get(to.provider)?;
            Some((target.clone(), to.filter.cloned()))
        });
        wanted.collect()
    }
}

fn add(found: &mut Vec<Arc<Target>>, wanted: &Wanted, flow: &Flow) {
    for (target, filter) in wanted.iter() {
        let known = found.iter().any(|other| Arc::ptr_eq(other, target) || other == target);
        if !known && filter.as_ref().is_none_or(|filter| filter.holds(&Asked(flow))) {
            found.push(target.clone());
        }
    }
}

/// What filters ask of a flow.
struct Asked<'a>(&'a Flow);

impl Attributes for Asked<'_> {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        let flow = self.0;
        let request = !flow.connection;
        let number = |number: u64| Some(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
        match attribute {
            Attribute::Method => text(&flow.method),
            Attribute::Path => text(&flow.path),
            Attribute::UrlPath => text(flow.bare_path()),
            Attribute::Query => text(flow.path.split_once('?').map_or("", |(_, query)| query)),
            Attribute::Host => text(&flow.authority),
            Attribute::Scheme => text("http").filter(|_| request),
            Attribute::Protocol => text(flow.version),
            Attribute::RequestId => text(&flow.request_id),
            Attribute::UserAgent => text(&flow.user_agent),
            Attribute::Duration => {
                let ns = i64::try_from(flow.duration.as_nanos()).unwrap_or(i64::MAX);
                Some(Value::Span(ns))
            }
            Attribute::RequestSize => number(flow.received).filter(|_| request),
            Attribute::Code => number(flow.status.into()).filter(|_| flow.status != 0),
            Attribute::CodeDetails => text(&flow.detail),
            Attribute::Flags => Some(Value::Int(flag_bits(&flow.flags))),
            Attribute::GrpcStatus => flow.grpc_status.and_then(|status| number(status.into())),
            Attribute::ResponseSize => number(flow.sent).filter(|_| request),
            Attribute::SourceAddress => owned(flow.source_address.to_string()),
            Attribute::SourceWorkload => known(&flow.source.workload),
            Attribute::SourceNamespace => known(&flow.source.namespace),
            Attribute::SourceApp => known(&flow.source.app),
            Attribute::SourceVersion => known(&flow.source.version),
            Attribute::DestinationAddress => owned(flow.service_address.to_string()),
            Attribute::DestinationPort => number(flow.service_address.port().into()),
            Attribute::DestinationWorkload => known(&flow.destination.workload),
            Attribute::DestinationNamespace => known(&flow.destination.namespace),
            Attribute::DestinationApp => known(&flow.destination.app),
            Attribute::DestinationVersion => known(&flow.destination.version),
            Attribute::ServiceName => text(&flow.service.name),
            Attribute::ServiceNamespace => known(&flow.service.namespace),
            Attribute::ServiceHost => text(&flow.service.host),
            Attribute::UpstreamAddress => flow.endpoint.and_then(|at| owned(at.to_string())),
            Attribute::UpstreamPort => flow.endpoint.and_then(|at| number(at.port().into())),
            // nothing is encrypted by the mesh
            Attribute::Mtls => Some(Value::Bool(false)),
            Attribute::Route => text(&flow.rule),
            Attribute::Cluster => text(&flow.cluster),
            Attribute::Lane => text(flow.lane),
            Attribute::Reason => text(flow.reason),
            Attribute::Verdict => text(flow.verdict.as_str()),
            Attribute::Policy => text(&flow.policy),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        super::line::header(self.0, name).filter(|value| !value.is_empty())
    }
}

fn text(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then(|| Value::Text(text.into()))
}

fn owned(text: String) -> Option<Value<'static>> {
    Some(Value::Text(text.into()))
}

fn known(name: &str) -> Option<Value<'_>> {
    text(name).filter(|_| name != beeway_telemetry::names::UNKNOWN)
}

/// Envoy's numbers of response flags (`CoreResponseFlag`: the bit of each), by their letters.
fn flag_bits(flags: &str) -> i64 {
    const BITS: [(&str, u32); 16] = [
        ("UH", 1),
        ("UT", 2),
        ("UR", 4),
        ("UF", 5),
        ("UC", 6),
        ("UO", 7),
        ("NR", 8),
        ("DI", 9),
        ("FI", 10),
        ("RL", 11),
        ("UAEX", 12),
        ("DC", 14),
        ("URX", 15),
        ("DPE", 18),
        ("UPE", 23),
        ("NC", 24),
    ];
    let bit = |letters: &str| BITS.iter().find(|(known, _)| *known == letters);
    flags.split(',').filter_map(bit).fold(0, |bits, (_, bit)| bits | 1 << bit)
}

#[cfg(test)]
mod tests {
    use beeway_model::telemetry::filter::{ATTRIBUTES, Kind};

    use super::*;
    use crate::agent::sample;

    #[test]
    fn attributes_are_of_the_kind_that_filters_take_them_for() {
        let flow = sample::flow("text");
        let asked = Asked(&flow);
        for (name, attribute, kind) in ATTRIBUTES {
            let value = asked.attribute(*attribute);
            let fits = matches!(
                (&value, kind),
                (Some(Value::Bool(_)), Kind::Bool)
                    | (Some(Value::Int(_)), Kind::Int)
                    | (Some(Value::Text(_)), Kind::Text)
                    | (Some(Value::Span(_)), Kind::Span)
            );
            assert!(fits, "{name}: {value:?} is no {kind:?}");
        }
        let mut nobody = sample::flow("");
        (nobody.status, nobody.grpc_status, nobody.endpoint) = (0, None, None);
        for attribute in [Attribute::Method, Attribute::Code, Attribute::UpstreamAddress] {
            assert_eq!(Asked(&nobody).attribute(attribute), None);
        }
        // UF is bit 5 of Envoy's, URX bit 15
        assert_eq!(asked.attribute(Attribute::Flags), Some(Value::Int(0x8020)));
    }
}
