//! `beeway check`: every problem of a configuration.

use std::path::PathBuf;

use beeway_config::{Problem, Severity};
use beeway_dataplane::tables::Notice;

/// A notice of the table compiler as a problem. It is about a service as a whole, so there is no
/// file to name.
pub fn notice_problem(notice: &Notice) -> Problem {
    Problem {
        severity: Severity::Notice,
        file: PathBuf::from("<tables>"),
        line: None,
        object: Some(notice.service.clone()),
        reason: notice.reason.clone(),
    }
}
