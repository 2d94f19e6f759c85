//! Step 6: the same client and the same server outside the mesh and inside.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Load, LoadReport, Place, Process};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::check_stop;
use crate::screen::{Screen, human, thousands};
use crate::shop::Shop;

/// How often each variant is measured; the variants take turns.
const ROUNDS: usize = 5;

/// How long each time.
const RUN: Duration = Duration::from_millis(500);

/// How much longer than it should a measurement may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The variants, their server and the service by which it is reached in the mesh.
const VARIANTS: [(&str, &str, Option<&str>); 3] = [
    ("no mesh", "details-v1", None),
    ("native", "details-v1", Some("details")),
    ("shortcut", "reviews-v1", Some("reviews")),
];

/// Connections of the two measurements.
const CONNECTIONS: [u32; 2] = [1, 16];

type Reports = BTreeMap<(u32, &'static str), Vec<LoadReport>>;

/// Measures; the lines of the table.
pub fn latency(shop: &mut Shop, screen: &Screen) -> Result<Vec<String>> {
    screen.heading("7  Latency beside no mesh");
    let mut reports = Reports::new();
    for connections in CONNECTIONS {
        for round in 1..=ROUNDS {
            let mut told = Vec::new();
            for (variant, server, service) in VARIANTS {
                check_stop()?;
                let report = measure(shop, connections, server, service)
                    .with_context(|| format!("measure {variant}"))?;
                told.push(format!("{variant} {}", micros(report.p50_us as f64)));
                reports.entry((connections, variant)).or_default().push(report);
            }
            screen
                .doing(&format!("{connections} at a time, {round}/{ROUNDS}: {}", told.join(", ")));
        }
    }
    for connections in CONNECTIONS {
        let rate = |variant| median(&reports[&(connections, variant)], |r| r.rps);
        screen.ok(&format!(
            "{connections:>2} at a time: native answers {:.2} times, the shortcut {:.2} times as \
             many requests as no mesh",
            rate("native") / rate("no mesh"),
            rate("shortcut") / rate("no mesh"),
        ));
    }
    Ok(table(&reports))
}

fn measure(
    shop: &Shop,
    connections: u32,
    server: &str,
    service: Option<&str>,
) -> Result<LoadReport> {
    let last = std::thread::available_parallelism().map_or(0, |n| n.get() - 1);
    // One connection is a ping-pong: across cores it would measure how cores wake each other.
    let (client_cpu, server_cpu) = if connections == 1 { (0, 0) } else { (last, 0) };
    let to = match service {
        Some(service) => shop.service(service)?,
        None => shop.pod(server)?.addr4(shop.service("details")?.port()),
    };
    pin(shop.process(server)?, server_cpu)?;
    let load = Load {
        duration: RUN,
        ..Load::new(format!("http://{to}/bytes/1024"), 0).connections(connections)
    };
    let command = load.command(shop.pod("load")?)?.cpu(client_cpu);
    let command = if service.is_some() { command.mesh() } else { command.plain() };
    let report = LoadReport::parse(&command.output(RUN + LIMIT)?.success()?.stdout)?;
    ensure!(
        report.errors == 0 && report.status.keys().all(|status| status == "200"),
        "{} requests got no answer, the others {:?}",
        report.errors,
        report.status
    );
    Ok(report)
}

/// Keeps all threads of a process on one CPU.
fn pin(process: &Process, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    for task in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
        let id = task?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(id), &set)?;
    }
    Ok(())
}

fn median(reports: &[LoadReport], of: impl Fn(&LoadReport) -> f64) -> f64 {
    let mut values: Vec<f64> = reports.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn micros(number: f64) -> String {
    human(Duration::from_nanos((number * 1e3) as u64))
}

fn table(reports: &Reports) -> Vec<String> {
    let mut lines = Vec::new();
    for connections in CONNECTIONS {
        let title = format!("{connections} at a time");
        lines.push(format!("   {title:<16}{:>10}{:>10}{:>14}", "p50", "p99", "requests/s"));
        for (variant, _, _) in VARIANTS {
            let runs = &reports[&(connections, variant)];
            lines.push(format!(
                "   {variant:<16}{:>10}{:>10}{:>14}",
                micros(median(runs, |r| r.p50_us as f64)),
                micros(median(runs, |r| r.p99_us as f64)),
                thousands(median(runs, |r| r.rps) as u64)
            ));
        }
    }
    lines.push(format!(
        "   (1 KiB answers; medians of {ROUNDS} runs of {}, taken in turns; `make bench` measures \
         at length)",
        human(RUN)
    ));
    lines
}
