//! `beeway run`: what must be there before the agent starts, so that nothing is half-started.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent;
use crate::cli::RunArgs;

/// Runs the agent until it is told to stop.
pub fn run(args: RunArgs) -> Result<ExitCode> {
    require_root("beeway run", "CAP_BPF, CAP_NET_ADMIN")?;
    if beeway_dataplane::cgroup::mount_point().is_none() {
        bail!(
            "cgroup v2 is not mounted: try \
             `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`"
        );
    }
    if !args.config.is_dir() {
        bail!("{} is not a directory: name one with YAML files in it", args.config.display());
    }
    for family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
        if args.detour_addresses.iter().filter(|address| family(address)).count() > 1 {
            bail!("--detour-address takes one IPv4 and one IPv6 address");
        }
    }
    agent::run(agent::RunArgs {
        config: args.config,
        cgroup: args.cgroup,
        state: args.state,
        metrics: args.metrics,
        access_log: agent::LogSettings {
            file: args.access_log,
            format: args.access_log_format,
            sample: args.access_log_sample,
            queries: args.log_queries,
        },
        no_shortcut: args.no_shortcut,
        no_tracing: args.no_tracing,
        no_telemetry: args.no_telemetry,
        detour_addresses: args.detour_addresses,
        drain: Duration::from_secs(args.drain_seconds),
        dashboard: args.dashboard,
        node: Some(args.node.map_or_else(host_name, Ok)?),
        traces: agent::TraceSettings { endpoint: args.otlp, sample: args.trace_sample },
    })?;
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Fails unless this process is root. `what` is the command as typed, `why` what it needs.
pub fn require_root(what: &str, why: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`{what}` needs root ({why}): try `sudo {what} ...`");
    }
    Ok(())
}
