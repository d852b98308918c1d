//! What the generation in use was built from, and so will be the next one when an address changes.
//!
//! The workers never see it: it belongs to the reload thread.

use std::collections::BTreeSet;

use crate::control::dns::Wanted;
use crate::diagnostics::Diagnostic;
use crate::load::Loaded;
use crate::registry::{Answers, Snapshot};
use crate::sniff::Name;

/// The contents of the files in use, and the addresses of the names in them.
pub(super) struct Basis {
    loaded: Loaded,
    names: BTreeSet<Name>,
    /// Of no other names than those.
    answers: Answers,
}

impl Basis {
    /// Of the first generation, before any name is resolved.
    pub(super) fn new(loaded: Loaded) -> Self {
        let names = loaded.names_to_resolve();
        Self { loaded, names, answers: Answers::default() }
    }

    /// Goes over to other files, and returns the former ones; the addresses of names that stay are
    /// kept.
    pub(super) fn replace(&mut self, loaded: Loaded) -> Loaded {
        let former = std::mem::replace(self, Self::new(loaded));
        self.adopt(&former.answers);
        former.loaded
    }

    /// What the files in use mean.
    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// As long as the files say the same, it is the same.
    pub(super) fn fingerprint(&self) -> u64 {
        self.loaded.fingerprint
    }

    /// Whether `next` has lost the registry's files.
    pub(super) fn is_emptied_by(&self, next: &Loaded) -> bool {
        next.has_lost_registry(&self.loaded)
    }

    /// Takes over the `answers` to names that are wanted; returns whether they say anything new.
    pub(super) fn adopt(&mut self, answers: &Answers) -> bool {
        let kept = answers.filtered(|name| self.names.contains(name));
        let is_new = kept != self.answers;
        self.answers = kept;
        is_new
    }

    /// The snapshot, and all diagnostics: about the files, and about what addresses make of them.
    pub(super) fn build(&self, generation: u64) -> (Snapshot, Vec<Diagnostic>) {
        self.loaded.build(generation, &self.answers)
    }

    /// What the resolver is to keep the addresses of, and whom it asks.
    pub(super) fn wanted(&self) -> Wanted {
        let config = &self.loaded.config.names;
        let servers = config.dns_servers.clone();
        Wanted {
            names: self.names.clone(),
            servers,
            grace: config.grace,
            deadline: config.deadline,
        }
    }
}
