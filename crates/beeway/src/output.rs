//! What goes to standard output and standard error: text without colour, logs on stderr only.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr. `BEEWAY_LOG`, or `RUST_LOG`, says what is logged; `info` when neither
/// is set.
pub fn start_log() {
    let wanted = std::env::var("BEEWAY_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let filter = EnvFilter::new(wanted.as_deref().unwrap_or("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

/// Says why a command failed, causes included.
pub fn error(error: &anyhow::Error) {
    eprintln!("beeway: {error:#}");
}

/// Writes text to standard output. A reader that has gone (`| head`) is no error.
pub fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}

/// Writes a value as one JSON document.
pub fn json(value: &impl Serialize) -> Result<()> {
    let document = serde_json::to_string_pretty(value).context("write JSON")?;
    text(&(document + "\n"))
}
