//! Istio's Telemetry and what its MeshConfig says of access logs and traces: what holds for whom, and
//! that nothing is left out in silence.

use std::collections::BTreeMap;
use std::path::PathBuf;

use beeway_config::{Loaded, Options, load};
use beeway_model::Telemetry;
use beeway_model::telemetry::{Format, LogFile, Side, Tag};

const BASE: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: otel, namespace: watch}, spec: {clusterIP: 10.96.0.9, ports: [{name: otlp, port: 4317}, {name: http-otlp, port: 4318}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web, tier: front}}, status: {podIP: 10.0.0.1, phase: Running}}
";

fn loaded(mesh: &str, more: &str) -> Loaded {
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    let config = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  \
         mesh: |\n{indented}"
    );
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    let mut files = vec![file("base.yaml", BASE), file("t.yaml", more)];
    if !mesh.is_empty() {
        files.push(file("m.yaml", &config));
    }
    load(&files, &Options::default())
}

fn clean(mesh: &str, more: &str) -> Telemetry {
    let loaded = loaded(mesh, more);
    assert_eq!(loaded.problems, []);
    loaded.mesh.telemetry
}

fn said(mesh: &str, more: &str) -> Vec<String> {
    loaded(mesh, more).problems.iter().map(ToString::to_string).collect()
}

/// A Telemetry; its `spec` begins on line 4.
fn object(namespace: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}---\n"
    )
}

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

/// Who logs, with which filters; `None`: nothing is said.
fn logging(telemetry: &Telemetry, who: (&str, &str), side: Side) -> Option<Vec<String>> {
    let wanted = telemetry.logging(who.0, &labels(who.1), side)?;
    let text = wanted.iter().map(|to| match to.filter {
        Some(filter) => format!("{} if {}", to.provider, filter.text()),
        None => to.provider.to_owned(),
    });
    Some(text.collect())
}

const PROVIDERS: &str = "extensionProviders:
- name: errors
  envoyFileAccessLog: {path: /var/log/beeway/errors.log, logFormat: {text: \"%RESPONSE_CODE% %REQ(:PATH)%\\n\"}}
- name: lines
  envoyFileAccessLog: {logFormat: {labels: {code: '%RESPONSE_CODE%'}}}
- name: otel
  opentelemetry: {service: otel.watch.svc.cluster.local, port: 4317}
- name: otel-http
  opentelemetry: {service: watch/otel.watch.svc.cluster.local, port: 4318, http: {path: /v1/traces}}
- name: prometheus
  prometheus: {}
";

#[test]
fn a_workload_s_object_goes_before_its_namespace_s_and_that_before_the_mesh_s() {
    let text = [
        object("istio-system", "mesh", "accessLogging:\n- providers: [{name: envoy}]"),
        object("shop", "all", "accessLogging:\n- filter: {expression: response.code >= 500}"),
        object(
            "shop",
            "web",
            "selector: {matchLabels: {app: web}}\naccessLogging:\n- providers: [{name: errors}]\n  \
             filter: {expression: response.code >= 400}",
        ),
        object("quiet", "all", "accessLogging:\n- disabled: true"),
        object(
            "quiet",
            "loud",
            "selector: {matchLabels: {app: web}}\naccessLogging:\n- disabled: false",
        ),
        object(
            "ends",
            "all",
            "accessLogging:\n- match: {mode: SERVER}\n  disabled: true\n- match: {mode: CLIENT}\n  \
             providers: [{name: errors}, {name: envoy}]",
        ),
        // of the namespace alone, although it is the root's
        object(
            "istio-system",
            "own",
            "selector: {matchLabels: {app: web}}\naccessLogging:\n- disabled: true",
        ),
    ]
    .concat();
    let telemetry = clean(PROVIDERS, &text);
    for (who, side, wanted) in [
        (("other", "web"), Side::Client, &["envoy"][..]),
        (("shop", "db"), Side::Server, &["envoy if response.code >= 500"]),
        (("shop", "web"), Side::Client, &["errors if response.code >= 400"]),
        (("quiet", "db"), Side::Client, &[]),
        (("quiet", "web"), Side::Client, &["envoy"]),
        (("ends", "x"), Side::Server, &[]),
        (("ends", "x"), Side::Client, &["errors", "envoy"]),
        (("istio-system", "web"), Side::Client, &[]),
        (("istio-system", "db"), Side::Client, &["envoy"]),
    ] {
        let got = logging(&telemetry, who, side).expect("the mesh's is for all");
        assert_eq!(got, wanted, "{who:?} {side:?}");
    }
}

#[test]
fn nothing_is_said_of_those_that_no_object_is_for() {
    let text = object("shop", "all", "accessLogging:\n- {}");
    let telemetry = clean("", &text);
    assert!(telemetry.says_logging() && !telemetry.says_tracing());
    assert_eq!(logging(&telemetry, ("other", "web"), Side::Client), None);
    // Istio would ask nobody here
    assert_eq!(logging(&telemetry, ("shop", "web"), Side::Client), Some(vec!["envoy".into()]));
    let telemetry = clean("defaultProviders: {accessLogging: [envoy]}\n", "");
    assert_eq!(logging(&telemetry, ("other", "x"), Side::Server), Some(vec!["envoy".into()]));
}

#[test]
fn fields_of_tracing_are_inherited_one_by_one() {
    let text = [
        object("istio-system", "mesh", "tracing:\n- randomSamplingPercentage: 10"),
        object(
            "shop",
            "all",
            "tracing:\n- providers: [{name: otel-http}]\n  customTags:\n    team: {literal: {value: \
             shop}}\n    agent: {header: {name: User-Agent, defaultValue: none}}",
        ),
        object(
            "shop",
            "web",
            "selector: {matchLabels: {app: web}}\ntracing:\n- match: {mode: CLIENT}\n  \
             randomSamplingPercentage: 12.5\n- match: {mode: SERVER}\n  disableSpanReporting: true",
        ),
    ]
    .concat();
    let mesh = format!("{PROVIDERS}defaultProviders: {{tracing: [otel], metrics: [prometheus]}}\n");
    let telemetry = clean(&mesh, &text);
    let trace = |namespace, app: &str, side| {
        let trace =
            telemetry.tracing(namespace, &labels(app), side).expect("the mesh's is for all");
        trace.map(|to| (to.provider, to.sampling, to.tags.len()))
    };
    assert_eq!(trace("other", "x", Side::Client), Some((Some("otel"), Some(10.0), 0)));
    assert_eq!(trace("shop", "db", Side::Client), Some((Some("otel-http"), Some(10.0), 2)));
    assert_eq!(trace("shop", "web", Side::Client), Some((Some("otel-http"), Some(12.5), 2)));
    assert_eq!(trace("shop", "web", Side::Server), None);
    let tags = telemetry.tracing("shop", &labels("db"), Side::Client).flatten().expect("one").tags;
    let header = Tag::Header { name: "user-agent".into(), default: "none".into() };
    assert_eq!(tags[0], ("agent".to_owned(), header));
    let collector = &telemetry.collectors[1];
    assert_eq!((collector.port, collector.path.as_deref()), (4318, Some("/v1/traces")));
    assert_eq!(collector.host, "otel.watch.svc.cluster.local");
}

#[test]
fn the_mesh_has_a_log_of_its_own() {
    let telemetry = clean("accessLogFile: /dev/stdout\n", "");
    assert_eq!((telemetry.log_file, telemetry.log_format), (Some(LogFile::Standard), None));
    let telemetry = clean("accessLogFile: /var/log/a.log\naccessLogEncoding: TEXT\n", "");
    assert_eq!(telemetry.log_file, Some(LogFile::Path("/var/log/a.log".into())));
    assert_eq!(telemetry.log_format, Some(Format::default_text()));
    let telemetry =
        clean("accessLogEncoding: JSON\naccessLogFormat: '{\"c\": \"%PROTOCOL%\"}'\n", "");
    assert_eq!(telemetry.log_format, Some(Format::json([("c", "%PROTOCOL%")]).expect("it is one")));
    let telemetry = clean("accessLogFormat: \"%PROTOCOL%\\n\"\n", "");
    assert_eq!(telemetry.log_format, Some(Format::text("%PROTOCOL%\n").expect("it is one")));
}

#[test]
fn what_is_not_carried_out_is_told_with_its_line() {
    let label = "Telemetry shop/t";
    for (spec, wanted) in [
        (
            "metrics: [{providers: [{name: prometheus}]}]",
            "5: warning: {}: metrics are not changed: they are told as they are without it",
        ),
        (
            "targetRefs: [{kind: Service, name: a}]",
            "5: error: {}: targetRefs is not supported; it is not applied",
        ),
        (
            "selector: {matchExpressions: []}",
            "5: error: {}: spec.selector.matchExpressions is not known: a condition cannot be ignored; not applied",
        ),
        (
            "accessLogging:\n- providers:\n  - name: x",
            "7: error: {}: there is no provider `x` that writes a log; it writes none",
        ),
        (
            "accessLogging:\n- match: {mode: ALL}",
            "6: error: {}: mode ALL is none of CLIENT, SERVER and CLIENT_AND_SERVER; the entry is not applied",
        ),
        (
            "accessLogging:\n- match: {metric: X}",
            "6: error: {}: spec.accessLogging.0.match.metric is not known: a condition cannot be ignored; not applied",
        ),
        (
            "accessLogging:\n- disabled: false\n  filter:\n    expression: response.cod == 1",
            "8: error: {}: at 1: response.cod is not known; without the filter everything is logged",
        ),
        (
            "accessLogging:\n- odd: 1",
            "6: warning: {}: spec.accessLogging.0.odd is not known; it is ignored",
        ),
        (
            "tracing:\n- providers: [{name: zipkin}]",
            "6: error: {}: there is no provider `zipkin` that takes spans; none are made",
        ),
        (
            "tracing:\n- randomSamplingPercentage: 101",
            "6: error: {}: it is not from 0 to 100; it is ignored",
        ),
        (
            "tracing:\n- useRequestIdForTraceSampling: true",
            "6: warning: {}: request identities do not decide what is sampled; it is ignored",
        ),
        (
            "tracing:\n- customTags:\n    a: {header: {name: cookie}}",
            "7: error: {}: of the fields of a request only",
        ),
        (
            "tracing:\n- customTags:\n    a: {environment: {name: HOME}}",
            "7: warning: {}: workloads have no proxy, of whose environment HOME could be; the tag is left out",
        ),
        (
            "tracing:\n- customTags:\n    a: {}",
            "7: error: {}: a tag is one of literal, header and environment; it is left out",
        ),
    ] {
        let said = said("", &object("shop", "t", spec));
        let wanted = format!("t.yaml:{}", wanted.replace("{}", label));
        assert!(said.len() == 1 && said[0].starts_with(&wanted), "{spec}: {said:?}");
    }
    // a filter that cannot be read costs no line of the log
    let text = object("shop", "t", "accessLogging:\n- filter: {expression: nonsense}");
    let telemetry = loaded("", &text).mesh.telemetry;
    assert_eq!(logging(&telemetry, ("shop", "x"), Side::Client), Some(vec!["envoy".into()]));
}

#[test]
fn of_two_objects_for_the_same_one_counts() {
    let first = object("shop", "a", "accessLogging: [{disabled: true}]");
    let second = object("shop", "b", "accessLogging: [{disabled: false}]");
    let said_of = said("", &format!("{first}{second}"));
    let wanted = "t.yaml:7: warning: Telemetry shop/b: Telemetry shop/a is for its namespace too and \
                  comes first; that one counts there, this one does not";
    assert_eq!(said_of, [wanted]);
    let first = object("shop", "a", "selector: {matchLabels: {app: web}}");
    let second = object("shop", "b", "selector: {matchLabels: {tier: front}}");
    assert_eq!(said("", &format!("{first}{second}")).len(), 1);
    let other = object("shop", "b", "selector: {matchLabels: {tier: back}}");
    assert_eq!(said("", &format!("{first}{other}")), [""; 0]);
}

#[test]
fn the_mesh_config_is_read_strictly() {
    let place = "error: ConfigMap istio-system/istio:";
    for (mesh, line, wanted) in [
        ("accessLogFile: /etc/cron.d/x", 6, "`/etc/cron.d/x` is neither /dev/stdout"),
        ("accessLogFile: /var/log/../x", 6, "`/var/log/../x` is neither"),
        ("a: 1\naccessLogFormat: '%X%'", 7, "%X% is not known; lines are written in the default"),
        ("accessLogEncoding: XML", 6, "accessLogEncoding XML is neither TEXT nor JSON;"),
        (
            "extensionProviders:\n- name: o\n  opentelemetry: {service: otel.watch.svc.cluster.local, port: 1}",
            7,
            "provider o: otel.watch.svc.cluster.local has no port 1; no spans go there",
        ),
        (
            "extensionProviders:\n- name: o\n  opentelemetry:\n    service: o\n    port: 1\n    maxTagLength: 8",
            11,
            "opentelemetry.maxTagLength is not known; the provider is not there",
        ),
        (
            "extensionProviders:\n- name: f\n  envoyFileAccessLog:\n    logFormat: {text: '%Y%'}",
            9,
            "%Y% is not known; the provider is not there",
        ),
        ("defaultProviders: {accessLogging: [x]}", 6, "there is no provider `x` that writes a log"),
        ("defaultProviders: {tracing: [x]}", 6, "there is no provider `x` that takes spans"),
        ("defaultProviders: {logs: [x]}", 6, "defaultProviders.logs is not known; there are none"),
        ("defaultConfig: {tracing: {sampling: 1}}", 6, "defaultConfig.tracing is not supported;"),
    ] {
        let said = said(mesh, "");
        let wanted = format!("m.yaml:{line}: {place} {wanted}");
        assert!(said.len() == 1 && said[0].starts_with(&wanted), "{mesh}: {said:?}");
    }
    let said = said("extensionProviders:\n- name: z\n  zipkin: {service: z, port: 1}", "");
    let wanted = "m.yaml:8: warning: ConfigMap istio-system/istio: a provider of kind zipkin is not \
                  supported; it is not there";
    assert_eq!(said, [wanted]);
}
