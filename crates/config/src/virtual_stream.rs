//! The `tls` and `tcp` rules of VirtualServices → rules for connections.

use std::collections::BTreeSet;
use std::net::IpAddr;

use beeway_model::{Backend, SourceMatch, StreamMatch, StreamRule, Subnet};

use crate::catalog::Catalog;
use crate::istio::{self, StreamDestination, TcpMatch, TlsMatch};
use crate::objects::Object;
use crate::problem::{Problem, Report};
use crate::virtual_action::Resolver;
use crate::virtual_match::{in_mesh, sources};

/// A rule that can be used.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    /// `tls[0]`, as in the object.
    name: String,
    path: String,
    /// `None`: it holds always.
    conditions: Option<Vec<Condition>>,
    route: &'a [StreamDestination],
}

/// One alternative, and what depends on the port and on who calls.
#[derive(Debug)]
struct Condition {
    connection: StreamMatch,
    port: Option<u16>,
    source: SourceMatch,
}

/// Reads the rules of an object: those of TLS come before those of TCP, as in Istio's listeners.
pub(crate) fn read<'a>(
    object: &'a Object<istio::VirtualService>,
    report: &mut Report<'_>,
) -> Vec<Stream<'a>> {
    let spec = &object.body;
    let mut streams = Vec::new();
    for (index, rule) in spec.tls.iter().enumerate() {
        let path = format!("spec.tls.{index}");
        let mut report = report.below(&path);
        if rule.matches.is_empty() {
            report.error("", "a tls rule has a match");
        }
        check_route(&rule.route, &mut report);
        let here = rule.matches.iter().enumerate().filter(|(_, m)| in_mesh(&m.gateways));
        let conditions = here
            .map(|(at, m)| tls(m, &spec.hosts, &mut report.below(&format!("match.{at}"))))
            .collect();
        let (name, conditions) = (format!("tls[{index}]"), Some(conditions));
        streams.push(Stream { name, path, conditions, route: &rule.route });
    }
    for (index, rule) in spec.tcp.iter().enumerate() {
        let path = format!("spec.tcp.{index}");
        let mut report = report.below(&path);
        check_route(&rule.route, &mut report);
        let here = rule.matches.iter().enumerate().filter(|(_, m)| in_mesh(&m.gateways));
        let conditions: Vec<Condition> =
            here.map(|(at, m)| tcp(m, &mut report.below(&format!("match.{at}")))).collect();
        let conditions = (!rule.matches.is_empty()).then_some(conditions);
        streams.push(Stream {
            name: format!("tcp[{index}]"),
            path,
            conditions,
            route: &rule.route,
        });
    }
    streams
}

fn check_route(route: &[StreamDestination], report: &mut Report<'_>) {
    let total: u64 = route.iter().map(|to| u64::from(to.weight.unwrap_or(0))).sum();
    if route.is_empty() {
        report.error("", "a rule for connections has a route");
    } else if route.len() > 1 && total == 0 {
        report.error("route", "the weights of several destinations add up to 0");
    } else if total > u64::from(u32::MAX) {
        report.error("route", format!("the weights add up to more than {}", u32::MAX));
    }
}

fn tls(m: &TlsMatch, hosts: &[String], report: &mut Report<'_>) -> Condition {
    if m.sni_hosts.is_empty() {
        report.error("", "a match of a tls rule has sniHosts");
    }
    let mut sni = Vec::new();
    for (at, name) in m.sni_hosts.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        if !hosts.iter().any(|host| within(&lower, &host.to_ascii_lowercase())) {
            let reason = format!("{name} is not within the hosts of the object");
            report.error(&format!("sniHosts.{at}"), reason);
        }
        sni.push(lower);
    }
    let subnets = subnets(&m.destination_subnets, report);
    let source = source(&m.source_namespace, &m.source_labels);
    Condition {
        connection: StreamMatch { sni, subnets, sources: Vec::new() },
        port: m.port,
        source,
    }
}

fn tcp(m: &TcpMatch, report: &mut Report<'_>) -> Condition {
    let subnets = subnets(&m.destination_subnets, report);
    let source = source(&m.source_namespace, &m.source_labels);
    let connection = StreamMatch { sni: Vec::new(), subnets, sources: Vec::new() };
    Condition { connection, port: m.port, source }
}

/// Whether every name that one stands for, the other does too.
fn within(name: &str, host: &str) -> bool {
    match host.strip_prefix('*') {
        Some(suffix) => name.ends_with(suffix),
        None => name == host,
    }
}

fn source(
    namespace: &Option<String>,
    labels: &std::collections::BTreeMap<String, String>,
) -> SourceMatch {
    let namespace = namespace.clone().filter(|namespace| !namespace.is_empty());
    SourceMatch { namespace, labels: labels.clone() }
}

fn subnets(written: &[String], report: &mut Report<'_>) -> Vec<Subnet> {
    let mut subnets = Vec::new();
    for (at, text) in written.iter().enumerate() {
        match subnet(text) {
            Some(subnet) => subnets.push(subnet),
            None => {
                let part = format!("destinationSubnets.{at}");
                report.error(&part, format!("`{text}` is no address or network"));
            }
        }
    }
    subnets
}

fn subnet(text: &str) -> Option<Subnet> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some(Subnet { address, bits })
}

impl Stream<'_> {
    /// The rule for a port, and for callers of these namespaces (`None`: all); `None`: it is for
    /// another port, or for nobody.
    pub(crate) fn rule(
        &self,
        object: &Object<istio::VirtualService>,
        visible: Option<&[String]>,
        port: u16,
        catalog: &Catalog,
        problems: &mut BTreeSet<Problem>,
    ) -> Option<StreamRule> {
        let with = |connection: &StreamMatch, source: &SourceMatch| {
            let sources = sources(source, visible)?;
            Some(StreamMatch { sources, ..connection.clone() })
        };
        let matches: Vec<StreamMatch> = match &self.conditions {
            Some(conditions) => {
                let here = conditions.iter().filter(|c| c.port.is_none_or(|p| p == port));
                here.filter_map(|c| with(&c.connection, &c.source)).collect()
            }
            None => with(&StreamMatch::default(), &SourceMatch::default()).into_iter().collect(),
        };
        if matches.is_empty() {
            return None;
        }
        let always = matches.contains(&StreamMatch::default());
        let resolver = Resolver { namespace: &object.namespace, port };
        let mut backends = Vec::new();
        for (at, to) in self.route.iter().enumerate() {
            let weight = match (self.route.len(), to.weight) {
                (1, None | Some(0)) => 100,
                (_, weight) => weight.unwrap_or(0),
            };
            let cluster = resolver.cluster(&to.destination, catalog).map_err(|reason| {
                let path = format!("{}.route.{at}.destination", self.path);
                let reason = format!("{reason}; connections sent there are closed");
                problems.insert(object.place.error(&path, reason));
            });
            backends.push(Backend { cluster: cluster.ok(), weight, policy: None });
        }
        let name = format!("{} {}", object.place.label(), self.name);
        Some(StreamRule { name, matches: if always { Vec::new() } else { matches }, backends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses() {
        for (text, bits) in [
            ("10.0.0.0/8", 8),
            ("10.0.0.1", 32),
            ("::/0", 0),
            ("fd00::1", 128),
            ("fd00::/128", 128),
        ] {
            assert_eq!(subnet(text).map(|subnet| subnet.bits), Some(bits), "{text}");
        }
        for text in ["10.0.0.0/33", "10.0.0/8", "::/129", "a", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(subnet(text), None, "{text}");
        }
    }

    #[test]
    fn names_within_hosts() {
        for (name, host) in [("a.io", "a.io"), ("x.a.io", "*.a.io"), ("*.x.a.io", "*.a.io")] {
            assert!(within(name, host), "{name} {host}");
        }
        for (name, host) in [("a.io", "*.a.io"), ("*.io", "*.a.io"), ("*.a.io", "x.a.io")] {
            assert!(!within(name, host), "{name} {host}");
        }
    }
}
