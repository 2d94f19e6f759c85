//! The dashboard in a real browser (headless Chromium), with real traffic through a real agent.

#[path = "../bed/mod.rs"]
mod bed;
mod crowd;
mod shop;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Browser, Node, Place, curl, directory};
use serde_json::{Value, json};

use bed::{LIMIT, agent_command, off, ready, scrape, wait_until};
use shop::{PRODUCTPAGE, RATINGS, REVIEWS, Shop, site_and_token, start_agent};

const SIZE: (u32, u32) = (1280, 800);

/// Requests that productpage is asked; each asks details and reviews.
const VISITS: u64 = 60;
const DENIED: u64 = 7;
const BROKEN: u64 = 3;

#[test]
fn the_page_shows_what_the_agent_counts() -> Result<()> {
    let mut shop = Shop::open("dash")?;
    shop.send("load", PRODUCTPAGE, "/productpage", VISITS, "200")?;
    shop.send("intruder", REVIEWS, "/reviews/0?secret=1", DENIED, "403")?;
    shop.send("load", RATINGS, "/broken", BROKEN, "503")?;
    let mut browser = Browser::start(&shop.node, SIZE)?;
    let url = shop.url()?;
    browser.open(&url)?;
    // what was sent must not be too long ago, however slow this machine is
    browser.run(&set("window", "60", "change"))?;
    graph_agrees(&shop, &mut browser)?;
    nothing_flickers(&shop, &mut browser)?;
    keys_do(&mut browser)?;
    details_open(&mut browser)?;
    services_sort(&mut browser)?;
    denied_requests_are_listed(&mut browser)?;
    a_request_is_explained(&mut browser)?;
    a_broken_file_is_told(&shop, &mut browser)?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    nothing_is_loaded_from_elsewhere(&mut browser, site_and_token(&url)?.0)?;
    browser.call("Network.clearBrowserCookies", json!({}))?;
    let says = |words| format!("document.getElementById('gone').innerText.includes('{words}')");
    browser.wait("another token", &says("beeway dashboard"))?;
    shop.agent.terminate(Duration::from_secs(5))?;
    browser.wait("the end of the agent", &says("does not answer"))?;
    browser.wait("a message", &visible("#gone"))
}

/// Numbers of the page, the interface and the metrics are the same, and those of the requests sent.
fn graph_agrees(shop: &Shop, browser: &mut Browser) -> Result<()> {
    wait_until("all are counted", || {
        let snapshot = shop.api("snapshot?seconds=60")?;
        let asked = |name| total(&snapshot, name);
        Ok(asked("productpage") == VISITS
            && asked("details") == VISITS
            && asked("reviews") == VISITS + DENIED
            && asked("ratings") > BROKEN)
    })?;
    let snapshot = shop.api("snapshot?seconds=60")?;
    let all = snapshot["all"]["total"].as_u64().context("no total")?;
    browser.wait("the total", &shows_total(all))?;
    let numbers = |browser: &mut Browser, kind: &str| -> Result<BTreeMap<String, u64>> {
        let script = format!(
            "[...document.querySelectorAll('g[data-{kind}][data-total]')]\
             .map(g => [g.dataset.{kind}, Number(g.dataset.total)])"
        );
        Ok(serde_json::from_value::<Vec<(String, u64)>>(browser.run(&script)?)?
            .into_iter()
            .collect())
    };
    let seconds = snapshot["window_seconds"].as_f64().context("no window")?;
    let within = |rate: &str| (snapshot["all"][rate].as_f64().unwrap_or(-1.0) * seconds).round();
    let verdicts = ["denied_per_second", "limited_per_second", "errors_per_second"].map(within);
    assert_eq!(verdicts, [DENIED as f64, 0.0, BROKEN as f64]);
    let shown = numbers(browser, "node")?;
    let names: Vec<&str> = shown.keys().map(String::as_str).collect();
    let wanted = ["details", "intruder", "load", "productpage", "ratings", "reviews"];
    assert_eq!(names, wanted.map(|name| format!("default/{name}")));
    for name in ["productpage", "details", "reviews", "ratings"] {
        assert_eq!(shown[&format!("default/{name}")], total(&snapshot, name), "{name}");
    }
    let shown = numbers(browser, "edge")?;
    for edge in snapshot["edges"].as_array().context("no edges")? {
        let end = |end: &str| format!("default/{}", edge[end]["name"].as_str().unwrap_or_default());
        let key = format!("{} → {}", end("source"), end("destination"));
        assert_eq!(Some(shown[&key]), edge["traffic"]["total"].as_u64(), "{key}");
    }
    assert_eq!(shown.values().sum::<u64>(), all);
    assert_eq!(shown["default/intruder → default/reviews"], DENIED);
    let counted = scrape(&shop.node, &shop.agent)?;
    assert_eq!(counted.sum("istio_requests_total", &[("reporter", "source")]), all, "{counted}");
    Ok(())
}

fn total(snapshot: &Value, service: &str) -> u64 {
    let services = snapshot["services"].as_array().into_iter().flatten();
    let mine = services.filter(|asked| asked["service"]["name"] == service);
    mine.filter_map(|asked| asked["traffic"]["total"].as_u64()).sum()
}

/// What is shown anew stays where it is, and the focus with it.
fn nothing_flickers(shop: &Shop, browser: &mut Browser) -> Result<()> {
    let all = "[...document.querySelectorAll('.node, .edge, #summary dd')]";
    browser.run(&format!("window.before = {all}; document.querySelector('.node').focus()"))?;
    let total = browser.run("Number(document.getElementById('total').dataset.total)")?;
    shop.send("load", RATINGS, "/ratings/0", 20, "200")?;
    let wanted = total.as_u64().context("no total")? + 20;
    browser.wait("the next total", &shows_total(wanted))?;
    let same = format!("{all}.every((node, at) => node === window.before[at])");
    assert_eq!(browser.run(&same)?, true);
    assert_eq!(browser.run("document.activeElement.matches('.node')")?, true);
    Ok(())
}

fn keys_do(browser: &mut Browser) -> Result<()> {
    browser.run("document.querySelector('[data-node=\"default/ratings\"]').focus()")?;
    strike(browser, "Enter")?;
    browser.wait("details by key", &visible("#details"))?;
    ensure!(text(browser, "#details h2")? == "ratings");
    strike(browser, "Escape")?;
    browser.wait("no details", &format!("!({})", visible("#details")))?;
    strike(browser, "/")?;
    assert_eq!(browser.run("document.activeElement.id")?, "filter");
    browser.run("document.getElementById('tab-graph').focus()")?;
    strike(browser, "ArrowRight")?;
    browser.wait("the next view", &visible("#services"))?;
    let ground = "getComputedStyle(document.body).backgroundColor";
    let before = browser.run(ground)?;
    press(browser, "#theme")?;
    ensure!(browser.run(ground)? != before, "the other theme");
    press(browser, "#theme")?;
    press(browser, "#tab-graph")
}

fn strike(browser: &mut Browser, key: &str) -> Result<()> {
    for kind in ["keyDown", "keyUp"] {
        browser.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key }))?;
    }
    Ok(())
}

fn shows_total(wanted: u64) -> String {
    format!("document.getElementById('total')?.dataset.total === '{wanted}'")
}

/// Who of a service was asked, in the panel of a node that was clicked on.
fn details_open(browser: &mut Browser) -> Result<()> {
    press(browser, "[data-node='default/reviews']")?;
    browser.wait("details", &visible("#details"))?;
    let details = text(browser, "#details")?;
    for wanted in
        ["reviews-v1", "detour", "p99.9", "403", "default/productpage", "denied by policy"]
    {
        ensure!(details.contains(wanted), "{wanted:?} is not in {details}");
    }
    press(browser, "#details [data-close]")?;
    let label = ".label[data-edge=\"default/productpage → default/reviews\"]";
    browser.wait("a label", &visible(label))?;
    press(browser, label)?;
    browser.wait("details of an edge", &visible("#details [data-explain]"))?;
    press(browser, "#details [data-explain]")?;
    browser.wait("an answer about it", "!!document.querySelector('#answer .steps')")?;
    ensure!(text(browser, "#answer")?.contains("default/productpage-v1"));
    press(browser, "#tab-graph")?;
    press(browser, "#details [data-close]")?;
    browser.wait("no details", &format!("!({})", visible("#details")))
}

fn services_sort(browser: &mut Browser) -> Result<()> {
    press(browser, "#tab-services")?;
    let script = "[...document.querySelectorAll('tr[data-service]')].map(r => r.dataset.service)";
    press(browser, "#services [data-sort='0']")?;
    let rows = browser.run(script)?;
    let names = ["details", "productpage", "ratings", "reviews"];
    assert_eq!(rows, json!(names.map(|name| format!("default/{name}"))));
    press(browser, "#services [data-sort='0']")?;
    let down: Vec<_> = names.iter().rev().map(|name| format!("default/{name}")).collect();
    assert_eq!(browser.run(script)?, json!(down));
    Ok(())
}

fn denied_requests_are_listed(browser: &mut Browser) -> Result<()> {
    press(browser, "#tab-flows")?;
    browser.wait("verdicts", "!!document.querySelector('[data-pick=denied]')")?;
    press(browser, "[data-pick='denied']")?;
    let script = "[...document.querySelectorAll('tr[data-flow]')].map(r => r.dataset.verdict)";
    let wanted = json!(vec!["denied"; DENIED as usize]);
    browser.wait("denied flows", &format!("JSON.stringify({script}) === '{wanted}'"))?;
    let row = text(browser, "tr[data-flow]")?;
    press(browser, "tr[data-flow]")?;
    browser.wait("all of a flow", &visible("#details"))?;
    ensure!(text(browser, "#details")?.contains("reviews.default.svc.cluster.local:9080"));
    for wanted in ["intruder", "reviews", "GET /reviews/0", "403", "no-intruder"] {
        ensure!(row.contains(wanted), "{wanted:?} is not in {row}");
    }
    let page = browser.run("document.documentElement.outerHTML")?.to_string();
    ensure!(!page.contains("secret"), "a query is shown");
    Ok(())
}

fn a_request_is_explained(browser: &mut Browser) -> Result<()> {
    press(browser, "#tab-explain")?;
    let fill = |field: &str, value: &str| {
        format!("document.getElementById('question').elements['{field}'].value = '{value}'")
    };
    browser.run(&fill("from", "default/productpage-v1"))?;
    browser.run(&fill("url", "http://reviews:9080/reviews/0"))?;
    browser.run(&fill("headers", "end-user: jason"))?;
    browser.run("document.getElementById('answer').replaceChildren()")?;
    press(browser, "#question button")?;
    browser.wait("an answer", "!!document.querySelector('#answer .steps')")?;
    let answer = text(browser, "#answer")?;
    for wanted in ["default/reviews", "detour", "reviews-v3", "10 % of such requests", "allowed"] {
        ensure!(answer.contains(wanted), "{wanted:?} is not in {answer}");
    }
    browser.run(&fill("from", "default/productpage"))?;
    // a question that cannot be answered says why; the browser logs each status of 400 and more
    let script =
        "fetch('/api/names').then(r => r.json()).then(n => n.workloads.includes('default/load'))";
    assert_eq!(browser.run(script)?, true);
    Ok(())
}

fn a_broken_file_is_told(shop: &Shop, browser: &mut Browser) -> Result<()> {
    let file = "kind: VirtualService\napiVersion: networking.istio.io/v1\nmetadata: {name: x}\n\
                spec:\n  hosts: [reviews]\n  http:\n  - rute: []\n";
    std::fs::write(shop.config.path().join("broken.yaml"), file)?;
    press(browser, "#tab-configuration")?;
    let found = "[...document.querySelectorAll('.problems .where')]\
                 .some(cell => /broken.yaml:\\d+$/.test(cell.textContent))";
    browser.wait("the problem", found)?;
    browser.wait("its number", &visible("#problem-count"))
}

fn nothing_is_loaded_from_elsewhere(browser: &mut Browser, site: &str) -> Result<()> {
    let requests = browser.events("Network.requestWillBeSent")?;
    ensure!(requests.len() > 10);
    for request in requests {
        let url = request["request"]["url"].as_str().context("no URL")?;
        ensure!(url.starts_with(&format!("{site}/")), "{url} is asked for");
    }
    Ok(())
}

#[test]
fn two_hundred_services_are_usable() -> Result<()> {
    let site = Site::start("dash200")?;
    let mut browser = Browser::start(&site.node, SIZE)?;
    let url = site.url()?;
    browser.open(&url)?;
    browser.wait("what to do without traffic", &visible("#empty"))?;
    let script = format!(
        "const picture = {}; const real = window.fetch; window.fetch = async (path, init) => \
         String(path).startsWith('/api/snapshot') ? \
         new Response(JSON.stringify(picture)) : real(path, init);",
        crowd::snapshot(200, 600)
    );
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }))?;
    // by the processor's time: others may be at work
    browser.call("Performance.enable", json!({ "timeDomain": "threadTicks" }))?;
    browser.open(&url)?;
    browser.wait("200 services", "document.querySelectorAll('.node').length === 200")?;
    let took = busy(&mut browser)?;
    println!("200 services, 600 edges: loaded and drawn in {took:.3} s");
    ensure!(took < 2.0, "it took {took} s");
    assert_eq!(browser.run("document.querySelectorAll('g[data-edge].edge').length")?, 600);
    let inside = "(() => { const all = document.querySelector('.plane').getBoundingClientRect(); \
                  const canvas = document.getElementById('canvas').getBoundingClientRect(); \
                  return all.left >= canvas.left && all.right <= canvas.right && \
                  all.top >= canvas.top && all.bottom <= canvas.bottom; })()";
    assert_eq!(browser.run(inside)?, true, "all of it is seen at first");
    filters(&mut browser)?;
    let before = place(&mut browser)?;
    press(&mut browser, "#zoom-in")?;
    ensure!(place(&mut browser)? != before, "zoom");
    press(&mut browser, "#zoom-fit")?;
    browser.wait("fit", inside)?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

/// Seconds that the page has been at work: scripts, styles, layout, painting.
fn busy(browser: &mut Browser) -> Result<f64> {
    let answer = browser.call("Performance.getMetrics", json!({}))?;
    let metrics = answer["metrics"].as_array().context("no metrics")?;
    let found = metrics.iter().find(|metric| metric["name"] == "TaskDuration");
    found.and_then(|metric| metric["value"].as_f64()).context("no TaskDuration")
}

fn filters(browser: &mut Browser) -> Result<()> {
    let fitting = "[...document.querySelectorAll('.node:not(.context)')].map(n => n.dataset.node)";
    browser.run(&set("filter", "service-04", "input"))?;
    let wanted: Vec<_> = (40..50).map(|n| format!("ns{}/service-{n:03}", n % 8)).collect();
    let mut found: Vec<String> = serde_json::from_value(browser.run(fitting)?)?;
    found.sort_by_key(|name| name.split('-').next_back().map(str::to_owned));
    assert_eq!(found, wanted);
    browser.run(&set("filter", "", "input"))?;
    browser.run(&set("namespace", "ns3", "input"))?;
    let found: Vec<String> = serde_json::from_value(browser.run(fitting)?)?;
    ensure!(found.len() == 25 && found.iter().all(|name| name.starts_with("ns3/")), "{found:?}");
    browser.run(&set("namespace", "", "input"))?;
    browser.wait("all again", "document.querySelectorAll('.node').length === 200")
}

fn place(browser: &mut Browser) -> Result<Value> {
    browser.run("document.querySelector('.plane').getAttribute('transform')")
}

#[test]
fn nobody_enters_without_the_token() -> Result<()> {
    let mut site = Site::start("dashdoor")?;
    let file = site.state.path().join("dashboard.url");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let url = site.url()?;
    let (address, token) = site_and_token(&url)?;
    let bearer = format!("Authorization: Bearer {token}");
    let cookie = format!("Cookie: beeway-dashboard={token}");
    let wrong = format!("Authorization: Bearer {}", "0".repeat(32));
    let api = format!("{address}/api/status");
    let evil = "Host: evil.example";
    for (status, arguments) in [
        ("401", vec![api.as_str()]),
        ("401", vec![address]),
        ("401", vec![&format!("{address}/nothing")]),
        ("401", vec!["-H", &wrong, &api]),
        ("200", vec!["-H", &bearer, &api]),
        ("200", vec!["-H", &cookie, &api]),
        ("303", vec![&url]),
        ("401", vec![&url[..url.len() - 1]]),
        ("421", vec!["-H", &bearer, "-H", evil, &api]),
        ("421", vec!["-H", evil, &url]),
        ("405", vec!["-H", &bearer, "-X", "POST", &api]),
        ("404", vec!["-H", &bearer, &format!("{address}/api/nothing")]),
        ("200", vec!["-H", &bearer, "-H", "Host: localhost:9", &format!("{address}/main.js")]),
    ] {
        let answer = site.curl(&arguments)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{arguments:?}: {answer}");
        for field in
            ["default-src 'self'", "frame-ancestors 'none'", "nosniff", "cache-control: no-store"]
        {
            ensure!(answer.contains(field), "{arguments:?}: no {field}: {answer}");
        }
        let leaks = answer.contains(token) && !status.starts_with('3');
        ensure!(!leaks, "the token is told: {answer}");
    }
    let entry = site.curl(&[&url])?;
    ensure!(entry.contains("HttpOnly; SameSite=Strict") && entry.contains("location: /\r\n"));
    let log = site.agent.stderr().join("\n");
    ensure!(!log.contains(token) && log.contains("dashboard.url"), "{log}");
    site.agent.terminate(Duration::from_secs(5))?;
    ensure!(!file.exists(), "the agent has ended");
    let output = std::process::Command::new(bed::binary())
        .args(["dashboard", "--state"])
        .arg(site.state.path())
        .output()?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    Ok(())
}

#[test]
fn who_says_nothing_uses_up_neither_descriptors_nor_the_dashboard() -> Result<()> {
    let site = Site::start("dashmany")?;
    let url = site.url()?;
    let address: SocketAddr = site_and_token(&url)?.0.trim_start_matches("http://").parse()?;
    let descriptors = || Ok::<_, anyhow::Error>(std::fs::read_dir(site.open_files())?.count());
    let before = descriptors()?;
    let silent: std::io::Result<Vec<TcpStream>> =
        site.node.run_in(|| (0..100).map(|_| TcpStream::connect(address)).collect())?;
    let silent = silent?;
    wait_until("connections are taken", || Ok(descriptors()? > before + 50))?;
    std::thread::sleep(Duration::from_millis(300)); // as many as it will take
    let most = descriptors()?;
    ensure!(most < before + 80, "{before} open files became {most}");
    // those that say nothing are closed, and then it is this one's turn
    let answer = site.curl(&[&url])?;
    ensure!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    drop(silent);
    Ok(())
}

#[test]
fn an_agent_that_takes_over_serves_it_with_a_token_of_its_own() -> Result<()> {
    let mut site = Site::start("dashnext")?;
    let before = site.url()?;
    let (address, old) = site_and_token(&before)?;
    let same = address.trim_start_matches("http://");
    let next = agent_command(&site.node, site.config.path(), site.state.path()).args([
        "--metrics",
        "127.0.0.1:0",
        "--dashboard",
        same,
        "--drain-seconds",
        "1",
    ]);
    let mut first = std::mem::replace(&mut site.agent, ready(next.spawn()?)?);
    first.wait(LIMIT)?;
    let after = site.url()?;
    let (again, new) = site_and_token(&after)?;
    ensure!(again == address && new != old, "{before} and {after}");
    for (token, status) in [(old, "401"), (new, "200")] {
        let bearer = format!("Authorization: Bearer {token}");
        let answer = site.curl(&["-H", &bearer, &format!("{address}/api/status")])?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{token}: {answer}");
    }
    Ok(())
}

#[test]
fn it_can_be_read_in_light_and_dark() -> Result<()> {
    let shop = Shop::open("dashlook")?;
    let pause = Duration::from_millis;
    let _load = [
        shop.keep_sending("load", PRODUCTPAGE, "/productpage", 3, pause(9))?,
        shop.keep_sending("intruder", REVIEWS, "/reviews/0", 1, pause(80))?,
        shop.keep_sending("load", RATINGS, "/ratings/0", 1, pause(30))?,
        shop.keep_sending("load", RATINGS, "/broken", 1, pause(1500))?,
    ];
    let mut browser = Browser::start(&shop.node, SIZE)?;
    browser.open(&shop.url()?)?;
    let edge = "default/productpage → default/reviews";
    browser.wait("traffic", "document.querySelectorAll('.edge.good, .edge.denied').length >= 5")?;
    std::thread::sleep(Duration::from_secs(9)); // a whole window of traffic
    press(&mut browser, "[data-node='default/reviews']")?;
    browser.wait("details", &visible("#details"))?;
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme)?;
        std::thread::sleep(Duration::from_millis(500)); // transitions
        let picture = browser.screenshot()?;
        ensure!(picture.len() < 300_000, "{} bytes", picture.len());
        std::fs::write(target().join(format!("dashboard-{scheme}.png")), picture)?;
        grounds.push(browser.run("getComputedStyle(document.body).backgroundColor")?);
        let poor = browser.run(CONTRAST)?;
        ensure!(poor == json!([]), "{scheme}: too little contrast: {poor}");
    }
    ensure!(grounds[0] != grounds[1], "{grounds:?}");
    ensure!(browser.run(&format!("!!document.querySelector('[data-edge=\"{edge}\"]')"))? == true);
    Ok(())
}

/// Texts whose contrast with what is behind them is less than 4.5 (WCAG 2.2, 1.4.3), beside those that
/// are dimmed on purpose.
const CONTRAST: &str = r"(() => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = color.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll('header *, nav *, aside *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility({ visibilityProperty: true })) continue;
    const [a, b] = [parse(getComputedStyle(node).color), behind(node)].map((c) => light(c.slice(0, 3)));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) poor.push(`${node.textContent}: ${contrast.toFixed(2)}`);
  }
  return poor;
})()";

fn target() -> PathBuf {
    // the programs under test are in TARGET/PROFILE
    let profile = bed::binary().parent().map(Path::to_owned).unwrap_or_default();
    profile.parent().map(Path::to_owned).unwrap_or(profile)
}

/// Changes a field as a user would.
fn set(id: &str, value: &str, event: &str) -> String {
    format!(
        "(() => {{ const field = document.getElementById('{id}'); field.value = '{value}'; \
         field.dispatchEvent(new Event('{event}')); }})()"
    )
}

/// Whether something is there and not hidden.
fn visible(selector: &str) -> String {
    format!("!!document.querySelector('{selector}')?.checkVisibility()")
}

fn text(browser: &mut Browser, selector: &str) -> Result<String> {
    let value = browser.run(&format!("document.querySelector(`{selector}`).innerText"))?;
    Ok(value.as_str().context("no text")?.replace('\u{a0}', " "))
}

/// Clicks as a user does, in the middle of what is seen of it, once all is where it belongs.
fn press(browser: &mut Browser, selector: &str) -> Result<()> {
    let script = format!(
        "(async () => {{ \
         for (let n = 0; n < 2; n++) await new Promise((done) => requestAnimationFrame(done)); \
         const node = document.querySelector(`{selector}`); \
         node.scrollIntoView({{ block: 'nearest' }}); const box = node.getBoundingClientRect(); \
         return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
    );
    let place = browser.run(&script)?;
    for kind in ["mousePressed", "mouseReleased"] {
        let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
        browser.call("Input.dispatchMouseEvent", event)?;
    }
    Ok(())
}

/// An agent with a dashboard, and nothing to show.
struct Site {
    agent: beeway_testbed::Process,
    state: tempfile::TempDir,
    config: tempfile::TempDir,
    node: Node,
}

impl Site {
    fn start(label: &str) -> Result<Site> {
        let (node, config, state) = (Node::new(label)?, directory("config")?, directory("state")?);
        let agent = start_agent(&node, config.path(), state.path())?;
        Ok(Site { agent, state, config, node })
    }

    fn open_files(&self) -> String {
        format!("/proc/{}/fd", self.agent.pid())
    }

    fn url(&self) -> Result<String> {
        shop::url(self.state.path())
    }

    /// Head and body of an answer.
    fn curl(&self, arguments: &[&str]) -> Result<String> {
        let all = [&["-sS", "-i", "-m", "60"], arguments].concat();
        Ok(curl(&self.node, &all)?.success()?.stdout)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent ---\n{}", self.agent.stderr().join("\n"));
        }
        let _ = self.agent.terminate(Duration::from_secs(5));
        off(self.state.path());
    }
}
