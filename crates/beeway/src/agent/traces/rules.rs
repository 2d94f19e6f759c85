//! Which flows become spans, and where those go.

use std::sync::Arc;

use beeway_model::Mesh;
use beeway_model::telemetry::{Side, Tag};
use beeway_telemetry::Flow;
use rustc_hash::FxHashMap;

use super::{Target, TraceSettings, span};
use crate::agent::subjects::{Subject, Subjects};

/// What holds for one workload; `None`: it has no spans.
type Wanted = Option<Arc<Held>>;

struct Held {
    target: Arc<Target>,
    /// Of a hundred.
    sample: f64,
    tags: Vec<(String, Tag)>,
}

/// What holds in one configuration.
pub(super) struct Rules {
    mesh: Arc<Mesh>,
    subjects: Subjects,
    sample: f64,
    /// For those that nothing is said of.
    rest: Wanted,
    /// What was found out, by workload and end.
    known: FxHashMap<(usize, bool), Wanted>,
}

impl Rules {
    pub(super) fn of(mesh: &Arc<Mesh>, settings: &TraceSettings) -> Rules {
        let target = settings.endpoint.clone().map(|endpoint| Arc::new(Target::Told(endpoint)));
        let sample = settings.sample;
        let rest = target.map(|target| Arc::new(Held { target, sample, tags: Vec::new() }));
        let mut rules = Rules {
            mesh: mesh.clone(),
            subjects: Subjects::default(),
            sample,
            rest,
            known: FxHashMap::default(),
        };
        if rules.wants() {
            rules.subjects = Subjects::of(mesh);
        }
        rules
    }

    /// Whether there may be spans.
    pub(super) fn wants(&self) -> bool {
        self.rest.is_some() || self.mesh.telemetry.says_tracing()
    }

    /// The span of a flow, and where it goes.
    pub(super) fn span(&mut self, flow: &Flow) -> Option<(Arc<Target>, span::Made)> {
        let side = if flow.inbound { Side::Server } else { Side::Client };
        let wanted = match self.subjects.at(flow, side) {
            None => self.rest.clone(),
            Some(subject) => {
                let key = (subject.key, flow.inbound);
                if !self.known.contains_key(&key) {
                    let found = self.find(subject, side);
                    self.known.insert(key, found);
                }
                self.known[&key].clone()
            }
        };
        let held = wanted?;
        let sampled = match flow.trace {
            Some(context) => context.sampled,
            None => fastrand::f64() * 100.0 < held.sample,
        };
        sampled.then(|| (held.target.clone(), span::make(flow, &held.tags)))
    }

    fn find(&self, subject: Subject<'_>, side: Side) -> Wanted {
        let telemetry = &self.mesh.telemetry;
        let Some(said) = telemetry.tracing(subject.namespace, subject.labels, side) else {
            return self.rest.clone();
        };
        let to = said?;
        let target = match to.provider {
            None => self.rest.as_ref()?.target.clone(),
            Some(name) => self.target(name)?,
        };
        let sample = to.sampling.unwrap_or(self.sample);
        Some(Arc::new(Held { target, sample, tags: to.tags.to_vec() }))
    }

    /// A provider's endpoints. The agent is in no pod, and asks them itself.
    fn target(&self, name: &str) -> Option<Arc<Target>> {
        let collector = self.mesh.telemetry.collectors.iter().find(|c| c.name == name)?;
        let endpoints = &self.mesh.cluster(collector.cluster).endpoints;
        let addresses = endpoints.iter().map(|endpoint| endpoint.address).collect();
        let authority = format!("{}:{}", collector.host, collector.port);
        Some(Arc::new(Target::Service(addresses, collector.path.clone(), authority)))
    }
}
