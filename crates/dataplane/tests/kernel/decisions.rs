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

/// All of these are `/forbidden`, or begin so.
pub const FORBIDDEN: [&str; 15] = [
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
];

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
    for target in FORBIDDEN {
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

const NAME_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
const NAME_PRIME: u64 = 0x9E37_79B9_7F4A_7C15;

fn name_words(name: &[u8]) -> impl DoubleEndedIterator<Item = u64> {
    name.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    })
}

/// The hash of names, as bpf/include/http.h has it.
fn name_hash(name: &str) -> u32 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(NAME_PRIME);
    (name_words(name.as_bytes()).fold(NAME_BASIS, step) >> 32) as u32
}

/// Another name with the hash of `wanted`, which it differs from in its first eight bytes.
///
/// The steps of the hash can be undone from any of the 2^32 sums with the wanted upper half; one in
/// seven million of these comes from eight bytes that may be in a name.
fn colliding(wanted: &str) -> String {
    let inverse = (0..6)
        .fold(NAME_PRIME, |x, _| x.wrapping_mul(2u64.wrapping_sub(NAME_PRIME.wrapping_mul(x))));
    assert_eq!(inverse.wrapping_mul(NAME_PRIME), 1);
    let (first, rest) = wanted.as_bytes().split_at(8);
    let rest_words: Vec<u64> = name_words(rest).rev().collect();
    let upper = u64::from(name_hash(wanted)) << 32;
    for low in 0..=u64::from(u32::MAX) {
        let undo = |sum: u64, word: &u64| sum.wrapping_mul(inverse) ^ word;
        let sum = rest_words.iter().fold(upper | low, undo);
        let bytes = (sum.wrapping_mul(inverse) ^ NAME_BASIS).to_ne_bytes();
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if bytes.iter().all(plain) && bytes != first {
            return String::from_utf8([&bytes, rest].concat()).unwrap();
        }
    }
    panic!("no collision with {wanted}");
}

#[test]
fn a_name_with_the_same_hash_is_another_name() {
    let node = Node::start();
    let trial = Trial::new(&node, forbidding(has("end-user", "jason")));
    let name = colliding("end-user");
    assert_eq!(name_hash(&name), name_hash("end-user"));
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
        assert_eq!(name_hash(&name), name_hash(special));
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
            policy: None,
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
    let case = Draft::get("/").case();
    let Case { bytes, source, endpoint, .. } = &case;
    for (service, lane, reason) in [
        (SERVICE, "native", "none"),
        ("10.96.0.1:81", "detour", "no_service"),
        ("10.96.0.2:80", "detour", "no_service"),
        ("[fd00::1]:80", "detour", "no_service"),
    ] {
        let service = service.parse().unwrap();
        let kernel = node.decide(&case.query(service));
        assert_eq!((kernel.lane, kernel.reason), (lane, reason), "{service}");
        let twin = interpret::decide(&trial.tables, service, *endpoint, *source, bytes, 0);
        assert_eq!(twin.lane == Lane::LANE_NATIVE, lane == "native", "{service}");
    }
    for endpoint in ["10.1.0.1:8081", "10.1.0.9:8080", "[fd00::2]:8080"] {
        let case = Case { endpoint: endpoint.parse().unwrap(), ..Draft::get("/").case() };
        let kernel = trial.by_kernel(&case);
        assert_eq!((kernel.lane, kernel.reason), ("detour", "other_cluster"), "{endpoint}");
        assert!(trial.check(&case), "{endpoint}");
    }
}
