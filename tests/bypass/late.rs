//! Bytes that come to no program's eyes: handed to the kernel before their connection stands, or by
//! several paths.

use std::time::{Duration, Instant};

use anyhow::Result;
use beeway_testbed::{Place, spawn_ready, tcp_echo};
use serde_json::json;

use crate::bed::{Bed, wait_until};
use crate::kit::{
    ALL, Client, NATIVE, SHORTCUT, WEB, apply, asked, assert_not_asked, get, no_admin, only_from,
    policy,
};

/// A send() waits until the connection stands, and goes on as it began: past all programs.
#[test]
fn what_is_sent_before_a_connection_stands_gets_nowhere() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("late", shape, ALL)?;
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        let link =
            |state: &str| bed.node.netns().ip(&format!("link set {} {state}\n", bed.v1.veth()));
        link("down")?;
        assert_eq!(client.order(json!({"late": get("/admin/x"), "to": WEB}))?, "started");
        // it connects, and waits in send()
        std::thread::sleep(Duration::from_millis(100));
        link("up")?;
        // the first segment comes again after a second
        assert_eq!(client.order(json!({"late_done": 10}))?, "sent");
        assert_eq!(client.glimpse()?, "timeout");
        assert_not_asked(&bed, "admin")?;
        // nor what would come behind it
        assert_eq!(client.send("plain", &get("/fine"))?, "EACCES");
        assert!(bed.requests("refused", "unjudged")? >= 1);
        client.connect(WEB)?;
        assert_eq!((client.get("/admin/x")?, client.get("/fine")?), ("403".into(), "200".into()));
        assert_eq!(asked(&bed)?, ["/fine"]);
    }
    Ok(())
}

/// TCP Fast Open (RFC 7413): a send() that connects, with bytes in the first segment or right behind
/// it. Servers have it on their own, where the last digits say so.
#[test]
fn fast_open_brings_nothing_unjudged() -> Result<()> {
    for (shape, mode) in [(NATIVE, "1"), (SHORTCUT, "1543")] {
        let mut bed = Bed::new("fast", shape, ALL)?;
        for pod in [&bed.client, &bed.v1, &bed.v2] {
            pod.netns().sysctl("ipv4/tcp_fastopen", mode)?;
        }
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        for path in ["/fine", "/admin/x"] {
            client.order(json!({"late": get(path), "to": WEB, "fast": "send"}))?;
            // as where Linux does not have it: clients connect first, then
            assert_eq!(client.order(json!({"late_done": 10}))?, "ENOTSUP", "{path}");
        }
        // by an option, connect() returns before there is a segment, once the server is known
        for path in ["/admin/x", "/admin/y"] {
            client.order(json!({"late": get(path), "to": WEB, "fast": "option"}))?;
            client.order(json!({"late_done": 10}))?;
            client.glimpse()?;
        }
        assert_not_asked(&bed, "admin")?;
    }
    Ok(())
}

/// The last segment of a handshake may have bytes. Nobody judges requests yet, so they have to come again.
#[test]
fn bytes_that_come_with_a_handshake_are_judged() -> Result<()> {
    let mut bed = Bed::new("handshake", SHORTCUT, ALL)?;
    bed.record_requests()?;
    apply(&bed, "policy.yaml", &no_admin())?;
    let pod = bed.v1.ip4().to_string();
    let mut outside = Client::start_in(&bed.client, bed.node.plain().path())?;
    for (path, status) in [("/fine", "200"), ("/admin/x", "403")] {
        let began = Instant::now();
        outside.order(json!({"connect": (&pod, 8080), "deferred": true}))?;
        assert_eq!(outside.get(path)?, status);
        assert!(began.elapsed() > Duration::from_millis(150), "{path}: it came at once");
    }
    // who is judged at his own end need not say it twice
    let mut client = Client::start(&bed.client)?;
    client.order(json!({"connect": (&pod, 8080), "deferred": true}))?;
    assert_eq!(client.get("/admin/x")?, "403");
    assert_eq!(asked(&bed)?, ["/fine"]);
    Ok(())
}

/// MPTCP (RFC 8684): no program of the mesh sees what is sent.
#[test]
fn connections_of_several_paths_are_refused_where_requests_matter() -> Result<()> {
    let mut bed = Bed::new("paths", SHORTCUT, ALL)?;
    bed.record_requests()?;
    let _echo = spawn_ready(tcp_echo(&bed.v1, 7007)?)?;
    let (pod, mut client) = (bed.v1.ip4().to_string(), Client::start(&bed.client)?);
    let mut several = |to: (&str, u16)| client.order(json!({"connect": to, "multipath": true}));
    // `web` has rules
    assert_eq!(several(WEB)?, "ECONNREFUSED");
    assert_eq!(bed.counter("connections_multipath")?, 1);
    apply(&bed, "policy.yaml", &no_admin())?;
    for to in [WEB, (&pod, 8080), (&pod, 7007)] {
        assert_eq!(several(to)?, "ECONNREFUSED", "{to:?}");
    }
    // what can be said of a connection is said, then and later
    apply(&bed, "policy.yaml", &only_from("default"))?;
    assert_eq!(several((&pod, 7007))?, "connected");
    assert!(client.echoes()?);
    apply(&bed, "policy.yaml", &policy("nobody", "  action: ALLOW\n"))?;
    wait_until("it is cut off", || client.is_cut_off())?;
    assert_not_asked(&bed, "admin")
}
