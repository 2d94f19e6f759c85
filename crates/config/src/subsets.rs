//! DestinationRules → subsets in the catalog, and what is spoken to endpoints.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Catalog, Listed};
use crate::decode::Unread;
use crate::hostname::{Index, Pattern, Specificity, qualify};
use crate::istio::{self, ConnectionPool, TrafficPolicy};
use crate::objects::{Object, Objects};
use crate::problem::{Problem, Report};

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
/// stands, and the first traffic policy.
fn merge<'a>(
    service: usize,
    rules: impl Iterator<Item = &'a Object<istio::DestinationRule>>,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) {
    let rules: Vec<_> = rules.collect();
    let policy = rules.iter().find_map(|rule| rule.body.traffic_policy.as_deref());
    upgrade(service, None, &[policy], catalog);
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
            let own = subset.traffic_policy.as_deref();
            upgrade(service, Some(&subset.name), &[own, policy], catalog);
        }
    }
}

/// Has HTTP/2 spoken to endpoints where the first of the policies that says something of the
/// connections to a port says so.
fn upgrade(
    service: usize,
    subset: Option<&str>,
    policies: &[Option<&TrafficPolicy>],
    catalog: &mut Catalog,
) {
    if policies.iter().all(Option::is_none) {
        return;
    }
    let numbers: Vec<u16> = catalog.services[service].ports.iter().map(|p| p.number).collect();
    for number in numbers {
        let pool = policies.iter().flatten().find_map(|policy| {
            let mut of_ports = policy.port_level_settings.iter();
            match of_ports.find(|settings| settings.port.number == number) {
                // Settings of a port inherit nothing.
                Some(settings) => Some(settings.connection_pool.as_ref()),
                None => policy.connection_pool.as_ref().map(Some),
            }
        });
        let policy = pool.flatten().and_then(|pool| pool.http.h2_upgrade_policy.as_deref());
        if policy == Some("UPGRADE") {
            catalog.upgrade(service, number, subset);
        }
    }
}

fn report_policies(rule: &Object<istio::DestinationRule>, problems: &mut Vec<Problem>) {
    if let Some(policy) = &rule.body.traffic_policy {
        report_policy(policy, &mut Report::new(&rule.place, "spec.trafficPolicy", problems));
    }
    for (at, subset) in rule.body.subsets.iter().enumerate() {
        if let Some(policy) = &subset.traffic_policy {
            let path = format!("spec.subsets.{at}.trafficPolicy");
            report_policy(policy, &mut Report::new(&rule.place, path, problems));
        }
    }
}

fn report_policy(policy: &TrafficPolicy, report: &mut Report<'_>) {
    let fields = [
        ("loadBalancer", policy.load_balancer),
        ("outlierDetection", policy.outlier_detection),
        ("tls", policy.tls),
        ("tunnel", policy.tunnel),
        ("proxyProtocol", policy.proxy_protocol),
        ("retryBudget", policy.retry_budget),
    ];
    report_fields("trafficPolicy", &fields, report);
    if let Some(pool) = &policy.connection_pool {
        report_pool(pool, &mut report.below("connectionPool"));
    }
    for (at, settings) in policy.port_level_settings.iter().enumerate() {
        let mut report = report.below(&format!("portLevelSettings.{at}"));
        let fields = [
            ("loadBalancer", settings.load_balancer),
            ("outlierDetection", settings.outlier_detection),
            ("tls", settings.tls),
        ];
        report_fields("portLevelSettings", &fields, &mut report);
        if let Some(pool) = &settings.connection_pool {
            report_pool(pool, &mut report.below("connectionPool"));
        }
    }
}

fn report_pool(pool: &ConnectionPool, report: &mut Report<'_>) {
    report_fields("connectionPool", &[("tcp", pool.tcp)], report);
    let http = &pool.http;
    let fields = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("idleTimeout", http.idle_timeout),
        ("useClientProtocol", http.use_client_protocol),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    report_fields("connectionPool.http", &fields, &mut report.below("http"));
    if let Some(other) = http.h2_upgrade_policy.as_deref()
        && !matches!(other, "DEFAULT" | "UPGRADE" | "DO_NOT_UPGRADE")
    {
        let reason = format!("h2UpgradePolicy {other} is not known");
        report.error("http.h2UpgradePolicy", reason);
    }
}

fn report_fields(of: &str, fields: &[(&str, Option<Unread>)], report: &mut Report<'_>) {
    for (field, _) in fields.iter().filter(|(_, there)| there.is_some()) {
        let reason = format!("{of}.{field} is not supported yet; it is not carried out");
        report.warning(field, reason);
    }
}
