//! Namespaces and their labels.

use std::collections::{BTreeMap, HashMap};

use beeway_model::access::LabelSelector;

use crate::instance::Instances;
use crate::objects::Objects;

/// The label that the API server gives every namespace: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Every namespace: those that are declared, and those that have workloads.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    labels: BTreeMap<String, BTreeMap<String, String>>,
    /// What was asked for before: many policies ask for the same.
    known: HashMap<LabelSelector, Vec<String>>,
}

impl Namespaces {
    pub(crate) fn of(objects: &Objects, instances: &Instances) -> Self {
        let mut namespaces = Self::default();
        for namespace in &objects.namespaces {
            let labels = namespace.labels.clone();
            namespaces.labels.insert(namespace.name.clone(), labels);
        }
        for instance in &instances.list {
            if !namespaces.labels.contains_key(&instance.namespace) {
                namespaces.labels.insert(instance.namespace.clone(), BTreeMap::new());
            }
        }
        for (name, labels) in &mut namespaces.labels {
            labels.insert(NAME_LABEL.to_owned(), name.clone());
        }
        namespaces
    }

    /// The names of those that a selector selects; `None`: it selects all.
    pub(crate) fn selected(&mut self, selector: &LabelSelector) -> Option<Vec<String>> {
        if selector.0.is_empty() {
            return None;
        }
        if let Some(names) = self.known.get(selector) {
            return Some(names.clone());
        }
        let selected = self.labels.iter().filter(|(_, labels)| selector.holds(labels));
        let names: Vec<String> = selected.map(|(name, _)| name.clone()).collect();
        self.known.insert(selector.clone(), names.clone());
        Some(names)
    }
}
