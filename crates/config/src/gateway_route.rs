//! Routes of Gateway API whose parent is a Service → rules, in the order of the API's precedence.
//!
//! A route of the service's own namespace (producer) is for all clients; one of another namespace
//! (consumer) is for that namespace's clients, and its routes, merged, stand there instead of the
//! producer's (GEP-1426, "Multiple routes for a Service"). A route replaces what would be without
//! it ("Route presence"): what none of a client's routes holds for gets 404. Where GRPCRoutes and
//! HTTPRoutes meet on a port, the more specific kind stands ("Route types").
//!
//! Each hostname and each match of a rule becomes a rule of its own, ranked by [`Precedence`]
//! among all those of its layer. So what no rule of a closer hostname holds for may still be a
//! wider one's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use beeway_model::{Match, PathMatch, Protocol, Rule, SourceMatch};
use k8s_openapi::jiff::Timestamp;

use crate::catalog::Catalog;
use crate::gateway::{Route, RouteRule};
use crate::layer::{Layer, compose};
use crate::objects::{Object, Objects};
use crate::problem::{Problem, Report};
use crate::route_action::{Origin, Reader, refusal, replaces_prefix};
use crate::route_match::{Alternative, Condition};
use crate::virtual_action::Carried;

/// Which of two rules is tried first: the lesser. The order of the fields is the order that the
/// specification gives; regular expressions come after prefixes, as in Istio.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    hostname: Reverse<(u8, usize)>,
    path: Reverse<(usize, usize)>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: (bool, Option<Timestamp>),
    route: Arc<str>,
    place: (usize, usize),
}

type Ranked = Vec<(Precedence, Rule)>;

/// A service and one of its ports, by index.
type Slot = (usize, usize);

/// Attaches every route to the service ports that it names.
pub(crate) fn attach(objects: &Objects, catalog: &mut Catalog, problems: &mut Vec<Problem>) {
    attach_all(&objects.grpc_routes, objects, catalog, problems);
    attach_all(&objects.http_routes, objects, catalog, problems);
}

/// Attaches the routes of a kind. Ports that routes of another kind decide on are left to these.
fn attach_all<M: Alternative>(
    routes: &[Object<Route<M>>],
    objects: &Objects,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) {
    // For each port the routes of each client namespace, and (None) those for everybody.
    let mut attached: BTreeMap<Slot, BTreeMap<Option<String>, Ranked>> = BTreeMap::new();
    let mut names: BTreeMap<Slot, String> = BTreeMap::new();
    for route in routes {
        let slots = slots(route, catalog, problems);
        if slots.is_empty() {
            continue;
        }
        let Some(rules) = rules(route, objects, catalog, problems) else {
            continue;
        };
        if M::PROTOCOL == Protocol::Http2 {
            rules.iter().for_each(|(_, rule)| catalog.speaks_http2(rule));
        }
        let last = slots.len() - 1;
        let mut rules = Some(rules);
        for (at, slot) in slots.into_iter().enumerate() {
            // Most routes are for one port: theirs are not copied.
            let rules = if at == last { rules.take() } else { rules.clone() };
            let producer = catalog.services[slot.0].namespace == route.namespace;
            let consumer = (!producer).then(|| route.namespace.clone());
            let for_consumer = rules.into_iter().flatten().map(|(precedence, mut rule)| {
                let source = SourceMatch { namespace: consumer.clone(), ..Default::default() };
                for m in rule.matches.iter_mut().filter(|_| consumer.is_some()) {
                    m.sources = vec![source.clone()];
                }
                (precedence, rule)
            });
            let of_port = attached.entry(slot).or_default();
            of_port.entry(consumer.clone()).or_default().extend(for_consumer);
            names.entry(slot).or_insert_with(|| route.place.label().to_owned());
        }
    }
    for (slot, mut layers) in attached {
        let producers = layers.remove(&None);
        let consumers = layers.into_iter();
        let all = consumers.chain(producers.map(|ranked| (None, ranked)));
        let layers = all.map(|(namespace, ranked)| layer(M::KIND, namespace, ranked)).collect();
        let port = &mut catalog.services[slot.0].ports[slot.1];
        port.rules = Some(compose(layers, port.cluster).0);
        port.routed_by = names.remove(&slot).map(|name| (name, M::PROTOCOL));
    }
}

fn layer(kind: &str, namespace: Option<String>, ranked: Ranked) -> Layer {
    // Places are sorted, not the rules, which are large.
    let (ranks, mut rules): (Vec<_>, Vec<_>) =
        ranked.into_iter().map(|(rank, rule)| (rank, Some(rule))).unzip();
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|a, b| ranks[*a].cmp(&ranks[*b]));
    let rules = order.into_iter().filter_map(|at| rules[at].take()).collect();
    match namespace {
        Some(namespace) => Layer {
            name: format!("{kind}s of {namespace}"),
            scope: vec![SourceMatch { namespace: Some(namespace), ..Default::default() }],
            rules,
        },
        None => Layer { name: format!("{kind}s"), scope: Vec::new(), rules },
    }
}

/// The ports that a route is for.
fn slots<M>(
    route: &Object<Route<M>>,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> BTreeSet<Slot> {
    let mut slots = BTreeSet::new();
    for (index, parent) in route.body.parent_refs.iter().enumerate() {
        let path = format!("spec.parentRefs.{index}");
        let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        if (group, kind) != ("", "Service") {
            let reason = format!("parent {kind} {}: only Services are the mesh's", parent.name);
            problems.push(route.place.notice(&path, reason));
            continue;
        }
        let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
        let Some(service) = catalog.kubernetes(namespace, &parent.name) else {
            let reason = format!("there is no Service {namespace}/{}", parent.name);
            problems.push(route.place.error(&path, reason));
            continue;
        };
        let listed = &catalog.services[service];
        let named: Vec<usize> = (0..listed.ports.len())
            .filter(|at| {
                let port = &listed.ports[*at];
                parent.port.is_none_or(|number| number == port.number)
                    && parent.section_name.as_ref().is_none_or(|name| *name == port.name)
            })
            .collect();
        let http: Vec<usize> =
            named.iter().copied().filter(|at| listed.ports[*at].takes_http()).collect();
        if http.is_empty() {
            let what = if named.is_empty() { "no such port" } else { "no HTTP on that port" };
            let reason = format!("Service {namespace}/{}: {what}", parent.name);
            problems.push(route.place.error(&path, reason));
        }
        for port in http {
            match &listed.ports[port].routed_by {
                Some((other, _)) => {
                    let number = listed.ports[port].number;
                    let reason = format!("not applied to port {number}: {other} decides there");
                    problems.push(route.place.warning(&path, reason));
                }
                None => {
                    slots.insert((service, port));
                }
            }
        }
    }
    slots
}

/// The rules of a route, one for each hostname and match; `None`: it cannot be used.
fn rules<M: Alternative>(
    route: &Object<Route<M>>,
    objects: &Objects,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Option<Ranked> {
    let spec = &route.body;
    let default = [RouteRule::<M>::default()];
    let rules = if spec.rules.is_empty() { &default[..] } else { &spec.rules };
    let mut hostnames: Vec<Option<String>> =
        spec.hostnames.iter().map(|name| Some(name.to_ascii_lowercase())).collect();
    if hostnames.is_empty() {
        hostnames.push(None);
    }
    let matches = all_conditions(route, rules, problems)?;
    let full_name: Arc<str> = format!("{}/{}", route.namespace, route.name).into();
    let mut ranked = Vec::new();
    for (index, (rule, matches)) in rules.iter().zip(matches).enumerate() {
        let path = format!("spec.rules.{index}");
        let origin = Origin {
            kind: M::KIND,
            place: &route.place,
            namespace: &route.namespace,
            parents: &spec.parent_refs,
        };
        let mut reader = Reader { origin, objects, catalog, problems };
        let mut carried = reader.action(&path, rule);
        let names_prefix = replaces_prefix(&carried);
        if names_prefix && !matches.iter().all(Condition::is_prefix) {
            let reason = "replacePrefixMatch goes with a path of type PathPrefix alone: requests \
                          get 500";
            problems.push(route.place.error(&path, reason));
            carried = refusal();
        }
        for (at, mut condition) in matches.into_iter().enumerate() {
            let last = hostnames.len() - 1;
            if names_prefix {
                condition.request.path.get_or_insert_with(|| PathMatch::Segments("/".into()));
            }
            for (n, hostname) in hostnames.iter().enumerate() {
                let place = (index, at);
                let precedence =
                    Precedence::of(route, &full_name, place, hostname.as_deref(), &condition);
                let hosts = hostname.iter().cloned().collect();
                let request = &mut condition.request;
                let request = if n == last { mem::take(request) } else { request.clone() };
                let matches = vec![Match { hosts, ..request }];
                let name = format!("{} rules[{index}].matches[{at}]", route.place.label());
                let Carried { action, policy, detour } = carried.clone();
                ranked.push((precedence, Rule { name, matches, action, policy, detour }));
            }
        }
    }
    Some(ranked)
}

/// The conditions of each rule; `None`, with problems, when one cannot be used.
fn all_conditions<M: Alternative>(
    route: &Object<Route<M>>,
    rules: &[RouteRule<M>],
    problems: &mut Vec<Problem>,
) -> Option<Vec<Vec<Condition>>> {
    let mut report = Report::new(&route.place, "spec.rules", problems);
    let any = [M::default()];
    let mut all = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let alternatives = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
        let read = alternatives.iter().enumerate().map(|(at, alternative)| {
            alternative.condition(&mut report.below(&format!("{index}.matches.{at}")))
        });
        all.push(read.collect());
    }
    if report.failed() {
        let reason = "it is not applied as a whole, because of the errors in it";
        problems.push(route.place.error("", reason));
        return None;
    }
    Some(all)
}

impl Precedence {
    fn of<M>(
        route: &Object<Route<M>>,
        full_name: &Arc<str>,
        place: (usize, usize),
        hostname: Option<&str>,
        condition: &Condition,
    ) -> Self {
        Self {
            hostname: Reverse(hostname_rank(hostname)),
            path: Reverse(condition.path_rank),
            method: Reverse(condition.request.method.is_some()),
            headers: Reverse(condition.request.headers.len()),
            query: Reverse(condition.request.query.len()),
            // Routes without a time are younger than those with one.
            created: (route.created.is_none(), route.created),
            route: full_name.clone(),
            place,
        }
    }
}

fn hostname_rank(hostname: Option<&str>) -> (u8, usize) {
    match hostname {
        None => (0, 0),
        Some(name) if name.starts_with('*') => (1, name.len()),
        Some(name) => (2, name.len()),
    }
}
