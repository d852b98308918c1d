//! YAML text to a tree in which every value knows its line.
//!
//! The configuration, the registry and the workloads are decoded from this tree, at start and at
//! every reload, so that each problem can name its line and all of them are found in one pass.
//! Deriving the decoding with serde would stop at the first problem, and no position survives it
//! for rules that span two fields.
//!
//! The tree is bounded whatever the text: its depth, its number of values, and what aliases may
//! copy. Scalars stay text here ([`values`] turns them into types), tags are ignored.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::diagnostics::Finding;

pub(crate) mod fields;
pub(crate) mod values;

/// One value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    /// Line in the text, counted from 1.
    pub(crate) line: usize,
    /// What stands there.
    pub(crate) value: Value<'a>,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, quoted or plain, as text.
    Scalar(Cow<'a, str>),
    /// A list.
    Sequence(Vec<Node<'a>>),
    /// Fields in the order of the text; no name occurs twice.
    Mapping(Vec<(Key<'a>, Node<'a>)>),
}

/// The name of a field and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    /// Line in the text, counted from 1.
    pub(crate) line: usize,
    /// The name.
    pub(crate) name: Cow<'a, str>,
}

impl<'a> Node<'a> {
    /// The value of field `name`, if this is a mapping that has it.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&Node<'a>> {
        let Value::Mapping(fields) = &self.value else { return None };
        fields.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// What kind of value this is, for messages.
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar(_) => 0,
            Value::Sequence(items) => items.iter().map(Node::count).sum(),
            Value::Mapping(fields) => fields.iter().map(|(_, node)| node.count()).sum(),
        }
    }
}

/// Deeper than any document that this program knows; bounds the recursion.
const DEPTH_MAX: usize = 64;
/// Values in one document: about 100 000 service entries in one list. Bounds the memory (several
/// hundred MiB while it is decoded) that a large file of tiny values can take.
const NODES_MAX: usize = 4_000_000;
/// Values that anchors and aliases may copy in one document: enough to share a list of addresses,
/// far too few for the exponential growth of nested aliases.
const ALIAS_NODES_MAX: usize = 100_000;

/// The documents in a text, one after the other; ends after the first error.
pub(crate) struct Documents<'a> {
    parser: Option<Parser<'a, StrInput<'a>>>,
    early: Option<Finding>,
}

/// The documents in `text`. Empty ones are [`Value::Null`].
#[must_use]
pub(crate) fn documents(text: &str) -> Documents<'_> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The parser takes NUL for the end of the text. It is what a file holds that was being written
    // when the machine lost power; what stands before it is not the whole file.
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        let finding = Finding::at(line, "the file contains a NUL byte").fix("write the file anew");
        return Documents { parser: None, early: Some(finding) };
    }
    Documents { parser: Some(Parser::new_from_str(text)), early: None }
}

/// The only document in `text`, for files that hold exactly one.
///
/// # Errors
/// When there is none, more than one, or the text is not YAML.
pub(crate) fn only_document(text: &str) -> Result<Node<'_>, Finding> {
    let mut documents = documents(text);
    let first = documents.next().transpose()?;
    let Some(first) = first.filter(|node| node.value != Value::Null) else {
        // A file that is being rewritten is empty for a moment: that must not read as "no rules".
        return Err(Finding::whole("the file is empty").fix("write at least `{}` to mean defaults"));
    };
    match documents.next() {
        None => Ok(first),
        Some(Err(finding)) => Err(finding),
        Some(Ok(second)) => Err(Finding::at(second.line, "a second document begins here")
            .fix("keep one document in this file")),
    }
}

impl<'a> Iterator for Documents<'a> {
    type Item = Result<Node<'a>, Finding>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(finding) = self.early.take() {
            return Some(Err(finding));
        }
        let parser = self.parser.as_mut()?;
        let result = Builder { parser, anchors: HashMap::new(), nodes: 0, copied: 0 }.document();
        if !matches!(result, Ok(Some(_))) {
            self.parser = None;
        }
        result.transpose()
    }
}

struct Builder<'p, 'a> {
    parser: &'p mut Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    nodes: usize,
    copied: usize,
}

impl<'a> Builder<'_, 'a> {
    fn document(&mut self) -> Result<Option<Node<'a>>, Finding> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
                (event, span) => return self.node(event, span, 0).map(Some),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Finding> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err(Finding::at(error.marker().line(), format!("not valid YAML: {}", error.info())))
            }
            // The parser ends with StreamEnd, after which nobody asks again.
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node<'a>, Finding> {
        let line = span.start.line();
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Finding::at(line, format!("more than {NODES_MAX} values in one document"))
                .fix("split the file"));
        }
        if depth > DEPTH_MAX {
            return Err(Finding::at(line, format!("nested more than {DEPTH_MAX} deep")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(text, style), anchor),
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, line),
            other => {
                return Err(Finding::at(line, format!("not valid YAML: unexpected {other:?}")));
            }
        };
        let node = Node { line, value };
        if anchor != 0 {
            let copy = self.copy(&node)?;
            self.anchors.insert(anchor, copy);
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value<'a>, Finding> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value<'a>, Finding> {
        let mut fields: Vec<(Key<'a>, Node<'a>)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let name = match event {
                Event::MappingEnd => {
                    no_duplicates(&fields)?;
                    return Ok(Value::Mapping(fields));
                }
                Event::Scalar(name, ..) => name,
                _ => return Err(Finding::at(line, "a field name must be plain text")),
            };
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            fields.push((Key { line, name }, node));
        }
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Node<'a>, Finding> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(Finding::at(line, "an alias to a value that contains it"));
        };
        self.nodes += node.count();
        let copy = self.copy(&node)?;
        Ok(Node { line, ..copy })
    }

    fn copy(&mut self, node: &Node<'a>) -> Result<Node<'a>, Finding> {
        self.copied += node.count();
        if self.copied > ALIAS_NODES_MAX {
            let message = format!("anchors and aliases copy more than {ALIAS_NODES_MAX} values");
            return Err(Finding::at(node.line, message).fix("write the values out"));
        }
        Ok(node.clone())
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value<'_> {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar(text)
}

fn no_duplicates(fields: &[(Key<'_>, Node<'_>)]) -> Result<(), Finding> {
    let duplicate = |key: &Key<'_>| {
        Finding::at(key.line, format!("field `{}` is set twice", key.name)).fix("keep one of them")
    };
    // Most mappings are short, and comparing beats hashing there.
    if fields.len() <= 16 {
        for (index, (key, _)) in fields.iter().enumerate() {
            if fields[..index].iter().any(|(earlier, _)| earlier.name == key.name) {
                return Err(duplicate(key));
            }
        }
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(fields.len());
    match fields.iter().find(|(key, _)| !seen.insert(&key.name)) {
        Some((key, _)) => Err(duplicate(key)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
