//! Bytes that are handed to the kernel before their connection stands: no program has seen them.

use anyhow::Result;
use beeway_testbed::Place;
use serde_json::json;

use crate::bed::Bed;
use crate::kit::{ALL, Client, NATIVE, SHORTCUT, WEB, apply, assert_not_asked, get, no_admin};

#[test]
fn what_is_sent_before_a_connection_stands_is_judged() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("late", shape, ALL)?;
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        bed.client.netns().ip("neigh flush all\n")?;
        bed.node.netns().ip(&format!("link set {} down\n", bed.v1.veth()))?;
        client.order(json!({ "late": get("/admin/x"), "to": WEB }))?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        bed.node.netns().ip(&format!("link set {} up\n", bed.v1.veth()))?;
        let done = client.order(json!({ "late_done": 5 }))?;
        let answer = client.read()?;
        eprintln!("{done} {answer}");
        assert_not_asked(&bed, &format!("{done} {answer}"));
    }
    Ok(())
}

#[test]
fn fast_open_brings_nothing_unjudged() -> Result<()> {
    for (shape, mode) in [(NATIVE, "1"), (SHORTCUT, "1"), (NATIVE, "1543"), (SHORTCUT, "1543")] {
        let mut bed = Bed::new("fast", shape, ALL)?;
        for pod in [&bed.client, &bed.v1, &bed.v2] {
            pod.netns().sysctl("ipv4/tcp_fastopen", mode)?;
        }
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut client = Client::start(&bed.client)?;
        for _ in 0..2 {
            client.order(json!({ "late": get("/admin/x"), "to": WEB, "fast": true }))?;
            let done = client.order(json!({ "late_done": 5 }))?;
            let answer = client.glimpse()?;
            eprintln!("{mode} {done} {answer}");
            assert_not_asked(&bed, &format!("{done} {answer}"));
        }
    }
    Ok(())
}

#[test]
fn connections_of_several_paths_are_judged() -> Result<()> {
    let mut bed = Bed::new("paths", SHORTCUT, ALL)?;
    bed.record_requests()?;
    apply(&bed, "policy.yaml", &no_admin())?;
    let mut client = Client::start(&bed.client)?;
    let pod = bed.v1.ip4().to_string();
    for to in [WEB, (pod.as_str(), 8080)] {
        let answer = client.order(json!({ "connect": to, "multipath": true }))?;
        eprintln!("{to:?} {answer}");
        if answer == "connected" {
            eprintln!("{}", client.get("/admin/x")?);
        }
    }
    assert_not_asked(&bed, "several paths");
    Ok(())
}
