//! Whose traffic a [`Flow`] is: the workloads at its ends, whose namespace and labels say what is
//! told of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use beeway_model::telemetry::Side;
use beeway_model::{Mesh, Workload};
use beeway_telemetry::{Flow, Names, Party};
use rustc_hash::FxHashMap;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// The workloads of one configuration, by what flows know of them.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    by_address: FxHashMap<IpAddr, Arc<Workload>>,
    /// For those whose address says nothing: in the node's network namespace.
    by_party: FxHashMap<Arc<Party>, Arc<Workload>>,
}

/// One at an end of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its labels; none where only the namespace is known.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// The same for the same workload, as long as the configuration is the same.
    pub(crate) key: usize,
}

impl Subjects {
    /// Those of a mesh.
    pub(crate) fn of(mesh: &Mesh) -> Subjects {
        let names = Names::of(mesh);
        let mut subjects = Subjects::default();
        for workload in &mesh.workloads {
            for address in &workload.addresses {
                let address = address.to_canonical();
                subjects.by_address.entry(address).or_insert_with(|| workload.clone());
                let party = names.party(address);
                subjects.by_party.entry(party).or_insert_with(|| workload.clone());
            }
        }
        subjects
    }

    /// Who is at an end of a flow; `None`: nobody of the mesh.
    pub(crate) fn at<'a>(&'a self, flow: &'a Flow, side: Side) -> Option<Subject<'a>> {
        let (party, address) = match side {
            Side::Client => (&flow.source, Some(flow.source_address)),
            Side::Server => (&flow.destination, flow.endpoint.map(|endpoint| endpoint.ip())),
        };
        if !party.is_unknown() {
            let here = address.and_then(|ip| self.by_address.get(&ip.to_canonical()));
            let here = here.filter(|workload| workload.namespace == party.namespace);
            let workload = here.or_else(|| self.by_party.get(party))?;
            let key = Arc::as_ptr(workload) as usize;
            return Some(Subject { namespace: &workload.namespace, labels: &workload.labels, key });
        }
        // Nobody was called: it is the service's namespace that speaks for who would have been.
        let asked =
            side == Side::Server && flow.service.namespace != beeway_telemetry::names::UNKNOWN;
        asked.then(|| Subject {
            namespace: &flow.service.namespace,
            labels: &NO_LABELS,
            key: Arc::as_ptr(&flow.service) as usize,
        })
    }
}
