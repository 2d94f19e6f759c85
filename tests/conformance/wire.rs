//! What a case sends, and whether what comes back is what it wants.

use beeway_testbed::Response;
use serde_json::Value;

use crate::cases::{Case, Expected, Target};

/// The head of a case's request. `mark` tells it from others in what servers print.
pub fn head(case: &Case, host: &str, mark: &str) -> String {
    let own = case.headers.iter().find(|(name, _)| name == "Host");
    let host = own.map_or(host, |(_, host)| host);
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", case.method, case.path);
    for (name, value) in case.headers.iter().filter(|(name, _)| name != "Host") {
        text += &format!("{name}: {value}\r\n");
    }
    for (name, value) in &case.set_headers {
        text += &format!("X-Echo-Set-Header: {name}:{value}\r\n");
    }
    text + &format!("X-Mark: {mark}\r\n\r\n")
}

/// Looks at an answer; `namespace` is that of the backend unless the case names one.
pub fn check(case: &Case, answer: &Response, namespace: &str) {
    assert!(case.statuses.contains(&answer.status.into()), "{case:?}: {answer:?}");
    if let Some(backend) = &case.backend {
        let wanted = format!("{}/{backend}", case.namespace.as_deref().unwrap_or(namespace));
        let by = answer.served_by().unwrap_or_default();
        assert!(by.starts_with(&wanted), "{case:?}: {answer:?}");
    }
    if answer.served_by().is_some() && answer.status == 200 {
        arrived(case, answer);
    }
    if let Some(target) = &case.redirect {
        led(case, answer, target);
    }
    for (name, values) in &case.answer_headers {
        let got = answer.headers.get(&name.to_ascii_lowercase());
        let Some(got) = got.map(|got| got.replace(", ", ",")) else {
            panic!("no {name}: {case:?}: {answer:?}");
        };
        let same = |wanted: &String| match case.ignore_whitespace {
            true => got.replace(' ', "") == wanted.replace(' ', ""),
            false => got == *wanted,
        };
        assert!(values.iter().any(same), "{name}: {case:?}: {answer:?}");
    }
    for name in &case.absent_headers {
        let got = answer.headers.get(&name.to_ascii_lowercase());
        assert_eq!(got, None, "{name}: {case:?}: {answer:?}");
    }
}

/// What the backend saw.
fn arrived(case: &Case, answer: &Response) {
    let Ok(seen) = serde_json::from_str::<Value>(&answer.body) else {
        panic!("{case:?}: {answer:?}");
    };
    let field = |name: &str| {
        let value = seen["headers"][name.to_ascii_lowercase()].as_str();
        value.map(|value| value.replace(", ", ","))
    };
    let sent;
    let expected = match &case.expected {
        Some(expected) => expected,
        None => {
            let headers = case.headers.clone();
            let own = headers.iter().find(|(name, _)| name == "Host").map(|(_, host)| host);
            sent = Expected {
                host: own.unwrap_or(&case.host).clone(),
                path: case.path.clone(),
                headers,
                absent_headers: vec![],
            };
            &sent
        }
    };
    let host = field("host");
    let any_host = expected.host.is_empty() || expected.host.starts_with('$');
    assert!(any_host || host.as_ref() == Some(&expected.host), "{case:?}: {seen}");
    let any_path = expected.path.is_empty();
    assert!(any_path || seen["path"] == expected.path, "{case:?}: {seen}");
    assert_eq!(seen["method"], case.method, "{case:?}: {seen}");
    for (name, value) in &expected.headers {
        assert_eq!(field(name), Some(value.replace(", ", ",")), "{name}: {case:?}: {seen}");
    }
    for name in &expected.absent_headers {
        assert_eq!(field(name), None, "{name}: {case:?}: {seen}");
    }
}

/// Where a redirect leads.
fn led(case: &Case, answer: &Response, target: &Target) {
    let location = answer.headers.get("location").map_or("", String::as_str);
    let parts = || {
        let (scheme, rest) = location.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        Some((scheme, host, port, path.split('?').next().unwrap_or_default()))
    };
    let Some((scheme, host, port, path)) = parts() else {
        panic!("{case:?} leads to {location:?}");
    };
    let asked = case.path.split('?').next().unwrap_or_default();
    assert_eq!(scheme, target.scheme.as_deref().unwrap_or("http"), "{case:?}: {location}");
    assert_eq!(path, target.path.as_deref().unwrap_or(asked), "{case:?}: {location}");
    if let Some(wanted) = &target.host {
        assert_eq!(host, wanted, "{case:?}: {location}");
    }
    match (&target.port, scheme) {
        (Some(wanted), _) => assert_eq!(port, wanted, "{case:?}: {location}"),
        (None, "https") => assert!(["", "443"].contains(&port), "{case:?}: {location}"),
        (None, _) => assert!(["", "80"].contains(&port), "{case:?}: {location}"),
    }
}
