//! What is logged.

use anyhow::Result;
use serde_json::Value;

use crate::scene::{LANES, Scene};

/// A Telemetry about access logs.
fn telemetry(namespace: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}---\n"
    )
}

fn codes(records: &[Value]) -> Vec<u64> {
    let mut codes: Vec<u64> =
        records.iter().filter_map(|record| record["response_code"].as_u64()).collect();
    codes.sort_unstable();
    codes
}

#[test]
fn a_filter_leaves_out_what_it_is_not_true_of() -> Result<()> {
    let errors = telemetry(
        "istio-system",
        "mesh",
        "accessLogging:\n- providers: [{name: envoy}]\n  filter: {expression: response.code >= 400}",
    );
    let args = ["--access-log", "STATE/a.log"];
    let scene = Scene::new("filter", &[("telemetry.yaml", &errors)], &args)?;
    for (_, prefix) in LANES {
        for status in [200, 404, 500] {
            assert_eq!(scene.get(&format!("{prefix}/status/{status}"), &[])?.status, status);
        }
    }
    scene.get("/forbidden", &[])?;
    let records = scene.records(&scene.state("a.log"), 5)?;
    assert_eq!(codes(&records), [403, 404, 404, 500, 500]);
    // another one, without a restart
    let agents = telemetry(
        "istio-system",
        "mesh",
        "accessLogging:\n- filter:\n    expression: request.headers['user-agent'].startsWith('x') \
         && request.url_path != '/not' && beeway.lane == 'native'",
    );
    scene.apply("telemetry.yaml", &agents)?;
    for (_, prefix) in LANES {
        scene.get(&format!("{prefix}/yes"), &["user-agent: xyz"])?;
        scene.get(&format!("{prefix}/not"), &["user-agent: xyz"])?;
        scene.get(&format!("{prefix}/none"), &["user-agent: abc"])?;
    }
    let records = scene.records(&scene.state("a.log"), 6)?;
    assert_eq!(records[5]["path"], "/yes");
    Ok(())
}

#[test]
fn a_workload_s_own_goes_before_its_namespace_s_and_the_mesh_s() -> Result<()> {
    let args = ["--access-log", "STATE/a.log"];
    let scene = Scene::new("levels", &[], &args)?;
    let mesh = telemetry("istio-system", "mesh", "accessLogging:\n- disabled: true");
    let namespace = telemetry(
        "default",
        "all",
        "accessLogging:\n- disabled: false\n  filter: {expression: response.code == 404}",
    );
    let workload = telemetry(
        "default",
        "client",
        "selector: {matchLabels: {app: client}}\naccessLogging:\n- filter: {expression: \
         response.code == 500}",
    );
    let path = scene.state("a.log");
    let ask = || -> Result<()> {
        for status in [200, 404, 500] {
            scene.get(&format!("/detour/status/{status}"), &[])?;
        }
        Ok(())
    };
    scene.apply("telemetry.yaml", &mesh)?;
    ask()?;
    assert_eq!(codes(&scene.records(&path, 0)?), [0; 0]);
    scene.apply("telemetry.yaml", &format!("{mesh}{namespace}"))?;
    ask()?;
    assert_eq!(codes(&scene.records(&path, 1)?), [404]);
    // the client's own for its end; the namespace's still for the server's
    scene.apply("telemetry.yaml", &format!("{mesh}{namespace}{workload}"))?;
    ask()?;
    assert_eq!(codes(&scene.records(&path, 3)?), [404, 404, 500]);
    // only what the client's end says
    let server = namespace.replace("- disabled", "- match: {mode: CLIENT}\n    disabled");
    scene.apply("telemetry.yaml", &format!("{mesh}{server}{workload}"))?;
    ask()?;
    assert_eq!(codes(&scene.records(&path, 4)?), [404, 404, 500, 500]);
    // and with none at all everything
    scene.apply("telemetry.yaml", "# nothing\n")?;
    ask()?;
    assert_eq!(scene.records(&path, 7)?.len(), 7);
    Ok(())
}

#[test]
fn telemetry_alone_begins_to_log() -> Result<()> {
    const PROVIDER: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: file
      envoyFileAccessLog: {path: LOGS/a.log}
";
    let scene = Scene::new("alone", &[("provider.yaml", PROVIDER)], &[])?;
    assert!(!std::fs::exists(&scene.logs)?, "nothing is to be logged yet");
    let file = telemetry("default", "all", "accessLogging:\n- providers: [{name: file}]");
    scene.apply("telemetry.yaml", &file)?;
    // more than are told of where not all are wanted
    for _ in 0..20 {
        scene.get("/a", &[])?;
        scene.get("/detour/a", &[])?;
    }
    let path = scene.logs.join("a.log").display().to_string();
    scene.records(&path, 40)?;
    assert_eq!(scene.counter("beeway_access_log_lines_total")?, 40);
    Ok(())
}

#[test]
fn a_share_is_a_share() -> Result<()> {
    let mut scene =
        Scene::new("sample", &[], &["--access-log", "STATE/0", "--access-log-sample", "0"])?;
    let ask = |scene: &Scene| -> Result<()> {
        beeway_testbed::Load::new(format!("http://{}/detour/a", crate::bed::WEB), 400)
            .header("Host: web")
            .connections(2)
            .run(&scene.bed.client)
            .map(drop)
    };
    ask(&scene)?;
    scene.records(&scene.state("0"), 0)?;
    scene.restart(&["--access-log", "STATE/50", "--access-log-sample", "50"])?;
    ask(&scene)?;
    crate::bed::wait_until("half of them", || {
        Ok(scene.counter("beeway_access_log_lines_total")? > 120)
    })?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    // seven standard deviations
    let lines = std::fs::read_to_string(scene.state("50"))?.lines().count();
    assert!((130..=270).contains(&lines), "{lines} of 400");
    scene.restart(&["--access-log", "STATE/100", "--access-log-sample", "100"])?;
    ask(&scene)?;
    scene.records(&scene.state("100"), 400)?;
    Ok(())
}

#[test]
fn the_mesh_s_own_log_is_the_standard_output() -> Result<()> {
    const MESH: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogFormat: \"line %REQ(:PATH)% %RESPONSE_CODE%\\n\"
";
    let scene = Scene::new("stdout", &[("istio.yaml", MESH)], &[])?;
    for (_, prefix) in LANES {
        scene.get(&format!("{prefix}/a?b"), &[])?;
    }
    let agent = scene.bed.agent.as_ref().expect("it runs");
    for wanted in ["line /a 200", "line /detour/a 200"] {
        agent.wait_for_line(wanted, crate::bed::LIMIT)?;
    }
    Ok(())
}
