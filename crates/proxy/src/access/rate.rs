//! How many requests an endpoint takes. Each try takes its tokens when policies have let it pass, of
//! the buckets that the kernel takes them of for requests that it sends itself.

use std::net::SocketAddr;

use beeway_model::limits::{RATE_LIMITED, RATE_LIMITED_HEADER, WHOLE};
use beeway_model::{Protocol, RateLimit, RateLimiter};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{Denied, Refusal, Stop, request_of};
use crate::client::Client;
use crate::record::Flags;
use crate::view::View;

/// Takes the tokens of a try; or says what the client is told instead.
pub(super) fn take(
    client: &Client,
    view: &View,
    endpoint: SocketAddr,
    head: &Parts,
    protocol: Protocol,
) -> Result<(), Stop> {
    if view.mesh.limits.is_empty() || !matches!(protocol, Protocol::Http | Protocol::Http2) {
        return Ok(());
    }
    let caller = view.bucket_address(client.caller().known_by);
    let called = SocketAddr::new(view.bucket_address(endpoint.ip()), endpoint.port());
    for (limiter, limit) in view.rate_limits(endpoint) {
        let fields: Vec<(&str, &[u8])> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        for bucket in limit.buckets(&request_of(head, &fields)) {
            if !is_one_of(limit.enabled) {
                continue;
            }
            let taken = client.core.kernel.take_token(bucket, called, caller);
            if !taken && is_one_of(limit.enforced) {
                return Err(refusal(limiter, limit).into());
            }
        }
    }
    Ok(())
}

/// Whether a request is one of so many of a million.
fn is_one_of(millionths: u32) -> bool {
    fastrand::u32(..WHOLE) < millionths
}

fn refusal(limiter: &RateLimiter, limit: &RateLimit) -> Refusal {
    let mut headers = HeaderMap::new();
    let fields = limit.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in std::iter::once(RATE_LIMITED_HEADER).chain(fields) {
        let pair = (HeaderName::try_from(name), HeaderValue::try_from(value));
        // the configuration has only such as can be sent
        if let (Ok(name), Ok(value)) = pair {
            headers.append(name, value);
        }
    }
    Refusal {
        status: StatusCode::from_u16(limit.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        headers,
        body: Bytes::from_static(RATE_LIMITED.as_bytes()),
        denied: Denied { policy: limiter.name.clone(), detail: RATE_LIMITED.to_owned() },
        flags: Flags::RATE_LIMITED,
    }
}
