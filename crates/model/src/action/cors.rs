//! Cross-origin requests (Fetch standard, section 3.2), as Envoy's filter `cors` treats them.
//!
//! It treats what is forwarded; a redirect or a direct response stands as configured. In Istio it
//! comes behind faults: a preflight is delayed and aborted like any request, and the answer of an
//! abort gets no fields from here.

use crate::policy::Cors;
use crate::route::StringMatch;
use crate::router::string_holds;

/// What a rule for cross-origin requests looks at. A value that is no visible ASCII counts as
/// absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct CrossOrigin<'a> {
    /// The method token.
    pub method: &'a str,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Access-Control-Request-Method`.
    pub request_method: Option<&'a str>,
    /// `Access-Control-Request-Headers`.
    pub request_headers: Option<&'a str>,
}

/// Header fields: name in lower case, and value.
pub type Fields = Vec<(&'static str, String)>;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is a preflight, and answered with 200, these fields and no body.
    Answer(Fields),
    /// It goes on. In the answer these fields take the place of those of the same names, whoever
    /// set them; there are none if its origin may not, or if it has none.
    Forward(Fields),
}

/// What a rule says of a request.
pub fn judge(cors: &Cors, request: &CrossOrigin<'_>) -> Verdict {
    let Some(origin) = request.origin.filter(|origin| !origin.is_empty()) else {
        return Verdict::Forward(Fields::new());
    };
    let allowed = cors.origins.iter().any(|pattern| origin_holds(pattern, origin));
    let preflight = request.method == "OPTIONS"
        && request.request_method.is_some_and(|method| !method.is_empty());
    if !preflight || !allowed && cors.forward_unmatched {
        return Verdict::Forward(if allowed { shared(cors, origin) } else { Fields::new() });
    }
    // Without `access-control-allow-origin` the other fields permit nothing.
    let mut fields = shared(cors, origin);
    fields.retain(|(name, _)| allowed || *name != "access-control-allow-origin");
    let methods = list(&cors.methods, request.request_method);
    let headers = list(&cors.headers, request.request_headers);
    let max_age = cors.max_age.map(|age| age.as_secs().to_string());
    for (name, value) in [
        ("access-control-allow-methods", methods),
        ("access-control-allow-headers", headers),
        ("access-control-max-age", max_age),
    ] {
        fields.extend(value.map(|value| (name, value)));
    }
    Verdict::Answer(fields)
}

/// The fields of preflights and of other answers. Envoy keeps the exposed ones from preflights,
/// where they mean nothing; Gateway API's conformance tests want them there.
fn shared(cors: &Cors, origin: &str) -> Fields {
    let mut fields = vec![("access-control-allow-origin", origin.to_owned())];
    if cors.credentials {
        fields.push(("access-control-allow-credentials", "true".to_owned()));
    }
    if !cors.expose.is_empty() {
        fields.push(("access-control-expose-headers", cors.expose.join(",")));
    }
    fields
}

/// What is allowed; with `*` among it, what is asked for.
fn list(allowed: &[String], asked: Option<&str>) -> Option<String> {
    if allowed.iter().any(|value| value == "*") {
        return asked.map(str::to_owned);
    }
    (!allowed.is_empty()).then(|| allowed.join(","))
}

/// A pattern that holds for `*` itself holds for every origin.
fn origin_holds(pattern: &StringMatch, origin: &str) -> bool {
    string_holds(pattern, b"*") || string_holds(pattern, origin.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors() -> Cors {
        Cors {
            origins: vec![
                StringMatch::Exact("https://www.foo.com".into()),
                StringMatch::Regex(r"https://.*\.bar\.com".into()),
            ],
            methods: vec!["GET".into(), "OPTIONS".into()],
            headers: vec!["x-1".into(), "x-2".into()],
            expose: vec!["x-3".into(), "x-4".into()],
            max_age: Some(Duration::from_secs(3600)),
            credentials: true,
            forward_unmatched: false,
        }
    }

    fn preflight(origin: &str) -> CrossOrigin<'_> {
        CrossOrigin {
            method: "OPTIONS",
            origin: Some(origin),
            request_method: Some("PUT"),
            request_headers: Some("x-5, x-6"),
        }
    }

    fn text(verdict: Verdict) -> String {
        let (kind, fields) = match verdict {
            Verdict::Answer(fields) => ("answer", fields),
            Verdict::Forward(fields) => ("forward", fields),
        };
        let short = |name: &str| name.trim_start_matches("access-control-").to_owned();
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}={value}", short(name))).collect();
        format!("{kind} {}", fields.join("; "))
    }

    #[test]
    fn a_preflight_of_an_origin_that_may_is_answered() {
        let rest = "allow-credentials=true; expose-headers=x-3,x-4; allow-methods=GET,OPTIONS; \
                    allow-headers=x-1,x-2; max-age=3600";
        for origin in ["https://www.foo.com", "https://www.bar.com", "https://x.y.bar.com"] {
            let got = text(judge(&cors(), &preflight(origin)));
            assert_eq!(got, format!("answer allow-origin={origin}; {rest}"));
        }
        let bare = Cors { origins: vec![StringMatch::Exact("*".into())], ..Cors::default() };
        let got = text(judge(&bare, &preflight("http://any")));
        assert_eq!(got, "answer allow-origin=http://any");
    }

    #[test]
    fn a_star_stands_for_what_is_asked_for() {
        let star = vec!["*".to_owned()];
        let rule = Cors {
            origins: vec![StringMatch::Exact("*".into())],
            methods: star.clone(),
            headers: star,
            ..Cors::default()
        };
        let got = text(judge(&rule, &preflight("http://a:12345")));
        let wanted =
            "answer allow-origin=http://a:12345; allow-methods=PUT; allow-headers=x-5, x-6";
        assert_eq!(got, wanted);
        let asked = CrossOrigin { request_headers: None, ..preflight("http://a") };
        let got = text(judge(&rule, &asked));
        assert_eq!(got, "answer allow-origin=http://a; allow-methods=PUT");
    }

    #[test]
    fn a_preflight_of_another_origin_gets_no_permission_or_goes_on() {
        for origin in ["https://foobar.com", "https://www.foo.com.evil", "https://WWW.foo.com"] {
            let got = text(judge(&cors(), &preflight(origin)));
            assert!(got.starts_with("answer ") && !got.contains("allow-origin"), "{origin}: {got}");
            let rule = Cors { forward_unmatched: true, ..cors() };
            assert_eq!(text(judge(&rule, &preflight(origin))), "forward ", "{origin}");
        }
    }

    #[test]
    fn other_answers_say_who_may_read_them() {
        let allowed = preflight("https://www.foo.com");
        let wanted = "forward allow-origin=https://www.foo.com; allow-credentials=true; \
                      expose-headers=x-3,x-4";
        for request in [
            CrossOrigin { method: "GET", ..allowed },
            CrossOrigin { request_method: None, ..allowed },
            CrossOrigin { request_method: Some(""), ..allowed },
        ] {
            assert_eq!(text(judge(&cors(), &request)), wanted, "{request:?}");
        }
        for origin in [None, Some(""), Some("https://foobar.com"), Some("null")] {
            let request = CrossOrigin { method: "GET", origin, ..allowed };
            assert_eq!(text(judge(&cors(), &request)), "forward ", "{origin:?}");
        }
    }
}
