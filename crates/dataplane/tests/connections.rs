//! Where connect() leads: to an endpoint by the rules for whole connections, or to the proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use beeway_dataplane::tables::interpret::{is_for_proxy, pick_endpoint};
use beeway_dataplane::tables::{Tables, compile};
use beeway_model::*;

const SERVICE: &str = "10.96.0.1:70";
const SERVICE6: &str = "[fd00:96::1]:70";
const DRAWS: u64 = 1000;

/// Clusters: 0 has three endpoints, 1 one, 2 two of different weight, 3 one of IPv6, 4 none.
fn mesh(protocol: Protocol, cluster: usize, stream_rules: Vec<StreamRule>) -> Mesh {
    let endpoint = |(address, weight): &(&str, u32)| Endpoint {
        address: address.parse().unwrap(),
        weight: *weight,
        workload: String::new(),
        node: None,
    };
    let clusters: [&[(&str, u32)]; 5] = [
        &[("10.1.0.1:7", 1), ("10.1.0.2:7", 1), ("[fd00::1]:7", 1)],
        &[("10.1.0.3:7", 1)],
        &[("10.1.0.4:7", 1), ("10.1.0.5:7", 3)],
        &[("[fd00::2]:7", 1)],
        &[],
    ];
    let port = ServicePort {
        stream_rules,
        name: String::new(),
        number: 70,
        transport: Transport::Tcp,
        protocol,
        cluster: ClusterId(cluster),
        rules: None,
    };
    Mesh {
        services: vec![Service {
            namespace: "default".into(),
            name: "shop".into(),
            hosts: Vec::new(),
            addresses: vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()],
            ports: vec![port],
        }],
        clusters: clusters
            .into_iter()
            .map(|endpoints| Cluster {
                idle: Default::default(),
                protocol,
                name: String::new(),
                endpoints: endpoints.iter().map(endpoint).collect(),
            })
            .collect(),
        ..Mesh::default()
    }
}

fn rule(matches: Vec<StreamMatch>, backends: &[(Option<usize>, u32)]) -> StreamRule {
    let backend = |(cluster, weight): &(Option<usize>, u32)| Backend {
        cluster: cluster.map(ClusterId),
        weight: *weight,
        policy: None,
    };
    StreamRule { name: String::new(), matches, backends: backends.iter().map(backend).collect() }
}

fn sni(name: &str) -> StreamMatch {
    StreamMatch { sni: vec![name.to_owned()], ..StreamMatch::default() }
}

fn subnet(address: &str, bits: u8) -> StreamMatch {
    let subnets = vec![Subnet { address: address.parse().unwrap(), bits }];
    StreamMatch { subnets, ..StreamMatch::default() }
}

fn source() -> StreamMatch {
    StreamMatch { sources: vec![SourceMatch::default()], ..StreamMatch::default() }
}

fn tables(mesh: &Mesh) -> Tables {
    compile(mesh, 1).unwrap()
}

fn to_proxy(tables: &Tables, service: &str) -> bool {
    is_for_proxy(tables, service.parse().unwrap())
}

/// How many of evenly spread draws lead to each endpoint; `None`: refused.
fn spread(tables: &Tables, service: &str) -> BTreeMap<Option<SocketAddr>, u64> {
    let service = service.parse().unwrap();
    let mut counts = BTreeMap::new();
    for n in 0..DRAWS {
        let draw = (((2 * n + 1) << 31) / DRAWS) as u32;
        *counts.entry(pick_endpoint(tables, service, Transport::Tcp, draw)).or_default() += 1;
    }
    counts
}

fn shares(expected: &[(Option<&str>, u64)]) -> BTreeMap<Option<SocketAddr>, u64> {
    let address = |text: &str| text.parse().unwrap();
    expected.iter().map(|(text, n)| (text.map(address), *n)).collect()
}

#[test]
fn http2_needs_the_proxy_where_there_is_a_choice() {
    let http2 = |cluster| mesh(Protocol::Http2, cluster, Vec::new());
    for (cluster, service, wanted) in [
        (0, SERVICE, true),
        (0, SERVICE6, false),
        (1, SERVICE, false),
        (2, SERVICE, true),
        (2, SERVICE6, true),
        (4, SERVICE, false),
    ] {
        let tables = tables(&http2(cluster));
        assert_eq!(to_proxy(&tables, service), wanted, "{cluster} {service}");
    }
    let mut ruled = http2(1);
    ruled.services[0].ports[0].rules = Some(Vec::new());
    assert!(to_proxy(&tables(&ruled), SERVICE), "every request is answered 404");
    let plain = spread(&tables(&http2(1)), SERVICE);
    assert_eq!(plain, shares(&[(Some("10.1.0.3:7"), DRAWS)]));
}

#[test]
fn conditions_that_connect_cannot_see_need_the_proxy() {
    use Protocol::{Opaque, Tls};
    let to_one = |matches| rule(matches, &[(Some(1), 1)]);
    for (protocol, rules, proxy, proxy6) in [
        (Tls, vec![to_one(vec![sni("a")])], true, true),
        // nobody reads a name there
        (Opaque, vec![to_one(vec![sni("a")])], false, false),
        (Opaque, vec![to_one(vec![source()])], true, true),
        (Opaque, vec![to_one(vec![])], false, false),
        (Opaque, vec![to_one(vec![subnet("10.96.0.0", 16)])], false, false),
        // one of two is enough
        (Opaque, vec![to_one(vec![source(), subnet("10.96.0.0", 16)])], false, true),
        // the first rule that may hold counts
        (Opaque, vec![to_one(vec![subnet("fd00::", 8)]), to_one(vec![source()])], true, false),
        (Opaque, vec![to_one(vec![source()]), to_one(vec![])], true, true),
        (Tls, vec![to_one(vec![]), to_one(vec![sni("a")])], false, false),
    ] {
        let mesh = mesh(protocol, 0, rules);
        let tables = tables(&mesh);
        let found = (to_proxy(&tables, SERVICE), to_proxy(&tables, SERVICE6));
        assert_eq!(found, (proxy, proxy6), "{:?}", mesh.services[0].ports[0].stream_rules);
    }
}

#[test]
fn weights_hold_for_connections() {
    let rules = |backends| vec![rule(vec![], backends)];
    for (backends, wanted) in [
        (
            &[(Some(1), 60), (Some(2), 40)][..],
            shares(&[
                (Some("10.1.0.3:7"), 600),
                (Some("10.1.0.4:7"), 100),
                (Some("10.1.0.5:7"), 300),
            ]),
        ),
        // what is not there takes its share: a backend, endpoints, endpoints of this family
        (&[(None, 10), (Some(1), 90)], shares(&[(Some("10.1.0.3:7"), 900), (None, 100)])),
        (&[(Some(4), 10), (Some(1), 90)], shares(&[(Some("10.1.0.3:7"), 900), (None, 100)])),
        (&[(Some(3), 10), (Some(1), 90)], shares(&[(Some("10.1.0.3:7"), 900), (None, 100)])),
        (&[(Some(1), 1), (Some(2), 0)], shares(&[(Some("10.1.0.3:7"), DRAWS)])),
        (&[(Some(1), 0)], shares(&[(None, DRAWS)])),
        (&[], shares(&[(None, DRAWS)])),
    ] {
        let tables = tables(&mesh(Protocol::Opaque, 0, rules(backends)));
        assert_eq!(spread(&tables, SERVICE), wanted, "{backends:?}");
    }
    let large = [(Some(1), u32::MAX), (Some(2), u32::MAX)];
    let found = spread(&tables(&mesh(Protocol::Opaque, 0, rules(&large))), SERVICE);
    assert_eq!(found[&Some("10.1.0.3:7".parse().unwrap())], DRAWS / 2);

    // an IPv6 address leads to IPv4 where there is nothing else
    let tables = tables(&mesh(Protocol::Opaque, 0, rules(&[(Some(3), 50), (Some(1), 50)])));
    let wanted = shares(&[(Some("[fd00::2]:7"), 500), (Some("10.1.0.3:7"), 500)]);
    assert_eq!(spread(&tables, SERVICE6), wanted);
}

#[test]
fn without_a_rule_that_holds_it_is_the_port_s_own_cluster() {
    let elsewhere = vec![rule(vec![subnet("192.168.0.0", 16)], &[(Some(1), 1)])];
    let tables = tables(&mesh(Protocol::Opaque, 2, elsewhere));
    let wanted = shares(&[(Some("10.1.0.4:7"), 250), (Some("10.1.0.5:7"), 750)]);
    assert_eq!(spread(&tables, SERVICE), wanted);
}
