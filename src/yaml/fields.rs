//! Reading the fields of a mapping by name, and naming those that nobody asked for.
//!
//! A decoder asks for each field that it knows; [`Fields`] remembers the names, so the list of
//! valid names cannot drift from the code that reads them. It knows nothing about what the fields
//! mean.

use super::{Key, Node, Value};
use crate::diagnostics::{Diagnostics, Finding};

/// The fields of one mapping while they are being read.
#[derive(Debug)]
pub(crate) struct Fields<'n, 'r> {
    path: &'static str,
    line: usize,
    fields: &'n [(Key<'n>, Node<'n>)],
    known: Vec<&'static str>,
    diagnostics: &'r mut Diagnostics,
}

impl<'n, 'r> Fields<'n, 'r> {
    /// The fields of `node`, which messages call `path`. Anything but a mapping is an error in the
    /// diagnostics and reads as a mapping without fields; nothing (`null`) is
    /// a mapping without fields.
    pub(crate) fn of(
        node: &'n Node<'n>,
        path: &'static str,
        diagnostics: &'r mut Diagnostics,
    ) -> Self {
        let fields: &[_] = match &node.value {
            Value::Mapping(fields) => fields,
            Value::Null => &[],
            Value::Scalar(_) | Value::Sequence(_) => {
                let what = if path.is_empty() { "the file" } else { path };
                let message = format!("{what} must be a mapping, not {}", node.kind());
                diagnostics.error(Finding::at(node.line, message).fix("write `name: value` lines"));
                &[]
            }
        };
        Self { path, line: node.line, fields, known: Vec::new(), diagnostics }
    }

    /// The value of field `name`, `None` if it is absent or nothing.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<&'n Node<'n>> {
        self.find(name).filter(|node| node.value != Value::Null)
    }

    /// Puts the value of field `name` into `slot`, if it is there and valid. A field without a
    /// value is an error: a name is written for a purpose.
    pub(crate) fn read<T>(
        &mut self,
        name: &'static str,
        slot: &mut T,
        parse: impl FnOnce(&'n Node<'n>) -> Result<T, Finding>,
    ) {
        let Some(node) = self.find(name) else { return };
        if node.value == Value::Null {
            let message = format!("`{}` has no value", self.qualified(name));
            self.diagnostics
                .error(Finding::at(node.line, message).fix("set it, or remove the line"));
            return;
        }
        self.store(name, slot, parse(node));
    }

    /// As [`Fields::read`], for a field that means its default when it has no value.
    pub(crate) fn read_set<T>(
        &mut self,
        name: &'static str,
        slot: &mut T,
        parse: impl FnOnce(&'n Node<'n>) -> Result<T, Finding>,
    ) {
        if let Some(node) = self.get(name) {
            self.store(name, slot, parse(node));
        }
    }

    /// As [`Fields::read`], for a field that may be nothing on purpose.
    pub(crate) fn read_optional<T>(
        &mut self,
        name: &'static str,
        slot: &mut Option<T>,
        parse: impl FnOnce(&'n Node<'n>) -> Result<T, Finding>,
    ) {
        match self.find(name) {
            None => {}
            Some(node) if node.value == Value::Null => *slot = None,
            Some(node) => self.store(name, slot, parse(node).map(Some)),
        }
    }

    /// The fields of the mapping in field `name`; an absent one has none.
    pub(crate) fn section(&mut self, name: &'static str) -> Option<Fields<'n, '_>> {
        let node = self.get(name)?;
        Some(Fields::of(node, name, self.diagnostics))
    }

    /// Where field `name` stands, else where the mapping begins.
    #[must_use]
    pub(crate) fn line_of(&self, name: &str) -> usize {
        let key = self.fields.iter().find(|(key, _)| key.name == name);
        key.map_or(self.line, |(key, _)| key.line)
    }

    /// Where diagnostics go.
    pub(crate) fn diagnostics(&mut self) -> &mut Diagnostics {
        self.diagnostics
    }

    /// Every field that was not asked for is an error.
    pub(crate) fn refuse_others(self) {
        for (key, fix) in self.others() {
            let message = format!("unknown field `{}`", self.qualified(&key.name));
            self.diagnostics.error(Finding::at(key.line, message).fix(fix));
        }
    }

    /// Every field that was not asked for is a warning.
    pub(crate) fn warn_of_others(self) {
        for (key, fix) in self.others() {
            let message = format!("unknown field `{}` is ignored", self.qualified(&key.name));
            self.diagnostics.warning(Finding::at(key.line, message).fix(fix));
        }
    }

    fn find(&mut self, name: &'static str) -> Option<&'n Node<'n>> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.fields.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    fn store<T>(&mut self, name: &'static str, slot: &mut T, parsed: Result<T, Finding>) {
        match parsed {
            Ok(value) => *slot = value,
            Err(mut finding) => {
                finding.message = format!("`{}`: {}", self.qualified(name), finding.message);
                self.diagnostics.error(finding);
            }
        }
    }

    fn others(&self) -> Vec<(&'n Key<'n>, String)> {
        let unknown = self.fields.iter().filter(|(key, _)| !self.known.contains(&&*key.name));
        unknown.map(|(key, _)| (key, self.suggestion(&key.name))).collect()
    }

    fn suggestion(&self, name: &str) -> String {
        let lower = name.to_lowercase();
        let distance = |known: &str| edits(&lower, &known.to_lowercase());
        let nearest = self.known.iter().min_by_key(|known| distance(known));
        match nearest {
            // A third of the letters wrong is a typing error; more is another word.
            Some(near) if distance(near) <= near.len().div_ceil(3) => {
                format!("did you mean `{near}`?")
            }
            _ => format!("known here: {}", self.known.join(", ")),
        }
    }

    fn qualified(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// How many letters must be inserted, removed or replaced to turn `a` into `b` (Levenshtein). Names
/// from a file can be long, so only the beginning of `a` is looked at.
fn edits(a: &str, b: &str) -> usize {
    const LETTERS_MAX: usize = 64;
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(LETTERS_MAX).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edits;

    #[test]
    fn edits_counts_single_letter_changes() {
        assert_eq!(edits("port", "port"), 0);
        assert_eq!(edits("prot", "port"), 2);
        assert_eq!(edits("idl", "idle"), 1);
        assert_eq!(edits("", "abc"), 3);
    }
}
