//! DestinationRules → subsets in the catalog.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Catalog, Listed};
use crate::decode::Unread;
use crate::hostname::{Index, Pattern, Specificity, qualify};
use crate::istio;
use crate::objects::{Object, Objects};
use crate::problem::Problem;

/// Adds the subsets of every DestinationRule to the services that it names.
pub(crate) fn apply(objects: &Objects, catalog: &mut Catalog, problems: &mut Vec<Problem>) {
    let rules = usable(objects, problems);
    let index = Index::of(rules.iter().enumerate().map(|(at, (pattern, _))| (pattern, at)));
    let mut used = BTreeSet::new();
    for service in 0..catalog.services.len() {
        let listed = &catalog.services[service];
        let candidates = index.candidates(&listed.hosts[..listed.full_hosts]).into_iter();
        let mut found: Vec<Candidate<'_>> =
            candidates.filter_map(|at| candidate(&rules[at].0, rules[at].1, listed)).collect();
        used.extend(found.iter().map(|c| c.rule.place.label().to_owned()));
        // Stable: after these two, by namespace and name.
        found.sort_by_key(|c| (c.foreign, Reverse(c.specificity)));
        let Some(first) = found.first().copied() else {
            continue;
        };
        if first.foreign {
            let reason = format!(
                "it is not in the namespace of {}; it holds for clients of every namespace",
                listed.host()
            );
            problems.push(first.rule.place.notice("spec.host", reason));
        }
        let (standing, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|c| {
            c.specificity == first.specificity && c.rule.namespace == first.rule.namespace
        });
        for other in rest {
            let reason = format!("{} stands for {}", first.rule.place.label(), listed.host());
            problems.push(other.rule.place.warning("spec.host", reason));
        }
        merge(service, standing.into_iter().map(|c| c.rule), catalog, problems);
    }
    for (_, rule) in rules.iter().filter(|(_, rule)| !used.contains(rule.place.label())) {
        let reason = format!("host {} is no service of this mesh", rule.body.host);
        problems.push(rule.place.warning("spec.host", reason));
    }
}

/// A rule that names a service.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    /// It is of another namespace than the service.
    foreign: bool,
    specificity: Specificity,
    rule: &'a Object<istio::DestinationRule>,
}

fn candidate<'a>(
    pattern: &Pattern,
    rule: &'a Object<istio::DestinationRule>,
    listed: &Listed,
) -> Option<Candidate<'a>> {
    let hosts = &listed.hosts[..listed.full_hosts];
    let specificity = hosts.iter().filter_map(|host| pattern.matches(host)).max()?;
    Some(Candidate { foreign: rule.namespace != listed.namespace, specificity, rule })
}

fn usable<'a>(
    objects: &'a Objects,
    problems: &mut Vec<Problem>,
) -> Vec<(Pattern, &'a Object<istio::DestinationRule>)> {
    let mut rules = Vec::new();
    for rule in &objects.destination_rules {
        report_policies(rule, problems);
        if rule.body.workload_selector.is_some() {
            let reason = "workloadSelector is not supported yet; the rule is not applied";
            problems.push(rule.place.error("spec.workloadSelector", reason));
            continue;
        }
        if rule.body.export_to.iter().any(|to| to != "*") {
            let reason = "exportTo of a DestinationRule is not supported yet; it holds for all";
            problems.push(rule.place.warning("spec.exportTo", reason));
        }
        rules.push((Pattern::new(&qualify(&rule.body.host, &rule.namespace)), rule));
    }
    rules
}

/// Several rules for one host in one namespace are one, as in Istio; a subset's first definition
/// stands.
fn merge<'a>(
    service: usize,
    rules: impl Iterator<Item = &'a Object<istio::DestinationRule>>,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeMap::new();
    for rule in rules {
        for (at, subset) in rule.body.subsets.iter().enumerate() {
            if let Some(first) = seen.get(subset.name.as_str()) {
                let reason = format!("subset {} is defined by {first} already", subset.name);
                problems.push(rule.place.error(&format!("spec.subsets.{at}"), reason));
                continue;
            }
            seen.insert(subset.name.as_str(), rule.place.label());
            catalog.add_subset(service, &subset.name, &subset.labels);
        }
    }
}

fn report_policies(rule: &Object<istio::DestinationRule>, problems: &mut Vec<Problem>) {
    let mut report = |path: String, policy: &BTreeMap<String, Unread>| {
        for key in policy.keys() {
            let reason = format!("trafficPolicy.{key} is not supported yet; it is not carried out");
            problems.push(rule.place.warning(&format!("{path}.{key}"), reason));
        }
    };
    report("spec.trafficPolicy".to_owned(), &rule.body.traffic_policy);
    for (at, subset) in rule.body.subsets.iter().enumerate() {
        report(format!("spec.subsets.{at}.trafficPolicy"), &subset.traffic_policy);
    }
}
