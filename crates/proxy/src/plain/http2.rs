//! Plain requests over HTTP/2.

use std::rc::Rc;
use std::time::{Duration, Instant};

use beeway_model::Protocol;
use beeway_model::action::grpc::parse_timeout;
use beeway_model::action::retry::{Failure, should_retry};

use super::fields::{self, Fields};
use super::request::{self, Asked, Prepared, Version};
use super::{Begun, Handed, Routed, Untold, Who};
use crate::attempt::USUAL_RETRY;
use crate::call::{Active, conclude};
use crate::headers::is_of_trailers;
use crate::http2::endpoint::{End, Endpoint, Outgoing};
use crate::http2::server::{Connection, Gone};
use crate::http2::{self, Answer, Ending, Field};
use crate::record::{Flags, Record};

/// A client's request that an endpoint was asked to answer. Dropped before [`Call::finish`], it was
/// given up because its client is gone.
pub(crate) struct Call {
    active: Option<Active>,
    client: Rc<Connection>,
    stream: u32,
    routed: Routed,
    draw: u32,
    /// See [`Handed::made_up`].
    made_up: Option<[u8; 36]>,
    record: Option<(Box<Record>, Instant)>,
    limit: Option<Limit>,
    /// The client has got the answer's head.
    headed: bool,
    over: bool,
    sent: u64,
}

/// The time for an answer.
#[derive(Clone, Copy)]
struct Limit {
    started: Instant,
    time: Duration,
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// It is for the engine to understand.
    HandOver,
    ClientGone,
}

/// Takes a request that has come as a whole if it is plain; otherwise nothing has happened. Returns
/// where it went, and under which number.
pub(crate) fn take(
    client: &Rc<Connection>,
    stream: u32,
    asked: &http2::Asked<'_>,
    body: &[u8],
) -> Option<(Rc<Endpoint>, u32)> {
    let core = &client.client.core;
    let asked = plain(asked, body).filter(|_| core.plain.on)?;
    let who = Who { caller: client.client.caller(), service: client.client.service };
    let draw = client.client.draw();
    let routed = Routed::new(core, who, &asked, draw, Protocol::Http2)?;
    let chosen = routed.chosen();
    if !request::is_plain_rule(&chosen) {
        return None;
    }
    let grpc = asked.is_grpc();
    let limit = limit(chosen.policy.timeout, asked.field("grpc-timeout").filter(|_| grpc));
    let recorder = core.recorder.as_ref();
    let mut record = recorder.map(|r| routed.record(who, &asked, r.wants_detail()));
    let mut room = [0; 36];
    let prospect = routed.prospect(who);
    let prepared = asked.prepare(&chosen, prospect.as_ref(), &mut room)?;
    let endpoint = core.plain.shared(core, routed.address, body.len())?;
    prepared.note(prospect.as_ref(), record.as_deref_mut(), &core.counters);
    core.counters.requests.add(1);
    let head = head(&prepared);
    // Methods of gRPC are few.
    let number = endpoint.write(&Outgoing { head: &head, body, steady: grpc });
    drop(head);
    // Written to if the request has no identity.
    let made_up = (room != [0; 36]).then_some(room);
    let call = Call {
        active: Some(Active::new(core)),
        client: client.clone(),
        stream,
        routed,
        draw,
        made_up,
        record: record.map(|record| (record, Instant::now())),
        limit,
        headed: false,
        over: false,
        sent: 0,
    };
    endpoint.expect(number, call);
    Some((endpoint, number))
}

/// The request as plain forwarding sees it; `None`: it is not plain.
fn plain<'a>(asked: &http2::Asked<'a>, body: &'a [u8]) -> Option<Asked<'a>> {
    let (method, target, host) = (asked.method, asked.path, asked.authority?);
    let known = request::is_plain_method(method) && ["http", "https"].contains(&asked.scheme);
    if !known
        || asked.fields.len() > request::FIELDS
        || !request::is_plain_target(target)
        || !request::is_plain_host(host)
    {
        return None;
    }
    let (mut all, mut trailers, mut cookies) =
        (Vec::with_capacity(asked.fields.len() + 8), false, 0);
    for field in &asked.fields {
        match field.name {
            b"host" | b"expect" => return None,
            b"content-length" => drop(fields::length(field.value)?),
            b"te" => trailers = true,
            b"cookie" => cookies += 1,
            _ => {}
        }
        all.push((std::str::from_utf8(field.name).ok()?, field.value));
    }
    let secret = asked.fields.iter().any(|field| field.never);
    let fields = Fields(all);
    let asked = Asked { version: Version::Http2, method, target, host, fields, trailers, body };
    (cookies < 2 && !secret).then_some(asked)
}

/// The head that goes to the endpoint.
fn head<'a>(prepared: &'a Prepared<'_>) -> Vec<Field<'a>> {
    let Prepared { method, target, authority, fields, .. } = prepared;
    let pseudo = [
        (":method", method.as_bytes()),
        (":scheme", b"http"),
        (":authority", authority.as_bytes()),
        (":path", target.as_bytes()),
    ];
    // As the library does: methods that usually have a body say when there is none.
    let bare = prepared.body.is_empty() && !matches!(*method, "GET" | "DELETE");
    let length =
        (bare && !fields.contains("content-length")).then_some(("content-length", &b"0"[..]));
    pseudo.into_iter().chain(fields.0.iter().copied()).chain(length).map(field).collect()
}

fn field<'a>((name, value): (&'a str, &'a [u8])) -> Field<'a> {
    Field { name: name.as_bytes(), value, never: false }
}

/// The rule's limit, or what a client of gRPC waits for if that is less.
fn limit(rule: Option<Duration>, patience: Option<&[u8]>) -> Option<Limit> {
    let limits = [rule, patience.and_then(parse_timeout)];
    let time = limits.into_iter().flatten().filter(|time| !time.is_zero()).min()?;
    Some(Limit { started: Instant::now(), time })
}

impl Call {
    /// Who gets the answer.
    pub fn client(&self) -> &Rc<Connection> {
        &self.client
    }

    /// When the time for the answer is up.
    pub fn deadline(&self) -> Option<Instant> {
        self.limit.and_then(|limit| limit.started.checked_add(limit.time))
    }

    /// Whether the client has got the answer's head.
    pub fn is_headed(&self) -> bool {
        self.headed
    }

    /// Takes an answer's head.
    pub fn answer(&mut self, answer: &Answer<'_>, ends: bool) -> Next {
        let chosen = self.routed.chosen();
        let retry = chosen.policy.retry.as_ref().unwrap_or(&USUAL_RETRY);
        let status = answer.status;
        let grpc_status = grpc_status(&answer.fields);
        let failed = should_retry(retry, Failure::Answered { status, grpc_status });
        let secret = answer.fields.iter().any(|field| field.never);
        // What such an answer says of its length may be wrong, or must not be there.
        let length = answer.fields.iter().find(|field| field.name == b"content-length");
        let odd = !(200..600).contains(&status)
            || length.is_some_and(|field| status == 204 || fields::length(field.value).is_none());
        if failed || secret || odd {
            return Next::HandOver;
        }
        let text = |field: &Field<'_>| std::str::from_utf8(field.name).is_ok();
        debug_assert!(answer.fields.iter().all(text));
        let fields = answer
            .fields
            .iter()
            .filter_map(|field| Some((std::str::from_utf8(field.name).ok()?, field.value)));
        let mut fields = Fields(fields.collect());
        fields.strip();
        if let Some(own) = chosen.own() {
            fields.edit(&own.response_headers);
        }
        fields.edit(&chosen.policy.response_headers);
        let grpc_status = fields.0.iter().find(|(name, _)| *name == "grpc-status");
        let grpc_status = grpc_status.and_then(|(_, value)| number(value));
        let digit = |unit: u16| b'0' + (status / unit % 10) as u8;
        let digits = [digit(100), digit(10), digit(1)];
        let fields = fields.0.into_iter().map(field);
        let sent = self.client.send_head(self.stream, &digits, fields, ends);
        if sent.is_err() {
            return Next::ClientGone;
        }
        self.headed = true;
        if let Some((record, _)) = &mut self.record {
            record.status = status;
            record.grpc_status = grpc_status.map(u32::from);
        }
        Next::GoOn
    }

    /// Takes more of its body. Returns how many bytes are on their way to the client.
    pub fn data(&mut self, data: &[u8], ends: bool) -> Result<usize, Gone> {
        self.sent += data.len() as u64;
        self.client.send(self.stream, data, ends.then_some(Ending::Plain))
    }

    /// Takes what follows its body.
    pub fn trailers(&mut self, trailers: &[Field<'_>]) -> Result<(), Gone> {
        if let (Some((record, _)), Some(status)) = (&mut self.record, grpc_status(trailers)) {
            record.grpc_status = Some(status.into());
        }
        let kept = trailers.iter().filter(|field| is_of_trailers(field.name));
        self.client.send_trailers(self.stream, kept.copied())
    }

    /// The answer is complete.
    pub fn finish(mut self) {
        self.client.client.core.counters.plain.add(1);
        self.conclude(Flags::default());
    }

    /// The answer breaks off.
    pub fn cut_off(mut self, end: End) {
        let counters = &self.client.client.core.counters;
        counters.plain.add(1);
        counters.upstream_errors.add(1);
        // The client may be gone, too.
        let _ = self.client.break_off(self.stream);
        self.conclude(match end {
            End::Reset | End::Refused => Flags::UPSTREAM_REMOTE_RESET,
            End::TimedOut => Flags::UPSTREAM_REQUEST_TIMEOUT,
            End::NoConnection | End::Connection | End::Garbage => {
                Flags::UPSTREAM_CONNECTION_TERMINATION
            }
        });
    }

    /// Lets the engine go on.
    pub fn hand_over(mut self, begun: Begun) {
        self.over = true;
        let untold = Untold::new(&self.client.client.core, self.record.take());
        let started = self.limit.map_or_else(Instant::now, |limit| limit.started);
        let handed = Handed {
            view: self.routed.view.clone(),
            address: self.routed.address,
            made_up: self.made_up,
            untold,
            begun,
            draw: self.draw,
            started,
            _active: self.active.take(),
        };
        self.client.hand_over(self.stream, handed);
    }

    fn conclude(&mut self, flags: Flags) {
        self.over = true;
        conclude(&self.client.client.core, self.record.take(), flags, self.sent);
    }
}

fn grpc_status(fields: &[Field<'_>]) -> Option<u8> {
    number(fields.iter().find(|field| field.name == b"grpc-status")?.value)
}

fn number(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.over {
            self.conclude(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
        }
    }
}
