//! Verdicts where a mistake would let something pass.

use beeway_dataplane::counts::REASONS;
use beeway_dataplane::tables::interpret::{self, Lane};
use beeway_model::{Action, Backend, ClusterId, Match, Mesh, PathMatch};

use crate::case::{Case, Draft};
use crate::judge::Trial;
use crate::node::Node;
use crate::world::{SERVICE, at, forbid, forward, has, mesh, rule};

/// `first` forbids; all else may go to v1, where the connection leads.
fn forbidding(first: Match) -> Mesh {
    mesh(Some(vec![rule(first, forbid()), rule(Match::default(), forward(1))]))
}

/// Each of these means what a rule forbids: it may be answered or left to userspace, not passed.
#[test]
fn no_spelling_gets_past_a_rule() {
    let node = Node::start();
    let hosts = vec!["secret".to_owned()];
    let trial = Trial::new(&node, forbidding(Match { hosts, ..Match::default() }));
    let zeros = format!("secret:{}80", "0".repeat(300));
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
        assert_not_passed(&trial, &Draft::get("/").host(host));
    }
    let trial = Trial::new(&node, forbidding(has("end-user", "jason")));
    for blanks in [0, 1, 2, 62, 63, 64, 65, 66, 100, 200] {
        for (before, after) in [(blanks, 0), (0, blanks), (blanks, blanks)] {
            for blank in [" ", "\t", " \t"] {
                let mut draft = Draft::get("/").field("End-User", "jason");
                draft.lines[1].blanks = (blank.repeat(before), blank.repeat(after));
                assert_not_passed(&trial, &draft);
            }
        }
    }
    let path = PathMatch::Prefix("/forbidden".to_owned());
    let trial = Trial::new(&node, forbidding(at(path)));
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
        assert_not_passed(&trial, &Draft::get(target));
    }
}

/// A rule that forbids: what it holds for is answered, or left to userspace.
fn assert_not_passed(trial: &Trial<'_>, draft: &Draft) {
    let case = draft.case();
    assert_eq!(case.by_router(&trial.mesh).rule, Some(0), "{case:?}");
    let (kernel, twin) = (trial.by_kernel(&case), trial.by_twin(&case));
    assert!(["answered", "detour"].contains(&kernel.lane), "{kernel:?} {case:?}");
    assert_eq!(kernel.reason, REASONS[twin.reason.0 as usize], "{case:?}");
    assert_eq!(kernel.rule, twin.rule, "{case:?}");
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
    let trial = Trial::new(&node, forbidding(has("end-user", "jason")));
    let name = colliding("end-user");
    assert_eq!(fnv(name.as_bytes()), fnv(b"end-user"));
    println!("{name} collides with end-user");
    for (names, lane) in [
        (vec!["end-user"], "answered"),
        (vec![name.as_str()], "native"),
        (vec![name.as_str(), "end-user"], "answered"),
        (vec!["end-user", name.as_str()], "answered"),
    ] {
        let draft = names.iter().fold(Draft::get("/"), |draft, name| draft.field(name, "jason"));
        assert!(trial.check(&draft.case()), "{names:?}");
        assert_eq!(trial.by_kernel(&draft.case()).lane, lane, "{names:?}");
    }
    for special in ["content-length", "transfer-encoding"] {
        let name = colliding(special);
        assert_eq!(fnv(name.as_bytes()), fnv(special.as_bytes()));
        // no such field could have this value
        assert!(trial.check(&Draft::get("/").field(&name, "x").case()), "{name}");
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
        let action = Action::Forward(backends.collect());
        let trial = Trial::new(&node, mesh(Some(vec![rule(Match::default(), action)])));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let border = (u64::from(weights[0]) << 32).div_ceil(total);
        for draw in [0, border.saturating_sub(1), border, border + 1, u64::from(u32::MAX)] {
            let draw = draw.min(u64::from(u32::MAX)) as u32;
            let case = Case { draw, ..Draft::get("/").case() };
            assert!(trial.check(&case), "{weights:?} {draw}");
        }
    }
}

#[test]
fn what_is_not_in_the_tables_is_left_to_userspace() {
    let node = Node::start();
    let trial = Trial::new(&node, mesh(None));
    let Case { bytes, source, endpoint, .. } = Draft::get("/").case();
    for (service, lane, reason) in [
        (SERVICE, "native", "none"),
        ("10.96.0.1:81", "detour", "no_service"),
        ("10.96.0.2:80", "detour", "no_service"),
        ("[fd00::1]:80", "detour", "no_service"),
    ] {
        let service = service.parse().unwrap();
        let kernel = node.decide(service, endpoint, source, 0, &bytes);
        assert_eq!((kernel.lane, kernel.reason), (lane, reason), "{service}");
        let twin = interpret::decide(&trial.tables, service, endpoint, source, &bytes, 0);
        assert_eq!(twin.lane == Lane::LANE_NATIVE, lane == "native", "{service}");
    }
    for endpoint in ["10.1.0.1:8081", "10.1.0.9:8080", "[fd00::2]:8080"] {
        let case = Case { endpoint: endpoint.parse().unwrap(), ..Draft::get("/").case() };
        let kernel = trial.by_kernel(&case);
        assert_eq!((kernel.lane, kernel.reason), ("detour", "other_cluster"), "{endpoint}");
        assert!(trial.check(&case), "{endpoint}");
    }
}
