//! The command line: one table of commands and flags, from which help, man page and completions
//! are made. Arguments are validated here and get their meaning in `commands`.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

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
                        (info, debug, beeway_proxy=trace ...).")]
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
    /// File to append a line of JSON to for each request by detour; `-` is the standard output
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
