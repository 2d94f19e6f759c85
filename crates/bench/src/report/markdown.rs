//! The result page. Pure.

use std::fmt::Write;

use crate::results::Results;
use crate::summary::{Cell, cell, ratio, verdicts as judge};
use crate::variant::{Mode, Variant};

/// How much of the machine may be busy at rest before the page warns.
const QUIET: f64 = 0.05;

/// The whole page.
pub fn page(results: &Results, notes: &str) -> String {
    let mut page = String::from(
        "# Bench results\n\nMade by `make bench`; edit `bench/notes.md` and run `beeway-bench \
         report`, not this file.\n\n",
    );
    page += &verdicts(results, notes);
    if !results.samples.is_empty() {
        page += "\n![Requests per second](requests.svg)\n![Latency](latency.svg)\n";
        for mode in &results.settings.modes {
            for connections in &results.settings.connections {
                page += &table(results, *mode, *connections);
            }
        }
    }
    if let Some(detour) = &results.detour {
        page += &super::detour::part(detour);
    }
    if let Some(routes) = &results.routes {
        page += &super::routes::part(routes);
    }
    if let Some(pods) = &results.pods {
        page += &crate::pods::part(pods);
    }
    page += &circumstances(results);
    page
}

/// The aims with their outcomes, and why the missed ones were missed.
pub fn verdicts(results: &Results, notes: &str) -> String {
    let mut text = format!("## Aims\n\n{}", aims(results));
    for verdict in judge(results).iter().filter(|verdict| verdict.met == Some(false)) {
        let _ = writeln!(text, "\n### Why {} was missed\n", verdict.id);
        for why in &verdict.why {
            let _ = writeln!(text, "- {why}");
        }
        if let Some(note) = section(notes, verdict.id) {
            let _ = writeln!(text, "\n{note}");
        }
    }
    text
}

/// The aims with their outcomes.
pub fn aims(results: &Results) -> String {
    let mut text = String::from("| aim | verdict | measured |\n|---|---|---|\n");
    for verdict in judge(results) {
        let outcome = match verdict.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let _ = writeln!(text, "| {} | {outcome} | {} |", verdict.aim, verdict.found);
    }
    text
}

/// What stands below `## <title>` in a Markdown text.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let parts = text.split("\n## ").map(|part| part.trim_start_matches("## "));
    parts
        .filter_map(|part| part.split_once('\n'))
        .find(|(heading, _)| heading.trim() == title)
        .map(|(_, body)| body.trim())
}

fn table(results: &Results, mode: Mode, connections: u32) -> String {
    let s = if connections == 1 { "" } else { "s" };
    let title = format!("\n## {connections} connection{s}, {}\n\n", mode.title());
    title + &rows(results, mode, connections)
}

/// The table of a number of connections that live on.
pub fn keep_alive(results: &Results, connections: u32) -> String {
    rows(results, Mode::KeepAlive, connections)
}

fn rows(results: &Results, mode: Mode, connections: u32) -> String {
    let mut text = String::from(
        "| | requests/s | p50 | p90 | p99 | CPU per request | × no mesh | × sidecar pair |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for variant in &results.settings.variants {
        let Some(cell) = cell(results, *variant, mode, connections) else {
            continue;
        };
        let against = |base| {
            let ratio = ratio(results, (*variant, base), mode, connections);
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        };
        text += &row(*variant, &cell, [against(Variant::NoMesh), against(Variant::SidecarPair)]);
    }
    text
}

fn row(variant: Variant, cell: &Cell, [no_mesh, pair]: [String; 2]) -> String {
    let title = match cell.errors {
        0 => variant.title().to_owned(),
        errors => format!("{} ({errors} errors)", variant.title()),
    };
    format!(
        "| {title} | {} | {} | {} | {} | {} | {no_mesh} | {pair} |\n",
        thousands(cell.rps),
        time(cell.p50_us),
        time(cell.p90_us),
        time(cell.p99_us),
        time(cell.cpu_us)
    )
}

fn circumstances(results: &Results) -> String {
    let (machine, settings) = (&results.machine, &results.settings);
    let mut text = format!(
        "\n## How it was measured\n\n\
         - {}, {} CPUs ({}), {}, congestion control {}, commit {}\n\
         - `{}`\n",
        machine.date,
        machine.cpus,
        machine.cpu,
        machine.kernel,
        machine.congestion_control,
        machine.commit,
        results.command
    );
    for (program, version) in &machine.versions {
        let _ = writeln!(text, "- {program} {version}");
    }
    let _ = write!(
        text,
        "- Medians of {} rounds of {} s. In a round every variant runs once, each round starting \
         with another one; ratios are medians of the ratios within rounds.\n\
         - Two pods of one node, each behind a veth pair on a bridge. wrk with one thread, nginx \
         with one worker, an answer of 3 bytes. One connection: everything on CPU 1. More: wrk on \
         CPU 1, nginx on CPU 0, proxies on both (Envoy with `--concurrency 2`).\n\
         - The sidecars are configured as Istio does it in essence, without mTLS, statistics, \
         access log and traces: see `bench/envoy/`. One Envoy is addressed directly, without \
         redirection.\n\
         - With a connection per request, latency as wrk gives it begins when the connection \
         stands; requests/s and CPU include connecting. Envoy and Beeway's detour keep their own \
         connections to the servers open. What Beeway answers itself it answers without closing, so \
         there the client keeps its connection.\n\
         - CPU per request: of all processes of the node, load generator and servers included, and \
         of the kernel's threads.\n",
        settings.rounds, settings.seconds
    );
    text += &lane_proof(results);
    let restless = results.samples.iter().filter(|sample| sample.idle_busy > QUIET).count();
    if restless > 0 {
        let _ = writeln!(
            text,
            "- **Noise:** before {restless} of {} measurements more than {:.0} % of the machine was \
             busy with something else.",
            results.samples.len(),
            QUIET * 100.0
        );
    }
    text
}

/// What the kernel's counters say about the lanes.
fn lane_proof(results: &Results) -> String {
    let invalid: Vec<_> = results.samples.iter().filter(|sample| !sample.proven()).collect();
    let mut text = String::from(
        "- Lane proof: the kernel's counters of requests by lane are read before and after each \
         measurement of Beeway; where less than 99.9 % of the requests took the lane that the \
         variant stands for, the measurement is invalid and left out.",
    );
    match invalid.len() {
        0 => text += " None was.\n",
        n => {
            let _ = writeln!(text, " **{n} were:**");
        }
    }
    for sample in invalid {
        let _ = writeln!(text, "  - {}", sample.describe());
    }
    text
}

/// Microseconds in three digits and a unit.
pub fn time(us: f64) -> String {
    match us {
        us if us < 9.95 => format!("{us:.1} µs"),
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 9_995.0 => format!("{:.2} ms", us / 1e3),
        us if us < 99_950.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.0} ms", us / 1e3),
    }
}

/// Groups of three digits.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::example;

    #[test]
    fn numbers_are_readable() {
        assert_eq!((thousands(7.0), thousands(1234567.4)), ("7".into(), "1 234 567".into()));
        let times = [3.12, 22.4, 999.6, 12_345.0, 123_456.0].map(time);
        assert_eq!(times, ["3.1 µs", "22 µs", "1.00 ms", "12.3 ms", "123 ms"]);
    }

    #[test]
    fn a_section_ends_at_the_next() {
        let notes = "# Notes\n\n## a\nfirst\n\n## b\nsecond\n";
        assert_eq!(section(notes, "a"), Some("first"));
        assert_eq!(section(notes, "b"), Some("second"));
        assert_eq!(section(notes, "c"), None);
        assert_eq!(section("## a\nonly", "a"), Some("only"));
    }

    #[test]
    fn the_page_has_rows_ratios_and_verdicts() {
        let page = page(&example(), "");
        for wanted in [
            "| Beeway native ≥ 0.97 × no mesh everywhere | met | 0.98 at 64 |",
            "| Beeway native (3 errors) | 90 | 20 µs | 30 µs | 40 µs | 22.2 ms | 0.98 |  |",
            "| connect() costs at most 3 µs more | met | +2.0 µs on 20.0 µs;",
            "not measured",
            "`beeway-bench run`",
        ] {
            assert!(page.contains(wanted), "no {wanted:?} in {page}");
        }
        assert!(!page.contains("Noise"));
    }

    #[test]
    fn a_missed_aim_has_its_note() {
        let mut results = example();
        results.connects.clear();
        for sample in &mut results.samples {
            sample.rps *= if sample.variant == Variant::Native { 0.5 } else { 1.0 };
        }
        let text = verdicts(&results, "## native-no-mesh\nBecause of the weather.\n");
        assert!(text.contains("**missed**") && text.contains("Because of the weather."), "{text}");
    }
}
