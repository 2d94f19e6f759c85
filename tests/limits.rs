//! How many requests a workload takes, with real traffic through the real kernel: those past a limit
//! are answered 429 where they are sent, and by the proxy where they go that way.

mod bed;
mod calls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, LIMIT, NO_ADMIN, Shape, WEB, wait_until};
use beeway_testbed::{Load, Place, RawClient, curl, grpc_server, http_server, spawn_ready};
use calls::call;

const NATIVE: Shape = Shape { servers_in_mesh: false };
const SHORTCUT: Shape = Shape { servers_in_mesh: true };

/// Everything to v1, of which `/detour` goes by the proxy.
const ALL: &str = "\
- match: [{uri: {prefix: /detour}}]
  headers: {request: {set: {x-by: detour}}}
  route: [{destination: {host: web, subset: v1}}]
- route: [{destination: {host: web, subset: v1}}]
";

const HOUR: &str = "tokens_per_fill: 1, fill_interval: 3600s";

/// `LocalRateLimit`, enforced, with a header field of its own.
fn limit(tokens: u32, fill: &str, more: &str) -> String {
    let all = "{default_value: {numerator: 100, denominator: HUNDRED}}";
    let added = "[{append: false, header: {key: x-local-rate-limit, value: 'true'}}]";
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    let enforced = if more.contains("filter_enforced") {
        String::new()
    } else {
        format!(", filter_enforced: {all}")
    };
    format!(
        "{{stat_prefix: http_local_rate_limiter, token_bucket: {{max_tokens: {tokens}, {fill}}}, \
         filter_enabled: {all}{enforced}, response_headers_to_add: {added}{more}}}"
    )
}

fn typed(value: &str) -> String {
    format!(
        "{{\"@type\": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: \
         type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, \
         value: {value}}}"
    )
}

/// An EnvoyFilter on `web`, as Istio's documentation has it.
fn filter(value: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n\
         metadata: {{name: limit, namespace: default}}\nspec:\n  \
         workloadSelector: {{labels: {{app: web}}}}\n  configPatches:\n  \
         - applyTo: HTTP_FILTER\n    match:\n      context: SIDECAR_INBOUND\n      \
         listener: {{filterChain: {{filter: {{name: \
         envoy.filters.network.http_connection_manager}}}}}}\n    patch:\n      \
         operation: INSERT_BEFORE\n      value:\n        \
         name: envoy.filters.http.local_ratelimit\n        typed_config: {}\n",
        typed(value)
    )
}

/// What it adds for a port of the service.
fn on_port(port: u16, value: &str) -> String {
    format!(
        "  - applyTo: HTTP_ROUTE\n    match:\n      context: SIDECAR_INBOUND\n      \
         routeConfiguration: {{vhost: {{name: 'inbound|http|{port}', route: {{action: ANY}}}}}}\n    \
         patch:\n      operation: MERGE\n      value:\n        typed_per_filter_config:\n          \
         envoy.filters.http.local_ratelimit: {}\n",
        typed(value)
    )
}

/// Puts a file of the configuration in force.
fn apply(bed: &Bed, name: &str, text: &str) -> Result<()> {
    let before = bed.generation()?;
    bed.write(name, text)?;
    bed.wait_for_generation(before)?;
    let problems = bed.status()?["problems"].to_string();
    ensure!(!problems.contains("EnvoyFilter"), "{problems}");
    Ok(())
}

/// How many of some requests on one connection are answered 200; the others must be 429.
fn passed(place: &impl Place, to: &str, path: &str, requests: usize) -> Result<usize> {
    pass(&mut RawClient::connect(place, to.parse()?)?, path, requests)
}

/// The same on a connection that stands.
fn pass(raw: &mut RawClient, path: &str, requests: usize) -> Result<usize> {
    let mut passed = 0;
    for _ in 0..requests {
        let response = raw.get("web", path, &[])?;
        if response.status == 200 {
            passed += 1;
            continue;
        }
        ensure!(response.status == 429, "{response:?}");
        ensure!(response.body == "local_rate_limited", "{response:?}");
        for (name, value) in [
            ("x-local-rate-limit", "true"),
            ("x-envoy-ratelimited", "true"),
            ("content-type", "text/plain"),
        ] {
            let found = response.headers.get(name).map(String::as_str);
            ensure!(found == Some(value), "{name}: {response:?}");
        }
    }
    Ok(passed)
}

#[test]
fn requests_past_a_limit_are_answered_where_they_are_sent() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("limit", shape, ALL)?;
        apply(&bed, "limit.yaml", &filter(&limit(10, HOUR, "")))?;
        assert_eq!(passed(&bed.client, WEB, "/", 30)?, 10);
        assert_eq!(bed.requests("answered", "rate_limited")?, 20);
        assert_eq!(bed.lane("detour")?, 0);
        // straight to the pod it is the same bucket
        let straight = format!("{}:8080", bed.v1.ip4());
        assert_eq!(passed(&bed.client, &straight, "/", 2)?, 0);
        // and the other pod has one of its own
        let straight = format!("{}:8080", bed.v2.ip4());
        assert_eq!(passed(&bed.client, &straight, "/", 12)?, 10);
        // what else is configured costs no tokens, and brings none
        let before = bed.generation()?;
        bed.route(&ALL.replace("x-by: detour", "x-by: way"))?;
        bed.wait_for_generation(before)?;
        assert_eq!(passed(&bed.client, WEB, "/", 2)?, 0);
        // another limit is another bucket
        apply(&bed, "limit.yaml", &filter(&limit(3, HOUR, "")))?;
        assert_eq!(passed(&bed.client, WEB, "/", 5)?, 3);
        std::fs::remove_file(bed.config.path().join("limit.yaml"))?;
        bed.wait_for_generation(bed.generation()? - 1)?;
        let end = Instant::now() + LIMIT;
        while passed(&bed.client, WEB, "/", 1)? == 0 {
            ensure!(Instant::now() < end, "the limit stays");
        }
    }
    Ok(())
}

#[test]
fn who_comes_from_outside_is_counted_where_he_comes_in() -> Result<()> {
    let mut bed = Bed::new("outside", SHORTCUT, ALL)?;
    bed.record_requests()?;
    apply(&bed, "limit.yaml", &filter(&limit(10, HOUR, "")))?;
    let ends = [SocketAddr::from((bed.v1.ip4(), 8080)), SocketAddr::from((bed.v1.ip6(), 8080))];
    // one bucket, whichever address of the pod is called
    let mut passed = 0;
    for end in ends {
        let mut raw = RawClient::connect_in(&bed.client, end, false)?;
        passed += pass(&mut raw, "/", 15)?;
        // one that is refused takes its body along
        let post = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello";
        ensure!(raw.request(post)?.status == 429);
    }
    assert_eq!(passed, 10);
    assert_eq!(bed.requests("native", "visit")?, 10);
    assert_eq!(bed.requests("answered", "rate_limited")?, 22);
    assert_eq!(bed.recorded_paths().len(), 10, "the application hears of no other");
    // the same bucket as for who is in the mesh, and no tokens for what policies forbid
    assert_eq!(self::passed(&bed.client, &ends[0].to_string(), "/", 2)?, 0);
    apply(&bed, "limit.yaml", &filter(&limit(3, HOUR, "")))?;
    apply(&bed, "policy.yaml", NO_ADMIN)?;
    let mut raw = RawClient::connect_in(&bed.client, ends[0], false)?;
    assert_eq!(raw.get("web", "/admin", &[])?.status, 403);
    assert_eq!(pass(&mut raw, "/", 5)?, 3);
    // what nobody can count is not let in
    raw.send("GET / HTTP/1.1\r\nHost: web\r\n\r\nGET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    assert_eq!(raw.recv_until_close()?.1, "ECONNRESET");
    Ok(())
}

#[test]
fn kernel_and_proxy_take_of_one_bucket() -> Result<()> {
    let bed = Bed::new("shared", SHORTCUT, ALL)?;
    apply(&bed, "limit.yaml", &filter(&limit(10, HOUR, "")))?;
    assert_eq!(passed(&bed.client, WEB, "/", 4)?, 4);
    assert_eq!(passed(&bed.client, WEB, "/detour", 4)?, 4);
    assert_eq!(passed(&bed.client, WEB, "/", 4)?, 2);
    assert_eq!(passed(&bed.client, WEB, "/detour", 3)?, 0);
    assert_eq!(bed.requests("answered", "rate_limited")?, 2);
    let mut refused = Vec::new();
    wait_until("the refusals of the proxy in the access log", || {
        let log = std::fs::read_to_string(bed.state.path().join("access.log"))?;
        let of_proxy = |line: &&str| line.contains("\"lane\":\"detour\"") && line.contains("RL");
        refused = log.lines().filter(of_proxy).map(str::to_owned).collect();
        Ok(refused.len() >= 3)
    })?;
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused.iter().all(|line| line.contains("EnvoyFilter default/limit")), "{refused:?}");
    // an answer to HEAD has no body, and is given by the proxy
    let head = curl(&bed.client, &["-sS", "-I", &format!("http://{WEB}/")])?.success()?.stdout;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    // a body that comes later is for the proxy to drain
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    raw.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\n")?;
    raw.send("body")?;
    assert_eq!(raw.response()?.status, 429);
    // and two requests in one write too
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    let get = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    raw.send(&format!("{get}{get}"))?;
    assert_eq!([raw.response()?.status, raw.response()?.status], [429, 429]);
    Ok(())
}

#[test]
fn tokens_come_back_when_the_interval_is_over() -> Result<()> {
    let bed = Bed::new("refill", NATIVE, ALL)?;
    let interval = Duration::from_secs(5);
    apply(&bed, "limit.yaml", &filter(&limit(2, "tokens_per_fill: 2, fill_interval: 5s", "")))?;
    let start = Instant::now();
    assert_eq!(passed(&bed.client, WEB, "/", 3)?, 2);
    ensure!(start.elapsed() < interval, "the machine is too busy for this");
    while passed(&bed.client, WEB, "/", 1)? == 0 {
        ensure!(start.elapsed() < LIMIT, "no token comes");
    }
    assert!(start.elapsed() >= interval, "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_refusal_is_not_tried_again_and_buckets_outlive_the_agent() -> Result<()> {
    let rules = "- retries: {attempts: 3, retryOn: \"429,5xx\"}\n  \
                 route: [{destination: {host: web, subset: v1}}]\n";
    let mut bed = Bed::new("again", NATIVE, rules)?;
    apply(&bed, "limit.yaml", &filter(&limit(3, HOUR, "")))?;
    assert_eq!(passed(&bed.client, WEB, "/", 5)?, 3);
    assert_eq!(bed.status()?["proxy"]["retries"], 0);
    bed.route(ALL)?;
    drop(bed.agent.take());
    bed.start_agent()?;
    assert_eq!(passed(&bed.client, WEB, "/", 2)?, 0);
    assert_eq!(bed.requests("answered", "rate_limited")?, 2);
    Ok(())
}

#[test]
fn each_caller_has_a_bucket_where_the_limit_is_for_callers() -> Result<()> {
    let bed = Bed::new("source", SHORTCUT, ALL)?;
    let each = "descriptors: [{entries: [{key: remote_address}], token_bucket: {max_tokens: 5, \
                fill_interval: 3600s}}], rate_limits: [{actions: [{remote_address: {}}]}]";
    apply(&bed, "limit.yaml", &filter(&limit(12, HOUR, each)))?;
    assert_eq!(passed(&bed.client, WEB, "/", 4)?, 4);
    assert_eq!(passed(&bed.client, WEB, "/detour", 4)?, 1);
    assert_eq!(passed(&bed.v2, WEB, "/", 9)?, 5);
    // 10 of the 12 tokens that are for all are gone
    assert_eq!(passed(&bed.v1, WEB, "/", 9)?, 2);
    Ok(())
}

#[test]
fn some_requests_have_a_bucket_of_their_own() -> Result<()> {
    let bed = Bed::new("some", NATIVE, ALL)?;
    let api = "descriptors: [{entries: [{key: header_match, value: api}], token_bucket: \
               {max_tokens: 2, fill_interval: 3600s}}], rate_limits: [{actions: \
               [{header_value_match: {descriptor_value: api, headers: [{name: ':path', \
               string_match: {prefix: /api}}]}}]}], always_consume_default_token_bucket: false";
    apply(&bed, "limit.yaml", &filter(&limit(3, HOUR, api)))?;
    assert_eq!(passed(&bed.client, WEB, "/api/x?y", 5)?, 2);
    assert_eq!(passed(&bed.client, WEB, "/other", 5)?, 3);
    assert_eq!(bed.lane("detour")?, 0);
    // a path that has to be normalised is looked at by the proxy
    assert_eq!(passed(&bed.client, WEB, "/x/../api", 1)?, 0);
    Ok(())
}

#[test]
fn a_port_of_the_service_may_have_a_limit_of_its_own() -> Result<()> {
    let bed = Bed::new("port", NATIVE, ALL)?;
    let _server = spawn_ready(http_server(&bed.v1, 8081, "v1")?)?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: more, namespace: default}\n\
                   spec:\n  clusterIP: 10.96.0.30\n  selector: {version: v1}\n  ports:\n  \
                   - {name: http, port: 81, targetPort: 8081}\n";
    apply(&bed, "more.yaml", service)?;
    let more = "10.96.0.30:81";
    let both = filter(&limit(4, HOUR, "")) + &on_port(81, &limit(2, HOUR, ""));
    apply(&bed, "limit.yaml", &both)?;
    assert_eq!(passed(&bed.client, more, "/", 5)?, 2);
    assert_eq!(passed(&bed.client, WEB, "/", 5)?, 4);
    let one = filter("{stat_prefix: x}") + &on_port(81, &limit(3, HOUR, ""));
    apply(&bed, "limit.yaml", &one)?;
    assert_eq!(passed(&bed.client, more, "/", 5)?, 3);
    assert_eq!(passed(&bed.client, WEB, "/", 9)?, 9);
    Ok(())
}

#[test]
fn what_a_policy_forbids_takes_no_token() -> Result<()> {
    let bed = Bed::new("order", NATIVE, ALL)?;
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: no, namespace: default}\nspec:\n  \
                  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules:\n  \
                  - to: [{operation: {paths: [/admin*, /detour/admin*]}}]\n";
    apply(&bed, "policy.yaml", policy)?;
    apply(&bed, "limit.yaml", &filter(&limit(3, HOUR, "")))?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    for path in ["/admin", "/detour/admin"] {
        for _ in 0..5 {
            assert_eq!(raw.get("web", path, &[])?.status, 403, "{path}");
        }
    }
    assert_eq!(passed(&bed.client, WEB, "/", 5)?, 3);
    assert_eq!(raw.get("web", "/admin", &[])?.status, 403, "also without tokens");
    Ok(())
}

#[test]
fn a_token_is_taken_once_by_many_at_a_time() -> Result<()> {
    for shape in [NATIVE, SHORTCUT] {
        let bed = Bed::new("many", shape, ALL)?;
        apply(&bed, "limit.yaml", &filter(&limit(700, HOUR, "")))?;
        let report = Load::new(format!("http://{WEB}/"), 2_000).connections(4).run(&bed.client)?;
        assert_eq!(report.status.get("200"), Some(&700), "{report:?}");
        assert_eq!(report.status.get("429"), Some(&1_300), "{report:?}");
        assert_eq!(report.errors, 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_limit_that_is_not_enforced_is_counted() -> Result<()> {
    let bed = Bed::new("count", NATIVE, ALL)?;
    let none = "filter_enforced: {default_value: {numerator: 0}}";
    let before = bed.generation()?;
    bed.write("limit.yaml", &filter(&limit(10, HOUR, none)))?;
    bed.wait_for_generation(before)?;
    assert_eq!(passed(&bed.client, WEB, "/", 30)?, 30);
    assert_eq!(bed.counter("rate_limits_not_enforced")?, 20);
    assert_eq!(bed.requests("answered", "rate_limited")?, 0);
    Ok(())
}

#[test]
fn calls_of_grpc_to_a_single_endpoint_are_limited_too() -> Result<()> {
    let bed = Bed::new("grpc", SHORTCUT, ALL)?;
    let _server = grpc_server(&bed.v1, 8090, "v1")?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: greeter, namespace: default}\n\
                   spec:\n  clusterIP: 10.96.0.22\n  selector: {version: v1}\n  ports:\n  \
                   - {name: grpc, port: 50051, targetPort: 8090}\n";
    apply(&bed, "greeter.yaml", service)?;
    apply(&bed, "limit.yaml", &filter(&limit(2, HOUR, "")))?;
    let echo = || call(&bed.client, "10.96.0.22:50051".parse()?, "/testbed.Peer/Echo", &[]);
    for _ in 0..2 {
        let called = echo()?;
        assert_ne!(called.field("grpc-message"), "local_rate_limited", "{called:?}");
    }
    let called = echo()?;
    assert_eq!(called.statuses(), (200, "14"), "{called:?}");
    assert_eq!(called.field("grpc-message"), "local_rate_limited");
    assert_eq!(called.field("x-local-rate-limit"), "true");
    Ok(())
}
