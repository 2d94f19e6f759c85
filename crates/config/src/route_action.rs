//! What a rule of one of Gateway API's routes does.

use beeway_model::policy::Mirror;
use beeway_model::{
    Action, Backend, BackendPolicy, ClusterId, HeaderEdits, PathRewrite, Policy, Retry, RetryOn,
};

use crate::catalog::Catalog;
use crate::gateway::{BackendRef, ParentRef, Retry as Retries, RouteRule, Timeouts};
use crate::objects::{Objects, Place};
use crate::problem::{Problem, Report};
use crate::route_filter::{self, Copies, Filtered};
use crate::virtual_action::Carried;
use crate::{duration, header_edits};

/// A route as far as its actions look at it.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// `HTTPRoute`.
    pub kind: &'a str,
    pub place: &'a Place,
    pub namespace: &'a str,
    pub parents: &'a [ParentRef],
}

/// Reads rules of a route.
pub(crate) struct Reader<'a> {
    pub origin: Origin<'a>,
    pub objects: &'a Objects,
    pub catalog: &'a Catalog,
    pub problems: &'a mut Vec<Problem>,
}

/// What is answered for a rule that cannot be carried out.
pub(crate) fn refusal() -> Carried {
    let action = Action::Respond { status: 500, body: String::new() };
    Carried { action, policy: None, detour: None }
}

impl Reader<'_> {
    /// The action of the rule at a path of the route.
    pub(crate) fn action<M>(&mut self, path: &str, rule: &RouteRule<M>) -> Carried {
        let mut policy = Policy::default();
        let mut detour = Vec::new();
        self.time(path, rule, &mut policy, &mut detour);
        let filters = Report::new(self.origin.place, path, self.problems);
        let Some(filtered) = route_filter::read(&rule.filters, self.origin.kind, filters) else {
            return refusal();
        };
        detour.extend(&filtered.kinds);
        let mut redirect = take_in(&mut policy, filtered, |copies| self.mirror(path, &copies));
        let (mut backends, mut of_backends) = (Vec::new(), Vec::new());
        for (at, backend) in rule.backend_refs.iter().enumerate() {
            let path = format!("{path}.backendRefs.{at}");
            let report = Report::new(self.origin.place, &*path, self.problems);
            let filtered = route_filter::read(&backend.filters, self.origin.kind, report);
            let (cluster, filtered) = self.backend(&path, backend, filtered);
            detour.extend(&filtered.kinds);
            backends.push(Backend { cluster, weight: backend.weight.unwrap_or(1), policy: None });
            of_backends.push((path, filtered));
        }
        detour.sort_unstable();
        detour.dedup();
        if let [(path, filtered)] = &mut *of_backends {
            // What is done to the only share is done to all.
            let filtered = std::mem::take(filtered);
            let of_backend = take_in(&mut policy, filtered, |copies| self.mirror(path, &copies));
            redirect = redirect.or(of_backend);
        } else {
            for (backend, (path, filtered)) in backends.iter_mut().zip(of_backends) {
                self.share(&path, backend, filtered);
            }
        }
        let action = match redirect {
            Some(redirect) => {
                policy = Policy {
                    response_headers: policy.response_headers,
                    cors: policy.cors,
                    ..Policy::default()
                };
                Action::Redirect(redirect)
            }
            None => Action::Forward(self.weighed(path, backends)),
        };
        Carried {
            action,
            policy: (policy != Policy::default()).then(|| Box::new(policy)),
            detour: (!detour.is_empty()).then(|| detour.join(", ")),
        }
    }

    /// The cluster of a backend and its filters; without a cluster if it cannot be used.
    fn backend<'a>(
        &mut self,
        path: &str,
        backend: &BackendRef,
        filtered: Option<Filtered<'a>>,
    ) -> (Option<ClusterId>, Filtered<'a>) {
        let cluster = self.cluster(backend).map_err(|reason| {
            let reason = format!("{reason}; its share of the requests gets 500");
            self.problems.push(self.origin.place.error(path, reason));
        });
        match filtered {
            Some(filtered) => (cluster.ok(), filtered),
            None => (None, Filtered::default()),
        }
    }

    /// Filters of one backend among several.
    fn share(&mut self, path: &str, backend: &mut Backend, filtered: Filtered<'_>) {
        if let Some(kind) = filtered.beyond_a_share() {
            let reason = format!(
                "{kind} on one of several backendRefs is not supported: its share of the requests \
                 gets 500"
            );
            self.problems.push(self.origin.place.error(path, reason));
            backend.cluster = None;
            return;
        }
        let policy = BackendPolicy {
            request_headers: filtered.request_headers,
            response_headers: filtered.response_headers,
            rewrite: filtered.rewrite,
        };
        backend.policy = (policy != BackendPolicy::default()).then(|| Box::new(policy));
    }

    fn weighed(&mut self, path: &str, mut backends: Vec<Backend>) -> Vec<Backend> {
        let place = self.origin.place;
        let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
        if total > u64::from(u32::MAX) {
            let reason = format!("the weights add up to more than {}; requests get 500", u32::MAX);
            self.problems.push(place.error(&format!("{path}.backendRefs"), reason));
            backends.clear();
        }
        if backends.is_empty() {
            let reason = "no backendRefs: requests get 500";
            self.problems.push(place.notice(path, reason));
        }
        backends
    }

    fn mirror(&mut self, path: &str, copies: &Copies<'_>) -> Mirror {
        let cluster = self.cluster(copies.to).map_err(|reason| {
            let reason = format!("{reason}; no copies are sent");
            let path = format!("{path}.{}", copies.part);
            self.problems.push(self.origin.place.error(&path, reason));
        });
        Mirror { cluster: cluster.ok(), share: copies.share }
    }

    fn time<M>(
        &mut self,
        path: &str,
        rule: &RouteRule<M>,
        policy: &mut Policy,
        detour: &mut Vec<&'static str>,
    ) {
        let mut report = Report::new(self.origin.place, path, self.problems);
        if rule.session_persistence.is_some() {
            let reason = "sessionPersistence: not carried out yet";
            report.warning("sessionPersistence", reason);
        }
        if let Some(retries) = &rule.retry {
            let retry = read_retry(retries, &mut report.below("retry"));
            detour.extend((retry.attempts > 0).then_some("retry"));
            policy.retry = Some(retry);
        }
        if let Some(timeouts) = &rule.timeouts {
            read_timeouts(timeouts, policy, &mut report.below("timeouts"));
            let per_try = policy.retry.as_ref().and_then(|retry| retry.per_try_timeout);
            detour.extend(policy.timeout.or(per_try).map(|_| "timeouts"));
        }
    }

    /// The cluster of a backend, or why there is none.
    fn cluster(&self, backend: &BackendRef) -> Result<ClusterId, String> {
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        if (group, kind) != ("", "Service") {
            return Err(format!("backend {kind} {} is of a kind that is not known", backend.name));
        }
        let namespace = backend.namespace.as_deref().unwrap_or(self.origin.namespace);
        let name = format!("{namespace}/{}", backend.name);
        if namespace != self.origin.namespace && !self.granted(namespace, &backend.name) {
            return Err(format!(
                "no ReferenceGrant in {namespace} lets it refer to Service {name}"
            ));
        }
        let Some(service) = self.catalog.kubernetes(namespace, &backend.name) else {
            return Err(format!("there is no Service {name}"));
        };
        let Some(port) = backend.port else {
            return Err(format!("no port is given for Service {name}"));
        };
        let listed = &self.catalog.services[service];
        listed
            .tcp_cluster(port)
            .or_else(|| self.catalog.find(listed.host(), port, None))
            .ok_or_else(|| format!("Service {name} has no port {port}"))
    }

    /// Whether a route may name a Service of another namespace: with a ReferenceGrant there, or
    /// when the route's parent is a Service of that namespace. A consumer route sends its own
    /// clients on to what they could call anyway, and the conformance tests want it without a
    /// grant.
    fn granted(&self, namespace: &str, service: &str) -> bool {
        let parent = self.origin.parents.iter().any(|parent| {
            parent.kind.as_deref() == Some("Service")
                && parent.namespace.as_deref() == Some(namespace)
        });
        let mut grants =
            self.objects.reference_grants.iter().filter(|grant| grant.namespace == namespace);
        parent
            || grants.any(|grant| {
                grant.body.from.iter().any(|from| {
                    from.group == "gateway.networking.k8s.io"
                        && from.kind == self.origin.kind
                        && from.namespace == self.origin.namespace
                }) && grant.body.to.iter().any(|to| {
                    to.group.is_empty()
                        && to.kind == "Service"
                        && to.name.as_deref().is_none_or(|name| name == service)
                })
            })
    }
}

/// Adds what filters ask for to a rule's policy; a redirect is its action.
fn take_in(
    policy: &mut Policy,
    filtered: Filtered<'_>,
    mut mirror: impl FnMut(Copies<'_>) -> Mirror,
) -> Option<Box<beeway_model::Redirect>> {
    let joined = |outer: &mut HeaderEdits, inner: HeaderEdits| {
        *outer = header_edits::joined(std::mem::take(outer), inner);
    };
    joined(&mut policy.request_headers, filtered.request_headers);
    joined(&mut policy.response_headers, filtered.response_headers);
    policy.mirrors.extend(filtered.mirrors.into_iter().map(&mut mirror));
    let rewrite = &mut policy.rewrite;
    rewrite.path = filtered.rewrite.path.or(rewrite.path.take());
    rewrite.authority = filtered.rewrite.authority.or(rewrite.authority.take());
    policy.cors = filtered.cors.or(policy.cors.take());
    filtered.redirect
}

/// Whether the prefix that a request was matched by is replaced.
pub(crate) fn replaces_prefix(carried: &Carried) -> bool {
    let is_prefix = |path: Option<&PathRewrite>| matches!(path, Some(PathRewrite::Prefix(_)));
    let of_rule = carried.policy.as_ref().and_then(|policy| policy.rewrite.path.as_ref());
    let of_action = match &carried.action {
        Action::Redirect(redirect) => is_prefix(redirect.path.as_ref()),
        Action::Forward(backends) => backends.iter().any(|backend| {
            is_prefix(backend.policy.as_ref().and_then(|policy| policy.rewrite.path.as_ref()))
        }),
        Action::Respond { .. } => false,
    };
    of_action || is_prefix(of_rule)
}

/// GEP-1731: with a `retry`, failures of the connection are tried again too.
fn read_retry(retries: &Retries, report: &mut Report<'_>) -> Retry {
    let mut retry = Retry::default();
    retry.on.push(RetryOn::Reset);
    retry.attempts = retries.attempts.unwrap_or(retry.attempts);
    retry.statuses.clone_from(&retries.codes);
    for (at, code) in retries.codes.iter().enumerate() {
        if !(400..=599).contains(code) {
            report.error(&format!("codes.{at}"), format!("{code} is not in 400..=599"));
        }
    }
    match retries.backoff.as_deref().map(duration::gateway) {
        None => {}
        Some(Ok(backoff)) => retry.backoff = backoff,
        Some(Err(reason)) => report.error("backoff", reason),
    }
    retry
}

/// Zero is without a limit.
fn read_timeouts(timeouts: &Timeouts, policy: &mut Policy, report: &mut Report<'_>) {
    let mut read = |part: &str, text: &Option<String>| match duration::gateway(text.as_deref()?) {
        Ok(time) => Some(time).filter(|time| !time.is_zero()),
        Err(reason) => {
            report.error(part, reason);
            None
        }
    };
    policy.timeout = read("request", &timeouts.request);
    let per_try = read("backendRequest", &timeouts.backend_request);
    if let (Some(whole), Some(part)) = (policy.timeout, per_try)
        && part > whole
    {
        report.error("backendRequest", "backendRequest is longer than request");
    }
    if per_try.is_some() {
        policy.retry.get_or_insert_default().per_try_timeout = per_try;
    }
}
