//! gRPC clients look at `grpc-status`, not at the HTTP status
//! (gRPC over HTTP2, "Responses"; HTTP to gRPC Status Code Mapping).

use std::time::Duration;

use beeway_model::action::grpc;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is one of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| grpc::is_grpc(kind.as_bytes()))
}

/// How long the client waits.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    grpc::parse_timeout(headers.get(TIMEOUT)?.as_bytes())
}

/// The status in an answer's head.
pub(crate) fn status_of(headers: &HeaderMap) -> Option<u8> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// Says in gRPC what an answer of our own says: 200, and the status in the head.
pub(crate) fn tell<B>(response: &mut Response<B>, status: u8, message: &str) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(grpc::encode_message(message))
        && !message.is_empty()
    {
        headers.insert(MESSAGE, message);
    }
}
