//! Cross-origin requests: the model decides, this reads and writes header fields.

use beeway_model::action::cors::{self, CrossOrigin, Fields};
use beeway_model::policy::Cors;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

pub(crate) use beeway_model::action::cors::Verdict;

/// What a rule says of a request.
pub(crate) fn examine(policy: &Cors, parts: &Parts) -> Verdict {
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let request = CrossOrigin {
        method: parts.method.as_str(),
        origin: text(header::ORIGIN),
        request_method: text(header::ACCESS_CONTROL_REQUEST_METHOD),
        request_headers: text(header::ACCESS_CONTROL_REQUEST_HEADERS),
    };
    cors::judge(policy, &request)
}

/// Puts the fields that allow something into an answer, in place of what it has of that name.
pub(crate) fn allow(headers: &mut HeaderMap, fields: &Fields) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
