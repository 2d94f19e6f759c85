//! A Produce request, one step after the other: records may be longer than what is held of them.

use uuid::Uuid;

use super::request::Topic;
use super::wire::{Fault, Read, Wire};

/// A place in a Produce request behind its head.
#[derive(Debug)]
pub(crate) struct Produce {
    version: i16,
    stage: Stage,
    topics: usize,
    partitions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Start,
    /// A topic, or the end.
    Topic,
    /// A partition, or the end of its topic.
    Partition,
    /// What follows records.
    Records,
    End,
}

/// What comes next.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Start {
        acks: i16,
    },
    /// A topic, without its partitions yet.
    Topic(Topic),
    /// A partition of it. So many bytes of records follow, which the next step comes after.
    Partition {
        index: i32,
        records: usize,
    },
    Other,
    /// Nothing follows that matters.
    End,
}

impl Produce {
    pub fn new(version: i16) -> Produce {
        Produce { version, stage: Stage::Start, topics: 0, partitions: 0 }
    }

    /// Takes a step. [`Fault::Short`] can be tried again with more bytes: nothing is read then.
    pub fn step(&mut self, wire: &mut Wire<'_>) -> Read<Step> {
        let mut ahead = wire.clone();
        let (step, stage) = self.next(&mut ahead)?;
        match &step {
            Step::Topic(_) => self.topics -= 1,
            Step::Partition { .. } => self.partitions -= 1,
            _ => {}
        }
        self.stage = stage;
        *wire = ahead;
        Ok(step)
    }

    fn next(&mut self, wire: &mut Wire<'_>) -> Read<(Step, Stage)> {
        match self.stage {
            Stage::Start => {
                wire.nullable_text()?;
                let acks = wire.i16()?;
                wire.i32()?;
                self.topics = wire.count()?;
                Ok((Step::Start { acks }, Stage::Topic))
            }
            Stage::Topic if self.topics == 0 => {
                wire.tags()?;
                Ok((Step::End, Stage::End))
            }
            Stage::Topic => {
                let by_id = self.version >= 13;
                let name = if by_id { None } else { Some(wire.text()?) };
                let id = if by_id { wire.uuid()? } else { Uuid::nil() };
                self.partitions = wire.count()?;
                Ok((Step::Topic(Topic { name, id, partitions: Vec::new() }), Stage::Partition))
            }
            Stage::Partition if self.partitions == 0 => {
                wire.tags()?;
                Ok((Step::Other, Stage::Topic))
            }
            Stage::Partition => {
                let index = wire.i32()?;
                let records = wire.bytes_length()?;
                Ok((Step::Partition { index, records }, Stage::Records))
            }
            Stage::Records => {
                wire.tags()?;
                Ok((Step::Other, Stage::Partition))
            }
            Stage::End => Err(Fault::Broken("bytes follow its end")),
        }
    }
}
