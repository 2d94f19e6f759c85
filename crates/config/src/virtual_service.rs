//! VirtualServices → rules. First match wins, as Istio's sidecars have it.
//!
//! An object that Istio would refuse, or a condition that is not understood, leaves the whole
//! object out, with an error: a rule must not hold for more than was written.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};

use beeway_model::{Match, PathMatch, Protocol, Rule, SourceMatch, StreamRule};

use crate::catalog::{Catalog, Listed};
use crate::hostname::Index;
use crate::layer::{Layer, compose, widest};
use crate::objects::Objects;
use crate::problem::Problem;
use crate::route_action::replaces_prefix;
use crate::virtual_action::{self, Carried, Written};
use crate::virtual_check::{Usable, usable};
use crate::virtual_match::Condition;

/// Attaches every VirtualService to the ports of the services that it names.
pub(crate) fn attach(objects: &Objects, catalog: &mut Catalog, problems: &mut Vec<Problem>) {
    let mut usable = usable(&objects.virtual_services, catalog, problems);
    // Oldest first; objects without a time are younger, and in order of name as in Istio.
    usable.sort_by_key(|u| {
        let object = u.object;
        (object.created.is_none(), object.created, object.name.clone(), object.namespace.clone())
    });
    let patterns = usable.iter().enumerate();
    let index = Index::of(patterns.flat_map(|(at, u)| u.patterns.iter().map(move |p| (p, at))));
    // Problems of actions are the same on every port.
    let mut found = BTreeSet::new();
    // Objects whose rules for connections are of use, and those that name a service.
    let (mut used, mut named) = (HashSet::new(), HashSet::new());
    for service in 0..catalog.services.len() {
        let candidates = candidates(&usable, &index, &catalog.services[service]);
        if candidates.is_empty() {
            continue;
        }
        named.extend(candidates.iter().map(|u| u.object.place.label()));
        for port in 0..catalog.services[service].ports.len() {
            if catalog.services[service].ports[port].takes_http() {
                attach_port(service, port, &candidates, catalog, &mut found);
            }
            if catalog.services[service].ports[port].takes_streams() {
                let labels = attach_streams(service, port, &candidates, catalog, &mut found);
                used.extend(labels);
            }
        }
    }
    for usable in usable.iter().filter(|usable| !usable.streams.is_empty()) {
        let label = usable.object.place.label();
        if named.contains(label) && !used.contains(label) {
            let reason = "its tls and tcp rules are for no port of TCP or TLS of its hosts";
            found.insert(usable.object.place.warning("spec", reason));
        }
    }
    problems.extend(found);
}

/// What names a service, that which does so most closely first.
fn candidates<'a, 'b>(
    usable: &'b [Usable<'a>],
    index: &Index,
    listed: &Listed,
) -> Vec<&'b Usable<'a>> {
    let hosts = &listed.hosts[..listed.full_hosts];
    let found = index.candidates(hosts).into_iter().map(|at| &usable[at]);
    let mut candidates: Vec<_> = found
        .filter_map(|u| {
            let best = u.patterns.iter().flat_map(|p| hosts.iter().filter_map(|h| p.matches(h)));
            Some((best.max()?, u))
        })
        .collect();
    candidates.sort_by_key(|(specificity, _)| Reverse(*specificity));
    candidates.into_iter().map(|(_, u)| u).collect()
}

/// Attaches rules for connections; the labels of the objects that have any for the port. Unlike
/// with HTTP, those of all objects count, one after the other.
fn attach_streams<'a>(
    service: usize,
    port: usize,
    candidates: &[&Usable<'a>],
    catalog: &mut Catalog,
    problems: &mut BTreeSet<Problem>,
) -> Vec<&'a str> {
    let number = catalog.services[service].ports[port].number;
    let mut rules: Vec<StreamRule> = Vec::new();
    let mut labels = Vec::new();
    for usable in candidates {
        let before = rules.len();
        let (object, visible) = (usable.object, usable.visible.as_deref());
        let streams = usable.streams.iter();
        rules.extend(streams.filter_map(|s| s.rule(object, visible, number, catalog, problems)));
        labels.extend((rules.len() > before).then(|| object.place.label()));
    }
    let Some(first) = labels.first() else {
        return labels;
    };
    // Rules by name are before the others whosever they are.
    let by_name = |rule: &StreamRule| rule.matches.iter().any(|m| !m.sni.is_empty());
    rules.sort_by_key(|rule| !by_name(rule));
    let spoken = if by_name(&rules[0]) { Protocol::Tls } else { Protocol::Opaque };
    let port = &mut catalog.services[service].ports[port];
    port.routed_by = Some(((*first).to_owned(), spoken));
    port.stream_rules = rules;
    labels
}

fn attach_port(
    service: usize,
    port: usize,
    candidates: &[&Usable<'_>],
    catalog: &mut Catalog,
    problems: &mut BTreeSet<Problem>,
) {
    let listed = &catalog.services[service];
    let (number, cluster) = (listed.ports[port].number, listed.ports[port].cluster);
    let host = listed.host().to_owned();
    let mut layers = Vec::new();
    let mut sources = Vec::new();
    for &candidate in candidates {
        // None: none of its rules is for this port or anybody here; as if it were not there.
        if let Some(layer) = layer(candidate, number, catalog, problems) {
            layers.push(layer);
            sources.push(candidate);
        }
    }
    if layers.is_empty() {
        return;
    }
    let (rules, used) = compose(layers, cluster);
    for shadowed in &sources[used..] {
        let first = sources[used - 1].object.place.label();
        let reason = format!("not applied to {host}:{number}: {first} is older or closer");
        problems.insert(shadowed.object.place.warning("spec.hosts", reason));
    }
    let port = &mut catalog.services[service].ports[port];
    port.rules = Some(rules);
    port.routed_by = Some((sources[0].object.place.label().to_owned(), Protocol::Http));
}

fn layer(
    usable: &Usable<'_>,
    port: u16,
    catalog: &mut Catalog,
    problems: &mut BTreeSet<Problem>,
) -> Option<Layer> {
    let object = usable.object;
    let mut rules = Vec::new();
    let mut everybody = false;
    let mut scope = Vec::new();
    for rule in &usable.rules {
        let mut matches = match &rule.conditions {
            Some(conditions) => {
                let here = conditions.iter().filter(|c| c.port.is_none_or(|p| p == port));
                let matches: Vec<_> =
                    here.filter_map(|c| c.seen_by(usable.visible.as_deref())).collect();
                if matches.is_empty() {
                    continue;
                }
                matches
            }
            None => match Condition::default().seen_by(usable.visible.as_deref()) {
                Some(only) if only.sources.is_empty() => Vec::new(),
                only => only.into_iter().collect(),
            },
        };
        everybody |= matches.is_empty() || matches.iter().any(|m| m.sources.is_empty());
        scope.extend(matches.iter().flat_map(|m| m.sources.iter().cloned()));
        let name = rule.name(object);
        let path = format!("spec.http.{}", rule.index);
        let written = Written { object: rule.object, path, rule: rule.rule(), port };
        let carried = virtual_action::action(&written, rule.extras.as_deref(), catalog, problems);
        if replaces_prefix(&carried) {
            name_prefix(&mut matches);
        }
        let Carried { action, policy, detour } = carried;
        rules.push(Rule { name, matches, action, policy, detour });
    }
    let scope: Vec<SourceMatch> = if everybody { Vec::new() } else { widest(scope) };
    (!rules.is_empty()).then(|| Layer { name: object.place.label().to_owned(), scope, rules })
}

/// A rule that says nothing of the path has the prefix `/`, which is left out otherwise.
fn name_prefix(matches: &mut Vec<Match>) {
    if matches.is_empty() {
        matches.push(Match::default());
    }
    for m in matches.iter_mut().filter(|m| m.path.is_none()) {
        m.path = Some(PathMatch::Prefix("/".to_owned()));
    }
}
