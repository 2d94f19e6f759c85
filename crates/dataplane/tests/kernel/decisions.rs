//! Verdicts: the kernel, its twin and the reference router on the same requests.

use std::net::SocketAddr;

use beeway_dataplane::counts::{LANES, REASONS};
use beeway_dataplane::tables::interpret::{self, Lane, Verdict};
use beeway_dataplane::tables::{Tables, compile};
use beeway_model::{
    Action, Backend, ClusterId, HeaderMatch, Match, Mesh, Outcome, PathMatch, Rule, StringMatch,
};

use crate::cases::{Case, Dice, ENDPOINT, SERVICE, mesh};
use crate::node::Node;

/// Asserts that all three agree; false when the request is left to userspace.
fn check(node: &Node, mesh: &Mesh, tables: &Tables, case: &Case) -> bool {
    let service: SocketAddr = SERVICE.parse().unwrap();
    let bytes = case.bytes();
    let kernel = node.decide(service, case.endpoint, case.source, case.draw, &bytes);
    let twin = interpret::decide(tables, service, case.endpoint, case.source, &bytes, case.draw);
    let context = || {
        let rules = &mesh.services[0].ports[0].rules;
        format!("{case:#?}\n{kernel:?}\n{twin:?}\n{:?}\n{rules:#?}", case.by_router(mesh))
    };
    let (lane, reason) = (LANES[twin.lane.0 as usize], REASONS[twin.reason.0 as usize]);
    assert_eq!(
        (kernel.lane, kernel.reason, kernel.rule),
        (lane, reason, twin.rule),
        "the kernel and its twin differ\n{}",
        context()
    );
    if kernel.lane == "detour" && kernel.reason != "other_cluster" {
        return false;
    }
    let decision = case.by_router(mesh);
    assert_eq!(kernel.rule, decision.rule, "not the router's rule\n{}", context());
    let (lane, status) = expected(mesh, &decision.outcome, case.endpoint);
    assert_eq!((kernel.lane, twin.status), (lane, status), "{}", context());
    assert!(kernel.lane != "answered" || kernel.answer.is_some(), "{}", context());
    assert_body(&decision.outcome, &twin);
    true
}

/// The lane and the status of an answer that follow from what the router says.
fn expected(mesh: &Mesh, outcome: &Outcome, endpoint: SocketAddr) -> (&'static str, Option<u16>) {
    match outcome {
        Outcome::Respond { status, .. } => ("answered", Some(*status)),
        Outcome::Forward(id) => match mesh.cluster(*id).endpoints.as_slice() {
            [] => ("answered", Some(503)),
            some if some.iter().any(|e| e.address == endpoint) => ("native", None),
            _ => ("detour", None),
        },
    }
}

fn assert_body(outcome: &Outcome, twin: &Verdict) {
    if let (Outcome::Respond { status, body }, Some(answer)) = (outcome, &twin.answer) {
        let text = String::from_utf8_lossy(answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
    }
}

#[test]
fn the_kernel_its_twin_and_the_router_agree() {
    const SEED: u64 = 20_260_901;
    println!("seed {SEED}");
    let node = Node::start();
    let mut dice = Dice(SEED);
    let (mut cases, mut decided) = (0, 0);
    for _ in 0..100 {
        let mesh = dice.mesh();
        let tables = node.publish(&mesh);
        assert_eq!(tables.notices(), [], "within the limits");
        for _ in 0..220 {
            let case = Case::new(&mut dice, &mesh);
            cases += 1;
            decided += usize::from(check(&node, &mesh, &tables, &case));
        }
    }
    println!("{decided} of {cases} decided by the kernel");
    assert!(cases >= 20_000);
    assert!(decided * 10 > cases * 9, "{decided} of {cases} decided");
}

fn rule(m: Match, action: Action) -> Rule {
    Rule { name: "a rule".to_owned(), matches: vec![m], action, detour: None }
}

fn forbid() -> Action {
    Action::Respond { status: 403, body: "no".to_owned() }
}

fn forward(cluster: usize) -> Action {
    Action::Forward(vec![Backend { cluster: Some(ClusterId(cluster)), weight: 1 }])
}

/// `first` forbids; all else may go to v1, where the connection leads.
fn forbidding(first: Match) -> Mesh {
    mesh(Some(vec![rule(first, forbid()), rule(Match::default(), forward(1))]))
}

fn has(name: &str, value: &str) -> Match {
    let value = StringMatch::Exact(value.to_owned());
    let header = HeaderMatch { name: name.to_owned(), value, invert: false };
    Match { headers: vec![header], ..Match::default() }
}

/// Each of these means what a rule forbids: it may be answered or left to userspace, not passed.
#[test]
fn no_spelling_gets_past_a_rule() {
    let node = Node::start();
    let forbid_host = forbidding(Match { hosts: vec!["secret".to_owned()], ..Match::default() });
    let tables = node.publish(&forbid_host);
    let zeros = format!("secret:{}80", "0".repeat(300));
    let mut passed = Vec::new();
    for host in [
        "secret",
        "SECRET",
        "secret.",
        "secret:80",
        "secret.:80",
        "secret:",
        "secret:123456",
        "secret:0000080",
        "secret:00000000000080",
        &zeros,
        "secret..",
        "secret..:80",
        "secret...",
        "secret:080",
    ] {
        let case = Case { authority: host.to_owned(), ..Case::get("/") };
        assert_eq!(case.by_router(&forbid_host).rule, Some(0), "{host}");
        if judged_wrong(&node, &forbid_host, &tables, &case) {
            passed.push(format!("Host: {host}"));
        }
    }
    let forbid_user = forbidding(has("end-user", "jason"));
    let tables = node.publish(&forbid_user);
    for blanks in [0, 1, 2, 62, 63, 64, 65, 66, 100, 200] {
        for (before, after) in [(blanks, 0), (0, blanks), (blanks, blanks)] {
            for blank in [" ", "\t", " \t"] {
                let case = Case {
                    headers: vec![("End-User".to_owned(), "jason".to_owned())],
                    blanks: (1, blank.repeat(before), blank.repeat(after)),
                    ..Case::get("/")
                };
                if judged_wrong(&node, &forbid_user, &tables, &case) {
                    passed.push(format!("{before} {blank:?} jason {after} {blank:?}"));
                }
            }
        }
    }
    let forbid_path = forbidding(Match {
        path: Some(PathMatch::Prefix("/forbidden".to_owned())),
        ..Match::default()
    });
    let tables = node.publish(&forbid_path);
    for target in [
        "/forbidden",
        "/forbidden/",
        "/forbidden?x",
        "/forbiddenx",
        "/x/../forbidden",
        "/./forbidden",
        "/%66orbidden",
        "/x\\..\\forbidden",
        "\\forbidden",
        "/x/%2e%2e/forbidden",
        "/forbidden#x",
        "/x/..\\forbidden",
        "/../forbidden",
        "/forbidden;x",
        "/x/.././forbidden",
    ] {
        let case = Case::get(target);
        if judged_wrong(&node, &forbid_path, &tables, &case) {
            passed.push(target.to_owned());
        }
    }
    assert!(passed.is_empty(), "the kernel let pass what the router forbids: {passed:#?}");
}

/// Whether the kernel decides otherwise than the router; it may leave the request to userspace.
fn judged_wrong(node: &Node, mesh: &Mesh, tables: &Tables, case: &Case) -> bool {
    let service = SERVICE.parse().unwrap();
    let bytes = case.bytes();
    let kernel = node.decide(service, case.endpoint, case.source, case.draw, &bytes);
    let twin = interpret::decide(tables, service, case.endpoint, case.source, &bytes, case.draw);
    assert_eq!(kernel.lane, LANES[twin.lane.0 as usize], "{case:?}");
    assert_eq!(kernel.reason, REASONS[twin.reason.0 as usize], "{case:?}");
    let (lane, _) = expected(mesh, &case.by_router(mesh).outcome, case.endpoint);
    kernel.lane != "detour" && kernel.lane != lane
}

/// FNV-1a over 32 bits, as bpf/include/http.h has it.
fn fnv(name: &[u8]) -> u32 {
    name.iter().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

/// Two names as long as `wanted` of which the first has the hash of `wanted`.
///
/// FNV's step can be undone: 2^16 beginnings from the front and guesses from the back meet in the
/// middle.
fn colliding(wanted: &str) -> String {
    const INVERSE: u32 = 0x359c_449b;
    let letters = b"abcdefghijklmnopqrstuvwxyz012345";
    let spell = |n: usize, length: usize| -> Vec<u8> {
        (0..length).map(|i| letters[n >> (5 * i) & 31]).collect()
    };
    let front = wanted.len() / 2;
    let back = wanted.len() - front;
    let count = |length: usize| 1usize << (5 * length).min(20);
    let heads: std::collections::HashMap<u32, usize> =
        (0..count(front)).map(|n| (fnv(&spell(n, front)), n)).collect();
    for n in 0..count(back) {
        let tail = spell(n, back);
        let hash = tail.iter().rev().fold(fnv(wanted.as_bytes()), |hash, byte| {
            hash.wrapping_mul(INVERSE) ^ u32::from(*byte)
        });
        if let Some(head) = heads.get(&hash) {
            let name = [spell(*head, front), tail].concat();
            if name != wanted.as_bytes() {
                return String::from_utf8(name).unwrap();
            }
        }
    }
    panic!("no collision with {wanted}");
}

#[test]
fn a_name_with_the_same_hash_is_another_name() {
    let node = Node::start();
    let mesh = forbidding(has("end-user", "jason"));
    let tables = node.publish(&mesh);
    let name = colliding("end-user");
    assert_eq!(fnv(name.as_bytes()), fnv(b"end-user"));
    println!("{name} collides with end-user");
    let field = |name: &str| (name.to_owned(), "jason".to_owned());
    for (names, lane) in [
        (vec!["end-user"], "answered"),
        (vec![name.as_str()], "native"),
        (vec![name.as_str(), "end-user"], "answered"),
        (vec!["end-user", name.as_str()], "answered"),
    ] {
        let headers = names.iter().map(|name| field(name)).collect();
        let case = Case { headers, ..Case::get("/") };
        assert!(check(&node, &mesh, &tables, &case), "{names:?}");
        let service = SERVICE.parse().unwrap();
        let decision = node.decide(service, case.endpoint, case.source, 0, &case.bytes());
        assert_eq!(decision.lane, lane, "{names:?}");
    }
    for special in ["content-length", "transfer-encoding"] {
        let name = colliding(special);
        assert_eq!(fnv(name.as_bytes()), fnv(special.as_bytes()));
        // no such field could have this value
        let case = Case { headers: vec![(name, "x".to_owned())], ..Case::get("/") };
        assert!(check(&node, &mesh, &tables, &case), "{case:?}");
    }
}

#[test]
fn a_draw_on_a_border_is_the_routers() {
    let node = Node::start();
    for weights in [[90, 10], [10, 90], [100, 0], [0, 100], [1, 4_294_967_294], [1, 1]] {
        let backends = weights.iter().zip(1..).map(|(weight, cluster)| Backend {
            cluster: Some(ClusterId(cluster)),
            weight: *weight,
        });
        let mesh = mesh(Some(vec![rule(Match::default(), Action::Forward(backends.collect()))]));
        let tables = node.publish(&mesh);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let border = (u64::from(weights[0]) << 32).div_ceil(total);
        for draw in [0, border.saturating_sub(1), border, border + 1, u64::from(u32::MAX)] {
            let draw = draw.min(u64::from(u32::MAX)) as u32;
            let case = Case { draw, ..Case::get("/") };
            assert!(check(&node, &mesh, &tables, &case), "{weights:?} {draw}");
        }
    }
}

#[test]
fn what_is_not_in_the_tables_is_left_to_userspace() {
    let node = Node::start();
    let mesh = mesh(None);
    let tables = compile(&mesh, 1).unwrap();
    node.publish(&mesh);
    let case = Case::get("/");
    let source = case.source;
    for (service, lane, reason) in [
        (SERVICE, "native", "none"),
        ("10.96.0.1:81", "detour", "no_service"),
        ("10.96.0.2:80", "detour", "no_service"),
        ("[fd00::1]:80", "detour", "no_service"),
    ] {
        let service = service.parse().unwrap();
        let kernel = node.decide(service, ENDPOINT.parse().unwrap(), source, 0, &case.bytes());
        assert_eq!((kernel.lane, kernel.reason), (lane, reason), "{service}");
        let twin = interpret::decide(&tables, service, case.endpoint, source, &case.bytes(), 0);
        assert_eq!(twin.lane == Lane::LANE_NATIVE, lane == "native", "{service}");
    }
    for endpoint in ["10.1.0.1:8081", "10.1.0.9:8080", "[fd00::2]:8080"] {
        let endpoint = endpoint.parse().unwrap();
        let service = SERVICE.parse().unwrap();
        let kernel = node.decide(service, endpoint, source, 0, &case.bytes());
        assert_eq!((kernel.lane, kernel.reason), ("detour", "other_cluster"), "{endpoint}");
    }
}
