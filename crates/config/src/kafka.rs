//! `KafkaPolicy` of `beeway.io/v1alpha1`, a kind of our own → the model's policies.
//!
//! It is an allow-list, so what cannot be understood is left out of it, and closes: a rule alone
//! where only that is wrong, else the whole policy, which then still selects what it selects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use beeway_model::kafka::{KAFKA_CONSUME, KAFKA_PRODUCE, kafka_api, kafka_names_topics};
use beeway_model::{
    KafkaAllow, KafkaCaller, KafkaName, KafkaPolicy, KafkaRule, Mesh, Protocol, SourceMatch,
};
use serde::Deserialize;

use crate::document::{Node, Value};
use crate::istio::nullable;
use crate::objects::{Object, Objects, Place};
use crate::problem::Problem;

/// The group of our own kinds.
pub(crate) const GROUP: &str = "beeway.io";

/// Longest name of a topic in bytes (Kafka's `Topic.MAX_NAME_LENGTH`).
const TOPIC_BYTES: usize = 249;

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Spec {
    #[serde(default, deserialize_with = "nullable")]
    pub selector: Selector,
    #[serde(default, deserialize_with = "nullable")]
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Rule {
    #[serde(default, deserialize_with = "nullable")]
    pub from: Vec<Caller>,
    #[serde(default, deserialize_with = "nullable")]
    pub allow: Vec<Allow>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Caller {
    pub namespace: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    pub service_account: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Allow {
    pub role: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub api_keys: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub topics: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub client_ids: Vec<String>,
}

/// Whether an object is one of these policies, in whatever version.
pub(crate) fn is_policy(group: &str, kind: &str) -> bool {
    group == GROUP && kind == "KafkaPolicy"
}

/// What stands for a policy that cannot be read: it selects what it selects, as far as that can be
/// told, and allows nothing.
pub(crate) fn closed(node: &Node) -> Spec {
    let path = ["spec", "selector", "matchLabels"];
    let labels = path.iter().try_fold(node, |node, key| node.get(key)).map(|node| &node.value);
    let mut match_labels = BTreeMap::new();
    if let Some(Value::Map(entries)) = labels {
        for entry in entries {
            if let Value::Text(value) = &entry.node.value {
                match_labels.insert(entry.key.clone(), value.clone());
            }
        }
    }
    Spec { selector: Selector { match_labels }, rules: Vec::new() }
}

/// What is said of such a policy.
pub(crate) fn closed_problem(place: &Place, spec: &Spec) -> Problem {
    let what = match spec.selector.match_labels.is_empty() {
        true => "every workload of its namespace is closed",
        false => "what it selects is closed",
    };
    place.error("", format!("{what} to all Kafka requests"))
}

/// The policies of all objects.
pub(crate) fn policies(
    objects: &Objects,
    mesh: &Mesh,
    problems: &mut Vec<Problem>,
) -> Vec<KafkaPolicy> {
    let ports = if objects.kafka_policies.is_empty() { Ports::default() } else { Ports::of(mesh) };
    let mut policies = Vec::new();
    for object in &objects.kafka_policies {
        let policy = policy(object, problems);
        ports.report(object, &policy, mesh, problems);
        policies.push(policy);
    }
    policies
}

fn policy(object: &Object<Spec>, problems: &mut Vec<Problem>) -> KafkaPolicy {
    let mut rules = Vec::new();
    for (at, written) in object.body.rules.iter().enumerate() {
        let mut reader = Reader { object, problems: Vec::new() };
        let rule = reader.rule(&format!("spec.rules.{at}"), written);
        if reader.problems.is_empty() {
            rules.push(rule);
        }
        problems.append(&mut reader.problems);
    }
    KafkaPolicy {
        name: object.place.label().to_owned(),
        namespace: object.namespace.clone(),
        selector: object.body.selector.match_labels.clone(),
        rules,
    }
}

struct Reader<'a> {
    object: &'a Object<Spec>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn error(&mut self, path: &str, reason: String) {
        let reason = format!("{reason}; the rule allows nothing");
        self.problems.push(self.object.place.error(path, reason));
    }

    fn rule(&mut self, path: &str, written: &Rule) -> KafkaRule {
        if written.allow.is_empty() {
            self.error(path, "a rule without `allow`".to_owned());
        }
        let from = written.from.iter().map(|from| self.caller(from)).collect();
        let allow = written.allow.iter().enumerate();
        let allow = allow.map(|(at, allow)| self.allow(&format!("{path}.allow.{at}"), allow));
        KafkaRule { from, allow: allow.collect() }
    }

    fn caller(&self, written: &Caller) -> KafkaCaller {
        let namespace = match written.namespace.as_deref() {
            None | Some("") => Some(self.object.namespace.clone()),
            Some("*") => None,
            Some(namespace) => Some(namespace.to_owned()),
        };
        KafkaCaller {
            source: SourceMatch { namespace, labels: written.labels.clone() },
            service_account: written.service_account.clone().filter(|name| !name.is_empty()),
        }
    }

    fn allow(&mut self, path: &str, written: &Allow) -> KafkaAllow {
        let mut apis: BTreeSet<i16> = match written.role.as_deref() {
            None => BTreeSet::new(),
            Some("produce") => KAFKA_PRODUCE.into(),
            Some("consume") => KAFKA_CONSUME.into(),
            Some(role) => {
                let reason = format!("role `{role}` is none of produce and consume");
                self.error(&format!("{path}.role"), reason);
                BTreeSet::new()
            }
        };
        for (at, name) in written.api_keys.iter().enumerate() {
            match kafka_api(name) {
                Some(api) => drop(apis.insert(api)),
                None => {
                    let reason = format!("`{name}` is no API key of Kafka that clients use");
                    self.error(&format!("{path}.apiKeys.{at}"), reason);
                }
            }
        }
        let topics = self.names(&format!("{path}.topics"), &written.topics, is_topic);
        let ids = &written.client_ids;
        let client_ids = self.names(&format!("{path}.clientIds"), ids, |id| !id.is_empty());
        let idle = !apis.is_empty() && !apis.iter().any(|api| kafka_names_topics(*api));
        if idle && !topics.is_empty() {
            let reason = "none of these APIs names topics".to_owned();
            self.error(&format!("{path}.topics"), reason);
        }
        KafkaAllow { apis, topics, client_ids }
    }

    /// Names, or with `*` at the end what names begin with.
    fn names(&mut self, path: &str, written: &[String], is: fn(&str) -> bool) -> Vec<KafkaName> {
        let mut names = Vec::new();
        for (at, text) in written.iter().enumerate() {
            let name = match text.strip_suffix('*') {
                Some(prefix) if prefix.is_empty() || is(prefix) => {
                    KafkaName::Prefix(prefix.to_owned())
                }
                None if is(text) => KafkaName::Exact(text.clone()),
                _ => {
                    let reason = format!("`{text}` is no name, nor the beginning of one with `*`");
                    self.error(&format!("{path}.{at}"), reason);
                    continue;
                }
            };
            names.push(name);
        }
        names
    }
}

/// Kafka's `Topic.validate`.
fn is_topic(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TOPIC_BYTES).contains(&name.len()) && name.bytes().all(legal)
}

/// The TCP ports that lead to an address: their names, and whether what they lead to is said to speak
/// Kafka.
#[derive(Debug, Default)]
struct Ports {
    by_address: HashMap<IpAddr, BTreeMap<String, bool>>,
}

impl Ports {
    fn of(mesh: &Mesh) -> Ports {
        let ports = || mesh.services.iter().flat_map(|s| s.ports.iter().map(move |port| (s, port)));
        let speaking = ports().filter(|(_, port)| port.protocol == Protocol::Kafka);
        let speaking: HashSet<_> =
            speaking.flat_map(|(_, port)| mesh.tcp_endpoints(port)).collect();
        let mut by_address: HashMap<IpAddr, BTreeMap<String, bool>> = HashMap::new();
        for (service, port) in ports() {
            let name = format!("port {} of {}/{}", port.number, service.namespace, service.name);
            for endpoint in mesh.tcp_endpoints(port) {
                let kafka = speaking.contains(&endpoint);
                by_address.entry(endpoint.ip()).or_default().insert(name.clone(), kafka);
            }
        }
        Ports { by_address }
    }

    /// Tells what a policy does not concern.
    fn report(
        &self,
        object: &Object<Spec>,
        policy: &KafkaPolicy,
        mesh: &Mesh,
        problems: &mut Vec<Problem>,
    ) {
        let place = &object.place;
        let brokers = mesh.workloads.iter().filter(|workload| policy.selects(workload));
        let mut addresses = brokers.flat_map(|workload| &workload.addresses).peekable();
        if addresses.peek().is_none() {
            problems.push(place.notice("spec.selector", "it selects no workload"));
            return;
        }
        let ports: BTreeMap<&String, bool> = addresses
            .filter_map(|address| self.by_address.get(address))
            .flat_map(|ports| ports.iter().map(|(name, kafka)| (name, *kafka)))
            .collect();
        if !ports.values().any(|kafka| *kafka) {
            let reason = "no service leads to what it selects by a port that is said to speak \
                          Kafka (appProtocol kafka): nothing is judged";
            problems.push(place.error("spec.selector", reason));
            return;
        }
        for (name, _) in ports.iter().filter(|(_, kafka)| !**kafka) {
            let reason = format!("{name} is not said to speak Kafka: nothing is judged there");
            problems.push(place.notice("spec.selector", reason));
        }
    }
}
