//! What the reload thread tells the admin server.

use crate::diagnostics::{Diagnostic, Severity};
use crate::load::Refused;

/// What is wrong with the files, for the admin server.
#[derive(Debug, Default)]
pub(in crate::control) struct Status {
    /// Of the generation in use: warnings, and why documents are refused in it.
    pub(in crate::control) diagnostics: Vec<Diagnostic>,
    /// Those documents.
    pub(in crate::control) documents: Vec<Refused>,
    /// Why there is no generation of the files as they are now; empty when there is one.
    pub(in crate::control) refused: Vec<Diagnostic>,
}

impl Status {
    /// The diagnostics of this severity, of the generation in use and of the files as they are now.
    pub(in crate::control) fn lines(&self, severity: Severity) -> Vec<String> {
        let all = self.diagnostics.iter().chain(&self.refused);
        all.filter(|one| one.severity == severity).map(Diagnostic::to_string).collect()
    }
}
