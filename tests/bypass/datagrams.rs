//! Datagrams, and addresses in other guises.

use anyhow::Result;
use beeway_testbed::{Place, Process, spawn_ready, tcp_echo, udp_echo};
use serde_json::json;

use crate::bed::{Bed, Shape, wait_until};
use crate::kit::{
    ALL, Client, NATIVE, NEVER, SHORTCUT, apply, asked, assert_not_asked, no_admin, only_from,
    policy,
};

const ECHO: u16 = 7007;
/// The service `raw`: echoes of datagrams.
const SERVICE: (&str, u16) = ("10.96.0.12", 7);

fn nobody() -> String {
    policy("nobody", "  action: ALLOW\n")
}

fn bed(label: &str, shape: Shape) -> Result<(Bed, Vec<Process>)> {
    let mut bed = Bed::new(label, shape, ALL)?;
    bed.record_requests()?;
    let mut echoes = Vec::new();
    for pod in [&bed.v1, &bed.v2] {
        echoes.push(spawn_ready(udp_echo(pod, ECHO)?)?);
        echoes.push(spawn_ready(tcp_echo(pod, ECHO)?)?);
    }
    Ok((bed, echoes))
}

#[test]
fn datagrams_are_judged_by_whatever_socket_they_go() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let (bed, _echoes) = bed("datagrams", shape)?;
        let pod = bed.v1.ip4().to_string();
        let (mapped, service) = (format!("::ffff:{pod}"), format!("::ffff:{}", SERVICE.0));
        let (pod6, port) = (bed.v1.ip6().to_string(), ECHO);
        let places = [SERVICE, (&service, 7), (&pod, port), (&mapped, port), (&pod6, port)];
        let mut client = Client::start(&bed.client)?;
        let mut early = Client::start(&bed.client)?;
        for to in places {
            for connected in [false, true] {
                let order = json!({"datagram": to, "connected": connected});
                assert_eq!(client.order(order)?, "ping", "{to:?}");
            }
        }
        let connected = json!({"datagram": [&pod, port], "connected": true});
        let again = json!({"datagram": [&pod, port], "connected": true, "again": true});
        assert_eq!(early.order(connected)?, "ping");
        assert_eq!(early.order(again.clone())?, "ping");
        apply(&bed, "policy.yaml", &nobody())?;
        for to in places {
            for connected in [false, true] {
                let order = json!({"datagram": to, "connected": connected});
                assert_eq!(client.order(order)?, "ECONNREFUSED", "{to:?}, {connected}");
            }
        }
        // by a socket that was connected before there was a policy
        let mut again = again;
        again["wait"] = json!(NEVER);
        assert_ne!(early.order(again)?, "ping");
    }
    Ok(())
}

/// What a guarded workload has asked for is no call to it.
#[test]
fn answers_to_datagrams_of_a_guarded_workload_come_in() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let (bed, _echoes) = bed("answers", shape)?;
        let pod = bed.v1.ip4().to_string();
        let mut client = Client::start(&bed.client)?;
        apply(&bed, "policy.yaml", &nobody().replace("app: web", "app: client"))?;
        for to in [SERVICE, (&pod, ECHO)] {
            for connected in [false, true] {
                let order = json!({"datagram": to, "connected": connected});
                assert_eq!(client.order(order)?, "ping", "{to:?}, {connected}");
            }
        }
    }
    Ok(())
}

#[test]
fn mapped_addresses_are_judged_as_what_they_are() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let (bed, _echoes) = bed("mapped", shape)?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        let (service, pod) = ("::ffff:10.96.0.10", format!("::ffff:{}", bed.v1.ip4()));
        for to in [(service, 80), (&pod, 8080)] {
            client.connect(to)?;
            assert_eq!(client.get("/fine")?, "200", "{to:?}");
            assert_eq!(client.get("/admin/x")?, "403", "{to:?}");
            assert_eq!(client.get("/x/../admin")?, "403", "{to:?}");
        }
        assert_eq!(client.connect((&pod, ECHO))?, "ECONNREFUSED");
        assert_not_asked(&bed, "admin")?;
        assert_eq!(asked(&bed)?, ["/fine", "/fine"]);
    }
    Ok(())
}

/// Who has called may not go on because he was answered.
#[test]
fn an_answer_lets_nobody_in_for_good() -> Result<()> {
    let (bed, _echoes) = bed("callers", SHORTCUT)?;
    let pod = bed.v1.ip4().to_string();
    let mut outside = Client::start_in(&bed.client, bed.node.plain().path())?;
    apply(&bed, "policy.yaml", &only_from("default"))?;
    assert_eq!(outside.order(json!({"datagram": [&pod, ECHO]}))?, "ping");
    let again = json!({"datagram": [&pod, ECHO], "again": true});
    assert_eq!(outside.order(again)?, "ping");
    apply(&bed, "policy.yaml", &nobody())?;
    let late = json!({"datagram": [&pod, ECHO], "again": true, "wait": NEVER});
    assert_eq!(outside.order(late)?, "timeout");
    Ok(())
}

/// Raw sockets are not looked at outside of the mesh: there the receiver looks.
#[test]
fn datagrams_made_by_hand_are_judged_where_they_come_in() -> Result<()> {
    let (bed, _echoes) = bed("raw", SHORTCUT)?;
    let (pod, own) = (bed.v1.ip4().to_string(), bed.client.ip4().to_string());
    let mut outside = Client::start_in(&bed.client, bed.node.plain().path())?;
    let order = json!({"datagram": [pod, ECHO], "source": own});
    apply(&bed, "policy.yaml", &nobody())?;
    let before = bed.counter("connections_denied")?;
    assert_eq!(outside.order(order.clone())?, "sent");
    wait_until("it is dropped", || Ok(bed.counter("connections_denied")? > before))?;
    assert_eq!(Client::start(&bed.client)?.order(order)?, "EPERM");
    Ok(())
}

/// The same policies, on the service `raw` instead of pods.
fn on_raw(policy: &str) -> String {
    let named = "targetRefs: [{kind: Service, group: '', name: raw}]";
    policy.replace("selector: {matchLabels: {app: web}}", named)
}

#[test]
fn policies_on_services_hold_for_who_comes_straight() -> Result<()> {
    let (bed, _echoes) = bed("by-name", SHORTCUT)?;
    let (pod, pod6) = (bed.v1.ip4().to_string(), bed.v1.ip6().to_string());
    let mut outside = Client::start_in(&bed.client, bed.node.plain().path())?;
    for (policy, heard) in [(only_from("default"), true), (nobody(), false)] {
        apply(&bed, "policy.yaml", &on_raw(&policy))?;
        for to in [&pod, &pod6] {
            let wait = if heard { 5.0 } else { NEVER };
            let datagram = json!({"datagram": [to, ECHO], "wait": wait});
            let connect = json!({"connect": [to, ECHO], "wait": wait});
            let answers = [outside.order(datagram)?, outside.order(connect)?];
            let wanted = if heard { ["ping", "connected"] } else { ["timeout"; 2] };
            assert_eq!(answers, wanted, "{to}");
            // another service has that port
            assert_eq!(outside.connect((to, 8080))?, "connected", "{to}");
        }
    }
    Ok(())
}

/// Who calls another service is not bound by policies on this one, whoever serves both.
#[test]
fn policies_on_a_service_hold_for_no_other() -> Result<()> {
    let (bed, _echoes) = bed("other", SHORTCUT)?;
    let other = "---\napiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: default}\n\
                 spec:\n  clusterIP: 10.96.0.14\n  selector: {app: web, version: v1}\n  \
                 ports: [{name: udp-echo, port: 9, protocol: UDP, targetPort: 7007}]\n";
    apply(&bed, "other.yaml", other)?;
    let mut client = Client::start(&bed.client)?;
    let mut early = Client::start(&bed.client)?;
    let ping = |to: (&str, u16), connected: bool, again: bool, wait: f64| json!({"datagram": to, "connected": connected, "again": again, "wait": wait});
    let other = ("10.96.0.14", 9);
    assert_eq!(client.order(ping(other, true, false, 5.0))?, "ping");
    assert_eq!(early.order(ping(SERVICE, true, false, 5.0))?, "ping");
    apply(&bed, "policy.yaml", &on_raw(&nobody()))?;
    assert_eq!(client.order(ping(other, true, true, 5.0))?, "ping", "a socket from before");
    assert_eq!(early.order(ping(SERVICE, true, true, NEVER))?, "EPERM", "a socket from before");
    for connected in [false, true] {
        for (to, heard) in [(other, "ping"), (SERVICE, "ECONNREFUSED")] {
            let answer = client.order(ping(to, connected, false, 5.0))?;
            assert_eq!(answer, heard, "{to:?}, {connected}");
        }
    }
    let mut itself = Client::start(&bed.v1)?;
    for connected in [false, true] {
        assert_eq!(itself.order(ping(other, connected, false, 5.0))?, "ping", "by loopback");
    }
    let pod = bed.v1.ip4().to_string();
    assert_eq!(client.order(ping((&pod, ECHO), false, false, 5.0))?, "ECONNREFUSED", "straight");
    Ok(())
}

/// A server that calls others by the port that it serves.
#[test]
fn answers_come_to_a_port_that_is_a_service() -> Result<()> {
    const PORT: u16 = 5000;
    let (bed, _echoes) = bed("peers", SHORTCUT)?;
    let peers = "apiVersion: v1\nkind: Service\nmetadata: {name: peers, namespace: default}\n\
                 spec:\n  clusterIP: 10.96.0.15\n  selector: {app: client}\n  \
                 ports: [{name: udp, port: 5000, protocol: UDP}]\n";
    apply(&bed, "peers.yaml", peers)?;
    let nobody = nobody().replace(
        "selector: {matchLabels: {app: web}}",
        "targetRefs: [{kind: Service, group: '', name: peers}]",
    );
    apply(&bed, "policy.yaml", &nobody)?;
    let (pod, own) = (bed.v1.ip4().to_string(), bed.client.ip4().to_string());
    let mut client = Client::start(&bed.client)?;
    for to in [(&*pod, ECHO), SERVICE] {
        assert_eq!(client.order(json!({"datagram": to, "port": PORT}))?, "ping", "{to:?}");
    }
    // who has not been asked may not call
    for to in [(&*own, PORT), ("10.96.0.15", PORT)] {
        let order = json!({"datagram": to, "wait": NEVER});
        assert_eq!(Client::start(&bed.v2)?.order(order)?, "ECONNREFUSED", "{to:?}");
    }
    Ok(())
}

/// Options in front of the header of TCP hide what is called: closed, where policies are about it.
#[test]
fn what_hides_behind_options_does_not_come_in() -> Result<()> {
    let (bed, _echoes) = bed("options", SHORTCUT)?;
    let pod = bed.v1.ip6().to_string();
    let mut outside = Client::start_in(&bed.client, bed.node.plain().path())?;
    let padded = |wait: f64| json!({"connect": [&pod, ECHO], "padded": true, "wait": wait});
    assert_eq!(outside.order(padded(5.0))?, "connected");
    assert!(outside.echoes()?);
    for policy in [only_from("elsewhere"), on_raw(&only_from("elsewhere"))] {
        apply(&bed, "policy.yaml", &policy)?;
        assert!(outside.is_cut_off()?, "{policy}");
        assert_eq!(outside.order(padded(NEVER))?, "timeout", "{policy}");
        std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
        wait_until("it is open again", || Ok(outside.order(padded(NEVER))? == "connected"))?;
    }
    Ok(())
}

/// A NetworkPolicy about these pods, by their label `app`.
fn network(app: &str, types: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: closed, namespace: default}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [{types}]}}\n"
    )
}

/// SCTP and what is made by hand leave by no connect().
#[test]
fn whatever_the_protocol_who_may_not_call_does_not() -> Result<()> {
    const SCTP: u8 = 132;
    let (bed, _echoes) = bed("by-hand", NATIVE)?;
    let (pod, own) = (bed.v1.ip4().to_string(), bed.client.ip4().to_string());
    let mut client = Client::start(&bed.client)?;
    for (policy, answer) in [(None, "sent"), (Some(network("client", "Egress")), "EPERM")] {
        if let Some(policy) = policy {
            apply(&bed, "policy.yaml", &policy)?;
        }
        for protocol in [6, 17, SCTP] {
            let order = json!({"datagram": [&pod, ECHO], "source": own, "protocol": protocol});
            assert_eq!(client.order(order)?, answer, "{protocol}");
        }
    }
    Ok(())
}

/// An answer is no call.
#[test]
fn who_may_not_call_may_answer() -> Result<()> {
    let (bed, _echoes) = bed("server", SHORTCUT)?;
    apply(&bed, "policy.yaml", &network("web", "Egress"))?;
    let pod = bed.v1.ip4().to_string();
    for mut client in
        [Client::start(&bed.client)?, Client::start_in(&bed.client, bed.node.plain().path())?]
    {
        for connected in [false, true] {
            let order = json!({"datagram": [&pod, ECHO], "connected": connected});
            assert_eq!(client.order(order)?, "ping", "{connected}");
        }
    }
    let other = json!({"datagram": [bed.v2.ip4().to_string(), ECHO]});
    assert_eq!(Client::start(&bed.v1)?.order(other)?, "ECONNREFUSED");
    Ok(())
}

/// No NetworkPolicy keeps a pod from itself.
#[test]
fn nobody_is_kept_from_himself() -> Result<()> {
    let (bed, _echoes) = bed("himself", SHORTCUT)?;
    apply(&bed, "policy.yaml", &network("web", "Ingress, Egress"))?;
    let (own, other) = (bed.v1.ip4().to_string(), bed.v2.ip4().to_string());
    let mut client = Client::start(&bed.v1)?;
    for (to, answer) in [(&own, "connected"), (&other, "ECONNREFUSED")] {
        assert_eq!(client.connect((to, ECHO))?, answer, "{to}");
    }
    client.connect((&own, ECHO))?;
    assert!(client.echoes()?);
    assert_eq!(client.order(json!({"datagram": [&own, ECHO]}))?, "ping");
    client.connect((&own, 8080))?;
    assert_eq!(client.get("/mine")?, "200");
    Ok(())
}
