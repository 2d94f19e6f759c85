//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::item::Place;

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was asked for is not done: an object or a part of it is left out.
    Error,
    /// The object is used, and a part of what it asks for is not carried out.
    Warning,
    /// Worth knowing; nothing is lost.
    Notice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        })
    }
}

/// One finding about one place of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// File that it is in.
    pub file: PathBuf,
    /// Line in that file, counted from 1.
    pub line: Option<usize>,
    /// The object: `VirtualService default/reviews`.
    pub object: Option<String>,
    /// What is wrong, for people.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}: ", self.severity)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// Says what is wrong with one part of an object.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    place: &'a Place,
    path: String,
    problems: &'a mut Vec<Problem>,
    /// How many there were before.
    before: usize,
}

impl<'a> Report<'a> {
    /// On the part at a path.
    pub(crate) fn new(
        place: &'a Place,
        path: impl Into<String>,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        let before = problems.len();
        Self { place, path: path.into(), problems, before }
    }

    /// On a part below this one.
    pub(crate) fn below(&mut self, part: &str) -> Report<'_> {
        Report::new(self.place, self.path_of(part), self.problems)
    }

    /// Something asked for is not done.
    pub(crate) fn error(&mut self, part: &str, reason: impl Into<String>) {
        let problem = self.place.error(&self.path_of(part), reason);
        self.problems.push(problem);
    }

    /// Something asked for is not carried out, and the rest is.
    pub(crate) fn warning(&mut self, part: &str, reason: impl Into<String>) {
        let problem = self.place.warning(&self.path_of(part), reason);
        self.problems.push(problem);
    }

    /// Worth knowing.
    pub(crate) fn notice(&mut self, part: &str, reason: impl Into<String>) {
        let problem = self.place.notice(&self.path_of(part), reason);
        self.problems.push(problem);
    }

    /// Whether an error was said, here or below.
    pub(crate) fn failed(&self) -> bool {
        self.problems[self.before..].iter().any(|p| p.severity == Severity::Error)
    }

    fn path_of(&self, part: &str) -> String {
        match (&*self.path, part) {
            (path, "") => path.to_owned(),
            ("", part) => part.to_owned(),
            (path, part) => format!("{path}.{part}"),
        }
    }
}
