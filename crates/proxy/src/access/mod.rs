//! Who may call whom, where the kernel has not decided it: the policies that are about a call, and
//! what they say of it.
//!
//! A call is judged for the endpoint that it is about to be sent to, with the request as that
//! endpoint would get it: what the rule rewrites and edits is what policies see, as in a mesh whose
//! server has a sidecar. Each try is judged, and each copy for a mirror. What the rules mean is
//! [`beeway_model::access::evaluate`] alone; here is found which policies it needs.

mod admit;
mod check;
mod rate;
mod refusal;
mod standing;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;

use beeway_model::access::{
    Access, AccessPolicy, Call, Decider, Direction, Party, Scope, applies, evaluate,
};
use beeway_model::{Mesh, Protocol, Request, Transport};
use http::request::Parts;

use crate::record::Record;
use crate::stats::Counters;
use crate::view::{Caller, View};

pub(crate) use admit::admit;
pub(crate) use check::Stop;
pub(crate) use refusal::{Denied, Refusal};
pub(crate) use standing::Standing;

/// Which policies are about whom, found when somebody is first asked for.
#[derive(Debug)]
pub(crate) struct Policies {
    workloads: Vec<OnceCell<Concern>>,
    services: Vec<OnceCell<Asked>>,
    /// Some name services.
    named: bool,
}

/// Indices of policies, in order.
type List = Box<[usize]>;

/// The policies that select a workload.
#[derive(Debug)]
struct Concern {
    /// About calls to it.
    ingress: List,
    /// About its own.
    egress: List,
}

/// What is called by an address.
#[derive(Debug, Clone)]
struct Asked {
    /// Indices of the services, where policies name any.
    services: Box<[usize]>,
    /// The policies that name them.
    policies: List,
}

impl Policies {
    pub fn new(mesh: &Mesh) -> Policies {
        let names = |policy: &Arc<AccessPolicy>| matches!(policy.scope, Scope::Services(_));
        Policies {
            named: mesh.access.iter().any(names),
            workloads: mesh.workloads.iter().map(|_| OnceCell::new()).collect(),
            services: vec![OnceCell::new(); mesh.services.len() + mesh.direct.len()],
        }
    }

    fn of_workload(&self, mesh: &Mesh, index: usize) -> &Concern {
        self.workloads[index].get_or_init(|| {
            let workload = &mesh.workloads[index];
            let selects = |policy: &AccessPolicy, direction| match &policy.scope {
                Scope::Services(_) => false,
                Scope::Workloads(namespace, labels) => {
                    policy.direction == direction
                        && namespace.as_ref().is_none_or(|wanted| *wanted == workload.namespace)
                        && labels.holds(&workload.labels)
                }
            };
            Concern {
                ingress: list(mesh, |policy| selects(policy, Direction::Ingress)),
                egress: list(mesh, |policy| selects(policy, Direction::Egress)),
            }
        })
    }

    fn of_service(&self, mesh: &Mesh, index: usize) -> &Asked {
        self.services[index].get_or_init(|| {
            let services = if self.named { mesh.asked_by(index) } else { Vec::new() };
            let names: Vec<_> = services.iter().map(|at| mesh.service_name(*at)).collect();
            let policies = list(mesh, |policy| match &policy.scope {
                Scope::Services(named) => {
                    named.iter().any(|(namespace, name)| names.contains(&(namespace, name)))
                }
                Scope::Workloads(..) => false,
            });
            Asked { services: services.into(), policies }
        })
    }
}

fn list(mesh: &Mesh, wanted: impl Fn(&AccessPolicy) -> bool) -> List {
    let wanted = mesh.access.iter().enumerate().filter(|(_, policy)| wanted(policy));
    wanted.map(|(index, _)| index).collect()
}

/// A call that may be made, and the policies that are about it.
pub(crate) struct Prospect<'a> {
    mesh: &'a Mesh,
    pub caller: Party<'a>,
    pub called: Party<'a>,
    pub port: u16,
    services: &'a [usize],
    policies: [&'a [usize]; 3],
}

impl<'a> Prospect<'a> {
    /// `None`: none is.
    pub fn of(
        view: &'a View,
        policies: &'a Policies,
        caller: Caller,
        endpoint: SocketAddr,
        service: SocketAddr,
    ) -> Option<Prospect<'a>> {
        let mesh = &*view.mesh;
        let place = view.place(service.ip(), service.port());
        let (known, calling) = view.party(caller.known_by);
        let caller = Party { address: caller.address, ..known };
        let (called, serving) = view.party(endpoint.ip());
        let asked = place.map(|place| policies.of_service(mesh, place.service));
        let lists = [
            calling.map_or(&[][..], |index| &policies.of_workload(mesh, index).egress),
            serving.map_or(&[][..], |index| &policies.of_workload(mesh, index).ingress),
            asked.map_or(&[][..], |asked| &asked.policies),
        ];
        if lists.iter().all(|list| list.is_empty()) {
            return None;
        }
        let services = asked.map_or(&[][..], |asked| &asked.services);
        Some(Prospect { mesh, caller, called, port: endpoint.port(), services, policies: lists })
    }

    /// What the policies say; `request`: as the endpoint would get it, `None`: it is a connection.
    pub fn judge(&self, sni: Option<&str>, request: Option<&Request<'_>>) -> Access {
        let names: Vec<_> = self.services.iter().map(|at| self.mesh.service_name(*at)).collect();
        let call = Call {
            caller: self.caller,
            called: self.called,
            port: self.port,
            transport: Transport::Tcp,
            services: &names,
            sni,
            request,
        };
        let mut indices: Vec<usize> = self.policies.concat();
        // the first of several that decide is the one that is told of
        indices.sort_unstable();
        let policies = indices.into_iter().map(|index| (index, &self.mesh.access[index]));
        debug_assert!(policies.clone().all(|(_, policy)| applies(policy, &call)));
        evaluate(policies, &call)
    }

    /// [`Prospect::judge`] for a head that is on its way to a cluster of some protocol.
    pub fn judge_head(&self, head: &Parts, protocol: Protocol) -> Access {
        match protocol {
            Protocol::Http | Protocol::Http2 => {}
            // the endpoint does not see a request in it
            Protocol::Tls | Protocol::Kafka | Protocol::Opaque => return self.judge(None, None),
        }
        let fields: Vec<(&str, &[u8])> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        self.judge(None, Some(&request_of(head, &fields)))
    }

    pub fn policy(&self, decider: Decider) -> &'a AccessPolicy {
        &self.mesh.access[decider.policy]
    }

    /// Why what is not allowed is not.
    pub fn denied(&self, access: &Access) -> Denied {
        Denied::new(access.by.map(|by| (self.policy(by), by.rule)))
    }

    /// Counts what is only reported.
    pub fn count(&self, access: &Access, counters: &Counters) {
        if !access.audit.is_empty() {
            counters.audited.add(access.audit.len() as u64);
        }
        if !access.dry_run.is_empty() {
            counters.dry_run.add(access.dry_run.len() as u64);
        }
    }

    /// Notes who decided, and what is only reported.
    pub fn note(&self, access: &Access, record: &mut Record) {
        if !record.detailed && access.audit.is_empty() && access.dry_run.is_empty() {
            return;
        }
        let names = |deciders: &[Decider]| {
            deciders.iter().map(|decider| self.policy(*decider).name.clone()).collect()
        };
        record.policy = access.by.map(|by| self.policy(by).name.clone()).unwrap_or_default();
        record.audit = names(&access.audit);
        record.dry_run = names(&access.dry_run);
    }
}

/// A head that is on its way to an endpoint, as the model sees it.
fn request_of<'a>(head: &'a Parts, fields: &'a [(&'a str, &'a [u8])]) -> Request<'a> {
    Request {
        method: head.method.as_str(),
        scheme: "http",
        authority: authority(head),
        target: head.uri.path_and_query().map_or("/", |target| target.as_str()),
        headers: fields,
        source: None,
    }
}

/// Whom a request that is on its way to an endpoint is for.
pub(crate) fn authority(head: &Parts) -> &str {
    let named = head.uri.authority().map(|authority| authority.as_str());
    let host = || head.headers.get(http::header::HOST)?.to_str().ok();
    named.or_else(host).unwrap_or_default()
}
