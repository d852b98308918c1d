//! One registry of many files, and what serves in the place of what is refused in them.
//!
//! A document is its kind, namespace and name. One that is refused stays in the version that is in
//! use, whichever file that came from; without one it is absent. A file of which not everything is
//! known keeps all documents that it had. So one bad document costs no other, and an entry that is
//! absent opens nothing under REGISTRY_ONLY.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::CLAIMS_MAX;
use crate::diagnostics::{Diagnostic, Finding, Severity};
use crate::registry::service_entry::{Contents, DocumentId, RefusedDocument, ServiceEntry};

/// A document that is not in use as its file has it, or a file without one that can be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The file, as the configuration names it.
    pub file: PathBuf,
    /// Where the document begins in it, if it is there.
    pub line: Option<usize>,
    /// What the document is.
    #[serde(flatten)]
    pub id: Option<DocumentId>,
    /// The version that was good serves on; else nothing does.
    pub stale: bool,
}

impl Refused {
    /// A file as a whole.
    pub(super) fn file(file: PathBuf, stale: bool) -> Self {
        Self { file, line: None, id: None, stale }
    }
}

/// The registry that serves.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) entries: Vec<ServiceEntry>,
    pub(super) refused: Vec<Refused>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// The registry of these `files`; `in_use` are the entries of the generation before.
pub(super) fn registry(files: Vec<(PathBuf, Contents)>, in_use: &[ServiceEntry]) -> Merged {
    let mut of_file: HashMap<&Path, Vec<DocumentId>> = HashMap::new();
    if files.iter().any(|(_, contents)| !contents.is_whole) {
        for entry in in_use {
            of_file.entry(&entry.origin.file).or_default().push(entry.id());
        }
    }
    let mut merger = Merger::default();
    let mut not_taken = Vec::new();
    for (path, contents) in files {
        let had = of_file.remove(&*path).unwrap_or_default();
        let documents = merger.take(contents, had);
        if !documents.is_empty() {
            not_taken.push((path, documents));
        }
    }
    if not_taken.is_empty() {
        return merger.merged;
    }
    // A document that has moved to another file is in use from there.
    let taken: HashSet<DocumentId> = merger.merged.entries.iter().map(ServiceEntry::id).collect();
    let mut former: HashMap<DocumentId, Vec<&ServiceEntry>> = HashMap::new();
    for entry in in_use {
        former.entry(entry.id()).or_default().push(entry);
    }
    former.retain(|id, _| !taken.contains(id));
    for (path, documents) in not_taken {
        for document in documents {
            merger.keep(&path, document, &mut former);
        }
    }
    merger.merged
}

#[derive(Default)]
struct Merger {
    merged: Merged,
    claims: usize,
    /// A document had no room.
    is_full: bool,
    /// Of these documents the former version is kept.
    stale: HashSet<DocumentId>,
}

impl Merger {
    /// Takes the documents of a file that are good; returns the others. `had` are the documents
    /// that the file has in use.
    fn take(&mut self, contents: Contents, had: Vec<DocumentId>) -> Vec<RefusedDocument> {
        let Contents { entries, refused: mut others, is_whole, diagnostics } = contents;
        self.merged.diagnostics.extend(diagnostics);
        for entry in entries {
            if !is_whole || !self.has_room(&entry) {
                others
                    .push(RefusedDocument { id: Some(entry.id()), line: Some(entry.origin.line) });
            } else {
                self.merged.entries.push(entry);
            }
        }
        if !is_whole {
            let known: HashSet<_> = others.iter().filter_map(|other| other.id.clone()).collect();
            let gone = had.into_iter().filter(|id| !known.contains(id));
            others.extend(gone.map(|id| RefusedDocument { id: Some(id), line: None }));
            if others.is_empty() {
                others.push(RefusedDocument { id: None, line: None });
            }
        }
        others.sort_by_key(|other| other.line);
        others
    }

    /// Keeps what `former` has of the document, which is not taken as `file` has it.
    fn keep(
        &mut self,
        file: &Path,
        document: RefusedDocument,
        former: &mut HashMap<DocumentId, Vec<&ServiceEntry>>,
    ) {
        let RefusedDocument { id, line } = document;
        if let Some(id) = &id {
            for entry in former.remove(id).into_iter().flatten() {
                if self.has_room(entry) {
                    let entry = ServiceEntry { is_stale: true, ..entry.clone() };
                    self.merged.entries.push(entry);
                    self.stale.insert(id.clone());
                }
            }
        }
        let stale = id.as_ref().is_some_and(|id| self.stale.contains(id));
        self.merged.refused.push(Refused { file: file.into(), line, id, stale });
    }

    /// Whether the registry stays small enough with this entry, which then is counted. The first
    /// one that does not fit is an error.
    fn has_room(&mut self, entry: &ServiceEntry) -> bool {
        let claims = self.claims + entry.claims();
        if claims <= CLAIMS_MAX {
            self.claims = claims;
            return true;
        }
        if !std::mem::replace(&mut self.is_full, true) {
            let message =
                format!("more than {CLAIMS_MAX} hosts and addresses, each times its ports");
            let finding =
                Finding::at(entry.origin.line, message).fix("remove entries, or their ports");
            let error = finding.diagnostic(Severity::Error, &entry.origin.file);
            self.merged.diagnostics.push(error);
        }
        false
    }
}
