//! Authorizers that speak `envoy.service.auth.v3.Authorization`.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use beeway_model::Protocol;
use beeway_model::access::{Party, Provider, principal};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, StatusCode};
use prost::Message;

use super::proto::{self, CheckRequest, CheckResponse, HeaderValueOption, HttpResponse};
use super::{Asked, Asking, Changes, PARTIAL, Question, Reply, Silence};
use crate::access::authority;
use crate::exchange::http2_target;
use crate::grpc::status_of;
use crate::headers::{REQUEST_ID, is_of_message};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

pub(super) async fn ask(
    asking: &Asking<'_>,
    provider: &Provider,
    question: &Question<'_>,
) -> Result<Reply, Silence> {
    let packed = provider.body.is_some_and(|body| body.pack_as_bytes);
    let message = frame(&check(question, packed));
    let answer = asking.exchange(provider, Protocol::Http2, head(provider)?, message).await?;
    let status = status_of(&answer.headers).or_else(|| status_of(&answer.trailers));
    match (answer.status, status) {
        (StatusCode::OK, Some(0)) => {}
        (code, status) => return Err(Silence(format!("HTTP status {code}, gRPC {status:?}"))),
    }
    let message = unframe(&answer.body).ok_or_else(|| Silence("no message".to_owned()))?;
    let response =
        CheckResponse::decode(message).map_err(|error| Silence(format!("no message: {error}")))?;
    Ok(reply(response))
}

fn head(provider: &Provider) -> Result<Parts, Silence> {
    let named = Authority::try_from(format!("{}:{}", provider.host, provider.port));
    let named = named.map_err(|error| Silence(error.to_string()))?;
    let (uri, version) = http2_target(Some(named), PathAndQuery::from_static(METHOD));
    let request = Request::post(uri)
        .version(version)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header("grpc-timeout", format!("{}m", provider.timeout.as_millis().min(99_999_999)))
        .body(())
        .map_err(|error| Silence(error.to_string()))?;
    Ok(request.into_parts().0)
}

/// A message that is not compressed, with its length in front (gRPC over HTTP2,
/// "Length-Prefixed-Message").
fn frame(message: &CheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// The one message.
fn unframe(bytes: &Bytes) -> Option<Bytes> {
    let (prefix, message) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    (prefix[0] == 0 && length as usize == message.len()).then(|| bytes.slice(5..))
}

fn check(question: &Question<'_>, packed: bool) -> CheckRequest {
    let attributes = proto::AttributeContext {
        source: Some(peer(question.source)),
        destination: Some(peer(question.destination)),
        request: question.request.as_ref().map(|asked| request(asked, packed)),
        tls_session: question.sni.map(|sni| proto::TlsSession { sni: sni.to_owned() }),
    };
    CheckRequest { attributes: Some(attributes) }
}

fn peer((party, port): (Party<'_>, u16)) -> proto::Peer {
    let address = proto::SocketAddress {
        address: party.address.to_canonical().to_string(),
        port_value: u32::from(port),
    };
    let name = |workload| format!("spiffe://{}", principal(workload));
    proto::Peer {
        address: Some(proto::Address { socket_address: Some(address) }),
        principal: party.identity.workload().map(name).unwrap_or_default(),
    }
}

fn request(asked: &Asked<'_>, packed: bool) -> proto::Request {
    let since = asked.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let Parts { method, uri, headers, .. } = asked.head;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut fields = fields(headers);
    for (name, value) in [
        (":authority", authority(asked.head)),
        (":method", method.as_str()),
        (":path", path),
        (":scheme", "http"),
    ] {
        fields.insert(name.to_owned(), value.to_owned());
    }
    let mut http = proto::HttpRequest {
        id: text(&REQUEST_ID).to_owned(),
        method: method.to_string(),
        path: path.to_owned(),
        host: authority(asked.head).to_owned(),
        scheme: "http".to_owned(),
        protocol: match asked.protocol {
            Protocol::Http2 => "HTTP/2",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        size: asked.length.map_or(-1, |length| length as i64),
        ..proto::HttpRequest::default()
    };
    if let Some(body) = &asked.body {
        fields.insert(PARTIAL.to_owned(), body.partial.to_string());
        http.size = body.bytes.len() as i64;
        match packed {
            true => http.raw_body = body.bytes.clone(),
            false => http.body = String::from_utf8_lossy(&body.bytes).into_owned(),
        }
    }
    http.headers = fields;
    let (seconds, nanos) = (since.as_secs() as i64, since.subsec_nanos() as i32);
    proto::Request { time: Some(proto::Timestamp { seconds, nanos }), http: Some(http) }
}

/// Fields by name, repeated ones joined by a comma; what is not UTF-8 is shown as such.
fn fields(headers: &HeaderMap) -> HashMap<String, String> {
    let named = headers.keys().filter(|name| **name != header::HOST).map(|name| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        (name.as_str().to_owned(), values.join(","))
    });
    named.collect()
}

fn reply(response: CheckResponse) -> Reply {
    let allowed = response.status.is_none_or(|status| status.code == 0);
    match (allowed, response.http_response) {
        (true, Some(HttpResponse::Ok(ok))) => {
            let mut request = changes(ok.headers);
            ok.headers_to_remove.iter().for_each(|name| request.remove(name));
            Reply::Allow { request, response: changes(ok.response_headers_to_add) }
        }
        (true, _) => Reply::Allow { request: Changes::default(), response: Changes::default() },
        (false, Some(HttpResponse::Denied(denied))) => {
            let code = denied.status.map_or(0, |status| status.code);
            let status = u16::try_from(code).ok().filter(|code| *code > 0);
            let status = status.and_then(|code| StatusCode::from_u16(code).ok());
            let mut headers = HeaderMap::new();
            for (name, value) in denied.headers.iter().filter_map(field) {
                headers.append(name, value);
            }
            let body = Bytes::from(denied.body);
            Reply::Deny { status: status.unwrap_or(StatusCode::FORBIDDEN), headers, body }
        }
        (false, _) => Reply::Deny {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        },
    }
}

/// A field replaces those of its name unless it says otherwise: `append` "defaults to false when
/// used in this message" (external_auth.proto).
fn changes(options: Vec<HeaderValueOption>) -> Changes {
    let mut changes = Changes::default();
    for option in options {
        let Some((name, value)) = field(&option) else { continue };
        match (option.append, option.append_action) {
            (Some(true), _) => changes.add(name, value),
            // ADD_IF_ABSENT, OVERWRITE_IF_EXISTS
            (None, 1) => changes.set_if(false, name, value),
            (None, 3) => changes.set_if(true, name, value),
            _ => changes.set(name, value),
        }
    }
    changes
}

fn field(option: &HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let header = option.header.as_ref()?;
    let value = match header.value.is_empty() {
        true => &header.raw_value[..],
        false => header.value.as_bytes(),
    };
    let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
    let ours = is_of_message(&name);
    (!ours).then_some((name, HeaderValue::from_bytes(value).ok()?))
}
