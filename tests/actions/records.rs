//! The access record of each request by detour: what became of it, with Envoy's flags.

use anyhow::Result;
use beeway_testbed::Place;
use serde_json::Value;

use crate::scene::{REFUSED, Scene, field};

const RULES: &str = "\
- match: [{uri: {prefix: /nobody}}]
  route: [{destination: {host: nobody}}]
  timeout: 10s
- match: [{uri: {prefix: /refused}}]
  retries: {attempts: 1, retryOn: connect-failure}
  route: [{destination: {host: refused}}]
- match: [{uri: {prefix: /first/9/limited}}]
  timeout: 200ms
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /first/9/tried}}]
  retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /delayed}}]
  fault: {delay: {fixedDelay: 10ms, percentage: {value: 100}}}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /aborted}}]
  fault:
    delay: {fixedDelay: 10ms, percentage: {value: 100}}
    abort: {httpStatus: 418, percentage: {value: 100}}
  route: [{destination: {host: web, subset: v1}}]
- match: [{uri: {prefix: /redirected}}]
  redirect: {uri: /}
- retries: {attempts: 0}
  timeout: 10s
  route: [{destination: {host: web, subset: v1}}]
";

#[test]
fn each_request_has_a_record_with_envoys_flags() -> Result<()> {
    let scene = Scene::new("records", RULES)?;
    scene.apply("refused.yaml", REFUSED)?;
    let mut raw = scene.connect()?;
    for (path, status, flags, attempts) in [
        ("/plain?q=1", 200, "-", 1),
        ("/status/500", 500, "-", 1),
        ("/nobody", 503, "UH", 0),
        ("/refused", 503, "UF,URX", 2),
        ("/first/9/limited/hang", 504, "UT", 1),
        ("/first/9/tried/503", 503, "URX", 3),
        ("/first/9/once/reset", 503, "UC", 1),
        ("/delayed", 200, "DI", 1),
        ("/aborted", 418, "DI,FI", 0),
        ("/redirected", 301, "-", 0),
    ] {
        let answer = raw.get("web", path, &[])?;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let record = scene.record(path)?;
        let seen = (&record["response_code"], &record["response_flags"], &record["attempts"]);
        let wanted = (&Value::from(status), &Value::from(flags), &Value::from(attempts));
        assert_eq!(seen, wanted, "{path}: {record}");
        assert_eq!(record["authority"], "web", "{path}: {record}");
    }
    Ok(())
}

#[test]
fn a_record_says_who_where_and_how_much() -> Result<()> {
    let scene = Scene::new("record", RULES)?;
    let mut raw = scene.connect()?;
    let text = "POST /echo?mine HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nabcde";
    assert_eq!(raw.request(text)?.body, "abcde");
    let record = scene.record("/echo?mine")?;
    for (key, wanted) in [
        ("method", Value::from("POST")),
        ("protocol", "HTTP/1.1".into()),
        ("bytes_received", 5.into()),
        ("bytes_sent", 5.into()),
        ("downstream_local_address", crate::bed::WEB.into()),
    ] {
        assert_eq!(record[key], wanted, "{key}: {record}");
    }
    let v1 = [scene.bed.v1.addr4(8080), scene.bed.v1.addr6(8080)].map(|v1| v1.to_string().into());
    assert!(v1.contains(&record["upstream_host"]), "{record}");
    let rule = record["route_name"].as_str().unwrap_or_default();
    assert!(rule.contains("VirtualService default/web"), "{record}");
    let answer = raw.get("web", "/identified", &[])?;
    let record = scene.record("/identified")?;
    assert_eq!(record["request_id"].as_str(), field(&answer, "x-request-id").as_deref());
    // who goes away is told too
    raw.send("GET /delay/60000/gone HTTP/1.1\r\nHost: web\r\n\r\n")?;
    scene.bed.servers[0].wait_for_line("/delay/60000/gone", crate::bed::LIMIT)?;
    drop(raw);
    let record = scene.record("/delay/60000/gone")?;
    assert_eq!(record["response_flags"], "DC", "{record}");
    Ok(())
}
