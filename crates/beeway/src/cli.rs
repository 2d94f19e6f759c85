//! The command line: one table of commands and flags, from which help, man page and completions
//! are made. Arguments are validated here and get their meaning in `commands`.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use beeway_telemetry::filter::LANES;
use beeway_telemetry::{Filter, FlowQuery, Verdict};
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::agent::{Endpoint, LogFormat};

/// Where the agent keeps its state unless told otherwise.
pub const DEFAULT_STATE: &str = "/run/beeway";

/// Where the agent serves its dashboard unless told otherwise.
pub const DEFAULT_DASHBOARD: &str = "127.0.0.1:15021";

/// Parses the arguments of this process; prints help or what is wrong, and exits, by itself.
pub fn parse() -> Command {
    Cli::parse().command
}

/// A service mesh without sidecars: discovery, balancing, routing and policy in the kernel.
#[derive(Debug, Parser)]
#[command(name = "beeway", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "BEEWAY_LOG, or RUST_LOG, says what is logged to stderr \
                        (info, debug, beeway_proxy=debug ...).")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent: load the kernel programs and follow the configuration
    Run(RunArgs),
    /// Run a command inside the mesh
    Exec(ExecArgs),
    /// Tell every problem of a configuration; exit status 1 when one is an error
    Check(CheckArgs),
    /// Tell where a request would go, and why
    Explain(ExplainArgs),
    /// Tell what the agent of this node does; exit status 3 when none runs
    Status(StatusArgs),
    /// Show services, their traffic and its lanes as they change; exit status 3 when no agent runs
    Top(TopArgs),
    /// Tell who called what, when, by which lane, with which verdict and why; exit status 3 when no
    /// agent runs
    Flows(FlowsArgs),
    /// Find out what this kernel can do, by doing it; exit status 1 when something required is
    /// missing
    Doctor(DoctorArgs),
    /// Detach and remove everything, also what an agent that is dead has left
    Off(OffArgs),
    /// Print the address of the agent's dashboard with its token; exit status 3 when there is none
    Dashboard(DashboardArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page (view it with `beeway man | man -l -`)
    Man,
}

/// Arguments of `beeway run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Directory of Kubernetes, Istio and Gateway API YAML; it is followed as it changes
    #[arg(long, value_name = "DIR")]
    pub config: PathBuf,
    /// cgroup v2 directory whose processes are in the mesh, made if missing [default: `beeway`
    /// below the cgroup v2 mount]
    #[arg(long, value_name = "PATH", default_value_os_t = default_cgroup(), hide_default_value = true)]
    pub cgroup: PathBuf,
    /// Directory for the admin socket, the lock and the pinned programs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Address to serve Prometheus metrics on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub metrics: SocketAddr,
    /// File to append a line to for each request and connection, or for those that Telemetry says;
    /// `-` is the standard output. It is opened anew on SIGHUP and when it was moved
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Address of this node that its pods can reach, with a port or any port: where connections
    /// are led that the proxy takes as a whole; may be given for IPv4 and for IPv6 [default: where
    /// this node talks to its pods from]
    #[arg(long = "detour-address", value_name = "ADDR[:PORT]", value_parser = detour_address)]
    pub detour_addresses: Vec<SocketAddr>,
    /// How long to go on with requests and connections that were begun, once another `beeway run`
    /// with the same state directory has taken over
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    /// Never skip TCP between two ends on this host (for measurements)
    #[arg(long, hide = true)]
    pub no_shortcut: bool,
    /// Count and tell nothing of traffic (for measurements)
    #[arg(long, hide = true)]
    pub no_telemetry: bool,
    /// Find new processes by looking at all cgroups, as on kernels that do not tell (for tests)
    #[arg(long, hide = true)]
    pub no_tracing: bool,
    /// Kubernetes name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Serve a dashboard, on this address if one is given; its address with the token that it asks
    /// for is printed by `beeway dashboard`
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = DEFAULT_DASHBOARD)]
    pub dashboard: Option<SocketAddr>,
    /// How the lines of the access log look where no Telemetry says it: `text` is Envoy's
    /// [default: what MeshConfig says, or json]
    #[arg(long, value_name = "json|text")]
    pub access_log_format: Option<LogFormat>,
    /// Share of the lines that are written, of a hundred
    #[arg(long, value_name = "PERCENT", default_value = "100", value_parser = percent)]
    pub access_log_sample: f64,
    /// Log queries of paths too, which may hold secrets
    #[arg(long)]
    pub log_queries: bool,
    /// Collector to send spans to by OTLP, where no Telemetry names one: http://HOST[:4318]
    #[arg(long, value_name = "URL", value_parser = Endpoint::parse)]
    pub otlp: Option<Endpoint>,
    /// Share of the requests without a trace context that begin a trace, of a hundred
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = percent)]
    pub trace_sample: f64,
}

/// Arguments of `beeway exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Network namespace to run in: a name below /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    pub netns: Option<PathBuf>,
    /// cgroup of the mesh [default: `beeway` below the cgroup v2 mount]
    #[arg(long, value_name = "PATH", default_value_os_t = default_cgroup(), hide_default_value = true)]
    pub cgroup: PathBuf,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Arguments of `beeway check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration directory
    #[arg(value_name = "DIR")]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `beeway explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration directory
    #[arg(long, value_name = "DIR")]
    pub config: PathBuf,
    /// The workload that asks
    #[arg(long, value_name = "NAMESPACE/WORKLOAD")]
    pub from: String,
    /// HTTP method, as sent
    #[arg(value_parser = token)]
    pub method: String,
    /// http://HOST[:PORT]/PATH; the host is a service's DNS name or address
    pub url: String,
    /// A header field of the request; may be given often
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `beeway status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// State directory of the agent
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `beeway top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print a table once, instead of a view that changes
    #[arg(long)]
    pub once: bool,
    /// Print JSON; with --once
    #[arg(long, requires = "once")]
    pub json: bool,
    /// How often the view changes
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub interval: u64,
    /// What rates and percentiles are about: the last so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub window: u64,
    /// What services are sorted by
    #[arg(long, value_name = "COLUMN", default_value = "requests")]
    pub sort: Sort,
    /// State directory of the agent
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// What services are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Requests a second, most first.
    Requests,
    /// Errors a second, most first.
    Errors,
    /// 99th percentile of durations, slowest first.
    P99,
    /// Namespace and name.
    Name,
}

/// Arguments of `beeway flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Go on with those that come
    #[arg(long, short)]
    pub follow: bool,
    /// Begin with the newest so many of those that there were (at most 4096 are known) [default: 20,
    /// with --follow 0]
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only by this caller: NAMESPACE/NAME, NAME (of a workload or app), NAMESPACE/, an address or a
    /// network
    #[arg(long, value_name = "CALLER", value_parser = filter(|query, text| query.from = Some(text)))]
    pub from: Option<String>,
    /// Only to this: NAMESPACE/NAME, NAME (of a service, workload or app), NAMESPACE/, an address or a
    /// network
    #[arg(long, value_name = "CALLED", value_parser = filter(|query, text| query.to = Some(text)))]
    pub to: Option<String>,
    /// Only with these verdicts, commas between them
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Verdict::ALL.map(Verdict::as_str)))]
    pub verdict: Vec<String>,
    /// Only by these lanes, commas between them
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(LANES))]
    pub lane: Vec<String>,
    /// Only with these statuses: 404, 400-499, 5xx, 0 (no answer), with commas between them
    #[arg(long, value_parser = filter(|query, text| query.status = Some(text)))]
    pub status: Option<String>,
    /// Only with these methods, commas between them
    #[arg(long)]
    pub method: Option<String>,
    /// Only those whose path begins so
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
    /// Show queries of paths too, which may hold secrets
    #[arg(long)]
    pub queries: bool,
    /// Print a JSON object a line
    #[arg(long)]
    pub json: bool,
    /// State directory of the agent
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// Arguments of `beeway doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `beeway off`.
#[derive(Debug, Args)]
pub struct OffArgs {
    /// State directory of the agent
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// cgroup of the mesh [default: `beeway` below the cgroup v2 mount, removed when empty]
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
}

/// Arguments of `beeway dashboard`.
#[derive(Debug, Args)]
pub struct DashboardArgs {
    /// State directory of the agent
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// `beeway` below the cgroup v2 mount, or below where it usually is when it is not mounted.
pub fn default_cgroup() -> PathBuf {
    beeway_dataplane::cgroup::mount_point()
        .unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"))
        .join("beeway")
}

/// Text that a filter of flows takes.
fn filter(set: fn(&mut FlowQuery, String)) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| {
        let mut query = FlowQuery::default();
        set(&mut query, text.to_owned());
        Filter::parse(&query).map(|_| text.to_owned())
    }
}

/// A share of a hundred.
fn percent(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok();
    share.filter(|share| (0.0..=100.0).contains(share)).ok_or("not from 0 to 100".into())
}

/// A token of RFC 9110 section 5.6.2.
pub fn token(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !text.is_empty() && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("not a token of RFC 9110".into()),
    }
}

/// An address that others can connect to; without a port any will do.
fn detour_address(text: &str) -> Result<SocketAddr, String> {
    let address =
        text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0))).map_err(
            |_| "written 10.0.0.1, 10.0.0.1:15021, fd00::1 or [fd00::1]:15021".to_owned(),
        )?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err("not an address of one node".into());
    }
    Ok(address)
}

/// A header field, `name: value`.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header field is written `name: value`")?;
    let value = value.trim_matches([' ', '\t']);
    if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return Err("the value has a control character".into());
    }
    Ok((token(name.trim())?, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_of_commands_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_dashboard_is_served_only_where_asked_for() {
        let of = |more: &[&str]| {
            let all = ["beeway", "run", "--config", "."].iter().chain(more);
            match Cli::try_parse_from(all).map(|cli| cli.command) {
                Ok(Command::Run(args)) => args.dashboard,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["--dashboard", "--state", "x"]), DEFAULT_DASHBOARD.parse().ok());
        assert_eq!(of(&["--dashboard", "[::1]:80"]), "[::1]:80".parse().ok());
    }

    #[test]
    fn detour_addresses_may_have_a_port() {
        assert_eq!(detour_address("10.0.0.1"), Ok("10.0.0.1:0".parse().unwrap()));
        assert_eq!(detour_address("fd00::1"), Ok("[fd00::1]:0".parse().unwrap()));
        assert_eq!(detour_address("[fd00::1]:15021"), Ok("[fd00::1]:15021".parse().unwrap()));
        for bad in ["0.0.0.0", "[::]:80", "ff02::1", "node", "10.0.0.1:"] {
            assert!(detour_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn header_fields_are_split_and_trimmed() {
        assert_eq!(header("end-user: jason "), Ok(("end-user".into(), "jason".into())));
        assert_eq!(header("x:"), Ok(("x".into(), String::new())));
        assert!(header("no colon").is_err());
        assert!(header("bad name: x").is_err());
        assert!(header("x: a\r\nb: c").is_err());
    }
}
