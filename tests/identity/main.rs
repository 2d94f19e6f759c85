//! Who is taken for whom: processes in cgroups and network namespaces, as the service that they
//! ask sees them.

#[path = "../bed/mod.rs"]
mod bed;
mod kit;

use anyhow::Result;
use beeway_testbed::Place;
use kit::{Bed, Client, Told, WEB};

const UID_A: &str = "0f6a2d11-8f2d-4f2e-9a57-1d0f4b4a3c21";
const UID_B: &str = "6e1b6f0e-30f7-4a2f-8f4e-0a4c8ff4e2bb";
/// As the kubelet names it with systemd's driver, and with its own.
const CGROUP_A: &str = "kubepods.slice/kubepods-pod0f6a2d11_8f2d_4f2e_9a57_1d0f4b4a3c21.slice";
const CGROUP_B: &str = "kubepods/burstable/pod6e1b6f0e-30f7-4a2f-8f4e-0a4c8ff4e2bb";

#[test]
fn a_process_is_known_whenever_it_began() -> Result<()> {
    let mut bed = Bed::new("when")?;
    let (a, b) = (bed.node.pod("a")?, bed.node.pod("b")?);
    bed.tell(&[Told::of("a", &a).uid(UID_A), Told::of("b", &b)])?;
    let in_a = bed.cgroup(&format!("{CGROUP_A}/main"))?;
    let in_b = bed.cgroup("b")?;
    let (mut first, mut second) = (Client::start(&a, &in_a)?, Client::start(&b, &in_b)?);
    bed.start_agent()?;
    // before it: by the path of its cgroup, and by the namespace of its processes
    bed.wait_home("a", 1, 1)?;
    bed.wait_home("b", 1, 1)?;
    // a is not at home in its own namespace alone: nothing says b of a process in its cgroup
    assert_eq!(first.order(&format!("enter {}", b.path().display()))?, "entered");
    for client in [&mut first, &mut second] {
        assert_eq!(client.order(&format!("fork {WEB}"))?, client.ask()?);
    }
    assert_eq!((first.ask()?.as_str(), second.ask()?.as_str()), ("a", "b"));
    // after it
    let mut third = Client::start(&b, &bed.cgroup(&format!("{CGROUP_A}/late"))?)?;
    assert_eq!((third.ask()?.as_str(), third.order(&format!("fork {WEB}"))?.as_str()), ("a", "a"));
    let mapped = third.order("ask ::ffff:10.96.0.10 80")?;
    assert_eq!(mapped, "a");
    Ok(())
}

#[test]
fn who_moves_keeps_the_name_of_his_connections() -> Result<()> {
    let mut bed = Bed::new("moves")?;
    let (a, b) = (bed.node.pod("a")?, bed.node.pod("b")?);
    bed.tell(&[Told::of("a", &a).uid(UID_A), Told::of("b", &b).uid(UID_B)])?;
    bed.start_agent()?;
    let (in_a, in_b) = (bed.cgroup(CGROUP_A)?, bed.cgroup(CGROUP_B)?);
    bed.wait_home("a", 1, 0)?;
    bed.wait_home("b", 1, 0)?;
    let mut client = Client::start(&a, &in_a)?;
    assert_eq!(client.order(&format!("open {WEB}"))?, "a");
    client.move_to(&in_b)?;
    assert_eq!((client.order("again")?.as_str(), client.ask()?.as_str()), ("a", "b"));
    client.move_to(&in_a)?;
    assert_eq!(client.ask()?, "a");
    // out of both: by the namespace that it is in
    client.move_to(bed.node.mesh().path())?;
    bed.wait_home("a", 1, 1)?;
    assert_eq!((client.order("again")?.as_str(), client.ask()?.as_str()), ("a", "a"));
    Ok(())
}

#[test]
fn who_enters_another_namespace_stays_who_he_is() -> Result<()> {
    let mut bed = Bed::new("enters")?;
    let (a, b) = (bed.node.pod("a")?, bed.node.pod("b")?);
    bed.tell(&[Told::of("a", &a), Told::of("b", &b)])?;
    bed.start_agent()?;
    // no UID, no annotation: known by the namespace that its processes were in
    let mut client = Client::start(&a, &bed.cgroup("a")?)?;
    let mut other = Client::start(&b, &bed.cgroup("b")?)?;
    bed.wait_home("a", 1, 1)?;
    bed.wait_home("b", 1, 1)?;
    assert_eq!(client.order(&format!("open {WEB}"))?, "a");
    assert_eq!(client.order(&format!("enter {}", b.path().display()))?, "entered");
    assert_eq!((client.order("again")?.as_str(), client.ask()?.as_str()), ("a", "a"));
    assert_eq!(client.order(&format!("ask {WEB} {}", b.ip4()))?, "a");
    assert_eq!(other.ask()?, "b");
    // who is in no workload's cgroup is whose namespace he is in
    let mut guest = Client::start(&bed.node, bed.node.mesh().path())?;
    assert_eq!(guest.ask()?, "nobody");
    assert_eq!(guest.order(&format!("enter {}", b.path().display()))?, "entered");
    assert_eq!(guest.ask()?, "b");
    Ok(())
}

#[test]
fn pods_of_one_address_are_told_apart() -> Result<()> {
    const SHARED: &str = "10.99.0.1";
    let mut bed = Bed::new("twins")?;
    let (a, b) = (bed.node.pod("a")?, bed.node.pod("b")?);
    let mut servers = Vec::new();
    for pod in [&a, &b] {
        pod.netns().ip(&format!("addr add {SHARED}/32 dev lo\n"))?;
        let server = beeway_testbed::http_server(pod, 8080, "twin")?.plain();
        servers.push(beeway_testbed::spawn_ready(server)?);
    }
    let twins = [Told::at("a", SHARED).uid(UID_A), Told::at("b", SHARED).uid(UID_B)];
    bed.tell_with(&twins, SHARED)?;
    bed.start_agent()?;
    let (in_a, in_b) = (bed.cgroup(CGROUP_A)?, bed.cgroup(CGROUP_B)?);
    bed.wait_home("a", 1, 0)?;
    bed.wait_home("b", 1, 0)?;
    let (mut one, mut two) = (Client::start(&a, &in_a)?, Client::start(&b, &in_b)?);
    // the same four numbers at the same time
    let open = format!("open {WEB} {SHARED} 40000");
    assert_eq!((one.order(&open)?.as_str(), two.order(&open)?.as_str()), ("a", "b"));
    for _ in 0..3 {
        assert_eq!((one.order("again")?.as_str(), two.order("again")?.as_str()), ("a", "b"));
    }
    Ok(())
}

#[test]
fn pods_in_the_nodes_namespace_are_told_apart() -> Result<()> {
    let mut bed = Bed::new("host")?;
    let host = |name, uid, cgroup| Told {
        host_network: true,
        uid,
        cgroup,
        ..Told::at(name, &bed.node.ip4().to_string())
    };
    bed.tell(&[host("a", Some(UID_A), None), host("b", None, Some("services/b.service"))])?;
    bed.start_agent()?;
    let in_a = bed.cgroup(&format!("{CGROUP_A}/main"))?;
    let in_b = bed.cgroup("services/b.service/payload")?;
    bed.wait_home("a", 1, 0)?;
    bed.wait_home("b", 1, 0)?;
    for (cgroup, name) in [
        (in_a.as_path(), "a"),
        (&in_b, "b"),
        (bed.node.mesh().path(), "nobody"),
        (&bed.cgroup("services")?, "nobody"),
    ] {
        let mut client = Client::start(&bed.node, cgroup)?;
        assert_eq!(client.ask()?, name, "{}", cgroup.display());
        assert_eq!(client.order("ask ::ffff:10.96.0.10 80")?, name);
        assert_eq!(client.order(&format!("detour {WEB}"))?, name);
    }
    Ok(())
}

#[test]
fn a_foreign_address_makes_nobody_another() -> Result<()> {
    const ELSEWHERE: &str = "10.244.0.201";
    const NEXT_DOOR: &str = "10.244.0.202";
    let mut bed = Bed::new("forger")?;
    let (a, stranger) = (bed.node.pod("a")?, bed.node.pod("stranger")?);
    for address in [ELSEWHERE, NEXT_DOOR] {
        // answers find their way to whoever is asked for it first, on the bridge
        stranger.netns().ip(&format!("addr add {address}/32 dev lo\n"))?;
    }
    let away = |node| Told { node: Some(node), ..Told::at("away", ELSEWHERE) };
    let all = |node| [Told::of("a", &a), away(node), Told::at("b", NEXT_DOOR).uid(UID_B)];
    bed.tell(&all("node-1"))?;
    bed.start_agent()?;
    let mut forger = Client::start(&stranger, &bed.cgroup("stranger")?)?;
    let from = |address: &str| format!("ask {WEB} {address}");
    // nobody is at home anywhere: an address is all that there is
    assert_eq!(forger.ask()?, "nobody");
    assert_eq!(forger.order(&from(ELSEWHERE))?, "away");
    assert_eq!(forger.order(&from(NEXT_DOOR))?, "b");
    // one is on another node, the other in a cgroup of this one
    bed.cgroup(CGROUP_B)?;
    bed.wait_home("b", 1, 0)?;
    assert_eq!(forger.order(&from(NEXT_DOOR))?, "nobody");
    bed.tell_again(&all("node-2"))?;
    bed::wait_until("away is away", || Ok(forger.order(&from(ELSEWHERE))? == "nobody"))?;
    for address in [ELSEWHERE, NEXT_DOOR] {
        assert_eq!(forger.order(&format!("detour {WEB} {address}"))?, "nobody");
    }
    // and when it is gone, its address is its own again
    std::fs::remove_dir(bed.node.mesh().path().join(CGROUP_B))?;
    bed.wait_home("b", 0, 0)?;
    assert_eq!(forger.order(&from(NEXT_DOOR))?, "b");
    Ok(())
}

#[test]
fn pods_come_and_go() -> Result<()> {
    let mut bed = Bed::new("come")?;
    let a = bed.node.pod("a")?;
    bed.tell(&[Told::of("other", &a)])?;
    bed.start_agent()?;
    let cgroup = bed.cgroup(CGROUP_B)?;
    let mut client = Client::start(&a, &cgroup)?;
    assert_eq!(client.ask()?, "other");
    // the configuration comes after the process
    bed.tell_again(&[Told::of("other", &a), Told::at("b", "10.244.0.202").uid(UID_B)])?;
    bed.wait_home("b", 1, 0)?;
    assert_eq!(client.ask()?, "b");
    // a pod without an address yet is somebody, and stays so when it has one
    let no_address = Told { name: "b", uid: Some(UID_B), ..Told::default() };
    bed.tell_again(&[no_address])?;
    assert_eq!(client.order(&format!("open {WEB}"))?, "b");
    bed.tell_again(&[Told::at("b", "10.244.0.202").uid(UID_B)])?;
    assert_eq!((client.order("again")?.as_str(), client.ask()?.as_str()), ("b", "b"));
    // another agent finds what there is
    drop(bed.agent.take());
    bed.start_agent()?;
    assert_eq!((client.order("again")?.as_str(), client.ask()?.as_str()), ("b", "b"));
    bed.tell_again(&[Told::of("other", &a)])?;
    bed.wait_home("b", 0, 0)?;
    assert_eq!(client.ask()?, "other");
    Ok(())
}

#[test]
fn a_new_pod_is_known_at_once() -> Result<()> {
    const PODS: usize = 100;
    let mut bed = Bed::new("many")?;
    // names live as long as the test
    let name = |n: usize| -> &'static str { Box::leak(format!("p{n}").into_boxed_str()) };
    let told = |n: usize| Told::at(name(n), &format!("10.244.9.{n}")).uid(name(n));
    bed.tell(&(0..PODS).map(told).collect::<Vec<_>>())?;
    bed.start_agent()?;
    let mut processes = Vec::new();
    for n in 0..PODS {
        let cgroup = bed.cgroup(&format!("kubepods/podp{n}/main"))?;
        processes.push(bed.node.command("sleep").arg("1000").cgroup(cgroup).spawn()?);
    }
    bed::wait_until("all are at home", || {
        Ok(bed.status()?["homes"]["cgroups"].as_u64() == Some(PODS as u64))
    })?;
    let homes = bed.status()?["homes"].take();
    let of = |key: &str| homes[key].as_f64().unwrap_or(f64::INFINITY);
    eprintln!("{PODS} pods: slowest known after {:.2} ms", of("slowest_ms"));
    // generous: it takes a fraction of a millisecond where there is a CPU for it
    assert!(of("slowest_ms") < 400.0, "{homes:#}");
    assert_eq!(homes["told"].as_bool(), Some(true));
    // another configuration has all of them looked at
    bed.tell_again(&(1..PODS).map(told).collect::<Vec<_>>())?;
    bed.wait_home("p0", 0, 0)?;
    eprintln!("all looked at in {} ms", bed.status()?["homes"]["survey_ms"]);
    // gone before they are looked at again
    drop(processes);
    for n in 0..PODS {
        let pod = bed.node.mesh().path().join(format!("kubepods/podp{n}"));
        bed::wait_until("it is empty", || Ok(std::fs::remove_dir(pod.join("main")).is_ok()))?;
        std::fs::remove_dir(pod)?;
    }
    bed::wait_until("none is at home", || Ok(bed.status()?["homes"]["cgroups"].as_u64() == Some(0)))
}

#[test]
fn where_the_kernel_does_not_tell_pods_are_found_too() -> Result<()> {
    let mut bed = Bed::new("blind")?;
    let (a, b) = (bed.node.pod("a")?, bed.node.pod("b")?);
    bed.tell(&[Told::of("a", &a).uid(UID_A), Told::of("b", &b)])?;
    bed.start_blind_agent()?;
    assert_eq!(bed.status()?["homes"]["told"].as_bool(), Some(false));
    let mut first = Client::start(&b, &bed.cgroup(CGROUP_A)?)?;
    let mut second = Client::start(&b, &bed.cgroup("b")?)?;
    bed.wait_home("a", 1, 0)?;
    bed.wait_home("b", 1, 1)?;
    assert_eq!((first.ask()?.as_str(), second.ask()?.as_str()), ("a", "b"));
    drop(first);
    bed::wait_until("it is empty", || {
        Ok(std::fs::remove_dir(bed.node.mesh().path().join(CGROUP_A)).is_ok())
    })?;
    bed.wait_home("a", 0, 0)
}

#[test]
fn policies_ask_who_runs_there() -> Result<()> {
    let mut bed = Bed::new("policy")?;
    let stranger = bed.node.pod("stranger")?;
    let host = |name, uid| Told { host_network: true, ..Told::at(name, "10.244.0.1").uid(uid) };
    let forged = Told::at("c", "10.244.0.203");
    stranger.netns().ip("addr add 10.244.0.203/32 dev lo\n")?;
    bed.tell(&[host("a", UID_A), host("b", UID_B), forged, Told::of("server", &bed.server)])?;
    std::fs::write(
        bed.config.path().join("policy.yaml"),
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: server, namespace: default}\n\
         spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
         ingress: [{from: [{podSelector: {matchExpressions: \
         [{key: app, operator: In, values: [a, c]}]}}]}]}\n",
    )?;
    bed.start_agent()?;
    let (in_a, in_b) = (bed.cgroup(CGROUP_A)?, bed.cgroup(CGROUP_B)?);
    bed.wait_home("a", 1, 0)?;
    bed.wait_home("b", 1, 0)?;
    // both have the node's address
    let (mut one, mut two) = (Client::start(&bed.node, &in_a)?, Client::start(&bed.node, &in_b)?);
    assert_eq!(one.ask()?, "a");
    assert!(two.ask()?.contains("Connection refused"));
    one.move_to(&in_b)?;
    assert!(one.ask()?.contains("Connection refused"));
    // c may call, until it is at home where the stranger is not
    let mut three = Client::start(&stranger, &bed.cgroup("stranger")?)?;
    assert_eq!(three.order(&format!("ask {WEB} 10.244.0.203"))?, "c");
    three.order(&format!("open {WEB} 10.244.0.203"))?;
    let straight = format!("ask {} 8080 10.244.0.203", bed.server.ip4());
    assert!(!three.order(&straight)?.contains("refused"));
    let away = Told { node: Some("node-2"), ..Told::at("c", "10.244.0.203") };
    bed.tell_again(&[host("a", UID_A), host("b", UID_B), away, Told::of("server", &bed.server)])?;
    bed::wait_until("c is away", || {
        Ok(three.order(&format!("ask {WEB} 10.244.0.203"))?.contains("Connection refused"))
    })?;
    assert!(three.order(&straight)?.contains("Connection refused"));
    Ok(())
}
