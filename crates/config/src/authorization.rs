//! AuthorizationPolicies → policies of the model (Istio's API reference,
//! `security.istio.io/v1 AuthorizationPolicy`).
//!
//! A rule that cannot be read closes by itself: in an ALLOW policy it matches nothing, in any other
//! everything. It keeps its place, so that rules are counted as they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, LabelSelector, Layer, Scope,
};
use serde::Deserialize;

use crate::authorization_rule;
use crate::document::{Node, Value};
use crate::policy_item::{Fault, Head, list, only_fields, selected, strict};
use crate::problem::Problem;

/// An AuthorizationPolicy, as far as its document tells: in the root namespace it is for the whole
/// mesh, and a provider that it names may not be there.
#[derive(Debug)]
pub(crate) struct Authorization {
    /// `None`: it is about gateways alone.
    pub policy: Option<Arc<AccessPolicy>>,
    /// If not, `policy` denies all that it may select.
    pub readable: bool,
    /// Services of its namespace may be among that: some stand before what is no workload.
    pub closes_services: bool,
}

/// Reads a policy.
pub(crate) fn read(head: &Head, problems: &mut Vec<Problem>) -> Authorization {
    let dry_run = dry_run(head, problems);
    let (scope, fault) = match scope(head, problems) {
        Ok(scope) => (scope, None),
        Err(fault) => (Some(head.whole()), Some(fault)),
    };
    let Some(scope) = scope else {
        return Authorization { policy: None, readable: true, closes_services: false };
    };
    let name = head.place.label().to_owned();
    let policy = |name, scope, effect, rules| {
        Arc::new(AccessPolicy {
            name,
            layer: Layer::Authorization,
            direction: Direction::Ingress,
            scope,
            effect,
            dry_run,
            rules,
        })
    };
    let body = head.fault.clone().or(fault).map_or_else(|| body(head), Err);
    let (effect, nodes) = match body {
        Ok(body) => body,
        Err(fault) => {
            problems.push(fault.error(&head.place, &closed(head, &scope, dry_run)));
            let (name, rules) = (format!("{name} (unreadable)"), vec![AccessRule::default()]);
            let has = |key: &str| head.part(&["spec", key]).is_some();
            let spec = head.part(&["spec"]).is_some_and(|spec| matches!(spec.value, Value::Map(_)));
            let targeted = !spec || has("targetRef") || has("targetRefs");
            let closes_services = targeted && matches!(scope, Scope::Workloads(..));
            let policy = Some(policy(name, scope, Effect::Deny, rules));
            return Authorization { policy, readable: false, closes_services };
        }
    };
    let rules = rules(head, &effect, nodes, problems);
    let policy = Some(policy(name, scope, effect, rules));
    Authorization { policy, readable: true, closes_services: false }
}

/// What follows when a policy cannot be read.
fn closed(head: &Head, scope: &Scope, dry_run: bool) -> String {
    let whom = match scope {
        Scope::Workloads(Some(namespace), labels) if namespace == crate::ROOT_NAMESPACE => {
            selected(&Scope::Workloads(None, labels.clone()))
        }
        _ => selected(scope),
    };
    if dry_run {
        return format!("{} cannot be read; as it is in dry run, nothing is closed", kind(head));
    }
    format!("{} cannot be read, therefore CLOSED: every call to {whom} is denied", kind(head))
}

fn kind(head: &Head) -> &str {
    let label = head.place.label();
    label.split(' ').next().unwrap_or(label)
}

/// Go's `strconv.ParseBool`, by which Istio reads the annotation.
fn dry_run(head: &Head, problems: &mut Vec<Problem>) -> bool {
    let Some(value) = head.annotations.get("istio.io/dry-run") else { return false };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            let reason = format!("istio.io/dry-run: `{value}` is no boolean; the policy acts");
            problems.push(head.place.warning("metadata.annotations", reason));
            false
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

/// What the policy selects; `None`: nothing inside the mesh.
fn scope(head: &Head, problems: &mut Vec<Problem>) -> Result<Option<Scope>, Fault> {
    let of = |key: &str| head.part(&["spec", key]);
    let given: Vec<&str> = ["selector", "targetRef", "targetRefs"]
        .into_iter()
        .filter(|key| of(key).is_some())
        .collect();
    if let [first, second, ..] = given[..] {
        let reason = format!("only one of {first} and {second}");
        return Err(Fault::at(format!("spec.{second}"), reason));
    }
    if let Some(node) = of("selector") {
        let selector: Selector = strict(node, "spec.selector")?;
        for (key, value) in &selector.match_labels {
            if key.is_empty() || key.contains('*') || value.contains('*') {
                let path = format!("spec.selector.matchLabels.{key}");
                return Err(Fault::at(path, "a selector has no wildcards and no empty keys"));
            }
        }
        let labels = LabelSelector::equal(&selector.match_labels);
        return Ok(Some(Scope::Workloads(head.namespace.clone(), labels)));
    }
    let targets: Vec<(String, &Node)> = match (of("targetRef"), list(head, "targetRefs")?) {
        (Some(node), _) => vec![("spec.targetRef".to_owned(), node)],
        (None, nodes) => {
            let nodes = nodes.unwrap_or_default().iter().enumerate();
            nodes.map(|(at, node)| (format!("spec.targetRefs.{at}"), node)).collect()
        }
    };
    // Whose services they are may not be known.
    if targets.is_empty() || head.namespace.is_none() {
        return Ok(Some(head.whole()));
    }
    let mut services = Vec::new();
    for (path, node) in targets {
        services.extend(target(head, node, &path, problems)?);
    }
    Ok(Some(Scope::Services(services)).filter(|scope| *scope != Scope::Services(Vec::new())))
}

/// The service that a reference names; `None`: it names a gateway.
fn target(
    head: &Head,
    node: &Node,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Result<Option<(String, String)>, Fault> {
    let target: Target = strict(node, path)?;
    let own = head.namespace.as_deref().unwrap_or_default();
    if !target.namespace.is_empty() && target.namespace != own {
        return Err(Fault::at(path, "a policy is for targets of its own namespace alone"));
    }
    match (&*target.group, &*target.kind) {
        ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") => {
            Ok(Some((own.to_owned(), target.name)))
        }
        ("gateway.networking.k8s.io", "Gateway" | "GatewayClass") => {
            let reason = format!(
                "{} {}: gateways are not the mesh's; the policy is not applied to it",
                target.kind, target.name
            );
            problems.push(head.place.notice(path, reason));
            Ok(None)
        }
        (group, kind) => Err(Fault::at(path, format!("a target is no {kind} of group `{group}`"))),
    }
}

#[derive(Deserialize)]
struct Provider {
    #[serde(default)]
    name: String,
}

/// What the policy does, and its rules.
fn body(head: &Head) -> Result<(Effect, &[Node]), Fault> {
    head.only(&["selector", "targetRef", "targetRefs", "action", "provider", "rules"])?;
    let action = match head.part(&["spec", "action"]) {
        Some(node) => strict::<String>(node, "spec.action")?,
        None => "ALLOW".to_owned(),
    };
    let provider = head.part(&["spec", "provider"]);
    let provider = provider.map(|node| strict::<Provider>(node, "spec.provider")).transpose()?;
    let effect = match (action.as_str(), provider) {
        ("CUSTOM", provider) => Effect::Custom(provider.map_or(String::new(), |p| p.name)),
        (_, Some(_)) => {
            return Err(Fault::at("spec.provider", "a provider needs the action CUSTOM"));
        }
        ("ALLOW", None) => Effect::Allow,
        ("DENY", None) => Effect::Deny,
        ("AUDIT", None) => Effect::Audit,
        (action, None) => {
            let reason = format!("action {action} is none of ALLOW, DENY, AUDIT and CUSTOM");
            return Err(Fault::at("spec.action", reason));
        }
    };
    Ok((effect, list(head, "rules")?.unwrap_or_default()))
}

fn rules(
    head: &Head,
    effect: &Effect,
    nodes: &[Node],
    problems: &mut Vec<Problem>,
) -> Vec<AccessRule> {
    let namespace = head.namespace.as_deref().unwrap_or_default();
    let read = |(at, node): (usize, &Node)| {
        let path = format!("spec.rules.{at}");
        let rule = only_fields(node, &path, &["from", "to", "when"])
            .and_then(|()| authorization_rule::read(node, &path, namespace));
        rule.unwrap_or_else(|fault| {
            let outcome = match effect {
                Effect::Allow => "the rule cannot be read, therefore CLOSED: it allows nothing",
                Effect::Deny => "the rule cannot be read, therefore CLOSED: it denies everything",
                Effect::Audit => "the rule cannot be read; it reports everything",
                Effect::Custom(_) => {
                    "the rule cannot be read, therefore CLOSED: its provider is asked about \
                     everything"
                }
            };
            problems.push(fault.error(&head.place, outcome));
            match effect {
                Effect::Allow => never(),
                _ => AccessRule::default(),
            }
        })
    };
    nodes.iter().enumerate().map(read).collect()
}

/// A rule that matches nothing: nobody has one of no identities.
pub(crate) fn never() -> AccessRule {
    let nobody = Clause { field: Field::Caller(Vec::new()), negated: false };
    AccessRule { conditions: vec![nobody], ..AccessRule::default() }
}
