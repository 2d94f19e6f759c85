//! The configuration changes under load: every request sees one generation, and one that cannot be
//! put in force changes nothing.

mod bed;

use std::fmt::Write as _;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::{Bed, JASON, LIMIT, Shape, WEB, wait_until};
use beeway_testbed::{Load, LoadReport, RawClient};

/// How long generations follow one another, and how fast.
const STORM: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(10);
/// Answers that each generation has, in another order each time.
const WORDS: u64 = 16;

/// A generation in which everything has another place than in the one before it, and that yet
/// means the same: the subset that a header leads to changes its name and its members at once, and
/// each answer its place among the rules. Any mix of two generations gives a wrong answer.
fn turned(number: u64) -> String {
    let (one, two) = if number.is_multiple_of(2) { ("v1", "v2") } else { ("v2", "v1") };
    let (first, second) = if number.is_multiple_of(2) { ("one", "two") } else { ("two", "one") };
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: turned, namespace: default}}\n\
         spec:\n  host: web\n  subsets:\n  \
         - {{name: one, labels: {{version: {one}}}}}\n  - {{name: two, labels: {{version: {two}}}}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: web, namespace: default}}\nspec:\n  hosts: [web]\n  http:\n"
    );
    for place in 0..WORDS {
        let word = (place + number) % WORDS;
        writeln!(
            text,
            "  - match: [{{uri: {{exact: /word/{word}}}, headers: {{x-word: {{exact: w{word}}}}}}}]\n    \
             directResponse: {{status: {}, body: {{string: \"{word} {number}\"}}}}",
            230 + word
        )
        .expect("writing to a string");
    }
    write!(
        text,
        "  - match: [{{headers: {{x-first: {{exact: \"1\"}}}}}}]\n    \
         route: [{{destination: {{host: web, subset: {first}}}}}]\n  \
         - route: [{{destination: {{host: web, subset: {second}}}}}]\n"
    )
    .expect("writing to a string");
    text
}

/// What the writer of generations and its readers share.
#[derive(Default)]
struct Storm {
    over: AtomicBool,
    /// The newest one written, and the newest one that an answer named.
    written: AtomicU64,
    seen: AtomicU64,
}

/// Writes a generation each [`PACE`]; returns how many the agent put in force.
fn write_generations(bed: &Bed, storm: &Storm) -> Result<u64> {
    let before = bed.generation()?;
    let begun = Instant::now();
    let mut next = begun;
    let mut number = 0;
    while begun.elapsed() < STORM {
        number += 1;
        storm.written.store(number, Ordering::SeqCst);
        bed.write("web-route.yaml", &turned(number))?;
        next += PACE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(bed.generation()? - before)
}

/// Asks over one connection after another, and holds every answer against the question.
fn ask(bed: &Bed, storm: &Storm, seed: u64) -> Result<u64> {
    let mut asked = seed;
    while !storm.over.load(Ordering::Relaxed) {
        let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
        for _ in 0..100 {
            asked += 1;
            let word = asked % WORDS;
            let seen = storm.seen.load(Ordering::SeqCst);
            let answer =
                raw.get("web", &format!("/word/{word}"), &[&format!("x-word: w{word}")])?;
            let (named, number) = answer.body.split_once(' ').context("two words")?;
            ensure!(
                (u64::from(answer.status), named) == (230 + word, &*word.to_string()),
                "asked for {word}: {answer:?}"
            );
            // a generation that one request has seen is in force for all that come after it
            let number: u64 = number.parse()?;
            storm.seen.fetch_max(number, Ordering::SeqCst);
            ensure!(number >= seen, "{number} after {seen}");
            let written = storm.written.load(Ordering::SeqCst);
            ensure!(number <= written, "{number} is newer than {written}");
            let first = raw.get("web", "/x", &["x-first: 1"])?;
            ensure!((first.status, first.served_by()) == (200, Some("v1")), "{first:?}");
            let second = raw.get("web", "/x", &[])?;
            ensure!((second.status, second.served_by()) == (200, Some("v2")), "{second:?}");
            // the agent needs a part of the machine, too
            std::thread::sleep(PACE / 5);
        }
    }
    Ok(asked - seed)
}

/// Requests as fast as they are answered: for some seconds all to one version, then to the other.
/// An endpoint closes a connection that it gets nothing from for 30 s, so none lasts that long.
fn load(bed: &Bed, storm: &Storm) -> Result<()> {
    for (header, name) in [("x-first: 1", "v1"), ("x-none: 1", "v2")].iter().cycle() {
        if storm.over.load(Ordering::Relaxed) {
            break;
        }
        let load = Load::new(format!("http://{WEB}/"), 0).header("Host: web").header(*header);
        let report = Load { duration: Duration::from_secs(5), ..load }.run(&bed.client)?;
        ensure!(report.errors == 0, "{:?}", report.messages);
        ensure!(report.status.keys().eq(["200"]), "{report:?}");
        ensure!(report.served_by.keys().eq([name]), "{report:?}");
    }
    Ok(())
}

#[test]
fn no_request_sees_two_generations_or_fails() -> Result<()> {
    let bed = Bed::new("change", Shape { servers_in_mesh: true }, JASON)?;
    let before = bed.generation()?;
    bed.write("web-route.yaml", &turned(0))?;
    bed.wait_for_generation(before)?;
    let storm = Storm::default();
    let (generations, asked) = std::thread::scope(|scope| -> Result<_> {
        let (bed, storm) = (&bed, &storm);
        let readers = [0, 1].map(|seed| scope.spawn(move || ask(bed, storm, seed)));
        let load = scope.spawn(move || load(bed, storm));
        let generations = write_generations(bed, storm);
        storm.over.store(true, Ordering::Relaxed);
        let mut asked = 0;
        for thread in readers {
            asked += thread.join().expect("no panic")?;
        }
        load.join().expect("no panic")?;
        Ok((generations?, asked))
    })?;
    let lane = |name: &str| bed.lane(name);
    eprintln!("{generations} generations, {asked} triples, {} detours", lane("detour")?);
    assert!(generations > 300, "only {generations} generations in {STORM:?}");
    assert!(lane("native")? + lane("shortcut")? > 100 && lane("detour")? > 100);
    assert!(lane("answered")? >= asked);
    assert_eq!(lane("refused")?, 0);
    Ok(())
}

/// A service of so many ports and addresses that the tables cannot hold them.
fn too_large() -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: large, namespace: default}\n\
         spec:\n  clusterIP: 10.96.0.99\n  ports:\n",
    );
    let ports: Vec<u16> = (1..=16).collect();
    let (mut service, mut slice) = (String::new(), String::new());
    for port in ports {
        writeln!(service, "  - {{name: tcp-{port}, port: {port}}}").expect("to a string");
        writeln!(slice, "- {{name: tcp-{port}, port: {port}}}").expect("to a string");
    }
    text += &service;
    text += "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {name: large, namespace: default, \
             labels: {kubernetes.io/service-name: large}}\nports:\n";
    text += &slice;
    let addresses: Vec<String> =
        (0..4200).map(|n| format!("10.9.{}.{}", n / 250, n % 250)).collect();
    write!(text, "endpoints:\n- addresses: [{}]\n", addresses.join(", ")).expect("to a string");
    text
}

fn beeway(arguments: &[&str], path: &std::path::Path) -> Result<Output> {
    Ok(Command::new(bed::binary()).args(arguments).arg(path).output()?)
}

fn metric(bed: &Bed, name: &str) -> Result<f64> {
    bed.scrape()?.value(name)
}

#[test]
fn what_does_not_fit_is_refused_and_traffic_goes_on() -> Result<()> {
    let bed = Bed::new("full", Shape { servers_in_mesh: false }, JASON)?;
    let number = bed.generation()?;
    assert_eq!(metric(&bed, "beeway_configuration_in_force")?, 1.0);
    let mut load = Load::new(format!("http://{WEB}/"), 0).header("Host: web").connections(2);
    load.duration = Duration::from_secs(4);
    let load = load.command(&bed.client)?.spawn()?;
    bed.write("large.yaml", &too_large())?;
    wait_until("refused", || Ok(!bed.status()?["rejected"].is_null()))?;

    let status = bed.status()?;
    let reason = status["rejected"].as_str().unwrap_or_default();
    assert!(reason.contains("words, a generation has"), "{reason}");
    assert_eq!(status["generation"]["number"], number);
    assert_eq!(metric(&bed, "beeway_configuration_in_force")?, 0.0);
    assert_eq!(metric(&bed, "beeway_generations_refused_total")?, 1.0);
    assert_eq!(metric(&bed, "beeway_generation")?, number as f64);
    let (used, limit) =
        (metric(&bed, "beeway_table_words")?, metric(&bed, "beeway_table_words_limit")?);
    assert!(used > 0.0 && used < limit, "{used} of {limit}");
    wait_until("logged", || Ok(bed.agent_log().contains("before it stays in force")))?;
    let text = beeway(&["status", "--state"], bed.state.path())?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("REJECTED") && text.contains("a generation has"), "{text}");
    let check = beeway(&["check"], bed.config.path())?;
    assert_eq!(check.status.code(), Some(1));
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("error: the tables need"), "{check}");

    // the old routes hold, in the kernel and in the proxy
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert_eq!(raw.get("web", "/forbidden", &[])?.status, 403);
    std::fs::remove_file(bed.config.path().join("large.yaml"))?;
    bed.wait_for_generation(number)?;
    wait_until("accepted", || Ok(bed.status()?["rejected"].is_null()))?;
    assert_eq!(metric(&bed, "beeway_configuration_in_force")?, 1.0);
    assert_eq!(metric(&bed, "beeway_generations_refused_total")?, 1.0);
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));

    let report = LoadReport::parse(&load.output(LIMIT)?.success()?.stdout)?;
    assert_eq!(report.errors, 0, "{:?}", report.messages);
    assert_eq!(report.served_by.keys().collect::<Vec<_>>(), ["v1"], "{report:?}");
    Ok(())
}

/// As kubelet does it: files are links into `..data`, itself a link that is replaced.
#[test]
fn a_config_map_is_switched_by_its_link() -> Result<()> {
    let bed = Bed::new("configmap", Shape { servers_in_mesh: false }, JASON)?;
    let path = |name: &str| bed.config.path().join(name);
    let version = |name: &str, user: &str| -> Result<()> {
        std::fs::create_dir(path(name))?;
        let text = std::fs::read_to_string(path("web-route.yaml"))?;
        std::fs::write(path(name).join("web-route.yaml"), text.replace("jason", user))?;
        std::os::unix::fs::symlink(name, path("..data_tmp"))?;
        Ok(std::fs::rename(path("..data_tmp"), path("..data"))?)
    };
    version("..one", "jason")?;
    std::os::unix::fs::symlink("..data/web-route.yaml", path("web-route.link"))?;
    let before = bed.generation()?;
    std::fs::rename(path("web-route.link"), path("web-route.yaml"))?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    // the same text: no new generation; and then another
    version("..two", "martha")?;
    std::fs::remove_dir_all(path("..one"))?;
    let after = bed.wait_for_generation(before)?;
    assert_eq!(after, before + 1, "one change is one generation");
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v1"));
    assert_eq!(raw.get("web", "/", &["end-user: martha"])?.served_by(), Some("v2"));
    Ok(())
}
