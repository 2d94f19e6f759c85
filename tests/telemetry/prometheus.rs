//! A real Prometheus scrapes the agent, and what it says is what was sent. The rules and the dashboard in
//! `deploy/` are held to it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Load, Place, Process, curl, directory, needs};
use serde_json::Value;

use crate::bed::{Bed, JASON, LIMIT, Shape, metrics_address, wait_until};

const PORT: u16 = 19090;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// Prometheus beside the agent of a bed, which it asks each half second.
fn start(bed: &Bed, folder: &Path) -> Result<Process> {
    let rules = deploy().join("prometheus/alerts.yaml").canonicalize()?;
    let config = format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
         rule_files: [{}]\n\
         scrape_configs:\n\
         - job_name: beeway\n  static_configs: [{{targets: ['{}']}}]\n",
        rules.display(),
        metrics_address(bed.agent.as_ref().context("an agent runs")?)?
    );
    let file = folder.join("prometheus.yaml");
    std::fs::write(&file, config)?;
    promtool(&["check", "config", &file.to_string_lossy()])?;
    let process = bed
        .node
        .command(needs("prometheus", "prometheus")?)
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
        .spawn()?;
    wait_until("Prometheus is ready", || {
        Ok(curl(&bed.node, &["-sf", &url("/-/ready", &[])])?.success().is_ok())
    })?;
    Ok(process)
}

fn url(path: &str, query: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect::<String>()
    };
    let query: Vec<String> =
        query.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    format!("http://127.0.0.1:{PORT}{path}?{}", query.join("&"))
}

/// The results of a query.
fn query(bed: &Bed, expression: &str) -> Result<Vec<Value>> {
    let output = curl(&bed.node, &["-sS", &url("/api/v1/query", &[("query", expression)])])?;
    let answer: Value = serde_json::from_str(&output.success()?.stdout)?;
    ensure!(answer["status"] == "success", "{expression}: {answer}");
    Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
}

fn number(bed: &Bed, expression: &str) -> Result<f64> {
    let results = query(bed, expression)?;
    let value = results.first().and_then(|result| result["value"][1].as_str()).unwrap_or("0");
    value.parse().with_context(|| format!("{expression}: {value}"))
}

/// Fails with what promtool says.
fn promtool(arguments: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new(needs("promtool", "prometheus")?);
    let output = command.args(arguments).current_dir(deploy().join("prometheus")).output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

#[test]
fn a_prometheus_sees_what_was_sent_also_over_a_restart() -> Result<()> {
    let folder = directory("prometheus")?;
    let mut bed = Bed::new("prom", Shape { servers_in_mesh: true }, JASON)?;
    // the same place after a restart, as in a real node
    let listen = metrics_address(bed.agent.as_ref().context("an agent runs")?)?;
    let _prometheus = start(&bed, folder.path())?;
    let (mut ok, mut detoured, mut denied) = (0, 0, 0);
    for turn in 0..3 {
        for (path, header, requests, sum) in [
            ("", "x: y", 400, &mut ok),
            ("", "end-user: jason", 120, &mut detoured),
            ("forbidden", "x: y", 80, &mut denied),
        ] {
            let load = Load::new(format!("http://10.96.0.10:80/{path}"), requests);
            let load = load.header("Host: web").header(header).connections(3);
            let report = load.run(&bed.client)?;
            ensure!(report.requests == requests && report.errors == 0, "{report:?}");
            *sum += requests;
        }
        if turn < 2 {
            let mut agent = bed.agent.take().context("an agent runs")?;
            match turn {
                0 => agent.kill9(),
                _ => agent.terminate(LIMIT).map(|_| ())?,
            }
            let command = crate::bed::agent_command(&bed.node, bed.config.path(), bed.state.path());
            bed.agent = Some(crate::bed::ready(command.args(["--metrics", &listen]).spawn()?)?);
        }
    }
    for (labels, wanted) in [
        ("", ok + detoured + denied),
        ("lane=~\"native|shortcut\",response_code=\"200\"", ok),
        ("lane=\"detour\",destination_workload=\"v2\"", detoured),
        ("lane=\"answered\",response_code=\"403\"", denied),
    ] {
        let expression = format!("sum(istio_requests_total{{{labels}}})");
        wait_until(&format!("{expression} is {wanted}"), || {
            let sum = number(&bed, &expression)?;
            ensure!(sum <= wanted as f64, "{expression} is {sum}, and {wanted} were sent");
            Ok(sum == wanted as f64)
        })?;
    }
    let lanes = number(&bed, "sum(beeway_requests_total)")?;
    assert_eq!(lanes, (ok + detoured + denied) as f64);
    assert_eq!(number(&bed, "sum(istio_request_duration_milliseconds_count)")?, lanes);
    // no counter has gone back: Prometheus would take that for a new one, and count twice
    assert_eq!(number(&bed, "sum(resets(istio_requests_total[1h]))")?, 0.0);
    check_metrics(&bed, &listen)?;
    check_dashboard(&bed)
}

/// What promtool says of the text itself.
fn check_metrics(bed: &Bed, address: &str) -> Result<()> {
    let text = curl(&bed.node, &["-sS", &format!("http://{address}/metrics")])?.success()?.stdout;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let mut command = std::process::Command::new(needs("promtool", "prometheus")?);
    let output =
        command.args(["check", "metrics"]).stdin(std::fs::File::open(file.path())?).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Istio's names have units that promtool would have in seconds
    let ours: Vec<&str> = said.lines().filter(|line| !line.starts_with("istio_")).collect();
    ensure!(ours.is_empty(), "{said}");
    Ok(())
}

/// Each query of the dashboard is one that Prometheus takes; those of traffic have an answer.
fn check_dashboard(bed: &Bed) -> Result<()> {
    let text = std::fs::read_to_string(deploy().join("grafana/beeway.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("it has panels")?;
    let mut expressions = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("a target has a query")?;
            let expression = expression
                .replace("$__rate_interval", "1m")
                .replace("$namespace", ".*")
                .replace("$service", ".*");
            expressions.push(expression);
        }
    }
    ensure!(expressions.len() > 20, "{} queries", expressions.len());
    // nothing went by TCP alone here
    expressions.retain(|expression| !expression.contains("istio_tcp"));
    // a rate is of two samples
    wait_until("each query has an answer", || {
        let mut left = Vec::new();
        for expression in std::mem::take(&mut expressions) {
            if query(bed, &expression)?.is_empty() {
                left.push(expression);
            }
        }
        if !left.is_empty() {
            eprintln!("without an answer: {left:#?}");
        }
        expressions = left;
        Ok(expressions.is_empty())
    })
}

#[test]
fn the_alerts_are_what_they_say() -> Result<()> {
    promtool(&["check", "rules", "alerts.yaml"])?;
    promtool(&["test", "rules", "alerts_test.yaml"])
}

#[test]
fn an_agent_that_is_gone_raises_an_alert() -> Result<()> {
    let folder = directory("prometheus")?;
    let mut bed = Bed::new("alert", Shape { servers_in_mesh: false }, JASON)?;
    let _prometheus = start(&bed, folder.path())?;
    wait_until("it is seen", || Ok(number(&bed, "up{job=\"beeway\"}")? == 1.0))?;
    drop(bed.agent.take());
    wait_until("it is missed", || {
        Ok(!query(&bed, "ALERTS{alertname=\"BeewayAgentDown\"}")?.is_empty())
    })?;
    Ok(())
}
