//! What `beeway flows` and `beeway top` tell of real traffic.

#[path = "../bed/mod.rs"]
mod bed;

mod kit;
mod live;
mod others;
mod reports;
mod top;

use anyhow::{Context, Result};
use beeway_testbed::{Load, Place, RawClient};
use nix::sys::signal::Signal;
use serde_json::Value;

use bed::{LIMIT, Shape, WEB};
use kit::Scene;

/// The service `v1`, which no rule is about.
const DIRECT: &str = "10.96.0.11:80";

#[test]
fn each_request_is_told_once_with_names_and_verdict() -> Result<()> {
    let scene = Scene::new("flows")?;
    let mut raw = scene.connect()?;
    for (path, status) in [
        ("/a/one?token=secret", 200),
        ("/a/two", 200),
        ("/status/500", 500),
        ("/nobody", 503),
        ("/moved", 301),
        ("/x/../admin", 403),
    ] {
        assert_eq!(raw.get("web", path, &[])?.status, status, "{path}");
    }
    raw.request("POST /a/three HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nok")?;
    let flows = scene.wait_for_flows(7)?;
    let of = |path: &str| -> &Value {
        let mut found = flows.iter().filter(|flow| flow["path"] == path);
        let flow = found.next().unwrap_or_else(|| panic!("no {path} in {flows:#?}"));
        assert!(found.next().is_none(), "{path} once in {flows:#?}");
        flow
    };
    let (client, v1) = (scene.bed.client.label(), scene.bed.v1.label());
    let one = of("/a/one");
    assert_eq!(one["source"]["workload"], client, "{one}");
    assert_eq!((&one["source"]["namespace"], &one["source"]["service"]), both("default", "client"));
    assert_eq!((&one["service"]["name"], &one["service"]["address"]), both("web", WEB));
    assert_eq!((&one["destination"]["workload"], &one["destination"]["version"]), both(v1, "v1"));
    assert_eq!((&one["verdict"], &one["lane"]), both("forwarded", "detour"));
    assert_eq!((&one["method"], &one["status"]), (&"GET".into(), &200.into()));
    assert!(one["duration_us"].as_f64().is_some_and(|us| us > 1.0), "{one}");
    assert_eq!(of("/status/500")["verdict"], "forwarded");
    assert_eq!((&of("/nobody")["verdict"], &of("/nobody")["flags"]), both("failed", "UH"));
    assert_eq!(
        (&of("/moved")["verdict"], &of("/moved")["destination"]),
        (&"answered".into(), &Value::Null)
    );
    let denied = of("/x/../admin");
    assert_eq!(denied["verdict"], "denied", "{denied}");
    assert!(denied["policy"].as_str().unwrap_or("").contains("default/no-admin"), "{denied}");
    filters(&scene)?;
    lines(&scene)
}

fn both<'a>(a: &str, b: &str) -> (&'a Value, &'a Value) {
    (Box::leak(Box::new(a.into())), Box::leak(Box::new(b.into())))
}

/// Each filter, and how many of the seven it leaves.
fn filters(scene: &Scene) -> Result<()> {
    let ip = scene.bed.client.ip4().to_string();
    let v1 = scene.bed.v1.label();
    for (flags, wanted) in [
        (&["--from", "client"][..], 7),
        (&["--from", "default/client", "--to", "default/web"], 7),
        (&["--from", "default/", "--to", "web.default.svc.cluster.local"], 7),
        (&["--from", &ip, "--to", "10.96.0.0/16"], 7),
        (&["--from", "web"], 0),
        (&["--to", "other/"], 0),
        // who is denied was on the way there
        (&["--to", v1], 5),
        (&["--verdict", "denied"], 1),
        (&["--verdict", "failed,answered"], 2),
        (&["--status", "5xx"], 2),
        (&["--status", "500,403"], 2),
        (&["--status", "300-499"], 2),
        (&["--method", "POST"], 1),
        (&["--path", "/a/"], 3),
        (&["--path", "/a/", "--method", "GET", "--status", "200"], 2),
        (&["--lane", "detour"], 7),
        (&["--lane", "native,refused"], 0),
        (&["--last", "2"], 2),
        (&["--last", "1", "--verdict", "denied"], 1),
        (&["--last", "0"], 0),
    ] {
        let flows = scene.flows(flags)?;
        assert_eq!(flows.len(), wanted, "{flags:?}: {flows:#?}");
    }
    let newest = scene.flows(&["--last", "2"])?;
    assert_eq!((&newest[0]["path"], &newest[1]["path"]), both("/x/../admin", "/a/three"));
    Ok(())
}

/// What people see.
fn lines(scene: &Scene) -> Result<()> {
    let text = scene.run(&["flows"])?.success()?.stdout;
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(!text.contains("secret") && !text.contains('\x1b'), "{text}");
    let (client, v1) = (scene.bed.client.label(), scene.bed.v1.label());
    let (one, request) =
        (format!("Z default/{client} -> default/web:80 ({v1}) "), "GET /a/one 200 ");
    let line = text.lines().find(|line| line.contains(request)).context(text.clone())?;
    assert!(line.contains(&one) && line.ends_with("ms detour forwarded"), "{line}");
    let denied = text.lines().find(|line| line.contains("/admin 403")).context(text.clone())?;
    assert!(denied.contains("denied by ") && denied.contains("default/no-admin"), "{denied}");
    let text = scene.run(&["flows", "--queries", "--path", "/a/one"])?.success()?.stdout;
    assert!(text.contains("GET /a/one?token=secret 200"), "{text}");
    let json = scene.flows(&["--queries", "--path", "/a/one"])?;
    assert_eq!((&json[0]["path"], &json[0]["query"]), both("/a/one", "token=secret"));
    let none = scene.run(&["flows", "--from", "10.0.0.0/33"])?;
    assert!(!none.status.success() && none.stderr.contains("--from"), "{none:?}");
    let none = scene.run(&["flows", "--to", "nowhere"])?.success()?;
    assert!(none.stdout.is_empty() && none.stderr.contains("no such flow"), "{none:?}");
    Ok(())
}

#[test]
fn every_lane_is_told_of() -> Result<()> {
    for (servers_in_mesh, straight) in [(false, "native"), (true, "shortcut")] {
        let scene = Scene::shaped("lanes", Shape { servers_in_mesh })?;
        let mut raw = RawClient::connect(&scene.bed.client, DIRECT.parse()?)?;
        // the first of a connection may come before its other end is known
        raw.get("v1", "/zero", &[])?;
        for path in ["/one?secret", "/status/503"] {
            raw.get("v1", path, &[])?;
        }
        assert_eq!(raw.get("v1", "/admin/x", &[])?.status, 403);
        scene.connect()?.get("web", "/known", &[])?;
        scene.connect()?.get("web", "/moved", &[])?;
        scene.connect()?.get("web", "/detour", &[])?;
        let flows = scene.wait_for_flows(7)?;
        for (path, lane, verdict, status) in [
            ("/one", straight, "forwarded", 200),
            ("/status/503", straight, "forwarded", 503),
            ("/admin/x", "answered", "denied", 403),
            ("/known", "answered", "answered", 203),
            ("/moved", "detour", "answered", 301),
            ("/detour", "detour", "forwarded", 200),
        ] {
            let flow = flows.iter().find(|flow| flow["path"] == path).context(path)?;
            let seen = (&flow["lane"], &flow["verdict"]);
            assert_eq!(seen, both(lane, verdict), "{flow}");
            assert_eq!(flow["status"], status, "{flow}");
            assert_eq!(flow["source"]["workload"], scene.bed.client.label(), "{flow}");
        }
        let denied = scene.run(&["flows", "--verdict", "denied"])?.success()?.stdout;
        let by = "answered (denied) denied by AuthorizationPolicy default/no-admin\n";
        assert!(denied.ends_with(by), "{denied}");
    }
    Ok(())
}

#[test]
fn what_a_request_brings_begins_no_line_and_commands_no_terminal() -> Result<()> {
    let scene = Scene::new("inject")?;
    let forged = "{\"verdict\":\"forwarded\"}";
    let mut sent = 0;
    for evil in
        ["\x1b[2J\x1b]0;x\x07", "\u{9b}31m", "\r", "\n", "\t", "\"'`\\", forged, "\x7f\u{ad}"]
    {
        let raw = |text: String| -> Result<()> {
            for to in [WEB, DIRECT] {
                // refused or not, by whom is not asked here
                let _ = RawClient::connect(&scene.bed.client, to.parse()?)?.request(&text);
            }
            Ok(())
        };
        raw(format!("GET /evil{evil}x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"))?;
        raw(format!("GET /evil?{evil}x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"))?;
        raw(format!(
            "GET /evil HTTP/1.1\r\nHost: web{evil}x\r\nUser-Agent: {evil}\r\n\
             X-Request-Id: {evil}\r\nConnection: close\r\n\r\n"
        ))?;
        raw(format!("G{evil}ET /evil HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"))?;
        sent += 8;
    }
    scene.connect()?.get("web", "/evil/last", &[])?;
    kit::wait_for("the last request", || {
        Ok(scene.flows(&["--last", "1", "--path", "/evil/last"])?.len() == 1)
    })?;
    let flags = ["--queries", "--last", "1000"];
    let (flows, json) = scene.flows_text(&flags)?;
    let text = scene.run(&[&["flows"][..], &flags].concat())?.success()?.stdout;
    for output in [&text, &json] {
        let odd = output.chars().find(|c| !(' '..='~').contains(c) && *c != '\n');
        assert_eq!(odd, None, "{output:?}");
        assert_eq!(output.lines().count(), flows.len(), "{output}");
    }
    let through = |flow: &Value| flow["path"].as_str().is_some_and(|path| path.contains(forged));
    let lanes = |lane| flows.iter().filter(|flow| flow["lane"] == lane && through(flow)).count();
    assert!(lanes("detour") > 0 && lanes("native") > 0, "some get through: {text}");
    assert!(flows.len() <= sent + 1, "{text}");
    assert!(text.lines().all(|line| line.starts_with("20")), "{text}");
    Ok(())
}

#[test]
fn followers_are_told_at_once_and_when_it_is_over() -> Result<()> {
    let mut scene = Scene::new("follow")?;
    scene.connect()?.get("web", "/zero", &[])?;
    scene.wait_for_flows(1)?;
    // who begins with one that there was hears all after it
    let mut json = scene.start(&["flows", "--json", "--follow", "--last", "1"])?;
    assert!(json.next_line(LIMIT)?.contains("\"/zero\""));
    let mut denied =
        scene.start(&["flows", "-f", "--last", "1", "--verdict", "denied,forwarded"])?;
    assert!(denied.next_line(LIMIT)?.contains("/zero"));
    let mut ended = scene.start(&["flows", "-f", "--last", "1"])?;
    assert!(ended.next_line(LIMIT)?.contains("/zero"));
    let mut raw = scene.connect()?;
    for path in ["/one", "/moved", "/x/../admin"] {
        raw.get("web", path, &[])?;
        let line: Value = serde_json::from_str(&json.next_line(LIMIT)?)?;
        assert_eq!(line["path"], path);
    }
    assert!(denied.next_line(LIMIT)?.contains("/one 200"));
    assert!(denied.next_line(LIMIT)?.contains("/x/../admin 403"));
    ended.signal(Signal::SIGINT);
    ended.wait(LIMIT)?;
    assert_eq!(ended.stderr(), Vec::<String>::new());
    // whoever reads no more ends it, also while there is no traffic
    let pipe = format!(
        "{} flows -f --last 3 --state {} | head -n 1; echo ${{PIPESTATUS[0]}}",
        bed::binary().display(),
        scene.bed.state.path().display()
    );
    let output = scene.bed.node.command("bash").args(["-c", &pipe]).output(LIMIT)?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[1] == "0" && output.stderr.is_empty(), "{output:?}");
    scene.bed.agent.take().context("an agent")?.terminate(LIMIT)?;
    for mut follower in [json, denied] {
        assert_eq!(follower.wait(LIMIT)?.code(), Some(3));
        assert_eq!(follower.stderr(), ["the agent has gone away"]);
    }
    let output = scene.run(&["flows"])?;
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stderr.starts_with("no agent is running") && output.stdout.is_empty());
    Ok(())
}

#[test]
fn a_slow_listener_is_told_what_it_lost() -> Result<()> {
    const SENT: u64 = 12_000;
    let scene = Scene::new("slow")?;
    let mut slow = scene.listen("/flows?follow=1")?;
    let report = Load::new(format!("http://{WEB}/many"), SENT)
        .header("host: web")
        .connections(8)
        .run(&scene.bed.client)?;
    assert_eq!((report.requests, report.errors), (SENT, 0), "{report:?}");
    kit::wait_for("all requests are counted", || Ok(scene.total()? == SENT))?;
    let (mut told, mut lost) = (0, 0);
    while told + lost < SENT {
        let line = slow.line()?;
        match line["lost"].as_u64() {
            Some(more) => lost += more,
            None => told += u64::from(line["path"] == "/many"),
        }
    }
    assert_eq!(told + lost, SENT);
    assert!(lost > 0 && told >= 8192, "{told} and {lost}");
    // and goes on to listen
    scene.connect()?.get("web", "/after", &[])?;
    assert_eq!(slow.line()?["path"], "/after");
    drop(slow);
    seats(&scene)
}

#[test]
fn what_is_not_told_of_one_by_one_is_told_as_a_number() -> Result<()> {
    const SENT: u64 = 20_000;
    let mut scene = Scene::new("thinned")?;
    scene.without_access_log()?;
    for to in [DIRECT, WEB] {
        let mut listener = scene.listen("/flows?follow=1&last=0&path=/many")?;
        let before = scene.total()?;
        let report = Load::new(format!("http://{to}/many"), SENT)
            .header("host: web")
            .connections(8)
            .run(&scene.bed.client)?;
        assert_eq!((report.requests, report.errors), (SENT, 0), "{report:?}");
        kit::wait_for("all requests are counted", || Ok(scene.total()? == before + SENT))?;
        let (mut told, mut lost) = (0, 0);
        while told + lost < SENT {
            match listener.line()?["lost"].as_u64() {
                Some(more) => lost += more,
                None => told += 1,
            }
        }
        assert_eq!(told + lost, SENT);
        assert!(told > 0 && lost > 0, "{told} and {lost}");
    }
    Ok(())
}

#[test]
fn what_was_denied_is_told_at_once_under_load_too() -> Result<()> {
    const SENT: u64 = 40_000;
    let mut scene = Scene::new("rare")?;
    scene.without_access_log()?;
    let denied = |path: &str| -> Result<()> {
        let mut raw = RawClient::connect(&scene.bed.client, DIRECT.parse()?)?;
        assert_eq!(raw.get("v1", path, &[])?.status, 403);
        let last = scene.flows(&["--last", "1", "--verdict", "denied"])?;
        assert_eq!(last.first().context(path.to_owned())?["path"], path, "{last:?}");
        Ok(())
    };
    denied("/admin/before")?;
    let many = Load::new(format!("http://{DIRECT}/many"), SENT).connections(8);
    std::thread::scope(|threads| -> Result<()> {
        let load = threads.spawn(|| many.run(&scene.bed.client));
        while !load.is_finished() {
            denied("/admin/during")?;
        }
        let report = load.join().expect("no panic")?;
        assert_eq!((report.requests, report.errors), (SENT, 0), "{report:?}");
        Ok(())
    })
}

#[test]
fn what_was_denied_is_kept_among_more_than_are() -> Result<()> {
    let scene = Scene::new("kept")?;
    let mut raw = RawClient::connect(&scene.bed.client, DIRECT.parse()?)?;
    assert_eq!(raw.get("v1", "/admin/before", &[])?.status, 403);
    let report = Load::new(format!("http://{DIRECT}/many"), 6000).run(&scene.bed.client)?;
    assert_eq!((report.requests, report.errors), (6000, 0), "{report:?}");
    kit::wait_for("4096 others are kept", || {
        Ok(scene.flows(&["--last", "5000", "--path", "/many"])?.len() == 4096)
    })?;
    assert_eq!(scene.flows(&["--path", "/admin/before"])?.len(), 1);
    Ok(())
}

/// Listeners are bounded; one that leaves makes room.
fn seats(scene: &Scene) -> Result<()> {
    let mut listeners = Vec::new();
    kit::wait_for("32 listen", || {
        while listeners.len() < 32 {
            match scene.listen("/flows?follow=1&path=/never") {
                Ok(listener) => listeners.push(listener),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    })?;
    let output = scene.run(&["flows"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("32 are told of flows already"), "{output:?}");
    listeners.pop();
    kit::wait_for("a seat", || Ok(scene.run(&["flows"])?.status.success()))
}

#[test]
fn nothing_else_is_taken_for_a_filter() -> Result<()> {
    let scene = Scene::new("query")?;
    for (what, why) in [
        ("/flows?fron=web", "unknown field `fron`"),
        ("/flows?verdict=allowed", "one of forwarded"),
        ("/flows?last=many", "invalid digit"),
    ] {
        let error = scene.listen(what).err().context(what)?.to_string();
        assert!(error.contains("400") && error.contains(why), "{error}");
    }
    let status = scene.ask("/status")?;
    assert_eq!(status["pid"], scene.bed.status()?["pid"]);
    let mut raw = RawClient::connect(&scene.bed.client, WEB.parse()?)?;
    assert_eq!(raw.get("web", "/", &[])?.status, 200);
    Ok(())
}
