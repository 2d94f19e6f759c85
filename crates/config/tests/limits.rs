//! EnvoyFilters that limit rates: what is read, and that nothing is carried out by half.

use std::path::PathBuf;
use std::time::Duration;

use beeway_config::{Loaded, Options, load};
use beeway_model::limits::WHOLE;
use beeway_model::{Bucket, Match, PathMatch, RateLimit, StringMatch};

const BASE: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-b, port: 81, targetPort: 8081}, {name: tcp, port: 82}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, status: {podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop, labels: {app: client}}, status: {podIP: 10.0.0.2, phase: Running}}
";

const FILTER: &str = "  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain:
          filter:
            name: envoy.filters.network.http_connection_manager
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          \"@type\": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value: {stat_prefix: http_local_rate_limiter, LIMIT}
";

const ROUTE: &str = "  - applyTo: HTTP_ROUTE
    match:
      context: SIDECAR_INBOUND
      routeConfiguration:
        vhost: {name: 'inbound|http|PORT', route: {action: ANY}}
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
          envoy.filters.http.local_ratelimit:
            \"@type\": type.googleapis.com/udpa.type.v1.TypedStruct
            type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            value: {stat_prefix: http_local_rate_limiter, LIMIT}
";

const FOUR: &str = "token_bucket: {max_tokens: 4, tokens_per_fill: 2, fill_interval: 60s}, \
    filter_enabled: {runtime_key: a, default_value: {numerator: 100, denominator: HUNDRED}}, \
    filter_enforced: {runtime_key: b, default_value: {numerator: 100, denominator: HUNDRED}}, \
    response_headers_to_add: [{append: false, header: {key: X-Local-Rate-Limit, value: 'true'}}]";

fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", BASE), file("f.yaml", more)], &Options::default())
}

fn filter(namespace: &str, patches: &str) -> Loaded {
    with(&format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n\
         metadata: {{name: limit, namespace: {namespace}}}\nspec:\n  \
         workloadSelector: {{labels: {{app: web}}}}\n  configPatches:\n{patches}"
    ))
}

fn problems(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

/// What holds for a port of the workload `web`.
fn limit(loaded: &Loaded, port: u16) -> Option<&RateLimit> {
    let mesh = &loaded.mesh;
    let web = mesh.workload_at("10.0.0.1".parse().unwrap()).unwrap();
    let client = mesh.workload_at("10.0.0.2".parse().unwrap()).unwrap();
    assert_eq!(mesh.rate_limits(client, port).count(), 0);
    mesh.rate_limits(web, port).next().map(|(_, limit)| limit)
}

fn bucket(limit: &RateLimit) -> &Bucket {
    limit.usual.as_ref().unwrap()
}

#[test]
fn istio_s_example_for_a_workload() {
    for namespace in ["shop", "istio-system"] {
        let loaded = filter(namespace, &FILTER.replace("LIMIT", FOUR));
        assert_eq!(problems(&loaded), [""; 0]);
        let limit = limit(&loaded, 8080).unwrap();
        let bucket = bucket(limit);
        assert_eq!((bucket.capacity, bucket.fill), (4, 2));
        assert_eq!(bucket.interval, Duration::from_secs(60));
        assert_eq!((limit.enabled, limit.enforced, limit.status), (WHOLE, WHOLE, 429));
        assert_eq!(limit.headers, [("x-local-rate-limit".to_owned(), "true".to_owned())]);
    }
    let elsewhere = filter("other", &FILTER.replace("LIMIT", FOUR));
    assert_eq!(limit(&elsewhere, 8080), None);
}

#[test]
fn the_message_may_stand_without_a_struct_around_it() {
    let start = FILTER.find("          \"@type\"").unwrap();
    let direct = format!(
        "{}          {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.\
         local_ratelimit.v3.LocalRateLimit, {FOUR}}}\n",
        &FILTER[..start]
    );
    let loaded = filter("shop", &direct);
    assert_eq!(problems(&loaded), [""; 0]);
    assert_eq!(bucket(limit(&loaded, 8080).unwrap()).capacity, 4);
}

#[test]
fn istio_s_example_for_a_port_of_the_service() {
    let bare = FILTER.replace(", LIMIT", "");
    let patches = bare.clone() + &ROUTE.replace("PORT", "80").replace("LIMIT", FOUR);
    let loaded = filter("shop", &patches);
    assert_eq!(problems(&loaded), [""; 0]);
    assert_eq!(bucket(limit(&loaded, 8080).unwrap()).capacity, 4);
    assert_eq!(limit(&loaded, 8081), None);
    // beside one for all ports it stands in its place
    let other = FOUR.replace("max_tokens: 4", "max_tokens: 9");
    let patches =
        FILTER.replace("LIMIT", FOUR) + &ROUTE.replace("PORT", "81").replace("LIMIT", &other);
    let loaded = filter("shop", &patches);
    assert_eq!(problems(&loaded), [""; 0]);
    let buckets = [8080, 8081].map(|port| bucket(limit(&loaded, port).unwrap()));
    assert_eq!(buckets.map(|bucket| bucket.capacity), [4, 9]);
    assert_ne!(buckets[0].id, buckets[1].id);
    // and where nothing speaks HTTP there is nothing to limit
    let patches = bare + &ROUTE.replace("PORT", "82").replace("LIMIT", FOUR);
    let wanted = "f.yaml:6: warning: EnvoyFilter shop/limit: no port 82 of a service that speaks \
                  HTTP leads to what it selects: nothing is limited there";
    assert_eq!(problems(&filter("shop", &patches)), [wanted]);
}

#[test]
fn descriptors_are_for_callers_and_for_some_requests() {
    let descriptors = "descriptors: [\
        {entries: [{key: remote_address}], token_bucket: {max_tokens: 2, fill_interval: 1s}}, \
        {entries: [{key: PATH, value: /api}, {key: header_match, value: posts}], \
         token_bucket: {max_tokens: 3, fill_interval: 1s}}], \
        rate_limits: [{actions: [{remote_address: {}}]}, \
        {actions: [{request_headers: {header_name: ':path', descriptor_key: PATH}}, \
         {header_value_match: {descriptor_value: posts, headers: [{name: ':method', \
         string_match: {exact: POST}}]}}]}], always_consume_default_token_bucket: false";
    let loaded = filter("shop", &FILTER.replace("LIMIT", &format!("{FOUR}, {descriptors}")));
    assert_eq!(problems(&loaded), [""; 0]);
    let limit = limit(&loaded, 8080).unwrap();
    assert!(!limit.always);
    let [callers, posts] = &limit.special[..] else { panic!("{:?}", limit.special) };
    assert!(callers.per_caller && callers.matches.is_empty());
    assert_eq!((callers.capacity, callers.fill), (2, 1));
    let wanted = Match {
        path: Some(PathMatch::Exact("/api".to_owned())),
        method: Some(StringMatch::Exact("POST".to_owned())),
        ..Match::default()
    };
    assert!(!posts.per_caller);
    assert_eq!(posts.matches, [wanted]);
}

#[test]
fn without_fractions_nothing_happens_and_it_is_told() {
    let bare = "token_bucket: {max_tokens: 4, fill_interval: 60s}";
    let loaded = filter("shop", &FILTER.replace("LIMIT", bare));
    let wanted = "f.yaml:6: warning: EnvoyFilter shop/limit: filter_enabled is 0%, as it is by \
                  default: nothing is limited there";
    assert_eq!(problems(&loaded), [wanted]);
    let thousandth = format!(
        "{bare}, filter_enabled: {{default_value: {{numerator: 10, denominator: TEN_THOUSAND}}}}, \
         filter_enforced: {{default_value: {{numerator: 200}}}}"
    );
    let loaded = filter("shop", &FILTER.replace("LIMIT", &thousandth));
    assert_eq!(problems(&loaded), [""; 0]);
    let limit = limit(&loaded, 8080).unwrap();
    assert_eq!((limit.enabled, limit.enforced), (1_000, WHOLE));
}

#[test]
fn what_is_not_supported_is_an_error_and_nothing_of_it_is_applied() {
    let plain = FILTER.replace("LIMIT", FOUR);
    let changed = |from: &str, to: &str| {
        assert!(plain.contains(from), "{from}");
        plain.replace(from, to)
    };
    let lua = "  - {applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND}, patch: {operation: \
               INSERT_BEFORE, value: {name: envoy.filters.http.lua, typed_config: {}}}}\n";
    for (patches, said) in [
        (changed("SIDECAR_INBOUND", "GATEWAY"), "context `GATEWAY`"),
        (changed("INSERT_BEFORE", "REMOVE"), "operation REMOVE"),
        (changed("v3.LocalRateLimit", "v3.Other"), "it is no envoy.extensions"),
        (changed("max_tokens: 4", "max_tokens: 0"), "greater than 0"),
        (changed("60s", "10ms"), "50ms or more"),
        (changed("true'", "%REQ(x)%'"), "no plain text"),
        (changed("X-Local-Rate-Limit", "content-length"), "cannot be added"),
        (changed("denominator: HUNDRED", "denominator: TEN"), "denominator TEN"),
        (changed("http_local_rate_limiter", "x, status: {code: 999}"), "status 999"),
        (
            changed(
                "http_local_rate_limiter",
                "x, local_rate_limit_per_downstream_connection: true",
            ),
            "local_rate_limit_per_downstream_connection is not known",
        ),
        (
            changed(
                "http_local_rate_limiter",
                "x, descriptors: [{entries: [{key: a, value: b}], \
                     token_bucket: {max_tokens: 1, fill_interval: 1s}}]",
            ),
            "that no actions (rate_limits) ever make",
        ),
        (format!("{plain}{plain}"), "a second time"),
        (ROUTE.replace("PORT", "80").replace("LIMIT", FOUR), "no patch inserts"),
        (
            format!("{plain}{}", ROUTE.replace("PORT", "80").replace(", LIMIT", "")),
            "needs a token_bucket",
        ),
        (
            format!("{plain}{}", ROUTE.replace("inbound|", "outbound|").replace("LIMIT", FOUR)),
            "outbound|",
        ),
        (format!("{plain}{lua}"), "HTTP_FILTER envoy.filters.http.lua: only local rate limits"),
    ] {
        let loaded = filter("shop", &patches);
        assert_eq!(loaded.mesh.limits, [], "{said}");
        let found = problems(&loaded);
        assert!(found.iter().any(|line| line.contains(said)), "{said}: {found:?}");
        let end = "the EnvoyFilter is NOT applied, and limits nothing";
        let loud = |line: &String| line.contains(": error: ") && line.ends_with(end);
        assert!(found.iter().any(loud), "{said}: {found:?}");
    }
}
