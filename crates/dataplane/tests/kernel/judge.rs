//! Three say what becomes of a request: the eBPF program, the interpreter of the tables in Rust,
//! and the reference router.
//!
//! The first two must agree in everything, and whatever they decide must be what the third says. To
//! leave a request to userspace is always right, but not without a reason.

use std::net::{Ipv6Addr, SocketAddr};

use beeway_dataplane::counts::{LANES, REASONS};
use beeway_dataplane::tables::Tables;
use beeway_dataplane::tables::interpret::{self, Verdict};
use beeway_dataplane::{Decision, DecisionQuery};
use beeway_model::access::{AccessPolicy, Scope};
use beeway_model::{Mesh, Outcome};

use crate::case::Case;
use crate::node::Node;
use crate::world::{SERVICE, rules_of};

/// Bytes of a generation before its heap (`struct generation`).
const HEADER: usize = 48;

/// A mesh in force.
pub struct Trial<'a> {
    node: &'a Node,
    pub mesh: Mesh,
    pub tables: Tables,
    /// The generation as the kernel has it.
    image: Vec<u8>,
}

/// What the kernel does with a request, when all three agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// The kernel has decided.
    Here,
    /// It is left to userspace, for this reason.
    Detour(&'static str),
}

impl<'a> Trial<'a> {
    /// Compiles a mesh and puts it in force.
    pub fn new(node: &'a Node, mesh: Mesh) -> Trial<'a> {
        let tables = node.publish(&mesh);
        let image = tables.bytes();
        Trial { node, mesh, tables, image }
    }

    /// Whether all of this configuration is for the kernel.
    pub fn is_within_limits(&self) -> bool {
        self.tables.notices().is_empty()
            && rules_of(&self.mesh).iter().all(|rule| rule.detour.is_none())
    }

    pub fn by_kernel(&self, case: &Case) -> Decision {
        let service = SERVICE.parse().unwrap();
        self.node.decide(&case.query(service))
    }

    /// As one that comes in at the endpoint, and is judged nowhere else.
    pub fn by_kernel_as_visit(&self, case: &Case) -> Decision {
        self.node.decide(&DecisionQuery { visit: true, ..case.query(case.endpoint) })
    }

    pub fn by_twin(&self, case: &Case) -> Verdict {
        let service: SocketAddr = SERVICE.parse().unwrap();
        let Case { bytes, endpoint, source, draw } = case;
        interpret::decide(&self.tables, service, *endpoint, *source, bytes, *draw)
    }

    /// What becomes of a request, or who disagrees.
    pub fn judge(&self, case: &Case) -> Result<Judged, &'static str> {
        let (kernel, twin) = (self.by_kernel(case), self.by_twin(case));
        let (lane, reason) = (LANES[twin.lane.0 as usize], REASONS[twin.reason.0 as usize]);
        if (kernel.lane, kernel.reason, kernel.rule) != (lane, reason, twin.rule) {
            return Err("the kernel and the interpreter differ");
        }
        if kernel.limited != twin.limited {
            return Err("the kernel and the interpreter find other limits");
        }
        if kernel.answer.map(|index| self.answer(index)) != twin.answer.as_deref() {
            return Err("the kernel and the interpreter give different answers");
        }
        if ![0, case.message().length].contains(&kernel.head_length) {
            return Err("the kernel's head ends elsewhere");
        }
        let decision = case.by_router(&self.mesh);
        if kernel.lane == "detour" && kernel.reason != "other_cluster" {
            // what is left to userspace is left at the router's rule or before it
            if kernel.rule > decision.rule.or(kernel.rule) {
                return Err("the kernel has passed over the router's rule");
            }
            let excused = !self.is_within_limits()
                || is_excused(case, kernel.reason)
                || kernel.reason == "policy" && self.is_for_userspace(case);
            return if excused { Ok(Judged::Detour(reason)) } else { Err("a detour without need") };
        }
        if kernel.rule != decision.rule {
            return Err("the kernel has another rule than the router");
        }
        let (lane, status) = self.expected(&decision.outcome, case.endpoint);
        if lane == "native" && !self.mesh.access.is_empty() {
            let access = case.by_evaluator(&self.mesh);
            if !access.ask.is_empty() || !access.audit.is_empty() || !access.dry_run.is_empty() {
                return Err("the kernel has passed over a policy that asks or reports");
            }
            if !access.allowed {
                let denied = (kernel.lane, kernel.reason, twin.status);
                return match denied == ("answered", "denied", Some(403)) {
                    true => Ok(Judged::Here),
                    false => Err("the kernel lets pass what policies deny"),
                };
            }
        }
        if (kernel.lane, twin.status) != (lane, status) {
            return Err("the kernel does something else than the router says");
        }
        if lane == "native" && twin.limits != case.by_limits(&self.mesh) {
            return Err("the kernel asks other buckets than the model");
        }
        if !is_answer(&decision.outcome, &twin) {
            return Err("the kernel's answer is not the router's");
        }
        Ok(Judged::Here)
    }

    /// Whether policies are not the kernel's to decide.
    fn is_for_userspace(&self, case: &Case) -> bool {
        let access = case.by_evaluator(&self.mesh);
        let reports = [access.ask, access.audit, access.dry_run];
        let named = |policy: &AccessPolicy| matches!(policy.scope, Scope::Services(_));
        let forwarded = |(name, _): &(&str, &[u8])| name.eq_ignore_ascii_case("x-forwarded-for");
        reports.iter().any(|list| !list.is_empty())
            || self.mesh.access.iter().any(|policy| named(policy))
            || case.message().headers.iter().any(forwarded)
            || is_excused(case, "unusual")
            || is_excused(case, "path")
    }

    /// Asserts that all agree; false when the request is left to userspace.
    pub fn check(&self, case: &Case) -> bool {
        match self.judge(case) {
            Ok(judged) => judged == Judged::Here,
            Err(what) => panic!("{what}\n{}", self.describe(case)),
        }
    }

    /// Everything about a case.
    pub fn describe(&self, case: &Case) -> String {
        let Verdict { lane, reason, rule, status, answer, limits, .. } = self.by_twin(case);
        let (lane, reason) = (LANES[lane.0 as usize], REASONS[reason.0 as usize]);
        let answer = answer.map(|answer| answer.escape_ascii().to_string());
        format!(
            "request: {case:?}\nkernel: {:?}\ninterpreter: {lane}, {reason}, rule {rule:?}, {status:?} \
             {answer:?}, buckets {limits:x?}\nmodel: buckets {:x?}\nrouter: {:?}\nevaluator: {:?}\n\
             rules: {:#?}\npolicies: {:#?}\nlimits: {:#?}",
            self.by_kernel(case),
            case.by_limits(&self.mesh),
            case.by_router(&self.mesh),
            case.by_evaluator(&self.mesh),
            self.mesh.services[0].ports[0].rules,
            self.mesh.access,
            self.mesh.limits,
        )
    }

    /// The bytes of a `struct answer`: status, length, text.
    fn answer(&self, index: u32) -> &[u8] {
        let at = HEADER + 4 * index as usize;
        let word = |at: usize| u32::from_ne_bytes(self.image[at..at + 4].try_into().unwrap());
        &self.image[at + 8..][..word(at + 4) as usize]
    }

    /// The lane and the status of an answer that follow from what the router says.
    fn expected(&self, outcome: &Outcome, endpoint: SocketAddr) -> (&'static str, Option<u16>) {
        match outcome {
            Outcome::Respond { status, .. } => ("answered", Some(*status)),
            Outcome::Redirect => ("detour", None),
            Outcome::Forward(id) => match self.mesh.endpoints(*id) {
                [] => ("answered", Some(503)),
                some if some.iter().any(|e| e.address == endpoint) => ("native", None),
                _ => ("detour", None),
            },
        }
    }
}

fn is_answer(outcome: &Outcome, twin: &Verdict) -> bool {
    let Outcome::Respond { status, body } = outcome else { return true };
    let text = String::from_utf8_lossy(twin.answer.as_deref().unwrap_or_default());
    text.starts_with(&format!("HTTP/1.1 {status} ")) && text.ends_with(&format!("\r\n\r\n{body}"))
}

/// Whether this is a host name or an address, perhaps with a port.
fn is_name(authority: &str) -> bool {
    let name = authority.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = name.strip_suffix(':').unwrap_or(authority);
    let part = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    address.map_or(name.chars().all(part), |address| address.parse::<Ipv6Addr>().is_ok())
}

/// Whether a request is of a kind that the kernel leaves to userspace whatever the rules are.
pub fn is_excused(case: &Case, reason: &str) -> bool {
    let message = case.message();
    match reason {
        "path" => {
            let path = message.target.split('?').next().unwrap_or_default();
            path.contains(['%', '\\']) || path.contains("/.") || message.target.contains('#')
        }
        "head_limit" => message.length > 8192 || message.headers.len() > 64,
        // such a head is cut off where the kernel's buffer ends
        "partial_head" | "syntax" => message.length > 8192,
        "unusual" => {
            const KNOWN: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
            let mut names: Vec<String> =
                message.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
            names.sort_unstable();
            // an answer to HEAD needs a body to be left out
            !KNOWN.contains(&message.method)
                || names.windows(2).any(|pair| pair[0] == pair[1])
                || message.authority.len() > 253
                || message.authority.contains("..")
                || !is_name(message.authority)
                // what a regex says of bytes outside of ASCII, and of a host that has some
                || !case.bytes[..message.length].is_ascii()
                // where a parameter is not looked for
                || message.target.split_once('?').is_some_and(|(_, query)| query.len() > 2048)
                || case.bytes.windows(64).any(|w| w.iter().all(|b| matches!(b, b' ' | b'\t')))
        }
        _ => false,
    }
}
