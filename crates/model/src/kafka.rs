//! Who may ask what of Kafka brokers, and about which topics.
//!
//! Policies are allow-lists, and what they mean is what Cilium documents of its own: a broker that
//! any policy selects is closed to whatever no rule allows; rules of several policies add up; where a
//! rule names topics, it allows a request only if all topics of the request are among them, and says
//! nothing about topics where a request has none. Who calls is told by his address; the client id is
//! what he says of himself, and proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::mesh::{Mesh, Protocol, ServicePort, Transport, Workload};
use crate::route::SourceMatch;

/// What may be asked of some brokers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KafkaPolicy {
    /// For people: `KafkaPolicy shop/orders`.
    pub name: String,
    /// The namespace of the brokers.
    pub namespace: String,
    /// Labels of the brokers; empty: every workload of the namespace.
    pub selector: BTreeMap<String, String>,
    /// What is allowed; empty: nothing, to nobody.
    pub rules: Vec<KafkaRule>,
}

/// What some callers may do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KafkaRule {
    /// Callers; empty: anybody, known or not.
    pub from: Vec<KafkaCaller>,
    /// Alternatives: one must hold. Empty: nothing is allowed.
    pub allow: Vec<KafkaAllow>,
}

/// A condition on who calls. An unknown caller never satisfies it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KafkaCaller {
    /// Namespace and labels.
    pub source: SourceMatch,
    /// Service account; `None`: any.
    pub service_account: Option<String>,
}

/// One kind of request. Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KafkaAllow {
    /// API keys; empty: every API.
    pub apis: BTreeSet<i16>,
    /// Topics; empty: every topic.
    pub topics: Vec<KafkaName>,
    /// Client ids; empty: every one, and none.
    pub client_ids: Vec<KafkaName>,
}

/// What a name must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum KafkaName {
    /// This, by the byte.
    Exact(String),
    /// What begins so.
    Prefix(String),
}

/// What a caller may do with one API of a broker: the alternatives that are left when caller, API and
/// client id are known.
#[derive(Debug, Clone)]
pub struct KafkaGrant<'a> {
    allows: Vec<&'a KafkaAllow>,
}

impl Mesh {
    /// The policies that select a workload.
    pub fn kafka_policies_of<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a KafkaPolicy> {
        self.kafka.iter().filter(|policy| policy.selects(workload))
    }

    /// Where brokers that a policy selects speak Kafka: endpoints of ports that say so. Whichever way
    /// a connection comes there, policies hold.
    pub fn kafka_brokers(&self) -> BTreeSet<SocketAddr> {
        let selected = |w: &&Arc<Workload>| self.kafka.iter().any(|policy| policy.selects(w));
        let selected = self.workloads.iter().filter(selected).flat_map(|w| &w.addresses);
        let selected: BTreeSet<IpAddr> = selected.map(IpAddr::to_canonical).collect();
        if selected.is_empty() {
            return BTreeSet::new();
        }
        let ports = self.services.iter().flat_map(|service| &service.ports);
        ports
            .filter(|port| port.protocol == Protocol::Kafka)
            .flat_map(|port| {
                let idle = self.cluster(port.cluster).idle.iter().map(|e| canonical(e.address));
                self.tcp_endpoints(port).chain(idle)
            })
            .filter(|endpoint| selected.contains(&endpoint.ip()))
            .collect()
    }

    /// All endpoints that connections to a TCP port may be led to, in canonical form.
    pub fn tcp_endpoints<'a>(
        &'a self,
        port: &'a ServicePort,
    ) -> impl Iterator<Item = SocketAddr> + 'a {
        let backends = port.stream_rules.iter().flat_map(|rule| &rule.backends);
        let clusters = std::iter::once(port.cluster).chain(backends.filter_map(|b| b.cluster));
        let endpoints =
            clusters.filter(|_| port.transport == Transport::Tcp).flat_map(|id| self.endpoints(id));
        endpoints.map(|e| canonical(e.address))
    }
}

impl KafkaPolicy {
    /// Whether a workload is one of the brokers.
    pub fn selects(&self, workload: &Workload) -> bool {
        self.namespace == workload.namespace
            && self.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }
}

/// What a caller, if he is known, may do with an API under the policies of a broker.
pub fn kafka_grant<'a>(
    policies: impl IntoIterator<Item = &'a KafkaPolicy>,
    caller: Option<&Workload>,
    api: i16,
    client_id: Option<&str>,
) -> KafkaGrant<'a> {
    let rules = policies.into_iter().flat_map(|policy| &policy.rules);
    let his = rules.filter(|rule| {
        let holds = |wanted: &KafkaCaller| caller.is_some_and(|caller| wanted.holds(caller));
        rule.from.is_empty() || rule.from.iter().any(holds)
    });
    let allows = his.flat_map(|rule| &rule.allow).filter(|allow| {
        let client = |wanted: &KafkaName| client_id.is_some_and(|id| wanted.holds(id));
        (allow.apis.is_empty() || allow.apis.contains(&api))
            && (allow.client_ids.is_empty() || allow.client_ids.iter().any(client))
    });
    KafkaGrant { allows: allows.collect() }
}

impl KafkaGrant<'_> {
    /// Whether requests that name no topic are allowed.
    pub fn allows(&self) -> bool {
        !self.allows.is_empty()
    }

    /// Whether requests are allowed whatever their topics are.
    pub fn allows_any_topic(&self) -> bool {
        self.allows.iter().any(|allow| allow.topics.is_empty())
    }

    /// Whether a request may name a topic. `None`: one whose name is not known.
    pub fn allows_topic(&self, topic: Option<&str>) -> bool {
        let named = |allow: &KafkaAllow| {
            topic.is_some_and(|topic| allow.topics.iter().any(|wanted| wanted.holds(topic)))
        };
        self.allows.iter().any(|allow| allow.topics.is_empty() || named(allow))
    }
}

impl KafkaCaller {
    fn holds(&self, caller: &Workload) -> bool {
        let account = |wanted: &String| *wanted == caller.service_account;
        self.source.holds(&caller.namespace, &caller.labels)
            && self.service_account.as_ref().is_none_or(account)
    }
}

impl KafkaName {
    fn holds(&self, name: &str) -> bool {
        match self {
            KafkaName::Exact(wanted) => name == wanted,
            KafkaName::Prefix(wanted) => name.starts_with(wanted),
        }
    }
}

/// What a role asks for, by number, as Cilium documents: publishing.
pub const KAFKA_PRODUCE: [i16; 3] = [0, 3, 18];

/// Reading, with and without a consumer group.
pub const KAFKA_CONSUME: [i16; 11] = [1, 2, 8, 9, 10, 11, 12, 13, 14, 3, 18];

/// Number and name of the APIs of Kafka 4.1 that clients use (its protocol guide, "API keys"), in
/// order of number. APIs between brokers and controllers are not among them.
pub const KAFKA_APIS: [(i16, &str); 64] = [
    (0, "Produce"),
    (1, "Fetch"),
    (2, "ListOffsets"),
    (3, "Metadata"),
    (8, "OffsetCommit"),
    (9, "OffsetFetch"),
    (10, "FindCoordinator"),
    (11, "JoinGroup"),
    (12, "Heartbeat"),
    (13, "LeaveGroup"),
    (14, "SyncGroup"),
    (15, "DescribeGroups"),
    (16, "ListGroups"),
    (17, "SaslHandshake"),
    (18, "ApiVersions"),
    (19, "CreateTopics"),
    (20, "DeleteTopics"),
    (21, "DeleteRecords"),
    (22, "InitProducerId"),
    (23, "OffsetForLeaderEpoch"),
    (24, "AddPartitionsToTxn"),
    (25, "AddOffsetsToTxn"),
    (26, "EndTxn"),
    (28, "TxnOffsetCommit"),
    (29, "DescribeAcls"),
    (30, "CreateAcls"),
    (31, "DeleteAcls"),
    (32, "DescribeConfigs"),
    (33, "AlterConfigs"),
    (34, "AlterReplicaLogDirs"),
    (35, "DescribeLogDirs"),
    (36, "SaslAuthenticate"),
    (37, "CreatePartitions"),
    (38, "CreateDelegationToken"),
    (39, "RenewDelegationToken"),
    (40, "ExpireDelegationToken"),
    (41, "DescribeDelegationToken"),
    (42, "DeleteGroups"),
    (43, "ElectLeaders"),
    (44, "IncrementalAlterConfigs"),
    (45, "AlterPartitionReassignments"),
    (46, "ListPartitionReassignments"),
    (47, "OffsetDelete"),
    (48, "DescribeClientQuotas"),
    (49, "AlterClientQuotas"),
    (50, "DescribeUserScramCredentials"),
    (51, "AlterUserScramCredentials"),
    (55, "DescribeQuorum"),
    (57, "UpdateFeatures"),
    (60, "DescribeCluster"),
    (61, "DescribeProducers"),
    (64, "UnregisterBroker"),
    (65, "DescribeTransactions"),
    (66, "ListTransactions"),
    (68, "ConsumerGroupHeartbeat"),
    (69, "ConsumerGroupDescribe"),
    (71, "GetTelemetrySubscriptions"),
    (72, "PushTelemetry"),
    (74, "ListConfigResources"),
    (75, "DescribeTopicPartitions"),
    (76, "ShareGroupHeartbeat"),
    (77, "ShareGroupDescribe"),
    (78, "ShareFetch"),
    (79, "ShareAcknowledge"),
];

/// Whether requests of an API name topics, or may. Those that the list knows nothing of may.
pub fn kafka_names_topics(api: i16) -> bool {
    !matches!(api, 10..=18 | 22 | 25 | 26 | 36 | 42 | 60 | 71 | 72)
}

/// The number of an API by its name, whatever its case.
pub fn kafka_api(name: &str) -> Option<i16> {
    let found = KAFKA_APIS.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
    found.map(|(number, _)| *number)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(namespace: &str, app: &str, account: &str) -> Workload {
        Workload {
            namespace: namespace.to_owned(),
            name: app.to_owned(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            addresses: Vec::new(),
            service_account: account.to_owned(),
            node: None,
            uid: None,
            cgroup: None,
        }
    }

    fn policy(rules: Vec<KafkaRule>) -> KafkaPolicy {
        KafkaPolicy {
            name: "p".to_owned(),
            namespace: "shop".to_owned(),
            selector: [("app".to_owned(), "kafka".to_owned())].into(),
            rules,
        }
    }

    fn exact(name: &str) -> KafkaName {
        KafkaName::Exact(name.to_owned())
    }

    #[test]
    fn a_policy_selects_brokers_of_its_namespace() {
        let policy = policy(Vec::new());
        assert!(policy.selects(&workload("shop", "kafka", "default")));
        assert!(!policy.selects(&workload("other", "kafka", "default")));
        assert!(!policy.selects(&workload("shop", "web", "default")));
        let all = KafkaPolicy { selector: BTreeMap::new(), ..policy };
        assert!(all.selects(&workload("shop", "web", "default")));
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        let caller = workload("shop", "web", "default");
        let closed = policy(Vec::new());
        assert!(!kafka_grant([&closed], Some(&caller), 18, None).allows());
        let no_alternative = policy(vec![KafkaRule { from: Vec::new(), allow: Vec::new() }]);
        assert!(!kafka_grant([&no_alternative], Some(&caller), 18, None).allows());
        let all = vec![KafkaRule { from: Vec::new(), allow: vec![KafkaAllow::default()] }];
        let open = policy(all);
        for caller in [Some(&caller), None] {
            let grant = kafka_grant([&closed, &open], caller, 0, None);
            assert!(grant.allows() && grant.allows_any_topic() && grant.allows_topic(None));
        }
    }

    #[test]
    fn callers_are_known_by_namespace_labels_and_account() {
        let from = KafkaCaller {
            source: SourceMatch {
                namespace: Some("shop".to_owned()),
                labels: [("app".to_owned(), "web".to_owned())].into(),
            },
            service_account: Some("buyer".to_owned()),
        };
        let allow = vec![KafkaAllow::default()];
        let policy = policy(vec![KafkaRule { from: vec![from], allow }]);
        let may = |caller: Option<&Workload>| kafka_grant([&policy], caller, 0, None).allows();
        assert!(may(Some(&workload("shop", "web", "buyer"))));
        assert!(!may(Some(&workload("shop", "web", "default"))));
        assert!(!may(Some(&workload("shop", "kafka", "buyer"))));
        assert!(!may(Some(&workload("other", "web", "buyer"))));
        assert!(!may(None));
    }

    #[test]
    fn topics_of_several_rules_add_up() {
        let produce = |topic| KafkaAllow {
            apis: KAFKA_PRODUCE.into(),
            topics: vec![topic],
            client_ids: Vec::new(),
        };
        let allow = vec![produce(exact("orders"))];
        let one = policy(vec![KafkaRule { from: Vec::new(), allow }]);
        let allow = vec![produce(KafkaName::Prefix("audit-".to_owned()))];
        let two = policy(vec![KafkaRule { from: Vec::new(), allow }]);
        let grant = kafka_grant([&one, &two], None, 0, None);
        assert!(grant.allows() && !grant.allows_any_topic());
        for (topic, allowed) in
            [("orders", true), ("audit-x", true), ("orders2", false), ("audit", false)]
        {
            assert_eq!(grant.allows_topic(Some(topic)), allowed, "{topic}");
        }
        assert!(!grant.allows_topic(None));
        assert!(!kafka_grant([&one, &two], None, 1, None).allows(), "fetching is another matter");
    }

    #[test]
    fn client_ids_are_asked_for_where_they_are_named() {
        let ids = vec![exact("till"), KafkaName::Prefix("till-".to_owned())];
        let allow = KafkaAllow { client_ids: ids, ..KafkaAllow::default() };
        let policy = policy(vec![KafkaRule { from: Vec::new(), allow: vec![allow] }]);
        for (id, allowed) in
            [(Some("till"), true), (Some("till-2"), true), (Some("tilly"), false), (None, false)]
        {
            assert_eq!(kafka_grant([&policy], None, 0, id).allows(), allowed, "{id:?}");
        }
    }

    #[test]
    fn apis_have_names() {
        assert!(KAFKA_APIS.is_sorted_by_key(|(number, _)| *number));
        assert_eq!((kafka_api("FETCH"), kafka_api("Fetched")), (Some(1), None));
        let of = |role: &[i16]| {
            let name = |api: &i16| KAFKA_APIS.iter().find(|(number, _)| number == api).unwrap().1;
            role.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&KAFKA_PRODUCE), "Produce Metadata ApiVersions");
        assert_eq!(
            of(&KAFKA_CONSUME),
            "Fetch ListOffsets OffsetCommit OffsetFetch FindCoordinator JoinGroup Heartbeat \
             LeaveGroup SyncGroup Metadata ApiVersions"
        );
    }
}
