//! Policies of all layers together: each combination, and what it comes to.

use std::sync::Arc;

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, LabelSelector, Layer, PathTest,
    Scope, Text,
};

use crate::case::Draft;
use crate::decisions::FORBIDDEN;
use crate::judge::Trial;
use crate::node::Node;
use crate::world::{forward, mesh, rule};

/// What a layer has to say of the request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    /// There is no policy.
    Nothing,
    /// It has a rule that matches.
    Matches,
    /// It has none that does.
    Differs,
}

const ALL: [Says; 3] = [Says::Nothing, Says::Matches, Says::Differs];

fn policy(layer: Layer, direction: Direction, effect: Effect, says: Says) -> Option<AccessPolicy> {
    let path = if says == Says::Matches { "/a" } else { "/b" };
    let conditions = match (layer, says) {
        (Layer::Authorization, _) => {
            let tests = vec![PathTest::Text(Text::Exact(path.to_owned()))];
            vec![Clause { field: Field::Path(tests), negated: false }]
        }
        // anybody, or nobody
        (Layer::Network, Says::Matches) => Vec::new(),
        (Layer::Network, _) => vec![Clause { field: Field::Caller(Vec::new()), negated: false }],
    };
    (says != Says::Nothing).then(|| AccessPolicy {
        name: format!("{effect:?} {layer:?} {direction:?}"),
        layer,
        direction,
        scope: Scope::Workloads(None, LabelSelector::default()),
        effect,
        dry_run: false,
        rules: vec![AccessRule { conditions, ..AccessRule::default() }],
    })
}

#[test]
fn each_layer_can_deny_and_none_can_allow_for_another() {
    use Direction::{Egress, Ingress};
    let node = Node::start();
    let mut seen = [0, 0];
    for egress in ALL {
        for ingress in ALL {
            for deny in ALL {
                for allow in ALL {
                    let mut mesh = mesh(Some(vec![rule(Default::default(), forward(0))]));
                    let policies = [
                        policy(Layer::Network, Egress, Effect::Allow, egress),
                        policy(Layer::Network, Ingress, Effect::Allow, ingress),
                        policy(Layer::Authorization, Ingress, Effect::Deny, deny),
                        policy(Layer::Authorization, Ingress, Effect::Allow, allow),
                    ];
                    mesh.access = policies.into_iter().flatten().map(Arc::new).collect();
                    let trial = Trial::new(&node, mesh);
                    let case = Draft::get("/a").case();
                    let what = format!("{egress:?} {ingress:?} {deny:?} {allow:?}");
                    assert!(trial.check(&case), "decided in the kernel: {what}");
                    let allowed = egress != Says::Differs
                        && ingress != Says::Differs
                        && deny != Says::Matches
                        && allow != Says::Differs;
                    let lane = if allowed { "native" } else { "answered" };
                    assert_eq!(trial.by_kernel(&case).lane, lane, "{what}");
                    seen[usize::from(allowed)] += 1;
                }
            }
        }
    }
    assert_eq!(seen, [81 - 16, 16]);
}

/// As no spelling gets past a rule, none gets past a policy: it is answered, or left to userspace.
#[test]
fn no_spelling_gets_past_a_policy() {
    let node = Node::start();
    let denying = |field| {
        let conditions = vec![Clause { field, negated: false }];
        let rules = vec![AccessRule { conditions, ..AccessRule::default() }];
        let deny = policy(Layer::Authorization, Direction::Ingress, Effect::Deny, Says::Matches);
        let mut mesh = mesh(Some(vec![rule(Default::default(), forward(0))]));
        mesh.access = deny
            .map(|deny| AccessPolicy { rules: rules.clone(), ..deny }.into())
            .into_iter()
            .collect();
        Trial::new(&node, mesh)
    };
    let not_passed = |trial: &Trial<'_>, draft: &Draft| {
        let case = draft.case();
        assert!(!case.by_evaluator(&trial.mesh).allowed, "{case:?}");
        let kernel = trial.by_kernel(&case);
        assert!(["answered", "detour"].contains(&kernel.lane), "{kernel:?} {case:?}");
    };
    let path = Text::Prefix("/forbidden".to_owned());
    let trial = denying(Field::Path(vec![PathTest::Text(path)]));
    for target in FORBIDDEN {
        not_passed(&trial, &Draft::get(target));
    }
    let jason = Text::Exact("jason".to_owned());
    let trial = denying(Field::Header("end-user".to_owned(), vec![jason]));
    for blanks in [0, 1, 2, 62, 63, 64, 65, 66, 100, 200] {
        for blank in [" ", "\t", " \t"] {
            for name in ["End-User", "end-user", "END-USER"] {
                let mut draft = Draft::get("/").field(name, "jason");
                draft.lines[1].blanks = (blank.repeat(blanks), blank.repeat(blanks));
                not_passed(&trial, &draft);
            }
        }
    }
    let trial = denying(Field::Host(vec![Text::Prefix("secret".to_owned())]));
    for host in
        ["secret", "SECRET", "secret.", "secret:80", "Secret.:80", "secret:0080", "secret.."]
    {
        not_passed(&trial, &Draft::get("/").host(host));
    }
}
