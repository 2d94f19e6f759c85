//! The part of the page about the detour beside other proxies. Pure.

use std::fmt::Write;

use super::markdown::{thousands, time};
use crate::detour::summary::{Cell, Place, name};
use crate::detour::{Load, Results, Way};

/// Whether a load belongs into a table.
type Fits = fn(Load) -> bool;

/// All of it.
pub fn part(results: &Results) -> String {
    let mut text = String::from("\n## The detour beside other proxies\n");
    let kinds: [(&str, Fits); 3] = [
        ("HTTP/1.1, a header route and a header added", |load| load == Load::Http),
        ("gRPC, unary, by h2load", |load| matches!(load, Load::Grpc(_))),
        ("gRPC, unary, by the client library grpcio", |load| load == Load::Library),
    ];
    for (title, fits) in kinds {
        let places = results.places(fits);
        let rows: String = places.iter().map(|place| rows(results, *place)).collect();
        if !rows.is_empty() {
            let columns = "requests/s | p50 | p99 | CPU of the proxy per request | CPU per request";
            let _ = write!(
                text,
                "\n### {title}\n\n| connections | | {columns} | × one Envoy | × better of HAProxy \
                 and nginx |\n|--:|---|{}\n{rows}",
                "--:|".repeat(7)
            );
        }
    }
    text + &memory(results) + &circumstances(results)
}

/// A row for each way.
fn rows(results: &Results, place: Place) -> String {
    let row = |way: Way| {
        let cell = results.cell(way, place)?;
        let against = |base: Option<Way>| {
            let ratio = base.and_then(|base| results.ratio(way, base, place));
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        };
        Some(format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            name(place),
            title(results, way, place, &cell),
            thousands(cell.rps),
            time(cell.p50_us),
            time(cell.p99_us),
            proxy_time(way, &cell),
            time(cell.cpu_us),
            against(Some(Way::OneEnvoy)),
            against(results.better(place))
        ))
    };
    Way::ALL.into_iter().filter_map(row).collect()
}

/// The way, and what is to be known of it.
fn title(results: &Results, way: Way, (load, _): Place, cell: &Cell) -> String {
    let mut notes = Vec::new();
    if load == Load::Http && way != Way::NoProxy && !results.adds.contains(&way) {
        notes.push("adds no header".to_owned());
    }
    if cell.errors > 0 {
        notes.push(format!("{} errors", cell.errors));
    }
    match notes.is_empty() {
        true => way.title().to_owned(),
        false => format!("{} ({})", way.title(), notes.join(", ")),
    }
}

fn proxy_time(way: Way, cell: &Cell) -> String {
    if way == Way::NoProxy { String::new() } else { time(cell.proxy_cpu_us) }
}

/// The excerpt: requests per second and the 99th percentile at each place.
pub fn overview(results: &Results) -> String {
    let http = results.places(|load| load == Load::Http);
    let grpc = results.places(|load| matches!(load, Load::Grpc(_)));
    let mut text = format!("HTTP/1.1, keep-alive connections:\n\n{}", summed(results, &http));
    if grpc.iter().any(|place| results.cell(Way::OneEnvoy, *place).is_some()) {
        text += "\ngRPC, unary, connections × calls at once on each:\n\n";
        text += &summed(results, &grpc);
    }
    let table = memory_table(results);
    if !table.is_empty() {
        text += "\nMemory of the proxy with idle client connections:\n\n";
        text += &table;
    }
    text
}

fn summed(results: &Results, places: &[Place]) -> String {
    let columns: String =
        places.iter().map(|place| format!(" at {}: requests/s | p99 |", name(*place))).collect();
    let mut text = format!(
        "| |{columns} CPU of the proxy per request |\n|---|{}\n",
        "--:|".repeat(2 * places.len() + 1)
    );
    for way in Way::ALL {
        let cells: Vec<_> = places.iter().map(|place| results.cell(way, *place)).collect();
        let Some((place, Some(last))) = places.iter().zip(&cells).rev().find(|(_, c)| c.is_some())
        else {
            continue;
        };
        let columns: String = cells
            .iter()
            .map(|cell| match cell {
                Some(cell) => format!(" {} | {} |", thousands(cell.rps), time(cell.p99_us)),
                None => " | |".to_owned(),
            })
            .collect();
        let _ = writeln!(
            text,
            "| {} |{columns} {} |",
            title(results, way, *place, last),
            proxy_time(way, last)
        );
    }
    text
}

fn memory(results: &Results) -> String {
    let table = memory_table(results);
    if table.is_empty() {
        return table;
    }
    format!(
        "\n### Memory of the proxy with idle client connections\n\n{table}\nEach connection has had \
         one request, which went to v2. Proportional set size of all processes of the proxy, taken \
         before any load; what the kernel keeps for sockets and maps is not in it.\n"
    )
}

fn memory_table(results: &Results) -> String {
    let counts: Vec<u32> = [0].iter().chain(&results.settings.idle).copied().collect();
    let columns: String =
        counts.iter().map(|n| format!(" {} |", thousands(f64::from(*n)))).collect();
    let mut rows = String::new();
    for way in Way::ALL {
        let found: Vec<u64> = counts.iter().filter_map(|n| results.bytes(way, *n)).collect();
        let (Some(first), Some(last)) = (found.first(), found.last()) else { continue };
        if found.len() != counts.len() {
            continue;
        }
        let columns: String = found.iter().map(|bytes| format!(" {} |", mib(*bytes))).collect();
        let most = counts.last().copied().unwrap_or_default().max(1);
        let each = last.saturating_sub(*first) as f64 / f64::from(most) / 1024.0;
        let _ = writeln!(rows, "| {} |{columns} {each:.1} KiB |", way.title());
    }
    if rows.is_empty() {
        return rows;
    }
    format!("| |{columns} each |\n|---|{}\n{rows}", "--:|".repeat(counts.len() + 1))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn circumstances(results: &Results) -> String {
    let settings = &results.settings;
    let mut text = format!(
        "\n### How the detour was measured\n\n\
         - `{}`, {}, commit {}\n\
         - Medians of {} rounds of {} s, every way in turn; factors are medians of the rounds' \
         ratios.\n\
         - Every request has a header by which it belongs to v2, and is to get another header on \
         its way; connections through Beeway lead to v1 or v2. The rules of all are in \
         `bench/detour.yaml`, `bench/envoy/detour.yaml`, `bench/haproxy.cfg` and \
         `bench/nginx.conf`. One node, the same two servers for all (nginx, and a gRPC server in \
         Rust that sends each message back); the other proxies are addressed directly. No proxy: \
         to the address of v2.\n\
         - Processes are placed as in the rest of the bench. Envoy, HAProxy and nginx have two \
         threads or workers, connections to servers are kept, nobody writes an access log.\n\
         - gRPC at 16×10: 16 connections with 10 calls at once on each. The client library \
         spends most of the time itself.\n\
         - CPU of the proxy: user and system time of its processes; what the kernel does for it \
         while others run is in the other column, of all processes of the node and of the kernel's \
         threads.\n\
         - Lane proof: as in the rest of the bench for HTTP/1.1; for gRPC the agent must have \
         spent at least 1 µs a call.\n",
        results.command,
        results.machine.date,
        results.machine.commit,
        settings.rounds,
        settings.seconds
    );
    for (program, version) in &results.machine.versions {
        if ["haproxy", "h2load", "grpcio"].contains(&program.as_str()) {
            let _ = writeln!(text, "- {program} {version}");
        }
    }
    for sample in results.samples.iter().filter(|sample| !sample.proven()) {
        let _ = writeln!(text, "- **Invalid, left out:** {}", sample.describe());
    }
    for why in &results.left_out {
        let _ = writeln!(text, "- **Did not answer as it should, left out:** {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detour::summary::tests::example;

    #[test]
    fn the_part_has_requests_memory_and_what_was_left_out() {
        let part = part(&example());
        for wanted in [
            "| 64 | Beeway detour | 400 | 2.50 ms | 5.00 ms | 5.0 µs | 20 µs | 4.00 | 2.00 |",
            "| 64 | nginx (adds no header) | 200 |",
            "| 64×10 | one Envoy | 70 |",
            "| Beeway detour | 10.0 MiB | 20.0 MiB | 1.0 KiB |",
            "left out:** nginx, gRPC: no answer",
        ] {
            assert!(part.contains(wanted), "no {wanted:?} in {part}");
        }
        assert!(!part.contains("by the client library grpcio\n\n|"), "{part}");
    }

    #[test]
    fn the_excerpt_has_a_row_for_each_way() {
        let text = overview(&example());
        for wanted in [
            "| | at 64: requests/s | p99 | CPU of the proxy per request |",
            "| Beeway detour | 400 | 5.00 ms | 5.0 µs |",
            "| one Envoy | 70 | 28.6 ms | 5.0 µs |",
            "| | 0 | 10 000 | each |",
        ] {
            assert!(text.contains(wanted), "no {wanted:?} in {text}");
        }
    }
}
