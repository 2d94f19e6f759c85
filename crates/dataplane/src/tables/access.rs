//! What is asked of who calls a workload: policies as `struct guard`, one for all workloads to which
//! the same ones apply.

use beeway_model::access::{AccessPolicy, Direction, Identity, Layer, Scope};
use beeway_model::{Mesh, RateLimiter, Service};
use rustc_hash::FxHashMap;

use super::Notice;
use super::access_rules::{Asked, plan};
use super::balance::Clusters;
use super::heap::Heap;
use super::identity::Identities;
use super::limits;
use super::records::Record;
use super::rules::{Plan, Surroundings};
use super::table::{Draft, body, push_whole, reserve};
use crate::abi;

/// Guards by identity, and the tables in them that are not written yet.
pub(super) struct Guards {
    /// By number: the `struct guard` and the group of whom it may call, 0 for none.
    places: Vec<(u32, u32)>,
    /// Tables of requests.
    pub drafts: Vec<Draft>,
}

/// Policies and limits that apply to an identity, by their indices in the mesh.
#[derive(Default, PartialEq, Eq, Hash)]
struct Applying {
    policies: Vec<usize>,
    limits: Vec<usize>,
}

struct Maker<'m, 'h> {
    mesh: &'m Mesh,
    identities: &'m Identities<'m>,
    heap: &'h mut Heap,
    clusters: &'h mut Clusters<'m>,
    notices: &'h mut Vec<Notice>,
    drafts: Vec<Draft>,
}

/// Whether policies name a service.
pub(super) fn is_named(mesh: &Mesh, service: &Service) -> bool {
    mesh.access.iter().any(|policy| match &policy.scope {
        Scope::Services(named) => {
            named.iter().any(|(n, name)| *n == service.namespace && *name == service.name)
        }
        Scope::Workloads(..) => false,
    })
}

impl Guards {
    /// Writes all but the tables of requests, for which there is room afterwards.
    pub fn new<'m>(
        heap: &mut Heap,
        clusters: &mut Clusters<'m>,
        mesh: &'m Mesh,
        identities: &'m Identities<'m>,
        notices: &mut Vec<Notice>,
    ) -> Guards {
        if mesh.access.is_empty() && mesh.limits.is_empty() {
            return Guards { places: Vec::new(), drafts: Vec::new() };
        }
        let scopes = Scopes::of(mesh);
        let mut maker = Maker { mesh, identities, heap, clusters, notices, drafts: Vec::new() };
        let mut known: FxHashMap<Applying, (u32, u32)> = FxHashMap::default();
        let mut places = Vec::new();
        for identity in identities.iter() {
            let limits = identity.workload().map(|workload| limits::applying(mesh, workload));
            let policies = scopes.applying(mesh, identity);
            let applying = Applying { policies, limits: limits.unwrap_or_default() };
            let place = match known.get(&applying) {
                Some(place) => *place,
                None => {
                    let place = maker.make(&applying);
                    known.insert(applying, place);
                    place
                }
            };
            places.push(place);
        }
        Guards { places, drafts: maker.drafts }
    }

    /// The `struct guard` of an identity, and the group of whom it may call.
    pub fn of(&self, number: u32) -> (u32, u32) {
        self.places.get(number as usize).copied().unwrap_or_default()
    }
}

/// Policies by the namespace that they select from, because most select from one.
struct Scopes<'m> {
    of_namespace: FxHashMap<&'m str, Vec<usize>>,
    of_all: Vec<usize>,
}

impl<'m> Scopes<'m> {
    fn of(mesh: &'m Mesh) -> Scopes<'m> {
        let mut scopes = Scopes { of_namespace: FxHashMap::default(), of_all: Vec::new() };
        for (index, policy) in mesh.access.iter().enumerate() {
            match &policy.scope {
                Scope::Workloads(Some(namespace), _) => {
                    scopes.of_namespace.entry(namespace).or_default().push(index);
                }
                Scope::Workloads(None, _) => scopes.of_all.push(index),
                Scope::Services(_) => {}
            }
        }
        scopes
    }

    fn applying(&self, mesh: &Mesh, identity: Identity<'_>) -> Vec<usize> {
        let Some(workload) = identity.workload() else { return Vec::new() };
        let near = self.of_namespace.get(workload.namespace.as_str()).into_iter().flatten();
        let selects = |index: &&usize| match &mesh.access[**index].scope {
            Scope::Workloads(_, labels) => labels.holds(&workload.labels),
            Scope::Services(_) => false,
        };
        self.of_all.iter().chain(near).filter(selects).copied().collect()
    }
}

impl<'m> Maker<'m, '_> {
    fn make(&mut self, applying: &Applying) -> (u32, u32) {
        let of = |layer, direction| -> Vec<&'m AccessPolicy> {
            let policies = applying.policies.iter().map(|index| &self.mesh.access[*index]);
            policies.filter(|p| (p.layer, p.direction) == (layer, direction)).collect()
        };
        let network = of(Layer::Network, Direction::Ingress);
        let leave = of(Layer::Network, Direction::Egress);
        let authorization = of(Layer::Authorization, Direction::Ingress);
        let free = network.is_empty() && authorization.is_empty() && applying.limits.is_empty();
        let guard = match free {
            true => 0,
            false => {
                let limits = applying.limits.iter().map(|index| &self.mesh.limits[*index]);
                let record = abi::guard {
                    network: self.group(&network, Asked::Connections),
                    connections: self.group(&authorization, Asked::Connections),
                    carriers: self.group(&authorization, Asked::Carriers),
                    requests: self.table(&authorization),
                    limits: self.limits(limits.collect()),
                };
                self.heap.intern(record.words())
            }
        };
        (guard, self.group(&leave, Asked::Connections))
    }

    fn plan(&self, policies: &[&'m AccessPolicy], asked: Asked, around: &Surroundings<'m>) -> Plan {
        plan(policies, asked, around, self.identities)
    }

    fn group(&mut self, policies: &[&'m AccessPolicy], asked: Asked) -> u32 {
        if policies.is_empty() {
            return 0;
        }
        let plan = self.plan(policies, asked, &Surroundings::new(self.identities));
        let mut reasons = Vec::new();
        let group = push_whole(self.heap, self.clusters, plan, &mut reasons);
        self.note(policies, reasons);
        group
    }

    fn table(&mut self, policies: &[&'m AccessPolicy]) -> u32 {
        if policies.is_empty() {
            return 0;
        }
        let mut around = Surroundings::new(self.identities);
        let mut reasons = Vec::new();
        let body =
            body(&mut around, &mut reasons, |around| self.plan(policies, Asked::Requests, around));
        self.note(policies, reasons);
        let (owner, place) = (owner(policies), reserve(self.heap));
        self.drafts.push(Draft { owner, place, body });
        place
    }

    fn limits(&mut self, limiters: Vec<&'m RateLimiter>) -> u32 {
        let mut reasons = Vec::new();
        let limits = limits::push(self.heap, &limiters, |heap, rules| {
            let mut around = Surroundings::new(self.identities);
            let body = body(&mut around, &mut reasons, |around| Plan::new(rules, around));
            let place = reserve(heap);
            let owner = rules.first().map(|rule| rule.name.clone()).unwrap_or_default();
            self.drafts.push(Draft { owner, place, body });
            place
        });
        if limits.past_limit {
            let most = abi::limits::RATE_LIMITS.0;
            reasons.push(format!("more than {most} buckets of one workload: every request to it"));
        }
        let service = limiters.first().map(|limiter| limiter.name.clone()).unwrap_or_default();
        self.notices.extend(reasons.into_iter().map(|reason| {
            let reason = format!("{reason}: is decided by the userspace proxy");
            Notice { service: service.clone(), reason }
        }));
        limits.place
    }

    fn note(&mut self, policies: &[&AccessPolicy], reasons: Vec<String>) {
        let service = owner(policies);
        self.notices.extend(reasons.into_iter().map(|reason| {
            let reason = format!("{reason}: is decided by the userspace proxy");
            Notice { service: service.clone(), reason }
        }));
    }
}

/// Names policies for people.
fn owner(policies: &[&AccessPolicy]) -> String {
    match policies {
        [] => String::new(),
        [one] => one.name.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
    }
}
