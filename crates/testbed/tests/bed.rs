//! Nodes, pods, processes: that they work, and that nothing is left of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use beeway_testbed::{Node, Place, Pod, PodOptions};

const SOON: Duration = Duration::from_secs(5);

fn exchange(client: &Pod, server: &Pod, address: SocketAddr) {
    let listener = server.run_in(|| TcpListener::bind(address)).expect("thread").expect("bind");
    let to = listener.local_addr().expect("address");
    let mut out = client.run_in(|| TcpStream::connect(to)).expect("thread").expect("connect");
    let (mut accepted, from) = listener.accept().expect("accept");
    out.write_all(b"hello").expect("write");
    drop(out);
    let mut text = String::new();
    accepted.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    let expected = if to.is_ipv4() { client.addr4(0).ip() } else { client.addr6(0).ip() };
    assert_eq!(from.ip(), expected);
}

#[test]
fn pods_reach_each_other() {
    let node = Node::new("reach").expect("node");
    let (a, b) = (node.pod("a").expect("pod"), node.pod("b").expect("pod"));
    let started = Instant::now();
    exchange(&a, &b, b.addr4(0));
    exchange(&a, &b, b.addr6(0));
    exchange(&b, &a, a.addr6(0));
    // Nothing waits for ARP, neighbour discovery or duplicate address detection to retry.
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[test]
fn pods_can_be_given_addresses() {
    let node = Node::new("given").expect("node");
    let given = |four: &str, six: &str| PodOptions {
        addresses: Some((four.parse().expect("IPv4"), six.parse().expect("IPv6"))),
        ..PodOptions::default()
    };
    let a = node.pod_with("a", given("10.244.0.31", "fd00:be::31")).expect("pod");
    let b = node.pod_with("b", given("10.244.0.10", "fd00:be::10")).expect("pod");
    assert_eq!(a.addr4(80).to_string(), "10.244.0.31:80");
    assert_eq!(a.addr6(80).to_string(), "[fd00:be::31]:80");
    exchange(&a, &b, b.addr4(0));
    exchange(&a, &b, b.addr6(0));
    for (four, six) in [
        ("10.244.0.31", "fd00:be::40"), // of another pod
        ("10.244.0.1", "fd00:be::41"),  // of the bridge
        ("10.244.1.42", "fd00:be::42"), // not in the subnets
        ("10.244.0.43", "fd00:bf::43"),
    ] {
        assert!(node.pod_with("c", given(four, six)).is_err(), "{four} {six}");
    }
}

#[test]
fn node_and_pod_reach_each_other() {
    let node = Node::new("kubelet").expect("node");
    let pod = node.pod("a").expect("pod");
    let listener = pod.run_in(|| TcpListener::bind(pod.addr4(0))).expect("thread").expect("bind");
    let to = listener.local_addr().expect("address");
    node.run_in(|| TcpStream::connect(to)).expect("thread").expect("connect");
}

#[test]
fn addresses_without_an_owner_fail_soon() {
    let node = Node::new("void").expect("node");
    let pod = node.pod("a").expect("pod");
    let started = Instant::now();
    let connected = pod.run_in(|| TcpStream::connect("10.96.0.1:80")).expect("thread");
    assert!(connected.is_err());
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn cleanup_leaves_nothing() {
    let node = Node::new("clean").expect("node");
    let pod = node.pod("a").expect("pod");
    // Neither dropped nor in the pod's hands: it escapes by forking away from its parent.
    let stray = pod.command("sh").args(["-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"]);
    let stray = stray.output(SOON).expect("sh").stdout.trim().to_owned();
    assert!(node.mesh().pids().expect("pids").contains(&stray.parse().expect("a pid")));
    let nested = node.mesh().path().join("nested");
    std::fs::create_dir(&nested).expect("a cgroup below");
    let process = pod.command("sleep").arg("1000").cgroup(&nested).spawn().expect("sleep");
    let made = [pod.path(), node.netns().path(), node.mesh().path().to_owned(), nested];
    assert!(made.iter().all(|path| path.exists()));
    let parent = node.cgroup().path().to_owned();
    drop((node, pod));
    for path in made {
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert!(!parent.exists());
    let state = std::fs::read_to_string(format!("/proc/{stray}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z"), "the stray process lives: {state}");
    drop(process);
}

#[test]
fn panic_leaves_nothing() {
    let panic = std::thread::spawn(|| {
        let node = Node::new("panic").expect("node");
        let pod = node.pod("a").expect("pod");
        let _process = pod.command("sleep").arg("1000").spawn().expect("sleep");
        std::panic::panic_any((node.cgroup().path().to_owned(), pod.path()));
    });
    let paths = panic.join().expect_err("a panic");
    let paths = paths.downcast::<(std::path::PathBuf, std::path::PathBuf)>().expect("paths");
    assert!(!paths.0.exists() && !paths.1.exists());
}

#[test]
fn sweep_spares_the_living_and_removes_the_dead() {
    let node = Node::new("living").expect("node");
    let dead = std::process::Command::new("true").spawn().and_then(|mut child| {
        child.wait()?;
        Ok(child.id())
    });
    let name = format!("bw{}-0-dead", dead.expect("true"));
    let added = std::process::Command::new("ip").args(["netns", "add", &name]).status();
    assert!(added.expect("ip").success());
    let cgroup = node.cgroup().path().parent().expect("root").join(&name);
    std::fs::create_dir_all(cgroup.join("mesh")).expect("cgroup");
    // one that nobody has waited for is dead too
    let mut unwaited = std::process::Command::new("true").spawn().expect("true");
    let stat = format!("/proc/{}/stat", unwaited.id());
    while !std::fs::read_to_string(&stat).expect("its state").contains(") Z") {
        std::thread::sleep(Duration::from_millis(1));
    }
    let state = std::env::temp_dir().join(format!("bw{}-0-dead/state", unwaited.id()));
    std::fs::create_dir_all(&state).expect("state");
    let mounted =
        std::process::Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&state).status();
    assert!(mounted.expect("mount").success());
    // Another test's first node may sweep at the same time: what counts is that it is gone.
    beeway_testbed::sweep().expect("sweep");
    assert!(!cgroup.exists());
    assert!(!state.parent().expect("its directory").exists());
    unwaited.wait().expect("true");
    assert!(!Path::new("/run/netns").join(&name).exists());
    assert!(node.netns().path().exists() && node.mesh().path().exists());
}

#[test]
fn processes_run_where_they_are_told() {
    let node = Node::new("where").expect("node");
    let pod = node.pod("a").expect("pod");
    let outside = node.plain_pod("b").expect("pod");
    let cgroup_of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
        text.lines().find_map(|line| line.strip_prefix("0::")).expect("v2").to_owned()
    };
    let sleep = |command: beeway_testbed::Command| command.arg("1000").spawn().expect("sleep");
    let name = node.name();
    for (process, cgroup) in [
        (sleep(pod.command("sleep")), "mesh"),
        (sleep(pod.command("sleep").plain()), "plain"),
        (sleep(outside.command("sleep")), "plain"),
        (sleep(outside.command("sleep").mesh()), "mesh"),
        (sleep(node.command("sleep")), "plain"),
    ] {
        assert!(cgroup_of(process.pid()).ends_with(&format!("{name}/{cgroup}")));
    }
    let pinned = sleep(pod.command("sleep").cpu(0));
    let status = std::fs::read_to_string(format!("/proc/{}/status", pinned.pid())).expect("status");
    assert!(status.contains("Cpus_allowed_list:\t0\n"));
    let in_pod = std::fs::read_link(format!("/proc/{}/ns/net", pinned.pid())).expect("ns");
    let here = pod.run_in(|| std::fs::read_link("/proc/thread-self/ns/net")).expect("thread");
    assert_eq!(in_pod, here.expect("ns"));
    assert_eq!(
        std::fs::read_link(format!("/proc/{}/ns/mnt", pinned.pid())).expect("ns"),
        std::fs::read_link("/proc/self/ns/mnt").expect("ns")
    );
}

#[test]
fn processes_speak_end_and_are_measured() {
    let node = Node::new("process").expect("node");
    let mut cat = node.command("cat").spawn().expect("cat");
    cat.write_line("one").expect("write");
    cat.write_line("two").expect("write");
    assert_eq!(cat.next_line(SOON).expect("line"), "one");
    assert_eq!(cat.wait_for_line("tw", SOON).expect("line"), "two");
    assert!(cat.wait_for_line("three", Duration::from_millis(20)).is_err());
    assert!(cat.is_running());
    cat.terminate(SOON).expect("end");
    assert!(!cat.is_running());

    let failed = node.command("sh").args(["-c", "echo out; echo err >&2; exit 3"]);
    let failed = failed.output(SOON).expect("sh");
    assert_eq!(
        (failed.status.code(), &*failed.stdout, &*failed.stderr),
        (Some(3), "out\n", "err\n")
    );
    let late = node.command("sleep").arg("1000").output(Duration::from_millis(20));
    assert!(late.expect_err("a time-out").to_string().contains("still running"));

    let spin = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo done; cat";
    let spin = node.command("sh").args(["-c", &format!("sh -c '{spin}'; cat")]);
    let spin = spin.spawn().expect("sh");
    spin.wait_for_line("done", SOON).expect("done");
    assert!(spin.cpu_time().expect("time") > Duration::from_millis(5));
    assert!(node.plain().cpu_time().expect("time") > Duration::from_millis(5));
    let pid = spin.pid();
    drop(spin);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn children_outlive_the_thread_that_started_them() {
    let node = Node::new("thread").expect("node");
    let cat = std::thread::scope(|scope| {
        scope.spawn(|| node.command("cat").spawn()).join().expect("thread")
    });
    let mut cat = cat.expect("cat");
    cat.write_line("alive").expect("write");
    assert_eq!(cat.next_line(SOON).expect("line"), "alive");
}

#[test]
fn pods_are_cheap_and_differ() {
    let node = Node::new("many").expect("node");
    let started = Instant::now();
    let pods: Vec<_> = (0..10).map(|n| node.pod(&format!("p{n}")).expect("pod")).collect();
    eprintln!("{:?} a pod", started.elapsed() / 10);
    let jumbo = node
        .pod_with("jumbo", PodOptions { mtu: 9000, mesh: true, ..PodOptions::default() })
        .expect("pod");
    let mtu = jumbo.command("cat").arg("/proc/self/net/route").output(SOON).expect("route");
    assert!(mtu.stdout.contains("eth0"));
    assert_ne!(pods[0].ip4(), pods[9].ip4());
    exchange(&pods[0], &pods[9], pods[9].addr4(0));
}
