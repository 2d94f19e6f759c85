//! Requests that come in straight at an endpoint, of which nobody knows what service is meant: the eBPF
//! program, the interpreter and the reference evaluator, on the policies of random configurations.

use std::sync::Arc;

use beeway_dataplane::tables::interpret::{judge_connection, judge_visit};
use beeway_model::access::{
    AccessPolicy, Call, Direction, Guarded, Party, Scope, add_direct, called_at, evaluate,
};
use beeway_model::testing::Dice;
use beeway_model::{Mesh, Transport};

use crate::case::Case;
use crate::generate::Scene;
use crate::judge::{Trial, is_excused};
use crate::node::Node;
use crate::world::add_service;

const MESHES: u64 = 300;
const CASES: usize = 40;

/// Lets some policies be about services, two of which have the endpoints.
fn name_services(dice: &mut Dice, mesh: &mut Mesh) {
    add_service(mesh, Vec::new());
    for policy in &mut mesh.access {
        if dice.one_in(3) && policy.direction == Direction::Ingress {
            let name = dice.of(&["shop", "other"]).to_owned();
            let scope = Scope::Services(vec![("default".to_owned(), name)]);
            let named = AccessPolicy { scope, ..AccessPolicy::clone(policy) };
            *policy = Arc::new(named);
        }
    }
    let owners = mesh.workloads.clone();
    let owner = |ip| owners.iter().find(|workload| workload.addresses.contains(&ip));
    add_direct(mesh, &mut Guarded::default(), owner, |_| false);
}

/// What the evaluator says: `None`, only userspace could find out.
fn expected(mesh: &Mesh, case: &Case) -> Option<bool> {
    let message = case.message();
    let party = |address| Party { address, identity: mesh.identity_at(address) };
    let request = message.request(mesh, case.source);
    let call = Call {
        caller: party(case.source),
        called: party(case.endpoint.ip()),
        port: case.endpoint.port(),
        transport: Transport::Tcp,
        services: &mesh.names_at(called_at(case.endpoint, Transport::Tcp)),
        sni: None,
        request: Some(&request),
    };
    let access = evaluate(mesh.access.iter().enumerate(), &call);
    access.ask.is_empty().then_some(access.allowed)
}

/// Whether the kernel may end the connection.
fn is_beyond(trial: &Trial<'_>, case: &Case) -> bool {
    let forwarded = |(name, _): &(&str, &[u8])| name.eq_ignore_ascii_case("x-forwarded-for");
    !trial.is_within_limits()
        || case.message().headers.iter().any(forwarded)
        || ["path", "head_limit", "partial_head", "unusual"].iter().any(|why| is_excused(case, why))
}

#[test]
fn who_comes_straight_is_judged_by_the_policies_of_every_service() {
    let node = Node::start();
    let (mut allowed, mut denied, mut by_name, mut left) = (0, 0, 0, 0);
    for seed in 0..MESHES {
        let mut dice = Dice(seed);
        let mut scene = Scene::new(&mut dice);
        if scene.mesh.access.is_empty() {
            continue;
        }
        name_services(&mut dice, &mut scene.mesh);
        let trial = Trial::new(&node, scene.mesh.clone());
        let mut nameless = scene.mesh.clone();
        nameless.access.retain(|policy| matches!(policy.scope, Scope::Workloads(..)));
        for _ in 0..CASES {
            let case = scene.case(&mut dice);
            let twin = judge_visit(&trial.tables, case.source, case.endpoint, &case.bytes);
            let kernel = trial.by_kernel_as_visit(&case);
            let what = || format!("seed {seed}: {kernel:?}, {twin:?}\n{}", trial.describe(&case));
            let said = match (kernel.lane, kernel.reason) {
                ("native", _) => Some(true),
                ("answered", "denied") => Some(false),
                _ => None,
            };
            assert_eq!(said, twin, "the kernel and the interpreter differ: {}", what());
            let wanted = expected(&trial.mesh, &case);
            match said {
                Some(true) => allowed += 1,
                Some(false) => denied += 1,
                None => {
                    left += 1;
                    assert!(wanted.is_none() || is_beyond(&trial, &case), "{}", what());
                    continue;
                }
            }
            assert_eq!(said, wanted, "{}", what());
            by_name += usize::from(said != expected(&nameless, &case));
            // whatever a request could be let in by, its connection is
            let [leave, network, _, carriers] =
                judge_connection(&trial.tables, case.source, case.endpoint, true);
            let connection = [leave, network, carriers].iter().all(|says| *says != Some(false));
            assert!(connection || said == Some(false), "{}", what());
        }
    }
    println!("{allowed} allowed, {denied} denied, {by_name} of these by name, {left} left");
    assert!(allowed > 500 && denied > 500 && by_name > 200, "{allowed} {denied} {by_name}");
    assert!(left * 5 < allowed + denied, "{left} of {}", allowed + denied);
}
