//! The part of the page about cost over routes. Pure.

use std::fmt::Write;

use super::markdown::{thousands, time};
use crate::routes::Results;
use crate::routes::list::{Head, Size};
use crate::routes::summary::thousands as count;
use crate::summary::median;
use crate::variant::Variant;

/// All of it.
pub fn part(results: &Results) -> String {
    let mut text = String::from("\n## Cost over routes\n\n![Cost over routes](routes.svg)\n");
    for connections in &results.settings.connections {
        text += &latencies(results, *connections);
    }
    text += &verdicts(results);
    text += &tables(results);
    text += &changes(results);
    text + &circumstances(results)
}

/// Latency with a number of connections, and what it is without a mesh.
fn latencies(results: &Results, connections: u32) -> String {
    let s = if connections == 1 { "" } else { "s" };
    let mut text =
        format!("\n### {connections} connection{s}, keep-alive\n\n{}", table(results, connections));
    if let Some(cell) = results.cell(Variant::NoMesh, Size::one(10), connections) {
        let _ = writeln!(
            text,
            "\nNo mesh: p50 {}, {} requests/s, {} of CPU per request.",
            fine(cell.p50_us),
            thousands(cell.rps),
            time(cell.cpu_us)
        );
    }
    text
}

/// Latency with a number of connections, a row for each size.
pub fn table(results: &Results, connections: u32) -> String {
    let columns_of = "p50 | × that at the fewest | requests/s | CPU per request";
    let mut text = format!(
        "| routes | Beeway native: {columns_of} | one Envoy: {columns_of} |\n|---|{}\n",
        "--:|".repeat(8)
    );
    for size in &results.settings.sizes {
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            name(*size),
            columns(results, Variant::Native, *size, connections),
            columns(results, Variant::OneEnvoy, *size, connections)
        );
    }
    text
}

fn columns(results: &Results, variant: Variant, size: Size, connections: u32) -> String {
    let Some(cell) = results.cell(variant, size, connections) else {
        return "| | |".to_owned();
    };
    let errors = match cell.errors {
        0 => String::new(),
        errors => format!(" ({errors} errors)"),
    };
    let growth = results.growth(variant, size, connections);
    format!(
        "{}{errors} | {} | {} | {}",
        fine(cell.p50_us),
        growth.map_or_else(String::new, |growth| format!("{growth:.2}")),
        thousands(cell.rps),
        time(cell.cpu_us)
    )
}

/// Three digits also where [`time`] has two: the aim is about a twentieth.
fn fine(us: f64) -> String {
    if us < 99.5 { format!("{us:.1} µs") } else { time(us) }
}

fn name(size: Size) -> String {
    match size.services {
        1 => count(size.routes),
        services => format!("{} services of {}", count(services), count(size.routes)),
    }
}

fn verdicts(results: &Results) -> String {
    let mut cases: Vec<(Size, u32)> =
        results.verdicts.iter().map(|sample| (sample.size, sample.asked)).collect();
    cases.sort_by_key(|(size, asked)| (*size, std::cmp::Reverse(*asked)));
    cases.dedup();
    if cases.is_empty() {
        return String::new();
    }
    let columns: String = cases
        .iter()
        .map(|(size, asked)| match size.routes == *asked {
            true => format!(" {} routes |", name(*size)),
            false => format!(" {} routes, {} asked for |", name(*size), count(*asked)),
        })
        .collect();
    let mut text = format!(
        "\n### Time of a verdict\n\n| head |{columns}\n|---|{}\n",
        "--:|".repeat(cases.len())
    );
    let mut empty = Vec::new();
    for head in Head::ALL {
        let _ = write!(text, "| {} |", head.title());
        for (size, asked) in &cases {
            let found = results.verdict_ns(head, *size, *asked);
            empty.extend(found.map(|(_, empty)| empty));
            let _ = match found {
                Some((ns, _)) => write!(text, " {:.2} µs |", ns / 1e3),
                None => write!(text, " |"),
            };
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\nThe average run time of `on_send` per request, as the kernel measures it with \
         `BPF_STATS_RUN_TIME`, over requests that were native. The kernel reads its clock before \
         and after each run, which is in it: a program that does nothing (`on_receive`) shows {:.0} \
         ns. Nothing is subtracted.",
        median(&empty).unwrap_or_default()
    );
    text
}

fn tables(results: &Results) -> String {
    if results.tables.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n### Tables\n\n| routes | read | compile | tables | per route | map |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for table in &results.tables {
        let bytes = table.words as f64 * 4.0;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} KiB | {:.0} bytes | {} KiB |",
            name(table.size),
            time(table.cost.read_ms * 1e3),
            time(table.cost.compile_ms * 1e3),
            thousands(bytes / 1024.0),
            bytes / f64::from(table.size.total()),
            thousands(table.map_bytes as f64 / 1024.0)
        );
    }
    text += "\nRead: from the files of Kubernetes objects to the model; compile: from the model to \
             the tables; each on one core, medians. Map: the kernel memory of one generation, used \
             or not; while one replaces another there are two.\n";
    text
}

fn changes(results: &Results) -> String {
    let (Some(half), Some(size)) = (median(&results.changes_ms), results.curve().last().copied())
    else {
        return String::new();
    };
    let mut sorted = results.changes_ms.clone();
    sorted.sort_by(f64::total_cmp);
    let ninth = sorted[(sorted.len() - 1) * 9 / 10];
    format!(
        "\n### A change\n\nOne of {} routes was changed {} times, by renaming a file over another. \
         From the rename to the answer of the first request that went the new way: median \
         {half:.1} ms, p90 {ninth:.1} ms, {:.1} to {:.1} ms.\n",
        name(size),
        sorted.len(),
        sorted[0],
        sorted[sorted.len() - 1]
    )
}

fn circumstances(results: &Results) -> String {
    let settings = &results.settings;
    let invalid = results.samples.iter().filter(|s| !s.sample.proven());
    let mut text = format!(
        "\n### How routes were measured\n\n\
         - `{}`, {}, commit {}\n\
         - Medians of {} rounds of {} s, every size of every variant in turn; what is given as a \
         factor is the median of the rounds' ratios.\n\
         - Routes: of each ten 3 are exact paths (1 with a method), 3 segment prefixes (1 with a \
         header), 2 regular expressions, 1 an exact path with a query parameter, and 1 a canary by \
         header. Beeway has them as HTTPRoutes of at most 16 rules, one in a file; Envoy has the \
         same list in the same order.\n\
         - All routes but the canaries are asked for in turn, by 9 000 different requests whatever \
         the size. Before, 2 000 requests of each size, canaries too, have shown that each leads to \
         the right server. With many services each round asks another one.\n\
         - One connection: a client of our own, which counts in nanoseconds (wrk: in microseconds) \
         and looks at who gave each answer. More: wrk. Processes are placed as in the rest of the \
         bench. No mesh: to the server's address, once a round.\n",
        results.command,
        results.machine.date,
        results.machine.commit,
        settings.rounds,
        settings.seconds
    );
    match invalid.clone().count() {
        0 => text += "- Lane proof as in the rest of the bench: no measurement was invalid.\n",
        n => {
            let _ =
                writeln!(text, "- Lane proof as in the rest of the bench. **{n} were invalid:**");
        }
    }
    for s in invalid {
        let _ = writeln!(text, "  - {} routes: {}", name(s.size), s.sample.describe());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::summary::tests::example;

    #[test]
    fn the_part_has_curves_verdicts_tables_and_changes() {
        let part = part(&example(1.02));
        for wanted in [
            "| 10 000 | 10.2 µs | 1.02 | 100 | 20.0 ms | 5.00 ms | 100.00 | 100 | 20.0 ms |",
            "No mesh: p50 9.0 µs",
            "| 100 bytes, by path | 0.40 µs | 0.41 µs |",
            "| 730 bytes, by path and header | | 1.30 µs |",
            "(`on_receive`) shows 30 ns",
            "| 10 000 | 180 ms | 40.0 ms | 977 KiB | 100 bytes | 4 096 KiB |",
            "median 40.0 ms, p90 40.0 ms, 30.0 to 70.0 ms",
            "no measurement was invalid",
        ] {
            assert!(part.contains(wanted), "no {wanted:?} in {part}");
        }
    }
}
