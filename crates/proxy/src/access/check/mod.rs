//! External authorizers, who decide where a CUSTOM policy matches.
//!
//! They are asked before everything else is decided, as Envoy asks them, through the endpoints of
//! their service and the connections that are there for requests. No policy is asked whether an
//! authorizer may be called. What cannot be asked, or does not answer in time, denies, unless its
//! configuration says that it opens.

mod changes;
mod grpc;
mod http;
mod proto;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use ::http::request::Parts;
use ::http::{HeaderMap, StatusCode};
use beeway_model::access::{Access, CheckedBody, Decider, Effect, Party, Provider, ProviderKind};
use beeway_model::{Policy, Protocol, Retry};
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use super::{Denied, Prospect, Refusal};
use crate::answer::AnswerBody;
use crate::attempt::{self, Answered, Tries};
use crate::body::{BodyError, RequestBody};
use crate::call::Call;
use crate::client::Client;
use crate::limits::{AUTHORIZER_ANSWER, AUTHORIZER_BODY};
use crate::record::Flags;
use crate::view::View;

pub(crate) use changes::Changes;

/// Says in a check with a body whether that is not all (as Envoy).
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// What an authorizer is asked about.
struct Question<'a> {
    source: (Party<'a>, u16),
    destination: (Party<'a>, u16),
    sni: Option<&'a str>,
    /// `None`: a connection.
    request: Option<Asked<'a>>,
}

/// A request as it would be sent to its endpoint.
struct Asked<'a> {
    head: &'a Parts,
    protocol: Protocol,
    time: SystemTime,
    /// Bytes of its body, if that is known.
    length: Option<u64>,
    body: Option<Excerpt>,
}

/// What an authorizer gets to see of a body.
#[derive(Clone)]
struct Excerpt {
    bytes: Bytes,
    /// There is more of it.
    partial: bool,
}

/// What an authorizer says.
enum Reply {
    /// The request may go on, changed so; and so is its answer.
    Allow {
        request: Changes,
        response: Changes,
    },
    Deny {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
}

/// There is no reply.
#[derive(Debug)]
struct Silence(String);

/// Why a request goes no further.
pub(crate) enum Stop {
    Refused(Box<Refusal>),
    /// What the client sends is no body.
    ClientBody,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(Box::new(refusal))
    }
}

impl From<BodyError> for Stop {
    fn from(_: BodyError) -> Stop {
        Stop::ClientBody
    }
}

/// Who asks, and for what call.
pub(crate) struct Asking<'a> {
    pub client: &'a Client,
    pub view: &'a View,
    pub prospect: &'a Prospect<'a>,
    pub endpoint: SocketAddr,
}

impl Asking<'_> {
    /// Asks about a request. What is changed in its answer comes back.
    pub async fn about_request(
        &self,
        access: &Access,
        (head, protocol): (&mut Parts, Protocol),
        body: &mut RequestBody,
    ) -> Result<Changes, Stop> {
        let mut answer = Changes::default();
        for (decider, provider) in self.providers(access) {
            let Some(provider) = provider else {
                return Err(self.refused(decider, StatusCode::FORBIDDEN, "error").into());
            };
            let excerpt = match provider.body {
                Some(wanted) => Some(self.excerpt(decider, body, wanted).await?),
                None => None,
            };
            let (time, length) = (SystemTime::now(), body.size_hint().exact());
            let asked = Asked { head, protocol, time, length, body: excerpt };
            let question = self.question(None, Some(asked));
            match self.ask(provider, &question).await {
                Ok(Reply::Allow { request, response }) => {
                    request.apply(&mut head.headers);
                    answer.extend(response);
                }
                Ok(Reply::Deny { status, headers, body }) => {
                    let refusal = self.refused(decider, status, "denied");
                    return Err(Refusal { headers, body, ..refusal }.into());
                }
                Err(silence) => {
                    if let Some(status) = self.nothing_said(provider, &silence) {
                        return Err(self.refused(decider, status, "error").into());
                    }
                }
            }
        }
        Ok(answer)
    }

    /// Asks about a connection.
    pub async fn about_connection(&self, access: &Access, sni: Option<&str>) -> Result<(), Denied> {
        for (decider, provider) in self.providers(access) {
            let no = |why| Err(self.refused(decider, StatusCode::FORBIDDEN, why).denied);
            // one that is asked by HTTP has nothing to be asked with
            let provider = provider.filter(|provider| provider.kind == ProviderKind::Grpc);
            let Some(provider) = provider else { return no("error") };
            match self.ask(provider, &self.question(sni, None)).await {
                Ok(Reply::Allow { .. }) => {}
                Ok(Reply::Deny { .. }) => return no("denied"),
                Err(silence) if self.nothing_said(provider, &silence).is_none() => {}
                Err(_) => return no("error"),
            }
        }
        Ok(())
    }

    /// Whom the policies name, each once; `None`: nobody of that name is there.
    fn providers(&self, access: &Access) -> Vec<(Decider, Option<&Provider>)> {
        let mut names: Vec<&str> = Vec::new();
        let mut providers = Vec::new();
        for decider in &access.ask {
            let Effect::Custom(name) = &self.prospect.policy(*decider).effect else { continue };
            if names.contains(&name.as_str()) {
                continue;
            }
            names.push(name);
            let provider = self.view.mesh.providers.iter().find(|p| p.name == *name);
            providers.push((*decider, provider));
        }
        providers
    }

    fn question<'a>(&'a self, sni: Option<&'a str>, request: Option<Asked<'a>>) -> Question<'a> {
        Question {
            source: (self.prospect.caller, self.client.port),
            destination: (self.prospect.called, self.endpoint.port()),
            sni,
            request,
        }
    }

    async fn ask(&self, provider: &Provider, question: &Question<'_>) -> Result<Reply, Silence> {
        self.client.core.counters.authorizer_asked.add(1);
        match (&provider.kind, &question.request) {
            (ProviderKind::Grpc, _) => grpc::ask(self, provider, question).await,
            (ProviderKind::Http(check), Some(asked)) => {
                http::ask(self, provider, check, asked).await
            }
            (ProviderKind::Http(_), None) => Err(Silence("it is asked by HTTP".to_owned())),
        }
    }

    /// What the client gets when there is no reply; `None`: the call goes on.
    fn nothing_said(&self, provider: &Provider, silence: &Silence) -> Option<StatusCode> {
        self.client.core.counters.authorizer_failed.add(1);
        let (name, opens) = (&provider.name, provider.fail_open);
        tracing::debug!(provider = name, opens, why = silence.0, "an authorizer has not answered");
        let status = StatusCode::from_u16(provider.status_on_error);
        (!opens).then(|| status.unwrap_or(StatusCode::FORBIDDEN))
    }

    fn refused(&self, decider: Decider, status: StatusCode, why: &str) -> Refusal {
        let policy = self.prospect.policy(decider).name.clone();
        Refusal {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            denied: Denied { policy, detail: format!("ext_authz_{why}") },
            flags: Flags::UNAUTHORIZED_EXTERNAL_SERVICE,
        }
    }

    async fn excerpt(
        &self,
        decider: Decider,
        body: &mut RequestBody,
        wanted: CheckedBody,
    ) -> Result<Excerpt, Stop> {
        let limit = (wanted.max_bytes as usize).min(AUTHORIZER_BODY);
        let enough = if wanted.allow_partial { limit } else { limit.saturating_add(1) };
        let (bytes, whole) = match body {
            RequestBody::Empty => (Bytes::new(), true),
            RequestBody::Own(bytes) => (bytes.clone(), true),
            RequestBody::Source { source, attempt } => source.ahead(*attempt, enough).await?,
            // a mirror's copy cannot be read twice
            RequestBody::Tee(_) => {
                return Err(self.refused(decider, StatusCode::FORBIDDEN, "error").into());
            }
        };
        if bytes.len() > limit && !wanted.allow_partial {
            let refusal = self.refused(decider, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
            let body = Bytes::from_static(b"Payload Too Large");
            return Err(Refusal { body, flags: Flags::default(), ..refusal }.into());
        }
        let partial = !whole || bytes.len() > limit;
        Ok(Excerpt { bytes: bytes.slice(..bytes.len().min(limit)), partial })
    }

    /// Sends a request to an authorizer, and reads all of its answer.
    async fn exchange(
        &self,
        provider: &Provider,
        protocol: Protocol,
        head: Parts,
        body: Bytes,
    ) -> Result<Whole, Silence> {
        let call: Rc<Call> = Call::beside(self.client.aside(), false, false);
        let cluster = self.view.mesh.cluster(provider.cluster);
        let policy = Policy {
            timeout: Some(provider.timeout),
            retry: Some(Retry { attempts: 0, ..Retry::default() }),
            ..Policy::default()
        };
        let body = if body.is_empty() { RequestBody::Empty } else { RequestBody::Own(body) };
        let mut tries = Tries::of_ours(&call, self.view, cluster, protocol, &policy);
        let asked = attempt::Asked { parts: Box::new(head), body };
        let answer = match Box::pin(tries.send(asked)).await {
            Ok(Answered::Endpoint(answer)) => answer,
            Ok(Answered::Refused(..)) => return Err(Silence("it may not be asked".to_owned())),
            Err(why) => return Err(Silence(format!("{why:?}"))),
        };
        let (head, body) = answer.into_parts();
        let http2 = protocol == Protocol::Http2;
        let body = AnswerBody::endpoint(body, http2, tries.into_deadline(), &call).in_part();
        let body = Limited::new(body, AUTHORIZER_ANSWER).collect().await;
        let body = body.map_err(|error| Silence(error.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Whole { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }
}

/// An answer with all of its body.
struct Whole {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}
