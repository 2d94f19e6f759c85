//! What is compared: the variants, the ways to connect, and the places of processes on CPUs.

use serde::{Deserialize, Serialize};

/// One way from the client to the server.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Plain TCP from pod to pod; the client knows the server's address.
    NoMesh,
    /// Beeway with the client in the mesh and the server outside.
    Native,
    /// Beeway with both in the mesh: TCP is skipped.
    Shortcut,
    /// Beeway, and each request belongs elsewhere than its connection leads.
    Detour,
    /// Beeway, and each request is denied: the kernel answers it.
    AnsweredHere,
    /// Beeway native, with 1,000 policies' rules on requests in force for the server.
    Guarded,
    /// The same, and each request is denied by one of these rules.
    Denied,
    /// An Envoy beside the client and one beside the server, behind iptables REDIRECT.
    SidecarPair,
    /// One Envoy on the node, addressed by the client.
    OneEnvoy,
}

impl Variant {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 9] = [
        Self::NoMesh,
        Self::Native,
        Self::Shortcut,
        Self::Detour,
        Self::AnsweredHere,
        Self::Guarded,
        Self::Denied,
        Self::SidecarPair,
        Self::OneEnvoy,
    ];

    /// The name in tables and plots.
    pub fn title(self) -> &'static str {
        match self {
            Self::NoMesh => "no mesh",
            Self::Native => "Beeway native",
            Self::Shortcut => "Beeway shortcut",
            Self::Detour => "Beeway detour",
            Self::AnsweredHere => "Beeway answered here",
            Self::Guarded => "Beeway native, 1,000 rules",
            Self::Denied => "Beeway denied",
            Self::SidecarPair => "Envoy sidecar pair",
            Self::OneEnvoy => "one Envoy",
        }
    }

    /// The bed that it is measured in.
    pub fn bed(self) -> BedKind {
        match self {
            Self::NoMesh => BedKind::Plain,
            Self::Native | Self::Detour | Self::AnsweredHere => BedKind::Beeway,
            Self::Shortcut => BedKind::BeewayBothEnds,
            Self::Guarded | Self::Denied => BedKind::BeewayGuarded,
            Self::SidecarPair => BedKind::Sidecars,
            Self::OneEnvoy => BedKind::Gateway,
        }
    }

    /// The path of its requests.
    pub fn path(self) -> &'static str {
        match self {
            Self::AnsweredHere => "/denied",
            // the last of the rules
            Self::Denied => "/closed/999/x",
            _ => "/",
        }
    }

    /// The headers of its requests.
    pub fn headers(self) -> &'static [&'static str] {
        if self == Self::Detour { &["Host: web", "end-user: jason"] } else { &["Host: web"] }
    }

    /// The lane that its requests must take; none without Beeway.
    pub fn lane(self) -> Option<&'static str> {
        match self {
            Self::Native | Self::Guarded => Some("native"),
            Self::Shortcut => Some("shortcut"),
            Self::Detour => Some("detour"),
            Self::AnsweredHere | Self::Denied => Some("answered"),
            Self::NoMesh | Self::SidecarPair | Self::OneEnvoy => None,
        }
    }

    /// What a right answer looks like: its status, and who gave it.
    pub fn expected(self) -> (u16, Option<&'static str>) {
        match self {
            Self::AnsweredHere | Self::Denied => (403, None),
            Self::Detour => (200, Some("v2")),
            _ => (200, Some("v1")),
        }
    }
}

/// What stands between the pods of a bed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BedKind {
    /// Nothing.
    Plain,
    /// The agent, with the client in its cgroup.
    Beeway,
    /// The agent, with policies for the servers.
    BeewayGuarded,
    /// The agent, with the client and the servers in its cgroup.
    BeewayBothEnds,
    /// Two sidecars.
    Sidecars,
    /// One Envoy on the node.
    Gateway,
}

/// How long a connection lives.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As long as the measurement.
    KeepAlive,
    /// One request.
    PerRequest,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::KeepAlive, Self::PerRequest];

    /// The name in tables and plots.
    pub fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::PerRequest => "a connection per request",
        }
    }
}

/// Where processes run.
///
/// One connection is a ping-pong, and across cores that measures mostly the waking of idle cores
/// (70 µs against 22 µs), so all of it shares a core. More connections keep two cores busy: the
/// load generator has one, the server the other, and proxies may use both, which on these
/// machines gives them more requests than any fixed place (`--concurrency 2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The load generator's CPU.
    pub client: usize,
    /// The servers' CPU.
    pub server: usize,
    /// The CPUs of proxies: sidecars, gateway, agent.
    pub proxies: &'static [usize],
}

impl Placement {
    /// The same for every variant.
    pub fn of(connections: u32) -> Self {
        if connections == 1 {
            Self { client: 1, server: 1, proxies: &[1] }
        } else {
            Self { client: 1, server: 0, proxies: &[0, 1] }
        }
    }
}
