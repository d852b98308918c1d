//! What the reload works with: where generations come from, and what came of one.

use std::path::PathBuf;
use std::time::Duration;

use super::watch::Watching;
use crate::config::Config;
use crate::load::Parts;
use crate::problem::Problem;

/// Files that are good enough to be used, read completely.
pub struct Candidate {
    /// What snapshots are built from.
    pub parts: Parts,
    /// Warnings.
    pub problems: Vec<Problem>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
    /// The directories in which a change may matter.
    pub directories: Vec<PathBuf>,
    /// A hash of the content of all files: equal contents are not published again.
    pub fingerprint: u64,
}

/// Reads all files anew.
pub type Loader = Box<dyn FnMut() -> Result<Candidate, Vec<Problem>> + Send>;

/// Where generations come from, and what is known of the first one.
pub struct Source {
    /// Reads all files anew.
    pub load: Loader,
    /// What the first generation was built from.
    pub parts: Parts,
    /// The files of the first generation.
    pub files: Vec<PathBuf>,
    /// The directories of the first generation.
    pub directories: Vec<PathBuf>,
    /// The fingerprint of the first generation.
    pub fingerprint: u64,
    /// The warnings of the first generation.
    pub problems: Vec<Problem>,
    /// The fields that differ and take effect at the next start only.
    pub restart_needed: fn(&Config, &Config) -> Vec<&'static str>,
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
