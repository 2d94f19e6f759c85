//! Connections to Kafka brokers that policies select, judged request by request.
//!
//! ```text
//! client ─► size ─► request ─► policies ─► broker        client.rs
//!                      └► refusal, in its place ┐        refusal.rs, pending.rs
//! client ◄──────────────── answers ◄────────────┴─ broker   broker.rs
//! ```
//!
//! What is allowed passes as it is, and so do answers, with three exceptions that make what is refused
//! look as it does with a broker's own authorizer, and keep what cannot be read from being asked:
//!
//! - A request for metadata goes on for the topics that are allowed, and the answer gets the others
//!   with their error; of all topics the answer tells only those that are allowed.
//! - An answer to ApiVersions offers no version that is not known here.
//! - A fetch under a session (KIP-227) passes only under one that this connection has begun, whose
//!   topics are all allowed now. Otherwise the client is told to begin anew.

mod answer;
mod broker;
mod client;
mod names;
mod pending;
mod produce;
mod refusal;
mod request;
mod source;
#[cfg(test)]
mod tests;
mod wire;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use beeway_model::{KafkaGrant, KafkaPolicy, kafka_grant};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;
use rustc_hash::FxHashSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use names::Names;

use crate::Anchor;
use crate::limits::{KAFKA_ITEMS, KAFKA_RECORD, LINGER, LINGER_BYTES};
use crate::listen::end_in_order;
use crate::record::Record;
use crate::view::View;
use crate::worker::Core;
use pending::{Key, Look, Next, Pending};
use request::{Detail, Request, Topic, Topics};
use source::Source;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub client: SocketAddr,
    pub anchor: Anchor,
    pub broker: SocketAddr,
}

/// Carries a connection to a broker to its end. `first` was read from the client. An error: one side
/// is gone, or what it says cannot be understood, and both should see a reset.
pub(crate) async fn carry(
    core: &Rc<Core>,
    ends: Ends,
    client: &mut TcpStream,
    broker: &mut TcpStream,
    first: Vec<u8>,
) -> io::Result<()> {
    let filter = Filter::new(core, ends);
    let ((from_client, mut to_client), (from_broker, mut to_broker)) =
        (client.split(), broker.split());
    let (mut asked, mut answered) =
        (Source::new(from_client, first), Source::new(from_broker, Vec::new()));
    {
        let mut up = pin!(filter.serve_requests(&mut asked, &mut to_broker));
        let mut down = pin!(filter.serve_answers(&mut answered, &mut to_client));
        tokio::select! {
            ended = &mut up => {
                ended?;
                down.await?;
            }
            ended = &mut down => ended?,
        }
    }
    end_in_order(client);
    end_in_order(broker);
    let _ = broker.shutdown().await;
    // What it has sent in vain must not turn into a reset that takes what it has not read yet.
    let _ = tokio::time::timeout(LINGER, drain(client)).await;
    Ok(())
}

async fn drain(client: &mut TcpStream) {
    let _ = client.shutdown().await;
    let mut bytes = vec![0; 16 * 1024];
    let mut left = LINGER_BYTES;
    while let Ok(n) = client.read(&mut bytes).await
        && n > 0
        && left > 0
    {
        left = left.saturating_sub(n as u64);
    }
}

/// A connection to a broker.
struct Filter<'a> {
    core: &'a Rc<Core>,
    ends: Ends,
    pending: Pending,
    session: RefCell<Option<Session>>,
    rules: RefCell<Option<Rc<Rules>>>,
}

/// The session under which the client fetches.
struct Session {
    id: i32,
    topics: FxHashSet<Key>,
}

/// What is in force for this broker.
struct Rules {
    view: Rc<View>,
    /// Indices of policies; `None`: none selects it.
    policies: Option<Vec<usize>>,
    /// Their names.
    scope: String,
}

impl Rules {
    fn new(view: Rc<View>, broker: SocketAddr) -> Rules {
        let selects = |policy: &KafkaPolicy| {
            let workload = view.workload_at(broker.ip().to_canonical());
            workload.is_some_and(|workload| policy.selects(workload))
        };
        let policies: Option<Vec<usize>> = view.is_broker(broker).then(|| {
            let all = view.mesh.kafka.iter().enumerate();
            all.filter(|(_, policy)| selects(policy)).map(|(at, _)| at).collect()
        });
        let names = policies.iter().flatten().map(|at| view.mesh.kafka[*at].name.as_str());
        let scope = names.collect::<Vec<_>>().join(", ");
        Rules { view, policies, scope }
    }

    /// What a client may do with an API; `None`: whatever it likes.
    fn grant(&self, from: IpAddr, api: ApiKey, id: Option<&StrBytes>) -> Option<KafkaGrant<'_>> {
        let policies = self.policies.as_ref()?.iter().map(|at| &self.view.mesh.kafka[*at]);
        let caller = self.view.workload_at(from);
        Some(kafka_grant(policies, caller, api as i16, id.map(StrBytes::as_str)))
    }
}

/// What is to be done with a request.
enum Decision {
    /// It passes as it is, or as this. `None`: there is no answer.
    Pass(Option<Vec<u8>>, Option<Look>),
    /// It does not.
    Instead(Next),
}

impl<'a> Filter<'a> {
    fn new(core: &'a Rc<Core>, ends: Ends) -> Filter<'a> {
        let (session, rules) = (RefCell::new(None), RefCell::new(None));
        Filter { core, ends, pending: Pending::default(), session, rules }
    }

    /// The rules of now.
    fn rules(&self) -> Rc<Rules> {
        let view = self.core.view();
        let mut rules = self.rules.borrow_mut();
        match &*rules {
            Some(same) if Rc::ptr_eq(&same.view, &view) => same.clone(),
            _ => rules.insert(Rc::new(Rules::new(view, self.ends.broker))).clone(),
        }
    }

    fn grant<'r>(&self, rules: &'r Rules, request: &Request) -> Option<KafkaGrant<'r>> {
        let head = &request.head;
        rules.grant(self.ends.anchor.caller, head.api, head.client_id.as_ref())
    }

    /// Judges a request, which stands here after its size.
    fn judge(&self, mut request: Request, bytes: &[u8]) -> Decision {
        self.core.counters.kafka_requests.add(1);
        let rules = self.rules();
        self.resolve(&rules, &mut request);
        let Some(grant) = self.grant(&rules, &request) else {
            let unanswered = request.detail == Detail::Produce { acks: 0 };
            return Decision::Pass(None, (!unanswered).then_some(Look::Nothing));
        };
        let allowed = match &request.topics {
            _ if !grant.allows() => false,
            Topics::None => true,
            Topics::All => grant.allows_any_topic() || request.head.api == ApiKey::Metadata,
            Topics::Named(topics) => topics.iter().all(|topic| allows(&grant, topic)),
        };
        match &request.detail {
            Detail::Metadata { list, each } if !allowed && grant.allows() => {
                self.narrowed(&grant, &request, bytes, list, each)
            }
            Detail::Fetch { session, epoch } if allowed && request.head.version >= 7 => {
                self.fetch(&grant, &request, *session, *epoch)
            }
            Detail::Produce { acks: 0 } if allowed => Decision::Pass(None, None),
            _ if allowed => Decision::Pass(None, Some(look(&request, Vec::new()))),
            _ => self.refuse(&request, refusal::error(&request), refusal::refusal(&request)),
        }
    }

    /// Fills in the names of topics that the request has by their ids.
    fn resolve(&self, rules: &Rules, request: &mut Request) {
        if let Topics::Named(topics) = &mut request.topics {
            for topic in topics.iter_mut().filter(|topic| topic.name.is_none()) {
                topic.name = self.core.kafka.find(&rules.scope, &topic.id);
            }
        }
    }

    /// Asks for metadata of the topics that are allowed.
    fn narrowed(
        &self,
        grant: &KafkaGrant<'_>,
        request: &Request,
        bytes: &[u8],
        list: &std::ops::Range<usize>,
        each: &[std::ops::Range<usize>],
    ) -> Decision {
        let Topics::Named(topics) = &request.topics else { unreachable!("all may be asked for") };
        let may = |topic: &Topic| allows(grant, topic);
        let kept = topics.iter().zip(each).filter(|(topic, _)| may(topic));
        let kept: Vec<_> = kept.map(|(_, place)| place).collect();
        let version = request.head.version;
        if kept.is_empty() && version == 0 {
            // an empty list stands for all topics there
            return self.refuse(request, refusal::error(request), refusal::refusal(request));
        }
        self.tell(request, refusal::error(request));
        let refused = topics.iter().filter(|topic| !may(topic));
        let refused = refused.map(|topic| (topic.clone(), answer::topic_error(topic))).collect();
        let narrowed = answer::narrowed(bytes, version, list, &kept);
        Decision::Pass(Some(narrowed), Some(look(request, refused)))
    }

    /// A fetch of topics that are allowed may be one of others too, which its session has.
    fn fetch(&self, grant: &KafkaGrant<'_>, request: &Request, id: i32, epoch: i32) -> Decision {
        let Topics::Named(topics) = &request.topics else { unreachable!("they have names or ids") };
        let mut session = self.session.borrow_mut();
        let ours = session.as_mut().filter(|session| session.id == id);
        let keys = topics.iter().map(|topic| (topic.name.clone(), topic.id));
        let version = request.head.version;
        match ours {
            // one begins (0), or there is none (-1)
            _ if id == 0 && epoch <= 0 => {}
            Some(_) if epoch <= 0 => *session = None,
            Some(session) => {
                session.topics.extend(keys);
                let name = |key: &Key| key.0.clone().or_else(|| self.name_of(key));
                let still = |key: &Key| grant.allows_topic(name(key).as_deref());
                if session.topics.len() <= KAFKA_ITEMS && session.topics.iter().all(still) {
                    return Decision::Pass(None, Some(Look::Nothing));
                }
                return self.without_session(request);
            }
            None => return self.without_session(request),
        }
        let look = match epoch {
            0 => Look::Session { version, topics: keys.collect() },
            _ => Look::Nothing,
        };
        Decision::Pass(None, Some(look))
    }

    fn name_of(&self, key: &Key) -> Option<StrBytes> {
        self.core.kafka.find(&self.rules().scope, &key.1)
    }

    fn without_session(&self, request: &Request) -> Decision {
        let message = refusal::no_session(request);
        self.refuse(request, kafka_protocol::ResponseError::FetchSessionIdNotFound.code(), message)
    }

    /// Refuses a request with an answer; without one the connection ends.
    fn refuse(&self, request: &Request, error: i16, message: Option<Vec<u8>>) -> Decision {
        self.tell(request, error);
        let unanswered = request.detail == Detail::Produce { acks: 0 };
        let message = message.filter(|_| !unanswered);
        Decision::Instead(match message {
            Some(message) => Next::Refusal(message),
            None => self.end(match unanswered {
                true => "a request without an answer is refused",
                false => "a request is refused for which there is no answer",
            }),
        })
    }

    /// Ends the connection when all that came before is answered.
    fn end(&self, reason: &'static str) -> Next {
        self.core.counters.kafka_closed.add(1);
        let Ends { client, anchor, broker } = self.ends;
        tracing::debug!(%client, service = %anchor.service, %broker, reason, "a connection to Kafka is closed");
        Next::End
    }

    /// Counts and records a refusal.
    fn tell(&self, request: &Request, error: i16) {
        self.core.counters.kafka_refused.add(1);
        let Some(recorder) = &self.core.recorder else { return };
        let head = &request.head;
        let mut path = String::new();
        if let Topics::Named(topics) = &request.topics {
            for topic in topics {
                if path.len() >= KAFKA_RECORD {
                    break;
                }
                path += if path.is_empty() { "" } else { "," };
                match &topic.name {
                    Some(name) => path += name,
                    None => path += &topic.id.to_string(),
                }
            }
        }
        path.truncate(path.floor_char_boundary(KAFKA_RECORD));
        let anchor = &self.ends.anchor;
        let client = self.ends.client.ip().to_canonical();
        let begun = Record::begin(client, anchor.caller, anchor.service);
        recorder.record(Record {
            detailed: true,
            denied: true,
            method: format!("{:?}", head.api),
            authority: head.client_id.as_deref().unwrap_or_default().to_owned(),
            path,
            protocol: "Kafka",
            rule: self.rules().scope.clone(),
            endpoint: Some(self.ends.broker),
            status: error.unsigned_abs(),
            duration: Duration::ZERO,
            ..begun
        });
    }
}

fn allows(grant: &KafkaGrant<'_>, topic: &Topic) -> bool {
    grant.allows_topic(topic.name.as_deref())
}

/// What the answer to a request that passes is looked at for.
fn look(request: &Request, refused: Vec<(Topic, i16)>) -> Look {
    let head = &request.head;
    match head.api {
        ApiKey::ApiVersions => Look::Versions { version: head.version },
        ApiKey::Metadata => {
            Look::Metadata { version: head.version, client_id: head.client_id.clone(), refused }
        }
        _ => Look::Nothing,
    }
}
