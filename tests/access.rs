//! Who may call whom, with real traffic through the real kernel: requests that are answered 403 where
//! they are sent, connections that are refused, and ways around.

mod bed;

use std::time::Instant;

use anyhow::{Result, ensure};
use bed::{Bed, LIMIT, Shape, WEB, wait_until};
use beeway_testbed::{
    Place, Pod, RawClient, curl, http_server, spawn_ready, tcp_echo, tcp_ping, udp_echo, udp_send,
};

const NATIVE: Shape = Shape { servers_in_mesh: false };
const SHORTCUT: Shape = Shape { servers_in_mesh: true };
const ALL: &str = "- route: [{destination: {host: web, subset: v1}}]\n";

/// An AuthorizationPolicy of the namespace `default`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n{spec}"
    )
}

const ON_WEB: &str = "  selector: {matchLabels: {app: web}}\n";

/// Nobody may read what is below /admin, nor be told by POST.
fn no_admin() -> String {
    let rules = "  action: DENY\n  rules:\n  - to: [{operation: {paths: [/admin*]}}]\n  \
                 - to: [{operation: {methods: [POST]}}]\n";
    policy("no-admin", &format!("{ON_WEB}{rules}"))
}

/// The status of the answer to a GET.
fn status(raw: &mut RawClient, path: &str) -> u16 {
    let response = raw.get("web", path, &[]);
    response.unwrap_or_else(|error| panic!("GET {path}: {error:#}")).status
}

/// Puts a file of the configuration in force.
fn apply(bed: &Bed, name: &str, text: &str) -> Result<()> {
    let before = bed.generation()?;
    bed.write(name, text)?;
    bed.wait_for_generation(before)?;
    Ok(())
}

/// Waits until a request is answered with a status, which must come.
fn wait_for_status(raw: &mut RawClient, path: &str, wanted: u16) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while status(raw, path) != wanted {
        ensure!(Instant::now() < end, "{path}: never {wanted}");
    }
    Ok(())
}

#[test]
fn a_forbidden_request_is_answered_where_it_is_sent() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let mut bed = Bed::new("deny", shape, ALL)?;
        bed.record_requests()?;
        apply(&bed, "policy.yaml", &no_admin())?;
        let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
        for _ in 0..3 {
            assert_eq!(status(&mut raw, "/"), 200);
            let denied = raw.get("web", "/admin/x", &[])?;
            assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
        }
        assert_eq!(bed.requests("answered", "denied")?, 3);
        // what has to be normalised is for userspace to judge
        assert_eq!(status(&mut raw, "/x/../admin"), 403);
        assert_eq!(status(&mut raw, "/x/%61dmin"), 200);
        assert!(bed.lane("detour")? >= 1);
        let paths = bed.recorded_paths();
        assert!(!paths.iter().any(|path| path.contains("admin/x")), "{paths:?}");
        let post = curl(
            &bed.client,
            &["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", &format!("http://{WEB}/")],
        )?;
        assert_eq!(post.success()?.stdout.trim(), "403");
    }
    Ok(())
}

#[test]
fn a_second_request_in_one_write_is_judged_too() -> Result<()> {
    let mut bed = Bed::new("pipe", SHORTCUT, ALL)?;
    bed.record_requests()?;
    apply(&bed, "policy.yaml", &no_admin())?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(status(&mut raw, "/"), 200);
    raw.send("GET /a HTTP/1.1\r\nHost: web\r\n\r\nGET /admin/x HTTP/1.1\r\nHost: web\r\n\r\n")?;
    assert_eq!(raw.response()?.status, 200);
    assert_eq!(raw.response()?.status, 403);
    let paths = bed.recorded_paths();
    assert!(!paths.iter().any(|path| path.contains("admin")), "{paths:?}");
    Ok(())
}

#[test]
fn a_live_connection_follows_the_policies() -> Result<()> {
    let bed = Bed::new("live", SHORTCUT, ALL)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(status(&mut raw, "/admin"), 200);
    bed.write("policy.yaml", &no_admin())?;
    wait_for_status(&mut raw, "/admin", 403)?;
    assert_eq!(status(&mut raw, "/"), 200);
    // nobody who is not named
    bed.write("allow.yaml", &policy("nobody", &format!("{ON_WEB}  action: ALLOW\n")))?;
    wait_for_status(&mut raw, "/", 403)?;
    // what cannot be read closes
    bed.write("allow.yaml", &policy("nobody", &format!("{ON_WEB}  action: PERHAPS\n")))?;
    let end = Instant::now() + LIMIT;
    while !bed.status()?["problems"].to_string().contains("PERHAPS") {
        ensure!(Instant::now() < end, "no problem is told: {:#}", bed.status()?["problems"]);
    }
    assert_eq!(status(&mut raw, "/"), 403);
    std::fs::remove_file(bed.config.path().join("allow.yaml"))?;
    wait_for_status(&mut raw, "/", 200)?;
    assert_eq!(status(&mut raw, "/admin"), 403);
    std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
    wait_for_status(&mut raw, "/admin", 200)
}

#[test]
fn each_endpoint_has_its_own_policies() -> Result<()> {
    let rules = "- match: [{headers: {end-user: {exact: jason}}}]\n  \
                 route: [{destination: {host: web, subset: v2}}]\n\
                 - route: [{destination: {host: web, subset: v1}}]\n";
    let bed = Bed::new("each", SHORTCUT, rules)?;
    let on_v2 = "  selector: {matchLabels: {version: v2}}\n  action: ALLOW\n  rules:\n  \
                 - from: [{source: {namespaces: [elsewhere]}}]\n  \
                 - when: [{key: \"request.headers[x-pass]\", values: [open*]}]\n";
    apply(&bed, "policy.yaml", &policy("v2", on_v2))?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    let mut ask = |headers: &[&str]| raw.get("web", "/", headers).map(|answer| answer.status);
    assert_eq!(ask(&[])?, 200, "v1 is open");
    assert_eq!(ask(&["end-user: jason"])?, 403, "judged for the endpoint that it is for");
    assert_eq!(ask(&["end-user: jason", "x-pass: opened"])?, 200);
    Ok(())
}

/// The service `raw`, TCP and UDP.
fn echo_bed(label: &str) -> Result<(Bed, Vec<beeway_testbed::Process>)> {
    let bed = Bed::new(label, SHORTCUT, ALL)?;
    let mut servers = Vec::new();
    for pod in [&bed.v1, &bed.v2] {
        servers.push(spawn_ready(tcp_echo(pod, 7007)?)?);
        servers.push(spawn_ready(udp_echo(pod, 7007)?)?);
    }
    Ok((bed, servers))
}

fn tcp_is_open(pod: &Pod, to: &str) -> Result<bool> {
    let report = tcp_ping(pod, to.parse()?, 1)?.output(LIMIT)?.success()?.json();
    let report = report.into_iter().next().unwrap_or_default();
    // refused by the kernel, or reset by the proxy where the kernel does not know who calls
    let closed = report["error"] == "ECONNREFUSED" || report["error"] == "ECONNRESET";
    ensure!(report["pings"] == 1 || closed, "{report}");
    Ok(report["pings"] == 1)
}

#[test]
fn a_forbidden_connection_is_refused() -> Result<()> {
    let (bed, _servers) = echo_bed("conn")?;
    let straight = format!("{}:7007", bed.v1.ip4());
    assert!(tcp_is_open(&bed.client, "10.96.0.12:7")?);
    assert!(tcp_is_open(&bed.client, &straight)?);
    // an HTTP field makes a rule that denies wider, and one that allows void
    let rules =
        "  action: DENY\n  rules:\n  - to: [{operation: {ports: [\"7007\"], methods: [GET]}}]\n";
    apply(&bed, "policy.yaml", &policy("no-echo", &format!("{ON_WEB}{rules}")))?;
    assert!(!tcp_is_open(&bed.client, "10.96.0.12:7")?);
    assert!(!tcp_is_open(&bed.client, &straight)?, "straight to the pod");
    assert_eq!(bed.counter("connections_denied")?, 2);
    let rules = "  action: ALLOW\n  rules:\n  - from: [{source: {namespaces: [default]}}]\n";
    apply(&bed, "policy.yaml", &policy("no-echo", &format!("{ON_WEB}{rules}")))?;
    assert!(tcp_is_open(&bed.client, "10.96.0.12:7")?, "by the proxy or not: the caller is known");
    Ok(())
}

#[test]
fn a_network_policy_closes_ports_and_transports() -> Result<()> {
    let (bed, _servers) = echo_bed("net")?;
    let network = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: web, namespace: default}\nspec:\n  \
         podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress]\n  ingress:\n  \
         - from: [{podSelector: {matchLabels: {app: client}}}]\n    \
         ports: [{port: 8080}, {port: 7007, protocol: UDP}]\n";
    let udp = |bed: &Bed| -> Result<bool> {
        let lines = udp_send(&bed.client, "10.96.0.12:7".parse()?, 1)?.output(LIMIT)?;
        Ok(lines.success()?.json().iter().any(|line| line.get("reply").is_some()))
    };
    assert!(udp(&bed)?);
    apply(&bed, "network.yaml", network)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(status(&mut raw, "/"), 200);
    assert!(!tcp_is_open(&bed.client, "10.96.0.12:7")?);
    let closed = network.replace("app: client", "app: nobody");
    bed.write("network.yaml", &closed)?;
    wait_for_status(&mut raw, "/", 403)?;
    assert!(!udp(&bed)?);
    Ok(())
}

#[test]
fn requests_straight_to_a_pod_are_judged() -> Result<()> {
    let bed = Bed::new("straight", SHORTCUT, ALL)?;
    apply(&bed, "policy.yaml", &no_admin())?;
    let mut raw = RawClient::connect(&bed.client, format!("{}:8080", bed.v2.ip4()).parse()?)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v2"));
    assert_eq!(status(&mut raw, "/admin"), 403);
    assert_eq!(status(&mut raw, "/x/../admin"), 403, "by detour");
    assert_eq!(status(&mut raw, "/x"), 200);
    // likewise by policies on its services, which userspace asks
    let named =
        no_admin().replace(ON_WEB, "  targetRefs: [{kind: Service, group: '', name: web}]\n");
    apply(&bed, "policy.yaml", &named)?;
    for mut raw in
        [raw, RawClient::connect(&bed.client, format!("{}:8080", bed.v2.ip4()).parse()?)?]
    {
        assert_eq!((status(&mut raw, "/admin"), status(&mut raw, "/x")), (403, 200));
    }
    apply(&bed, "policy.yaml", &no_admin())?;
    // a port that no service has is one that is not HTTP: the rule is wider there
    let other = spawn_ready(http_server(&bed.v2, 9090, "other")?)?;
    let to = format!("http://{}:9090/", bed.v2.ip4());
    let output = curl(&bed.client, &["-sS", &to])?;
    assert_eq!(output.status.code(), Some(7), "refused: {output:?}");
    drop(other);
    Ok(())
}

/// Whoever is not in the mesh's cgroup: nobody asks at its end.
fn outsider(pod: &Pod, to: &str) -> Result<bool> {
    let url = format!("http://{to}/");
    let arguments = ["-sS", "-o", "/dev/null", "-m", "2", &url];
    let output = pod.command("curl").plain().args(arguments).output(LIMIT)?;
    ensure!(matches!(output.status.code(), Some(0 | 28 | 56)), "{output:?}");
    Ok(output.status.success())
}

#[test]
fn who_leaves_the_mesh_is_judged_where_it_comes_in() -> Result<()> {
    let bed = Bed::new("inlet", SHORTCUT, ALL)?;
    let pod = format!("{}:8080", bed.v1.ip4());
    let pod6 = format!("[{}]:8080", bed.v1.ip6());
    assert!(outsider(&bed.client, &pod)?);
    let from = |namespace: &str| {
        let rule = format!("  rules:\n  - from: [{{source: {{namespaces: [{namespace}]}}}}]\n");
        policy("from", &format!("{ON_WEB}  action: ALLOW\n{rule}"))
    };
    apply(&bed, "policy.yaml", &from("elsewhere"))?;
    let before = bed.counter("connections_denied")?;
    assert!(!outsider(&bed.client, &pod)?, "the first segment does not come in");
    assert!(!outsider(&bed.client, &pod6)?);
    assert!(bed.counter("connections_denied")? > before);
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(status(&mut raw, "/"), 403, "in the mesh a request gets its answer");
    // by its address it is one of the namespace
    apply(&bed, "policy.yaml", &from("default"))?;
    assert!(outsider(&bed.client, &pod)?);
    assert_eq!(status(&mut raw, "/"), 200);
    assert_eq!(status(&mut raw, "/x/../y"), 200, "the proxy's own connection is known as such");
    apply(&bed, "policy.yaml", &no_admin())?;
    assert!(outsider(&bed.client, &pod)?, "judged by request: tests/visits.rs");
    assert_eq!(status(&mut raw, "/"), 200);
    Ok(())
}

#[test]
fn who_comes_from_another_node_is_judged_there() -> Result<()> {
    let bed = Bed::new("remote", SHORTCUT, ALL)?;
    let pod = format!("{}:8080", bed.v1.ip4());
    // as if the client ran there: what it sends from outside of this mesh comes from its address
    let moved = bed.mesh_yaml(true).replacen("nodeName: node-1", "nodeName: node-2", 1);
    ensure!(moved.find("node-2") < moved.find("node-1"), "the client is the first pod");
    apply(&bed, "mesh.yaml", &moved)?;
    apply(&bed, "policy.yaml", &no_admin())?;
    assert!(outsider(&bed.client, &pod)?, "its node's agent judges paths");
    let rules = "  action: DENY\n  rules:\n  - from: [{source: {namespaces: [default]}}]\n";
    apply(&bed, "policy.yaml", &policy("nobody", &format!("{ON_WEB}{rules}")))?;
    assert!(!outsider(&bed.client, &pod)?, "no request of its could be allowed");
    let rules = "  action: ALLOW\n  rules:\n  - from: [{source: {namespaces: [default]}}]\n    \
                 to: [{operation: {paths: [/x]}}]\n";
    apply(&bed, "policy.yaml", &policy("some", &format!("{ON_WEB}{rules}")))?;
    assert!(outsider(&bed.client, &pod)?, "some could");
    let rules = "  action: DENY\n  rules:\n  - from: [{source: {namespaces: [default]}}]\n";
    let named = |names: &[&str]| {
        let refs = names.iter().map(|name| format!("{{kind: Service, group: '', name: {name}}}"));
        let refs = refs.collect::<Vec<_>>().join(", ");
        policy("named", &format!("  targetRefs: [{refs}]\n{rules}"))
    };
    apply(&bed, "policy.yaml", &named(&["web"]))?;
    assert!(outsider(&bed.client, &pod)?, "it may call `v1`");
    apply(&bed, "policy.yaml", &named(&["web", "v1"]))?;
    assert!(!outsider(&bed.client, &pod)?, "whatever it calls");
    let front = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: default}\n\
                 spec: {clusterIP: 10.96.0.16, ports: [{name: http, port: 80}]}\n---\n\
                 apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {name: front, namespace: default}\n\
                 spec: {hosts: [front], http: [{route: [{destination: {host: v1}}]}]}\n";
    apply(&bed, "front.yaml", front)?;
    assert!(outsider(&bed.client, &pod)?, "rules lead there who calls `front`");
    Ok(())
}

#[test]
fn a_live_connection_that_is_not_http_is_reset() -> Result<()> {
    for scope in [ON_WEB, "  targetRefs: [{kind: Service, group: '', name: raw}]\n"] {
        let nobody = policy("nobody", &format!("{scope}  action: ALLOW\n"));
        assert_live_connections_are_reset(&nobody)?;
    }
    Ok(())
}

fn assert_live_connections_are_reset(nobody: &str) -> Result<()> {
    let (bed, _servers) = echo_bed("reset")?;
    let straight = format!("{}:7007", bed.v2.ip4()).parse()?;
    let mut clients = [
        (RawClient::connect(&bed.client, "10.96.0.12:7".parse()?)?, "ECONNABORTED"),
        (RawClient::connect(&bed.client, straight)?, "ECONNABORTED"),
        // nobody of ours is at this client's end: the server's is ended
        (RawClient::connect_in(&bed.node, straight, false)?, "ECONNRESET"),
    ];
    for (raw, _) in &mut clients {
        raw.send("hello")?;
        assert_eq!(raw.step(&serde_json::json!({"recv": 5}))?["bytes"], 5);
    }
    apply(&bed, "policy.yaml", nobody)?;
    for (raw, error) in &mut clients {
        raw.send("hello")?;
        assert_eq!(raw.recv_until_close()?, (String::new(), (*error).to_owned()));
    }
    let reason = "denied: AuthorizationPolicy default/nobody has no rule that allows it";
    wait_until("three connections are reset", || {
        Ok(bed.agent_log().lines().filter(|line| line.contains(reason)).count() == 3)
    })?;
    for server in [&bed.v1, &bed.v2] {
        wait_until("no connection is left", || Ok(connections(server, 7007)? == 0))?;
    }
    Ok(())
}

/// Policies on a service hold for who called it, also when its pods are others by then.
#[test]
fn a_live_connection_does_not_outlast_its_endpoint_and_a_policy() -> Result<()> {
    let (bed, _servers) = echo_bed("moved")?;
    let yaml = |version: &str| {
        let yaml = bed.mesh_yaml(true);
        let raw = yaml.find("name: raw").expect("the service");
        let (head, tail) = yaml.split_at(raw);
        let only = format!("selector: {{app: web, version: {version}}}");
        head.to_owned() + &tail.replacen("selector: {app: web}", &only, 1)
    };
    apply(&bed, "mesh.yaml", &yaml("v1"))?;
    let rest = "apiVersion: v1\nkind: Service\nmetadata: {name: rest, namespace: default}\n\
                spec:\n  clusterIP: 10.96.0.17\n  selector: {app: web}\n  \
                ports: [{name: tcp, port: 7, targetPort: 7007}]\n";
    apply(&bed, "rest.yaml", rest)?;
    let on = |name: &str, spec: &str| {
        let target = format!("  targetRefs: [{{kind: Service, group: '', name: {name}}}]\n");
        policy(name, &(target + spec))
    };
    let others = "  action: DENY\n  rules:\n  - from: [{source: {namespaces: [elsewhere]}}]\n";
    apply(&bed, "rest-policy.yaml", &on("rest", others))?;
    let mut raw = RawClient::connect(&bed.client, "10.96.0.12:7".parse()?)?;
    for version in ["v1", "v2"] {
        apply(&bed, "mesh.yaml", &(yaml(version) + &format!("# {version}\n")))?;
        raw.send("hello")?;
        assert_eq!(raw.step(&serde_json::json!({"recv": 5}))?["bytes"], 5, "{version}");
    }
    apply(&bed, "policy.yaml", &on("raw", "  action: ALLOW\n"))?;
    raw.send("hello")?;
    assert_eq!(raw.recv_until_close()?, (String::new(), "ECONNABORTED".to_owned()));
    Ok(())
}

/// What only reports, or lets a caller in, leaves his live connection alone.
#[test]
fn a_live_connection_goes_on_where_policies_on_its_service_allow_it() -> Result<()> {
    let (bed, _servers) = echo_bed("goes-on")?;
    let mut raw = RawClient::connect(&bed.client, "10.96.0.12:7".parse()?)?;
    let mut straight = RawClient::connect(&bed.client, format!("{}:7007", bed.v2.ip4()).parse()?)?;
    let on_raw = "  targetRefs: [{kind: Service, group: '', name: raw}]\n";
    for (action, rule) in [
        ("AUDIT", "  - {}\n"),
        ("DENY", "  - from: [{source: {namespaces: [elsewhere]}}]\n"),
        ("ALLOW", "  - from: [{source: {namespaces: [default]}}]\n"),
    ] {
        let spec = format!("{on_raw}  action: {action}\n  rules:\n{rule}");
        apply(&bed, "policy.yaml", &policy("some", &spec))?;
        for raw in [&mut raw, &mut straight] {
            for _ in 0..3 {
                raw.send("hello")?;
                assert_eq!(raw.step(&serde_json::json!({"recv": 5}))?["bytes"], 5, "{action}");
            }
        }
    }
    assert_eq!(bed.counter("connections_denied")?, 0);
    Ok(())
}

/// How many established connections a pod's port has.
fn connections(pod: &Pod, port: u16) -> Result<usize> {
    let table = pod.run_in(|| {
        let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        Ok::<_, std::io::Error>(read("tcp")? + &read("tcp6")?)
    })??;
    let established = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "01"
    };
    Ok(table.lines().filter(established).count())
}
