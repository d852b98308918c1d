//! The hosts of a service entry: a name, or a wildcard for all names with one end.
//!
//! Both are written in the normal form of [`Name`], so that a connection's name is compared byte by
//! byte. Which of several matching hosts wins is the snapshot's.

use std::fmt;

use crate::sniff::{Name, NameError};

/// One host of a service entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(Name),
    /// Every name that ends in this text and is longer: `.example.com` for `*.example.com`,
    /// `-eu.example.com` for `*-eu.example.com`. The wildcard never stands for nothing, as in
    /// Envoy's virtual host domains, and stands for any number of labels.
    Suffix(Box<str>),
}

impl HostPattern {
    /// The host that `text` spells.
    ///
    /// # Errors
    /// When it is neither a name nor `*` followed by the end of one.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(end) = text.strip_prefix('*') else {
            return Name::parse(text.as_bytes()).map(Self::Exact);
        };
        let (dot, rest) = end.strip_prefix('.').map_or(("", end), |rest| (".", rest));
        let rest = Name::parse(rest.as_bytes())?;
        Ok(Self::Suffix(format!("{dot}{rest}").into()))
    }

    /// Whether `name` is one of the names that this stands for.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        let name = name.as_str();
        match self {
            Self::Exact(own) => own.as_str() == name,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
        }
    }

    /// The name, if this is no wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<&Name> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Suffix(_) => None,
        }
    }

    /// Whether this is a wildcard within a label (`*foo.com`), which takes in more than the
    /// subdomains of a domain.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::Suffix(suffix) if !suffix.starts_with('.'))
    }
}

/// As it is written in a service entry.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}
