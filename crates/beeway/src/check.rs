//! `beeway check`: every problem of a configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use beeway_config::{Options, Problem, Severity};
use beeway_dataplane::tables::{self, Counts, Notice, Tables};
use beeway_model::Mesh;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::output;

/// A configuration that was read and, unless it is too large, compiled.
pub struct Checked {
    /// The mesh.
    pub mesh: Mesh,
    /// Its tables.
    pub tables: Option<Tables>,
    /// What is wrong with files and tables.
    pub problems: Vec<Problem>,
}

/// Reads a directory and compiles it as the agent would.
pub fn read(directory: &Path) -> Result<Checked> {
    let loaded = beeway_config::check_dir(directory, &Options::default())
        .context("read the configuration")?;
    let mut problems = loaded.problems;
    let tables = match tables::compile(&loaded.mesh, 1) {
        Ok(tables) => {
            problems.extend(tables.notices().iter().map(notice_problem));
            Some(tables)
        }
        Err(error) => {
            problems.push(about_tables(Severity::Error, None, error.to_string()));
            None
        }
    };
    Ok(Checked { mesh: loaded.mesh, tables, problems })
}

/// A notice of the table compiler as a problem.
pub fn notice_problem(notice: &Notice) -> Problem {
    about_tables(Severity::Notice, Some(notice.service.clone()), notice.reason.clone())
}

/// Tables are made of a service as a whole: there is no file to name.
fn about_tables(severity: Severity, object: Option<String>, reason: String) -> Problem {
    Problem { severity, file: PathBuf::from("<tables>"), line: None, object, reason }
}

#[derive(Serialize)]
struct Report<'a> {
    errors: usize,
    warnings: usize,
    notices: usize,
    problems: &'a [Problem],
    counts: Option<Counts>,
}

/// Tells every problem.
pub fn check(args: &CheckArgs) -> Result<ExitCode> {
    let checked = read(&args.config)?;
    let of = |severity| checked.problems.iter().filter(|p| p.severity == severity).count();
    let report = Report {
        errors: of(Severity::Error),
        warnings: of(Severity::Warning),
        notices: of(Severity::Notice),
        problems: &checked.problems,
        counts: checked.tables.as_ref().map(Tables::counts),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&text(&report))?;
    }
    Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report<'_>) -> String {
    let mut text: String = report.problems.iter().map(|problem| format!("{problem}\n")).collect();
    let found: Vec<String> =
        [(report.errors, "error"), (report.warnings, "warning"), (report.notices, "notice")]
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, thing)| output::count(number, thing))
            .collect();
    text += &if found.is_empty() { "no problems".to_owned() } else { found.join(", ") };
    if let Some(counts) = report.counts {
        text += &format!(
            " in {}, {}, {}, {}",
            output::count(counts.services, "service"),
            output::count(counts.endpoints, "endpoint"),
            output::count(counts.workloads, "workload"),
            output::count(counts.rules, "rule"),
        );
    }
    text + "\n"
}
