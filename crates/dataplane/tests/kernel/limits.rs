//! What is past a limit of the tables goes to userspace, and nothing else does.

use std::collections::BTreeMap;
use std::time::Duration;

use beeway_dataplane::tables::{Tables, compile};
use beeway_model::access::LabelSelector;
use beeway_model::limits::WHOLE;
use beeway_model::{
    Bucket, HeaderMatch, Match, PathMatch, RateLimit, RateLimiter, Rule, StringMatch,
};

use crate::case::Draft;
use crate::generate::Scene;
use crate::judge::{Judged, Trial};
use crate::node::Node;
use crate::world::{add_service, at, exact, forward, header, mesh, rule};
use beeway_model::testing::Dice;

#[test]
fn equal_meshes_make_equal_tables() {
    for seed in 0..20 {
        let mesh = Scene::new(&mut Dice(seed)).mesh;
        assert_eq!(compile(&mesh, 1), compile(&mesh.clone(), 1), "seed {seed}");
    }
}

/// Rules for one path that differ in the user.
fn rules_by_user(count: usize) -> Vec<Rule> {
    let users = (0..count).map(|n| {
        let m = Match {
            method: Some(exact(["GET", "POST", "PUT"][n / 32])),
            headers: vec![header("x-user", exact(&format!("u{}", n % 32)))],
            ..Match::default()
        };
        rule(m, forward(n % 2))
    });
    users.collect()
}

#[test]
fn a_group_past_its_limit_goes_on_in_userspace() {
    let node = Node::start();
    for (count, method, user) in [(64, "POST", "u31"), (65, "PUT", "u0")] {
        let trial = Trial::new(&node, mesh(Some(rules_by_user(count))));
        assert_eq!(trial.is_within_limits(), count == 64, "{:?}", trial.tables.notices());
        let by = |method: &str, user| {
            let draft =
                Draft { method: method.to_owned(), ..Draft::get("/").field("x-user", user) };
            trial.check(&draft.case())
        };
        assert!(by("GET", "u0"), "the first rule is still decided here");
        assert!(by("POST", "u30"), "and the last but two");
        assert_eq!(by(method, user), count == 64);
        assert_eq!(by("GET", "nobody"), count == 64);
    }
}

/// Rules for one path, each with some conditions of its own: so many in all.
fn rules_by_field(count: usize, each: usize) -> Vec<Rule> {
    let numbers: Vec<usize> = (0..count).collect();
    let rules = numbers.chunks(each).map(|numbers| {
        let field = |n: &usize| header(&format!("x-{n}"), StringMatch::Present);
        let headers = numbers.iter().map(field).collect();
        rule(Match { headers, ..at(PathMatch::Exact("/a".to_owned())) }, forward(numbers[0] % 2))
    });
    rules.collect()
}

#[test]
fn a_group_past_its_conditions_goes_on_in_userspace() {
    let node = Node::start();
    for (count, each) in [(63, 7), (64, 8), (65, 13), (64, 4), (65, 5), (128, 64)] {
        let trial = Trial::new(&node, mesh(Some(rules_by_field(count, each))));
        assert_eq!(trial.is_within_limits(), count <= 64, "{:?}", trial.tables.notices());
        let by = |from: usize| {
            let numbers = from..from + each;
            let draft = numbers.fold(Draft::get("/a"), |d, n| d.field(&format!("X-{n}"), "1"));
            if each < 64 { trial.check(&draft.case()) } else { true }
        };
        assert!(by(0), "{count} by {each}");
        assert_eq!(by(count - each), count <= 64 || each == 64, "{count} by {each}");
        assert_eq!(trial.check(&Draft::get("/a").case()), count <= 64, "{count} by {each}");
    }
}

#[test]
fn each_path_has_conditions_of_its_own() {
    let node = Node::start();
    let rules = (0..200).map(|n| {
        let present = header(&format!("x-{n}"), StringMatch::Present);
        let condition = HeaderMatch { invert: n % 2 == 0, ..present };
        let path = PathMatch::Exact(format!("/{n}"));
        rule(Match { headers: vec![condition], ..at(path) }, forward(n % 2))
    });
    let trial = Trial::new(&node, mesh(Some(rules.collect())));
    assert!(trial.is_within_limits(), "{:?}", trial.tables.notices());
    assert!(trial.check(&Draft::get("/63").case()));
    assert!(trial.check(&Draft::get("/162").case()));
}

#[test]
fn a_pattern_past_its_limit_costs_only_what_it_may_match() {
    let node = Node::start();
    let rules = vec![
        rule(at(PathMatch::Exact("/a".to_owned())), forward(1)),
        rule(at(PathMatch::Regex("/.*a.{20}".to_owned())), forward(2)),
        rule(at(PathMatch::Regex("/b+".to_owned())), forward(3)),
    ];
    let trial = Trial::new(&node, mesh(Some(rules)));
    let [notice] = trial.tables.notices() else { panic!("{:?}", trial.tables.notices()) };
    assert_eq!(notice.service, "default/shop:80");
    assert!(notice.reason.contains("automaton is too large"), "{}", notice.reason);
    assert!(trial.check(&Draft::get("/a").case()));
    assert_eq!(trial.judge(&Draft::get("/bb").case()), Ok(Judged::Detour("rule_action")));
}

#[test]
fn a_table_without_room_leaves_room_for_the_others() {
    let node = Node::start();
    let mut dice = Dice(3);
    let rules = (0..60_000).map(|n| {
        let name = dice.text("abcdefghijklmnopqrstuvwxyz", 16);
        rule(at(PathMatch::Exact(format!("/{name}"))), forward(n % 2))
    });
    let mut mesh = mesh(Some(rules.collect()));
    add_service(&mut mesh, vec![rule(Match::default(), forward(1))]);
    let trial = Trial::new(&node, mesh);
    let [notice] = trial.tables.notices() else { panic!("{:?}", trial.tables.notices()) };
    assert_eq!(notice.service, "default/shop:80");
    assert_eq!(trial.judge(&Draft::get("/").case()), Ok(Judged::Detour("table")));
    let used = trial.tables.used_words();
    assert!(used < Tables::limit_words() / 50, "a part of the large table is left: {used} words");
    let kernel = node.decide(&Draft::get("/").case().query("10.96.0.2:80".parse().unwrap()));
    assert_eq!((kernel.lane, kernel.rule), ("native", Some(0)));
}

#[test]
fn what_can_never_match_compiles_to_no_route() {
    let node = Node::start();
    let hosts = vec!["bad\nhost".to_owned()];
    let never = Match { hosts, ..Match::default() };
    let trial = Trial::new(&node, mesh(Some(vec![rule(never, forward(1))])));
    for host in ["shop", "bad", "", "x:80", "[fd00::1]:80", "host."] {
        let case = Draft::get("/").host(host).case();
        assert!(trial.check(&case));
        assert_eq!(trial.by_kernel(&case).reason, "no_route");
    }
}

#[test]
fn more_buckets_than_the_kernel_looks_at_are_for_userspace() {
    let node = Node::start();
    let bucket = |id: u64| Bucket {
        id,
        capacity: 1,
        fill: 1,
        interval: Duration::from_secs(1),
        per_caller: false,
        matches: Vec::new(),
    };
    for special in [15, 16] {
        let mut mesh = mesh(Some(vec![rule(Match::default(), forward(0))]));
        mesh.limits = vec![RateLimiter {
            name: "EnvoyFilter default/many".to_owned(),
            namespace: None,
            selector: LabelSelector::default(),
            ports: BTreeMap::new(),
            others: Some(RateLimit {
                special: (1..=special).map(bucket).collect(),
                usual: Some(bucket(17)),
                always: true,
                enabled: WHOLE,
                enforced: WHOLE,
                status: 429,
                headers: Vec::new(),
            }),
        }];
        let trial = Trial::new(&node, mesh);
        let case = Draft::get("/").case();
        assert_eq!(trial.check(&case), special == 15);
        assert_eq!(trial.is_within_limits(), special == 15, "{:?}", trial.tables.notices());
        let asked = if special == 15 { 16 } else { 0 };
        assert_eq!(trial.by_kernel(&case).limited.count_ones(), asked);
    }
}
