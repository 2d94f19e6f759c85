//! What is written here: refusals and answers that were changed.

use bytes::BytesMut;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};
use uuid::Uuid;

use super::written::*;
use crate::kafka::answer::{self, Metadata};
use crate::kafka::refusal;
use crate::kafka::request::{Detail, Head, Request, Topic, Topics, versions};

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

/// Topic, its id, partition and error.
type Refused = (String, Uuid, i32, i16);

fn group_errors(message: &[u8], version: i16) -> Vec<Refused> {
    let mut all = Vec::new();
    for group in read::<OffsetFetchResponse>(message, ApiKey::OffsetFetch, version).groups {
        assert_eq!((group.error_code, group.topics.len()), (0, 1));
        for topic in group.topics {
            assert_eq!(group.group_id.0.to_string(), format!("g-{}", topic.name.0));
            for partition in topic.partitions {
                let (index, error) = (partition.partition_index, partition.error_code);
                all.push((topic.name.0.to_string(), Uuid::nil(), index, error));
            }
        }
    }
    all
}

/// Every topic and partition that a refusal names.
fn errors(message: &[u8], api: ApiKey, version: i16) -> Vec<Refused> {
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
        ApiKey::OffsetFetch => all = group_errors(message, version),
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
