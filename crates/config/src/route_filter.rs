//! Filters of Gateway API's routes.
//!
//! The specification: a filter that is not understood must not be skipped, and requests that would
//! have gone through it get an error. That includes those that authorise.

use beeway_model::policy::{Cors, Fraction, Rewrite};
use beeway_model::{HeaderEdits, PathRewrite, Redirect, RedirectPort};

use crate::gateway::{
    BackendRef, Filter, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
};
use crate::problem::Report;
use crate::{cors, header_edits};

/// What the filters of a rule or of a backend ask for.
#[derive(Debug, Default)]
pub(crate) struct Filtered<'a> {
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub rewrite: Rewrite,
    pub redirect: Option<Box<Redirect>>,
    pub mirrors: Vec<Copies<'a>>,
    pub cors: Option<Cors>,
    /// The kinds of the filters that change something.
    pub kinds: Vec<&'static str>,
}

/// A mirror that is not resolved yet.
#[derive(Debug)]
pub(crate) struct Copies<'a> {
    /// Where it is, below what the filters are of.
    pub part: String,
    pub to: &'a BackendRef,
    pub share: Fraction,
}

/// Reads filters of a kind of route; `None`, with problems: requests get 500.
pub(crate) fn read<'a>(
    filters: &'a [Filter],
    route: &str,
    mut report: Report<'_>,
) -> Option<Filtered<'a>> {
    let mut filtered = Filtered::default();
    let mut unknown = false;
    for (at, filter) in filters.iter().enumerate() {
        let part = format!("filters.{at}");
        let mut report = report.below(&part);
        let Some((kind, repeats)) = kind(&filter.kind, route) else {
            let reason = format!("filter {} is not supported: its requests get 500", filter.kind);
            report.error("", reason);
            unknown = true;
            continue;
        };
        if !repeats && filtered.kinds.contains(&kind) {
            report.error("", format!("there is more than one {kind}"));
        }
        if filtered.add(filter, part, &mut report).is_none() {
            report.error("", format!("the {kind} says nothing"));
        }
        filtered.kinds.push(kind);
    }
    if filtered.redirect.is_some() && filtered.kinds.contains(&"URLRewrite") {
        report.error("filters", "RequestRedirect and URLRewrite exclude each other");
    }
    if report.failed() {
        if !unknown {
            report.error("filters", "requests get 500, because of the errors in the filters");
        }
        return None;
    }
    filtered.forget_idle();
    Some(filtered)
}

/// A kind that routes of a kind may have, and whether more than once.
fn kind(written: &str, route: &str) -> Option<(&'static str, bool)> {
    Some(match written {
        "RequestRedirect" | "URLRewrite" | "CORS" if route == "GRPCRoute" => return None,
        "RequestHeaderModifier" => ("RequestHeaderModifier", false),
        "ResponseHeaderModifier" => ("ResponseHeaderModifier", false),
        "RequestMirror" => ("RequestMirror", true),
        "RequestRedirect" => ("RequestRedirect", false),
        "URLRewrite" => ("URLRewrite", false),
        "CORS" => ("CORS", false),
        _ => return None,
    })
}

impl<'a> Filtered<'a> {
    /// Takes in a filter of a known kind; `None`: the field that its kind asks for is not there.
    fn add(&mut self, filter: &'a Filter, part: String, report: &mut Report<'_>) -> Option<()> {
        let edits = |modifier: &HeaderModifier, field: &str, report: &mut Report<'_>| {
            header_edits::gateway(modifier, report.below(field))
        };
        match &*filter.kind {
            "RequestHeaderModifier" => {
                let modifier = filter.request_header_modifier.as_ref()?;
                self.request_headers = edits(modifier, "requestHeaderModifier", report);
            }
            "ResponseHeaderModifier" => {
                let modifier = filter.response_header_modifier.as_ref()?;
                self.response_headers = edits(modifier, "responseHeaderModifier", report);
            }
            "RequestMirror" => {
                let mirror = filter.request_mirror.as_ref()?;
                if let Some(share) = share(mirror, &mut report.below("requestMirror")) {
                    let part = format!("{part}.requestMirror.backendRef");
                    self.mirrors.push(Copies { part, to: &mirror.backend_ref, share });
                }
            }
            "RequestRedirect" => {
                let redirect = filter.request_redirect.as_ref()?;
                let redirect = read_redirect(redirect, &mut report.below("requestRedirect"));
                self.redirect = Some(Box::new(redirect));
            }
            "URLRewrite" => {
                let UrlRewrite { hostname, path } = filter.url_rewrite.as_ref()?;
                let mut report = report.below("urlRewrite.path");
                self.rewrite.authority = hostname.clone();
                self.rewrite.path = path.as_ref().and_then(|path| read_path(path, &mut report));
            }
            _ => self.cors = Some(cors::gateway(filter.cors.as_ref()?, report.below("cors"))),
        }
        Some(())
    }

    /// Leaves out the kinds that change nothing.
    fn forget_idle(&mut self) {
        let idle = |kind: &str| match kind {
            "RequestHeaderModifier" => self.request_headers.is_empty(),
            "ResponseHeaderModifier" => self.response_headers.is_empty(),
            "RequestMirror" => self.mirrors.is_empty(),
            "URLRewrite" => self.rewrite == Rewrite::default(),
            _ => false,
        };
        self.kinds.retain(|kind| !idle(kind));
        self.kinds.dedup();
    }

    /// What cannot be done to the share of one backend alone.
    pub(crate) fn beyond_a_share(&self) -> Option<&'static str> {
        let of_rules = ["RequestRedirect", "RequestMirror", "CORS"];
        of_rules.into_iter().find(|kind| self.kinds.contains(kind))
    }
}

/// The share of a mirror. `None`: it is zero, or there is an error.
fn share(mirror: &RequestMirror, report: &mut Report<'_>) -> Option<Fraction> {
    let fraction = match (mirror.percent, &mirror.fraction) {
        (None, None) => Fraction::ALL,
        (Some(percent), None) => Fraction { numerator: percent, denominator: 100 },
        (None, Some(share)) => {
            let denominator = share.denominator.unwrap_or(100);
            Fraction { numerator: share.numerator, denominator }
        }
        (Some(_), Some(_)) => {
            report.error("", "only one of percent and fraction");
            return None;
        }
    };
    if fraction.denominator == 0 || fraction.numerator > fraction.denominator {
        report.error("", "a share is between none and all");
        return None;
    }
    (fraction.numerator > 0).then_some(fraction)
}

/// The port rules are those of the API document of `HTTPRequestRedirectFilter.port`.
fn read_redirect(redirect: &RequestRedirect, report: &mut Report<'_>) -> Redirect {
    let status = redirect.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        report.error("statusCode", format!("{status} is no code for a redirect"));
    }
    if let Some(scheme) = redirect.scheme.as_deref().filter(|s| !matches!(*s, "http" | "https")) {
        report.error("scheme", format!("scheme {scheme} is neither http nor https"));
    }
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => RedirectPort::Number(port),
        (None, Some(_)) => RedirectPort::SchemeDefault,
        (None, None) => RedirectPort::Listener,
    };
    let mut report = report.below("path");
    Redirect {
        scheme: redirect.scheme.clone(),
        host: redirect.hostname.clone(),
        port,
        path: redirect.path.as_ref().and_then(|path| read_path(path, &mut report)),
        status,
    }
}

fn read_path(path: &PathModifier, report: &mut Report<'_>) -> Option<PathRewrite> {
    match (&*path.kind, &path.replace_full_path, &path.replace_prefix_match) {
        ("ReplaceFullPath", Some(full), None) => Some(PathRewrite::Full(full.clone())),
        ("ReplacePrefixMatch", None, Some(prefix)) => Some(PathRewrite::Prefix(prefix.clone())),
        ("ReplaceFullPath" | "ReplacePrefixMatch", ..) => {
            report.error("", format!("{} does not go with the rest of it", path.kind));
            None
        }
        (other, ..) => {
            report.error("type", format!("path type {other} is not known"));
            None
        }
    }
}
