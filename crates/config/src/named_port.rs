//! What number the name of a port stands for: that is for each pod to say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use beeway_model::Transport;
use beeway_model::access::{Clause, Field, IdentityMatch};

use crate::instance::{Instance, Instances};

/// The pods of a configuration.
#[derive(Debug)]
pub(crate) struct Pods<'a> {
    instances: &'a Instances,
    /// What was asked for before: many policies ask for the same.
    known: HashMap<Asked, Rc<Found>>,
}

/// The name of a port, its transport, and who may be called.
type Asked = (String, Transport, Vec<Vec<Clause>>);

/// What a name stands for.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The numbers, and the addresses of the pods that have the name for them.
    pub numbers: BTreeMap<u16, BTreeSet<IpAddr>>,
    /// Whoever may be called is a pod that has the name for the one number.
    pub all_alike: bool,
}

impl<'a> Pods<'a> {
    pub(crate) fn of(instances: &'a Instances) -> Self {
        Self { instances, known: HashMap::new() }
    }

    /// What a port's name stands for on the pods of which one of these alternatives holds.
    pub(crate) fn named(
        &mut self,
        name: &str,
        transport: Transport,
        called: &[Vec<Clause>],
    ) -> Rc<Found> {
        let key = (name.to_owned(), transport, called.to_vec());
        if let Some(found) = self.known.get(&key) {
            return found.clone();
        }
        let found = Rc::new(self.find(name, transport, called));
        self.known.insert(key, found.clone());
        found
    }

    fn find(&self, name: &str, transport: Transport, called: &[Vec<Clause>]) -> Found {
        let mut found = Found { all_alike: true, ..Found::default() };
        for clauses in called {
            let selector = clauses.iter().find_map(|clause| match &clause.field {
                Field::Called(wanted) => match &wanted[..] {
                    [IdentityMatch::Workloads(namespaces, labels)] => Some((namespaces, labels)),
                    _ => None,
                },
                _ => None,
            });
            let all = (&None, &Default::default());
            let (namespaces, labels) = selector.unwrap_or(all);
            found.all_alike &= selector.is_some();
            for instance in self.instances.matching(namespaces.as_deref(), labels) {
                found.add(instance, name, transport, clauses);
            }
        }
        found.all_alike &= found.numbers.len() == 1;
        found
    }
}

impl Found {
    fn add(&mut self, pod: &Instance, name: &str, transport: Transport, clauses: &[Clause]) {
        // The addresses of a node are no pod's.
        let own = pod.addresses.iter().filter(|_| pod.own_addresses);
        let mut callable = own.filter(|address| clauses.iter().all(|c| holds(c, **address)));
        match pod.port(name, Some(transport)) {
            Some(number) => {
                let addresses: Vec<IpAddr> = callable.copied().collect();
                if !addresses.is_empty() {
                    self.numbers.entry(number).or_default().extend(addresses);
                }
            }
            None => self.all_alike &= callable.next().is_none(),
        }
    }
}

/// Whether a clause allows for an address, as far as it asks for that.
fn holds(clause: &Clause, address: IpAddr) -> bool {
    match &clause.field {
        Field::CalledAddress(nets) => {
            nets.iter().any(|net| net.contains(address)) != clause.negated
        }
        _ => true,
    }
}
