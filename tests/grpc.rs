//! gRPC by whole connections: a library of Google on both sides, a real agent between them.

mod bed;

use std::time::Duration;

use anyhow::{Context, Result};
use bed::{Bed, JASON, Shape};
use beeway_testbed::{GrpcClient, Process, grpc_go_calls, grpc_go_server, grpc_server};
use serde_json::{Value, json};

const GREETER: &str = "10.96.0.22:50051";
const GREETER6: &str = "[fd00:96::22]:50051";

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: default}
spec:
  clusterIP: 10.96.0.22
  clusterIPs: [10.96.0.22, "fd00:96::22"]
  selector: {app: web}
  ports:
  - {name: grpc, port: 50051, targetPort: 8090}
---
apiVersion: v1
kind: Service
metadata: {name: nobody-speaks, namespace: default}
spec:
  clusterIP: 10.96.0.23
  selector: {app: web}
  ports:
  - {name: grpc, port: 50051, targetPort: 8091}
---
apiVersion: v1
kind: Service
metadata: {name: gophers, namespace: default}
spec:
  clusterIP: 10.96.0.24
  selector: {app: web}
  ports:
  - {name: grpc, port: 50051, targetPort: 8092}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: greeter, namespace: default}
spec:
  host: greeter
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"#;

/// A mesh in which v1 and v2 serve gRPC. `rules` are those of the greeter's `http`.
struct Greeters {
    bed: Bed,
    servers: Vec<Process>,
}

impl Greeters {
    fn new(label: &str, servers_in_mesh: bool, rules: &str) -> Result<Greeters> {
        let bed = Bed::new(label, Shape { servers_in_mesh }, JASON)?;
        let before = bed.generation()?;
        let mut text = SERVICES.to_owned();
        if !rules.is_empty() {
            text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                     metadata: {name: greeter, namespace: default}\n\
                     spec:\n  hosts: [greeter]\n  http:\n";
            text += rules;
        }
        bed.write("greeter.yaml", &text)?;
        bed.wait_for_generation(before)?;
        let servers = vec![grpc_server(&bed.v1, 8090, "v1")?, grpc_server(&bed.v2, 8090, "v2")?];
        Ok(Greeters { bed, servers })
    }

    fn client(&self, to: &str) -> Result<GrpcClient> {
        GrpcClient::start(&self.bed.client, to.parse()?)
    }

    fn proxy(&self, counter: &str) -> Result<u64> {
        Ok(self.bed.status()?["proxy"][counter].as_u64().unwrap_or_default())
    }
}

/// The code of a call's answer, and what it says.
fn outcome(answer: &Value) -> (&str, &str) {
    (answer["code"].as_str().unwrap_or_default(), answer["details"].as_str().unwrap_or_default())
}

#[test]
fn calls_of_one_channel_are_balanced_one_by_one() -> Result<()> {
    let mut skipped = Vec::new();
    for servers_in_mesh in [false, true] {
        let greeters = Greeters::new("calls", servers_in_mesh, "")?;
        for to in [GREETER, GREETER6] {
            let mut client = greeters.client(to)?;
            let answer = client.call(&json!({"call": "Echo", "body": "hello", "times": 60}))?;
            assert_eq!((outcome(&answer).0, &answer["bodies"]), ("OK", &json!(["hello"])));
            let by = |name: &str| answer["by"][name].as_u64().unwrap_or_default();
            assert_eq!(by("v1") + by("v2"), 60, "{answer}");
            assert!(by("v1") > 10 && by("v2") > 10, "{answer}");
        }
        assert_eq!((greeters.proxy("connections")?, greeters.proxy("requests")?), (2, 120));
        skipped.push(greeters.bed.counter("shortcut_bytes")?);
    }
    // between the proxy and servers of the mesh
    assert!(skipped[0] == 0 && skipped[1] > 120 * 50, "{skipped:?} skipped TCP");
    Ok(())
}

#[test]
fn rules_decide_call_by_call() -> Result<()> {
    let rules = r#"
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: greeter, subset: v2}}]
  - match: [{uri: {exact: /testbed.Peer/Fail}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: greeter, subset: v1}}]
  - match: [{uri: {exact: /testbed.Peer/Hang}}]
    timeout: 0.3s
    route: [{destination: {host: greeter, subset: v1}}]
  - route:
    - {destination: {host: greeter, subset: v1}, headers: {request: {set: {x: y}}}}
"#;
    let greeters = Greeters::new("rules", false, rules)?;
    let mut client = greeters.client(GREETER)?;
    let jason = json!({"end-user": "jason"});
    for _ in 0..5 {
        let answer = client.call(&json!({"call": "Echo"}))?;
        assert_eq!(answer["by"], json!({"v1": 1}), "{answer}");
        let answer = client.call(&json!({"call": "Echo", "metadata": jason}))?;
        assert_eq!(answer["by"], json!({"v2": 1}), "{answer}");
        let answer = client.call(&json!({"call": "Fail", "body": "NOT_FOUND"}))?;
        assert_eq!(outcome(&answer).0, "RESOURCE_EXHAUSTED", "{answer}");
        let answer =
            client.call(&json!({"call": "Fail", "body": "NOT_FOUND", "metadata": jason}))?;
        assert_eq!(outcome(&answer), ("NOT_FOUND", "on purpose"), "{answer}");
    }
    let answer = client.call(&json!({"call": "Hang"}))?;
    assert_eq!(outcome(&answer).0, "UNAVAILABLE", "as Envoy says: {answer}");
    assert_eq!(greeters.proxy("connections")?, 1);
    Ok(())
}

#[test]
fn streams_flow_both_ways() -> Result<()> {
    let greeters = Greeters::new("flow", true, "")?;
    let mut client = greeters.client(GREETER)?;
    let answer = client.call(&json!({"call": "Down", "messages": 200, "size": 100_000}))?;
    assert_eq!(outcome(&answer).0, "OK", "{answer}");
    assert_eq!(answer["bodies"], json!(vec!["100000"; 200]));

    let answer = client.call(&json!({"call": "Up", "messages": 200, "size": 100_000}))?;
    assert_eq!((outcome(&answer).0, &answer["bodies"]), ("OK", &json!(["20000000"])));

    let call = json!({"call": "Chat", "messages": 50, "body": "message "});
    let answer = client.call(&call)?;
    let echoes: Vec<String> = (0..50).map(|n| format!("message {n}")).collect();
    assert_eq!((outcome(&answer).0, &answer["bodies"]), ("OK", &json!(echoes)));

    let answer = client.call(&json!({"call": "Echo", "size": 20_000_000}))?;
    assert_eq!((outcome(&answer).0, &answer["bodies"]), ("OK", &json!(["20000000"])));
    assert_eq!(greeters.proxy("connections")?, 1);
    Ok(())
}

#[test]
fn the_library_of_go_gets_what_it_would_get_without() -> Result<()> {
    for servers_in_mesh in [false, true] {
        let mut greeters = Greeters::new("go", servers_in_mesh, "")?;
        let bed = &greeters.bed;
        let servers = [grpc_go_server(&bed.v1, 8092, "v1")?, grpc_go_server(&bed.v2, 8092, "v2")?];
        greeters.servers.extend(servers);
        let by = grpc_go_calls(&bed.client, "10.96.0.24:50051".parse()?)?;
        assert!(by["v1"] + by["v2"] == 4000 && by["v1"].abs_diff(by["v2"]) < 400, "{by:?}");
        // the rest are calls that fail, streams and what is larger than a window
        let (requests, plain) = (greeters.proxy("requests")?, greeters.proxy("plain")?);
        assert!(requests > plain && plain >= 2000, "{plain} of {requests} the short way");
    }
    Ok(())
}

#[test]
fn what_goes_wrong_is_a_status_of_grpc() -> Result<()> {
    let mut greeters = Greeters::new("wrong", false, "")?;
    let mut client = greeters.client(GREETER)?;
    let answer = client.call(&json!({"call": "Fail", "body": "ALREADY_EXISTS"}))?;
    assert_eq!(outcome(&answer), ("ALREADY_EXISTS", "on purpose"));
    // the server knows the deadline too: where the client is held up, its reset may be there first
    let mut codes = Vec::new();
    while codes.len() < 3 && !codes.contains(&"DEADLINE_EXCEEDED".to_owned()) {
        let answer = client.call(&json!({"call": "Hang", "deadline": 0.3}))?;
        codes.push(outcome(&answer).0.to_owned());
    }
    let last = codes.pop();
    assert_eq!(last.as_deref(), Some("DEADLINE_EXCEEDED"));
    assert!(codes.iter().all(|code| code == "UNAVAILABLE"), "{codes:?}");
    // the channel goes on
    assert_eq!(client.call(&json!({"call": "Echo"}))?["code"], "OK");
    let mut deaf = greeters.client("10.96.0.23:50051")?;
    let answer = deaf.call(&json!({"call": "Echo"}))?;
    assert_eq!(outcome(&answer).0, "UNAVAILABLE");
    assert!(outcome(&answer).1.contains("upstream connect error"), "{answer}");
    // an endpoint that is gone is tried in vain, and the other one instead
    greeters.servers[1].kill9();
    let answer = client.call(&json!({"call": "Echo", "times": 20}))?;
    assert_eq!((outcome(&answer).0, &answer["by"]), ("OK", &json!({"v1": 20})), "{answer}");
    Ok(())
}

#[test]
fn a_channel_outlives_the_agent() -> Result<()> {
    let mut greeters = Greeters::new("agent", true, "")?;
    let mut client = greeters.client(GREETER)?;
    assert_eq!(client.call(&json!({"call": "Echo"}))?["code"], "OK");
    drop(greeters.bed.agent.take());
    let answer = client.call(&json!({"call": "Echo", "deadline": 0.3}))?;
    assert_ne!(answer["code"], "OK");
    greeters.bed.start_agent()?;
    let answer = client.call(&json!({"call": "Echo", "times": 10, "deadline": 20}))?;
    assert_eq!((outcome(&answer).0, answer["by"]["nobody"].as_u64()), ("OK", None), "{answer}");
    Ok(())
}

#[test]
fn no_call_fails_while_another_agent_takes_over() -> Result<()> {
    let mut greeters = Greeters::new("takeover", true, "")?;
    let mut client = greeters.client(GREETER)?;
    assert_eq!(client.call(&json!({"call": "Echo"}))?["code"], "OK");
    let to = GREETER.parse()?;
    let calls = std::thread::scope(|scope| {
        let bed = &mut greeters.bed;
        let next = scope.spawn(|| -> Result<Process> {
            let last = bed.agent.take();
            bed.start_agent()?;
            last.context("an agent runs")
        });
        let mut answers = Vec::new();
        while !next.is_finished() || answers.len() < 20 {
            answers.push(client.call(&json!({"call": "Echo", "times": 20, "deadline": 20}))?);
        }
        let mut last = next.join().expect("no panic")?;
        // what ends is the connection, which had no call under way
        assert!(last.wait(Duration::from_secs(20))?.success());
        answers.push(client.call(&json!({"call": "Echo", "times": 20, "deadline": 20}))?);
        anyhow::Ok(answers)
    })?;
    for answer in &calls {
        assert_eq!((outcome(answer).0, answer["by"]["nobody"].as_u64()), ("OK", None), "{answer}");
    }
    let mut after = GrpcClient::start(&greeters.bed.client, to)?;
    assert_eq!(after.call(&json!({"call": "Echo"}))?["code"], "OK");
    Ok(())
}
