//! `egret check` and `egret explain`: what the files say, and what they mean for one connection.
//!
//! Both read the same files through the same code as `egret run`, so what they say is what it does.
//! They open no connection, resolve no name and print nothing themselves: they return the text and
//! the exit code.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::diagnostics::{Diagnostic, Finding, Severity};
use crate::load;
use crate::registry::{Answers, Snapshot};

mod explain;

pub use explain::{Question, Speaks};

/// Exit code when the files are good.
pub const EXIT_OK: u8 = 0;
/// Exit code when they are not (`EX_USAGE` of sysexits.h).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// What to print, and how to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whole lines, for standard output.
    pub text: String,
    /// Whole lines, for standard error: what is wrong beside the answer.
    pub problems: String,
    /// The exit code.
    pub code: u8,
}

/// The configuration file to use when none is named: `config/egret.yaml` below the working
/// directory, else `/etc/egret/egret.yaml`.
#[must_use]
pub fn default_config_file() -> PathBuf {
    let local = Path::new("config/egret.yaml");
    let chosen = if local.is_file() { local } else { Path::new("/etc/egret/egret.yaml") };
    chosen.to_path_buf()
}

/// Every diagnostic in `config_file` and the files that it names, and a summary.
#[must_use]
pub fn check(config_file: &Path) -> Outcome {
    let file = config_file.display();
    match load::load(config_file, None) {
        Ok(loaded) => {
            let (snapshot, diagnostics) = loaded.build(0, &Answers::default());
            if !loaded.refused.is_empty() {
                return refused(&diagnostics, config_file);
            }
            let mut text = lines(&diagnostics);
            let _ = writeln!(
                text,
                "{file}: ok: {}, {}, {} ({}), {}, policy {}",
                count(warnings(&diagnostics), "warning"),
                count(loaded.files.len(), "file"),
                plural(loaded.entries.len(), "service entry", "service entries"),
                count(snapshot.services().len(), "service"),
                count(snapshot.workloads.len(), "workload"),
                loaded.config.outbound_traffic_policy.mode.as_str(),
            );
            Outcome { text, problems: String::new(), code: EXIT_OK }
        }
        Err(diagnostics) => refused(&diagnostics, config_file),
    }
}

/// Which entry or policy decides on a connection, whether Egret waits for its name, how it matches,
/// the verdict, and where Egret would connect.
#[must_use]
pub fn explain(config_file: &Path, question: &Question) -> Outcome {
    explained(config_file, |snapshot| Ok(explain::text(snapshot, question)))
}

/// The same for every question in `file`, as JSON (see [`explain::batch`]).
#[must_use]
pub fn explain_batch(config_file: &Path, file: &Path) -> Outcome {
    explained(config_file, |snapshot| {
        let lines = fs::read_to_string(file).map_err(|error| {
            let finding = Finding::whole(format!("cannot read the file: {error}"));
            vec![finding.diagnostic(Severity::Error, file)]
        })?;
        explain::batch::answers(snapshot, &lines, file)
    })
}

fn explained(
    config_file: &Path,
    answer: impl FnOnce(&Snapshot) -> Result<String, Vec<Diagnostic>>,
) -> Outcome {
    let loaded = match load::load(config_file, None) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return refused(&diagnostics, config_file),
    };
    let (snapshot, _) = loaded.build(0, &Answers::default());
    match answer(&snapshot) {
        Ok(text) if loaded.refused.is_empty() => {
            Outcome { text, problems: String::new(), code: EXIT_OK }
        }
        Ok(text) => {
            let problems = refused(&loaded.diagnostics, config_file).text;
            Outcome { text, problems, code: EXIT_BAD_CONFIG }
        }
        Err(diagnostics) => refused(&diagnostics, config_file),
    }
}

fn refused(diagnostics: &[Diagnostic], config_file: &Path) -> Outcome {
    let mut text = lines(diagnostics);
    let (warnings, file) = (warnings(diagnostics), config_file.display());
    let errors = count(diagnostics.len() - warnings, "error");
    let _ = writeln!(text, "{file}: refused: {errors}, {}", count(warnings, "warning"));
    Outcome { text, problems: String::new(), code: EXIT_BAD_CONFIG }
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

fn warnings(diagnostics: &[Diagnostic]) -> usize {
    diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).count()
}

fn count(number: usize, what: &str) -> String {
    plural(number, what, &format!("{what}s"))
}

fn plural(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests;
