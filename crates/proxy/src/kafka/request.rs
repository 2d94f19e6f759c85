//! What a Kafka request asks for, and of which topics. The layout of each API is that of the message
//! definitions of Apache Kafka 4.1. (The crate for the protocol, which writes our answers, allocates
//! what a request says that it needs: it never reads what clients send.)

use std::ops::Range;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{StrBytes, VersionRange};
use uuid::Uuid;

use super::produce::{Produce, Step};
use super::wire::{Fault, Read, Wire};

/// What every request begins with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub api: ApiKey,
    pub version: i16,
    pub correlation: i32,
    pub client_id: Option<StrBytes>,
}

/// A request, as far as policies look at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub head: Head,
    pub topics: Topics,
    pub detail: Detail,
}

/// The topics of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Topics {
    /// Its API knows none.
    None,
    /// All there are, or which is not told.
    All,
    /// These.
    Named(Vec<Topic>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Topic {
    /// `None`: it is named by its id.
    pub name: Option<StrBytes>,
    pub id: Uuid,
    pub partitions: Vec<i32>,
}

/// What else is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Detail {
    Other,
    Produce {
        /// Acknowledgements asked for; 0: there is no answer.
        acks: i16,
    },
    Fetch {
        session: i32,
        epoch: i32,
    },
    Metadata {
        /// Where the list of topics is, in the request after its size.
        list: Range<usize>,
        /// And each topic of it.
        each: Vec<Range<usize>>,
    },
    /// Groups, and how many of the topics are of each.
    Groups(Vec<(StrBytes, usize)>),
    /// What coordinators are looked for.
    Coordinators(Vec<StrBytes>),
}

/// The versions of an API that can be read and answered here.
pub(crate) fn versions(api: ApiKey) -> VersionRange {
    let known = api.valid_versions();
    match api {
        // version 10 has topics by id, which nobody here can write
        ApiKey::OffsetCommit | ApiKey::OffsetFetch => VersionRange { max: 9, ..known },
        // after version 0 what follows is no Kafka
        ApiKey::SaslHandshake => VersionRange { min: 1, ..known },
        _ => known,
    }
}

impl Head {
    /// Reads it. What follows is the API's.
    pub fn read(wire: &mut Wire<'_>) -> Read<Head> {
        let (api, version, correlation) = (wire.i16()?, wire.i16()?, wire.i32()?);
        let api = ApiKey::try_from(api).map_err(|()| Fault::Broken("its API is not known"))?;
        let known = versions(api);
        // a broker answers those that it does not know, in a way that clients understand
        let any = api == ApiKey::ApiVersions && version > known.max;
        if !any && !(known.min..=known.max).contains(&version) {
            return Err(Fault::Broken("its version is not known"));
        }
        let client_id = wire.nullable_text()?;
        wire.flexible = api.request_header_version(version) >= 2;
        wire.tags()?;
        Ok(Head { api, version, correlation, client_id })
    }
}

impl Request {
    /// Reads a request after its size. Bytes may follow its end, as they may for a broker: librdkafka
    /// 2.16 leaves three behind when it asks for all topics.
    pub fn read(bytes: &[u8]) -> Read<Request> {
        let mut wire = Wire::new(bytes);
        let head = Head::read(&mut wire)?;
        let (topics, detail) = body(&head, &mut wire)?;
        Ok(Request { head, topics, detail })
    }
}

fn body(head: &Head, wire: &mut Wire<'_>) -> Read<(Topics, Detail)> {
    let version = head.version;
    let topics = match head.api {
        ApiKey::Produce => return produce(version, wire),
        ApiKey::Fetch => return fetch(version, wire),
        ApiKey::Metadata => return metadata(version, wire),
        ApiKey::OffsetFetch => return offset_fetch(version, wire),
        ApiKey::FindCoordinator => return find_coordinator(version, wire),
        ApiKey::ListOffsets => list_offsets(version, wire)?,
        ApiKey::OffsetCommit => offset_commit(version, wire)?,
        ApiKey::CreateTopics => create_topics(version, wire)?,
        ApiKey::DeleteTopics => delete_topics(version, wire)?,
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch(version, wire)?,
        other => {
            let named = beeway_model::kafka::kafka_names_topics(other as i16);
            return Ok((if named { Topics::All } else { Topics::None }, Detail::Other));
        }
    };
    Ok((Topics::Named(topics), Detail::Other))
}

/// Topics by name, and partitions of which only the index is of interest, which comes first.
fn by_name(
    wire: &mut Wire<'_>,
    mut rest: impl FnMut(&mut Wire<'_>) -> Read<()>,
) -> Read<Vec<Topic>> {
    wire.list(|wire| {
        let name = Some(wire.text()?);
        let partitions = wire.list(|wire| {
            let index = wire.i32()?;
            rest(wire)?;
            wire.tags()?;
            Ok(index)
        })?;
        wire.tags()?;
        Ok(Topic { name, id: Uuid::nil(), partitions })
    })
}

fn produce(version: i16, wire: &mut Wire<'_>) -> Read<(Topics, Detail)> {
    let mut produce = Produce::new(version);
    let mut topics: Vec<Topic> = Vec::new();
    let mut acks = 0;
    loop {
        match produce.step(wire)? {
            Step::Start { acks: wanted } => acks = wanted,
            Step::Topic(topic) => topics.push(topic),
            Step::Partition { index, records } => {
                topics.last_mut().expect("it is of a topic").partitions.push(index);
                wire.take(records)?;
            }
            Step::Other => {}
            Step::End => return Ok((Topics::Named(topics), Detail::Produce { acks })),
        }
    }
}

fn fetch(version: i16, wire: &mut Wire<'_>) -> Read<(Topics, Detail)> {
    // replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level
    wire.take(if version <= 14 { 17 } else { 13 })?;
    let (session, epoch) = if version >= 7 { (wire.i32()?, wire.i32()?) } else { (0, -1) };
    let topics = wire.list(|wire| {
        let (name, id) = name_or_id(wire, version >= 13)?;
        let partitions = wire.list(|wire| {
            let index = wire.i32()?;
            // fetch_offset, partition_max_bytes, and those that came with later versions
            let later = [(5, 8), (9, 4), (12, 4)].iter().filter(|(since, _)| version >= *since);
            wire.take(12 + later.map(|(_, size)| size).sum::<usize>())?;
            wire.tags()?;
            Ok(index)
        })?;
        wire.tags()?;
        Ok(Topic { name, id, partitions })
    })?;
    if version >= 7 {
        let forgotten = |wire: &mut Wire<'_>| {
            name_or_id(wire, version >= 13)?;
            wire.list(Wire::i32)?;
            wire.tags()
        };
        wire.list(forgotten)?;
    }
    if version >= 11 {
        wire.text()?;
    }
    wire.tags()?;
    Ok((Topics::Named(topics), Detail::Fetch { session, epoch }))
}

fn name_or_id(wire: &mut Wire<'_>, by_id: bool) -> Read<(Option<StrBytes>, Uuid)> {
    Ok(if by_id { (None, wire.uuid()?) } else { (Some(wire.text()?), Uuid::nil()) })
}

fn metadata(version: i16, wire: &mut Wire<'_>) -> Read<(Topics, Detail)> {
    let from = wire.at();
    let (mut topics, mut each) = (Vec::new(), Vec::new());
    let count = wire.nullable_count()?;
    for _ in 0..count.unwrap_or(0) {
        let from = wire.at();
        let id = if version >= 10 { wire.uuid()? } else { Uuid::nil() };
        let name = if version >= 10 { wire.nullable_text()? } else { Some(wire.text()?) };
        wire.tags()?;
        topics.push(Topic { name, id, partitions: Vec::new() });
        each.push(from..wire.at());
    }
    let list = from..wire.at();
    // allow_auto_topic_creation, include_cluster_.. and include_topic_authorized_operations
    wire.take([4..=13, 8..=10, 8..=13].iter().filter(|since| since.contains(&version)).count())?;
    wire.tags()?;
    let all = count.is_none() || (version == 0 && count == Some(0));
    let topics = if all { Topics::All } else { Topics::Named(topics) };
    Ok((topics, Detail::Metadata { list, each }))
}

fn list_offsets(version: i16, wire: &mut Wire<'_>) -> Read<Vec<Topic>> {
    wire.take(if version >= 2 { 5 } else { 4 })?;
    let topics = by_name(wire, |wire| {
        wire.take(if version >= 4 { 12 } else { 8 })?;
        Ok(())
    })?;
    wire.take(if version >= 10 { 4 } else { 0 })?;
    wire.tags()?;
    Ok(topics)
}

fn offset_commit(version: i16, wire: &mut Wire<'_>) -> Read<Vec<Topic>> {
    wire.text()?;
    wire.i32()?;
    wire.text()?;
    if version >= 7 {
        wire.nullable_text()?;
    }
    wire.take(if version <= 4 { 8 } else { 0 })?;
    let topics = by_name(wire, |wire| {
        wire.take(if version >= 6 { 12 } else { 8 })?;
        wire.nullable_text()?;
        Ok(())
    })?;
    wire.tags()?;
    Ok(topics)
}

fn offset_fetch(version: i16, wire: &mut Wire<'_>) -> Read<(Topics, Detail)> {
    let mut topics = Vec::new();
    let mut groups = Vec::new();
    let mut all = false;
    let mut group = |wire: &mut Wire<'_>| {
        let group = wire.text()?;
        if version >= 9 {
            wire.nullable_text()?;
            wire.i32()?;
        }
        let count = wire.nullable_count()?;
        for _ in 0..count.unwrap_or(0) {
            let name = Some(wire.text()?);
            let partitions = wire.list(Wire::i32)?;
            wire.tags()?;
            topics.push(Topic { name, id: Uuid::nil(), partitions });
        }
        all |= count.is_none();
        groups.push((group, count.unwrap_or(0)));
        if version >= 8 { wire.tags() } else { Ok(()) }
    };
    match version {
        ..=7 => group(wire)?,
        _ => drop(wire.list(group)?),
    }
    wire.take(if version >= 7 { 1 } else { 0 })?;
    wire.tags()?;
    let detail = if version >= 8 { Detail::Groups(groups) } else { Detail::Other };
    Ok((if all { Topics::All } else { Topics::Named(topics) }, detail))
}

fn find_coordinator(version: i16, wire: &mut Wire<'_>) -> Read<(Topics, Detail)> {
    let keys = match version {
        ..=3 => vec![wire.text()?],
        _ => {
            wire.i8()?;
            wire.list(Wire::text)?
        }
    };
    Ok((Topics::None, Detail::Coordinators(keys)))
}

fn create_topics(version: i16, wire: &mut Wire<'_>) -> Read<Vec<Topic>> {
    let topics = wire.list(|wire| {
        let name = Some(wire.text()?);
        // num_partitions, replication_factor
        wire.take(6)?;
        wire.list(|wire| {
            wire.i32()?;
            wire.list(Wire::i32)?;
            wire.tags()
        })?;
        wire.list(|wire| {
            wire.text()?;
            wire.nullable_text()?;
            wire.tags()
        })?;
        wire.tags()?;
        Ok(Topic { name, ..Topic::default() })
    })?;
    // timeout_ms, validate_only
    wire.take(if version >= 1 { 5 } else { 4 })?;
    wire.tags()?;
    Ok(topics)
}

fn delete_topics(version: i16, wire: &mut Wire<'_>) -> Read<Vec<Topic>> {
    let topics = wire.list(|wire| {
        if version < 6 {
            return Ok(Topic { name: Some(wire.text()?), ..Topic::default() });
        }
        let name = wire.nullable_text()?;
        let id = wire.uuid()?;
        wire.tags()?;
        Ok(Topic { name, id, partitions: Vec::new() })
    })?;
    wire.i32()?;
    wire.tags()?;
    Ok(topics)
}

fn offset_for_leader_epoch(version: i16, wire: &mut Wire<'_>) -> Read<Vec<Topic>> {
    wire.take(if version >= 3 { 4 } else { 0 })?;
    let topics = by_name(wire, |wire| {
        wire.take(8)?;
        Ok(())
    })?;
    wire.tags()?;
    Ok(topics)
}
