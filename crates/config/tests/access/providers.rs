//! MeshConfig's external authorizers, and what CUSTOM policies become.

use std::time::Duration;

use beeway_config::Loaded;
use beeway_model::access::{CheckedBody, Effect, HttpCheck, ProviderKind, Text};
use beeway_model::{ClusterId, Protocol};

use crate::kit::{Asked, GET, errors, policy, with};

/// A policy that asks `authz`, which MeshConfig describes so; its entries begin on line 8.
fn custom(entries: &str) -> Loaded {
    let entries: String = entries.lines().map(|line| format!("    {line}\n")).collect();
    with(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  \
         meshNetworks: 'networks: {{}}'\n  mesh: |\n    extensionProviders:\n{entries}---\n{}",
        policy(
            "security.istio.io/v1",
            "AuthorizationPolicy",
            "data",
            "action: CUSTOM\nprovider: {name: authz}\nrules: [{to: [{operation: {methods: [GET]}}]}]"
        )
    ))
}

const SERVICE: &str = "service: api.data.svc.cluster.local, port: 80";

#[test]
fn providers_are_asked() {
    let loaded = custom(&format!("- name: authz\n  envoyExtAuthzHttp: {{{SERVICE}}}"));
    assert_eq!(errors(&loaded), [""; 0]);
    let access = GET.of(&loaded.mesh);
    assert!(access.allowed && access.ask.len() == 1);
    assert_eq!(loaded.mesh.access[0].effect, Effect::Custom("authz".to_owned()));
    let [provider] = &loaded.mesh.providers[..] else { panic!() };
    assert_eq!((provider.name.as_str(), provider.port), ("authz", 80));
    assert_eq!(provider.host, "api.data.svc.cluster.local");
    assert_eq!(loaded.mesh.cluster(provider.cluster).name, "api.data.svc.cluster.local:80");
    assert_eq!(provider.timeout, Duration::from_secs(600));
    assert_eq!((provider.fail_open, provider.status_on_error), (false, 403));
    assert_eq!(provider.body, None);
    assert_eq!(provider.kind, ProviderKind::Http(HttpCheck::default()));
}

#[test]
fn every_field_of_a_provider() {
    let loaded = custom(
        "- name: authz\n  envoyExtAuthzHttp:\n    service: data/api.data.svc.cluster.local\n    \
         port: 80\n    timeout: 0.5s\n    failOpen: true\n    clearRouteCache: true\n    \
         statusOnError: '503'\n    pathPrefix: /check\n    includeRequestHeadersInCheck: \
         [X-Auth, x-b3-*]\n    includeAdditionalHeadersInCheck: {X-From: mesh}\n    \
         headersToUpstreamOnAllow: [authorization]\n    headersToDownstreamOnDeny: \
         [set-cookie]\n    headersToDownstreamOnAllow: ['*-id']\n    \
         includeRequestBodyInCheck: {maxRequestBytes: 100, allowPartialMessage: true, \
         packAsBytes: true}\n- name: traces\n  zipkin: {service: z, port: 9}",
    );
    assert_eq!(errors(&loaded), [""; 0]);
    let [provider] = &loaded.mesh.providers[..] else { panic!() };
    assert_eq!(provider.timeout, Duration::from_millis(500));
    assert!(provider.fail_open && provider.clear_route_cache);
    assert_eq!(provider.status_on_error, 503);
    let body = CheckedBody { max_bytes: 100, allow_partial: true, pack_as_bytes: true };
    assert_eq!(provider.body, Some(body));
    let text = |text: &str| vec![Text::parse(text)];
    let check = HttpCheck {
        path_prefix: "/check".to_owned(),
        request_headers: vec![Text::parse("x-auth"), Text::parse("x-b3-*")],
        additional_headers: vec![("x-from".to_owned(), "mesh".to_owned())],
        upstream_on_allow: text("authorization"),
        downstream_on_deny: text("set-cookie"),
        downstream_on_allow: text("*-id"),
    };
    assert_eq!(provider.kind, ProviderKind::Http(check));
}

#[test]
fn grpc_is_spoken_where_nothing_else_is_said() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: opa, namespace: data}\n\
                   spec: {clusterIP: 10.96.0.9, ports: [{port: 9191}]}\n";
    let entry =
        "- name: authz\n  envoyExtAuthzGrpc: {service: opa.data.svc.cluster.local, port: 9191}\n";
    let config = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  \
         mesh: |\n    extensionProviders:\n    {}",
        entry.replace("\n  ", "\n      ")
    );
    let loaded = with(&(config + service));
    assert_eq!(errors(&loaded), [""; 0]);
    let [provider] = &loaded.mesh.providers[..] else { panic!() };
    assert_eq!(provider.kind, ProviderKind::Grpc);
    assert_ne!(provider.cluster, ClusterId(0));
    assert_eq!(loaded.mesh.cluster(provider.cluster).protocol, Protocol::Http2);
}

/// Without a provider that can be asked, what it would have been asked about is denied.
#[test]
fn providers_that_cannot_be_asked_deny() {
    let kind = "envoyExtAuthzHttp";
    for (entries, line, said) in [
        (format!("- name: other\n  {kind}: {{{SERVICE}}}"), 0, String::new()),
        (
            format!("- name: authz\n  {kind}: {{service: nope.data, port: 80}}"),
            8,
            "provider authz: nope.data is no service".to_owned(),
        ),
        (
            format!(
                "- name: authz\n  {kind}: {{service: shop/api.data.svc.cluster.local, port: 80}}"
            ),
            8,
            "provider authz: shop/api.data.svc.cluster.local is no service".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}: {{service: api.data.svc.cluster.local, port: 81}}"),
            8,
            "provider authz: api.data.svc.cluster.local has no port 81".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}: {{service: api.data.svc.cluster.local, port: 90}}"),
            8,
            "provider authz: port 90 of api.data.svc.cluster.local speaks no HTTP".to_owned(),
        ),
        (
            format!("- name: authz\n  envoyExtAuthzGrpc: {{{SERVICE}}}"),
            8,
            "provider authz: port 80 of api.data.svc.cluster.local speaks no HTTP/2".to_owned(),
        ),
        (
            format!("- name: authz\n  envoyExtAuthzGrpc: {{{SERVICE}, pathPrefix: /a}}"),
            9,
            "pathPrefix is of envoyExtAuthzHttp alone".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}:\n    {SERVICE_LINES}    failOpn: true"),
            12,
            "envoyExtAuthzHttp.failOpn is not known".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}: {{{SERVICE}, timeout: soon}}"),
            9,
            "`soon` is no duration".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}: {{{SERVICE}, statusOnError: '99'}}"),
            9,
            "no status of an answer".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}: {{{SERVICE}, pathPrefix: a}}"),
            9,
            "it does not begin with /".to_owned(),
        ),
        (
            format!(
                "- name: authz\n  {kind}: {{{SERVICE}, includeRequestBodyInCheck: {{maxRequestBytes: 0}}}}"
            ),
            9,
            "maxRequestBytes is 0".to_owned(),
        ),
        (
            format!("- name: authz\n  {kind}: {{{SERVICE}}}\n  envoyExtAuthzGrpc: {{{SERVICE}}}"),
            8,
            "a provider has one kind".to_owned(),
        ),
    ] {
        let loaded = custom(&entries);
        let access = GET.of(&loaded.mesh);
        assert!(!access.allowed && access.ask.is_empty(), "{entries}");
        let said = (!said.is_empty()).then(|| {
            let tail = if said.starts_with("provider authz") {
                "policies that name it deny"
            } else {
                "policies that name the provider deny"
            };
            format!("f.yaml:{line}: error: ConfigMap istio-system/istio: {said}; CLOSED: {tail}")
        });
        let found = errors(&loaded);
        assert_eq!(found.first().filter(|_| found.len() > 1), said.as_ref(), "{entries}");
        let last = found.last().unwrap();
        assert!(last.ends_with(
            "AuthorizationPolicy data/p: there is no provider `authz` that can be asked, therefore \
             CLOSED: what a rule matches is denied"
        ), "{last}");
    }
}

const SERVICE_LINES: &str = "service: api.data.svc.cluster.local\n    port: 80\n";

#[test]
fn a_provider_twice_is_none() {
    let entry = format!("- name: authz\n  envoyExtAuthzHttp: {{{SERVICE}}}\n");
    let loaded = custom(&(entry.clone() + &entry));
    assert!(!GET.allowed(&loaded.mesh));
    assert!(errors(&loaded)[0].contains("there are several providers authz"));
}

#[test]
fn a_mesh_config_that_is_no_yaml_has_no_providers() {
    let loaded = custom("- [");
    assert!(!GET.allowed(&loaded.mesh));
    assert!(errors(&loaded)[0].starts_with("f.yaml:"), "{:?}", errors(&loaded));
    let outcome = "there are no extension providers; nothing of it is kept";
    assert!(errors(&loaded)[0].ends_with(outcome));
}

/// A MeshConfig, whose text begins on line 6 of its document.
fn mesh_config(text: &str) -> String {
    let text: String = text.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  \
         mesh: |\n{text}---\n"
    )
}

/// The mesh with a MeshConfig and a policy `data/p` that denies these sources.
fn denying(config: &str, source: &str) -> Loaded {
    let spec = format!("action: DENY\nrules: [{{from: [{{source: {{{source}}}}}]}}]");
    let deny = policy("security.istio.io/v1", "AuthorizationPolicy", "data", &spec);
    with(&(mesh_config(config) + &deny))
}

/// What policies mean in the whole mesh is not lost with the rest.
#[test]
fn of_a_mesh_config_that_is_no_yaml_names_are_kept() {
    let text = "rootNamespace: shop\nextensionProviders: [\ntrustDomain: td\n\
                trustDomainAliases:\n- old\naccessLogFile: a: b\n";
    for source in ["principals: [td/ns/shop/sa/web-sa]", "principals: [old/ns/shop/sa/web-sa]"] {
        let loaded = denying(text, source);
        assert!(!GET.allowed(&loaded.mesh), "{source}");
        let [error] = &errors(&loaded)[..] else { panic!("{:?}", errors(&loaded)) };
        let kept = "kept of it: rootNamespace, trustDomain, trustDomainAliases";
        assert!(error.ends_with(kept), "{error}");
    }
    let deny = policy("security.istio.io/v1", "AuthorizationPolicy", "shop", "{}");
    assert!(!GET.allowed(&with(&(mesh_config(text) + &deny)).mesh));
    assert!(GET.allowed(&with(&(mesh_config("a: [") + &deny)).mesh));
}

#[test]
fn the_root_namespace_may_be_another() {
    let config = mesh_config("rootNamespace: shop");
    let deny = policy("security.istio.io/v1", "AuthorizationPolicy", "shop", "{}");
    assert!(!GET.allowed(&with(&format!("{config}{deny}")).mesh));
    assert!(GET.allowed(&with(&deny).mesh));
}

#[test]
fn the_trust_domain_may_have_another_name() {
    for (source, denied) in [
        ("principals: [td/ns/shop/sa/web-sa]", true),
        ("principals: ['td/ns/shop/*']", true),
        ("principals: ['t*']", true),
        ("principals: ['*d/ns/shop/sa/web-sa']", true),
        ("principals: ['*d/ns/shop/sa/other']", false),
        ("principals: ['*x/ns/shop/sa/web-sa']", false),
        ("trustDomains: [td]", true),
        ("trustDomains: ['*d']", true),
        ("principals: [cluster.local/ns/shop/sa/web-sa]", true),
        ("principals: [tds/ns/shop/sa/web-sa]", false),
    ] {
        let loaded = denying("trustDomain: td", source);
        assert_eq!(!GET.allowed(&loaded.mesh), denied, "{source}");
    }
}

#[test]
fn the_trust_domain_may_have_aliases() {
    let config = "trustDomain: td\ntrustDomainAliases: [old-td, older-td]";
    for (source, denied) in [
        ("principals: [old-td/ns/shop/sa/web-sa]", true),
        ("principals: [older-td/ns/shop/sa/web-sa]", true),
        ("principals: ['older-td/ns/shop/*']", true),
        ("principals: ['old*']", true),
        ("principals: [td/ns/shop/sa/web-sa]", true),
        ("principals: [other-td/ns/shop/sa/web-sa]", false),
        ("trustDomains: [old-td]", true),
        ("notPrincipals: [old-td/ns/shop/sa/web-sa]", false),
        ("notPrincipals: [other-td/ns/shop/sa/web-sa]", true),
    ] {
        let loaded = denying(config, source);
        assert_eq!(!GET.allowed(&loaded.mesh), denied, "{source}");
        assert_eq!(errors(&loaded), [""; 0]);
    }
    let allow = "rules: [{from: [{source: {notPrincipals: [old-td/ns/shop/sa/web-sa]}}]}]";
    let allow = policy("security.istio.io/v1", "AuthorizationPolicy", "data", allow);
    let loaded = with(&(mesh_config(config) + &allow));
    assert!(!GET.allowed(&loaded.mesh));
    assert!(Asked { from: "10.0.0.3", ..GET }.allowed(&loaded.mesh));
}

#[test]
fn an_alias_that_is_no_text_is_told_of() {
    let loaded = denying("trustDomainAliases:\n- old\n- 1", "principals: [old/ns/shop/sa/web-sa]");
    assert!(!GET.allowed(&loaded.mesh));
    let [error] = &errors(&loaded)[..] else { panic!("{:?}", errors(&loaded)) };
    assert!(error.starts_with("f.yaml:8:") && error.contains("an alias is no text"), "{error}");
}
