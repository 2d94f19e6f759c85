//! Where a VirtualService's rule sends requests that come to one port.

use std::collections::BTreeSet;

use beeway_model::policy::Mirror;
use beeway_model::{Action, Backend, ClusterId, Policy};

use crate::catalog::Catalog;
use crate::hostname::qualify;
use crate::istio;
use crate::objects::Object;
use crate::problem::Problem;
use crate::virtual_policy::Extras;

/// A rule of an object, and the port that it is for.
pub(crate) struct Written<'a> {
    pub object: &'a Object<istio::VirtualService>,
    /// Where in the object it is.
    pub path: String,
    pub rule: &'a istio::HttpRule,
    pub port: u16,
}

/// What a rule does with requests.
#[derive(Clone)]
pub(crate) struct Carried {
    pub action: Action,
    pub policy: Option<Box<Policy>>,
    pub detour: Option<String>,
}

/// The action of a rule, with what else it asks for.
pub(crate) fn action(
    written: &Written<'_>,
    extras: Option<&Extras>,
    catalog: &mut Catalog,
    problems: &mut BTreeSet<Problem>,
) -> Carried {
    let action = match extras.and_then(|extras| extras.answer.clone()) {
        Some(answer) => answer,
        None => Action::Forward(written.backends(extras, catalog, problems)),
    };
    let Some(extras) = extras else {
        return Carried { action, policy: None, detour: None };
    };
    let mut policy = extras.policy.clone();
    for copies in &extras.mirrors {
        let cluster = written.resolver().cluster(&copies.target, catalog);
        if let Err(reason) = &cluster {
            let path = format!("{}.{}", written.path, copies.part);
            let reason = format!("{reason}; no copies are sent");
            problems.insert(written.object.place.error(&path, reason));
        }
        policy.mirrors.push(Mirror { cluster: cluster.ok(), share: copies.share });
    }
    Carried {
        action,
        policy: (policy != Policy::default()).then(|| Box::new(policy)),
        detour: (!extras.detour.is_empty()).then(|| extras.detour.join(", ")),
    }
}

impl Written<'_> {
    fn backends(
        &self,
        extras: Option<&Extras>,
        catalog: &mut Catalog,
        problems: &mut BTreeSet<Problem>,
    ) -> Vec<Backend> {
        let routes = &self.rule.route;
        let mut backends = Vec::with_capacity(routes.len());
        for (at, route) in routes.iter().enumerate() {
            // One destination gets everything, whatever its weight.
            let weight = match (routes.len(), route.weight) {
                (1, None | Some(0)) => 100,
                (_, weight) => weight.unwrap_or(0),
            };
            let resolver = self.resolver();
            let cluster = resolver.cluster(&route.destination, catalog).unwrap_or_else(|reason| {
                let path = format!("{}.route.{at}.destination", self.path);
                let reason = format!("{reason}; requests sent there get 503");
                problems.insert(self.object.place.error(&path, reason));
                let (host, port) = resolver.host_and_port(&route.destination, catalog);
                catalog.nowhere(&host, port, subset(&route.destination))
            });
            let policy = extras.and_then(|extras| extras.backends.get(at)?.clone());
            backends.push(Backend { cluster: Some(cluster), weight, policy });
        }
        backends
    }

    fn resolver(&self) -> Resolver<'_> {
        Resolver { namespace: &self.object.namespace, port: self.port }
    }
}

/// Finds what rules of an object of a namespace name, for a port.
pub(crate) struct Resolver<'a> {
    pub namespace: &'a str,
    pub port: u16,
}

impl Resolver<'_> {
    fn host_and_port(&self, target: &istio::Target, catalog: &Catalog) -> (String, u16) {
        let host = qualify(&target.host, self.namespace);
        let known = catalog.by_host(&host);
        // Istio: the only port of the destination, or else the port that was called.
        let only = known.filter(|listed| listed.ports.len() == 1).map(|l| l.ports[0].number);
        let port = target.port.as_ref().map(|p| p.number).or(only).unwrap_or(self.port);
        (host, port)
    }

    /// The cluster of a target, or why there is none.
    pub(crate) fn cluster(
        &self,
        target: &istio::Target,
        catalog: &Catalog,
    ) -> Result<ClusterId, String> {
        let (host, port) = self.host_and_port(target, catalog);
        let (known, subset) = (catalog.by_host(&host), subset(target));
        catalog.find(&host, port, subset).ok_or_else(|| match (known, subset) {
            (None, _) => match catalog.meant_by(&host) {
                Some(meant) => format!("{host} is no service; the full name is {meant}"),
                None => format!("{host} is no service of this mesh"),
            },
            (Some(listed), Some(subset)) if listed.ports.iter().any(|p| p.number == port) => {
                format!("{host} has no subset {subset}")
            }
            (Some(_), _) => format!("{host} has no port {port}"),
        })
    }
}

fn subset(target: &istio::Target) -> Option<&str> {
    target.subset.as_deref().filter(|subset| !subset.is_empty())
}
