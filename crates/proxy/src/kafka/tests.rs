//! Messages that the protocol's own crate has written are read, what is written here it reads, and
//! bytes of any kind do no harm.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

use super::answer::{self, Metadata};
use super::produce::{Produce, Step};
use super::refusal;
use super::request::{Detail, Head, Request, Topic, Topics, versions};
use super::wire::{Fault, Wire};
use crate::limits::KAFKA_ITEMS;

const TOPICS: [&str; 2] = ["orders", "audit-1"];

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn id(name: &str) -> Uuid {
    Uuid::from_u64_pair(7, name.len() as u64)
}

/// A request after its size.
fn written(api: ApiKey, version: i16, body: &impl Encodable) -> Vec<u8> {
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
fn named(by_id: bool, partitions: &[i32]) -> Topics {
    let of = |name: &str| Topic {
        name: (!by_id).then(|| text(name)),
        id: if by_id { id(name) } else { Uuid::nil() },
        partitions: partitions.to_vec(),
    };
    Topics::Named(TOPICS.map(of).to_vec())
}

fn produce(version: i16) -> ProduceRequest {
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

fn fetch(version: i16) -> FetchRequest {
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

fn list_offsets() -> ListOffsetsRequest {
    use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let partition = |index| ListOffsetsPartition::default().with_partition_index(index);
    let topic = |name: &str| {
        let partitions = vec![partition(0), partition(5)];
        ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    ListOffsetsRequest::default().with_topics(TOPICS.map(topic).to_vec())
}

fn offset_commit() -> OffsetCommitRequest {
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

fn offset_fetch(version: i16, all: bool) -> OffsetFetchRequest {
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

fn metadata(version: i16) -> MetadataRequest {
    use metadata_request::MetadataRequestTopic;
    let topic = |name: &str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default().with_topics(Some(TOPICS.map(topic).to_vec()));
    request.with_allow_auto_topic_creation(version < 4)
}

fn create_topics() -> CreateTopicsRequest {
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

fn delete_topics(version: i16) -> DeleteTopicsRequest {
    use delete_topics_request::DeleteTopicState;
    match version >= 6 {
        true => {
            let topic = |name| DeleteTopicState::default().with_name(Some(topic_name(name)));
            DeleteTopicsRequest::default().with_topics(TOPICS.map(topic).to_vec())
        }
        false => DeleteTopicsRequest::default().with_topic_names(TOPICS.map(topic_name).to_vec()),
    }
}

fn offset_for_leader_epoch() -> OffsetForLeaderEpochRequest {
    use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
    let partition = |index| OffsetForLeaderPartition::default().with_partition(index);
    let topic = |name: &str| {
        let partitions = vec![partition(0), partition(5)];
        OffsetForLeaderTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
    };
    OffsetForLeaderEpochRequest::default().with_topics(TOPICS.map(topic).to_vec())
}

/// A request of each API that names topics, in each version, and the topics.
fn requests() -> Vec<(ApiKey, i16, Vec<u8>, Topics)> {
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

#[test]
fn topics_are_found_in_every_version() {
    for (api, version, bytes, topics) in requests() {
        let request = Request::read(&bytes).unwrap_or_else(|f| panic!("{api:?} {version}: {f:?}"));
        let head = Head { api, version, correlation: 77, client_id: Some(text("me")) };
        assert_eq!((request.head, request.topics), (head, topics), "{api:?} {version}");
        match request.detail {
            Detail::Produce { acks } => assert_eq!(acks, -1),
            Detail::Fetch { session, epoch } if version >= 7 => {
                assert_eq!((session, epoch), (9, 2));
            }
            Detail::Groups(groups) => {
                assert_eq!(groups, [(text("g-orders"), 1), (text("g-audit-1"), 1)]);
            }
            _ => {}
        }
    }
}

#[test]
fn a_request_that_is_cut_off_is_not_read() {
    for (api, version, bytes, _) in requests() {
        for end in 0..bytes.len() {
            assert!(Request::read(&bytes[..end]).is_err(), "{api:?} {version} {end}");
        }
        // what follows is of no interest to brokers either
        let more = Request::read(&[&bytes[..], &[0, 9]].concat());
        assert_eq!(more, Request::read(&bytes), "{api:?} {version}");
    }
}

#[test]
fn fields_with_tags_are_passed_over() {
    for (api, version, body) in [(ApiKey::ListOffsets, 10, {
        let mut body = list_offsets();
        body.unknown_tagged_fields.insert(9, Bytes::from_static(b"later"));
        body.topics[0].unknown_tagged_fields.insert(300, Bytes::from_static(b""));
        body.topics[1].partitions[0].unknown_tagged_fields.insert(1, Bytes::from(vec![1; 200]));
        body
    })] {
        let request = Request::read(&written(api, version, &body)).unwrap();
        assert_eq!(request.topics, named(false, &[0, 5]));
    }
}

#[test]
fn all_topics_are_all() {
    for version in 0..=13 {
        let all = match version {
            0 => MetadataRequest::default().with_topics(Some(Vec::new())),
            _ => MetadataRequest::default().with_topics(None),
        };
        let request = Request::read(&written(ApiKey::Metadata, version, &all)).unwrap();
        assert_eq!(request.topics, Topics::All, "{version}");
        if version > 0 {
            let none = MetadataRequest::default().with_topics(Some(Vec::new()));
            let request = Request::read(&written(ApiKey::Metadata, version, &none)).unwrap();
            assert_eq!(request.topics, Topics::Named(Vec::new()), "{version}");
        }
    }
    for version in 2..=9 {
        let bytes = written(ApiKey::OffsetFetch, version, &offset_fetch(version, true));
        assert_eq!(Request::read(&bytes).unwrap().topics, Topics::All, "{version}");
    }
    // what is not taken apart may have any
    let body = DeleteRecordsRequest::default();
    let request = Request::read(&written(ApiKey::DeleteRecords, 2, &body)).unwrap();
    assert_eq!(request.topics, Topics::All);
    let body = HeartbeatRequest::default();
    let request = Request::read(&written(ApiKey::Heartbeat, 4, &body)).unwrap();
    assert_eq!(request.topics, Topics::None);
}

#[test]
fn versions_that_are_not_known_are_not_read() {
    let reason = |bytes: &[u8]| Request::read(bytes).unwrap_err().reason();
    let mut bytes = written(ApiKey::Produce, 13, &produce(13));
    bytes[3] = 14;
    assert_eq!(reason(&bytes), "its version is not known");
    bytes[3] = 2;
    assert_eq!(reason(&bytes), "its version is not known");
    bytes[..2].copy_from_slice(&999_i16.to_be_bytes());
    assert_eq!(reason(&bytes), "its API is not known");
    let handshake = SaslHandshakeRequest::default();
    let bytes = written(ApiKey::SaslHandshake, 0, &handshake);
    assert_eq!(reason(&bytes), "its version is not known");
    assert!(Request::read(&written(ApiKey::SaslHandshake, 1, &handshake)).is_ok());
    // but that a broker is asked what it knows, whoever asks
    let mut bytes = written(ApiKey::ApiVersions, 4, &ApiVersionsRequest::default());
    bytes[3] = 9;
    assert_eq!(Request::read(&bytes).unwrap().head.version, 9);
}

/// Reads an answer of ours to its end.
fn read<T: Decodable>(message: &[u8], api: ApiKey, version: i16) -> T {
    let size = i32::from_be_bytes(message[..4].try_into().unwrap());
    assert_eq!(size as usize, message.len() - 4);
    let mut bytes = BytesMut::from(&message[4..]).freeze();
    let header = ResponseHeader::decode(&mut bytes, api.response_header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 77);
    let body = T::decode(&mut bytes, version).unwrap();
    assert!(bytes.is_empty(), "{api:?} {version}");
    body
}

/// Topic, its id, partition and error, of every one that a refusal names.
fn errors(message: &[u8], api: ApiKey, version: i16) -> Vec<(String, Uuid, i32, i16)> {
    let mut all = Vec::new();
    macro_rules! of {
        ($body:ty, $topics:ident, $topic:ident, $partitions:ident, $index:ident) => {
            for topic in read::<$body>(message, api, version).$topics {
                for partition in topic.$partitions {
                    let name = topic.$topic.0.to_string();
                    all.push((name, Uuid::nil(), partition.$index, partition.error_code));
                }
            }
        };
    }
    match api {
        ApiKey::Produce => {
            for topic in read::<ProduceResponse>(message, api, version).responses {
                for partition in topic.partition_responses {
                    let name = topic.name.0.to_string();
                    all.push((name, topic.topic_id, partition.index, partition.error_code));
                }
            }
        }
        ApiKey::Fetch => {
            for topic in read::<FetchResponse>(message, api, version).responses {
                for partition in topic.partitions {
                    let name = topic.topic.0.to_string();
                    all.push((
                        name,
                        topic.topic_id,
                        partition.partition_index,
                        partition.error_code,
                    ));
                }
            }
        }
        ApiKey::ListOffsets => of!(ListOffsetsResponse, topics, name, partitions, partition_index),
        ApiKey::OffsetCommit => {
            of!(OffsetCommitResponse, topics, name, partitions, partition_index)
        }
        ApiKey::OffsetFetch if version < 8 => {
            of!(OffsetFetchResponse, topics, name, partitions, partition_index);
        }
        ApiKey::OffsetFetch => {
            for group in read::<OffsetFetchResponse>(message, api, version).groups {
                assert_eq!((group.error_code, group.topics.len()), (0, 1));
                for topic in group.topics {
                    assert_eq!(group.group_id.0.to_string(), format!("g-{}", topic.name.0));
                    for partition in topic.partitions {
                        let name = topic.name.0.to_string();
                        let (index, error) = (partition.partition_index, partition.error_code);
                        all.push((name, Uuid::nil(), index, error));
                    }
                }
            }
        }
        ApiKey::OffsetForLeaderEpoch => {
            of!(OffsetForLeaderEpochResponse, topics, topic, partitions, partition);
        }
        ApiKey::Metadata => {
            for topic in read::<MetadataResponse>(message, api, version).topics {
                all.push((topic.name.unwrap().0.to_string(), topic.topic_id, -1, topic.error_code));
            }
        }
        ApiKey::CreateTopics => {
            for topic in read::<CreateTopicsResponse>(message, api, version).topics {
                all.push((topic.name.0.to_string(), topic.topic_id, -1, topic.error_code));
            }
        }
        _ => {
            for topic in read::<DeleteTopicsResponse>(message, api, version).responses {
                all.push((topic.name.unwrap().0.to_string(), topic.topic_id, -1, topic.error_code));
            }
        }
    }
    all
}

#[test]
fn a_refusal_names_each_topic_and_partition_in_every_version() {
    for (api, version, bytes, topics) in requests() {
        let mut request = Request::read(&bytes).unwrap();
        let Topics::Named(wanted) = topics else { panic!("{topics:?}") };
        let by_id = wanted[0].name.is_none();
        if let Topics::Named(topics) = &mut request.topics
            && by_id
        {
            // the second's name is known
            topics[1].name = Some(text(TOPICS[1]));
        }
        let message = refusal::refusal(&request).unwrap_or_else(|| panic!("{api:?} {version}"));
        let mut expected = Vec::new();
        for (topic, name) in wanted.iter().zip(TOPICS) {
            let unknown = by_id && name == TOPICS[0];
            let partitions =
                if topic.partitions.is_empty() { &[-1][..] } else { &topic.partitions };
            for index in partitions {
                let name = if by_id { String::new() } else { name.to_owned() };
                expected.push((name, topic.id, *index, if unknown { 100 } else { 29 }));
            }
        }
        assert_eq!(errors(&message, api, version), expected, "{api:?} {version}");
        assert_eq!(refusal::error(&request), if by_id { 100 } else { 29 });
    }
}

#[test]
fn what_names_no_topic_is_refused_too() {
    /// The answer to a request of this API in each of its versions.
    fn each<T: Decodable>(
        api: ApiKey,
        detail: impl Fn(i16) -> Detail,
        error: impl Fn(i16, T) -> i16,
        wanted: i16,
    ) {
        let known = versions(api);
        for version in known.min..=known.max {
            let head = Head { api, version, correlation: 77, client_id: None };
            let request = Request { head, topics: Topics::None, detail: detail(version) };
            let message = refusal::refusal(&request).unwrap();
            let found = error(version, read::<T>(&message, api, version));
            assert_eq!((found, refusal::error(&request)), (wanted, wanted), "{api:?} {version}");
        }
    }
    let other = |_: i16| Detail::Other;
    each(ApiKey::JoinGroup, other, |_, body: JoinGroupResponse| body.error_code, 30);
    each(ApiKey::Heartbeat, other, |_, body: HeartbeatResponse| body.error_code, 30);
    each(ApiKey::LeaveGroup, other, |_, body: LeaveGroupResponse| body.error_code, 30);
    each(ApiKey::SyncGroup, other, |_, body: SyncGroupResponse| body.error_code, 30);
    each(ApiKey::ApiVersions, other, |_, body: ApiVersionsResponse| body.error_code, 31);
    each(ApiKey::ListGroups, other, |_, body: ListGroupsResponse| body.error_code, 31);
    each(ApiKey::InitProducerId, other, |_, body: InitProducerIdResponse| body.error_code, 31);
    each(ApiKey::DescribeCluster, other, |_, body: DescribeClusterResponse| body.error_code, 31);
    each(ApiKey::PushTelemetry, other, |_, body: PushTelemetryResponse| body.error_code, 31);
    let telemetry = |_, body: GetTelemetrySubscriptionsResponse| body.error_code;
    each(ApiKey::GetTelemetrySubscriptions, other, telemetry, 31);
    let keys = |_: i16| Detail::Coordinators(vec![text("g"), text("h")]);
    let coordinator = |version: i16, body: FindCoordinatorResponse| match version >= 4 {
        true => {
            let keys: Vec<String> = body.coordinators.iter().map(|c| c.key.to_string()).collect();
            assert_eq!(keys, ["g", "h"]);
            body.coordinators[0].error_code
        }
        false => body.error_code,
    };
    each(ApiKey::FindCoordinator, keys, coordinator, 30);
    let head = Head { api: ApiKey::DescribeAcls, version: 3, correlation: 77, client_id: None };
    let request = Request { head, topics: Topics::None, detail: Detail::Other };
    assert_eq!(refusal::refusal(&request), None);
}

#[test]
fn coordinators_are_read_in_every_version() {
    for version in 0..=versions(ApiKey::FindCoordinator).max {
        let body = FindCoordinatorRequest::default();
        let body = match version >= 4 {
            true => body.with_coordinator_keys(vec![text("g"), text("h")]),
            false => body.with_key(text("g")),
        };
        let request = Request::read(&written(ApiKey::FindCoordinator, version, &body)).unwrap();
        let Detail::Coordinators(keys) = request.detail else { panic!("{:?}", request.detail) };
        assert_eq!(keys.len(), if version >= 4 { 2 } else { 1 }, "{version}");
    }
}

/// An answer to Metadata after its size.
fn told(version: i16) -> Vec<u8> {
    use metadata_response::*;
    let partition = MetadataResponsePartition::default()
        .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
        .with_isr_nodes(vec![BrokerId(1)]);
    let topic = |name: &str| {
        MetadataResponseTopic::default()
            .with_name(Some(topic_name(name)))
            .with_topic_id(if version >= 10 { id(name) } else { Uuid::nil() })
            .with_partitions(vec![partition.clone(), partition.clone()])
    };
    let broker = MetadataResponseBroker::default().with_host(text("kafka-0")).with_port(9092);
    let body = MetadataResponse::default()
        .with_brokers(vec![broker.clone(), broker])
        .with_topics(TOPICS.map(topic).to_vec());
    let mut bytes = Vec::new();
    ResponseHeader::default()
        .with_correlation_id(77)
        .encode(&mut bytes, ApiKey::Metadata.response_header_version(version))
        .unwrap();
    body.encode(&mut bytes, version).unwrap();
    bytes
}

#[test]
fn answers_about_topics_are_rewritten_in_every_version() {
    for version in 0..=versions(ApiKey::Metadata).max {
        let bytes = told(version);
        let metadata = Metadata::read(&bytes, version).unwrap();
        let names: Vec<_> = metadata.topics.iter().map(|topic| topic.name.clone()).collect();
        assert_eq!(names, TOPICS.map(|name| Some(text(name))), "{version}");
        if version >= 10 {
            assert_eq!(metadata.topics[1].id, id(TOPICS[1]));
        }
        assert_eq!(metadata.rewritten(&bytes, version, |_| true, &[]), None);
        let secret = Topic { name: Some(text("secret")), ..Topic::default() };
        let unknown = Topic { id: id("?"), ..Topic::default() };
        let more: Vec<_> = match version >= 12 {
            true => vec![(secret, 29), (unknown, 100)],
            false => vec![(secret, 29)],
        };
        let keep = |topic: &answer::Told| topic.name != Some(text(TOPICS[0]));
        let message = metadata.rewritten(&bytes, version, keep, &more).unwrap();
        let body: MetadataResponse = read(&message, ApiKey::Metadata, version);
        assert_eq!((body.brokers.len(), body.topics.len()), (2, 1 + more.len()), "{version}");
        assert_eq!(body.topics[0].name, Some(topic_name(TOPICS[1])));
        assert_eq!((body.topics[0].error_code, body.topics[0].partitions.len()), (0, 2));
        assert_eq!(body.topics[1].name, Some(topic_name("secret")));
        assert_eq!((body.topics[1].error_code, body.topics[1].partitions.len()), (29, 0));
        for end in 0..bytes.len() {
            assert!(Metadata::read(&bytes[..end], version).is_err(), "{version} {end}");
        }
    }
}

#[test]
fn requests_for_metadata_are_narrowed_in_every_version() {
    for version in 0..=versions(ApiKey::Metadata).max {
        let bytes = written(ApiKey::Metadata, version, &metadata(version));
        let request = Request::read(&bytes).unwrap();
        let Detail::Metadata { list, each } = &request.detail else { panic!("{request:?}") };
        let message = answer::narrowed(&bytes, version, list, &[&each[1]]);
        let size = i32::from_be_bytes(message[..4].try_into().unwrap());
        assert_eq!(size as usize, message.len() - 4);
        let narrowed = Request::read(&message[4..]).unwrap();
        assert_eq!(narrowed.head, request.head);
        let only = Topic { name: Some(text(TOPICS[1])), ..Topic::default() };
        assert_eq!(narrowed.topics, Topics::Named(vec![only]), "{version}");
    }
}

#[test]
fn no_version_is_offered_that_is_not_known() {
    use api_versions_response::ApiVersion;
    let offer = |key: i16, max| {
        ApiVersion::default().with_api_key(key).with_min_version(1).with_max_version(max)
    };
    for version in 0..=4 {
        for error in [0, 35] {
            // a version that the broker does not know is answered as version 0 is
            let written_as = if error == 35 { 0 } else { version };
            let offers = vec![offer(0, 99), offer(1, 5), offer(8, 10), offer(999, 3)];
            let body = ApiVersionsResponse::default().with_error_code(error).with_api_keys(offers);
            let mut message = vec![0; 4];
            ResponseHeader::default().with_correlation_id(77).encode(&mut message, 0).unwrap();
            body.encode(&mut message, written_as).unwrap();
            let size = (message.len() - 4) as i32;
            message[..4].copy_from_slice(&size.to_be_bytes());
            answer::limit_versions(&mut message[4..], version).unwrap();
            let body: ApiVersionsResponse = read(&message, ApiKey::ApiVersions, written_as);
            let offered: Vec<i16> = body.api_keys.iter().map(|api| api.max_version).collect();
            assert_eq!(offered, [13, 5, 9, 3], "{version} {error}");
        }
    }
}

#[test]
fn sessions_are_found_in_every_version() {
    for version in 7..=versions(ApiKey::Fetch).max {
        let head = Head { api: ApiKey::Fetch, version, correlation: 77, client_id: None };
        let mut bytes = Vec::new();
        ResponseHeader::default()
            .with_correlation_id(77)
            .encode(&mut bytes, head.api.response_header_version(version))
            .unwrap();
        FetchResponse::default().with_session_id(1234).encode(&mut bytes, version).unwrap();
        assert_eq!(answer::session(&bytes, version), Ok(1234), "{version}");
        let request = Request { head, topics: Topics::None, detail: Detail::Other };
        let message = refusal::no_session(&request).unwrap();
        let body: FetchResponse = read(&message, ApiKey::Fetch, version);
        assert_eq!((body.error_code, body.session_id), (70, 0));
    }
}

/// Reads a Produce request with so many bytes more at a time.
fn stepwise(bytes: &[u8], piece: usize) -> Result<Vec<Topic>, Fault> {
    let (mut here, mut read) = (0, 0);
    let (mut produce, mut flexible, mut items) = (None::<Produce>, false, 0);
    let mut topics: Vec<Topic> = Vec::new();
    loop {
        let mut wire = Wire::new(&bytes[read..here]);
        (wire.beyond, wire.flexible, wire.items) = (bytes.len() - here, flexible, items);
        let step = match &mut produce {
            None => Head::read(&mut wire).map(|head| {
                produce = Some(Produce::new(head.version));
                flexible = wire.flexible;
                Step::Other
            }),
            Some(produce) => produce.step(&mut wire),
        };
        match step {
            Err(Fault::Short) if here < bytes.len() => {
                here = (here + piece).min(bytes.len());
                continue;
            }
            Err(fault) => return Err(fault),
            Ok(Step::Topic(topic)) => topics.push(topic),
            Ok(Step::Partition { index, records }) => {
                topics.last_mut().unwrap().partitions.push(index);
                read += wire.at() + records;
                here = here.max(read).min(bytes.len());
                items = wire.items;
                continue;
            }
            Ok(Step::End) => return Ok(topics),
            Ok(_) => {}
        }
        (read, items) = (read + wire.at(), wire.items);
    }
}

#[test]
fn produce_is_the_same_in_pieces() {
    for version in 3..=13 {
        let bytes = written(ApiKey::Produce, version, &produce(version));
        let Topics::Named(whole) = Request::read(&bytes).unwrap().topics else { panic!() };
        for piece in [1, 2, 3, 7, 50, 1000] {
            assert_eq!(stepwise(&bytes, piece).as_ref(), Ok(&whole), "{version} {piece}");
            assert_eq!(stepwise(&bytes[..bytes.len() - 1], piece).err(), Some(Fault::Short));
        }
    }
}

/// How many bytes or elements a request holds on to.
fn held(topics: &Topics) -> usize {
    let Topics::Named(topics) = topics else { return 0 };
    let name = |topic: &Topic| topic.name.as_ref().map_or(0, |name| name.len());
    topics.iter().map(|topic| 1 + name(topic) + topic.partitions.len()).sum()
}

/// Bytes of any kind, mostly such as a request nearly is.
#[test]
fn hostile_bytes_are_no_harm() {
    let seed = std::env::var("BEEWAY_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = fastrand::Rng::with_seed(seed.unwrap_or(11));
    let requests = requests();
    let mut read = 0;
    for _ in 0..200_000 {
        let (api, version, bytes, _) = &requests[random.usize(..requests.len())];
        let mut bytes = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..5) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)],
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, random.u8(..)),
                _ => {
                    let end = (at + 4).min(bytes.len());
                    random.fill(&mut bytes[at..end]);
                }
            }
        }
        if let Ok(request) = Request::read(&bytes) {
            read += 1;
            assert!(held(&request.topics) <= bytes.len().min(2 * KAFKA_ITEMS + bytes.len()));
            // an answer is found for it, or none, in bytes as many as it has times what a topic takes
            let size = refusal::refusal(&request).map_or(0, |message| message.len());
            assert!(size <= 64 * (bytes.len() + 16), "{api:?} {version} {size}");
        }
        let _ = stepwise(&bytes, random.usize(1..100));
        let _ = Metadata::read(&bytes, *version);
        let _ = answer::session(&bytes, *version);
        let _ = answer::limit_versions(&mut bytes, *version);
    }
    assert!(read > 1000, "{read} were requests");
    for _ in 0..100_000 {
        let bytes: Vec<u8> = (0..random.usize(..80)).map(|_| random.u8(..)).collect();
        let _ = Request::read(&bytes);
        let _ = Metadata::read(&bytes, random.i16(0..14));
    }
}
