//! What the reload works with: where generations come from, and what came of one.

use std::time::Duration;

use super::watch::Watching;
use crate::diagnostics::{Diagnostic, Severity};
use crate::load::Loaded;
use crate::metrics::ReloadResult;

/// Reads all files anew; what is refused in them stays as it is in the generation in use.
pub type Loader = Box<dyn FnMut(&Loaded) -> Result<Loaded, Vec<Diagnostic>> + Send>;

/// Where generations come from, and what is known of the first one.
pub struct Source {
    /// Reads all files anew.
    pub load: Loader,
    /// What the first generation was built from.
    pub first: Loaded,
    /// The diagnostics of the first generation, as [`Loaded::build`] gave them.
    pub diagnostics: Vec<Diagnostic>,
    /// How often the files are looked at, beside the events. [`POLL`], except in tests.
    pub poll: Duration,
    /// Whether file events are used beside the poll.
    pub watching: Watching,
}

/// What came of one reload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "result", rename_all = "camelCase")]
pub enum Outcome {
    /// A new generation is in use.
    Success {
        /// Its number.
        generation: u64,
    },
    /// The files say what they said before.
    Unchanged {
        /// The generation in use.
        generation: u64,
    },
    /// The files were refused, or some documents in them.
    Failure {
        /// The generation in use: a new one if other documents have changed.
        generation: u64,
        /// Why, one line each, with file and line.
        problems: Vec<String>,
    },
}

impl Outcome {
    /// What came of `loaded`, which is in use as this generation: a failure if documents are
    /// refused in it, else `good`.
    pub(super) fn of(loaded: &Loaded, generation: u64, good: Self) -> Self {
        if loaded.refused.is_empty() {
            return good;
        }
        let errors = loaded.diagnostics.iter().filter(|one| one.severity == Severity::Error);
        Self::Failure { generation, problems: errors.map(Diagnostic::to_string).collect() }
    }

    /// As what it counts.
    pub(super) fn counted(&self) -> ReloadResult {
        match self {
            Self::Success { .. } => ReloadResult::Success,
            Self::Unchanged { .. } => ReloadResult::Unchanged,
            Self::Failure { .. } => ReloadResult::Failure,
        }
    }
}
