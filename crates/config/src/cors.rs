//! Cross-origin policies of both APIs.

use std::time::Duration;

use beeway_model::StringMatch;
use beeway_model::policy::Cors;

use crate::header_edits::is_token;
use crate::problem::Report;
use crate::{duration, gateway, istio, virtual_match};

/// The methods that Istio's validation lets through.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

/// A `corsPolicy`.
pub(crate) fn istio(policy: &istio::CorsPolicy, mut report: Report<'_>) -> Cors {
    for (at, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            report.error(&format!("allowMethods.{at}"), format!("{method} is no method for CORS"));
        }
    }
    check_names("allowHeaders", &policy.allow_headers, &mut report);
    check_names("exposeHeaders", &policy.expose_headers, &mut report);
    let max_age = policy.max_age.as_ref().and_then(|text| match duration::istio(text) {
        Ok(age) if age.subsec_nanos() == 0 => Some(age),
        Ok(_) => {
            report.error("maxAge", format!("maxAge {text} is not in whole seconds"));
            None
        }
        Err(reason) => {
            report.error("maxAge", format!("maxAge: {reason}"));
            None
        }
    });
    let forward_unmatched = match policy.unmatched_preflights.as_deref() {
        None | Some("UNSPECIFIED" | "FORWARD") => true,
        Some("IGNORE") => false,
        Some(other) => {
            let reason = format!("unmatchedPreflights {other} is not known");
            report.error("unmatchedPreflights", reason);
            false
        }
    };
    Cors {
        origins: istio_origins(policy, &mut report),
        methods: policy.allow_methods.clone(),
        headers: policy.allow_headers.clone(),
        expose: policy.expose_headers.clone(),
        max_age,
        credentials: policy.allow_credentials,
        forward_unmatched,
    }
}

fn istio_origins(policy: &istio::CorsPolicy, report: &mut Report<'_>) -> Vec<StringMatch> {
    let Some(origins) = &policy.allow_origins else {
        return policy.allow_origin.iter().map(|origin| any(origin, StringMatch::Exact)).collect();
    };
    let mut read = Vec::new();
    for (at, origin) in origins.iter().enumerate() {
        let part = format!("allowOrigins.{at}");
        match virtual_match::string("allowOrigins", origin) {
            Ok(StringMatch::Exact(text)) if !text.is_empty() => {
                read.push(any(&text, StringMatch::Exact));
            }
            Ok(StringMatch::Prefix(text)) if !text.is_empty() => {
                read.push(any(&text, StringMatch::Prefix));
            }
            Ok(StringMatch::Regex(text)) if !text.is_empty() => {
                read.push(StringMatch::Regex(text));
            }
            Ok(_) => report.error(&part, "an origin is exact, prefix or regex, and not empty"),
            Err(reason) => report.error(&part, reason),
        }
    }
    read
}

/// Envoy lets every origin through where `*` itself would be.
fn any(origin: &str, kind: fn(String) -> StringMatch) -> StringMatch {
    if origin == "*" { StringMatch::Present } else { kind(origin.to_owned()) }
}

fn check_names(part: &str, names: &[String], report: &mut Report<'_>) {
    for (at, name) in names.iter().enumerate() {
        if !is_token(name) {
            report.error(&format!("{part}.{at}"), format!("`{name}` is no header name"));
        }
    }
}

/// A `CORS` filter. Preflights that may not are not for the backend here.
pub(crate) fn gateway(filter: &gateway::Cors, mut report: Report<'_>) -> Cors {
    let mut origins = Vec::new();
    for (at, origin) in filter.allow_origins.iter().enumerate() {
        match gateway_origin(origin) {
            Some(origin) => origins.push(origin),
            None => report.error(&format!("allowOrigins.{at}"), format!("`{origin}` is no origin")),
        }
    }
    for (at, method) in filter.allow_methods.iter().enumerate() {
        if !is_token(method) {
            report.error(&format!("allowMethods.{at}"), format!("`{method}` is no method"));
        }
    }
    check_names("allowHeaders", &filter.allow_headers, &mut report);
    check_names("exposeHeaders", &filter.expose_headers, &mut report);
    Cors {
        origins,
        methods: filter.allow_methods.clone(),
        headers: filter.allow_headers.clone(),
        expose: filter.expose_headers.clone(),
        // The API's own default.
        max_age: Some(Duration::from_secs(filter.max_age.unwrap_or(5).into())),
        credentials: filter.allow_credentials,
        forward_unmatched: false,
    }
}

/// `scheme://host` with or without a port; `*` in the host stands for any number of labels.
fn gateway_origin(origin: &str) -> Option<StringMatch> {
    if origin == "*" {
        return Some(StringMatch::Present);
    }
    let origin = origin.to_ascii_lowercase();
    let (scheme, host) = origin.split_once("://")?;
    let whole = |part: &str| !part.is_empty() && !part.contains(['/', ' ']);
    if !whole(scheme) || scheme.contains('*') || !whole(host) {
        return None;
    }
    if !host.contains('*') {
        return Some(StringMatch::Exact(origin));
    }
    let pieces: Vec<String> = origin.split('*').map(regex::escape).collect();
    Some(StringMatch::Regex(pieces.join("[^/:]+")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_labels() {
        let Some(StringMatch::Regex(pattern)) = gateway_origin("https://*.Bar.com:8443") else {
            panic!("a pattern");
        };
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        assert!(regex.is_match("https://a.b.bar.com:8443"));
        for other in [
            "https://a.bar.com",
            "https://bar.com:8443",
            "https://evil.io/.bar.com:8443",
            "https://a.barxcom:8443",
        ] {
            assert!(!regex.is_match(other), "{other}");
        }
        assert_eq!(gateway_origin("*"), Some(StringMatch::Present));
        let exact = StringMatch::Exact("http://a.io:81".to_owned());
        assert_eq!(gateway_origin("http://A.io:81"), Some(exact));
        for bad in ["a.io", "https://", "*://a.io", "https://a.io/x", ""] {
            assert_eq!(gateway_origin(bad), None, "{bad}");
        }
    }
}
