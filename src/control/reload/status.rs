//! What the reload thread tells the admin server.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::diagnostics::{Diagnostic, Severity};
use crate::load::Refused;
use crate::metrics::ControlCounters;

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

/// Says in the metrics how many documents each file has that are not taken from it.
pub(super) fn note_documents(counters: &ControlCounters, refused: &[Refused]) {
    counters.set_refused_documents(refused.iter().map(|one| &*one.file));
    if refused.is_empty() {
        counters.config_last_success_s.set(unix_time_s());
    }
}

fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
