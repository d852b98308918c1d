//! What is wrong with a file, where, and what to do about it.
//!
//! Everything that reads a file written by a person reports through [`Diagnostic`]: `egret check`
//! prints them all, `egret run` logs them. A diagnostic never carries data from a connection.
//! [`Diagnostics`] collects the diagnostics of one file and bounds their number.

use std::fmt;
use std::path::{Path, PathBuf};

/// Whether what it is about can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is used; the operator should know.
    Warning,
    /// The file, or the one document in it, is refused; its last good version serves on.
    Error,
}

/// What is wrong in one place of one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Diagnostic {
    /// What follows from it.
    pub severity: Severity,
    /// The file, as it was named on the command line or in the configuration.
    pub file: PathBuf,
    /// Line in the file, counted from 1; `None` when it is the file itself.
    pub line: Option<usize>,
    /// What is wrong, in lower case, without a full stop.
    pub message: String,
    /// What to do about it; empty when the message says it.
    pub fix: String,
}

impl fmt::Display for Diagnostic {
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

/// A diagnostic of which neither the file nor the severity is known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line, counted from 1; `None` when it is the whole file.
    pub line: Option<usize>,
    /// As in [`Diagnostic`].
    pub message: String,
    /// As in [`Diagnostic`].
    pub fix: String,
}

impl Finding {
    /// A finding at `line`.
    #[must_use]
    pub fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), message: message.into(), fix: String::new() }
    }

    /// A finding of the file as a whole.
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

    /// The diagnostic that this is in `file`.
    #[must_use]
    pub fn diagnostic(self, severity: Severity, file: &Path) -> Diagnostic {
        let Self { line, message, fix } = self;
        Diagnostic { severity, file: file.to_path_buf(), line, message, fix }
    }
}

/// More diagnostics of one severity in one file are counted, not kept: they are not read, and a
/// registry of 100 000 entries can hold one in each.
pub const DIAGNOSTICS_MAX: usize = 1000;

/// The diagnostics of one file, collected while it is read.
#[derive(Debug)]
pub struct Diagnostics {
    file: PathBuf,
    diagnostics: Vec<Diagnostic>,
    warnings: usize,
    errors: usize,
}

impl Diagnostics {
    /// An empty report on `file`.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), diagnostics: Vec::new(), warnings: 0, errors: 0 }
    }

    /// Adds an error: what it is about is refused.
    pub fn error(&mut self, finding: Finding) {
        self.errors += 1;
        if self.errors <= DIAGNOSTICS_MAX {
            self.diagnostics.push(finding.diagnostic(Severity::Error, &self.file));
        }
    }

    /// Adds a warning: what it is about is used.
    pub fn warning(&mut self, finding: Finding) {
        self.warnings += 1;
        if self.warnings <= DIAGNOSTICS_MAX {
            self.diagnostics.push(finding.diagnostic(Severity::Warning, &self.file));
        }
    }

    /// How many errors were added so far.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// `value` and the warnings, or every diagnostic if one of them is an error.
    ///
    /// # Errors
    /// All diagnostics, warnings included, when the file is refused.
    pub fn all_or_nothing<T>(self, value: T) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        let is_good = self.errors == 0;
        let diagnostics = self.finish();
        if is_good { Ok((value, diagnostics)) } else { Err(diagnostics) }
    }

    /// Every diagnostic, in the order of the file.
    #[must_use]
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.line);
        let counts = [(Severity::Error, self.errors), (Severity::Warning, self.warnings)];
        for (severity, count) in counts {
            if count > DIAGNOSTICS_MAX {
                let message = format!("{} more problems of this kind", count - DIAGNOSTICS_MAX);
                self.diagnostics.push(Finding::whole(message).diagnostic(severity, &self.file));
            }
        }
        self.diagnostics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_is_counted_and_does_not_hide_an_error() {
        let mut diagnostics = Diagnostics::new(Path::new("a.yaml"));
        for line in 1..=DIAGNOSTICS_MAX + 5 {
            diagnostics.warning(Finding::at(line, "noise"));
        }
        diagnostics.error(Finding::at(7, "wrong").fix("mend it"));
        let diagnostics = diagnostics.finish();
        let texts: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), DIAGNOSTICS_MAX + 2);
        assert!(texts.contains(&"a.yaml:7: error: wrong; mend it".to_owned()));
        assert_eq!(texts.last().unwrap(), "a.yaml: warning: 5 more problems of this kind");
    }
}
