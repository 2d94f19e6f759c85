//! Pages made from raw results: Markdown and plots.

pub mod markdown;
pub mod plot;

use std::path::Path;

use anyhow::{Context, Result};

use crate::results::Results;

/// Writes the page and its plots into a folder.
pub fn write_pages(folder: &Path, results: &Results, notes: &str) -> Result<()> {
    let files = [
        ("README.md", markdown::page(results, notes)),
        ("requests.svg", plot::requests(results)?),
        ("latency.svg", plot::latency(results)?),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
