//! What is asked of who calls a workload: policies as `struct guard`, one for all workloads to which
//! the same ones apply.

use beeway_model::access::{AccessPolicy, Direction, Identity, Layer, Scope};
use beeway_model::{Mesh, RateLimiter};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Notice;
use super::access_rules::{Asked, plan};
use super::balance::Clusters;
use super::heap::Heap;
use super::identity::Identities;
use super::limits;
use super::records::Record;
use super::rules::{Plan, Surroundings};
use super::table::{Draft, body, place_all, push_whole, reserve};
use crate::abi;

/// Guards by identity, and the beginning of a heap that has them: prepared answers, and all that
/// policies become. It depends on the policies and on who can be told apart alone.
#[derive(Debug, Clone)]
pub(super) struct Guards {
    /// By number: the `struct guard` and the group of whom it may call, 0 for none.
    places: Vec<(u32, u32)>,
    /// The beginning of the heap.
    pub words: Vec<u32>,
    /// What is left to userspace.
    pub notices: Vec<Notice>,
}

/// Policies and limits that apply to an identity, by their indices in the mesh.
#[derive(Default, PartialEq, Eq, Hash)]
struct Applying {
    policies: Vec<usize>,
    limits: Vec<usize>,
}

struct Maker<'m> {
    mesh: &'m Mesh,
    identities: &'m Identities<'m>,
    heap: Heap,
    clusters: Clusters<'m>,
    notices: Vec<Notice>,
    /// Tables of requests.
    drafts: Vec<Draft>,
}

/// Services that policies name.
pub(super) fn named_services(mesh: &Mesh) -> FxHashSet<(&str, &str)> {
    let named = mesh.access.iter().filter_map(|policy| match &policy.scope {
        Scope::Services(named) => Some(named),
        Scope::Workloads(..) => None,
    });
    named.flatten().map(|(namespace, name)| (namespace.as_str(), name.as_str())).collect()
}

impl Guards {
    /// Of all identities. Tables of requests behind `limit` words are left to userspace, the largest
    /// first.
    pub fn new(mesh: &Mesh, identities: &Identities<'_>, limit: usize) -> Guards {
        let (clusters, heap) = (Clusters::new(mesh), Heap::new());
        let (notices, drafts) = (Vec::new(), Vec::new());
        let mut maker = Maker { mesh, identities, heap, clusters, notices, drafts };
        let places = if mesh.access.is_empty() && mesh.limits.is_empty() {
            Vec::new()
        } else {
            maker.make_all()
        };
        let Maker { mut heap, mut clusters, mut notices, drafts, .. } = maker;
        place_all(&mut heap, &mut clusters, drafts, limit, &mut notices);
        Guards { places, words: heap.into_words(), notices }
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

impl<'m> Maker<'m> {
    fn make_all(&mut self) -> Vec<(u32, u32)> {
        let scopes = Scopes::of(self.mesh);
        let mut known: FxHashMap<Applying, (u32, u32)> = FxHashMap::default();
        let mut places = Vec::new();
        for identity in self.identities.iter() {
            let limits = identity.workload().map(|workload| limits::applying(self.mesh, workload));
            let policies = scopes.applying(self.mesh, identity);
            let applying = Applying { policies, limits: limits.unwrap_or_default() };
            let place = match known.get(&applying) {
                Some(place) => *place,
                None => {
                    let place = self.make(&applying);
                    known.insert(applying, place);
                    place
                }
            };
            places.push(place);
        }
        places
    }

    fn make(&mut self, applying: &Applying) -> (u32, u32) {
        let of = |layer, direction| -> Vec<&'m AccessPolicy> {
            let policies = applying.policies.iter().map(|index| &self.mesh.access[*index]);
            policies
                .filter(|p| (p.layer, p.direction) == (layer, direction))
                .map(|policy| &**policy)
                .collect()
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
        let group = push_whole(&mut self.heap, &mut self.clusters, plan, &mut reasons);
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
        let (owner, place) = (owner(policies), reserve(&mut self.heap));
        self.drafts.push(Draft { owner, place, body });
        place
    }

    fn limits(&mut self, limiters: Vec<&'m RateLimiter>) -> u32 {
        let mut reasons = Vec::new();
        let limits = limits::push(&mut self.heap, &limiters, |heap, rules| {
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
