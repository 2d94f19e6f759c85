//! Requests as the protocol's own crate writes them.

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use uuid::Uuid;

use crate::kafka::request::{Topic, Topics, versions};

pub const TOPICS: [&str; 2] = ["orders", "audit-1"];

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub fn id(name: &str) -> Uuid {
    Uuid::from_u64_pair(7, name.len() as u64)
}

/// A request after its size.
pub fn written(api: ApiKey, version: i16, body: &impl Encodable) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(77)
        .with_client_id(Some(text("me")));
    header.encode(&mut bytes, api.request_header_version(version)).unwrap();
    body.encode(&mut bytes, version).unwrap();
    bytes
}

/// What is read of such a request about [`TOPICS`], of which each has these partitions.
pub fn named(by_id: bool, partitions: &[i32]) -> Topics {
    let of = |name: &str| Topic {
        name: (!by_id).then(|| text(name)),
        id: if by_id { id(name) } else { Uuid::nil() },
        partitions: partitions.to_vec(),
    };
    Topics::Named(TOPICS.map(of).to_vec())
}

pub fn produce(version: i16) -> ProduceRequest {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let partition = |index| {
        let records = Some(Bytes::from(vec![9; 300]));
        PartitionProduceData::default().with_index(index).with_records(records)
    };
    let topic = |name: &str| {
        let topic = TopicProduceData::default()
            .with_partition_data(vec![partition(0), partition(5).with_records(None)]);
        match version >= 13 {
            true => topic.with_topic_id(id(name)),
            false => topic.with_name(topic_name(name)),
        }
    };
    ProduceRequest::default().with_acks(-1).with_topic_data(TOPICS.map(topic).to_vec())
}

pub fn fetch(version: i16) -> FetchRequest {
    use fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
    let partition = |index| FetchPartition::default().with_partition(index).with_fetch_offset(3);
    let topic = |name: &str| {
        let topic = FetchTopic::default().with_partitions(vec![partition(0), partition(5)]);
        match version >= 13 {
            true => topic.with_topic_id(id(name)),
            false => topic.with_topic(topic_name(name)),
        }
    };
    let request = FetchRequest::default().with_topics(TOPICS.map(topic).to_vec());
    if version < 7 {
        return request;
    }
    let forgotten = ForgottenTopic::default().with_partitions(vec![1, 2]);
    let forgotten = match version >= 13 {
        true => forgotten.with_topic_id(id("x")),
        false => forgotten.with_topic(topic_name("x")),
    };
    request.with_session_id(9).with_session_epoch(2).with_forgotten_topics_data(vec![forgotten])
}

pub fn list_offsets() -> ListOffsetsRequest {
    use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let partition = |index| ListOffsetsPartition::default().with_partition_index(index);
    let topic = |name: &str| {
        let partitions = vec![partition(0), partition(5)];
        ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    ListOffsetsRequest::default().with_topics(TOPICS.map(topic).to_vec())
}

pub fn offset_commit() -> OffsetCommitRequest {
    use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let partition = |index| OffsetCommitRequestPartition::default().with_partition_index(index);
    let topic = |name: &str| {
        let partitions = vec![partition(0), partition(5)];
        OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_topics(TOPICS.map(topic).to_vec())
}

pub fn offset_fetch(version: i16, all: bool) -> OffsetFetchRequest {
    use offset_fetch_request::*;
    if version < 8 {
        let topic = |name: &str| {
            let topic = OffsetFetchRequestTopic::default().with_name(topic_name(name));
            topic.with_partition_indexes(vec![0, 5])
        };
        let topics = (!all).then(|| TOPICS.map(topic).to_vec());
        return OffsetFetchRequest::default().with_group_id(GroupId(text("g"))).with_topics(topics);
    }
    let group = |name: &str| {
        let topic = OffsetFetchRequestTopics::default().with_name(topic_name(name));
        let topics = vec![topic.with_partition_indexes(vec![0, 5])];
        OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(&format!("g-{name}"))))
            .with_topics((!all).then_some(topics))
    };
    OffsetFetchRequest::default().with_groups(TOPICS.map(group).to_vec())
}

pub fn metadata(version: i16) -> MetadataRequest {
    use metadata_request::MetadataRequestTopic;
    let topic = |name: &str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default().with_topics(Some(TOPICS.map(topic).to_vec()));
    request.with_allow_auto_topic_creation(version < 4)
}

pub fn create_topics() -> CreateTopicsRequest {
    use create_topics_request::*;
    let topic = |name: &str| {
        let brokers = vec![BrokerId(1), BrokerId(2)];
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(brokers);
        let config = CreatableTopicConfig::default().with_name(text("a")).with_value(None);
        CreatableTopic::default()
            .with_name(topic_name(name))
            .with_assignments(vec![assignment])
            .with_configs(vec![config])
    };
    CreateTopicsRequest::default().with_topics(TOPICS.map(topic).to_vec())
}

pub fn delete_topics(version: i16) -> DeleteTopicsRequest {
    use delete_topics_request::DeleteTopicState;
    match version >= 6 {
        true => {
            let topic = |name| DeleteTopicState::default().with_name(Some(topic_name(name)));
            DeleteTopicsRequest::default().with_topics(TOPICS.map(topic).to_vec())
        }
        false => DeleteTopicsRequest::default().with_topic_names(TOPICS.map(topic_name).to_vec()),
    }
}

pub fn offset_for_leader_epoch() -> OffsetForLeaderEpochRequest {
    use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
    let partition = |index| OffsetForLeaderPartition::default().with_partition(index);
    let topic = |name: &str| {
        let partitions = vec![partition(0), partition(5)];
        OffsetForLeaderTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
    };
    OffsetForLeaderEpochRequest::default().with_topics(TOPICS.map(topic).to_vec())
}

/// A request of each API that names topics, in each version, and the topics.
pub fn requests() -> Vec<(ApiKey, i16, Vec<u8>, Topics)> {
    use ApiKey::*;
    let mut requests = Vec::new();
    for api in [
        Produce,
        Fetch,
        ListOffsets,
        Metadata,
        OffsetCommit,
        OffsetFetch,
        CreateTopics,
        DeleteTopics,
        OffsetForLeaderEpoch,
    ] {
        let known = versions(api);
        for version in known.min..=known.max {
            let (bytes, topics) = match api {
                Produce => {
                    (written(api, version, &produce(version)), named(version >= 13, &[0, 5]))
                }
                Fetch => (written(api, version, &fetch(version)), named(version >= 13, &[0, 5])),
                ListOffsets => (written(api, version, &list_offsets()), named(false, &[0, 5])),
                Metadata => (written(api, version, &metadata(version)), named(false, &[])),
                OffsetCommit => (written(api, version, &offset_commit()), named(false, &[0, 5])),
                OffsetFetch => {
                    (written(api, version, &offset_fetch(version, false)), named(false, &[0, 5]))
                }
                CreateTopics => (written(api, version, &create_topics()), named(false, &[])),
                DeleteTopics => (written(api, version, &delete_topics(version)), named(false, &[])),
                _ => (written(api, version, &offset_for_leader_epoch()), named(false, &[0, 5])),
            };
            requests.push((api, version, bytes, topics));
        }
    }
    assert!(requests.len() > 70);
    requests
}
