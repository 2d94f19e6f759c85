//! Rules for connections as a whole: TCP routes, and TLS routes by the name that the client asks for.

use std::net::IpAddr;

use serde::Serialize;

use crate::mesh::{ClusterId, ServicePort, Workload};
use crate::route::{Backend, SourceMatch};
use crate::router::draw_backend;

/// One rule; the first whose match holds wins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamRule {
    /// Where it came from, for people: `VirtualService default/db tcp[0]`.
    pub name: String,
    /// Alternatives: one must hold. Empty matches every connection.
    pub matches: Vec<StreamMatch>,
    /// Where connections go, drawn by weight. A backend that is not there closes its share.
    pub backends: Vec<Backend>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StreamMatch {
    /// Names in lower case that the client may ask for (RFC 6066 section 3), `*.` in front is a
    /// wildcard; empty matches any connection, TLS or not.
    pub sni: Vec<String>,
    /// Networks that the address connected to may be in; empty matches any.
    pub subnets: Vec<Subnet>,
    /// On who calls; one of these must hold, empty matches any caller.
    pub sources: Vec<SourceMatch>,
}

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Subnet {
    /// Its address.
    pub address: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

/// A connection, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The address that the client connected to.
    pub destination: IpAddr,
    /// The name in its TLS ClientHello, if there is one.
    pub sni: Option<&'a str>,
    /// Who calls, if known.
    pub source: Option<&'a Workload>,
}

/// Where a connection to a port goes: to a cluster, or nowhere because the rule that holds names
/// something that is not there. Without a rule that holds it is the port's own cluster.
pub fn route_stream(
    port: &ServicePort,
    connection: &Connection<'_>,
    draw: u32,
) -> Option<ClusterId> {
    let held = port
        .stream_rules
        .iter()
        .find(|rule| rule.matches.is_empty() || rule.matches.iter().any(|m| m.holds(connection)));
    held.map_or(Some(port.cluster), |rule| draw_backend(&rule.backends, draw))
}

impl StreamMatch {
    /// Whether the conditions hold for a connection.
    pub fn holds(&self, connection: &Connection<'_>) -> bool {
        let sni = |wanted: &String| connection.sni.is_some_and(|name| sni_holds(wanted, name));
        let source = |wanted: &SourceMatch| {
            connection.source.is_some_and(|source| wanted.holds(&source.namespace, &source.labels))
        };
        (self.sni.is_empty() || self.sni.iter().any(sni))
            && (self.subnets.is_empty()
                || self.subnets.iter().any(|subnet| subnet.contains(connection.destination)))
            && (self.sources.is_empty() || self.sources.iter().any(source))
    }
}

/// A wildcard stands for one or more labels, as Envoy matches `server_names`.
fn sni_holds(wanted: &str, name: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(suffix) => name.len().checked_sub(suffix.len()).is_some_and(|at| {
            at > 0 && name.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes())
        }),
        None => name.eq_ignore_ascii_case(wanted),
    }
}

impl Subnet {
    /// Whether an address is in it. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                (u32::from(net) ^ u32::from(address)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits.min(128));
                (u128::from(net) ^ u128::from(address)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}
