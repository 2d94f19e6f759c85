//! What a configuration costs to read and to compile, on whichever CPU this runs.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use beeway_dataplane::tables;
use serde::{Deserialize, Serialize};

use crate::summary::median;

/// Medians of some runs in one process, in milliseconds, after one that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// From files to the model.
    pub read_ms: f64,
    /// From the model to the tables.
    pub compile_ms: f64,
}

/// Reads and compiles a directory again and again.
pub fn run(directory: &Path, count: u32) -> Result<Cost> {
    let options = beeway_config::Options { node: Some("bench".to_owned()) };
    let (mut reads, mut compiles) = (Vec::new(), Vec::new());
    for number in 0..=count {
        let start = Instant::now();
        let loaded = beeway_config::load_dir(directory, &options)
            .with_context(|| format!("read {}", directory.display()))?;
        let read = Instant::now();
        let tables = tables::compile(&loaded.mesh, number.into()).context("compile")?;
        let compiled = Instant::now();
        drop(tables);
        if number > 0 {
            reads.push((read - start).as_secs_f64() * 1e3);
            compiles.push((compiled - read).as_secs_f64() * 1e3);
        }
    }
    let nothing = "nothing was compiled";
    Ok(Cost {
        read_ms: median(&reads).context(nothing)?,
        compile_ms: median(&compiles).context(nothing)?,
    })
}
