//! Calls of gRPC, by curl, which speaks HTTP/2 without having asked for it.
#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeway_testbed::{Place, curl};

/// What came back of a call.
#[derive(Debug)]
pub struct Called {
    pub status: u16,
    /// Fields of head and trailers by lower-case name.
    pub fields: BTreeMap<String, String>,
}

impl Called {
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// HTTP and gRPC status.
    pub fn statuses(&self) -> (u16, &str) {
        (self.status, self.field("grpc-status"))
    }
}

/// Calls a method with an empty message.
pub fn call(
    client: &impl Place,
    to: SocketAddr,
    path: &str,
    metadata: &[(&str, &str)],
) -> Result<Called> {
    let message = tempfile::NamedTempFile::new()?;
    std::fs::write(message.path(), [0; 5])?;
    let data = format!("@{}", message.path().display());
    let mut arguments = vec!["-sS", "-i", "--http2-prior-knowledge", "--data-binary", &data];
    let usual = [("content-type", "application/grpc"), ("te", "trailers")];
    let lines: Vec<String> =
        usual.iter().chain(metadata).map(|(name, value)| format!("{name}: {value}")).collect();
    for line in &lines {
        arguments.extend(["-H", line]);
    }
    let url = format!("http://{to}{path}");
    arguments.push(&url);
    let output = curl(client, &arguments)?.success().with_context(|| url.clone())?.stdout;
    let head = output.strip_prefix("HTTP/2 ").with_context(|| output.clone())?;
    Ok(read(head))
}

/// Reads a head, whatever body, and trailers, which curl prints as they come.
fn read(text: &str) -> Called {
    let fields = text.lines().skip(1).filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| {
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    Called { status: text[..3].parse().unwrap_or(0), fields: fields.collect() }
}
