//! Authorizers that are asked by a request like the one that is judged.

use beeway_model::Protocol;
use beeway_model::access::{HttpCheck, Provider, Text};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, StatusCode, Uri, Version};

use super::{Asked, Asking, Changes, PARTIAL, Reply, Silence, Whole};
use crate::access::authority;
use crate::exchange::http2_target;

/// Fields to be removed from the request that is allowed (Envoy's external_auth.proto,
/// `headers_to_remove`).
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Of an answer that denies these go to the client besides those that are named (Envoy's
/// ext_authz.proto, `allowed_client_headers`).
const ALWAYS_DOWN: [HeaderName; 2] = [header::WWW_AUTHENTICATE, header::LOCATION];

pub(super) async fn ask(
    asking: &Asking<'_>,
    provider: &Provider,
    check: &HttpCheck,
    asked: &Asked<'_>,
) -> Result<Reply, Silence> {
    let protocol = asking.view.mesh.cluster(provider.cluster).protocol;
    let body = asked.body.as_ref().map_or_else(Bytes::new, |body| body.bytes.clone());
    let head = head(check, asked, protocol, body.len())?;
    let answer = asking.exchange(provider, protocol, head, body).await?;
    reply(check, answer)
}

fn head(
    check: &HttpCheck,
    asked: &Asked<'_>,
    protocol: Protocol,
    length: usize,
) -> Result<Parts, Silence> {
    let fault = |error: http::Error| Silence(error.to_string());
    let target = asked.head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let target = PathAndQuery::try_from(format!("{}{target}", check.path_prefix));
    let target = target.map_err(|error| fault(error.into()))?;
    let named = authority(asked.head);
    let (uri, version) = match protocol {
        Protocol::Http2 => {
            http2_target(Some(Authority::try_from(named).map_err(|e| fault(e.into()))?), target)
        }
        _ => (Uri::from(target), Version::HTTP_11),
    };
    let request = Request::builder().method(asked.head.method.clone()).uri(uri).version(version);
    let mut head = request.body(()).map_err(fault)?.into_parts().0;
    for (name, value) in &asked.head.headers {
        if *name == header::AUTHORIZATION || named_by(&check.request_headers, name) {
            head.headers.append(name, value.clone());
        }
    }
    for (name, value) in &check.additional_headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            head.headers.insert(name, value);
        }
    }
    crate::headers::strip(&mut head.headers);
    head.headers.remove(header::EXPECT);
    head.headers.remove(header::HOST);
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if protocol != Protocol::Http2 {
        let host = HeaderValue::try_from(named).map_err(|error| fault(error.into()))?;
        head.headers.insert(header::HOST, host);
    }
    if let Some(body) = &asked.body {
        let partial = if body.partial { "true" } else { "false" };
        head.headers.insert(PARTIAL, HeaderValue::from_static(partial));
    }
    Ok(head)
}

fn named_by(wanted: &[Text], name: &HeaderName) -> bool {
    wanted.iter().any(|text| text.holds_in_any_case(name.as_str().as_bytes()))
}

/// 200 allows, as in Envoy; 5xx says that it cannot tell; anything else denies.
fn reply(check: &HttpCheck, answer: Whole) -> Result<Reply, Silence> {
    let Whole { status, mut headers, body, .. } = answer;
    if status.is_server_error() {
        return Err(Silence(format!("status {status}")));
    }
    crate::headers::strip(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    if status != StatusCode::OK {
        let all = check.downstream_on_deny.is_empty();
        let goes = |name: &HeaderName| {
            all || ALWAYS_DOWN.contains(name) || named_by(&check.downstream_on_deny, name)
        };
        let mut down = HeaderMap::new();
        for (name, value) in headers.iter().filter(|(name, _)| goes(name)) {
            down.append(name, value.clone());
        }
        return Ok(Reply::Deny { status, headers: down, body });
    }
    let (mut request, mut response) = (Changes::default(), Changes::default());
    for (name, value) in &headers {
        if named_by(&check.upstream_on_allow, name) {
            request.set(name.clone(), value.clone());
        }
        if named_by(&check.downstream_on_allow, name) {
            response.add(name.clone(), value.clone());
        }
    }
    for list in headers.get_all(TO_REMOVE) {
        let names = list.to_str().unwrap_or_default().split(',');
        names.for_each(|name| request.remove(name.trim()));
    }
    Ok(Reply::Allow { request, response })
}
