//! `beeway top --once`.

use anyhow::{Context, Result};
use beeway_testbed::Load;
use serde_json::Value;

use crate::bed::WEB;
use crate::kit::{self, Scene};

fn picture(scene: &Scene) -> Result<Value> {
    Ok(serde_json::from_str(&scene.run(&["top", "--once", "--json"])?.success()?.stdout)?)
}

#[test]
fn once_agrees_with_what_was_sent() -> Result<()> {
    let scene = Scene::new("top")?;
    let table = scene.run(&["top", "--once"])?.success()?.stdout;
    assert_eq!(table, "no traffic yet\n");
    let output = scene.run(&["top"])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("no terminal: `beeway top --once`"), "{output:?}");

    let load = |path: &str, requests| {
        let load = Load::new(format!("http://{WEB}{path}"), requests).header("host: web");
        load.connections(4).run(&scene.bed.client)
    };
    assert_eq!(load("/a", 300)?.status["200"], 300);
    assert_eq!(load("/status/500", 20)?.status["500"], 20);
    let mut raw = scene.connect()?;
    for _ in 0..5 {
        assert_eq!(raw.get("web", "/x/../admin", &[])?.status, 403);
    }
    kit::wait_for("all is counted", || Ok(scene.total()? == 325))?;
    let picture = picture(&scene)?;
    let web = picture["services"].as_array().context("services")?;
    let web = web.iter().find(|asked| asked["service"]["name"] == "web").context("web")?;
    assert_eq!(web["service"]["namespace"], "default");
    for traffic in [&picture["all"], &web["traffic"]] {
        assert_eq!((&traffic["total"], &traffic["requests"]), (&325.into(), &325.into()));
        let codes = serde_json::json!({ "200": 300, "403": 5, "500": 20 });
        assert_eq!(traffic["codes"], codes);
        let window = picture["window_seconds"].as_f64().context("a window")?;
        for (rate, wanted) in [
            ("requests_per_second", 325.0),
            ("errors_per_second", 20.0),
            ("denied_per_second", 5.0),
        ] {
            let seen = traffic[rate].as_f64().context("a rate")? * window;
            assert!((seen - wanted).abs() < 0.01, "{rate}: {seen}");
        }
        let [p50, p99] = ["p50_us", "p99_us"].map(|name| traffic[name].as_f64().unwrap_or(0.0));
        assert!(p50 > 1.0 && p50 <= p99, "{traffic}");
    }
    let edge = &picture["edges"][0];
    assert_eq!(
        (&edge["source"]["name"], &edge["destination"]["name"]),
        (&"client".into(), &"web".into())
    );
    let shares = edge["workloads"].as_array().context("workloads")?;
    let of =
        |name: &str| shares.iter().find(|share| share["workload"] == name).map(|s| &s["total"]);
    assert_eq!(of(scene.bed.v1.label()), Some(&325.into()), "{edge}");

    let table =
        scene.run(&["top", "--once", "--window", "60", "--sort", "name"])?.success()?.stdout;
    let row = table.lines().find(|line| line.trim_start().starts_with("default/web "));
    let row: Vec<&str> = row.with_context(|| table.clone())?.split_whitespace().collect();
    assert_eq!(row[2..4], ["6.2", "%"], "{table}");
    assert_eq!(row[row.len() - 2..], ["325", "detour"], "{table}");
    Ok(())
}
