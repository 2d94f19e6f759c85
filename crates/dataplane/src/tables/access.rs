//! What is asked of who calls a workload: policies as `struct guard`, one for all workloads to which
//! the same ones apply.

use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::access::{
    AccessPolicy, AccessRule, CalledAt, Direction, Field, Identity, Layer, Naming, Scope,
};
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
#[derive(Debug)]
pub(super) struct Guards {
    /// By number: an index of `places`.
    of: Vec<usize>,
    /// Of those who come straight to an endpoint of a service that policies name, likewise.
    at: FxHashMap<CalledAt, Place>,
    /// The `struct guard` and the group of whom it may call, 0 for none.
    places: Vec<(u32, u32)>,
    /// Whose they are: all to whom the same applies.
    known: FxHashMap<Applying, usize>,
    /// The beginning of the heap.
    pub words: Vec<u32>,
    /// How many of the words there were when all were made at once.
    begun: usize,
    /// What is left to userspace.
    pub notices: Vec<Notice>,
}

/// Policies and limits that apply to an identity, by their indices in the mesh.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
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
        let words = Heap::new().into_words();
        let (known, of, at, places, notices) = Default::default();
        let mut guards = Guards { of, at, places, known, words, begun: 0, notices };
        if !mesh.access.is_empty() || !mesh.limits.is_empty() {
            let straight = straight(mesh, identities);
            guards.add(mesh, identities, limit, &straight, |_| false);
            guards.lead(straight);
        }
        guards.begun = guards.words.len();
        guards
    }

    /// Of all identities, where those of before have kept their numbers and policies are the same;
    /// `None`: it is better to begin anew.
    pub fn grown(
        mut self,
        mesh: &Mesh,
        identities: &Identities<'_>,
        limit: usize,
    ) -> Option<Guards> {
        let before = identities.kept()?;
        let new: Vec<Identity<'_>> = identities.iter().skip(before).collect();
        let straight = straight(mesh, identities);
        let all_known = straight.iter().all(|s| self.known.contains_key(&s.applying));
        if self.known.is_empty() || (new.is_empty() && all_known) {
            self.lead(straight);
            return Some(self);
        }
        if !mesh.limits.is_empty() || !self.notices.is_empty() {
            return None;
        }
        let names = |policy: &Arc<AccessPolicy>| new.iter().any(|new| concerns(policy, *new));
        let concerned: Vec<bool> = mesh.access.iter().map(names).collect();
        self.add(mesh, identities, limit, &straight, |applying| {
            applying.policies.iter().any(|index| concerned[*index])
        });
        self.lead(straight);
        let waste = self.words.len() > self.begun + self.begun / WASTE;
        (self.notices.is_empty() && !waste).then_some(self)
    }

    /// Whether words may be in it that nothing leads to.
    pub fn has_waste(&self) -> bool {
        self.words.len() != self.begun
    }

    /// Makes those of further numbers and of who comes straight, and anew those that are `stale`.
    fn add(
        &mut self,
        mesh: &Mesh,
        identities: &Identities<'_>,
        limit: usize,
        straight: &[Straight],
        stale: impl Fn(&Applying) -> bool,
    ) {
        let heap = Heap::behind(std::mem::take(&mut self.words));
        let (clusters, notices, drafts) = (Clusters::new(mesh), Vec::new(), Vec::new());
        let mut maker = Maker { mesh, identities, heap, clusters, notices, drafts };
        for (applying, at) in &self.known {
            if stale(applying) {
                self.places[*at] = maker.make(applying);
            }
        }
        let scopes = Scopes::of(mesh);
        for identity in identities.iter().skip(self.of.len()) {
            let place = self.place(&mut maker, scopes.applying(mesh, identity));
            self.of.push(place);
        }
        for straight in straight {
            self.place(&mut maker, straight.applying.clone());
        }
        let Maker { mut heap, mut clusters, mut notices, drafts, .. } = maker;
        place_all(&mut heap, &mut clusters, drafts, limit, &mut notices);
        self.words = heap.into_words();
        self.notices.append(&mut notices);
    }

    fn place(&mut self, maker: &mut Maker<'_>, applying: Applying) -> usize {
        *self.known.entry(applying).or_insert_with_key(|applying| {
            self.places.push(maker.make(applying));
            self.places.len() - 1
        })
    }

    /// Leads who comes straight to those that have been made.
    fn lead(&mut self, straight: Vec<Straight>) {
        let place = |s: Straight| (s.called, Place { at: self.known[&s.applying], every: s.every });
        self.at = straight.into_iter().map(place).collect();
    }

    /// Whether there is one for who comes straight somewhere.
    pub fn has_straight(&self) -> bool {
        !self.at.is_empty()
    }

    /// How policies name the services that an address is an endpoint of.
    pub fn naming(&self, called: &CalledAt) -> abi::guarded {
        match self.at.get(called) {
            None => abi::guarded::GUARDED_NOT,
            Some(place) if place.every => abi::guarded::GUARDED_BY_EACH,
            Some(_) => abi::guarded::GUARDED_BY_NAME,
        }
    }

    /// The `struct guard` of who comes straight to an endpoint of services that policies name, or 0.
    pub fn at(&self, called: &CalledAt) -> u32 {
        self.at.get(called).map_or(0, |place| self.places[place.at].0)
    }

    /// The `struct guard` of an identity, and the group of whom it may call.
    pub fn of(&self, number: u32) -> (u32, u32) {
        let at = self.of.get(number as usize);
        at.map_or((0, 0), |at| self.places[*at])
    }
}

/// What applies to who comes straight to an endpoint of services that policies name.
struct Straight {
    called: CalledAt,
    applying: Applying,
    every: bool,
}

/// An index of [`Guards::places`].
#[derive(Debug)]
struct Place {
    at: usize,
    /// All services that it is an endpoint of are named by the same policies.
    every: bool,
}

/// All of them.
fn straight(mesh: &Mesh, identities: &Identities<'_>) -> Vec<Straight> {
    let named = mesh.named_policies();
    if named.is_empty() {
        return Vec::new();
    }
    let scopes = Scopes::of(mesh);
    let mut owners: FxHashMap<IpAddr, usize> = FxHashMap::default();
    for (index, workload) in mesh.workloads.iter().enumerate() {
        for address in &workload.addresses {
            owners.entry(address.to_canonical()).or_insert(index);
        }
    }
    // workloads of one number have the same, and are many
    let mut known: FxHashMap<u32, Applying> = FxHashMap::default();
    let of = |(called, naming): (CalledAt, Naming)| {
        let mut applying = match owners.get(&called.0) {
            None => Applying::default(),
            Some(owner) => known
                .entry(identities.number(*owner))
                .or_insert_with(|| {
                    scopes.applying(mesh, Identity::Workload(&mesh.workloads[*owner]))
                })
                .clone(),
        };
        applying.policies.extend(naming.policies);
        Straight { called, applying, every: naming.every }
    };
    named.into_iter().map(of).collect()
}

/// All is made anew when more than one part in this many was added.
const WASTE: usize = 4;

/// Whether what a policy becomes may be another when there is this identity too. What it says of
/// callers becomes sets of numbers, and none where it is said of everybody, the world among them.
fn concerns(policy: &AccessPolicy, new: Identity<'_>) -> bool {
    let mut clauses = policy.rules.iter().flat_map(AccessRule::clauses);
    clauses.any(|clause| {
        let (Field::Caller(wanted) | Field::Called(wanted)) = &clause.field else { return false };
        let holds = |identity| wanted.iter().any(|wanted| wanted.holds(identity));
        holds(new) != clause.negated || holds(Identity::World) != clause.negated
    })
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

    fn applying(&self, mesh: &Mesh, identity: Identity<'_>) -> Applying {
        let Some(workload) = identity.workload() else { return Applying::default() };
        let near = self.of_namespace.get(workload.namespace.as_str()).into_iter().flatten();
        let selects = |index: &&usize| match &mesh.access[**index].scope {
            Scope::Workloads(_, labels) => labels.holds(&workload.labels),
            Scope::Services(_) => false,
        };
        let policies = self.of_all.iter().chain(near).filter(selects).copied().collect();
        Applying { policies, limits: limits::applying(mesh, workload) }
    }
}

impl<'m> Maker<'m> {
    fn make(&mut self, applying: &Applying) -> (u32, u32) {
        let of = |layer, direction| -> Vec<&'m AccessPolicy> {
            let policies = applying.policies.iter().map(|index| &self.mesh.access[*index]);
            policies
                .filter(|p| (p.layer, p.direction) == (layer, direction))
                .map(|p| &**p)
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
                let requests = self.table(&authorization);
                let record = abi::guard {
                    network: self.group(&network, Asked::Connections),
                    connections: self.group(&authorization, Asked::Connections),
                    carriers: self.group(&authorization, Asked::Carriers),
                    requests,
                    visits: self.visits(&authorization, requests),
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

    /// The table of what is judged where it comes in; `requests` is that of what is not.
    fn visits(&mut self, policies: &[&'m AccessPolicy], requests: u32) -> u32 {
        let acting = policies.iter().copied().filter(|policy| !policy.only_reports());
        let acting: Vec<&'m AccessPolicy> = acting.collect();
        if acting.len() == policies.len() {
            return requests;
        }
        let said = self.notices.len();
        let place = self.table(&acting);
        self.notices.truncate(said);
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
