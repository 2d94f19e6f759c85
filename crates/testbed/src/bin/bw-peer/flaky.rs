//! Requests that fail a number of times before they are answered.

use std::collections::BTreeMap;
use std::sync::Mutex;

use http::StatusCode;

/// How a request fails.
#[derive(Clone, Copy)]
pub enum Failure {
    /// With this status.
    Status(StatusCode),
    /// The same, while the body is still being read.
    Early(StatusCode),
    /// With this gRPC status.
    Grpc(u16),
    /// The connection ends, without an answer.
    Reset,
    /// Nothing comes.
    Hang,
}

/// How many requests there were, by key.
#[derive(Default)]
pub struct Flaky(Mutex<BTreeMap<String, u64>>);

impl Flaky {
    /// Takes `N/KEY/FAILURE` off the front of a text, leaving a path, counts the request, and says
    /// how it fails if it is one of the first.
    pub fn meet(&self, text: &mut &str) -> Option<Failure> {
        let mut parts = text.splitn(4, '/');
        let first: u64 = parts.next()?.parse().ok()?;
        let (key, failure) = (parts.next()?, parts.next()?);
        *text = match parts.next() {
            Some(rest) => &text[text.len() - rest.len() - 1..],
            None => "/",
        };
        let mut counts = self.0.lock().expect("no panic while locked");
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        (*count <= first).then(|| failure_of(failure)).flatten()
    }

    /// How many requests had a key.
    pub fn count(&self, key: &str) -> u64 {
        self.0.lock().expect("no panic while locked").get(key).copied().unwrap_or(0)
    }
}

fn failure_of(text: &str) -> Option<Failure> {
    match text.strip_prefix("grpc") {
        Some(code) => code.parse().ok().map(Failure::Grpc),
        None if text == "reset" => Some(Failure::Reset),
        None if text == "hang" => Some(Failure::Hang),
        None => {
            let status = StatusCode::from_bytes(text.trim_end_matches('+').as_bytes()).ok();
            status.map(if text.ends_with('+') { Failure::Early } else { Failure::Status })
        }
    }
}
