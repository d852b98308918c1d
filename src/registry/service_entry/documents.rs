//! Registry files to documents, and which of them are taken.
//!
//! A document that Istio would refuse is refused, and no other one with it; what Istio accepts and
//! Egret does not act on is a warning with its line. The ordinary metadata that `kubectl get -o
//! yaml` prints is neither.

use std::path::Path;
use std::sync::Arc;

use super::entry::{NAMESPACE, name, service_entry};
use super::{Contents, DocumentId, KIND, Origin, RefusedDocument, ServiceEntry};
use crate::diagnostics::{Diagnostics, Finding};
use crate::yaml::{self, Node, Value, values};

const GROUP: &str = "networking.istio.io/";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
const LISTS: [&str; 2] = ["List", "ServiceEntryList"];
/// The other kinds of the group, which stand beside service entries in a dump of a cluster.
const OTHER_KINDS: [&str; 8] = [
    "DestinationRule",
    "EnvoyFilter",
    "Gateway",
    "ProxyConfig",
    "Sidecar",
    "VirtualService",
    "WorkloadEntry",
    "WorkloadGroup",
];

pub(super) fn parse(text: &str, file: &Path) -> Contents {
    let mut reader = Reader {
        file: file.into(),
        diagnostics: Diagnostics::new(file),
        entries: Vec::new(),
        refused: Vec::new(),
        is_whole: true,
        documents: 0,
    };
    for document in yaml::documents(text) {
        match document {
            Ok(node) => reader.document(&node),
            Err(finding) => return reader.broken(finding),
        }
    }
    if reader.documents == 0 {
        // A file that is being rewritten is empty for a moment: that must not read as "no entries".
        let finding = Finding::whole("the file holds no document")
            .fix("remove it, or write `kind: List` with `items: []` to mean no entries");
        return reader.broken(finding);
    }
    reader.finish()
}

struct Reader {
    file: Arc<Path>,
    diagnostics: Diagnostics,
    entries: Vec<ServiceEntry>,
    refused: Vec<RefusedDocument>,
    is_whole: bool,
    documents: usize,
}

impl Reader {
    fn document(&mut self, node: &Node<'_>) {
        // Templates leave empty documents between the others.
        if node.value == Value::Null {
            return;
        }
        self.documents += 1;
        self.resource_or_list(node);
    }

    /// Lists stand in lists, as deep as the reader of YAML lets them.
    fn resource_or_list(&mut self, node: &Node<'_>) {
        let Some((kind, version)) = kind(node) else {
            let message = "not a resource: `apiVersion` and `kind` are needed";
            let fix = format!("write `apiVersion: {GROUP}v1` and `kind: ServiceEntry`");
            return self.refuse(node, Finding::at(node.line, message).fix(fix));
        };
        match kind {
            _ if LISTS.contains(&kind) => {
                let items = match node.get("items") {
                    None => Err(Finding::at(node.line, "a list without `items`")),
                    // As an empty list is printed by programs in Go.
                    Some(Node { value: Value::Null, .. }) => Ok(&[][..]),
                    Some(items) => values::items(items),
                };
                match items {
                    Ok(items) => items.iter().for_each(|item| self.resource_or_list(item)),
                    Err(finding) => self.refuse(node, finding),
                }
            }
            KIND => self.service_entry(node, version),
            _ => self.other_kind(node, kind, version),
        }
    }

    fn service_entry(&mut self, node: &Node<'_>, version: &str) {
        let ours = version.strip_prefix(GROUP);
        if !ours.is_some_and(|version| VERSIONS.contains(&version)) {
            let message = format!("unknown apiVersion `{}`", values::shortened(version));
            let fix = format!("use {GROUP}{}", VERSIONS.join(&format!(" or {GROUP}")));
            let line = node.get("apiVersion").map_or(node.line, |node| node.line);
            return self.refuse(node, Finding::at(line, message).fix(fix));
        }
        let origin = Origin { file: Arc::clone(&self.file), line: node.line };
        let errors = self.diagnostics.errors();
        let entry = service_entry(node, origin, &mut self.diagnostics);
        if self.diagnostics.errors() == errors {
            self.entries.push(entry);
        } else {
            self.leave_out(node);
        }
    }

    /// Another resource does no harm. A kind that Istio does not have is a typing error or half a
    /// word: the document stands for the service entry of its namespace and name.
    fn other_kind(&mut self, node: &Node<'_>, kind: &str, version: &str) {
        let istio = version.starts_with(GROUP);
        let known = OTHER_KINDS.contains(&kind);
        let (kind, version) = (values::shortened(kind), values::shortened(version));
        if istio && !known {
            let line = node.get("kind").map_or(node.line, |node| node.line);
            let message = format!("unknown kind `{kind}` ({version})");
            let finding = Finding::at(line, message).fix("write `kind: ServiceEntry`");
            return self.refuse(node, finding);
        }
        let message = format!("kind {kind} ({version}) is ignored");
        let fix = "Egret acts on ServiceEntry only";
        self.diagnostics.warning(Finding::at(node.line, message).fix(fix));
    }

    fn refuse(&mut self, node: &Node<'_>, finding: Finding) {
        self.diagnostics.error(finding);
        self.leave_out(node);
    }

    /// The document is refused, for reasons that the diagnostics have. One that cannot be named
    /// could be any of the file's.
    fn leave_out(&mut self, node: &Node<'_>) {
        let id = id(node);
        self.is_whole &= id.is_some();
        self.refused.push(RefusedDocument { id, line: Some(node.line) });
    }

    /// What else the file holds cannot be told.
    fn broken(mut self, finding: Finding) -> Contents {
        self.is_whole = false;
        self.diagnostics.error(finding);
        self.finish()
    }

    fn finish(self) -> Contents {
        let Self { entries, refused, is_whole, diagnostics, .. } = self;
        Contents { entries, refused, is_whole, diagnostics: diagnostics.finish() }
    }
}

/// The document's `kind` and `apiVersion`.
fn kind<'n>(node: &'n Node<'_>) -> Option<(&'n str, &'n str)> {
    let text = |name: &str| node.get(name).and_then(|node| values::text(node).ok());
    text("kind").zip(text("apiVersion"))
}

/// The service entry that a refused document stands for, whatever is wrong with it. A list, or what
/// may be one, stands for any number of them.
fn id(node: &Node<'_>) -> Option<DocumentId> {
    let (kind, _) = kind(node)?;
    if LISTS.contains(&kind) || node.get("items").is_some() {
        return None;
    }
    let metadata = node.get("metadata")?;
    let namespace = match metadata.get("namespace") {
        Some(node) => name(node).ok()?,
        None => NAMESPACE.into(),
    };
    Some(DocumentId::new(namespace, name(metadata.get("name")?).ok()?))
}
