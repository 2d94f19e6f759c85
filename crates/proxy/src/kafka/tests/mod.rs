//! Messages that the protocol's own crate has written are read, what is written here it reads, and
//! bytes of any kind do no harm.

mod answers;
mod written;

use bytes::Bytes;
use kafka_protocol::messages::*;

use super::answer::{self, Metadata};
use super::produce::{Produce, Step};
use super::refusal;
use super::request::{Detail, Head, Request, Topic, Topics, versions};
use super::wire::{Fault, Wire};
use written::*;

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
    let mut body = list_offsets();
    body.unknown_tagged_fields.insert(9, Bytes::from_static(b"later"));
    body.topics[0].unknown_tagged_fields.insert(300, Bytes::new());
    body.topics[1].partitions[0].unknown_tagged_fields.insert(1, Bytes::from(vec![1; 200]));
    let request = Request::read(&written(ApiKey::ListOffsets, 10, &body)).unwrap();
    assert_eq!(request.topics, named(false, &[0, 5]));
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
            assert!(held(&request.topics) <= bytes.len());
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
