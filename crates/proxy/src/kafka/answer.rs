//! Answers of brokers that are looked into: what there is (Metadata), what can be asked
//! (ApiVersions), and under which session a client fetches.

use std::ops::Range;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{ApiKey, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use uuid::Uuid;

use super::request::{Topic, versions};
use super::wire::{Read, Wire, put_count};

/// A topic in an answer to Metadata.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    pub name: Option<StrBytes>,
    pub id: Uuid,
    place: Range<usize>,
}

/// An answer to Metadata.
#[derive(Debug, PartialEq)]
pub(crate) struct Metadata {
    flexible: bool,
    /// Where the list of topics is, in the answer after its size.
    list: Range<usize>,
    pub topics: Vec<Told>,
}

/// The answer's head, after its correlation id.
fn head<'a>(bytes: &'a [u8], api: ApiKey, version: i16) -> Read<Wire<'a>> {
    let mut wire = Wire::new(bytes);
    wire.i32()?;
    wire.flexible = api.response_header_version(version) >= 1;
    wire.tags()?;
    Ok(wire)
}

impl Metadata {
    /// Reads an answer after its size.
    pub fn read(bytes: &[u8], version: i16) -> Read<Metadata> {
        let mut wire = head(bytes, ApiKey::Metadata, version)?;
        let wire = &mut wire;
        wire.take(if version >= 3 { 4 } else { 0 })?;
        wire.list(|wire| {
            wire.i32()?;
            wire.text()?;
            wire.i32()?;
            if version >= 1 {
                wire.nullable_text()?;
            }
            wire.tags()
        })?;
        if version >= 2 {
            wire.nullable_text()?;
        }
        wire.take(if version >= 1 { 4 } else { 0 })?;
        let from = wire.at();
        let topics = wire.list(|wire| topic(wire, version))?;
        let list = from..wire.at();
        // cluster_authorized_operations, error_code
        wire.take(if (8..=10).contains(&version) { 4 } else { 0 })?;
        wire.take(if version >= 13 { 2 } else { 0 })?;
        wire.tags()?;
        Ok(Metadata { flexible: wire.flexible, list, topics })
    }

    /// The answer with only the topics that are kept, and `more`; with its size. `None`: it is what
    /// it was.
    pub fn rewritten(
        &self,
        bytes: &[u8],
        version: i16,
        keep: impl Fn(&Told) -> bool,
        more: &[(Topic, i16)],
    ) -> Option<Vec<u8>> {
        let kept: Vec<&Told> = self.topics.iter().filter(|topic| keep(topic)).collect();
        if more.is_empty() && kept.len() == self.topics.len() {
            return None;
        }
        let mut list = Vec::new();
        put_count(&mut list, kept.len() + more.len(), self.flexible);
        kept.iter().for_each(|topic| list.extend(&bytes[topic.place.clone()]));
        for (topic, error) in more {
            refused_topic(topic, *error, version)
                .encode(&mut list, version)
                .expect("a topic has an answer in each version that is read");
        }
        Some(replaced(bytes, &self.list, &list))
    }
}

fn topic(wire: &mut Wire<'_>, version: i16) -> Read<Told> {
    let from = wire.at();
    wire.i16()?;
    let name = if version >= 12 { wire.nullable_text()? } else { Some(wire.text()?) };
    let id = if version >= 10 { wire.uuid()? } else { Uuid::nil() };
    wire.take(if version >= 1 { 1 } else { 0 })?;
    wire.list(|wire| {
        // error_code, partition_index, leader_id, leader_epoch
        wire.take(if version >= 7 { 14 } else { 10 })?;
        wire.list(Wire::i32)?;
        wire.list(Wire::i32)?;
        if version >= 5 {
            wire.list(Wire::i32)?;
        }
        wire.tags()
    })?;
    wire.take(if version >= 8 { 4 } else { 0 })?;
    wire.tags()?;
    Ok(Told { name, id, place: from..wire.at() })
}

/// What is said of a topic that somebody may not ask for.
pub(crate) fn refused_topic(topic: &Topic, error: i16, version: i16) -> MetadataResponseTopic {
    let name = topic.name.clone().or_else(|| (version < 12).then(StrBytes::new));
    MetadataResponseTopic::default()
        .with_error_code(error)
        .with_name(name.map(TopicName))
        .with_topic_id(if version >= 10 { topic.id } else { Uuid::nil() })
}

/// Why a topic is refused: clients that hear of an unknown id ask for metadata, and the name of the
/// topic is known then.
pub(crate) fn topic_error(topic: &Topic) -> i16 {
    match topic.name {
        Some(_) => ResponseError::TopicAuthorizationFailed.code(),
        None => ResponseError::UnknownTopicId.code(),
    }
}

/// A request for metadata of some of its topics only; with its size.
pub(crate) fn narrowed(
    bytes: &[u8],
    version: i16,
    list: &Range<usize>,
    kept: &[&Range<usize>],
) -> Vec<u8> {
    let mut topics = Vec::new();
    put_count(&mut topics, kept.len(), ApiKey::Metadata.request_header_version(version) >= 2);
    kept.iter().for_each(|place| topics.extend(&bytes[(*place).clone()]));
    replaced(bytes, list, &topics)
}

/// A message in which something stands in another's place; with its size.
fn replaced(bytes: &[u8], place: &Range<usize>, by: &[u8]) -> Vec<u8> {
    let (before, after) = (&bytes[..place.start], &bytes[place.end..]);
    let size = before.len() + by.len() + after.len();
    let mut message = Vec::with_capacity(4 + size);
    message.extend((size as i32).to_be_bytes());
    [before, by, after].iter().for_each(|part| message.extend(*part));
    message
}

/// Lets an answer to ApiVersions, after its size, offer no version that cannot be read here.
pub(crate) fn limit_versions(bytes: &mut [u8], version: i16) -> Read<()> {
    let mut places = Vec::new();
    let mut wire = Wire::new(bytes);
    wire.i32()?;
    // a version that the broker does not know is answered as version 0 is (KIP-511)
    let unsupported = wire.i16()? == ResponseError::UnsupportedVersion.code();
    wire.flexible = version >= 3 && !unsupported;
    wire.list(|wire| {
        let key = wire.i16()?;
        wire.i16()?;
        let at = wire.at();
        let offered = wire.i16()?;
        if let Ok(api) = ApiKey::try_from(key)
            && offered > versions(api).max
        {
            places.push((at, versions(api).max));
        }
        wire.tags()
    })?;
    for (at, max) in places {
        bytes[at..at + 2].copy_from_slice(&max.to_be_bytes());
    }
    Ok(())
}

/// The session of an answer to Fetch of version 7 or later, from its first bytes after the size.
/// 0: there is none.
pub(crate) fn session(bytes: &[u8], version: i16) -> Read<i32> {
    let mut wire = head(bytes, ApiKey::Fetch, version)?;
    // throttle_time_ms, error_code
    wire.take(6)?;
    wire.i32()
}
