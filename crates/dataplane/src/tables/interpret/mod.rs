//! The twin of `bpf/include/{table,access,verdict}.h`: what the kernel decides with given tables, word for word.
//! `beeway explain` asks it, and tests hold the kernel and the reference router against it.

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};

use beeway_model::Transport;
use beeway_model::mesh::scale;

use access::Access;

use super::Tables;
use super::balance::{frontend_extra, member_extra, transport_number};
use super::head::{self, Head, Line};
use super::heap::{Slots, address_bytes, hash_address};
use super::records::Record;
use crate::abi;

pub use super::head::Reason;
pub use crate::abi::lane as Lane;

/// What the kernel decides for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Native, detour or answered.
    pub lane: Lane,
    /// Why.
    pub reason: Reason,
    /// Index of the rule that decided.
    pub rule: Option<usize>,
    /// Status of the answer that the kernel gives.
    pub status: Option<u16>,
    /// The answer, head and body.
    pub answer: Option<Vec<u8>>,
    /// Limits of the rate that are about it, a bit each, as `struct verdict` has them.
    pub limited: u32,
    /// The ids of their buckets, of each of which it needs a token.
    pub limits: Vec<u64>,
}

/// A condition on a field that occurs twice is left to userspace, which joins the values; so are
/// regular expressions on bytes outside of ASCII, and parameters of a very long query.
struct Unsure;

/// The candidate found so far, and the place in the order of rules that it has.
struct Choice {
    order: u32,
    candidate: Result<Option<u32>, Unsure>,
}

const STATE_RUN: u32 = abi::state::STATE_RUN.0;

/// Heap index of a field of a record.
macro_rules! at {
    ($base:expr, $record:ident . $field:ident) => {
        $base.wrapping_add((offset_of!(abi::$record, $field) / 4) as u32)
    };
}

// behind the macro, which it uses
mod access;
mod limits;

/// Decides about a request whose head is `bytes`, on a connection to `service` that connect() led
/// to `endpoint`.
pub fn decide(
    tables: &Tables,
    service: SocketAddr,
    endpoint: SocketAddr,
    source: IpAddr,
    bytes: &[u8],
    draw: u32,
) -> Verdict {
    match head::parse(bytes) {
        Ok(head) => {
            let context = Context { tables, endpoint, source, draw, head: &head };
            context.judge(service)
        }
        Err(reason) => detour(reason, None),
    }
}

/// What policies say of a request that came in at an endpoint and is judged nowhere else; `None`: the
/// kernel ends the connection.
pub fn judge_visit(
    tables: &Tables,
    source: IpAddr,
    endpoint: SocketAddr,
    bytes: &[u8],
) -> Option<bool> {
    let head = head::parse(bytes).ok()?;
    match (Context { tables, endpoint, source, draw: 0, head: &head }).judge_request(true) {
        Access::Pass => Some(true),
        Access::Denied => Some(false),
        Access::Unsure => None,
    }
}

/// What policies say of a connection: of whom the caller may call; of who calls the endpoint, those
/// of the network, the others where it is not HTTP, and what no request could change. `None`:
/// userspace finds out. `straight`: nobody knows which service is meant.
pub fn judge_connection(
    tables: &Tables,
    source: IpAddr,
    endpoint: SocketAddr,
    straight: bool,
) -> [Option<bool>; 4] {
    // conditions on requests are in none of these
    let head = head::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a head");
    Context { tables, endpoint, source, draw: 0, head: &head }.judge_connection(straight)
}

/// The endpoint that connect() chooses for a service address and a draw; `None` where it refuses
/// or leads to the userspace proxy.
pub fn pick_endpoint(
    tables: &Tables,
    service: SocketAddr,
    transport: Transport,
    draw: u32,
) -> Option<SocketAddr> {
    let frontend = tables.find_frontend(service, transport_number(transport))?;
    let cluster = tables.word(at!(frontend, frontend.cluster));
    let count = tables.word(at!(cluster, cluster.count));
    if cluster == 0 || count == 0 {
        return None;
    }
    let point = scale(draw, u64::from(tables.word(at!(cluster, cluster.total)))) as u32;
    let first = tables.word(at!(cluster, cluster.endpoints));
    let record = |n: u32| first + n * abi::endpoint::WORDS;
    let chosen = first_above(count, 20, point, |n| tables.word(at!(record(n), endpoint.up_to)));
    let endpoint = record(chosen);
    let ip = std::net::Ipv6Addr::from(tables.ip(endpoint));
    let port = tables.half(at!(endpoint, endpoint.port), 0);
    if port == 0 {
        return None;
    }
    Some(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port))
}

/// Whether connect() leads to the userspace proxy instead, with any draw.
pub fn is_for_proxy(tables: &Tables, service: SocketAddr) -> bool {
    let frontend = tables.find_frontend(service, transport_number(Transport::Tcp));
    frontend.is_some_and(|frontend| {
        let at = offset_of!(abi::frontend, protocol);
        let word = tables.word(frontend + (at / 4) as u32).to_ne_bytes();
        u32::from(word[at % 4]) == abi::protocol::PROTOCOL_PROXY.0
    })
}

/// The first of `count` ascending values that is above `point`.
fn first_above(count: u32, steps: u32, point: u32, value: impl Fn(u32) -> u32) -> u32 {
    let (mut low, mut high) = (0, count);
    for _ in 0..steps {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        if value(middle) > point {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

impl Verdict {
    fn of(lane: Lane, reason: Reason, rule: Option<usize>) -> Verdict {
        let (status, answer) = (None, None);
        Verdict { lane, reason, rule, status, answer, limited: 0, limits: Vec::new() }
    }
}

fn detour(reason: Reason, rule: Option<usize>) -> Verdict {
    Verdict::of(Lane::LANE_DETOUR, reason, rule)
}

impl Tables {
    fn double(&self, index: u32) -> u64 {
        let words = [self.word(index).to_ne_bytes(), self.word(index + 1).to_ne_bytes()];
        u64::from_ne_bytes(words.concat().try_into().expect("two words"))
    }

    fn half(&self, index: u32, which: usize) -> u16 {
        let bytes = self.word(index).to_ne_bytes();
        u16::from_ne_bytes([bytes[which * 2], bytes[which * 2 + 1]])
    }

    fn heap_bytes(&self, index: u32, length: u32) -> Vec<u8> {
        let words = (0..length.div_ceil(4)).flat_map(|i| self.word(index + i).to_ne_bytes());
        words.take(length as usize).collect()
    }

    fn ip(&self, index: u32) -> [u8; 16] {
        self.heap_bytes(index, 16).try_into().expect("16 bytes")
    }

    /// Heap index of the first record that is the right one, before one that is an empty slot.
    fn probe(
        &self,
        slots: Slots,
        words: u32,
        hash: u32,
        holds: impl Fn(u32) -> Option<bool>,
    ) -> Option<u32> {
        for i in 0..abi::limits::PROBES.0 {
            let slot = slots.first + (hash.wrapping_add(i) & slots.mask) * words;
            if holds(slot)? {
                return Some(slot);
            }
        }
        None
    }

    fn find_frontend(&self, service: SocketAddr, transport: u8) -> Option<u32> {
        let ip = address_bytes(service.ip().to_canonical());
        let hash = hash_address(&ip, frontend_extra(service.port(), transport));
        self.probe(self.frontends, abi::frontend::WORDS, hash, |slot| {
            let word = at!(slot, frontend.port);
            let port = self.half(word, 0);
            let found = self.word(word).to_ne_bytes()[2];
            (port != 0).then(|| port == service.port() && found == transport && self.ip(slot) == ip)
        })
    }

    fn is_member(&self, cluster: u32, endpoint: SocketAddr) -> bool {
        let ip = address_bytes(endpoint.ip().to_canonical());
        let port = endpoint.port();
        let hash = hash_address(&ip, member_extra(port, cluster));
        self.probe(self.members, abi::member::WORDS, hash, |slot| {
            let found = self.word(at!(slot, member.cluster));
            (found != 0).then(|| {
                found == cluster
                    && self.word(at!(slot, member.port)) == u32::from(port)
                    && self.ip(slot) == ip
            })
        })
        .is_some()
    }

    /// Heap index of the `struct workload` that owns an address.
    fn find_workload(&self, ip: IpAddr) -> Option<u32> {
        let ip = address_bytes(ip.to_canonical());
        self.probe(self.workloads, abi::workload::WORDS, hash_address(&ip, 0), |slot| {
            (self.word(at!(slot, workload.number)) != 0).then(|| self.ip(slot) == ip)
        })
    }

    /// The number of who owns an address (`enum identity`).
    fn identity_of(&self, ip: IpAddr) -> u32 {
        match self.find_workload(ip) {
            Some(slot) => self.word(at!(slot, workload.number)),
            None if ip.to_canonical().is_loopback() => abi::identity::IDENTITY_HOST.0,
            None => abi::identity::IDENTITY_WORLD.0,
        }
    }
}

struct Context<'a> {
    tables: &'a Tables,
    endpoint: SocketAddr,
    source: IpAddr,
    draw: u32,
    head: &'a Head,
}

impl Context<'_> {
    fn word(&self, index: u32) -> u32 {
        self.tables.word(index)
    }

    fn judge(&self, service: SocketAddr) -> Verdict {
        let tcp = transport_number(Transport::Tcp);
        let Some(frontend) = self.tables.find_frontend(service, tcp) else {
            return detour(Reason::REASON_NO_SERVICE, None);
        };
        let named = self.word(at!(frontend, frontend.guarded)) != 0;
        let (unsure, limited, limits) = self.find_limits();
        let access = if named { Access::Unsure } else { self.judge_request(false) }.max(unsure);
        let verdict = match self.word(at!(frontend, frontend.table)) {
            0 => {
                let cluster = self.word(at!(frontend, frontend.cluster));
                self.forward(cluster, Reason::REASON_NONE, None)
            }
            table => self.apply_table(table),
        };
        let verdict = match access {
            _ if verdict.lane != Lane::LANE_NATIVE => verdict,
            Access::Pass => verdict,
            Access::Unsure => detour(Reason::REASON_POLICY, verdict.rule),
            Access::Denied => {
                let answer = self.word(abi::prepared::ANSWER_DENIED.0);
                self.answer(answer, Reason::REASON_DENIED, verdict.rule)
            }
        };
        if verdict.lane == Lane::LANE_ANSWERED && self.head.method == abi::method::METHOD_HEAD.0 {
            return Verdict { limited, limits, ..detour(Reason::REASON_UNUSUAL, verdict.rule) };
        }
        Verdict { limited, limits, ..verdict }
    }

    fn apply_table(&self, table: u32) -> Verdict {
        if self.word(at!(table, table.flags)) & abi::table_flags::TABLE_DETOUR.0 != 0 {
            return detour(Reason::REASON_TABLE, None);
        }
        if self.head.needs_normalising {
            return detour(Reason::REASON_PATH, None);
        }
        let candidate = match self.find(table) {
            Ok(Some(candidate)) => candidate,
            Ok(None) => {
                let answer = self.word(at!(table, table.no_route));
                return self.answer(answer, Reason::REASON_NO_ROUTE, None);
            }
            Err(Unsure) => return detour(Reason::REASON_UNUSUAL, None),
        };
        let rule = Some(self.word(at!(candidate, candidate.rule)) as usize);
        let action = self.word(at!(candidate, candidate.action));
        let kind = self.word(at!(action, action.kind));
        if kind == abi::action_kind::ACTION_FORWARD.0 {
            self.forward(self.pick_share(action), Reason::REASON_ROUTE, rule)
        } else if kind == abi::action_kind::ACTION_ANSWER.0 {
            self.answer(self.word(at!(action, action.answer)), Reason::REASON_ROUTE, rule)
        } else {
            detour(Reason::REASON_RULE_ACTION, rule)
        }
    }

    /// The first candidate that holds of all groups that host and path lead to.
    fn find(&self, table: u32) -> Result<Option<u32>, Unsure> {
        let any = self.word(at!(table, table.any));
        let mut choice = Choice { order: u32::MAX, candidate: Ok(None) };
        let classes = self.classes(self.word(at!(table, table.classes)));
        let lower = self.head.path.to_ascii_lowercase();
        let named = self.find_host(self.word(at!(table, table.hosts)));
        for paths in [any, named].into_iter().filter(|paths| *paths != 0) {
            let exact = self.word(at!(paths, paths.exact));
            let folded = self.word(at!(paths, paths.folded));
            for (start, path) in [(exact, &self.head.path), (folded, &lower)] {
                let group = self.accepted(self.walk(&classes, start, path));
                self.consider(group, self.head.method, &mut choice);
            }
        }
        choice.candidate
    }

    /// The `struct paths` that a host leads to.
    fn find_host(&self, machine: u32) -> u32 {
        if machine == 0 {
            return 0;
        }
        let classes = self.classes(self.word(at!(machine, machine.classes)));
        let start = self.word(at!(machine, machine.start));
        self.accepted(self.walk(&classes, start, &self.head.host))
    }

    fn classes(&self, index: u32) -> Vec<u8> {
        self.tables.heap_bytes(index, 256)
    }

    fn step(&self, row: u32, byte: u8, classes: &[u8]) -> u32 {
        self.word(row.wrapping_add(u32::from(classes[usize::from(byte)])))
    }

    /// Where an automaton gets from a state over bytes; 0 is dead.
    fn walk(&self, classes: &[u8], mut state: u32, mut bytes: &[u8]) -> u32 {
        while let Some(byte) = bytes.first()
            && state != 0
        {
            if state & STATE_RUN == 0 {
                state = self.step(state, *byte, classes);
                bytes = &bytes[1..];
                continue;
            }
            let run = state & !STATE_RUN;
            let length = self.word(at!(run, run.length));
            let wanted = self.tables.heap_bytes(at!(run, run.bytes), length);
            let same = wanted.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            if same == wanted.len() {
                state = self.word(at!(run, run.next));
                bytes = &bytes[same..];
            } else if same == bytes.len() {
                break;
            } else {
                state = self.word(at!(run, run.otherwise));
                bytes = &bytes[same + 1..];
            }
        }
        state
    }

    /// What a string that ends in a state is accepted as; a row and a run both begin with it.
    fn accepted(&self, state: u32) -> u32 {
        if state == 0 { 0 } else { self.word(state & !STATE_RUN) }
    }

    /// Takes the first candidate of a group that holds, if it comes before the choice so far.
    fn consider(&self, group: u32, method: u32, choice: &mut Choice) {
        if group == 0 {
            return;
        }
        let count = self.word(at!(group, group.count)).min(abi::limits::GROUP_CANDIDATES.0);
        let predicates = self.word(at!(group, group.predicates));
        let mut known = [None; abi::limits::GROUP_PREDICATES.0 as usize];
        for i in 0..count {
            let candidate = group + abi::group::WORDS + i * abi::candidate::WORDS;
            let order = self.word(at!(candidate, candidate.order));
            if order >= choice.order {
                return;
            }
            if self.word(at!(candidate, candidate.methods)) >> method & 1 == 0 {
                continue;
            }
            match self.candidate_holds(predicates, candidate, &mut known) {
                Ok(false) => continue,
                Ok(true) => *choice = Choice { order, candidate: Ok(Some(candidate)) },
                Err(Unsure) if order | 1 >= choice.order => {}
                Err(Unsure) => *choice = Choice { order: order | 1, candidate: Err(Unsure) },
            }
            return;
        }
    }

    /// Each predicate is looked at once, and none after one that decides.
    fn candidate_holds(
        &self,
        predicates: u32,
        candidate: u32,
        known: &mut [Option<bool>],
    ) -> Result<bool, Unsure> {
        let need = self.tables.double(at!(candidate, candidate.need));
        let mut left = need | self.tables.double(at!(candidate, candidate.forbid));
        let mut unknown = 0u64;
        while left != 0 {
            let bit = left.trailing_zeros();
            left &= left - 1;
            match known[bit as usize] {
                Some(held) if held != (need >> bit & 1 == 1) => return Ok(false),
                Some(_) => {}
                None => unknown |= 1 << bit,
            }
        }
        let mut unsure = false;
        while unknown != 0 {
            let bit = unknown.trailing_zeros();
            unknown &= unknown - 1;
            let Ok(held) = self.predicate_holds(self.word(predicates + bit)) else {
                // another one may still fail
                unsure = true;
                continue;
            };
            known[bit as usize] = Some(held);
            if held != (need >> bit & 1 == 1) {
                return Ok(false);
            }
        }
        if unsure { Err(Unsure) } else { Ok(true) }
    }

    fn predicate_holds(&self, predicate: u32) -> Result<bool, Unsure> {
        let subject = self.word(at!(predicate, predicate.subject));
        use abi::subject as Subject;
        match Subject(subject) {
            Subject::SUBJECT_SOURCE => return Ok(self.member_holds(predicate, self.source)),
            Subject::SUBJECT_CALLED => return Ok(self.member_holds(predicate, self.endpoint.ip())),
            Subject::SUBJECT_SOURCE_ADDRESS => return Ok(self.in_ranges(predicate, self.source)),
            Subject::SUBJECT_REMOTE_ADDRESS => {
                let length = self.word(at!(predicate, predicate.name_length));
                let name = self.word(at!(predicate, predicate.name));
                let name = self.tables.heap_bytes(name, length);
                let hash = self.word(at!(predicate, predicate.name_hash));
                return match self.find_field(&name, hash)? {
                    Some(_) => Err(Unsure),
                    None => Ok(self.in_ranges(predicate, self.source)),
                };
            }
            Subject::SUBJECT_CALLED_ADDRESS => {
                return Ok(self.in_ranges(predicate, self.endpoint.ip()));
            }
            Subject::SUBJECT_PORT => {
                let transport = u128::from(transport_number(Transport::Tcp));
                let number = transport << 16 | u128::from(self.endpoint.port());
                return Ok(self.contains(predicate, number));
            }
            Subject::SUBJECT_PATH => return self.value_holds(predicate, &self.head.path),
            _ => {}
        }
        let length = self.word(at!(predicate, predicate.name_length));
        let name = self.tables.heap_bytes(self.word(at!(predicate, predicate.name)), length);
        let value = if subject == abi::subject::SUBJECT_QUERY.0 {
            self.find_parameter(&name)?
        } else {
            self.find_field(&name, self.word(at!(predicate, predicate.name_hash)))?
        };
        value.map_or(Ok(false), |value| self.value_holds(predicate, value))
    }

    fn find_field(&self, name: &[u8], hash: u32) -> Result<Option<&[u8]>, Unsure> {
        let named = |line: &&Line| line.hash == hash && line.name == name;
        let mut lines = self.head.lines.iter().filter(named);
        let value = lines.next().map(|line| line.value.as_slice());
        if lines.next().is_some() { Err(Unsure) } else { Ok(value) }
    }

    fn find_parameter(&self, name: &[u8]) -> Result<Option<&[u8]>, Unsure> {
        let query = &self.head.query;
        if query.len() > abi::limits::QUERY_BYTES.0 as usize {
            return Err(Unsure);
        }
        Ok(query.split(|byte| *byte == b'&').find_map(|pair| match pair.strip_prefix(name)? {
            [] => Some(&pair[pair.len()..]),
            [b'=', value @ ..] => Some(value),
            _ => None,
        }))
    }

    fn value_holds(&self, predicate: u32, value: &[u8]) -> Result<bool, Unsure> {
        use abi::comparison as Kind;
        let place = self.word(at!(predicate, predicate.value));
        let length = self.word(at!(predicate, predicate.value_length));
        let wanted = || self.tables.heap_bytes(place, length);
        match Kind(self.word(at!(predicate, predicate.comparison))) {
            Kind::COMPARE_PRESENT => Ok(true),
            Kind::COMPARE_EXACT => Ok(value == wanted()),
            Kind::COMPARE_PREFIX => Ok(value.starts_with(&wanted())),
            Kind::COMPARE_SUFFIX => Ok(value.ends_with(&wanted())),
            Kind::COMPARE_NOT_EMPTY => Ok(!value.is_empty()),
            Kind::COMPARE_REGEX => {
                let classes = self.classes(self.word(at!(place, machine.classes)));
                let start = self.word(at!(place, machine.start));
                match abi::accepts(self.accepted(self.walk(&classes, start, value))) {
                    abi::accepts::MACHINE_NO => Ok(false),
                    abi::accepts::MACHINE_YES => Ok(true),
                    _ => Err(Unsure),
                }
            }
            _ => Err(Unsure),
        }
    }

    fn pick_share(&self, action: u32) -> u32 {
        let total = self.word(at!(action, action.total));
        if total == 0 {
            return 0;
        }
        let point = scale(self.draw, u64::from(total)) as u32;
        let first = self.word(at!(action, action.shares));
        let record = |n: u32| first + n * abi::share::WORDS;
        let count = self.word(at!(action, action.count));
        let chosen = first_above(count, 16, point, |n| self.word(at!(record(n), share.up_to)));
        self.word(at!(record(chosen), share.cluster))
    }

    fn forward(&self, cluster: u32, reason: Reason, rule: Option<usize>) -> Verdict {
        if cluster == 0 {
            let answer = self.word(abi::prepared::ANSWER_BACKEND_MISSING.0);
            return self.answer(answer, Reason::REASON_BACKEND_MISSING, rule);
        }
        if self.word(at!(cluster, cluster.count)) == 0 {
            let answer = self.word(abi::prepared::ANSWER_NO_ENDPOINT.0);
            return self.answer(answer, Reason::REASON_NO_ENDPOINT, rule);
        }
        if !self.tables.is_member(self.word(at!(cluster, cluster.id)), self.endpoint) {
            return detour(Reason::REASON_OTHER_CLUSTER, rule);
        }
        Verdict::of(Lane::LANE_NATIVE, reason, rule)
    }

    fn answer(&self, answer: u32, reason: Reason, rule: Option<usize>) -> Verdict {
        let length = self.word(at!(answer, answer.length));
        let bytes = self.tables.heap_bytes(answer + abi::answer::WORDS, length);
        let status = self.word(at!(answer, answer.status)) as u16;
        let verdict = Verdict::of(Lane::LANE_ANSWERED, reason, rule);
        Verdict { status: Some(status), answer: Some(bytes), ..verdict }
    }
}
