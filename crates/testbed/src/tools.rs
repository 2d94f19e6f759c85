//! Tools of other makers, run inside pods: nginx, curl, nghttp, wrk, gRPC's client library.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::Command;
use crate::node::Place;
use crate::process::{Output, Process, debian_python, needs};
use crate::sweep::directory;

/// How long a tool may run unless it says otherwise itself.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits, by trying, until a TCP port can be connected to from inside a place's namespace.
pub fn wait_connect(place: &impl Place, to: SocketAddr, limit: Duration) -> Result<()> {
    place.run_in(|| {
        let deadline = Instant::now() + limit;
        loop {
            let error = match TcpStream::connect_timeout(&to, Duration::from_millis(500)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("no connection to {to}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })?
}

/// Starts an nginx that answers every path with `<name>\n`, a header `x-served-by: <name>` and the
/// request's `x-canary` if it has one, and `/bytes/<n>`, for n of 1k, 64k and 1m, with a static file
/// of the [`crate::pattern`].
/// It listens on all addresses; returns when it accepts connections.
pub fn nginx(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    nginx_with(place, port, name, |command| command)
}

/// [`nginx`], started by a command that `adjust` may pin to a CPU or move to another cgroup.
pub fn nginx_with(
    place: &impl Place,
    port: u16,
    name: &str,
    adjust: impl FnOnce(Command) -> Command,
) -> Result<Process> {
    start_nginx(place, port, name, Listen::Http, adjust)
}

/// [`nginx`] that speaks HTTP/2 with prior knowledge.
pub fn nginx_http2(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    start_nginx(place, port, name, Listen::Http2, |command| command)
}

/// [`nginx`] behind TLS, with a certificate that nobody has signed.
pub fn nginx_tls(place: &impl Place, port: u16, name: &str) -> Result<Process> {
    start_nginx(place, port, name, Listen::Tls, |command| command)
}

/// What is spoken on nginx's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listen {
    Http,
    Http2,
    Tls,
}

impl Listen {
    /// Parameters of the directive `listen`.
    fn parameters(self) -> &'static str {
        match self {
            Listen::Http => "",
            Listen::Http2 => "http2",
            Listen::Tls => "ssl",
        }
    }

    /// Further directives of the server; makes the files that they name.
    fn directives(self, root: &Path) -> Result<&'static str> {
        if self != Listen::Tls {
            return Ok("");
        }
        let output = std::process::Command::new(needs("openssl", "openssl")?)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args([
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=testbed",
                "-keyout",
                "key",
                "-out",
                "cert",
            ])
            .current_dir(root)
            .output()?;
        if !output.status.success() {
            bail!("openssl req: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok("ssl_certificate cert; ssl_certificate_key key;")
    }
}

fn start_nginx(
    place: &impl Place,
    port: u16,
    name: &str,
    listen: Listen,
    adjust: impl FnOnce(Command) -> Command,
) -> Result<Process> {
    let command = adjust(place.command(needs("nginx", "nginx-light")?));
    let directory = directory("nginx")?;
    let root = directory.path();
    std::fs::create_dir(root.join("bytes"))?;
    for (file, length) in [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20)] {
        std::fs::write(root.join("bytes").join(file), crate::pattern::bytes(length))?;
    }
    let parameters = listen.parameters();
    let directives = listen.directives(root)?;
    // `user root`: the directory is open to nobody else.
    let config = format!(
        r#"daemon off; user root; worker_processes 1; pid nginx.pid; error_log stderr;
worker_rlimit_nofile 16384;
events {{ worker_connections 16000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on;
  default_type text/plain;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 0.0.0.0:{port} {parameters}; listen [::]:{port} ipv6only=on {parameters}; {directives}
    add_header x-served-by "{name}" always;
    add_header x-canary $http_x_canary always;
    location / {{ return 200 "{name}\n"; }}
    location /bytes/ {{ root {root}; }}
  }}
}}
"#,
        root = root.display()
    );
    let path = root.join("nginx.conf");
    std::fs::write(&path, config)?;
    let process = command
        .arg("-p")
        .arg(root)
        .arg("-c")
        .arg(&path)
        // Else it complains that it cannot open the log of the system.
        .args(["-e", "stderr"])
        .keep(directory)
        .spawn()?;
    wait_connect(place, place.addr4(port), Duration::from_secs(10))
        .with_context(|| format!("nginx {name}: {}", process.stderr().join("\n")))?;
    Ok(process)
}

/// Runs curl in the place's usual cgroup; its output, however it ended.
pub fn curl(place: &impl Place, arguments: &[&str]) -> Result<Output> {
    place.command(needs("curl", "curl")?).args(arguments).output(LIMIT)
}

/// Asks for one URL often, all at once on one HTTP/2 connection with prior knowledge; the bodies.
pub fn nghttp(place: &impl Place, url: &str, times: u32) -> Result<Output> {
    let command = place.command(needs("nghttp", "nghttp2-client")?);
    command.args(["-m", &times.to_string(), url]).output(LIMIT)
}

/// Unary gRPC calls by a client library, Debian's python3-grpcio: one after the other on each
/// connection, each compared with what a [`crate::grpc_echo`] sends back. Further arguments:
/// `--metadata KEY=VALUE`, `--connections N`, `--seconds S` (else one call a connection). Its output
/// is one line of JSON; it fails when a call does.
pub fn grpc_client(place: &impl Place, to: SocketAddr) -> Result<Command> {
    let directory = directory("grpc")?;
    let script = directory.path().join("grpc_unary.py");
    std::fs::write(&script, include_str!("grpc_unary.py"))?;
    let python = debian_python("python3-grpcio")?;
    let command = place.command(python).arg(&script).arg(to.to_string());
    Ok(command.keep(directory))
}

/// What wrk measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WrkReport {
    /// Requests answered.
    pub requests: u64,
    /// Requests per second.
    pub rps: f64,
    /// Errors of connect, read and write, and timeouts.
    pub errors: u64,
    /// Answers other than 2xx and 3xx.
    pub non2xx: u64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 90th percentile in microseconds.
    pub p90_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
}

/// Runs wrk, with `--latency`, in the place's usual cgroup.
pub fn wrk(place: &impl Place, arguments: &[&str]) -> Result<WrkReport> {
    wrk_with(place, arguments, |command| command)
}

/// [`wrk`], run by a command that `adjust` may pin to a CPU or move to another cgroup.
pub fn wrk_with(
    place: &impl Place,
    arguments: &[&str],
    adjust: impl FnOnce(Command) -> Command,
) -> Result<WrkReport> {
    let command = place.command(needs("wrk", "wrk")?).arg("--latency").args(arguments);
    WrkReport::parse(&adjust(command).output(Duration::from_secs(600))?.success()?.stdout)
}

impl WrkReport {
    /// Reads what `wrk --latency` printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        let mut seen = false;
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["50%", value] => report.p50_us = microseconds(value)?,
                ["90%", value] => report.p90_us = microseconds(value)?,
                ["99%", value] => report.p99_us = microseconds(value)?,
                ["Requests/sec:", value] => report.rps = value.parse()?,
                [n, "requests", "in", ..] => (report.requests, seen) = (n.parse()?, true),
                ["Socket", "errors:", ..] => {
                    let numbers =
                        words.iter().filter_map(|w| w.trim_end_matches(',').parse::<u64>().ok());
                    report.errors = numbers.sum::<u64>();
                }
                ["Non-2xx", "or", "3xx", "responses:", n] => report.non2xx = n.parse()?,
                _ => {}
            }
        }
        if !seen {
            bail!("wrk printed no result: {text}");
        }
        Ok(report)
    }
}

fn microseconds(text: &str) -> Result<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).context("no unit")?;
    let factor = match &text[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        other => bail!("unit {other:?} of {text:?}"),
    };
    Ok(text[..unit].parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_wrk() {
        let text = "Running 1s test @ http://10.244.0.2:80/\n\
            \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
            \x20 Latency Distribution\n     50%   22.00us\n     75%   25.00us\n\
            \x20    90%    1.50ms\n     99%    2.00s\n  4321 requests in 1.00s, 1.00MB read\n\
            \x20 Socket errors: connect 1, read 2, write 0, timeout 3\n\
            \x20 Non-2xx or 3xx responses: 7\nRequests/sec:   4300.12\n";
        let expected = WrkReport {
            requests: 4321,
            rps: 4300.12,
            errors: 6,
            non2xx: 7,
            p50_us: 22.0,
            p90_us: 1500.0,
            p99_us: 2e6,
        };
        assert_eq!(WrkReport::parse(text).expect("a report"), expected);
    }
}
