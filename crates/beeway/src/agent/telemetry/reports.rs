//! AUDIT policies and those in dry run: which of them match a call that the kernel tells of.
//!
//! Requests that they match are told of by the proxy. Here are connections that are not HTTP, and
//! requests that are judged where they come in, by the policies of when they are told of.

use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::Mesh;
use beeway_model::access::{Identity, Scope};
use rustc_hash::FxHashMap;

/// Which policies that only report are about whom.
#[derive(Default)]
pub(super) struct Reports {
    mesh: Arc<Mesh>,
    /// All of them, by their indices.
    all: Vec<usize>,
    /// Workloads by address. Empty where there is no such policy.
    workloads: FxHashMap<IpAddr, usize>,
    /// Of each workload (`None`: of who is none) those that may be about calls to it; found when it is
    /// first called.
    about: FxHashMap<Option<usize>, Arc<[usize]>>,
}

impl Reports {
    /// Goes by the policies of this configuration from now on.
    pub fn follow(&mut self, mesh: &Arc<Mesh>) {
        if Arc::ptr_eq(&self.mesh, mesh) {
            return;
        }
        let all = mesh.access.iter().enumerate().filter(|(_, policy)| policy.only_reports());
        let all: Vec<usize> = all.map(|(index, _)| index).collect();
        let mut workloads = FxHashMap::default();
        if !all.is_empty() {
            for (index, workload) in mesh.workloads.iter().enumerate() {
                for address in &workload.addresses {
                    workloads.entry(*address).or_insert(index);
                }
            }
        }
        *self = Reports { mesh: mesh.clone(), all, workloads, about: FxHashMap::default() };
    }

    /// The policies that may be about calls to who has an address, by their indices.
    pub fn about(&mut self, called: IpAddr) -> Arc<[usize]> {
        if self.all.is_empty() {
            return Arc::default();
        }
        let called = self.workloads.get(&called.to_canonical()).copied();
        let (mesh, all) = (&self.mesh, &self.all);
        let find = || all.iter().copied().filter(|index| may_be_about(mesh, *index, called));
        self.about.entry(called).or_insert_with(|| find().collect()).clone()
    }

    /// [`Mesh::identity_at`], found at once.
    pub fn identity_at(&self, address: IpAddr) -> Identity<'_> {
        match self.workloads.get(&address.to_canonical()) {
            Some(index) => Identity::Workload(&self.mesh.workloads[*index]),
            None => self.mesh.stranger_at(address),
        }
    }
}

/// Whether a policy may be about calls to a workload: which service is asked for is not known.
fn may_be_about(mesh: &Mesh, policy: usize, called: Option<usize>) -> bool {
    match &mesh.access[policy].scope {
        Scope::Services(_) => true,
        Scope::Workloads(namespace, labels) => called.is_some_and(|index| {
            let workload = &mesh.workloads[index];
            namespace.as_ref().is_none_or(|wanted| *wanted == workload.namespace)
                && labels.holds(&workload.labels)
        }),
    }
}
