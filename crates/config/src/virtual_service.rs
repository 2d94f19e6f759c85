//! VirtualServices → rules. First match wins, as Istio's sidecars have it.
//!
//! An object that Istio would refuse, or a condition that is not understood, leaves the whole
//! object out, with an error: a rule must not hold for more than was written.

use std::collections::BTreeSet;

use beeway_model::{Match, PathMatch, Protocol, Rule, SourceMatch};

use crate::catalog::Catalog;
use crate::hostname::{Index, Pattern, Specificity, qualify};
use crate::istio;
use crate::layer::{Layer, compose, widest};
use crate::objects::{Object, Objects};
use crate::problem::{Problem, Report};
use crate::route_action::replaces_prefix;
use crate::virtual_action::{self, Carried, Written};
use crate::virtual_match::{Condition, conditions};
use crate::virtual_policy::{Extras, extras, refused};

/// A VirtualService that can be used.
struct Usable<'a> {
    object: &'a Object<istio::VirtualService>,
    patterns: Vec<Pattern>,
    /// Namespaces that see it; `None`: all.
    visible: Option<Vec<String>>,
    rules: Vec<UsableRule>,
}

struct UsableRule {
    /// `None`: it has none, and always holds.
    conditions: Option<Vec<Condition>>,
    extras: Option<Box<Extras>>,
}

/// Attaches every VirtualService to the ports of the services that it names.
pub(crate) fn attach(objects: &Objects, catalog: &mut Catalog, problems: &mut Vec<Problem>) {
    let mut usable: Vec<Usable<'_>> =
        objects.virtual_services.iter().filter_map(|vs| check(vs, catalog, problems)).collect();
    // Oldest first; objects without a time are younger, and in order of name as in Istio.
    usable.sort_by_key(|u| {
        let object = u.object;
        (object.created.is_none(), object.created, object.name.clone(), object.namespace.clone())
    });
    let patterns = usable.iter().enumerate();
    let index = Index::of(patterns.flat_map(|(at, u)| u.patterns.iter().map(move |p| (p, at))));
    // Problems of actions are the same on every port.
    let mut found = BTreeSet::new();
    for service in 0..catalog.services.len() {
        for port in 0..catalog.services[service].ports.len() {
            if catalog.services[service].ports[port].takes_http() {
                let listed = &catalog.services[service];
                let candidates = index.candidates(&listed.hosts[..listed.full_hosts]);
                let candidates = candidates.into_iter().map(|at| &usable[at]);
                attach_port(service, port, candidates, catalog, &mut found);
            }
        }
    }
    problems.extend(found);
}

fn attach_port<'a>(
    service: usize,
    port: usize,
    usable: impl Iterator<Item = &'a Usable<'a>>,
    catalog: &mut Catalog,
    problems: &mut BTreeSet<Problem>,
) {
    let listed = &catalog.services[service];
    let hosts = &listed.hosts[..listed.full_hosts];
    let mut candidates: Vec<(Specificity, &Usable<'_>)> = usable
        .filter_map(|u| {
            let best = u.patterns.iter().flat_map(|p| hosts.iter().filter_map(|h| p.matches(h)));
            Some((best.max()?, u))
        })
        .collect();
    candidates.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
    let (number, cluster) = (listed.ports[port].number, listed.ports[port].cluster);
    let host = listed.host().to_owned();
    let mut layers = Vec::new();
    let mut sources = Vec::new();
    for (_, candidate) in candidates {
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
    for (index, (rule, read)) in object.body.http.iter().zip(&usable.rules).enumerate() {
        let mut matches = match &read.conditions {
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
        let name = format!("{} http[{index}]", object.place.label());
        let written = Written { object, path: format!("spec.http.{index}"), rule, port };
        let carried = virtual_action::action(&written, read.extras.as_deref(), catalog, problems);
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

/// What can be said of an object before any service is looked at.
fn check<'a>(
    object: &'a Object<istio::VirtualService>,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Option<Usable<'a>> {
    let (place, spec) = (&object.place, &object.body);
    if !spec.gateways.is_empty() && !spec.gateways.iter().any(|g| g == "mesh") {
        let reason = "it is for gateways only, not for the mesh; it is not applied";
        problems.push(place.notice("spec.gateways", reason));
        return None;
    }
    for (path, there) in [("tls", spec.tls.is_some()), ("tcp", spec.tcp.is_some())] {
        if there {
            let reason = format!("{path} routes are not supported yet; they are not applied");
            problems.push(place.warning(&format!("spec.{path}"), reason));
        }
    }
    if spec.http.is_empty() {
        return None;
    }
    let mut report = Report::new(place, "", problems);
    let mut rules = Vec::with_capacity(spec.http.len());
    for (index, rule) in spec.http.iter().enumerate() {
        rules.push(check_rule(object, rule, report.below(&format!("spec.http.{index}"))));
    }
    if report.failed() {
        report.error("", "it is not applied as a whole, because of the errors in it");
        return None;
    }
    let patterns = patterns(object, catalog, problems);
    let visible = visible(object);
    if visible.as_ref().is_some_and(Vec::is_empty) {
        problems.push(place.notice("spec.exportTo", "no namespace sees it; it is not applied"));
        return None;
    }
    Some(Usable { object, patterns, visible, rules })
}

fn check_rule(
    object: &Object<istio::VirtualService>,
    rule: &istio::HttpRule,
    mut report: Report<'_>,
) -> UsableRule {
    let conditions = conditions(&rule.matches, &mut report);
    if rule.delegate.is_some() {
        report.error("delegate", "delegate is not supported yet");
    } else if let Some((part, reason)) = refused(rule) {
        report.error(part, reason);
    }
    let extras = extras(rule, &object.namespace, report);
    UsableRule { conditions, extras }
}

/// The namespaces of `exportTo`; `None`: all.
fn visible(object: &Object<istio::VirtualService>) -> Option<Vec<String>> {
    let export_to = &object.body.export_to;
    if export_to.is_empty() || export_to.iter().any(|to| to == "*") {
        return None;
    }
    let named = export_to.iter().filter(|to| *to != "~");
    let named = named.map(|to| if to == "." { object.namespace.clone() } else { to.clone() });
    Some(named.collect::<BTreeSet<_>>().into_iter().collect())
}

fn patterns(
    object: &Object<istio::VirtualService>,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (index, host) in object.body.hosts.iter().enumerate() {
        let qualified = qualify(host, &object.namespace);
        let pattern = Pattern::new(&qualified);
        let mut hosts = catalog.services.iter().flat_map(|s| &s.hosts[..s.full_hosts]);
        if catalog.by_host(&qualified).is_none()
            && !hosts.any(|known| pattern.matches(known).is_some())
        {
            let mut reason = format!("host {host} is no service of this mesh");
            if let Some(meant) = catalog.meant_by(&qualified) {
                reason = format!("{reason}; the full name is {meant}");
            }
            problems.push(object.place.warning(&format!("spec.hosts.{index}"), reason));
        }
        patterns.push(pattern);
    }
    patterns
}
