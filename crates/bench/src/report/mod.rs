//! Pages made from raw results: Markdown and plots.

mod curve;
mod detour;
pub mod markdown;
pub mod plot;
mod readme;
mod routes;

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
    let routes = results.routes.as_ref().map(curve::routes).transpose()?;
    let files = files.into_iter().chain(routes.map(|plot| ("routes.svg", plot)));
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Makes the excerpt in a README anew.
pub fn renew_readme(path: &Path, results: &Results) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let new = readme::renew(&text, results).with_context(|| path.display().to_string())?;
    std::fs::write(path, new).with_context(|| format!("write {}", path.display()))
}
