//! Many questions at once: one JSON object a line in, one a line out.
//!
//! `{"destination": "203.0.113.7:443", "host": "api.example.com"}`; `source` and `speaks` (`http`,
//! `tls`, `other`) are optional. A line out repeats the question and has one reading, or one for
//! each protocol where they differ.

use std::path::Path;

use serde::Serialize;

use super::{Question, Reading, readings, waits};
use crate::diagnostics::{Diagnostic, Finding, Severity};
use crate::registry::snapshot::Snapshot;

/// One line out.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    question: &'a Question,
    waits: String,
    readings: Vec<Reading>,
}

/// The answers to all questions in `lines`, which were read from `file`.
///
/// # Errors
/// Each line that is no question.
pub(crate) fn answers(
    snapshot: &Snapshot,
    lines: &str,
    file: &Path,
) -> Result<String, Vec<Diagnostic>> {
    let (mut text, mut diagnostics) = (String::new(), Vec::new());
    for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str::<Question>(line) {
            Ok(question) => {
                text.push_str(&answer(snapshot, &question));
                text.push('\n');
            }
            Err(error) => diagnostics.push(refused(index + 1, &error, file)),
        }
    }
    if diagnostics.is_empty() { Ok(text) } else { Err(diagnostics) }
}

fn answer(snapshot: &Snapshot, question: &Question) -> String {
    let mut readings = readings(snapshot, question);
    if readings.iter().skip(1).all(|other| other.is_same(&readings[0])) {
        readings.truncate(1);
    }
    let waits = waits(snapshot, question.destination);
    let answer = Answer { question, waits, readings };
    serde_json::to_string(&answer).expect("an answer is strings and numbers under string keys")
}

fn refused(line: usize, error: &serde_json::Error, file: &Path) -> Diagnostic {
    let fix = "write {\"destination\": \"203.0.113.7:443\", \"host\": \"api.example.com\"}; \
               optional: \"source\", \"speaks\": \"http\", \"tls\" or \"other\"";
    Finding::at(line, format!("not a question: {error}")).fix(fix).diagnostic(Severity::Error, file)
}
