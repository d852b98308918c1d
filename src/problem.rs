//! What is wrong with a file, where, and what to do about it.
//!
//! Everything that reads a file written by a person reports through [`Problem`]: `egret check`
//! prints them all, `egret run` logs them. A problem never carries data from a connection.
//! [`Report`] collects the problems of one file and bounds their number.

use std::fmt;
use std::path::{Path, PathBuf};

/// Whether the file can be used in spite of the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is used; the operator should know.
    Warning,
    /// The file is refused; the last good generation serves on.
    Error,
}

/// One problem in one place of one file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Whether the file is still used.
    pub severity: Severity,
    /// The file, as it was named on the command line or in the configuration.
    pub file: PathBuf,
    /// Line in the file, counted from 1; `None` when the problem is the file itself.
    pub line: Option<usize>,
    /// What is wrong, in lower case, without a full stop.
    pub message: String,
    /// What to do about it; empty when the message says it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {severity}: {}", self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// What is wrong in one place, before anything knows which file it is or how much it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, counted from 1; `None` when it is the whole file.
    pub line: Option<usize>,
    /// As in [`Problem`].
    pub message: String,
    /// As in [`Problem`].
    pub fix: String,
}

impl Fault {
    /// A fault at `line`.
    #[must_use]
    pub fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), message: message.into(), fix: String::new() }
    }

    /// A fault of the file as a whole.
    #[must_use]
    pub fn whole(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into(), fix: String::new() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// The problem that this is in `file`.
    #[must_use]
    pub fn problem(self, severity: Severity, file: &Path) -> Problem {
        let Self { line, message, fix } = self;
        Problem { severity, file: file.to_path_buf(), line, message, fix }
    }
}

/// More problems of one severity in one file are counted, not kept: nobody reads them, and a
/// registry of 100 000 entries can hold one in each.
pub const PROBLEMS_MAX: usize = 1000;

/// The problems of one file, collected while it is read.
#[derive(Debug)]
pub struct Report {
    file: PathBuf,
    problems: Vec<Problem>,
    warnings: usize,
    errors: usize,
}

impl Report {
    /// An empty report on `file`.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), problems: Vec::new(), warnings: 0, errors: 0 }
    }

    /// Adds an error: the file is refused.
    pub fn error(&mut self, fault: Fault) {
        self.errors += 1;
        if self.errors <= PROBLEMS_MAX {
            self.problems.push(fault.problem(Severity::Error, &self.file));
        }
    }

    /// Adds a warning: the file is used.
    pub fn warning(&mut self, fault: Fault) {
        self.warnings += 1;
        if self.warnings <= PROBLEMS_MAX {
            self.problems.push(fault.problem(Severity::Warning, &self.file));
        }
    }

    /// How many errors were added so far.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// `value` and the warnings, or every problem if one of them is an error; in the order of the
    /// file.
    ///
    /// # Errors
    /// All problems, warnings included, when the file is refused.
    pub fn finish<T>(mut self, value: T) -> Result<(T, Vec<Problem>), Vec<Problem>> {
        self.problems.sort_by_key(|problem| problem.line);
        let counts = [(Severity::Error, self.errors), (Severity::Warning, self.warnings)];
        for (severity, count) in counts {
            if count > PROBLEMS_MAX {
                let message = format!("{} more problems of this kind", count - PROBLEMS_MAX);
                self.problems.push(Fault::whole(message).problem(severity, &self.file));
            }
        }
        if self.errors == 0 { Ok((value, self.problems)) } else { Err(self.problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_is_counted_and_does_not_hide_an_error() {
        let mut report = Report::new(Path::new("a.yaml"));
        for line in 1..=PROBLEMS_MAX + 5 {
            report.warning(Fault::at(line, "noise"));
        }
        report.error(Fault::at(7, "wrong").fix("mend it"));
        let problems = report.finish(()).unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), PROBLEMS_MAX + 2);
        assert!(texts.contains(&"a.yaml:7: error: wrong; mend it".to_owned()));
        assert_eq!(texts.last().unwrap(), "a.yaml: warning: 5 more problems of this kind");
    }
}
