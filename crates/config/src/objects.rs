//! Items of all files → objects: which of two with one name stands, and in which order they go.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rustc_hash::FxHashMap;

use crate::authorization::Authorization;
use crate::instance::Instance;
use crate::item::{Identity, Item, Typed, Written};
use crate::mesh_config::MeshConfig;
use crate::network_policy::NetworkPolicy;
use crate::problem::Problem;
use crate::{envoy_filter, gateway, istio, kafka, telemetry};

pub(crate) use crate::item::{Object, Place};

/// Everything that was read, each kind in order of namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub services: Vec<Object<core::Service>>,
    pub pods: Vec<Object<Option<Arc<Instance>>>>,
    pub slices: Vec<Object<EndpointSlice>>,
    pub http_routes: Vec<Object<gateway::HttpRoute>>,
    pub grpc_routes: Vec<Object<gateway::GrpcRoute>>,
    pub reference_grants: Vec<Object<gateway::ReferenceGrant>>,
    pub virtual_services: Vec<Object<istio::VirtualService>>,
    pub destination_rules: Vec<Object<istio::DestinationRule>>,
    pub service_entries: Vec<Object<istio::ServiceEntry>>,
    pub workload_entries: Vec<Object<istio::WorkloadEntry>>,
    pub namespaces: Vec<Object<core::Namespace>>,
    pub nodes: Vec<Object<core::Node>>,
    pub mesh_configs: Vec<Object<MeshConfig>>,
    pub authorizations: Vec<Object<Authorization>>,
    pub network_policies: Vec<Object<NetworkPolicy>>,
    pub kafka_policies: Vec<Object<kafka::Spec>>,
    pub envoy_filters: Vec<Object<envoy_filter::Spec>>,
    pub telemetries: Vec<Object<telemetry::Spec>>,
}

/// Takes in the items of all files, in the order of files and documents.
pub(crate) struct Collector<'a> {
    objects: Objects,
    /// No two have one identity: none is looked for.
    all_differ: bool,
    /// Where the one is that stands.
    seen: FxHashMap<&'a Identity, &'a Place>,
    problems: Vec<Problem>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(all_differ: bool) -> Self {
        let (objects, seen, problems) = (Objects::default(), FxHashMap::default(), Vec::new());
        Self { objects, all_differ, seen, problems }
    }

    /// Takes in the items of one document, and where they are.
    pub(crate) fn document(&mut self, items: &'a [Item], places: &'a [Place]) {
        for (item, place) in items.iter().zip(places) {
            if let Some(identity) = item.identity.as_deref().filter(|_| !self.all_differ) {
                if let Some(first) = self.seen.get(identity) {
                    let first = first.position();
                    let reason =
                        format!("defined before at {first}; that one stands, this one is ignored");
                    self.problems.push(place.error("", reason));
                    if let Some(Typed::KafkaPolicy(written)) = &item.typed {
                        self.close(place.clone(), written);
                    }
                    continue;
                }
                self.seen.insert(identity, place);
            }
            self.problems.extend(item.problems.iter().map(|problem| place.found(problem)));
            if let Some(typed) = &item.typed {
                self.objects.put(place.clone(), typed, Deed::Append);
            }
        }
    }

    /// A policy that is not applied closes what it selects.
    fn close(&mut self, place: Place, policy: &Written<kafka::Spec>) {
        let body = kafka::Spec { rules: Vec::new(), ..policy.body.clone() };
        self.problems.push(kafka::closed_problem(&place, &body));
        let (namespace, name) = (policy.namespace.clone(), policy.name.clone());
        let written = Written { namespace, name, body, ..Written::default() };
        self.objects.kafka_policies.push(Object::new(place, &Arc::new(written)));
    }

    /// Everything taken in, and what is wrong with it.
    pub(crate) fn finish(mut self) -> (Objects, Vec<Problem>) {
        self.objects.sort();
        (self.objects, self.problems)
    }
}

/// What is to be done with an object.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// It goes behind all others.
    Append,
    /// It goes where it belongs.
    Insert,
    Remove,
}

impl Deed {
    /// False: what is to be removed is not there.
    fn done<T>(self, list: &mut Vec<Object<T>>, place: Place, written: &Arc<Written<T>>) -> bool {
        let object = Object::new(place, written);
        let name = (&written.namespace, &written.name);
        let before = |other: &Object<T>| (&other.namespace, &other.name) < name;
        match self {
            Deed::Append => list.push(object),
            Deed::Insert => list.insert(list.partition_point(before), object),
            Deed::Remove => {
                let at = list.partition_point(before);
                if !list.get(at).is_some_and(|found| found.is(&object)) {
                    return false;
                }
                list.remove(at);
            }
        }
        true
    }
}

impl Objects {
    /// Exchanges the items of documents, all of which have names and no two the same one. False, and
    /// nothing to rely on, when what goes was not there.
    pub(crate) fn exchange<'a>(
        &mut self,
        gone: impl IntoIterator<Item = (&'a Item, &'a Place)>,
        come: impl IntoIterator<Item = (&'a Item, &'a Place)>,
    ) -> bool {
        let mut each = |(item, place): (&Item, &Place), deed| {
            item.typed.as_ref().is_none_or(|typed| self.put(place.clone(), typed, deed))
        };
        gone.into_iter().all(|item| each(item, Deed::Remove))
            && come.into_iter().all(|item| each(item, Deed::Insert))
    }

    fn put(&mut self, place: Place, typed: &Typed, deed: Deed) -> bool {
        match typed {
            Typed::Service(written) => deed.done(&mut self.services, place, written),
            Typed::Pod(written) => deed.done(&mut self.pods, place, written),
            Typed::EndpointSlice(written) => deed.done(&mut self.slices, place, written),
            Typed::HttpRoute(written) => deed.done(&mut self.http_routes, place, written),
            Typed::GrpcRoute(written) => deed.done(&mut self.grpc_routes, place, written),
            Typed::ReferenceGrant(written) => deed.done(&mut self.reference_grants, place, written),
            Typed::VirtualService(written) => deed.done(&mut self.virtual_services, place, written),
            Typed::DestinationRule(written) => {
                deed.done(&mut self.destination_rules, place, written)
            }
            Typed::ServiceEntry(written) => deed.done(&mut self.service_entries, place, written),
            Typed::WorkloadEntry(written) => deed.done(&mut self.workload_entries, place, written),
            Typed::Namespace(written) => deed.done(&mut self.namespaces, place, written),
            Typed::Node(written) => deed.done(&mut self.nodes, place, written),
            Typed::MeshConfig(written) => deed.done(&mut self.mesh_configs, place, written),
            Typed::Authorization(written) => deed.done(&mut self.authorizations, place, written),
            Typed::NetworkPolicy(written) => deed.done(&mut self.network_policies, place, written),
            Typed::KafkaPolicy(written) => deed.done(&mut self.kafka_policies, place, written),
            Typed::EnvoyFilter(written) => deed.done(&mut self.envoy_filters, place, written),
            Typed::Telemetry(written) => deed.done(&mut self.telemetries, place, written),
        }
    }

    fn sort(&mut self) {
        fn by_name<T>(list: &mut [Object<T>]) {
            list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        }
        by_name(&mut self.services);
        by_name(&mut self.pods);
        by_name(&mut self.slices);
        by_name(&mut self.http_routes);
        by_name(&mut self.grpc_routes);
        by_name(&mut self.reference_grants);
        by_name(&mut self.virtual_services);
        by_name(&mut self.destination_rules);
        by_name(&mut self.service_entries);
        by_name(&mut self.workload_entries);
        by_name(&mut self.namespaces);
        by_name(&mut self.nodes);
        by_name(&mut self.authorizations);
        by_name(&mut self.network_policies);
        by_name(&mut self.kafka_policies);
        by_name(&mut self.envoy_filters);
        by_name(&mut self.telemetries);
    }
}
