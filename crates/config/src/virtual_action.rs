//! What a VirtualService's rule does.

use std::collections::BTreeSet;

use beeway_model::{Action, Backend};

use crate::catalog::Catalog;
use crate::hostname::qualify;
use crate::istio;
use crate::objects::Object;
use crate::problem::Problem;
use crate::virtual_service::not_supported;

/// The action of rule `index` on a port, and why only the userspace proxy can carry it out.
pub(crate) fn action(
    object: &Object<istio::VirtualService>,
    index: usize,
    rule: &istio::HttpRule,
    port: u16,
    catalog: &mut Catalog,
    problems: &mut BTreeSet<Problem>,
) -> (Action, Option<String>) {
    let path = format!("spec.http.{index}");
    let mut extras = Extras { object, path: &path, detour: Vec::new(), problems };
    if let Some(action) = extras.abort(rule) {
        return (action, None);
    }
    extras.rewriting(rule);
    extras.resilience(rule);
    if let Some(response) = &rule.direct_response {
        let body = response.body.as_ref();
        if body.is_some_and(|body| body.bytes.is_some()) {
            let reason = "body.bytes is not supported yet; the body is empty";
            extras.warn("directResponse.body.bytes", reason.to_owned());
        }
        let body = body.and_then(|body| body.string.clone()).unwrap_or_default();
        return (Action::Respond { status: response.status, body }, extras.reason());
    }
    if rule.redirect.is_some() {
        let reason = "redirect is not carried out yet; the answer is 501";
        extras.problems.insert(object.place.error(&format!("{path}.redirect"), reason));
        return (not_supported("redirect"), None);
    }
    let mut backends = Vec::new();
    for (at, route) in rule.route.iter().enumerate() {
        let part = format!("route.{at}");
        if route.headers.is_some() {
            extras.detour("headers of a destination", &format!("{part}.headers"));
        }
        // One destination gets everything, whatever its weight.
        let weight = match (rule.route.len(), route.weight) {
            (1, None | Some(0)) => 100,
            (_, weight) => weight.unwrap_or(0),
        };
        let cluster = extras.cluster(&part, &route.destination, port, catalog);
        backends.push(Backend { cluster: Some(cluster), weight, policy: None });
    }
    (Action::Forward(backends), extras.reason())
}

struct Extras<'a> {
    object: &'a Object<istio::VirtualService>,
    path: &'a str,
    detour: Vec<&'a str>,
    problems: &'a mut BTreeSet<Problem>,
}

impl<'a> Extras<'a> {
    fn warn(&mut self, part: &str, reason: String) {
        let path = format!("{}.{part}", self.path);
        self.problems.insert(self.object.place.warning(&path, reason));
    }

    /// Notes something that the kernel cannot do, and the userspace proxy does not do yet.
    fn detour(&mut self, what: &'a str, part: &str) {
        self.detour.push(what);
        let reason = format!("{what}: not carried out yet; requests take the detour without it");
        self.warn(part, reason);
    }

    fn reason(&self) -> Option<String> {
        (!self.detour.is_empty()).then(|| self.detour.join(", "))
    }

    /// An abort of every request is an answer. A share of them takes the proxy.
    ///
    /// Without a percentage nothing is aborted or delayed: Istio hands Envoy no fraction, and
    /// Envoy's default is none.
    fn abort(&mut self, rule: &istio::HttpRule) -> Option<Action> {
        let fault = rule.fault.as_ref()?;
        if let Some(delay) = &fault.delay {
            let percentage = delay.percentage.as_ref().map(|p| p.value);
            if percentage.or(delay.percent).unwrap_or(0.0) > 0.0 {
                self.detour("fault.delay", "fault.delay");
            }
        }
        let abort = fault.abort.as_ref()?;
        match (abort.percentage.as_ref().map(|p| p.value), abort.http_status) {
            (None, _) => {
                let path = format!("{}.fault.abort", self.path);
                let reason = "abort without a percentage aborts nothing, as in Istio";
                self.problems.insert(self.object.place.notice(&path, reason));
            }
            (Some(share), Some(status)) if share >= 100.0 => {
                let body = "fault filter abort".to_owned();
                return Some(Action::Respond { status, body });
            }
            (Some(share), _) if share > 0.0 => self.detour("fault.abort", "fault.abort"),
            _ => {}
        }
        None
    }

    fn rewriting(&mut self, rule: &istio::HttpRule) {
        for (what, there) in [
            ("rewrite", rule.rewrite.is_some()),
            ("mirror", rule.mirror.is_some()),
            ("mirrors", rule.mirrors.is_some()),
            ("corsPolicy", rule.cors_policy.is_some()),
            ("headers", rule.headers.is_some()),
        ] {
            if there {
                self.detour(what, what);
            }
        }
    }

    /// Retries and timeouts: without them a request is still right, so it stays in the kernel.
    fn resilience(&mut self, rule: &istio::HttpRule) {
        for (what, there) in
            [("timeout", rule.timeout.is_some()), ("retries", rule.retries.is_some())]
        {
            if there {
                self.warn(what, format!("{what}: not carried out yet"));
            }
        }
    }

    fn cluster(
        &mut self,
        part: &str,
        target: &istio::Target,
        listener: u16,
        catalog: &mut Catalog,
    ) -> beeway_model::ClusterId {
        let host = qualify(&target.host, &self.object.namespace);
        let subset = target.subset.as_deref().filter(|subset| !subset.is_empty());
        let known = catalog.by_host(&host);
        // Istio: the only port of the destination, or else the port that was called.
        let only = known.filter(|listed| listed.ports.len() == 1).map(|l| l.ports[0].number);
        let port = target.port.as_ref().map(|p| p.number).or(only).unwrap_or(listener);
        if let Some(cluster) = catalog.find(&host, port, subset) {
            return cluster;
        }
        let what = match (known, subset) {
            (None, _) => match catalog.meant_by(&host) {
                Some(meant) => format!("{host} is no service; the full name is {meant}"),
                None => format!("{host} is no service of this mesh"),
            },
            (Some(listed), Some(subset)) if listed.ports.iter().any(|p| p.number == port) => {
                format!("{host} has no subset {subset}")
            }
            (Some(_), _) => format!("{host} has no port {port}"),
        };
        let path = format!("{}.{part}.destination", self.path);
        let reason = format!("{what}; requests sent there get 503");
        self.problems.insert(self.object.place.error(&path, reason));
        catalog.nowhere(&host, port, subset)
    }
}
