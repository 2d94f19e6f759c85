//! Who comes from outside of the mesh is judged request by request where it comes in, by the socket
//! that it talks to; the application does not hear of what is forbidden.

mod bed;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bed::{Bed, LIMIT, Shape, wait_until};
use beeway_testbed::{Load, LoadReport, Place, RawClient, nginx, pattern, upload};

const SHAPE: Shape = Shape { servers_in_mesh: true };
const ALL: &str = "- route: [{destination: {host: web, subset: v1}}]\n";

/// Nobody may read what is below /admin, nor write what is below /closed.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: visits, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
  - to: [{operation: {paths: [/closed*], methods: [POST]}}]
";

/// Servers that keep a record of what they are asked, behind a policy on requests.
fn bed(label: &str) -> Result<Bed> {
    let mut bed = Bed::new(label, SHAPE, ALL)?;
    bed.record_requests()?;
    apply(&bed, POLICY)?;
    Ok(bed)
}

fn apply(bed: &Bed, policy: &str) -> Result<()> {
    let before = bed.generation()?;
    bed.write("policy.yaml", policy)?;
    bed.wait_for_generation(before)?;
    Ok(())
}

/// A connection straight to v1, from a process that is not in the mesh.
fn outside(bed: &Bed, v6: bool) -> Result<RawClient> {
    let at = if v6 { bed.v1.ip6().into() } else { bed.v1.ip4().into() };
    RawClient::connect_in(&bed.client, SocketAddr::new(at, 8080), false)
}

#[test]
fn each_request_is_judged_where_it_comes_in() -> Result<()> {
    let bed = bed("visit")?;
    for v6 in [false, true] {
        let mut raw = outside(&bed, v6)?;
        for turn in 0..20 {
            assert_eq!(raw.get("web", &format!("/open/{turn}"), &[])?.status, 200);
            let denied = raw.get("web", &format!("/admin/{turn}"), &[])?;
            assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
            assert_eq!(raw.get("web", "/%61dmin", &[])?.status, 403, "whatever its spelling");
        }
        // a head of one segment, whatever its size
        let long = format!("x-long: {}", "a".repeat(5000));
        assert_eq!(raw.get("web", "/open", &[&long])?.status, 200);
        assert_eq!(raw.get("web", "/admin", &[&long])?.status, 403);
        assert_eq!(raw.get("web", "/open", &[])?.status, 200, "the same connection to its end");
    }
    assert_eq!(bed.requests("answered", "denied")?, 2 * 41);
    assert_eq!(bed.requests("native", "visit")?, 2 * 22);
    wait_until("the servers have told of all", || Ok(bed.recorded_paths().len() == 2 * 22))?;
    let seen = bed.recorded_paths();
    assert!(!seen.iter().any(|path| path.contains("dmin")), "{seen:?}");
    Ok(())
}

#[test]
fn bodies_go_the_way_of_their_heads() -> Result<()> {
    let bed = bed("visitbody")?;
    let mut raw = outside(&bed, false)?;
    let post = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let chunks = "5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nx-trailer: 1\r\n\r\n";
    let chunked = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
    };
    for _ in 0..10 {
        assert_eq!(raw.request(&post("/open", "hello"))?.status, 200);
        assert_eq!(raw.request(&post("/closed", "hello"))?.status, 403);
        assert_eq!(raw.request(&chunked("/open"))?.status, 200);
        assert_eq!(raw.request(&chunked("/closed"))?.status, 403);
        // a body behind its head, in pieces; what looks like a request in it is none
        let text = post("/closed", "GET /admin HTTP/1.1\r\nHost: web\r\n\r\n");
        let (head, body) = text.split_at(text.find("\r\n\r\n").expect("an end") + 4);
        raw.send(head)?;
        assert_eq!(raw.response()?.status, 403);
        raw.dribble(body, 7, Duration::from_millis(1))?;
        assert_eq!(raw.request(&chunked("/open"))?.status, 200);
    }
    let megabytes = 4 << 20;
    for (flag, bytes) in [("", megabytes), ("--chunked", megabytes)] {
        let url = format!("http://{}:8080/sum", bed.v1.ip4());
        let upload = upload(&bed.client, &url, bytes)?.plain();
        let upload = if flag.is_empty() { upload } else { upload.args([flag]) };
        let report = upload.output(Duration::from_secs(30))?.success()?.json().pop();
        let report = report.unwrap_or_default();
        assert_eq!(report["reply"]["sha256"], pattern::sha256(bytes), "{report}");
    }
    let seen = bed.recorded_paths();
    assert!(!seen.iter().any(|path| path.contains("closed") || path.contains("admin")), "{seen:?}");
    Ok(())
}

#[test]
fn what_cannot_be_judged_ends_the_connection() -> Result<()> {
    let bed = bed("visitend")?;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n");
    let cases = [
        ("two requests in a segment", get("/open/a") + &get("/admin")),
        ("the same behind a body", {
            let body = "POST /open/b HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nab";
            body.to_owned() + &get("/admin")
        }),
        ("bare newlines", "GET /admin HTTP/1.1\nHost: web\n\n".to_owned()),
        ("two lengths", {
            let head = "POST /open/c HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n";
            head.to_owned() + "Content-Length: 40\r\n\r\nab" + &get("/admin")
        }),
        ("something else", "hello, world\r\n".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("an answer to HEAD", get("/admin").replace("GET", "HEAD")),
    ];
    for (what, bytes) in &cases {
        let mut raw = outside(&bed, false)?;
        raw.send(bytes)?;
        let (data, end) = raw.recv_until_close()?;
        assert_eq!((data.as_str(), end.as_str()), ("", "ECONNRESET"), "{what}");
    }
    let mut raw = outside(&bed, false)?;
    // the first piece of a head: nothing is kept of it
    raw.send(&get("/open/d")[..20])?;
    assert_eq!(raw.recv_until_close()?.1, "ECONNRESET");
    assert_eq!(bed.requests("refused", "visit")?, cases.len() as u64 + 1);
    assert_eq!(bed.recorded_paths(), [""; 0]);
    Ok(())
}

#[test]
fn many_visits_at_once() -> Result<()> {
    let mut bed = bed("visitload")?;
    let spec = "  ports:\n  - {name: http, port: 80, targetPort: 8081}\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: nginx, namespace: default}\n\
                 spec:\n  clusterIP: 10.96.0.40\n  selector: {app: web}\n";
    let before = bed.generation()?;
    bed.write("nginx.yaml", &format!("{service}{spec}"))?;
    bed.wait_for_generation(before)?;
    bed.servers.push(nginx(&bed.v1, 8081, "nginx")?);
    let mut sent = (0, 0);
    for port in [8080, 8081] {
        for close in [false, true] {
            let load = |path: &str| {
                let url = format!("http://{}{path}", bed.v1.addr4(port));
                let load = Load::new(url, 2000).header("Host: web").connections(32);
                if close { load.close() } else { load }
            };
            // both at once, on connections of their own
            let denied = load("/admin").command(&bed.client)?.plain().spawn()?;
            let open = load("/").command(&bed.client)?.plain().output(LIMIT)?.success()?;
            let denied = denied.output(LIMIT)?.success()?;
            for (output, status, sum) in [(open, "200", &mut sent.0), (denied, "403", &mut sent.1)]
            {
                let report = LoadReport::parse(&output.stdout)?;
                assert_eq!((report.requests, report.errors), (2000, 0), "{:?}", report.messages);
                assert_eq!(report.status.get(status), Some(&2000), "{:?}", report.status);
                *sum += report.requests;
            }
        }
    }
    assert_eq!(bed.requests("native", "visit")?, sent.0);
    assert_eq!(bed.requests("answered", "denied")?, sent.1);
    assert!(!bed.recorded_paths().iter().any(|path| path == "/admin"));
    Ok(())
}

#[test]
fn a_visit_follows_the_policies() -> Result<()> {
    let bed = bed("visitlive")?;
    let (mut raw, mut vague) = (outside(&bed, false)?, outside(&bed, false)?);
    assert_eq!(raw.get("web", "/admin", &[])?.status, 403);
    apply(&bed, &POLICY.replace("/admin", "/other"))?;
    assert_eq!(raw.get("web", "/admin", &[])?.status, 200);
    assert_eq!(raw.get("web", "/other", &[])?.status, 403);
    // without policies anything may be said; with them again what is not known ends it
    let before = bed.generation()?;
    std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
    bed.wait_for_generation(before)?;
    assert_eq!(raw.get("web", "/other", &[])?.status, 200);
    let mut tardy = outside(&bed, false)?;
    assert_eq!(tardy.get("web", "/admin", &[])?.status, 200);
    // nor need it be understood
    vague.dribble("GET /other HTTP/1.1\r\nHost: web\r\n\r\n", 9, Duration::from_millis(5))?;
    assert_eq!(vague.response()?.status, 200);
    apply(&bed, POLICY)?;
    assert_eq!(raw.get("web", "/admin", &[])?.status, 403);
    // one came when nobody asked, of the other nobody knows where requests begin
    for mut unknown in [tardy, vague] {
        unknown.send("GET /open HTTP/1.1\r\nHost: web\r\n\r\n")?;
        assert_eq!(unknown.recv_until_close()?.1, "ECONNRESET");
    }
    drop(raw);
    wait_until("no visit is left", || {
        let status = bed.status()?;
        let visits =
            status["maps"].as_array().into_iter().flatten().find(|m| m["name"] == "visits");
        Ok(visits.is_some_and(|visits| visits["used"] == 0))
    })
}

/// Who comes straight to an endpoint calls all services that it stands behind.
#[test]
fn policies_on_services_hold_for_their_endpoints() -> Result<()> {
    let bed = bed("visitname")?;
    let scope = |yaml: &str| POLICY.replace("selector: {matchLabels: {app: web}}", yaml);
    let named =
        |name: &str| scope(&format!("targetRefs: [{{kind: Service, group: '', name: {name}}}]"));
    let mut raw = outside(&bed, false)?;
    for service in ["web", "v1"] {
        apply(&bed, &named(service))?;
        for v6 in [false, true] {
            let mut fresh = outside(&bed, v6)?;
            assert_eq!(fresh.get("web", "/open", &[])?.status, 200, "{service} {v6}");
            assert_eq!(fresh.get("web", "/admin", &[])?.status, 403, "{service} {v6}");
        }
        assert_eq!(raw.get("web", "/admin/x", &[])?.status, 403, "a connection from before");
    }
    // nobody is led to who is not ready, but he can be called
    let pod = format!("podIP: {}", bed.v1.ip4());
    let yaml = bed.mesh_yaml(true);
    let (head, tail) = yaml.split_at(yaml.find(&pod).expect("the pod"));
    let unready = head.to_owned() + &tail.replacen("\"True\"", "\"False\"", 1);
    for yaml in [&unready, &yaml] {
        let before = bed.generation()?;
        bed.write("mesh.yaml", yaml)?;
        bed.wait_for_generation(before)?;
        assert_eq!(raw.get("web", "/admin/x", &[])?.status, 403);
        assert_eq!(outside(&bed, false)?.get("web", "/admin", &[])?.status, 403);
    }
    // v1 is not one of its endpoints, nor is this port
    for elsewhere in ["nobody", "raw"] {
        apply(&bed, &named(elsewhere))?;
        assert_eq!(raw.get("web", "/admin", &[])?.status, 200, "{elsewhere}");
    }
    // together with those that select workloads: what one of them allows is allowed
    let allow = |policy: String, name: &str, path: &str| {
        let text =
            policy.replace("name: visits", &format!("name: {name}")).replace("DENY", "ALLOW");
        text[..text.find("  - to").expect("rules")].to_owned()
            + &format!("  - to: [{{operation: {{paths: [{path}]}}}}]\n")
    };
    let both = allow(named("web"), "a", "/a") + "---" + &allow(POLICY.to_owned(), "b", "/b");
    apply(&bed, &both)?;
    for (path, status) in [("/a", 200), ("/b", 200), ("/c", 403)] {
        assert_eq!(raw.get("web", path, &[])?.status, status, "{path}");
    }
    let seen = bed.recorded_paths();
    assert_eq!(seen.iter().filter(|path| path.starts_with("/admin")).count(), 2, "{seen:?}");
    assert!(!seen.contains(&"/c".to_owned()), "{seen:?}");
    Ok(())
}

#[test]
fn policies_that_only_report_change_nothing() -> Result<()> {
    let bed = bed("visitaudit")?;
    apply(&bed, &POLICY.replace("DENY", "AUDIT"))?;
    let mut raw = outside(&bed, false)?;
    for path in ["/open", "/admin", "/%61dmin", "/x/../admin"] {
        assert_eq!(raw.get("web", path, &[])?.status, 200, "{path}");
    }
    assert_eq!(bed.requests("native", "visit")?, 4);
    // nor need it be understood
    let get = "GET /admin HTTP/1.1\r\nHost: web\r\n\r\n";
    raw.dribble(get, 9, Duration::from_millis(5))?;
    assert_eq!(raw.response()?.status, 200);
    let mut raw = outside(&bed, false)?;
    raw.send(&get.repeat(2))?;
    assert_eq!((raw.response()?.status, raw.response()?.status), (200, 200));
    assert_eq!(bed.requests("refused", "visit")?, 0);
    Ok(())
}
