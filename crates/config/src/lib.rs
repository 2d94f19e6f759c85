//! A directory of Kubernetes, Istio and Gateway API YAML in, a [`Mesh`] and a list of
//! [`Problem`]s out.
//!
//! The way of the data: text → `document` (trees that know their lines) → `item` (typed objects of
//! one document, which a [`Loader`] keeps) → `objects` (each once) → `catalog` (services, endpoints, subsets) → `virtual_service` and `gateway_route` (rules)
//! → [`Mesh`]. All of it is a function of values but [`read_dir`].
//!
//! Whatever is wrong costs as little as it can: a bad document, that document; a bad port, that
//! port; but a *condition* that is not understood costs its whole object, because a rule must not
//! hold for more than was written; and a *policy* that is not understood closes what it selects
//! (`policy_item`). Nothing is left out without a [`Problem`].

mod access;
mod access_check;
mod authorization;
mod authorization_rule;
mod catalog;
mod contradiction;
mod cors;
mod decode;
mod directory;
mod document;
mod duration;
mod envoy_filter;
mod gateway;
mod gateway_route;
mod header_edits;
mod home;
mod hostname;
mod instance;
mod istio;
mod item;
mod kafka;
mod layer;
mod loader;
mod mesh_config;
mod named_port;
mod namespaces;
mod network_policy;
mod objects;
mod policy_item;
mod problem;
mod rate_descriptor;
mod rate_limit;
mod route_action;
mod route_filter;
mod route_match;
mod service_entry;
mod services;
mod subsets;
mod telemetry;
mod telemetry_provider;
mod virtual_action;
mod virtual_check;
mod virtual_delegate;
mod virtual_fault;
mod virtual_match;
mod virtual_policy;
mod virtual_service;
mod virtual_stream;

use std::io;
use std::path::{Path, PathBuf};

use beeway_model::Mesh;

use objects::Objects;

pub use directory::read_dir;
pub use loader::Loader;
pub use problem::{Problem, Severity};

/// Policies of this namespace are for the whole mesh, as in Istio.
const ROOT_NAMESPACE: &str = "istio-system";

/// What the result depends on besides the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The Kubernetes node this runs on: services with `internalTrafficPolicy: Local` keep only
    /// its endpoints. `None`: they keep all.
    pub node: Option<String>,
}

/// A configuration: what is usable of it, and everything that is wrong with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The mesh.
    pub mesh: Mesh,
    /// Findings in order of file and line.
    pub problems: Vec<Problem>,
}

/// Reads a configuration from the texts of its files. Pure, total, and deterministic: the same
/// files in the same order give the same result.
pub fn load(files: &[(PathBuf, String)], options: &Options) -> Loaded {
    Loader::new(options.clone()).load(files.to_vec())
}

/// [`load`], with what is odd about policies that can be read among the problems: rules that can
/// never match, and fields that ports ignore which do not speak HTTP.
pub fn check(files: &[(PathBuf, String)], options: &Options) -> Loaded {
    let mut loader = Loader::new(options.clone());
    loader.thorough = true;
    loader.load(files.to_vec())
}

/// What was made of the objects before, which is taken over where the same would be made again.
#[derive(Debug, Default)]
struct Kept {
    instances: instance::Instances,
    services: services::Kept,
    guarded: beeway_model::access::Guarded,
}

fn mesh(
    objects: &Objects,
    kept: &mut Kept,
    options: &Options,
    thorough: bool,
    mut problems: Vec<Problem>,
) -> Loaded {
    let Kept { instances, services, guarded } = kept;
    instances.follow(objects, &mut problems);
    let instances = &*instances;
    let mut catalog = services::catalog(objects, instances, services, options, &mut problems);
    subsets::apply(objects, &mut catalog, &mut problems);
    virtual_service::attach(objects, &mut catalog, &mut problems);
    gateway_route::attach(objects, &mut catalog, &mut problems);
    let providers = mesh_config::providers(objects, &mut catalog, &mut problems);
    let policies = access::policies(objects, instances, &catalog, &providers, &mut problems);
    let telemetry = telemetry::telemetry(objects, instances, &mut catalog, &mut problems);
    let mut mesh = catalog.finish(&mut problems);
    mesh.telemetry = telemetry;
    mesh.workloads = instances.workloads(options.node.as_deref());
    mesh.nodes = access::nodes(objects, instances, options, &mut problems);
    mesh.providers = providers;
    if thorough {
        access_check::check(&policies, &mesh, instances, &mut problems);
    }
    mesh.access = policies.into_iter().map(|listed| listed.policy).collect();
    mesh.limits = rate_limit::limiters(objects, &mesh, &mut problems);
    let owner = |address| instances.at(address).map(|instance| &instance.workload);
    let has_stayed = |address| instances.has_stayed(address);
    beeway_model::access::add_direct(&mut mesh, guarded, owner, has_stayed);
    mesh.kafka = kafka::policies(objects, &mesh, &mut problems);
    problems.sort_by(|a, b| {
        (&a.file, a.line, a.severity, &a.object, &a.reason)
            .cmp(&(&b.file, b.line, b.severity, &b.object, &b.reason))
    });
    problems.dedup();
    Loaded { mesh, problems }
}

/// [`read_dir`], then [`load`].
pub fn load_dir(dir: &Path, options: &Options) -> io::Result<Loaded> {
    Ok(load(&read_dir(dir)?, options))
}

/// [`read_dir`], then [`check`].
pub fn check_dir(dir: &Path, options: &Options) -> io::Result<Loaded> {
    Ok(check(&read_dir(dir)?, options))
}
