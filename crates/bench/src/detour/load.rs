//! The load generators of gRPC: their arguments, and what they say.

use anyhow::{Context, Result, ensure};
use beeway_testbed::WrkReport;
use serde::Deserialize;

/// The method that is called.
pub const METHOD: &str = "/bench.Echo/Unary";

/// A message of 18 bytes behind its prefix: not compressed, and its length.
pub const BODY: &[u8] = b"\0\0\0\0\x12\x0a\x100123456789abcdef";

/// Reads what h2load printed, and its log: a line for each request with its start, its status and
/// its microseconds.
pub fn read_h2load(printed: &str, log: &str) -> Result<WrkReport> {
    let line = |start: &str| printed.lines().find_map(|line| line.strip_prefix(start));
    let counts = line("requests: ").with_context(|| format!("h2load printed {printed:?}"))?;
    let count = |name: &str| -> u64 {
        let of = counts.split(", ").filter_map(|part| part.trim().split_once(' '));
        of.filter(|(_, what)| *what == name).find_map(|(n, _)| n.parse().ok()).unwrap_or(0)
    };
    // "finished in 1.00s, 9340.00 req/s, 501.79KB/s"
    let rate = line("finished in ").and_then(|rest| rest.split(", ").nth(1));
    let rps = rate.and_then(|rate| rate.strip_suffix(" req/s")?.parse().ok());
    let fields = log.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let (mut times, mut non2xx) = (Vec::new(), 0);
    for fields in fields {
        let [_, status, us, ..] = fields[..] else { continue };
        non2xx += u64::from(!status.starts_with('2'));
        times.push(us.parse::<u64>().with_context(|| format!("h2load logged {us:?}"))?);
    }
    ensure!(!times.is_empty(), "no request was answered: {printed}");
    times.sort_unstable();
    let percentile = |share: usize| times[(times.len() - 1) * share / 100] as f64;
    Ok(WrkReport {
        requests: times.len() as u64,
        rps: rps.context("h2load printed no rate")?,
        errors: count("failed") + count("errored") + count("timeout"),
        non2xx,
        p50_us: percentile(50),
        p90_us: percentile(90),
        p99_us: percentile(99),
    })
}

/// What the script with the client library prints.
#[derive(Debug, Clone, Deserialize)]
pub struct Calls {
    requests: u64,
    rps: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    errors: u64,
    first_error: Option<String>,
    head: std::collections::BTreeMap<String, String>,
}

impl Calls {
    /// Reads it.
    pub fn parse(printed: &str) -> Result<Self> {
        serde_json::from_str(printed).with_context(|| format!("read {printed:?}"))
    }

    /// Without what a load generator does not know.
    pub fn as_wrk(&self) -> WrkReport {
        let Self { requests, rps, p50_us, p90_us, p99_us, errors, .. } = *self;
        WrkReport { requests, rps, errors, non2xx: 0, p50_us, p90_us, p99_us }
    }

    /// A header of the last answer; an error if not every call was answered with its own message.
    pub fn header(&self, name: &str) -> Result<Option<&str>> {
        let why = self.first_error.as_deref().unwrap_or("no call was answered");
        ensure!(self.errors == 0 && self.requests > 0, "{why}");
        Ok(self.head.get(name).map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_h2load() {
        let printed = "starting benchmark...\n\
            finished in 1.00s, 2.50 req/s, 501.79KB/s\n\
            requests: 9 total, 9 started, 4 done, 4 succeeded, 1 failed, 2 errored, 3 timeout\n\
            status codes: 3 2xx, 0 3xx, 0 4xx, 1 5xx\n";
        let log = "1\t200\t30\n2\t200\t10\n3\t503\t40\n4\t200\t20\n";
        let expected = WrkReport {
            requests: 4,
            rps: 2.5,
            errors: 6,
            non2xx: 1,
            p50_us: 20.0,
            p90_us: 30.0,
            p99_us: 30.0,
        };
        assert_eq!(read_h2load(printed, log).expect("a report"), expected);
        assert!(read_h2load(printed, "").is_err());
        assert!(read_h2load("", log).is_err());
    }

    #[test]
    fn calls_with_an_error_have_no_header() {
        let text = |errors: u64| {
            format!(
                r#"{{"requests": 2, "rps": 5.0, "p50_us": 1.0, "p90_us": 2.0, "p99_us": 3.0,
                "errors": {errors}, "first_error": "UNAVAILABLE", "head": {{"x-served-by": "v2"}},
                "library": "grpcio 1.51.1"}}"#
            )
        };
        let calls = Calls::parse(&text(0)).expect("calls");
        assert_eq!(calls.header("x-served-by").expect("an answer"), Some("v2"));
        assert_eq!(calls.header("x-canary").expect("an answer"), None);
        assert!(Calls::parse(&text(1)).expect("calls").header("x-served-by").is_err());
    }

    #[test]
    fn the_body_is_one_message() {
        assert_eq!(BODY.len(), 5 + usize::from(BODY[4]));
    }
}
