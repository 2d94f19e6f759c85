//! From broker to client: answers, and between them the refusals whose turn it is.

use std::io;

use bytes::Buf;
use kafka_protocol::messages::ApiKey;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;

use super::answer::{self, Metadata, Told};
use super::pending::{Look, Next};
use super::source::{Source, broken};
use super::wire::Fault;
use super::{Filter, Session};
use crate::limits::KAFKA_ANSWER;

/// As much of an answer to Fetch as says which session it is of.
const SESSION_BYTES: usize = 64;

impl Filter<'_> {
    /// Serves answers until the broker has no more, or a refusal ends the connection.
    pub async fn serve_answers(
        &self,
        source: &mut Source<'_>,
        client: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        loop {
            while let Some(own) = self.pending.take_own() {
                match own {
                    Next::Refusal(message) => self.write(client, &message).await?,
                    _ => return Ok(()),
                }
            }
            tokio::select! {
                ready = source.readable() => ready?,
                () = self.pending.added() => continue,
            }
            let Some(size) = source.size().await? else { return Ok(()) };
            if size < 4 || !source.fill(8).await? {
                return Err(broken("an answer is cut off"));
            }
            let correlation = (&source.bytes()[4..8]).get_i32();
            let look = self.pending.take(correlation);
            let look = look.ok_or_else(|| broken("an answer that nobody has asked for"))?;
            self.answer_of_broker(source, client, size, look).await?;
        }
    }

    async fn write(&self, client: &mut WriteHalf<'_>, message: &[u8]) -> io::Result<()> {
        self.core.counters.bytes_out.add(message.len() as u64);
        client.write_all(message).await
    }

    async fn answer_of_broker(
        &self,
        source: &mut Source<'_>,
        client: &mut WriteHalf<'_>,
        size: usize,
        look: Look,
    ) -> io::Result<()> {
        match look {
            Look::Nothing => {}
            Look::Session { version, topics } => {
                if !source.fill(4 + size.min(SESSION_BYTES)).await? {
                    return Err(broken("an answer is cut off"));
                }
                let end = source.bytes().len().min(4 + size);
                let id = answer::session(&source.bytes()[4..end], version).map_err(not_read)?;
                *self.session.borrow_mut() = (id != 0).then_some(Session { id, topics });
            }
            Look::Versions { version } => {
                let mut message = self.whole(source, size).await?;
                answer::limit_versions(&mut message[4..], version).map_err(not_read)?;
                return self.write(client, &message).await;
            }
            Look::Metadata { version, client_id, refused } => {
                let message = self.whole(source, size).await?;
                let bytes = &message[4..];
                let metadata = Metadata::read(bytes, version).map_err(not_read)?;
                let rules = self.rules();
                let named = metadata.topics.iter();
                let named = named.filter_map(|topic| Some((topic.id, topic.name.clone()?)));
                self.core.kafka.learn(&rules.scope, named);
                let from = self.ends.client.ip().to_canonical();
                let grant = rules.grant(from, ApiKey::Metadata, client_id.as_ref());
                let keep = |topic: &Told| {
                    grant.as_ref().is_none_or(|grant| grant.allows_topic(topic.name.as_deref()))
                };
                let rewritten = metadata.rewritten(bytes, version, keep, &refused);
                return self.write(client, rewritten.as_deref().unwrap_or(&message)).await;
            }
        }
        self.core.counters.bytes_out.add(4 + size as u64);
        source.pass(4 + size, Some(client)).await
    }

    /// An answer with its size.
    async fn whole(&self, source: &mut Source<'_>, size: usize) -> io::Result<Vec<u8>> {
        if size > KAFKA_ANSWER {
            return Err(broken("an answer is too long"));
        }
        Ok(source.take(4 + size).await?.to_vec())
    }
}

fn not_read(fault: Fault) -> io::Error {
    broken(fault.reason())
}
