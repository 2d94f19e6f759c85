//! Refusals: answers of the same API and version as the request, with the error that fits.
//!
//! What names topics is answered for each of them, and each partition, with
//! TOPIC_AUTHORIZATION_FAILED (29); what is of a consumer group with GROUP_AUTHORIZATION_FAILED (30),
//! the rest with CLUSTER_AUTHORIZATION_FAILED (31), as brokers do.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use uuid::Uuid;

use super::answer::{refused_topic, topic_error};
use super::request::{Detail, Request, Topic, Topics};

/// The error of a refusal, for the record.
pub(crate) fn error(request: &Request) -> i16 {
    match (&request.topics, request.head.api) {
        (Topics::Named(topics), _) => topics.iter().map(topic_error).max().unwrap_or(29),
        (Topics::All, _) => ResponseError::TopicAuthorizationFailed.code(),
        (_, ApiKey::FindCoordinator | ApiKey::JoinGroup | ApiKey::Heartbeat) => GROUP,
        (_, ApiKey::LeaveGroup | ApiKey::SyncGroup) => GROUP,
        _ => CLUSTER,
    }
}

const GROUP: i16 = ResponseError::GroupAuthorizationFailed.code();
const CLUSTER: i16 = ResponseError::ClusterAuthorizationFailed.code();

/// The answer that refuses a request, with its size; `None`: no answer fits, and the connection is
/// closed instead.
pub(crate) fn refusal(request: &Request) -> Option<Vec<u8>> {
    let version = request.head.version;
    let topics: &[Topic] = match &request.topics {
        Topics::Named(topics) => topics,
        _ => &[],
    };
    match request.head.api {
        ApiKey::Produce => answer(request, &produce(topics, version)),
        ApiKey::Fetch => answer(request, &fetch(topics, version)),
        ApiKey::ListOffsets => answer(request, &list_offsets(topics)),
        ApiKey::Metadata => {
            let refused = |topic| refused_topic(topic, topic_error(topic), version);
            let topics = topics.iter().map(refused).collect();
            answer(request, &MetadataResponse::default().with_topics(topics))
        }
        ApiKey::OffsetCommit => answer(request, &offset_commit(topics)),
        ApiKey::OffsetFetch => answer(request, &offset_fetch(request, topics)),
        ApiKey::OffsetForLeaderEpoch => answer(request, &offset_for_leader_epoch(topics)),
        ApiKey::CreateTopics => answer(request, &create_topics(topics)),
        ApiKey::DeleteTopics => answer(request, &delete_topics(topics, version)),
        ApiKey::FindCoordinator => answer(request, &find_coordinator(request)),
        ApiKey::JoinGroup => {
            let body = JoinGroupResponse::default().with_error_code(GROUP);
            // before version 7 it may not be null
            let name = (version < 7).then(StrBytes::new);
            answer(request, &body.with_generation_id(-1).with_protocol_name(name))
        }
        ApiKey::Heartbeat => answer(request, &HeartbeatResponse::default().with_error_code(GROUP)),
        ApiKey::LeaveGroup => {
            answer(request, &LeaveGroupResponse::default().with_error_code(GROUP))
        }
        ApiKey::SyncGroup => answer(request, &SyncGroupResponse::default().with_error_code(GROUP)),
        _ => of_cluster(request),
    }
}

fn of_cluster(request: &Request) -> Option<Vec<u8>> {
    match request.head.api {
        ApiKey::ApiVersions => {
            answer(request, &ApiVersionsResponse::default().with_error_code(CLUSTER))
        }
        ApiKey::ListGroups => {
            answer(request, &ListGroupsResponse::default().with_error_code(CLUSTER))
        }
        ApiKey::InitProducerId => {
            let body = InitProducerIdResponse::default().with_error_code(CLUSTER);
            answer(request, &body.with_producer_epoch(-1))
        }
        ApiKey::DescribeCluster => {
            answer(request, &DescribeClusterResponse::default().with_error_code(CLUSTER))
        }
        ApiKey::GetTelemetrySubscriptions => {
            answer(request, &GetTelemetrySubscriptionsResponse::default().with_error_code(CLUSTER))
        }
        ApiKey::PushTelemetry => {
            answer(request, &PushTelemetryResponse::default().with_error_code(CLUSTER))
        }
        _ => None,
    }
}

/// A fetch under a session that is not the connection's, or that has got topics which are not allowed
/// any more: the client begins anew, and names them.
pub(crate) fn no_session(request: &Request) -> Option<Vec<u8>> {
    let error = ResponseError::FetchSessionIdNotFound.code();
    answer(request, &FetchResponse::default().with_error_code(error))
}

fn answer(request: &Request, body: &impl Encodable) -> Option<Vec<u8>> {
    let (api, version) = (request.head.api, request.head.version);
    let mut message = vec![0; 4];
    ResponseHeader::default()
        .with_correlation_id(request.head.correlation)
        .encode(&mut message, api.response_header_version(version))
        .and_then(|()| body.encode(&mut message, version))
        .inspect_err(|error| tracing::debug!(%error, ?api, version, "a refusal cannot be written"))
        .ok()?;
    let size = (message.len() - 4) as i32;
    message[..4].copy_from_slice(&size.to_be_bytes());
    Some(message)
}

fn name(topic: &Topic) -> TopicName {
    TopicName(topic.name.clone().unwrap_or_default())
}

/// The name where topics go by name, and the id where they go by that.
fn name_and_id(topic: &Topic, by_id: bool) -> (TopicName, Uuid) {
    if by_id { (TopicName::default(), topic.id) } else { (name(topic), Uuid::nil()) }
}

fn produce(topics: &[Topic], version: i16) -> ProduceResponse {
    use produce_response::{PartitionProduceResponse, TopicProduceResponse};
    let of = |topic: &Topic| {
        let partition = |index: &i32| {
            PartitionProduceResponse::default()
                .with_index(*index)
                .with_error_code(topic_error(topic))
                .with_base_offset(-1)
        };
        let (name, id) = name_and_id(topic, version >= 13);
        TopicProduceResponse::default()
            .with_name(name)
            .with_topic_id(id)
            .with_partition_responses(topic.partitions.iter().map(partition).collect())
    };
    ProduceResponse::default().with_responses(topics.iter().map(of).collect())
}

fn fetch(topics: &[Topic], version: i16) -> FetchResponse {
    use fetch_response::{FetchableTopicResponse, PartitionData};
    let of = |topic: &Topic| {
        let partition = |index: &i32| {
            PartitionData::default()
                .with_partition_index(*index)
                .with_error_code(topic_error(topic))
                .with_high_watermark(-1)
                .with_records(Some(Default::default()))
        };
        let (name, id) = name_and_id(topic, version >= 13);
        FetchableTopicResponse::default()
            .with_topic(name)
            .with_topic_id(id)
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    FetchResponse::default().with_responses(topics.iter().map(of).collect())
}

fn list_offsets(topics: &[Topic]) -> ListOffsetsResponse {
    use list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    let of = |topic: &Topic| {
        let partition = |index: &i32| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(*index)
                .with_error_code(topic_error(topic))
        };
        ListOffsetsTopicResponse::default()
            .with_name(name(topic))
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    ListOffsetsResponse::default().with_topics(topics.iter().map(of).collect())
}

fn offset_commit(topics: &[Topic]) -> OffsetCommitResponse {
    use offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
    let of = |topic: &Topic| {
        let partition = |index: &i32| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(*index)
                .with_error_code(topic_error(topic))
        };
        OffsetCommitResponseTopic::default()
            .with_name(name(topic))
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    OffsetCommitResponse::default().with_topics(topics.iter().map(of).collect())
}

/// Who asks for all topics of a group names none that could have an error: the group has one.
fn offset_fetch(request: &Request, topics: &[Topic]) -> OffsetFetchResponse {
    use offset_fetch_response::*;
    let group_error = if request.topics == Topics::All { GROUP } else { 0 };
    let body = OffsetFetchResponse::default();
    let Detail::Groups(groups) = &request.detail else {
        let of = |topic: &Topic| {
            let partition = |index: &i32| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(*index)
                    .with_committed_offset(-1)
                    .with_metadata(Some(StrBytes::new()))
                    .with_error_code(topic_error(topic))
            };
            OffsetFetchResponseTopic::default()
                .with_name(name(topic))
                .with_partitions(topic.partitions.iter().map(partition).collect())
        };
        let error = if request.head.version >= 2 { group_error } else { 0 };
        return body.with_error_code(error).with_topics(topics.iter().map(of).collect());
    };
    let of = |topic: &Topic| {
        let partition = |index: &i32| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_metadata(Some(StrBytes::new()))
                .with_error_code(topic_error(topic))
        };
        OffsetFetchResponseTopics::default()
            .with_name(name(topic))
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    let mut rest = topics.iter();
    let group = |(id, count): &(StrBytes, usize)| {
        OffsetFetchResponseGroup::default()
            .with_group_id(GroupId(id.clone()))
            .with_topics(rest.by_ref().take(*count).map(of).collect())
            .with_error_code(group_error)
    };
    body.with_groups(groups.iter().map(group).collect())
}

fn offset_for_leader_epoch(topics: &[Topic]) -> OffsetForLeaderEpochResponse {
    use offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
    let of = |topic: &Topic| {
        let partition = |index: &i32| {
            EpochEndOffset::default().with_partition(*index).with_error_code(topic_error(topic))
        };
        OffsetForLeaderTopicResult::default()
            .with_topic(name(topic))
            .with_partitions(topic.partitions.iter().map(partition).collect())
    };
    OffsetForLeaderEpochResponse::default().with_topics(topics.iter().map(of).collect())
}

fn create_topics(topics: &[Topic]) -> CreateTopicsResponse {
    use create_topics_response::CreatableTopicResult;
    let of = |topic: &Topic| {
        CreatableTopicResult::default()
            .with_name(name(topic))
            .with_error_code(topic_error(topic))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
    };
    CreateTopicsResponse::default().with_topics(topics.iter().map(of).collect())
}

fn delete_topics(topics: &[Topic], version: i16) -> DeleteTopicsResponse {
    use delete_topics_response::DeletableTopicResult;
    let of = |topic: &Topic| {
        let result = DeletableTopicResult::default()
            .with_name(topic.name.clone().map(TopicName))
            .with_error_code(topic_error(topic));
        if version >= 6 { result.with_topic_id(topic.id) } else { result }
    };
    DeleteTopicsResponse::default().with_responses(topics.iter().map(of).collect())
}

fn find_coordinator(request: &Request) -> FindCoordinatorResponse {
    use find_coordinator_response::Coordinator;
    let body = FindCoordinatorResponse::default();
    match &request.detail {
        Detail::Coordinators(keys) if request.head.version >= 4 => {
            let of = |key: &StrBytes| {
                let nowhere = Coordinator::default().with_node_id(BrokerId(-1)).with_port(-1);
                nowhere.with_key(key.clone()).with_error_code(GROUP)
            };
            body.with_coordinators(keys.iter().map(of).collect())
        }
        _ => body.with_error_code(GROUP).with_node_id(BrokerId(-1)).with_port(-1),
    }
}
