//! Policies of all documents → the mesh's, with what depends on the rest of the configuration.

use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::access::{
    AccessPolicy, AccessRule, Direction, Effect, Field, IdentityMatch, Node, Provider, Scope,
    TRUST_DOMAIN, Text,
};

use crate::Options;
use crate::catalog::Catalog;
use crate::instance::Instances;
use crate::item::Place;
use crate::named_port::Pods;
use crate::namespaces::Namespaces;
use crate::objects::Objects;
use crate::problem::Problem;

/// A policy, and where it is from.
#[derive(Debug)]
pub(crate) struct Listed {
    pub policy: Arc<AccessPolicy>,
    pub place: Place,
    /// Where its rules are in the document.
    pub rules: &'static str,
    /// Its rules are those that are written.
    pub readable: bool,
}

/// Every policy, in order of namespace and name.
pub(crate) fn policies(
    objects: &Objects,
    instances: &Instances,
    catalog: &Catalog,
    providers: &[Provider],
    problems: &mut Vec<Problem>,
) -> Vec<Listed> {
    let root = objects.mesh_configs.first().and_then(|c| c.body.root_namespace.as_deref());
    let root = root.unwrap_or(crate::ROOT_NAMESPACE);
    let domains = objects.mesh_configs.first().map(|c| &c.body.trust_domains[..]);
    let mut listed: Vec<((&str, &str), Listed)> = Vec::new();
    for object in &objects.authorizations {
        let Some(mut policy) = object.body.policy.clone() else { continue };
        if let Scope::Workloads(Some(namespace), labels) = &policy.scope
            && namespace == root
        {
            let scope = Scope::Workloads(None, labels.clone());
            Arc::make_mut(&mut policy).scope = scope;
        }
        for domain in domains.unwrap_or_default() {
            let rules = &mut Arc::make_mut(&mut policy).rules;
            rules.iter_mut().for_each(|rule| rename_domain(rule, domain));
        }
        if let Effect::Custom(provider) = &policy.effect
            && !providers.iter().any(|known| known.name == *provider)
        {
            let reason = format!(
                "there is no provider `{provider}` that can be asked, therefore CLOSED: what a \
                 rule matches is denied"
            );
            problems.push(object.place.error("spec.provider", reason));
            Arc::make_mut(&mut policy).effect = Effect::Deny;
        }
        let (place, readable) = (object.place.clone(), object.body.readable);
        let key = (object.namespace.as_str(), object.name.as_str());
        let rules = "spec.rules";
        if object.body.closes_services
            && let Scope::Workloads(namespace, _) = &policy.scope
        {
            let of = catalog.services.iter();
            let of = of.filter(|s| namespace.as_ref().is_none_or(|name| *name == s.namespace));
            let of = of.map(|service| (service.namespace.clone(), service.name.clone()));
            let scope = Scope::Services(of.collect());
            let policy = Arc::new(AccessPolicy { scope, ..(*policy).clone() });
            listed.push((key, Listed { policy, place: place.clone(), rules, readable }));
        }
        listed.push((key, Listed { policy, place, rules, readable }));
    }
    if !objects.network_policies.is_empty() {
        let mut namespaces = Namespaces::of(objects, instances);
        let mut pods = Pods::of(instances);
        for object in &objects.network_policies {
            let key = (object.namespace.as_str(), object.name.as_str());
            for policy in object.body.policies(&mut namespaces, &mut pods) {
                let rules = match policy.direction {
                    Direction::Ingress => "spec.ingress",
                    Direction::Egress => "spec.egress",
                };
                let (place, readable) = (object.place.clone(), object.body.readable);
                let policy = Arc::new(policy);
                listed.push((key, Listed { policy, place, rules, readable }));
            }
        }
    }
    // Stable: an AuthorizationPolicy comes before a NetworkPolicy of the same name.
    listed.sort_by_key(|(key, _)| *key);
    listed.into_iter().map(|(_, listed)| listed).collect()
}

/// Has a rule name the mesh's trust domain as the model does, where it says `domain`.
fn rename_domain(rule: &mut AccessRule, domain: &str) {
    let lists = rule.sources.iter_mut().chain(&mut rule.operations);
    for clause in lists.flatten().chain(&mut rule.conditions) {
        let Field::Caller(wanted) = &mut clause.field else { continue };
        for wanted in wanted {
            let (text, renamed) = match wanted {
                IdentityMatch::Principal(text) => {
                    let renamed = principal_of(text, domain);
                    (text, renamed)
                }
                IdentityMatch::TrustDomain(text) => {
                    let is_it = text.holds(domain.as_bytes());
                    (text, is_it.then(|| Text::Exact(TRUST_DOMAIN.to_owned())))
                }
                _ => continue,
            };
            if let Some(renamed) = renamed {
                *text = renamed;
            }
        }
    }
}

/// What a text on principals is about in the model, where it holds for some of `domain`; nobody is of
/// another domain there.
fn principal_of(text: &Text, domain: &str) -> Option<Text> {
    let below = |rest: &str| format!("{TRUST_DOMAIN}/{rest}");
    match text {
        Text::Exact(text) => {
            let rest = text.strip_prefix(domain)?.strip_prefix('/')?;
            Some(Text::Exact(below(rest)))
        }
        Text::Prefix(text) if domain.starts_with(text.as_str()) => Some(Text::Prefix(below(""))),
        Text::Prefix(text) => {
            let rest = text.strip_prefix(domain)?.strip_prefix('/')?;
            Some(Text::Prefix(below(rest)))
        }
        // the end of the domain, and all that follows
        Text::Suffix(text) => {
            let (end, rest) = text.split_once("/ns/")?;
            let whole = !end.is_empty() && rest.contains("/sa/");
            (whole && domain.ends_with(end)).then(|| Text::Exact(below(&format!("ns/{rest}"))))
        }
        Text::Present => None,
    }
}

/// The nodes of the cluster, in order of name.
pub(crate) fn nodes(
    objects: &Objects,
    instances: &Instances,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Vec<Node> {
    let mut nodes = Vec::new();
    for object in &objects.nodes {
        let status = object.body.status.as_ref();
        let listed = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for (at, listed) in listed.iter().enumerate() {
            if !matches!(&*listed.type_, "InternalIP" | "ExternalIP") {
                continue;
            }
            match listed.address.parse::<IpAddr>() {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let path = format!("status.addresses.{at}");
                    let reason = format!("`{}` is not an IP address; ignored", listed.address);
                    problems.push(object.place.error(&path, reason));
                }
            }
        }
        let local = options.node.as_ref() == Some(&object.name);
        nodes.push(Node { name: object.name.clone(), addresses, local });
    }
    // who is on another node is known without the objects too, where anybody is on this one: the
    // name may be one that the configuration does not know
    if let Some(name) = &options.node
        && nodes.iter().all(|node| !node.local)
        && instances.list.iter().any(|instance| instance.node.as_ref() == Some(name))
    {
        nodes.push(Node { name: name.clone(), addresses: Vec::new(), local: true });
    }
    nodes
}
