//! What a VirtualService's rule asks for besides where its requests go. It is the same on every
//! port, and what is wrong with it is wrong with the whole object.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use beeway_model::action::rewrite::check_substitution;
use beeway_model::policy::{Abort, Fraction, Rewrite};
use beeway_model::{
    Action, BackendPolicy, HeaderEdits, PathRewrite, Policy, Redirect, RedirectPort, Retry, RetryOn,
};

use crate::hostname::qualify;
use crate::layer::check_regex;
use crate::problem::Report;
use crate::{cors, duration, header_edits, istio, virtual_fault};

/// The most that a `directResponse` may say, as in Istio's validation.
const MOST_BODY: usize = 1 << 20;

/// What few rules have.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// All of it but the mirrors.
    pub policy: Policy,
    pub mirrors: Vec<Copies>,
    /// What is done to the requests of each destination. Empty: nothing to any.
    pub backends: Vec<Option<Box<BackendPolicy>>>,
    /// What happens instead of sending requests on.
    pub answer: Option<Action>,
    /// What of it only the userspace proxy does.
    pub detour: Vec<&'static str>,
}

/// A mirror whose cluster depends on the port.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Where in the rule it is written.
    pub part: String,
    pub target: istio::Target,
    pub share: Fraction,
}

/// Reads a rule of an object of a namespace; `None`: it asks for nothing.
pub(crate) fn extras(
    rule: &istio::HttpRule,
    namespace: &str,
    mut report: Report<'_>,
) -> Option<Box<Extras>> {
    if is_plain(rule) {
        return None;
    }
    let mut reader = Reader { rule, extras: Extras::default(), report: report.below("") };
    let abort = reader.fault();
    reader.headers();
    reader.rewrite();
    reader.answer();
    reader.time();
    reader.mirrors(namespace);
    reader.destinations();
    let mut extras = reader.extras;
    if let Some(policy) = &rule.cors_policy {
        extras.policy.cors = Some(cors::istio(policy, report.below("corsPolicy")));
        extras.detour.push("corsPolicy");
    }
    if abort.is_some() {
        extras = Extras { answer: abort, ..Extras::default() };
    }
    Some(Box::new(extras))
}

fn is_plain(rule: &istio::HttpRule) -> bool {
    rule.direct_response.is_none()
        && rule.redirect.is_none()
        && rule.rewrite.is_none()
        && rule.timeout.is_none()
        && rule.retries.is_none()
        && rule.fault.is_none()
        && rule.mirror.is_none()
        && rule.mirrors.is_empty()
        && rule.cors_policy.is_none()
        && rule.headers.is_none()
        && rule.route.iter().all(|route| route.headers.is_none())
}

/// Why the parts of a rule do not go together, and which part is to blame. As Istio's validation.
pub(crate) fn refused(rule: &istio::HttpRule) -> Option<(&'static str, String)> {
    let actions = usize::from(!rule.route.is_empty())
        + usize::from(rule.redirect.is_some())
        + usize::from(rule.direct_response.is_some());
    if actions != 1 {
        return Some(("", "a rule has one of route, redirect and directResponse".to_owned()));
    }
    let answer = [("redirect", rule.redirect.is_some())];
    let answer = answer.into_iter().chain([("directResponse", rule.direct_response.is_some())]);
    if let Some((answer, _)) = answer.into_iter().find(|(_, there)| *there) {
        for (part, there) in [("fault", rule.fault.is_some()), ("rewrite", rule.rewrite.is_some())]
        {
            if there {
                return Some((part, format!("a rule has not both {part} and {answer}")));
            }
        }
    }
    if rule.mirror.is_some() && !rule.mirrors.is_empty() {
        return Some(("mirrors", "a rule has not both mirror and mirrors".to_owned()));
    }
    let total: u64 = rule.route.iter().map(|r| u64::from(r.weight.unwrap_or(0))).sum();
    if rule.route.len() > 1 && total == 0 {
        return Some(("route", "the weights of several destinations add up to 0".to_owned()));
    }
    if total > u64::from(u32::MAX) {
        return Some(("route", format!("the weights add up to more than {}", u32::MAX)));
    }
    None
}

struct Reader<'a> {
    rule: &'a istio::HttpRule,
    extras: Extras,
    report: Report<'a>,
}

impl Reader<'_> {
    /// An abort of every request is an answer, which needs no proxy.
    fn fault(&mut self) -> Option<Action> {
        let fault = self.rule.fault.as_ref()?;
        let fault = virtual_fault::read(fault, &mut self.report.below("fault"));
        if let (None, None, Some((Abort::Http(status), share))) =
            (fault.delay, &self.rule.cors_policy, fault.abort)
            && share.numerator == share.denominator
        {
            return Some(Action::Respond { status, body: "fault filter abort".to_owned() });
        }
        self.extras.detour.extend(fault.delay.map(|_| "fault.delay"));
        self.extras.detour.extend(fault.abort.map(|_| "fault.abort"));
        self.extras.policy.fault = fault;
        None
    }

    fn headers(&mut self) {
        let Some(headers) = &self.rule.headers else {
            return;
        };
        let report = self.report.below("headers.request");
        let (request, authority) = header_edits::istio(&headers.request, true, report);
        let report = self.report.below("headers.response");
        let (response, _) = header_edits::istio(&headers.response, false, report);
        if !self.rule.route.is_empty() {
            let policy = &mut self.extras.policy;
            (policy.request_headers, policy.rewrite.authority) = (request, authority);
        } else if !request.is_empty() || authority.is_some() {
            self.no_effect("headers.request");
        }
        self.extras.policy.response_headers = response;
        let policy = &self.extras.policy;
        if !policy.request_headers.is_empty()
            || !policy.response_headers.is_empty()
            || policy.rewrite.authority.is_some()
        {
            self.extras.detour.push("headers");
        }
    }

    fn rewrite(&mut self) {
        let Some(rewrite) = &self.rule.rewrite else {
            return;
        };
        let policy = &mut self.extras.policy;
        match (&rewrite.uri_regex_rewrite, &*rewrite.uri) {
            (None, "") if rewrite.authority.is_empty() => {
                let reason = "rewrite has one of uri, uriRegexRewrite and authority";
                self.report.error("rewrite", reason);
            }
            (None, "") => {}
            (None, uri) => policy.rewrite.path = Some(PathRewrite::Prefix(uri.to_owned())),
            (Some(_), uri) if !uri.is_empty() => {
                self.report.error("rewrite", "only one of uri and uriRegexRewrite");
            }
            (Some(regex), _) => match regex_rewrite(regex) {
                Ok(path) => policy.rewrite.path = Some(path),
                Err(reason) => self.report.error("rewrite.uriRegexRewrite", reason),
            },
        }
        if !rewrite.authority.is_empty()
            && policy.rewrite.authority.replace(rewrite.authority.clone()).is_some()
        {
            self.report.error("rewrite.authority", "the authority is set more than once");
        }
        self.extras.detour.push("rewrite");
    }

    /// `redirect` or `directResponse`.
    fn answer(&mut self) {
        if let Some(redirect) = &self.rule.redirect {
            let action = Action::Redirect(Box::new(self.redirect(redirect)));
            self.extras.answer = Some(action);
            self.extras.detour.push("redirect");
        }
        if let Some(response) = &self.rule.direct_response {
            let mut report = self.report.below("directResponse.status");
            let status = virtual_fault::http_status(response.status, &mut report);
            let body = response.body.as_ref().map(|body| self.body(body)).unwrap_or_default();
            self.extras.answer = status.map(|status| Action::Respond { status, body });
        }
    }

    fn redirect(&mut self, redirect: &istio::Redirect) -> Redirect {
        let mut report = self.report.below("redirect");
        let mut read = Redirect { status: redirect.redirect_code, ..Redirect::default() };
        if read.status == 0 {
            read.status = 301;
        }
        if !matches!(read.status, 301 | 302 | 303 | 307 | 308) {
            let reason = format!("{} is no code for a redirect", read.status);
            report.error("redirectCode", reason);
        }
        read.path = match redirect.uri.strip_prefix("%PREFIX()%") {
            Some(prefix) => Some(PathRewrite::Prefix(prefix.to_owned())),
            None if redirect.uri.is_empty() => None,
            None => Some(PathRewrite::Full(redirect.uri.clone())),
        };
        match &*redirect.scheme {
            "" => {}
            "http" | "https" => read.scheme = Some(redirect.scheme.clone()),
            other => report.error("scheme", format!("scheme {other} is neither http nor https")),
        }
        let (host, port) = host_and_port(&redirect.authority);
        read.host = (!host.is_empty()).then(|| host.to_owned());
        read.port = port.map_or(RedirectPort::Keep, RedirectPort::Number);
        match (redirect.port, redirect.derive_port.as_deref()) {
            (Some(_), Some(_)) => report.error("port", "only one of port and derivePort"),
            (Some(0), None) => report.error("port", "0 is not a port number"),
            (Some(port), None) => read.port = RedirectPort::Number(port),
            (None, Some("FROM_PROTOCOL_DEFAULT")) => read.port = RedirectPort::SchemeDefault,
            (None, Some("FROM_REQUEST_PORT")) => read.port = RedirectPort::Listener,
            (None, Some(other)) => {
                report.error("derivePort", format!("derivePort {other} is not known"));
            }
            (None, None) => {}
        }
        let asked = Redirect { status: read.status, ..Redirect::default() };
        if read == asked {
            report.error("", "a redirect has one of uri, authority, scheme and port");
        }
        read
    }

    fn body(&mut self, body: &istio::Body) -> String {
        let mut report = self.report.below("directResponse.body");
        let text = match (&body.string, &body.bytes) {
            (Some(_), Some(_)) => {
                report.error("", "only one of string and bytes");
                return String::new();
            }
            (Some(text), None) => text.clone(),
            (None, Some(bytes)) => match STANDARD.decode(bytes).map(String::from_utf8) {
                Ok(Ok(text)) => text,
                Ok(Err(_)) => {
                    let reason =
                        "bytes that are not UTF-8 are not supported yet; the body is empty";
                    report.warning("bytes", reason);
                    return String::new();
                }
                Err(_) => {
                    report.error("bytes", "bytes is not Base64");
                    return String::new();
                }
            },
            (None, None) => String::new(),
        };
        if text.len() > MOST_BODY {
            report.error("", format!("the body is longer than {MOST_BODY} bytes"));
        }
        text
    }

    /// Timeout and retries.
    fn time(&mut self) {
        if let Some(text) = &self.rule.timeout {
            let read = if duration::go(text) == Some(Duration::ZERO) {
                Ok(None)
            } else {
                duration::istio(text).map(Some)
            };
            match read {
                Ok(_) if self.rule.route.is_empty() => self.no_effect("timeout"),
                Ok(timeout) => {
                    self.extras.policy.timeout = timeout;
                    self.extras.detour.extend(timeout.map(|_| "timeout"));
                }
                Err(reason) => self.report.error("timeout", reason),
            }
        }
        if let Some(retries) = &self.rule.retries {
            let retry = self.retries(retries);
            if self.rule.route.is_empty() {
                self.no_effect("retries");
                return;
            }
            if retry.attempts > 0 {
                self.extras.detour.push("retries");
            }
            self.extras.policy.retry = Some(retry);
        }
    }

    fn retries(&mut self, retries: &istio::Retries) -> Retry {
        let mut report = self.report.below("retries");
        let mut retry = Retry { attempts: retries.attempts, ..Retry::default() };
        let mut duration = |part: &str, text: &Option<String>| match text.as_deref() {
            None => None,
            Some(text) => match duration::istio(text) {
                Ok(time) => Some(time),
                Err(reason) => {
                    report.error(part, reason);
                    None
                }
            },
        };
        retry.per_try_timeout = duration("perTryTimeout", &retries.per_try_timeout);
        if let Some(backoff) = duration("backoff", &retries.backoff) {
            retry.backoff = backoff;
        }
        if retries.attempts == 0
            && (retries.per_try_timeout.is_some()
                || !retries.retry_on.is_empty()
                || retries.retry_remote_localities.is_some())
        {
            report.error("attempts", "retries are described, and attempts are 0");
        }
        if !retries.retry_on.is_empty() {
            (retry.on, retry.statuses) = retry_on(&retries.retry_on, &mut report);
        }
        if retries.retry_remote_localities == Some(true) {
            let reason = "retryRemoteLocalities: endpoints have no localities here";
            report.notice("retryRemoteLocalities", reason);
        }
        if retries.retry_ignore_previous_hosts == Some(false) {
            let reason = "retryIgnorePreviousHosts: false is not carried out: another endpoint is \
                          preferred";
            report.warning("retryIgnorePreviousHosts", reason);
        }
        retry
    }

    fn mirrors(&mut self, namespace: &str) {
        let mut wanted = Vec::new();
        if let Some(target) = &self.rule.mirror {
            let share = self.rule.mirror_percentage.as_ref().map(|p| p.value);
            let share = share.or(self.rule.mirror_percent.map(f64::from));
            wanted.push(("mirror".to_owned(), (**target).clone(), share));
        }
        for (at, mirror) in self.rule.mirrors.iter().enumerate() {
            let share = mirror.percentage.as_ref().map(|p| p.value);
            wanted.push((format!("mirrors.{at}"), mirror.destination.clone(), share));
        }
        if self.rule.route.is_empty() {
            for (part, ..) in wanted {
                self.no_effect(&part);
            }
            return;
        }
        for (part, mut target, share) in wanted {
            let share = match share {
                None => Fraction::ALL,
                Some(value) => {
                    match virtual_fault::percentage(value, &mut self.report.below(&part)) {
                        Some(value) if value > 0.0 => Fraction::percent(value),
                        _ => continue,
                    }
                }
            };
            self.extras.detour.push(if part == "mirror" { "mirror" } else { "mirrors" });
            target.host = qualify(&target.host, namespace);
            self.extras.mirrors.push(Copies { part, target, share });
        }
        self.extras.detour.dedup();
    }

    /// Headers of destinations. Those of the only one are the rule's, as in Istio.
    fn destinations(&mut self) {
        if self.rule.route.iter().all(|route| route.headers.is_none()) {
            return;
        }
        let mut all = Vec::new();
        for (at, route) in self.rule.route.iter().enumerate() {
            all.push(route.headers.as_ref().and_then(|headers| {
                let report = self.report.below(&format!("route.{at}.headers.request"));
                let (request_headers, authority) =
                    header_edits::istio(&headers.request, true, report);
                let report = self.report.below(&format!("route.{at}.headers.response"));
                let (response_headers, _) = header_edits::istio(&headers.response, false, report);
                let rewrite = Rewrite { path: None, authority };
                let policy = BackendPolicy { request_headers, response_headers, rewrite };
                (policy != BackendPolicy::default()).then(|| Box::new(policy))
            }));
        }
        if all.iter().all(Option::is_none) {
            return;
        }
        self.extras.detour.push("headers of a destination");
        match &mut *all {
            [only] => self.join(only.take()),
            _ => self.extras.backends = all,
        }
    }

    fn join(&mut self, only: Option<Box<BackendPolicy>>) {
        let Some(only) = only else {
            return;
        };
        let policy = &mut self.extras.policy;
        let joined = |outer: &mut HeaderEdits, inner: HeaderEdits| {
            *outer = header_edits::joined(std::mem::take(outer), inner);
        };
        joined(&mut policy.request_headers, only.request_headers);
        joined(&mut policy.response_headers, only.response_headers);
        if policy.rewrite.authority.is_none() {
            policy.rewrite.authority = only.rewrite.authority;
        }
    }

    fn no_effect(&mut self, part: &str) {
        let answer = if self.rule.redirect.is_some() { "redirect" } else { "directResponse" };
        let reason = format!("{part} has no effect beside {answer}");
        self.report.notice(part, reason);
    }
}

fn regex_rewrite(regex: &istio::RegexRewrite) -> Result<PathRewrite, String> {
    if regex.pattern.is_empty() || regex.rewrite.is_empty() {
        return Err("uriRegexRewrite has both match and rewrite".to_owned());
    }
    check_regex(&regex.pattern)?;
    check_substitution(&regex.pattern, &regex.rewrite)?;
    Ok(PathRewrite::Regex { pattern: regex.pattern.clone(), substitution: regex.rewrite.clone() })
}

/// The port of an authority, when it has one. Colons within brackets belong to an address.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

/// Conditions and statuses of `retryOn`.
fn retry_on(text: &str, report: &mut Report<'_>) -> (Vec<RetryOn>, Vec<u16>) {
    let (mut on, mut statuses) = (Vec::new(), Vec::new());
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let condition = match word {
            "5xx" => RetryOn::ServerError,
            "gateway-error" => RetryOn::GatewayError,
            "reset" => RetryOn::Reset,
            "reset-before-request" => RetryOn::ResetBeforeRequest,
            "connect-failure" => RetryOn::ConnectFailure,
            "retriable-4xx" => RetryOn::Retriable4xx,
            "refused-stream" => RetryOn::RefusedStream,
            "cancelled" => RetryOn::Cancelled,
            "deadline-exceeded" => RetryOn::DeadlineExceeded,
            "resource-exhausted" => RetryOn::ResourceExhausted,
            "internal" => RetryOn::Internal,
            "unavailable" => RetryOn::Unavailable,
            // Said by the statuses themselves; and the headers for the other cannot be given.
            "retriable-status-codes" | "retriable-headers" => continue,
            "envoy-ratelimited" | "http3-post-connect-failure" => {
                report.notice("retryOn", format!("retryOn {word}: this does not occur here"));
                continue;
            }
            _ => {
                match word.parse() {
                    Ok(status) if (100..=599).contains(&status) => statuses.push(status),
                    _ => report.error("retryOn", format!("retryOn {word} is not known")),
                }
                continue;
            }
        };
        on.push(condition);
    }
    (on, statuses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_have_ports() {
        for (authority, host, port) in [
            ("a.io", "a.io", None),
            ("a.io:81", "a.io", Some(81)),
            ("[::1]:81", "[::1]", Some(81)),
            ("[::1]", "[::1]", None),
            ("", "", None),
        ] {
            assert_eq!(host_and_port(authority), (host, port));
        }
    }
}
