//! Connections that are led to the userspace proxy as a whole: TCP and TLS routes, HTTP/2.

mod bed;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::{Bed, JASON, LIMIT, Shape, wait_until};
use beeway_testbed::{
    Process, RawClient, curl, nghttp, nginx_http2, nginx_tls, pattern, slurp, spawn_ready,
    tcp_echo, tcp_ping, upload,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PLAIN: Shape = Shape { servers_in_mesh: false };
const MESH: Shape = Shape { servers_in_mesh: true };

const DB: &str = "10.96.0.20:5432";
const DB6: &str = "[fd00:96::20]:5432";
const GRPC: &str = "10.96.0.22:80";
const GRPC6: &str = "[fd00:96::22]:80";

/// Services whose connections are routed as a whole.
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec:
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, "fd00:96::20"]
  selector: {app: web}
  ports:
  - {name: tcp-db, port: 5432, targetPort: 7007}
  - {name: tcp-blob, port: 8080, targetPort: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec:
  clusterIP: 10.96.0.21
  selector: {app: web}
  ports:
  - {name: tls, port: 443, targetPort: 8443}
---
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: default}
spec:
  clusterIP: 10.96.0.22
  clusterIPs: [10.96.0.22, "fd00:96::22"]
  selector: {app: web}
  ports:
  - {name: grpc, port: 80, targetPort: 8090}
---
apiVersion: v1
kind: Service
metadata: {name: alone, namespace: default}
spec:
  clusterIP: 10.96.0.23
  selector: {app: web, version: v1}
  ports:
  - {name: grpc, port: 80, targetPort: 8090}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: default}
spec:
  host: db
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: default}
spec:
  host: shop
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"#;

/// A bed with these services, and rules for connections: what follows `spec:` of VirtualServices,
/// by host.
fn bed(label: &str, shape: Shape, routes: &[(&str, &str)]) -> Result<Bed> {
    let bed = Bed::new(label, shape, JASON)?;
    let before = bed.generation()?;
    bed.write("streams.yaml", &with_routes(routes))?;
    bed.wait_for_generation(before)?;
    Ok(bed)
}

fn with_routes(routes: &[(&str, &str)]) -> String {
    let mut text = SERVICES.to_owned();
    for (host, rules) in routes {
        text += &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: {host}, namespace: default}}\nspec:\n  hosts: [{host}]\n{rules}"
        );
    }
    text
}

/// Echo servers that greet with the name of their version.
fn echoes(bed: &Bed) -> Result<Vec<Process>> {
    [(&bed.v1, "v1"), (&bed.v2, "v2")]
        .into_iter()
        .map(|(pod, name)| spawn_ready(tcp_echo(pod, 7007)?.args(["--name", name])))
        .collect()
}

/// One connection with some echoes: what the client says of it.
fn ping(bed: &Bed, to: &str) -> Result<Value> {
    let command = tcp_ping(&bed.client, to.parse()?, 3)?.arg("--greeting");
    command.output(LIMIT)?.success()?.json().pop().context("tcp-ping says nothing")
}

/// Which version greets, over many connections.
fn greetings(bed: &Bed, to: &str, connections: u32) -> Result<BTreeMap<String, u32>> {
    let mut by = BTreeMap::new();
    for _ in 0..connections {
        let said = ping(bed, to)?;
        assert_eq!((&said["pings"], &said["peer"]), (&json!(3), &json!(to)), "{said}");
        *by.entry(said["greeting"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(by)
}

fn proxy(bed: &Bed, counter: &str) -> Result<u64> {
    bed.status()?["proxy"][counter].as_u64().with_context(|| format!("no counter {counter}"))
}

#[test]
fn http2_requests_of_one_connection_are_balanced_one_by_one() -> Result<()> {
    for shape in [PLAIN, MESH] {
        let bed = bed("http2", shape, &[])?;
        let _servers = [nginx_http2(&bed.v1, 8090, "v1")?, nginx_http2(&bed.v2, 8090, "v2")?];
        for address in [GRPC, GRPC6] {
            let output = nghttp(&bed.client, &format!("http://{address}/"), 40)?.success()?;
            let count = |line: &str| output.stdout.lines().filter(|l| *l == line).count();
            let served = (count("v1"), count("v2"));
            assert_eq!(served.0 + served.1, 40, "{output:?}");
            assert!(served.0 > 5 && served.1 > 5, "{served:?}");
        }
        assert_eq!((bed.counter("connections_to_proxy")?, proxy(&bed, "connections")?), (2, 2));
        assert_eq!(proxy(&bed, "requests")?, 80);
    }
    Ok(())
}

#[test]
fn http2_to_the_only_endpoint_stays_native() -> Result<()> {
    let bed = bed("http2one", PLAIN, &[])?;
    let _server = nginx_http2(&bed.v1, 8090, "v1")?;
    let output = nghttp(&bed.client, "http://10.96.0.23/", 3)?.success()?;
    assert_eq!(output.stdout, "v1\nv1\nv1\n");
    assert_eq!((bed.counter("connections")?, proxy(&bed, "connections")?), (1, 0));
    Ok(())
}

/// The listener of the proxy for a family of addresses.
fn listener(bed: &Bed, v6: bool) -> Result<SocketAddr> {
    let status = bed.status()?;
    let addresses = status["detour_addresses"].as_array().context("no addresses")?;
    let mut parsed = addresses.iter().filter_map(|a| a.as_str()?.parse::<SocketAddr>().ok());
    parsed.find(|address| address.is_ipv6() == v6).context("no listener")
}

#[test]
fn the_client_sees_the_service_and_not_the_proxy() -> Result<()> {
    let bed = bed("names", PLAIN, &[])?;
    for address in [GRPC, GRPC6] {
        let mut raw = RawClient::connect(&bed.client, address.parse()?)?;
        assert_eq!(raw.peername()?.to_string(), address);
    }
    Ok(())
}

#[test]
fn who_connects_to_the_proxy_by_himself_is_turned_away() -> Result<()> {
    let bed = bed("alone", PLAIN, &[])?;
    for (v6, mesh) in [(false, true), (true, true), (false, false), (true, false)] {
        let listener = listener(&bed, v6)?;
        let mut raw = RawClient::connect_in(&bed.client, listener, mesh)?;
        raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let (data, end) = raw.recv_until_close()?;
        assert_eq!(data, "");
        assert!(["eof", "ECONNRESET"].contains(&end.as_str()), "{end}");
    }
    assert_eq!((proxy(&bed, "connections_unknown")?, proxy(&bed, "connections")?), (4, 0));
    Ok(())
}

#[test]
fn without_an_agent_connections_are_refused_and_the_next_one_takes_them() -> Result<()> {
    let mut bed = bed("noagent", PLAIN, &[])?;
    let _servers = [nginx_http2(&bed.v1, 8090, "v1")?, nginx_http2(&bed.v2, 8090, "v2")?];
    let refused = |bed: &Bed| -> Result<()> {
        for address in [GRPC, GRPC6] {
            let error = RawClient::connect(&bed.client, address.parse()?).unwrap_err();
            assert!(format!("{error:#}").contains("ECONNREFUSED"), "{error:#}");
        }
        Ok(())
    };
    let mut held = RawClient::connect(&bed.client, GRPC.parse()?)?;
    wait_until("the connection is taken", || Ok(proxy(&bed, "open_connections")? > 0))?;
    // dropped: killed
    drop(bed.agent.take());
    let (_, end) = held.recv_until_close()?;
    assert_eq!(end, "ECONNRESET", "what is cut off looks so");
    refused(&bed)?;
    for round in 1..=2 {
        bed.start_agent()?;
        let output = nghttp(&bed.client, &format!("http://{GRPC}/"), 1)?.success()?;
        assert!(["v1\n", "v2\n"].contains(&output.stdout.as_str()), "{output:?}");
        assert_eq!(bed.counter("connections_without_proxy")?, 2 * round);
        let mut agent = bed.agent.take().context("an agent")?;
        assert!(agent.terminate(LIMIT)?.success());
        refused(&bed)?;
    }
    Ok(())
}

#[test]
fn rules_of_tcp_routes_by_weight_need_no_proxy() -> Result<()> {
    let rules = "  tcp:\n  - route:\n    - {destination: {host: db, subset: v1}, weight: 75}\n    \
                 - {destination: {host: db, subset: v2}, weight: 25}\n";
    let bed = bed("weights", PLAIN, &[("db", rules)])?;
    let _echoes = echoes(&bed)?;
    for address in [DB, DB6] {
        let by = greetings(&bed, address, 60)?;
        // five standard deviations
        assert!((29..=60).contains(&by["v1"]) && by["v2"] > 0, "{address}: {by:?}");
    }
    assert_eq!((bed.counter("connections")?, bed.counter("connections_to_proxy")?), (120, 0));
    Ok(())
}

#[test]
fn rules_of_tcp_routes_ask_for_the_address_and_the_caller() -> Result<()> {
    let rules = "  tcp:\n  - match: [{destinationSubnets: [\"fd00:96::/64\"]}]\n    \
                 route: [{destination: {host: db, subset: v1}}]\n  \
                 - match: [{sourceLabels: {app: client}}]\n    \
                 route: [{destination: {host: db, subset: v2}}]\n  \
                 - route: [{destination: {host: db, subset: v1}}]\n";
    let bed = bed("callers", MESH, &[("db", rules)])?;
    let _echoes = echoes(&bed)?;
    assert_eq!(greetings(&bed, DB6, 5)?, BTreeMap::from([("v1".to_owned(), 5)]));
    assert_eq!((bed.counter("connections")?, bed.counter("connections_to_proxy")?), (5, 0));
    assert_eq!(greetings(&bed, DB, 5)?, BTreeMap::from([("v2".to_owned(), 5)]));
    assert_eq!((bed.counter("connections")?, proxy(&bed, "connections")?), (5, 5));
    Ok(())
}

/// Leads every connection of the client to v1, by way of the proxy.
const BY_PROXY: &str = "  tcp:\n  - match: [{sourceLabels: {app: client}}]\n    \
                        route: [{destination: {host: db, subset: v1}}]\n";

#[test]
fn large_transfers_arrive_unharmed_both_ways() -> Result<()> {
    for shape in [PLAIN, MESH] {
        let bed = bed("large", shape, &[("db", BY_PROXY)])?;
        for address in ["10.96.0.20:8080", "[fd00:96::20]:8080"] {
            let bytes = 50_000_000;
            let url = format!("http://{address}/sum");
            let output = upload(&bed.client, &url, bytes)?.output(LIMIT)?.success()?;
            let report = output.json().pop().unwrap_or_default();
            assert_eq!(report["reply"]["bytes"], bytes, "{report}");
            assert_eq!(report["reply"]["sha256"], report["sent_sha256"], "{report}");

            let url = format!("http://{address}/bytes/{bytes}");
            let output = slurp(&bed.client, &url)?.output(LIMIT)?.success()?;
            let report = output.json().pop().unwrap_or_default();
            assert_eq!(report["bytes"], bytes, "{report}");
            assert_eq!(report["sha256"], pattern::sha256(bytes), "{report}");
        }
        assert_eq!(proxy(&bed, "connections")?, 4);
    }
    Ok(())
}

/// Stops a process, and waits until none of its threads runs.
fn stop(process: &Process) -> Result<()> {
    process.signal(Signal::SIGSTOP);
    let end = Instant::now() + LIMIT;
    loop {
        let mut running = false;
        for task in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
            let status = std::fs::read_to_string(task?.path().join("status"))?;
            running |= !status.contains("State:\tT");
        }
        if !running {
            return Ok(());
        }
        ensure!(Instant::now() < end, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn directions_end_one_by_one_and_resets_are_seen() -> Result<()> {
    let bed = bed("ends", MESH, &[("db", BY_PROXY)])?;
    let mut echoes = echoes(&bed)?;
    let mut raw = RawClient::connect(&bed.client, DB.parse()?)?;
    raw.send("the client has no more to say, and")?;
    raw.shutdown_write()?;
    let said = "v1\nthe client has no more to say, and".to_owned();
    assert_eq!(raw.recv_until_close()?, (said, "eof".to_owned()));

    let mut raw = RawClient::connect(&bed.client, DB.parse()?)?;
    assert_eq!(raw.step(&json!({ "recv": 3 }))?["data"], "v1\n");
    // with an answer that it has not sent
    stop(&echoes[0])?;
    let before = proxy(&bed, "bytes_in")?;
    raw.send("never read")?;
    // a process that dies before the bytes are there ends its connection in order
    wait_until("the bytes are carried", || Ok(proxy(&bed, "bytes_in")? > before))?;
    echoes[0].kill9();
    assert_eq!(raw.recv_until_close()?, (String::new(), "ECONNRESET".to_owned()));
    Ok(())
}

#[test]
fn connections_outlive_the_rules_that_led_them() -> Result<()> {
    let bed = bed("outlive", MESH, &[("db", BY_PROXY)])?;
    let _echoes = echoes(&bed)?;
    let mut raw = RawClient::connect(&bed.client, DB.parse()?)?;
    let mut said = |text: &str| -> Result<String> {
        raw.send(text)?;
        let answer = raw.step(&json!({ "recv": text.len() }))?;
        Ok(answer["data"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(said("be")?, "v1");
    for rules in [BY_PROXY.replace("v1", "v2"), String::new()] {
        let before = bed.generation()?;
        let routes = [("db", rules.as_str())];
        let routes = if rules.is_empty() { &[] } else { &routes[..] };
        bed.write("streams.yaml", &with_routes(routes))?;
        bed.wait_for_generation(before)?;
        assert_eq!(said("more")?.len(), 4);
        if !rules.is_empty() {
            assert_eq!(ping(&bed, DB)?["greeting"], "v2", "new connections go by the new rules");
        }
    }
    assert_eq!(proxy(&bed, "open_connections")?, 1);
    Ok(())
}

#[test]
fn tls_is_routed_by_the_name_that_the_client_asks_for() -> Result<()> {
    let rules = "  tls:\n  - match: [{port: 443, sniHosts: [one.example.com]}]\n    \
                 route: [{destination: {host: shop, subset: v1}}]\n  \
                 - match: [{port: 443, sniHosts: [\"*.two.example.com\"]}]\n    \
                 route: [{destination: {host: shop, subset: v2}}]\n";
    let hosts = "[shop, one.example.com, \"*.two.example.com\"]";
    let bed = bed("tls", MESH, &[])?;
    let before = bed.generation()?;
    bed.write("streams.yaml", &with_routes(&[("shop", rules)]).replace("[shop]", hosts))?;
    bed.wait_for_generation(before)?;
    let _servers = [nginx_tls(&bed.v1, 8443, "v1")?, nginx_tls(&bed.v2, 8443, "v2")?];
    let get = |name: &str| -> Result<String> {
        let (to, url) = (format!("{name}:443:10.96.0.21"), format!("https://{name}/"));
        Ok(curl(&bed.client, &["-sSk", "--resolve", &to, &url])?.success()?.stdout)
    };
    for _ in 0..5 {
        assert_eq!(get("one.example.com")?, "v1\n");
        assert_eq!(get("ONE.example.com")?, "v1\n");
        assert_eq!(get("a.two.example.com")?, "v2\n");
    }
    // no rule holds: the port's own endpoints, also without any name
    let others: Vec<String> = ["three.example.com", "two.example.com"]
        .into_iter()
        .cycle()
        .take(30)
        .map(get)
        .chain((0..10).map(|_| {
            let url = "https://10.96.0.21/";
            Ok(curl(&bed.client, &["-sSk", url])?.success()?.stdout)
        }))
        .collect::<Result<_>>()?;
    for version in ["v1\n", "v2\n"] {
        assert!(others.iter().any(|by| by == version), "{others:?}");
    }
    assert_eq!(proxy(&bed, "connections")?, 55);
    Ok(())
}
