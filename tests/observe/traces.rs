//! Spans, as a collector gets them that decodes them with OpenTelemetry's own messages.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use beeway_testbed::{Place, Pod, Process, needs_made};
use serde_json::{Value, json};

use crate::bed::{LIMIT, binary, wait_until};
use crate::scene::{LANES, Scene};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A pod that collects.
struct Collector {
    pod: Pod,
    process: Process,
}

impl Collector {
    fn start(scene: &Scene) -> Result<Collector> {
        let pod = scene.bed.node.plain_pod("otel")?;
        let process = Collector::run(&pod)?;
        Ok(Collector { pod, process })
    }

    fn run(pod: &Pod) -> Result<Process> {
        let python = needs_made("otlp", "venv/bin/python3")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/observe/collector.py");
        let process = pod.command(python).arg(script).args(["4318", "4317"]).spawn()?;
        process.wait_for_line("collecting", LIMIT)?;
        Ok(process)
    }

    /// `--otlp` for it.
    fn url(&self) -> String {
        format!("http://{}:4318", self.pod.ip4())
    }

    fn spans(&self) -> Vec<Value> {
        let lines = self.process.stdout();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The spans, once there are as many; some time later there must not be more.
    fn wait(&self, wanted: usize) -> Result<Vec<Value>> {
        wait_until("spans arrive", || Ok(self.spans().len() >= wanted))?;
        std::thread::sleep(Duration::from_millis(1500));
        let spans = self.spans();
        ensure!(spans.len() == wanted, "{} spans of {wanted}: {spans:#?}", spans.len());
        Ok(spans)
    }
}

fn context(sampled: bool) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

#[test]
fn the_application_s_context_decides() -> Result<()> {
    let mut scene = Scene::new("context", &[], &[])?;
    let collector = Collector::start(&scene)?;
    scene.restart(&["--otlp", &collector.url(), "--trace-sample", "0"])?;
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    for (_, prefix) in LANES {
        scene.get(&format!("{prefix}/yes?token=secret"), &[&context(true), "user-agent: app"])?;
        scene.get(&format!("{prefix}/no"), &[&context(false)])?;
        scene.get(&format!("{prefix}/none"), &[])?;
    }
    let spans = collector.wait(2)?;
    assert_ne!(spans[0]["id"], spans[1]["id"]);
    for ((lane, prefix), span) in LANES.iter().zip({
        let mut spans = spans.clone();
        spans.sort_by_key(|span| span["attributes"]["beeway.lane"] != "native");
        spans
    }) {
        for (key, wanted) in [
            ("by", json!("http")),
            ("trace", json!(TRACE)),
            ("parent", json!(PARENT)),
            ("name", json!("GET")),
            ("kind", json!(3)),
            ("flags", json!(1)),
            ("status", json!(0)),
            ("scope", json!("beeway")),
            ("unknown", json!(0)),
        ] {
            assert_eq!(span[key], wanted, "{key}: {span:#}");
        }
        assert_eq!(span["id"].as_str().map(str::len), Some(16), "{span:#}");
        let (start, end) = (span["start"].as_u64(), span["end"].as_u64());
        let ordered = start.zip(end).is_some_and(|(a, b)| before <= a + 1_000_000_000 && a < b);
        assert!(ordered, "{span:#}");
        assert_eq!(span["resource"]["service.name"], "client", "{span:#}");
        assert_eq!(span["resource"]["service.namespace"], "default", "{span:#}");
        let path = format!("{prefix}/yes");
        for (key, wanted) in [
            ("http.request.method", json!("GET")),
            ("http.response.status_code", json!(200)),
            ("url.full", json!(format!("http://web{path}"))),
            ("url.path", json!(path)),
            ("server.address", json!("web")),
            ("server.port", json!(80)),
            ("user_agent.original", json!("app")),
            ("network.protocol.version", json!("1.1")),
            ("network.peer.port", json!(8080)),
            ("beeway.lane", json!(lane)),
            ("beeway.verdict", json!("forwarded")),
            ("beeway.service", json!("web.default.svc.cluster.local")),
            ("beeway.destination.workload", json!("v1")),
        ] {
            assert_eq!(span["attributes"][key], wanted, "{key}: {span:#}");
        }
        assert!(!span.to_string().contains("secret"), "{span:#}");
    }
    assert_eq!(scene.counter("beeway_spans_exported_total")?, 2);
    assert_eq!(scene.counter("beeway_spans_dropped_total")?, 0);
    Ok(())
}

#[test]
fn requests_without_a_context_begin_traces() -> Result<()> {
    let mut scene = Scene::new("roots", &[], &[])?;
    let collector = Collector::start(&scene)?;
    scene.restart(&["--otlp", &collector.url(), "--trace-sample", "100"])?;
    for path in ["/detour/status/404", "/nobody", "/forbidden", "/a"] {
        scene.get(path, &[])?;
    }
    let spans = collector.wait(4)?;
    let mut seen: Vec<Value> = spans
        .iter()
        .map(|span| {
            assert_eq!(
                (&span["parent"], span["trace"].as_str().map(str::len)),
                (&json!(""), Some(32))
            );
            let of = |key: &str| span["attributes"][key].clone();
            let path = of("url.path");
            json!([path, span["status"], of("error.type"), of("beeway.response_flags")])
        })
        .collect();
    seen.sort_by_key(ToString::to_string);
    let wanted = [
        json!(["/a", 0, null, null]),
        json!(["/detour/status/404", 2, "404", null]),
        json!(["/forbidden", 2, "403", null]),
        json!(["/nobody", 2, "503", "UH"]),
    ];
    assert_eq!(seen, wanted);
    Ok(())
}

/// Providers of both kinds, at the collector's pod.
fn files(collector: &Collector) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: otel, namespace: watch}}
spec:
  clusterIP: 10.96.0.60
  selector: {{app: otel}}
  ports: [{{name: grpc-otlp, port: 4317}}, {{name: http-otlp, port: 4318}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: otel, namespace: watch, labels: {{app: otel}}}}
spec: {{nodeName: node-1, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIP: {}, conditions: [{{type: Ready, status: 'True'}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: by-grpc
      opentelemetry: {{service: otel.watch.svc.cluster.local, port: 4317}}
    - name: by-http
      opentelemetry: {{service: otel.watch.svc.cluster.local, port: 4318, http: {{path: /v1/traces}}}}
",
        collector.pod.ip4()
    )
}

#[test]
fn telemetry_says_who_is_traced_and_where_spans_go() -> Result<()> {
    let scene = Scene::new("tracing", &[], &[])?;
    let collector = Collector::start(&scene)?;
    scene.apply("otel.yaml", &files(&collector))?;
    let telemetry = |spec: &str| {
        format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\n\
             metadata: {{name: t, namespace: default}}\nspec: {{tracing: [{spec}]}}\n"
        )
    };
    scene.get("/detour/0", &[&context(true)])?;
    // what is told of later goes by what holds then
    wait_until("it has been told of", || {
        let mut flows = Command::new(binary());
        let told =
            flows.args(["flows", "--json", "--state"]).arg(scene.bed.state.path()).output()?;
        Ok(String::from_utf8_lossy(&told.stdout).contains("/detour/0"))
    })?;
    let mut expected = 0;
    for (by, path) in [("grpc", "/detour/1"), ("http", "/detour/2")] {
        let spec = format!(
            "{{providers: [{{name: by-{by}}}], randomSamplingPercentage: 100, customTags: {{team: \
             {{literal: {{value: shop}}}}, agent: {{header: {{name: user-agent, defaultValue: \
             none}}}}}}}}"
        );
        scene.apply("telemetry.yaml", &telemetry(&spec))?;
        scene.get(path, &["user-agent: me"])?;
        expected += 1;
        let spans = collector.wait(expected)?;
        let span = &spans[expected - 1];
        assert_eq!(span["by"], by, "{span:#}");
        assert_eq!(span["attributes"]["url.path"], path, "{span:#}");
        assert_eq!(span["attributes"]["team"], "shop", "{span:#}");
        assert_eq!(span["attributes"]["agent"], "me", "{span:#}");
    }
    let disabled = "{providers: [{name: by-http}], disableSpanReporting: true}";
    scene.apply("telemetry.yaml", &telemetry(disabled))?;
    scene.get("/detour/3", &[&context(true)])?;
    collector.wait(expected)?;
    Ok(())
}

#[test]
fn a_collector_that_is_away_costs_a_warning() -> Result<()> {
    let mut scene = Scene::new("away", &[], &[])?;
    let mut collector = Collector::start(&scene)?;
    collector.process.kill9();
    scene.restart(&["--otlp", &collector.url(), "--trace-sample", "100"])?;
    for n in 0..20 {
        assert_eq!(scene.get(&format!("/detour/{n}"), &[])?.status, 200);
    }
    wait_until("spans are dropped", || Ok(scene.counter("beeway_spans_dropped_total")? == 20))?;
    assert!(scene.counter("beeway_span_export_failures_total")? >= 1);
    let warnings = scene.bed.agent_log().matches("spans could not be sent").count();
    assert_eq!(warnings, 1, "{}", scene.bed.agent_log());
    // when it comes back it gets what comes then
    collector.process = Collector::run(&collector.pod)?;
    wait_until("spans arrive", || {
        scene.get("/detour/back", &[])?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(!collector.spans().is_empty())
    })?;
    assert!(scene.bed.agent_log().contains("spans are sent again"));
    Ok(())
}
