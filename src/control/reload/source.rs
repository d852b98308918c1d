//! What the reload works with: where generations come from, and what came of one.

use std::time::Duration;

use super::watch::Watching;
use crate::diagnostics::Diagnostic;
use crate::load::Loaded;

/// Reads all files anew.
pub type Loader = Box<dyn FnMut() -> Result<Loaded, Vec<Diagnostic>> + Send>;

/// Where generations come from, and what is known of the first one.
pub struct Source {
    /// Reads all files anew.
    pub load: Loader,
    /// What the first generation was built from.
    pub first: Loaded,
    /// The warnings of the first generation, as [`Loaded::build`] gave them.
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
    /// The files were refused.
    Failure {
        /// The generation that serves on.
        generation: u64,
        /// Why, one line each, with file and line.
        problems: Vec<String>,
    },
}
