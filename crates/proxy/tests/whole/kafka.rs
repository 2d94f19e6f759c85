//! Connections to Kafka brokers with policies: the order of answers, sessions, and what ends them.
//! The broker is the test itself, which says what it likes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use beeway_model::*;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::kit::*;

fn topic(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A mesh whose broker, and whose caller, is at 127.0.0.1: `orders` is allowed, and what is asked
/// about consumer groups. Without rules there is no policy.
fn brokers(server: &Server, rules: Option<Vec<KafkaRule>>) -> Mesh {
    let policy = |rules| KafkaPolicy {
        name: "KafkaPolicy default/p".to_owned(),
        namespace: "default".to_owned(),
        selector: BTreeMap::new(),
        rules,
    };
    let kafka = rules.map(policy).into_iter().collect();
    Mesh { kafka, ..mesh(Protocol::Kafka, &[server.address()], Vec::new()) }
}

fn orders() -> Option<Vec<KafkaRule>> {
    let topics = vec![KafkaName::Exact("orders".to_owned())];
    let allow = vec![
        KafkaAllow { topics, ..KafkaAllow::default() },
        KafkaAllow { apis: [11, 12].into(), ..KafkaAllow::default() },
    ];
    Some(vec![KafkaRule { from: Vec::new(), allow }])
}

/// A message with its size.
fn message(bytes: Vec<u8>) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes()[..], &bytes].concat()
}

fn request(api: ApiKey, version: i16, correlation: i32, body: &impl Encodable) -> Vec<u8> {
    let mut bytes = Vec::new();
    RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .encode(&mut bytes, api.request_header_version(version))
        .unwrap();
    body.encode(&mut bytes, version).unwrap();
    message(bytes)
}

fn answer(api: ApiKey, version: i16, correlation: i32, body: &impl Encodable) -> Vec<u8> {
    let mut bytes = Vec::new();
    ResponseHeader::default()
        .with_correlation_id(correlation)
        .encode(&mut bytes, api.response_header_version(version))
        .unwrap();
    body.encode(&mut bytes, version).unwrap();
    message(bytes)
}

/// The next message after its size.
fn next(mut socket: &TcpStream) -> Vec<u8> {
    let mut size = [0; 4];
    socket.read_exact(&mut size).unwrap();
    let mut bytes = vec![0; i32::from_be_bytes(size) as usize];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

/// The next answer, and what it answers.
fn next_answer<T: Decodable>(socket: &TcpStream, api: ApiKey, version: i16) -> (i32, T) {
    let mut bytes = BytesMut::from(&next(socket)[..]).freeze();
    let header = ResponseHeader::decode(&mut bytes, api.response_header_version(version)).unwrap();
    (header.correlation_id, T::decode(&mut bytes, version).unwrap())
}

fn send(mut socket: &TcpStream, bytes: &[u8]) {
    socket.write_all(bytes).unwrap();
}

fn produce(correlation: i32, topics: &[&str], acks: i16, records: usize) -> Vec<u8> {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let records = Some(Bytes::from(vec![7; records]));
    let of = |name: &&str| {
        let partition = PartitionProduceData::default().with_records(records.clone());
        TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![partition])
    };
    let topics = topics.iter().map(of).collect();
    let body = ProduceRequest::default().with_acks(acks).with_topic_data(topics);
    request(ApiKey::Produce, 9, correlation, &body)
}

fn heartbeat(correlation: i32) -> Vec<u8> {
    request(ApiKey::Heartbeat, 4, correlation, &HeartbeatRequest::default())
}

fn beat(correlation: i32) -> Vec<u8> {
    answer(ApiKey::Heartbeat, 4, correlation, &HeartbeatResponse::default())
}

fn heard(client: &TcpStream) -> (i32, i16) {
    let (correlation, body) = next_answer::<HeartbeatResponse>(client, ApiKey::Heartbeat, 4);
    (correlation, body.error_code)
}

/// Correlation id and errors of a refusal to produce.
fn refused(client: &TcpStream) -> (i32, Vec<i16>) {
    let (correlation, body) = next_answer::<ProduceResponse>(client, ApiKey::Produce, 9);
    let partitions = body.responses.into_iter().flat_map(|topic| topic.partition_responses);
    (correlation, partitions.map(|partition| partition.error_code).collect())
}

#[test]
fn refusals_take_their_turn_among_answers() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let client = kit.connect();
    let broker = server.accept();
    let all = [heartbeat(1), produce(2, &["orders", "secret"], 1, 10), heartbeat(3)].concat();
    send(&client, &[all, produce(4, &["secret"], -1, 10), produce(5, &["orders"], 1, 10)].concat());
    // the broker sees what is allowed, as it was sent
    for expected in [heartbeat(1), heartbeat(3), produce(5, &["orders"], 1, 10)] {
        assert_eq!(next(&broker), expected[4..]);
    }
    kit.eventually(|stats| (stats.kafka_requests, stats.kafka_refused) == (5, 2));
    send(&broker, &beat(1));
    assert_eq!(heard(&client), (1, 0));
    assert_eq!(refused(&client), (2, vec![29, 29]));
    // nothing follows until the broker has answered
    client.set_nonblocking(true).unwrap();
    assert!((&client).read(&mut [0]).is_err());
    client.set_nonblocking(false).unwrap();
    send(&broker, &beat(3)[..6]);
    send(&broker, &beat(3)[6..]);
    assert_eq!(heard(&client), (3, 0));
    assert_eq!(refused(&client), (4, vec![29]));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&broker), "");
    send(&broker, &answer(ApiKey::Produce, 9, 5, &ProduceResponse::default()));
    drop(broker);
    assert_eq!(refused(&client), (5, vec![]));
    assert_eq!(rest(&client), "");
    kit.eventually(|stats| stats.open_connections == 0 && stats.kafka_closed == 0);
}

#[test]
fn what_is_not_answered_ends_the_connection_when_refused() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let unknown = message(vec![0x7f, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff]);
    let acls = request(ApiKey::DescribeAcls, 3, 9, &DescribeAclsRequest::default());
    let handshake = request(ApiKey::SaslHandshake, 0, 9, &SaslHandshakeRequest::default());
    let old = message(vec![0, 0, 0, 2, 0, 0, 0, 9, 0xff, 0xff]);
    let cases = [produce(9, &["secret"], 0, 10), unknown, acls, handshake, old];
    for (n, last) in (1..).zip(cases) {
        let client = kit.connect();
        let broker = server.accept();
        // an allowed one without acknowledgement has no answer to wait for
        let ahead = [produce(7, &["orders"], 0, 10), heartbeat(8)].concat();
        send(&client, &[&ahead[..], &last, &heartbeat(10)].concat());
        assert_eq!(next(&broker), produce(7, &["orders"], 0, 10)[4..]);
        assert_eq!(next(&broker), heartbeat(8)[4..]);
        kit.eventually(|stats| stats.kafka_closed == n);
        send(&broker, &beat(8));
        assert_eq!(heard(&client), (8, 0), "what came before is answered");
        assert_eq!(rest(&client), "");
        assert_eq!(rest(&broker), "");
    }
    kit.eventually(|stats| stats.open_connections == 0);
}

#[test]
fn a_large_request_is_streamed_and_stops_where_it_is_refused() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let megabytes = 10 << 20;
    let allowed = produce(1, &["orders", "orders"], 1, megabytes);
    let (client, broker) = (kit.connect(), server.accept());
    std::thread::scope(|scope| {
        scope.spawn(|| send(&client, &allowed));
        assert!(next(&broker) == allowed[4..], "it has arrived as it was sent");
    });
    send(&broker, &answer(ApiKey::Produce, 9, 1, &ProduceResponse::default()));
    assert_eq!(refused(&client), (1, vec![]));
    // refused before anything has gone on: the connection goes on
    send(&client, &produce(2, &["secret", "orders"], 1, megabytes));
    assert_eq!(refused(&client), (2, vec![29, 29]));
    send(&client, &heartbeat(3));
    assert_eq!(next(&broker), heartbeat(3)[4..]);
    // refused in the middle: the broker never gets a whole request
    let mixed = produce(4, &["orders", "secret"], 1, megabytes);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // it may be reset before all is sent
            let _ = (&client).write_all(&mixed);
        });
        let mut all = Vec::new();
        assert!((&broker).read_to_end(&mut all).is_err(), "a reset");
        assert!(all.len() < mixed.len() - megabytes, "{}", all.len());
    });
    kit.eventually(|stats| stats.kafka_closed == 1 && stats.open_connections == 0);
    // too long for what is no Produce, and for anything
    for size in [3 << 20, i32::MAX, -1] {
        let (client, _broker) = (kit.connect(), server.accept());
        let head = [&i32::to_be_bytes(size)[..], &heartbeat(1)[4..]].concat();
        send(&client, &head);
        let mut read = [0];
        assert!(!matches!((&client).read(&mut read), Ok(1..)), "{size}");
    }
    kit.eventually(|stats| stats.open_connections == 0);
}

fn fetch(correlation: i32, session: (i32, i32), topics: &[&str]) -> Vec<u8> {
    use fetch_request::{FetchPartition, FetchTopic};
    let of = |name: &&str| {
        let partitions = vec![FetchPartition::default()];
        FetchTopic::default().with_topic(topic(name)).with_partitions(partitions)
    };
    let body = FetchRequest::default()
        .with_session_id(session.0)
        .with_session_epoch(session.1)
        .with_topics(topics.iter().map(of).collect());
    request(ApiKey::Fetch, 12, correlation, &body)
}

fn fetched(client: &TcpStream) -> (i32, i16, Vec<i16>) {
    let (correlation, body) = next_answer::<FetchResponse>(client, ApiKey::Fetch, 12);
    let partitions = body.responses.into_iter().flat_map(|topic| topic.partitions);
    (correlation, body.error_code, partitions.map(|partition| partition.error_code).collect())
}

#[test]
fn a_session_is_whose_it_is_and_judged_anew() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let (client, broker) = (kit.connect(), server.accept());
    let ask = |correlation, session, topics: &[&str]| {
        let asked = fetch(correlation, session, topics);
        send(&client, &asked);
        asked
    };
    let begin = |correlation| {
        let asked = ask(correlation, (0, 0), &["orders"]);
        assert_eq!(next(&broker), asked[4..]);
        let body = FetchResponse::default().with_session_id(42);
        send(&broker, &answer(ApiKey::Fetch, 12, correlation, &body));
        assert_eq!(fetched(&client), (correlation, 0, vec![]));
    };
    let go_on = |correlation, topics: &[&str]| {
        let asked = ask(correlation, (42, 1), topics);
        assert_eq!(next(&broker), asked[4..]);
        send(&broker, &answer(ApiKey::Fetch, 12, correlation, &FetchResponse::default()));
        assert_eq!(fetched(&client), (correlation, 0, vec![]));
    };
    // another's
    ask(1, (42, 1), &[]);
    assert_eq!(fetched(&client), (1, 70, vec![]));
    begin(2);
    go_on(3, &[]);
    go_on(4, &["orders"]);
    ask(5, (43, 1), &["orders"]);
    assert_eq!(fetched(&client), (5, 70, vec![]));
    ask(6, (42, 2), &["secret"]);
    assert_eq!(fetched(&client), (6, 0, vec![29]));
    // its topic is not allowed any more
    let nothing = Some(vec![KafkaRule {
        from: Vec::new(),
        allow: vec![KafkaAllow {
            topics: vec![KafkaName::Exact("other".to_owned())],
            ..KafkaAllow::default()
        }],
    }]);
    kit.mesh.send_replace(Arc::new(brokers(&server, nothing)));
    ask(7, (42, 2), &[]);
    assert_eq!(fetched(&client), (7, 70, vec![]));
    ask(8, (0, 0), &["orders"]);
    assert_eq!(fetched(&client), (8, 0, vec![29]));
    kit.mesh.send_replace(Arc::new(brokers(&server, orders())));
    begin(9);
    // without a policy all passes
    kit.mesh.send_replace(Arc::new(brokers(&server, None)));
    let asked = ask(10, (1, 1), &["secret"]);
    assert_eq!(next(&broker), asked[4..]);
}

#[test]
fn ids_have_the_names_that_the_broker_has_told() {
    use fetch_request::{FetchPartition, FetchTopic};
    use metadata_response::MetadataResponseTopic;
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let (client, broker) = (kit.connect(), server.accept());
    let (known, secret) = (uuid::Uuid::from_u64_pair(1, 1), uuid::Uuid::from_u64_pair(1, 2));
    let ask = |client: &TcpStream, correlation, id| {
        let partitions = vec![FetchPartition::default()];
        let of = FetchTopic::default().with_topic_id(id).with_partitions(partitions);
        let body = FetchRequest::default().with_topics(vec![of]);
        let asked = request(ApiKey::Fetch, 13, correlation, &body);
        send(client, &asked);
        asked
    };
    let errors = |client: &TcpStream| {
        let (_, body) = next_answer::<FetchResponse>(client, ApiKey::Fetch, 13);
        body.responses[0].partitions[0].error_code
    };
    ask(&client, 1, known);
    assert_eq!(errors(&client), 100, "ask for metadata");
    let body = MetadataRequest::default().with_topics(None);
    send(&client, &request(ApiKey::Metadata, 12, 2, &body));
    next(&broker);
    let told =
        |name, id| MetadataResponseTopic::default().with_name(Some(topic(name))).with_topic_id(id);
    let body = MetadataResponse::default()
        .with_topics(vec![told("secret", secret), told("orders", known)]);
    send(&broker, &answer(ApiKey::Metadata, 12, 2, &body));
    let (_, body) = next_answer::<MetadataResponse>(&client, ApiKey::Metadata, 12);
    assert_eq!(body.topics, [told("orders", known)], "of all topics those that are allowed");
    // on other connections too
    let (client, broker) = (kit.connect(), server.accept());
    ask(&client, 3, secret);
    assert_eq!(errors(&client), 29);
    let asked = ask(&client, 4, known);
    assert_eq!(next(&broker), asked[4..]);
}

#[test]
fn answers_that_nobody_has_asked_for_end_the_connection() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let (client, broker) = (kit.connect(), server.accept());
    send(&broker, &beat(1));
    expect_reset(&client);
    let (client, broker) = (kit.connect(), server.accept());
    send(&client, &heartbeat(1));
    next(&broker);
    send(&broker, &beat(2));
    expect_reset(&client);
    kit.eventually(|stats| stats.open_connections == 0);
}

#[test]
fn who_does_not_read_is_not_read_from() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let (client, broker) = (kit.connect(), server.accept());
    // the broker owes the first answer, and refusals wait behind it
    send(&client, &heartbeat(0));
    client.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let refused_one = produce(1, &["secret"], 1, 1000);
    let mut sent = 0;
    while (&client).write_all(&refused_one).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "nothing holds it back");
    }
    let stats = kit.proxy.as_ref().unwrap().stats();
    assert!(stats.kafka_refused <= 256, "{}", stats.kafka_refused);
    next(&broker);
    send(&broker, &beat(0));
    assert_eq!(heard(&client), (0, 0));
    for _ in 0..sent {
        assert_eq!(refused(&client), (1, vec![29]));
    }
}

#[test]
fn a_connection_that_nobody_judges_ends_when_a_policy_comes() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, None));
    let (client, broker) = (kit.connect(), server.accept());
    send(&client, &[heartbeat(1), produce(2, &["secret"], 1, 10)].concat());
    assert_eq!(next(&broker), heartbeat(1)[4..]);
    assert_eq!(next(&broker), produce(2, &["secret"], 1, 10)[4..]);
    kit.mesh.send_replace(Arc::new(brokers(&server, orders())));
    expect_reset(&client);
    expect_reset(&broker);
}

#[test]
fn bytes_of_any_kind_end_in_order_or_with_a_reset() {
    let server = Server::new();
    let kit = Kit::new(brokers(&server, orders()));
    let mut random = fastrand::Rng::with_seed(5);
    let pool = [heartbeat(1), produce(2, &["secret"], 1, 50), fetch(3, (0, 0), &["secret"])];
    for _ in 0..300 {
        let (client, broker) = (kit.connect(), server.accept());
        let mut bytes = pool[random.usize(..pool.len())].clone();
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
        let bytes = [bytes, (0..random.usize(..200)).map(|_| random.u8(..)).collect()].concat();
        // it may be closed before all is sent
        let _ = (&client).write_all(&bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        // one that answers nothing may be waited for
        broker.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let _ = (&broker).read_to_end(&mut Vec::new());
        drop(broker);
        let _ = (&client).read_to_end(&mut Vec::new());
    }
    kit.eventually(|stats| stats.open_connections == 0);
}
