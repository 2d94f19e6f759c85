//! What the bench ran on.

use std::path::Path;
use std::process::Command;

use crate::results::Machine;
use crate::run::Plan;
use crate::variant::BedKind;

/// Gathers the facts; what cannot be found out is an empty string, not an error.
pub fn describe(plan: &Plan) -> Machine {
    let mut versions = vec![
        ("wrk".to_owned(), version("wrk", "--version", "debian/")),
        ("nginx".to_owned(), version("/usr/sbin/nginx", "-v", "nginx/")),
    ];
    versions.push(("haproxy".to_owned(), version("/usr/sbin/haproxy", "-v", "")));
    versions.push(("h2load".to_owned(), version("h2load", "--version", "nghttp2/")));
    let grpcio = "import grpc; print(grpc.__version__)";
    versions.push(("grpcio".to_owned(), said("/usr/bin/python3", &["-c", grpcio])));
    let has = |kind: BedKind| plan.variants.iter().any(|variant| variant.bed() == kind);
    if has(BedKind::Sidecars) || has(BedKind::Gateway) {
        let version =
            crate::envoy::install(&plan.envoy).and_then(|path| crate::envoy::version(&path));
        versions.push(("envoy".to_owned(), version.unwrap_or_default()));
    }
    if has(BedKind::Sidecars) {
        versions.push(("iptables".to_owned(), version("/usr/sbin/iptables", "--version", "v")));
    }
    if has(BedKind::Beeway) || has(BedKind::BeewayBothEnds) {
        let agent = plan.agent.to_string_lossy();
        versions.push(("beeway".to_owned(), version(&agent, "--version", "")));
    }
    Machine {
        date: said("date", &["-u", "+%Y-%m-%d %H:%M"]),
        cpu: cpu_model(&read("/proc/cpuinfo")),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: said("uname", &["-srv"]),
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
        commit: said("git", &["describe", "--always", "--dirty"]),
        versions,
    }
}

/// The first word with a digit that a program says of its version, without a prefix.
fn version(program: &str, argument: &str, prefix: &str) -> String {
    let line = said(program, &[argument]);
    let mut words = line.split_whitespace();
    let word = words.find(|word| word.contains(|c: char| c.is_ascii_digit())).unwrap_or_default();
    word.strip_prefix(prefix).unwrap_or(word).to_owned()
}

/// The first line that a program says, on either stream.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default();
    if line.starts_with("fatal: ") {
        return String::new();
    }
    line.trim().to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or_else(String::new, |(_, m)| m.to_owned())
}
