//! One registry of many files, and what serves in the place of what is refused in them.
//!
//! A document is its kind, namespace and name. One that is refused stays in the version that is in
//! use, whichever file that came from; without one it is absent. A file of which not everything is
//! known keeps all documents that it had. So one bad document costs no other, and an entry that is
//! absent opens nothing under REGISTRY_ONLY.
//!
//! Each good document replaces at most one version in use; what is not replaced is kept where a
//! document of the same name is refused. The room that this takes is reserved before any document
//! is taken, so that a new one pushes out none that is in use.

use std::collections::{HashMap, HashSet, VecDeque};
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
    let mut merged = Merged::default();
    let mut of_file: HashMap<&Path, Vec<DocumentId>> = HashMap::new();
    if files.iter().any(|(_, contents)| !contents.is_whole) {
        for entry in in_use {
            of_file.entry(&entry.origin.file).or_default().push(entry.id());
        }
    }
    let mut documents = Vec::new();
    for (path, mut contents) in files {
        merged.diagnostics.append(&mut contents.diagnostics);
        let had = of_file.remove(&*path).unwrap_or_default();
        documents.push(Documents::new(path, contents, had));
    }
    let former = Former::new(in_use, &mut documents);
    let mut merger = Merger { claims: former.claims(&documents), merged, former, is_full: false };
    for documents in &mut documents {
        merger.take(documents);
    }
    for Documents { path, refused, .. } in documents {
        merger.keep(&path, refused);
    }
    merger.merged
}

/// The documents of one file.
struct Documents<'f> {
    path: PathBuf,
    good: Vec<Good<'f>>,
    refused: Vec<RefusedDocument>,
}

/// A document that can be taken.
struct Good<'f> {
    entry: ServiceEntry,
    /// The version in use that it replaces.
    former: Option<&'f ServiceEntry>,
}

impl Good<'_> {
    /// The claims that are reserved until it is decided whether the document is taken: those of
    /// the smaller version, which serves in either case.
    fn reserved(&self) -> usize {
        self.former.map_or(0, |former| former.claims().min(self.entry.claims()))
    }
}

impl<'f> Documents<'f> {
    /// `had` are the documents that the file has in use.
    fn new(path: PathBuf, contents: Contents, had: Vec<DocumentId>) -> Self {
        let Contents { entries, mut refused, is_whole, .. } = contents;
        if is_whole {
            let good = entries.into_iter().map(|entry| Good { entry, former: None }).collect();
            return Self { path, good, refused };
        }
        refused.extend(entries.iter().map(refusal));
        let known: HashSet<_> = refused.iter().filter_map(|one| one.id.clone()).collect();
        let gone = had.into_iter().filter(|id| !known.contains(id));
        refused.extend(gone.map(|id| RefusedDocument { id: Some(id), line: None }));
        if refused.is_empty() {
            refused.push(RefusedDocument { id: None, line: None });
        }
        Self { path, good: Vec::new(), refused }
    }

    /// Gives each good document that replaces nothing yet the first version in use of its name
    /// that `fits`.
    fn replace(&mut self, former: &mut Former<'f>, fits: fn(&ServiceEntry, &ServiceEntry) -> bool) {
        for good in self.good.iter_mut().filter(|good| good.former.is_none()) {
            let Some(versions) = former.versions.get_mut(&good.entry.id()) else { continue };
            let at = versions.iter().position(|version| fits(version, &good.entry));
            good.former = at.and_then(|at| versions.remove(at));
        }
    }
}

fn refusal(entry: &ServiceEntry) -> RefusedDocument {
    RefusedDocument { id: Some(entry.id()), line: Some(entry.origin.line) }
}

fn is_of_file(version: &ServiceEntry, entry: &ServiceEntry) -> bool {
    version.origin.file == entry.origin.file
}

/// Whether this is the same one of several documents of one name in one file.
fn is_unchanged(version: &ServiceEntry, entry: &ServiceEntry) -> bool {
    is_of_file(version, entry)
        && version.hosts == entry.hosts
        && version.addresses == entry.addresses
        && version.ports == entry.ports
        && version.endpoints == entry.endpoints
}

/// The versions in use that are kept: no good document replaces them, and one is refused that has
/// their name.
struct Former<'f> {
    versions: HashMap<DocumentId, VecDeque<&'f ServiceEntry>>,
}

impl<'f> Former<'f> {
    /// Tells the good documents among `all` what they replace. Those of the same file come first;
    /// what is left has moved.
    fn new(in_use: &'f [ServiceEntry], all: &mut [Documents<'f>]) -> Self {
        let mut former = Self { versions: HashMap::new() };
        for entry in in_use {
            former.versions.entry(entry.id()).or_default().push_back(entry);
        }
        let fits: [fn(&ServiceEntry, &ServiceEntry) -> bool; 3] =
            [is_unchanged, is_of_file, |_, _| true];
        for fits in fits {
            all.iter_mut().for_each(|documents| documents.replace(&mut former, fits));
        }
        let refused = all.iter().flat_map(|documents| &documents.refused);
        let refused: HashSet<_> = refused.filter_map(|one| one.id.as_ref()).collect();
        former.versions.retain(|id, versions| !versions.is_empty() && refused.contains(id));
        former
    }

    /// The claims of these versions, and all that are reserved for good documents. That is no more
    /// than what is in use, so it fits.
    fn claims(&self, all: &[Documents<'f>]) -> usize {
        let kept = self.versions.values().flatten().map(|version| version.claims());
        let good = all.iter().flat_map(|documents| &documents.good);
        kept.chain(good.map(Good::reserved)).sum()
    }
}

struct Merger<'f> {
    merged: Merged,
    /// Of what is taken, and what is reserved.
    claims: usize,
    former: Former<'f>,
    /// A document had no room.
    is_full: bool,
}

impl<'f> Merger<'f> {
    /// Takes the good documents of a file for which there is room; refuses the others.
    fn take(&mut self, documents: &mut Documents<'f>) {
        for good in documents.good.drain(..) {
            if self.has_room(&good) {
                self.merged.entries.push(good.entry);
                continue;
            }
            documents.refused.push(refusal(&good.entry));
            if let Some(former) = good.former {
                self.former.versions.entry(former.id()).or_default().push_back(former);
            }
        }
        documents.refused.sort_by_key(|one| one.line);
    }

    /// Keeps the versions in use of the documents that are refused in the file at `path`.
    fn keep(&mut self, path: &Path, refused: Vec<RefusedDocument>) {
        for RefusedDocument { id, line } in refused {
            let versions = id.as_ref().and_then(|id| self.former.versions.get_mut(id));
            let stale = versions.is_some();
            // Another document of the name may be refused as well: it finds none left to keep.
            for entry in versions.into_iter().flat_map(|versions| versions.drain(..)) {
                self.merged.entries.push(ServiceEntry { is_stale: true, ..entry.clone() });
            }
            self.merged.refused.push(Refused { file: path.into(), line, id, stale });
        }
    }

    /// Whether the registry stays small enough with this document, which then is counted. The
    /// first one that does not fit is an error.
    fn has_room(&mut self, good: &Good<'_>) -> bool {
        let entry = &good.entry;
        let claims = self.claims - good.reserved() + entry.claims();
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
