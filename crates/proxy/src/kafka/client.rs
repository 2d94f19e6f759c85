//! From client to broker: requests.

use std::io;

use kafka_protocol::messages::ApiKey;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;

use super::pending::{Look, Next};
use super::produce::{Produce, Step};
use super::request::{Detail, Head, Request, Topics};
use super::source::{Source, cut_off};
use super::wire::{Fault, Wire};
use super::{Decision, Filter, allows, refusal};
use crate::limits::KAFKA_HELD;

impl Filter<'_> {
    /// Serves requests until there are no more, or one ends the connection.
    pub async fn serve_requests(
        &self,
        source: &mut Source<'_>,
        broker: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        loop {
            self.pending.room().await;
            let Some(size) = source.size().await? else {
                return broker.shutdown().await;
            };
            self.core.counters.bytes_in.add(4 + size as u64);
            let goes_on = match size > KAFKA_HELD {
                true => self.large(source, broker, size).await?,
                false => self.request(source, broker, size).await?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Serves a request that is held as a whole. False: it ends the connection.
    async fn request(
        &self,
        source: &mut Source<'_>,
        broker: &mut WriteHalf<'_>,
        size: usize,
    ) -> io::Result<bool> {
        let message = source.take(4 + size).await?;
        let bytes = &message[4..];
        let request = match Request::read(bytes) {
            Ok(request) => request,
            Err(fault) => return Ok(self.answer(self.end(fault.reason()))),
        };
        let correlation = request.head.correlation;
        match self.judge(request, bytes) {
            Decision::Instead(next) => Ok(self.answer(next)),
            Decision::Pass(instead, look) => {
                self.expect(correlation, look);
                let written = broker.write_all(instead.as_deref().unwrap_or(&message)).await;
                // a broker that is gone may have answered before
                Ok(written.is_ok())
            }
        }
    }

    /// Puts an answer of ours in its place. False: it ends the connection.
    fn answer(&self, next: Next) -> bool {
        let goes_on = !matches!(next, Next::End);
        self.pending.add(next);
        goes_on
    }

    fn expect(&self, correlation: i32, look: Option<Look>) {
        if let Some(look) = look {
            self.pending.add(Next::Broker { correlation, look });
        }
    }

    /// Serves a request that is longer than what is held. Its topics come one by one, with records
    /// between them: each is judged before it goes on. Where one is refused that is not the first,
    /// the broker has got a part already, and nothing but a reset keeps it from the rest.
    async fn large(
        &self,
        source: &mut Source<'_>,
        broker: &mut WriteHalf<'_>,
        size: usize,
    ) -> io::Result<bool> {
        let mut stream = Stream { source, left: 4 + size, read: 4, flexible: false, items: 0 };
        let head = stream.step(Head::read).await;
        let head = match head? {
            Ok(head) if head.api == ApiKey::Produce => head,
            Ok(_) => return Ok(self.answer(self.end("it is too long"))),
            Err(fault) => return Ok(self.answer(self.end(fault.reason()))),
        };
        stream.flexible = head.api.request_header_version(head.version) >= 2;
        let mut produce = Produce::new(head.version);
        let mut request =
            Request { head, topics: Topics::Named(Vec::new()), detail: Detail::Other };
        let mut sent = false;
        let mut refused = false;
        loop {
            let step = match stream.step(|wire| produce.step(wire)).await? {
                Ok(step) => step,
                Err(fault) if !sent => return Ok(self.answer(self.end(fault.reason()))),
                Err(fault) => return Err(self.broken(fault.reason())),
            };
            let Topics::Named(topics) = &mut request.topics else { unreachable!("it was made so") };
            match step {
                Step::Start { acks } => request.detail = Detail::Produce { acks },
                Step::Topic(topic) => {
                    topics.push(topic);
                    refused |= !self.may_produce(&mut request);
                    if refused && sent {
                        self.tell(&request, refusal::error(&request));
                        return Err(self.broken("a part of it is refused"));
                    }
                }
                Step::Partition { index, records } => {
                    let topic = topics.last_mut().expect("it is of a topic");
                    topic.partitions.push(index);
                    if !refused && !sent {
                        sent = true;
                        self.expect_large(&request);
                    }
                    let to = (!refused).then_some(&mut *broker);
                    stream.pass(records, to).await?;
                }
                Step::Other => {}
                Step::End => break,
            }
        }
        self.core.counters.kafka_requests.add(1);
        if refused {
            stream.pass_rest(None).await?;
            let message = refusal::refusal(&request);
            return Ok(match self.refuse(&request, refusal::error(&request), message) {
                Decision::Instead(next) => self.answer(next),
                Decision::Pass(..) => true,
            });
        }
        if !sent {
            return Ok(self.answer(self.end("it has no records")));
        }
        stream.pass_rest(Some(broker)).await?;
        Ok(true)
    }

    fn broken(&self, reason: &'static str) -> io::Error {
        let _ = self.end(reason);
        super::source::broken(reason)
    }

    fn expect_large(&self, request: &Request) {
        let answered = request.detail != Detail::Produce { acks: 0 };
        self.expect(request.head.correlation, answered.then_some(Look::Nothing));
    }

    /// Whether the last topic of a request is allowed.
    fn may_produce(&self, request: &mut Request) -> bool {
        let rules = self.rules();
        self.resolve(&rules, request);
        let grant = self.grant(&rules, request);
        let Topics::Named(topics) = &request.topics else { return false };
        grant.is_none_or(|grant| topics.last().is_some_and(|topic| allows(&grant, topic)))
    }
}

/// A message that is read in steps.
struct Stream<'s, 'a> {
    source: &'s mut Source<'a>,
    /// Bytes of it that were not passed on.
    left: usize,
    /// Bytes of these that were read in steps.
    read: usize,
    flexible: bool,
    items: usize,
}

impl Stream<'_, '_> {
    /// Reads something, with as many bytes as it needs.
    async fn step<T>(
        &mut self,
        mut read: impl FnMut(&mut Wire<'_>) -> Result<T, Fault>,
    ) -> io::Result<Result<T, Fault>> {
        loop {
            let bytes = self.source.bytes();
            let here = &bytes[self.read.min(bytes.len())..bytes.len().min(self.left)];
            let mut wire = Wire::new(here);
            wire.beyond = self.left - self.read - here.len();
            (wire.flexible, wire.items) = (self.flexible, self.items);
            match read(&mut wire) {
                Err(Fault::Short) if wire.beyond == 0 => return Ok(Err(Fault::Short)),
                Err(Fault::Short) if here.len() >= KAFKA_HELD => {
                    return Ok(Err(Fault::Broken("a part of it is too long")));
                }
                Err(Fault::Short) => {}
                Err(fault) => return Ok(Err(fault)),
                Ok(value) => {
                    self.items = wire.items;
                    self.read += wire.at();
                    return Ok(Ok(value));
                }
            }
            if self.source.read().await? == 0 {
                return Err(cut_off());
            }
        }
    }

    /// Hands on what was read in steps and so many bytes more, or throws them away.
    async fn pass(&mut self, more: usize, to: Option<&mut WriteHalf<'_>>) -> io::Result<()> {
        let n = self.read + more;
        self.source.pass(n, to).await?;
        (self.left, self.read) = (self.left - n, 0);
        Ok(())
    }

    /// The same with what is left of the message.
    async fn pass_rest(&mut self, to: Option<&mut WriteHalf<'_>>) -> io::Result<()> {
        self.pass(self.left - self.read, to).await
    }
}
